"""What the programs ``audiotok`` and ``tts-lm`` share: finding the verb, where a model runs, errors in one line.

Knows no verb and imports nothing heavy at module level, so that ``--help`` answers at once. The law it keeps: asking
for help imports no verb, an option means the same in every verb, and no failure shows a traceback when its cause is
the user's input or machine.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

# What a user's input or machine can cause; anything else is our bug and keeps its traceback.
KNOWN_ERRORS = (ValueError, TypeError, OSError, ImportError, MemoryError)


@dataclass(frozen=True)
class Program:
    """A command with verbs.

    Attributes:
        name: as typed, and as errors begin.
        description: one line for the help.
        version: what ``--version`` says after the name.
        package: where the verbs' modules are, each with ``add_parser(subparsers)`` and ``run(args) -> int``.
        verbs: verb -> (module in ``package``, help); the order is the order of the help.
    """

    name: str
    description: str
    version: str
    package: str
    verbs: Mapping[str, tuple[str, str]]

    def build_parser(self, verb: str | None = None) -> argparse.ArgumentParser:
        """The program's parser. Only ``verb``'s module is imported; the others are a name and a line.

        Args:
            verb: the verb that will be run, or None for the help of all.
        """
        parser = argparse.ArgumentParser(prog=self.name, description=self.description, allow_abbrev=False)
        parser.add_argument("--version", action="version", version=f"{self.name} {self.version}")
        subparsers = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")
        for name, (module, help_text) in self.verbs.items():
            if name == verb:
                import_module(f".{module}", self.package).add_parser(subparsers)
            else:
                subparsers.add_parser(name, help=help_text)
        return parser

    def main(self, argv: Sequence[str] | None = None) -> int:
        """Run the program.

        Args:
            argv: arguments without the program's name; None takes those of the process.

        Returns:
            0 done, 1 failed, 130 interrupted. Wrong usage leaves through ``SystemExit(2)``, as argparse does.
        """
        arguments = list(sys.argv[1:] if argv is None else argv)
        verb = next((word for word in arguments if not word.startswith("-")), None)
        parser = self.build_parser(verb if verb in self.verbs else None)
        args = parser.parse_args(arguments)
        if args.verb is None:
            parser.print_help()
            return 0
        try:
            return import_module(f".{self.verbs[args.verb][0]}", self.package).run(args)
        except BrokenPipeError:
            # The reader of our stdout has gone (| head): point it elsewhere, or the flush at exit complains.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        except KNOWN_ERRORS as error:
            print(f"{self.name}: error: {one_line(error)}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print(f"{self.name}: interrupted", file=sys.stderr)
            return 130


def one_line(error: BaseException) -> str:
    """An error's text on one line, without Python's decoration."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """--device and --dtype: where models run, and in which numbers."""
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, mps...; auto = cuda where there is one"
    )
    parser.add_argument(
        "--dtype", default="float32", choices=("float32", "bfloat16"), help="numbers that models compute in"
    )


def pick_device(name: str) -> str:
    """The device that ``--device`` means on this machine.

    Raises:
        ValueError: there is no such device here.
    """
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = one_line(error).split(". ")[0]
        raise ValueError(
            f"expected a device of this machine, got --device {name} ({reason}); try auto"
        ) from None
    return name
