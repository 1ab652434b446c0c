"""``audiotok eval``: score a codec on a folder of recordings with a ``metadata.csv``."""

from __future__ import annotations

import argparse
import json
import sys
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


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the description and the options."""
    parser.description = (
        "Encode and decode rows of DIR/metadata.csv and print mean scores with 95 % intervals: PESQ, STOI, "
        "ViSQOL, SI-SDR, mel distance, pitch. Bitrates are those of codes after entropy coding."
    )
    add_codec_option(parser)
    parser.add_argument(
        "--data", required=True, metavar="DIR", help="folder with a metadata.csv (audiofolder columns)"
    )
    parser.add_argument(
        "--split", default="test", help="rows of this split; 'all' for every row (default: %(default)s)"
    )
    parser.add_argument("--source", help="only rows whose source begins with this, for example librispeech")
    parser.add_argument("--limit", type=number(int, 1), help="at most this many rows, evenly spaced")
    parser.add_argument(
        "--n-q", type=number(int, 1), nargs="+", default=[], metavar="K",
        help="codebooks to decode from (default: all)",
    )  # fmt: skip
    parser.add_argument(
        "--opus", type=number(float, 6, 256), nargs="+", default=[], metavar="KBPS",
        help="compare with Opus at these bitrates",
    )  # fmt: skip
    parser.add_argument(
        "--loss", type=number(float, 0, 1), nargs="+", default=[], metavar="SHARE",
        help="lose these shares of frames (0.05 = 5 %%): concealed, and as silence",
    )  # fmt: skip
    parser.add_argument(
        "--search", type=number(int, 1, 1000), metavar="STEPS",
        help="also score codes optimised as by `audiotok encode --search`",
    )  # fmt: skip
    parser.add_argument("--visqol", action="store_true", help="score ViSQOL (speech mode) too; it is slow")
    parser.add_argument(
        "--workers", type=number(int, 0, 1024), default=2,
        help="processes that score; 0 = this one (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE",
        help="print JSON, clip by clip, instead of the table, or write it to FILE too",
    )  # fmt: skip
    parser.add_argument("--plot", metavar="FILE", help="draw quality over bitrate (.png, .svg, .pdf)")
    add_overwrite_option(parser, "the files of --json and --plot")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Evaluate, print the table, write the JSON and the picture."""
    from tqdm import tqdm

    from ..evaluate import FAST_METRICS, METRICS, evaluate_codec, read_rows
    from ..pictures import check_picture, draw_rate_distortion

    check_reports([args.json, args.plot], args.overwrite)
    if args.plot:
        check_picture(args.plot)
    rows = read_rows(args.data, None if args.split == "all" else args.split, args.source, args.limit)
    codec = load_chosen_codec(args.codec, args)
    with tqdm(total=len(rows), unit="clip", file=sys.stderr) as bar:
        report = evaluate_codec(
            codec,
            rows,
            args.n_q,
            opus_kbps=args.opus,
            losses=args.loss,
            search=args.search,
            metrics=tuple(METRICS) if args.visqol else FAST_METRICS,
            workers=args.workers,
            progress=lambda *_: bar.update(),
        )
    if args.json == "-":
        print(json.dumps(report.as_dict()))
    else:
        print_table(report)
    if args.json and args.json != "-":
        write_report(args.json, report.as_dict())
    if args.plot:
        draw_rate_distortion(args.plot, report.as_dict())
        print(f"wrote {args.plot}", file=sys.stderr)
    return 0


def print_table(report: CodecReport) -> None:
    """Print a report on stdout."""
    codec = report.codec
    print(
        f"{report.rows} clips, {report.duration_s:.0f} s; codec {codec['name']}, codes {codec['codes_fingerprint']}: "
        f"{codec['sampling_rate']} Hz, {codec['frame_rate']:g} Hz x {codec['n_q']} x {codec['codebook_size']}; coded "
        "bitrates; means with 95 % bootstrap intervals over clips"
    )
    names = list(dict.fromkeys(name for condition in report.conditions for name in condition.averages))
    table = [["", "bit/s", *names]]
    for condition in report.conditions:
        cells = [_cell(condition.averages.get(name), _DIGITS.get(name, 2)) for name in names]
        table.append([condition.name, f"{condition.bitrate_bps:.0f}", *cells])
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for head, *cells in table:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        print("  ".join([head.ljust(widths[0]), *padded]))
    for condition in report.conditions:
        for name in dict.fromkeys(failure["metric"] for failure in condition.failures):
            found = [failure for failure in condition.failures if failure["metric"] == name]
            print(
                f"{condition.name}: {name} failed on {len(found)} of {report.rows} clips, which are left out of its "
                f"mean (first {found[0]['file']}: {found[0]['reason']})"
            )
    print(
        f"perplexity of the codebooks (at most {codec['codebook_size']}) over {report.frames} frames: "
        + "  ".join(f"{value:.0f}" for value in report.perplexity)
    )
    print(f"raw bitrate {codec['bitrate_bps']:.0f} bit/s, order-0 entropy {report.entropy_bps:.0f} bit/s")


def _cell(average: Average | None, digits: int) -> str:
    if average is None:
        return "-"
    return f"{average.mean:.{digits}f} [{average.low:.{digits}f} {average.high:.{digits}f}]"
