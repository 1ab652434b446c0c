"""``tts-lm export``: the NAR half of a language model as ONNX, which runs without torch."""

from __future__ import annotations

import argparse
import sys

from .common import add_overwrite_option


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "export",
        help="the NAR half as ONNX, which runs without torch",
        description="Write the half that fills codebooks 1 and up as ONNX, with a card that holds fingerprint and "
        "licence; tts_lm.load_onnx(FOLDER) runs it. The AR half is a stock Llama, which other programs convert; the "
        "codec is exported by 'audiotok export'.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model", metavar="NAME", help="a shipped model or a folder (default: the shipped default)"
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the folder to write: new or empty")
    parser.add_argument("--license", metavar="TEXT", help="of the weights (default: as its README.md says)")
    add_overwrite_option(parser, "the bundle that is there")


def run(args: argparse.Namespace) -> int:
    """Export."""
    from audiotok import onnx

    from ..folder import load_part, load_text_side, read_card
    from ..nar import NarConfig, NarModel
    from ..onnx import export_onnx
    from ..shipped import find_checkpoint
    from ..text import character_ids

    onnx.check_target(args.out, args.overwrite)
    folder = find_checkpoint(args.model)
    read_card(folder)  # says what is wrong with a folder that is no model
    nar = load_part(NarModel, folder / "nar", NarConfig.model_type)
    characters = character_ids(load_text_side(folder / "tokenizer"))
    export_onnx(nar, characters, args.out, args.license, folder / "README.md", args.overwrite)
    print(f"wrote {args.out}", file=sys.stderr)
    return 0
