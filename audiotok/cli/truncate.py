"""``audiotok truncate``: keeps the first codebooks of ``.atok`` files without the codec."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .common import add_output_options, add_rate_options, chosen_n_q, each, plan_outputs, warn


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the description and the options."""
    parser.usage = "audiotok truncate (--n-q K | --bitrate KBPS) IN OUT | IN [IN ...] --out DIR"
    parser.description = (
        "Keep the first codebooks of code files. The result equals, byte for byte, encoding with so many "
        "codebooks."
    )
    parser.add_argument("paths", nargs="+", metavar="IN", help="code files, and OUT unless --out is given")
    add_rate_options(parser, required=True)
    add_output_options(parser)


def run(args: argparse.Namespace) -> int:
    """Truncate every input; 1 if one failed."""
    from ..bitstream import SUFFIX, AtokReader, truncate

    def work(source: Path, target: Path) -> None:
        with AtokReader(source) as file:
            header = file.header
        n_q = chosen_n_q(args, header.codebook_sizes, header.frame_rate, source)
        warn(source, truncate(source, target, n_q))
        sizes = f"{source.stat().st_size} -> {target.stat().st_size} bytes"
        print(f"{target}: {n_q} of {header.n_q} codebooks, {sizes}", file=sys.stderr)

    return each(plan_outputs(args.paths, args.out, SUFFIX, args.parser), work, args.overwrite, SUFFIX)
