"""``tts-lm phonemes``: the phonemes of a text."""

from __future__ import annotations

import argparse

from . import common


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the description and the options."""
    parser.description = (
        "Print the phonemes of an English, Mandarin or mixed text, one sentence a line: ARPAbet with "
        "stress 0-2, initials and finals with tone 1-5, _ between words."
    )
    parser.add_argument("text", metavar="TEXT", help="the text, or - for standard input")
    parser.add_argument(
        "--language",
        choices=("en", "zh"),
        help="language of numbers and signs (default: zh where the text has a Han character, else en)",
    )


def run(args: argparse.Namespace) -> int:
    """Print one sentence a line."""
    from ..text import phonemes, split_phonemes

    text = common.read_stdin() if args.text in common.STDIN else args.text
    with common.show_warnings():
        for sentence in split_phonemes(phonemes(text, args.language)):
            print(" ".join(sentence))
    return 0
