"""What several verbs share: options, beside those that ``audiotok`` has too.

Knows no verb, and imports nothing heavy at module level. Its law: an option means the same in every verb.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from audiotok import program

KNOWN_ERRORS = program.KNOWN_ERRORS
add_model_options = program.add_model_options
add_overwrite_option = program.add_overwrite_option
check_reports = program.check_reports
one_line = program.one_line
pick_device = program.pick_device
write_report = program.write_report


class Counter:
    """ "sentence 12 of 40, 0:31 left" on stderr: rewritten on a terminal, else a line every ten seconds.

    Args:
        unit: what is counted.
    """

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._began = self._told = time.monotonic()
        self._live = sys.stderr.isatty()
        self._open = False

    def __call__(self, done: int, total: int) -> None:
        """Tell that so many are done; of one there is nothing to tell."""
        now = time.monotonic()
        if total == 1 or now - self._told < (0.2 if self._live else 10.0):
            return
        self._told, self._open = now, self._live
        left = int((now - self._began) * (total - done) / max(done, 1))
        rest = f", {left // 60}:{left % 60:02} left" if done else ""
        end = "" if self._live else "\n"
        start = "\r\x1b[K" if self._live else ""
        print(f"{start}tts-lm: {self._unit} {done} of {total}{rest}", end=end, file=sys.stderr, flush=True)

    def __enter__(self) -> Counter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._open:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


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
    """--temperature, --top-p, --best-of...: how codes are drawn; the model's own settings where not given."""
    parser.add_argument("--temperature", type=float, metavar="X", help="0 = always the likeliest code")
    parser.add_argument("--top-p", type=float, metavar="X", help="probability mass to choose from, up to 1")
    parser.add_argument(
        "--ratio", type=float, metavar="X", help="share of the last frames that one code may fill"
    )
    parser.add_argument(
        "--best-of", type=int, metavar="N", help="candidates of each sentence, of which the best is kept"
    )
    parser.add_argument("--n-q", type=int, metavar="N", help="codebooks that are filled, 0 = all")


def sampling_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The sampling options that were given, as fields of ``Sampling``."""
    names = ("temperature", "top_p", "ratio", "best_of", "n_q")
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}
