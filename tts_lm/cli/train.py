"""``tts-lm train``: train the AR model, the NAR model or the reranker on prepared corpora."""

from __future__ import annotations

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the description and the options."""
    parser.description = (
        "Train the AR model, the NAR model or the reranker by a recipe. Run the same command again to resume."
    )
    add = parser.add_argument
    shipped = "ar, nar, reranker, ar-tiny, nar-tiny, reranker-tiny"
    add("recipe", metavar="RECIPE", help=f"a YAML file or a shipped recipe: {shipped}")
    add("--data", nargs="+", required=True, metavar="DIR", help="folders of `audiotok prepare`")
    add("--out", required=True, metavar="DIR", help="the run's folder; the model is in DIR/model")
    add("--alignments", nargs="*", default=[], metavar="FILE", help="phoneme times, JSON lines")
    add("--codec", metavar="NAME", help="the corpora's codec: a new NAR model starts from its codewords")
    add("--init", metavar="NAME", help="continue from a shipped model or a folder")
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="change a value of the recipe")
    add("--device", default="auto", help="cpu or auto; `accelerate launch` places more than one")
    add("--dtype", choices=("float32", "bfloat16"), help="compute precision (default: the recipe's)")


def run(args: argparse.Namespace) -> int:
    """Train, and print the folder of the model."""
    from ..training.recipe import load_lm_recipe
    from ..training.trainer import train_lm

    overrides = [*args.set, *([f"dtype={args.dtype}"] if args.dtype else [])]
    recipe = load_lm_recipe(args.recipe, overrides)
    print(train_lm(recipe, args.data, args.out, args.alignments, args.init, args.device, args.codec))
    return 0
