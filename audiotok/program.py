"""Programs with verbs, such as ``audiotok``. It imports no large packages, so that ``--help`` is fast."""

from __future__ import annotations

import argparse
import io
import math
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from .files import writable_target, write_json
from .machine import check_device

# Caused by the user's input or machine, and printed as one line. Anything else is a bug and keeps its traceback.
KNOWN_ERRORS = (ValueError, TypeError, OSError, ImportError, MemoryError)


class Terminated(BaseException):
    """SIGTERM was received. A ``BaseException`` like KeyboardInterrupt. Unwinding removes unfinished files."""


@dataclass(frozen=True)
class Program:
    """A command. ``verbs`` maps each verb to its help. A verb is a module in ``package`` with ``add_options(parser)``
    and ``run(args) -> int``; ``args.parser`` is its parser.
    """

    name: str
    description: str
    version: str
    package: str
    verbs: Mapping[str, str]

    def build_parser(self, verb: str | None = None) -> argparse.ArgumentParser:
        """The program's parser, with the options of ``verb`` only; no other verb is imported."""
        parser = argparse.ArgumentParser(prog=self.name, description=self.description, allow_abbrev=False)
        parser.add_argument("--version", action="version", version=f"{self.name} {self.version}")
        subparsers = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")
        for name, help_text in self.verbs.items():
            added = subparsers.add_parser(name, help=help_text, allow_abbrev=False)
            if name == verb:
                added.set_defaults(parser=added)
                import_module(f".{name}", self.package).add_options(added)
        return parser

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run the program with ``argv``, arguments without the program's name; None takes those of the process.

        Returns:
            0 done, 1 failed, 130 interrupted, 143 terminated. Wrong usage leaves through ``SystemExit(2)``.
        """
        if isinstance(sys.stdout, io.TextIOWrapper):
            # File names and terminals need not be UTF-8. Python configures stderr like this by default.
            sys.stdout.reconfigure(errors="backslashreplace")
        # A shell expands * to names that may begin with a dash.
        arguments = [
            f"./{word}" if word.startswith("-") and "." in word and os.path.lexists(word) else word
            for word in (sys.argv[1:] if argv is None else argv)
        ]
        typed = next((word for word in arguments if not word.startswith("-")), None)
        parser = self.build_parser(typed if typed in self.verbs else None)
        args = parser.parse_args(arguments)
        if args.verb is None:
            parser.print_help()
            return 0
        try:
            with _sigterm_raises():
                return import_module(f".{args.verb}", self.package).run(args)
        except BrokenPipeError:
            # The reader of stdout has exited (| head). Redirect stdout, or the flush at exit fails.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except KNOWN_ERRORS as error:
            print(f"{self.name}: error: {one_line(error)}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print(f"{self.name}: interrupted", file=sys.stderr)
            return 130
        except Terminated:
            print(f"{self.name}: terminated", file=sys.stderr)
            return 143


def one_line(error: BaseException) -> str:
    """The message of an error on one line."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def duration(hours: float) -> str:
    """Format a duration: "1.8 min", or "2.30 h" from one hour on."""
    return f"{60 * hours:.1f} min" if hours < 1 else f"{hours:.2f} h"


def number(
    kind: type[int] | type[float],
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
) -> Callable[[str], Any]:
    """The argparse type of a finite number in [``least``, ``most``] or above ``above``."""
    bounds = [(above, "above"), (least, "of at least"), (most, "of at most")]
    rule = " and ".join(f"{word} {bound:,g}" for bound, word in bounds if bound is not None)
    what = f"{'a whole' if kind is int else 'a finite'} number {rule}".rstrip()

    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        fits = (least is None or value >= least) and (most is None or value <= most)
        if not (-math.inf < value < math.inf and fits and (above is None or value > above)):
            raise argparse.ArgumentTypeError(f"expected {what}, got {text[:40]!r}")
        return value

    return parse


def add_overwrite_option(parser: argparse.ArgumentParser, what: str) -> None:
    """Add --overwrite. Files are not replaced without it."""
    parser.add_argument("--overwrite", action="store_true", help=f"replace {what}")


def check_reports(names: Iterable[str | None], overwrite: bool) -> None:
    """Check in advance that reports can be written. None and "-" are skipped. OSError: one exists and ``overwrite`` is
    false, or it cannot be written.
    """
    for name in names:
        if name and name != "-" and writable_target(name).exists() and not overwrite:
            raise FileExistsError(f"{name}: exists already; pass --overwrite to replace it")


def write_report(name: str, report: object) -> None:
    """Write a report as JSON atomically and print its name on stderr."""
    write_json(name, report)
    print(f"wrote {name}", file=sys.stderr)


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """--device and --dtype."""
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, mps...; auto selects cuda if available"
    )
    parser.add_argument(
        "--dtype", default="float32", choices=("float32", "bfloat16"), help="compute precision"
    )


def pick_device(name: str) -> str:
    """The device that ``--device`` names. ValueError: this machine has no such device."""
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    check_device(name)
    return name


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Unwind a verb on SIGTERM as on Ctrl-C. A second SIGTERM ends the process immediately."""
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    process = os.getpid()

    def stop(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        if os.getpid() != process:  # a forked worker, which has nothing to clean up
            os.kill(os.getpid(), number)
        raise Terminated

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
