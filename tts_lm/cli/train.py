"""``tts-lm train``: a recipe and prepared corpora in, a half of the language model, or its verifier, out."""

from __future__ import annotations

import argparse
import sys


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "train",
        help="train a half of the language model, or continue training one",
        description="Train the AR half, the NAR half or the verifier by a recipe. Killed and started again, "
        "a run goes on.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "recipe",
        metavar="RECIPE",
        help="a YAML file or a shipped recipe: ar, nar, verifier, ar-tiny, nar-tiny, verifier-tiny",
    )
    parser.add_argument(
        "--data", nargs="+", required=True, metavar="DIR", help="folders of `audiotok prepare`"
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="the run's folder; the model comes into DIR/model"
    )
    parser.add_argument("--alignments", nargs="*", default=[], metavar="FILE", help="word times, JSON lines")
    parser.add_argument(
        "--codec", metavar="NAME", help="the corpora's codec: a new NAR half starts from its codewords"
    )
    parser.add_argument("--init", metavar="NAME", help="continue from a shipped model or a folder")
    parser.add_argument(
        "--carry",
        nargs="+",
        default=[],
        metavar="DIR",
        help="the sources of --data prepared with the codec of --init: carry it over to the new codes",
    )
    parser.add_argument(
        "--speaker",
        metavar="NAME",
        help="at every checkpoint, speak --lines with the other parts of this model",
    )
    parser.add_argument(
        "--lines", metavar="FILE", help="what to say then, ten of it; pocketsphinx counts errors"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override: optim.lr=1e-3"
    )
    parser.add_argument(
        "--device", default="auto", help="cpu or auto; `accelerate launch` places more than one"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="of matrix products (default: the recipe's)"
    )


def run(args: argparse.Namespace) -> int:
    """Train; the model's folder goes to stdout."""
    from ..training.recipe import load_lm_recipe
    from ..training.run import train_lm

    overrides = [*args.set, *([f"dtype={args.dtype}"] if args.dtype else [])]
    recipe = load_lm_recipe(args.recipe, overrides)
    folder = train_lm(
        recipe,
        args.data,
        args.out,
        args.alignments,
        args.init,
        args.device,
        args.codec,
        args.carry,
        args.speaker,
        args.lines,
    )
    print(folder)
    print(f"{recipe.kind} trained", file=sys.stderr)
    return 0
