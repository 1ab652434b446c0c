"""``audiotok eval``: score a codec on a folder of recordings with a ``metadata.csv``.

Knows nothing of how scores are computed. The law it keeps: what failed is printed beside what was scored.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from .common import add_codec_option, add_model_options, load_chosen_codec

if TYPE_CHECKING:
    from ..evaluate import CodecReport


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb ``eval``."""
    parser = subparsers.add_parser(
        "eval",
        help="score a codec: PESQ, STOI, SI-SDR, mel distance, codebook use",
        allow_abbrev=False,
        description="Encode and decode every row of DIR/metadata.csv; mean scores with 95 % intervals.",
    )
    add_codec_option(parser)
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="folder with a metadata.csv (audiofolder columns)"
    )
    parser.add_argument(
        "--split", default="test", help="rows of this split; 'all' for every row (default: %(default)s)"
    )
    parser.add_argument("--source", help="only rows whose source begins with this, for example librispeech")
    parser.add_argument(
        "--n-q", type=int, nargs="+", default=[], metavar="K", help="codebooks to decode from (default: all)"
    )
    parser.add_argument("--limit", type=int, help="at most this many rows, spread evenly")
    parser.add_argument(
        "--baseline", nargs="+", default=[], choices=("identity", "resample"), help="rows to compare with"
    )
    parser.add_argument(
        "--workers", type=int, default=2, help="processes that score; 0 = this one (default: %(default)s)"
    )
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE",
        help="print JSON, clip by clip, instead of the table, or write it to FILE too",
    )  # fmt: skip
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the table, write the JSON."""
    from ..evaluate import evaluate_codec, read_rows
    from ..files import write_json

    rows = read_rows(args.data, None if args.split == "all" else args.split, args.source, args.limit)
    codec = load_chosen_codec(args.codec, args)

    def progress(done: int, total: int) -> None:
        if sys.stderr.isatty() or done % 25 == 0 or done == total:
            print(f"\r{done}/{total} clips", end="\n" if done == total else "", file=sys.stderr, flush=True)

    report = evaluate_codec(
        codec, rows, args.n_q, baselines=args.baseline, workers=args.workers, progress=progress
    )
    if args.json == "-":
        print(json.dumps(report.as_dict()))
        return 0
    print_table(report)
    if args.json:
        write_json(args.json, report.as_dict())
        print(f"wrote {args.json}", file=sys.stderr)
    return 0


def print_table(report: CodecReport) -> None:
    """Print a report on stdout."""
    codec = report.codec
    print(
        f"{report.rows} clips, {report.duration_s:.0f} s; codec {codec['codes_fingerprint']}: "
        f"{codec['sampling_rate']} Hz, {codec['frame_rate']:g} Hz x {codec['n_q']} x {codec['codebook_size']}"
        f"; means with 95 % bootstrap intervals over clips"
    )
    names = list(dict.fromkeys(name for condition in report.conditions for name in condition.averages))
    print(f"{'':<12}{'bps':>6}" + "".join(f"{name:>26}" for name in names))
    for condition in report.conditions:
        cells = [
            f"{condition.name:<12}",
            f"{condition.bitrate_bps:>6.0f}" if condition.bitrate_bps else f"{'':>6}",
        ]
        for name in names:
            average = condition.averages.get(name)
            digits = 1 if name.endswith("_db") else 3
            text = (
                "-"
                if average is None
                else (f"{average.mean:.{digits}f} [{average.low:.{digits}f}, {average.high:.{digits}f}]")
            )
            cells.append(f"{text:>26}")
        print("".join(cells))
    for condition in report.conditions:
        for name, count in condition.failed.items():
            reason = next(failure["reason"] for failure in condition.failures if failure["metric"] == name)
            print(
                f"{condition.name}: {name} failed on {count} of {report.rows} clips, which are left out "
                f"of its mean ({reason})"
            )
    books = "  ".join(
        f"{k}: {value:.0f} ({percent:.0f} %)"
        for k, (value, percent) in enumerate(zip(report.perplexity, report.perplexity_percent, strict=True))
    )
    print(f"perplexity of each codebook (of {codec['codebook_size']}; {report.frames} frames): {books}")
    print(
        f"bitrate {codec['bitrate_bps']:.0f} bps, entropy {report.entropy_bps:.0f} bps, "
        f"efficiency {100 * report.bitrate_efficiency:.1f} %"
    )
