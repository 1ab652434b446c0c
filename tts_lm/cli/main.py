"""The entry of ``tts-lm``: finds the verb's module, runs it, turns known errors into one line.

Knows nothing of any verb but its name, its module and one line of help. The law it keeps: asking for help
imports no verb, and no verb's failure shows a traceback when its cause is the user's input or machine.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib import import_module

from audiotok import __version__

from .common import KNOWN_ERRORS, one_line

PROGRAM = "tts-lm"
DESCRIPTION = "Text in, speech out: a language model over audio tokens."
# verb -> (module beside this one, help). Order is the order of the help.
VERBS = {
    "say": ("say", "text -> a wav file"),
    "voices": ("voices", "who can speak"),
    "train": ("train", "train a half of the language model, or continue training one"),
    "bundle": ("bundle", "two trained halves, a codec and voices -> one folder that speaks"),
    "eval": ("eval", "measure how well the speech is understood"),
}


def build_parser(verb: str | None = None) -> argparse.ArgumentParser:
    """The program's parser. Only ``verb``'s module is imported; the others are a name and a line.

    Args:
        verb: the verb that will be run, or None for the help of all.
    """
    parser = argparse.ArgumentParser(prog=PROGRAM, description=DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")
    for name, (module, help_text) in VERBS.items():
        if name == verb:
            import_module(f".{module}", __package__).add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=help_text)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Args:
        argv: arguments without the program's name; None takes those of the process.

    Returns:
        0 done, 1 failed, 130 interrupted. Wrong usage leaves through ``SystemExit(2)``, as argparse does.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    verb = next((word for word in arguments if not word.startswith("-")), None)
    parser = build_parser(verb if verb in VERBS else None)
    args = parser.parse_args(arguments)
    if args.verb is None:
        parser.print_help()
        return 0
    try:
        return import_module(f".{VERBS[args.verb][0]}", __package__).run(args)
    except BrokenPipeError:
        # The reader of our stdout has gone (| head): point it elsewhere, or the flush at exit complains.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KNOWN_ERRORS as error:
        print(f"{PROGRAM}: error: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
