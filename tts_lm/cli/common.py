"""Options, progress and text input shared by the commands."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

STDIN = ("-", "/dev/stdin")


@contextmanager
def progress_bar(unit: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on stderr if that is a terminal. Yields a function to call with (done, total)."""
    from tqdm import tqdm

    with tqdm(unit=f" {unit}", leave=False, delay=0.2, disable=None, file=sys.stderr) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update


def add_model_option(parser: argparse.ArgumentParser) -> None:
    """--model."""
    help_text = "a shipped model or a folder (default: the shipped default)"
    parser.add_argument("--model", metavar="NAME", help=help_text)


def add_speaking_options(parser: argparse.ArgumentParser) -> None:
    """--model, --voice and --seed."""
    add_model_option(parser)
    parser.add_argument("--voice", metavar="V", help="a voice of `tts-lm voices` (default: the first)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling noise (default: 0)")


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


def read_stdin() -> str:
    """Read standard input as text. Raises ValueError if it is not UTF-8."""
    if sys.stdin.isatty():
        print("tts-lm: reading the text from the terminal; end it with Ctrl-D", file=sys.stderr)
    return decode(sys.stdin.buffer.read(), "standard input")


def decode(data: bytes, name: object) -> str:
    """Decode UTF-8 with or without a byte order mark. ValueError names ``name`` and the first wrong byte."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wrong = f"got byte {data[error.start]:#x} at {error.start}"
        raise ValueError(f"{name}: expected UTF-8 text, {wrong}; save it as UTF-8") from None


@contextmanager
def show_warnings() -> Iterator[None]:
    """Print every UserWarning as one line on stderr."""

    def show(message: Warning | str, category: type[Warning], *_: object) -> None:
        if issubclass(category, UserWarning):
            print(f"tts-lm: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = show
        yield
