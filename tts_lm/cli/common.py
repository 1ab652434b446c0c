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
