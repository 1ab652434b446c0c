"""``tts-lm train``: train the AR model, the NAR model or the reranker on prepared corpora."""

from __future__ import annotations

import argparse


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "train",
        help="train a part of the TTS model, or continue training one",
        description="Train the AR model, the NAR model or the reranker by a recipe. Run the same command again to "
        "resume.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "recipe",
        metavar="RECIPE",
        help="a YAML file or a shipped recipe: ar, nar, reranker, ar-tiny, nar-tiny, reranker-tiny",
    )
    parser.add_argument(
        "--data", nargs="+", required=True, metavar="DIR", help="folders of `audiotok prepare`"
    )
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="the run's folder; the model is in DIR/model"
    )
    parser.add_argument(
        "--alignments", nargs="*", default=[], metavar="FILE", help="phoneme times, JSON lines"
    )
    parser.add_argument(
        "--codec", metavar="NAME", help="the corpora's codec: a new NAR model starts from its codewords"
    )
    parser.add_argument("--init", metavar="NAME", help="continue from a shipped model or a folder")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a value of the recipe"
    )
    parser.add_argument(
        "--device", default="auto", help="cpu or auto; `accelerate launch` places more than one"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), help="compute precision (default: the recipe's)"
    )


def run(args: argparse.Namespace) -> int:
    """Train, and print the folder of the model."""
    from ..training.recipe import load_lm_recipe
    from ..training.trainer import train_lm

    overrides = [*args.set, *([f"dtype={args.dtype}"] if args.dtype else [])]
    recipe = load_lm_recipe(args.recipe, overrides)
    print(train_lm(recipe, args.data, args.out, args.alignments, args.init, args.device, args.codec))
    return 0
