"""``audiotok listen``: an HTML page with audio and text of random rows of a prepared corpus."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .common import add_codec_option, add_model_options, load_chosen_codec, number


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the description and the options."""
    parser.description = "Write an HTML page, one file, with the decoded sound and the text of random rows."
    parser.add_argument("corpus", metavar="DIR", help="a folder written by audiotok prepare")
    parser.add_argument(
        "-o", "--out", metavar="HTML", help="the page, replaced if it exists (default: DIR/listen.html)"
    )
    parser.add_argument("--rows", type=number(int, 1), default=20, metavar="N", help="how many (default 20)")
    parser.add_argument("--seed", type=number(int, 0), default=0, help="which (default 0)")
    parser.add_argument("--split", metavar="NAME", help="only rows of this split")
    add_codec_option(parser)
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Write the page and print its path."""
    from ..corpus import listen
    from ..files import writable_target

    out = Path(args.out) if args.out else Path(args.corpus) / "listen.html"
    if out.suffix.lower() not in (".html", ".htm"):  # existing files are replaced, so accept pages only
        raise ValueError(
            f"{out}: expected a name that ends in .html, got {out.suffix or 'none'}; choose another"
        )
    writable_target(out)
    codec = load_chosen_codec(args.codec, args)
    ids = listen(args.corpus, codec, out, rows=args.rows, seed=args.seed, split=args.split)
    print(f"{len(ids)} rows; open it in a browser", file=sys.stderr)
    print(out)
    return 0
