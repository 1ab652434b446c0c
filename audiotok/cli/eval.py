"""``audiotok eval``: score a codec on a folder of recordings with a ``metadata.csv``.

Knows nothing of how scores are computed. The law it keeps: what failed is printed beside what was scored.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from .common import (
    add_codec_option,
    add_model_options,
    add_overwrite_option,
    check_reports,
    load_chosen_codec,
    number,
    write_report,
)

if TYPE_CHECKING:
    from ..evaluate import Average, CodecReport

_DIGITS = {"stoi": 3, "voicing_error": 3, "si_sdr_db": 1, "f0_error_cents": 0}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb ``eval``."""
    parser = subparsers.add_parser(
        "eval",
        help="score a codec: PESQ, STOI, ViSQOL, SI-SDR, mel distance, pitch, codebook use",
        allow_abbrev=False,
        description="Encode and decode rows of DIR/metadata.csv; mean scores with 95 % intervals, beside Opus.",
    )
    add_codec_option(parser)
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="folder with a metadata.csv (audiofolder columns)"
    )
    parser.add_argument(
        "--split", default="test", help="rows of this split; 'all' for every row (default: %(default)s)"
    )
    parser.add_argument("--source", help="only rows whose source begins with this, for example librispeech")
    parser.add_argument("--limit", type=number(int, 1), help="at most this many rows, spread evenly")
    parser.add_argument(
        "--n-q",
        type=number(int, 1),
        nargs="+",
        default=[],
        metavar="K",
        help="codebooks to decode from (default: all)",
    )
    parser.add_argument(
        "--opus", type=number(float, above=0), nargs="+", default=[], metavar="KBPS",
        help="compare with Opus at these bitrates (needs opusenc and opusdec)",
    )  # fmt: skip
    parser.add_argument(
        "--loss", type=number(float, 0, 1), nargs="+", default=[], metavar="SHARE",
        help="lose these shares of 20 ms packets (0.05 = 5 %%): concealed, and with silence instead",
    )  # fmt: skip
    parser.add_argument(
        "--search", type=number(int, 1, 1000), metavar="STEPS",
        help="score codes sought by STEPS steps too, as `audiotok encode --search` makes them",
    )  # fmt: skip
    parser.add_argument(
        "--baseline", nargs="+", default=[], choices=("identity", "resample"),
        help="compare with the clip itself, or with the clip through the codec's sampling rate and back",
    )  # fmt: skip
    parser.add_argument(
        "--visqol", type=number(int, 1), nargs="*", metavar="K",
        help="score ViSQOL (speech mode) too: for these numbers of codebooks and all that is compared; "
        "without a K for every row",
    )  # fmt: skip
    add_overwrite_option(parser, "what --json and --plot name")
    parser.add_argument(
        "--workers",
        type=number(int, 0, 1024),
        default=2,
        help="processes that score; 0 = this one (default: %(default)s)",
    )
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE",
        help="print JSON, clip by clip, instead of the table, or write it to FILE too; a run into FILE that "
        "was killed goes on where it stopped",
    )  # fmt: skip
    parser.add_argument("--plot", metavar="FILE", help="draw quality over bitrate (.png, .svg, .pdf)")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the table, write the JSON and the picture."""
    from ..evaluate import evaluate_codec, read_rows
    from ..pictures import check_picture, draw_rate_distortion

    check_reports([args.json, args.plot], args.overwrite)
    if args.plot:
        check_picture(args.plot)
    rows = read_rows(args.data, None if args.split == "all" else args.split, args.source, args.limit)
    codec = load_chosen_codec(args.codec, args)
    journal = Path(f"{args.json}.partial") if args.json and args.json != "-" else None
    report = evaluate_codec(
        codec,
        rows,
        args.n_q,
        baselines=args.baseline,
        opus_kbps=args.opus,
        losses=args.loss,
        search=args.search,
        visqol=args.visqol,
        workers=args.workers,
        journal=journal,
        progress=_progress(),
    )
    if args.json == "-":
        print(json.dumps(report.as_dict()))
    else:
        print_table(report)
    if journal:
        write_report(args.json, report.as_dict())
        journal.unlink(missing_ok=True)
    if args.plot:
        draw_rate_distortion(args.plot, report.as_dict())
        print(f"wrote {args.plot}", file=sys.stderr)
    return 0


def print_table(report: CodecReport) -> None:
    """Print a report on stdout."""
    codec = report.codec
    print(
        f"{report.rows} clips, {report.duration_s:.0f} s; codec {codec['name']}, codes "
        f"{codec['codes_fingerprint']}: {codec['sampling_rate']} Hz, {codec['frame_rate']:g} Hz x {codec['n_q']} "
        f"x {codec['codebook_size']}; means with 95 % bootstrap intervals over clips"
    )
    names = list(dict.fromkeys(name for condition in report.conditions for name in condition.averages))
    table = [["", "bit/s", *names]]
    for condition in report.conditions:
        rate = "" if condition.bitrate_bps is None else f"{condition.bitrate_bps:.0f}"
        cells = [_cell(condition.averages.get(name), _DIGITS.get(name, 2)) for name in names]
        table.append([condition.name, rate, *cells])
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for line in table:
        head = line[0].ljust(widths[0])
        print(
            "  ".join([head, *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))])
        )
    _print_failures(report)
    for condition in report.conditions:
        if condition.file_bps is not None:
            print(
                f"{condition.name}: packets {condition.bitrate_bps:.0f} bit/s, files {condition.file_bps:.0f}"
            )
    books = "  ".join(
        f"{k}: {perplexity:.0f} ({percent:.0f} %, {100 * efficiency:.0f} %)"
        for k, (perplexity, percent, efficiency) in enumerate(
            zip(report.perplexity, report.perplexity_percent, report.efficiency, strict=True)
        )
    )
    print(
        f"codebooks, perplexity (of {codec['codebook_size']}, entropy over stored bits), "
        f"{report.frames} frames: {books}"
    )
    print(
        f"bitrate {codec['bitrate_bps']:.0f} bit/s, entropy {report.entropy_bps:.0f} bit/s, "
        f"efficiency {100 * report.bitrate_efficiency:.1f} %"
    )


def _print_failures(report: CodecReport) -> None:
    for skip in report.skipped:
        print(f"{skip['condition']}: skipped ({skip['reason']})")
    for condition in report.conditions:
        for name, count in condition.failed.items():
            first = next(failure for failure in condition.failures if failure["metric"] == name)
            print(
                f"{condition.name}: {name} failed on {count} of {report.rows} clips, which are left out of its "
                f"mean (first {first['file']}: {first['reason']})"
            )


def _cell(average: Average | None, digits: int) -> str:
    if average is None:
        return "-"
    return f"{average.mean:.{digits}f} [{average.low:.{digits}f} {average.high:.{digits}f}]"


def _progress() -> Callable[[int, int], None]:
    """A counter with the time left on stderr: every clip on a terminal, every 10th in a log."""
    start: list[tuple[float, int]] = []

    def show(done: int, total: int) -> None:
        now = time.monotonic()
        start.append((now, done))
        left = ""
        if done > start[0][1]:
            left = f", {(now - start[0][0]) / (done - start[0][1]) * (total - done):.0f} s left"
        if sys.stderr.isatty() or done % 10 == 0 or done == total:
            end = "\n" if done == total or not sys.stderr.isatty() else ""
            print(f"\r{done}/{total} clips{left} ", end=end, file=sys.stderr, flush=True)

    return show
