"""Options and progress shared by the commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from audiotok import program

KNOWN_ERRORS = program.KNOWN_ERRORS
add_model_options = program.add_model_options
add_overwrite_option = program.add_overwrite_option
check_reports = program.check_reports
one_line = program.one_line
pick_device = program.pick_device
write_report = program.write_report


@contextmanager
def progress_bar(unit: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on stderr if that is a terminal. Yields a function to call with (done, total)."""
    from tqdm import tqdm

    with tqdm(unit=f" {unit}", leave=False, delay=0.2, disable=None, file=sys.stderr) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update


def add_speaking_options(parser: argparse.ArgumentParser) -> None:
    """--model, --voice and --seed."""
    add = parser.add_argument
    add("--model", metavar="NAME", help="a shipped model or a folder (default: the shipped default)")
    add("--voice", metavar="V", help="a voice of `tts-lm voices` (default: the first)")
    add("--seed", type=int, default=0, help="seed of the sampling noise (default: 0)")


def add_sampling_options(parser: argparse.ArgumentParser) -> None:
    """--temperature, --top-p, --best-of...; the defaults are the settings of the model."""
    add = parser.add_argument
    add("--temperature", type=float, metavar="X", help="0 = always the most likely code")
    add("--top-p", type=float, metavar="X", help="probability mass to sample from, up to 1")
    add("--ratio", type=float, metavar="X", help="share of the last frames that one code may fill")
    add("--best-of", type=int, metavar="N", help="candidates for each sentence, of which the best is kept")
    add("--n-q", type=int, metavar="N", help="codebooks that are filled, 0 = all")


def sampling_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The sampling options that were given, as fields of ``Sampling``."""
    names = ("temperature", "top_p", "ratio", "best_of", "n_q")
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}
