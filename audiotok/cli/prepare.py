"""``audiotok prepare``: a speech data set -> token shards that a language model trains on."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING

from .common import add_codec_option, add_json_option, add_model_options, load_chosen_codec

if TYPE_CHECKING:
    from ..corpus import Progress


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "prepare",
        help="a speech data set -> token shards",
        description=(
            "Encode a data set into Parquet shards of codes with text, bound to the codec. Every row ends in "
            "a shard or, with a reason, in dropped.jsonl. Stopped anywhere, the same command goes on."
        ),
        allow_abbrev=False,
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder with metadata.csv or metadata.jsonl, an LJSpeech folder, Parquet, or a datasets name",
    )
    parser.add_argument(
        "--out", metavar="DIR", required=True, help="folder for manifest, shards, dropped.jsonl"
    )
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes, one thread each (default 1)"
    )
    parser.add_argument("--split", metavar="A,B", help="only rows of these splits (default: all)")
    for field in ("audio", "text", "speaker", "language", "id"):
        usual = "" if field != "text" else " (found by its usual names otherwise)"
        parser.add_argument(
            f"--{field}-column", metavar="NAME", help=f"the source's column of the {field}{usual}"
        )
    parser.add_argument("--n-q", type=int, metavar="K", help="codebooks to keep (default: all)")
    parser.add_argument("--min-s", type=float, default=0.1, help="drop clips shorter than this (default 0.1)")
    parser.add_argument("--max-s", type=float, default=30.0, help="drop clips longer than this (default 30)")
    parser.add_argument("--allow-no-text", action="store_true", help="keep clips that have no transcript")
    parser.add_argument("--rows-per-shard", type=int, default=1024, metavar="N", help="default 1024")
    parser.add_argument(
        "--batch-s", type=float, default=64.0, metavar="S", help="sound encoded at once (default 64 s)"
    )
    add_codec_option(parser)
    add_model_options(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Prepare the source; 1 if not one row was fit."""
    import json

    from ..corpus import open_source, prepare, report, report_text
    from ..corpus.checks import Limits

    fields = ("audio", "text", "speaker", "language", "id")
    columns = {field: name for field in fields if (name := getattr(args, f"{field}_column"))}
    source = open_source(args.source, split=args.split, columns=columns)
    codec = load_chosen_codec(args.codec, args)
    prepare(
        source,
        args.out,
        codec,
        split=args.split,
        columns=columns,
        limits=Limits(args.min_s, args.max_s, not args.allow_no_text),
        n_q=args.n_q,
        rows_per_shard=args.rows_per_shard,
        batch_s=args.batch_s,
        workers=args.workers,
        progress=_Teller(),
    )
    counts = report(args.out)
    print(json.dumps(counts, ensure_ascii=False) if args.json else report_text(counts))
    if not counts["rows"]:
        print(f"audiotok: error: {args.out}: every row was dropped, see dropped.jsonl", file=sys.stderr)
        return 1
    return 0


class _Teller:
    """Says on stderr how far the work is: on a terminal a line that is written over, else one at times."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._every_s = 0.2 if self._live else 30.0
        self._last = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        done = progress.rows == progress.rows_total
        if not done and time.monotonic() - self._last < self._every_s:
            return
        self._last = time.monotonic()
        line = f"{progress.stage}: {progress.rows} of {progress.rows_total} rows"
        if progress.seconds:
            line += f", {progress.seconds / max(progress.elapsed_s, 1e-9):.0f}x real time"
        if not done:
            line += f", about {progress.remaining_s:.0f} s left"
        over = self._live and not done
        print(
            f"\r\x1b[K{line}" if self._live else line, end="" if over else "\n", file=sys.stderr, flush=True
        )
