"""What several verbs share: options, the choice of device, errors in one line.

Knows no verb, and imports nothing heavy at module level. Its law: an option means the same in every verb.
"""

from __future__ import annotations

import argparse

# What a user's input or machine can cause; anything else is our bug and keeps its traceback.
KNOWN_ERRORS = (ValueError, TypeError, OSError, ImportError, MemoryError)


def one_line(error: BaseException) -> str:
    """An error's text on one line, without Python's decoration."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """--device and --dtype: where the models run, and in which numbers."""
    parser.add_argument(
        "--device", default="auto", help="cpu, cuda, cuda:1, mps...; auto = cuda where there is one"
    )
    parser.add_argument(
        "--dtype", default="float32", choices=("float32", "bfloat16"), help="numbers the models compute in"
    )


def add_speaking_options(parser: argparse.ArgumentParser) -> None:
    """--model, --voice and --seed: what speaks."""
    parser.add_argument(
        "--model", metavar="NAME", help="a shipped model or a folder (default: the shipped default)"
    )
    parser.add_argument("--voice", metavar="V", help="a voice of `tts-lm voices` (default: the first)")
    parser.add_argument(
        "--seed", type=int, default=0, help="another seed reads the text another way (default: 0)"
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
