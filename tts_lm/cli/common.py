"""What several verbs share: options, beside those that ``audiotok`` has too.

Knows no verb, and imports nothing heavy at module level. Its law: an option means the same in every verb.
"""

from __future__ import annotations

import argparse

from audiotok import program

KNOWN_ERRORS = program.KNOWN_ERRORS
add_model_options = program.add_model_options
one_line = program.one_line
pick_device = program.pick_device


def add_speaking_options(parser: argparse.ArgumentParser) -> None:
    """--model, --voice and --seed: what speaks."""
    parser.add_argument(
        "--model", metavar="NAME", help="a shipped model or a folder (default: the shipped default)"
    )
    parser.add_argument("--voice", metavar="V", help="a voice of `tts-lm voices` (default: the first)")
    parser.add_argument(
        "--seed", type=int, default=0, help="another seed reads the text another way (default: 0)"
    )


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """--temperature, --top-p and --best-of: how codes are drawn; the model's own settings where not given."""
    parser.add_argument("--temperature", type=float, metavar="X", help="0 = always the likeliest code")
    parser.add_argument("--top-p", type=float, metavar="X", help="probability mass to choose from, up to 1")
    parser.add_argument(
        "--ratio", type=float, metavar="X", help="share of the last frames that one code may fill"
    )
    parser.add_argument("--best-of", type=int, metavar="N", help="readings of each sentence to choose from")


def sampling_settings(args: argparse.Namespace) -> dict[str, float]:
    """The sampling options that were given, as fields of ``Sampling``."""
    names = ("temperature", "top_p", "ratio", "best_of")
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}
