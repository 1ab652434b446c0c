"""``audiotok train``: train a codec on recordings, or the entropy model of a codec on a prepared corpus."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from .common import add_model_options


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the description and the options."""
    parser.description = (
        "Train a codec in --out; run the same command again to resume. The codec is in OUT/codec. "
        "The recipe 'entropy' takes --data of 'audiotok prepare' and trains the entropy model of .atok files."
    )
    parser.add_argument(
        "recipe",
        metavar="RECIPE",
        help="a .yaml file or a shipped recipe: speech-24k, speech-16k, speech-16k-decoder, tiny, entropy, "
        "soundstream, soundstream-small, encodec-24k, encodec-48k",
    )
    parser.add_argument(
        "--data", required=True, help="a pack, a folder of audio, a metadata file or a datasets name"
    )
    parser.add_argument(
        "--split", default="train", help="rows of --data to train on (default: %(default)s; no split = train)"
    )
    parser.add_argument(
        "--validation", help="as --data, to evaluate on (default: the validation split of --data)"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the run's folder")
    parser.add_argument(
        "--init", metavar="NAME", help="continue from this codec: a shipped name, a folder, a hub id"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a value of the recipe"
    )
    add_model_options(parser)
    parser.add_argument("--pack-only", action="store_true", help="write OUT/packed/* and stop")
    parser.add_argument("--print-config", action="store_true", help="print what would run, as JSON, and stop")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from dataclasses import asdict
    from pathlib import Path

    from ..codec.pretrained import load_codec
    from ..program import pick_device
    from ..training.packed import check_apart, gather
    from ..training.recipe import EntropyRecipe, SeanetRecipe, load_training_recipe

    recipe = load_training_recipe(args.recipe, args.set)
    out = Path(args.out)
    if args.print_config:
        print(json.dumps(asdict(recipe), indent=2))
        return 0
    if isinstance(recipe, EntropyRecipe):
        from ..corpus import PreparedCorpus
        from ..training.entropy import EntropyTrainer

        codec = load_codec(args.init)
        PreparedCorpus(args.data).check(codec)
        EntropyTrainer(recipe, args.data, out, codec.quantizer.codebooks, pick_device(args.device)).run()
        print((out / "metrics.json").read_text(encoding="utf-8").strip())
        return 0
    config: Any = recipe.config()
    init = load_codec(args.init) if args.init else None
    if init is not None:
        if not isinstance(init.config, type(config)):
            raise ValueError(
                f"expected --init to name a codec like {args.recipe}, got a {type(init).__name__}"
            )
        config = init.config
    packed = out / "packed"
    packed.mkdir(parents=True, exist_ok=True)
    train = gather(args.data, packed / "train", config.sampling_rate, config.hop_length, args.split)
    source, split = (args.validation, None) if args.validation else (args.data, "validation")
    validation = gather(source, packed / "validation", config.sampling_rate, config.hop_length, split)
    check_apart(train, validation)
    print(f"{len(train)} training clips, {len(validation)} validation clips", file=sys.stderr)
    if args.pack_only:
        return 0
    if isinstance(recipe, SeanetRecipe):
        from ..training.seanet import SeanetTrainer as trainer
    else:
        from ..training.codec import CodecTrainer as trainer
    trainer(recipe, train, validation, out, init, args.device, args.dtype).run()
    print(out / "codec")
    return 0
