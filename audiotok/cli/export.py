"""``audiotok export``: a codec as ONNX files."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .common import codec_name


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the description and the options."""
    parser.description = "Write encoder.onnx (wav -> codes), decoder.onnx (codes -> wav) and codec.json."
    parser.add_argument(
        "codec",
        nargs="?",
        type=codec_name,
        default="default",
        metavar="CODEC",
        help="a shipped codec, a folder or a hub id (default: %(default)s)",
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the folder to write")


def run(args: argparse.Namespace) -> int:
    """Export; prints the folder."""
    from ..codec.pretrained import load_codec
    from ..export import export_onnx

    export_onnx(load_codec(args.codec), args.out)
    size = sum(path.stat().st_size for path in Path(args.out).iterdir()) / 1e6
    print(f"wrote {args.out}: {size:.1f} MB", file=sys.stderr)
    return 0
