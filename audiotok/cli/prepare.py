"""``audiotok prepare``: encodes a speech data set as token shards for language models."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import add_codec_option, add_json_option, add_model_options, load_chosen_codec, number

if TYPE_CHECKING:
    from ..corpus import Progress

_TTS_LEVEL_DB = -26.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the description and the options."""
    parser.description = (
        "Encode a data set into Parquet shards of codes with text, bound to the codec. Every row ends in "
        "a shard or, with a reason, in dropped.jsonl. Stopped anywhere, the same command goes on."
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="a folder with metadata.csv; an LJSpeech, VCTK, LibriSpeech, LibriTTS, Common Voice, Kaldi, WebDataset or "
        "Parquet folder; a .csv, .tsv or .jsonl table; a datasets name, OWNER/NAME or OWNER/NAME:CONFIG",
    )
    parser.add_argument(
        "--out", metavar="DIR", required=True, help="folder for shards, report, dropped.jsonl"
    )
    parser.add_argument("--dry-run", action="store_true", help="write only the report, into DIR/dry-run")

    option = parser.add_argument_group("which rows").add_argument
    option("--layout", metavar="NAME", help="layout of SOURCE if it is not recognised: ljspeech, vctk, ...")
    option("--split", metavar="A,B", help="only rows of these splits (default: all)")
    option("--language", metavar="XX", help="only rows of this language; rows that name none get it")
    option(
        "--column",
        action="append",
        type=_pair,
        default=[],
        metavar="FIELD=NAME",
        help="the source's column of the field audio, text, speaker, language, split, id, start, end, duration or "
        "channel (found by its usual names otherwise; FIELD= for none)",
    )
    option(
        "--audio-root", metavar="DIR", help="folder that must contain all files (default: that of the table)"
    )

    option = parser.add_argument_group("limits and processing of the audio").add_argument
    option("--min-s", type=number(float, 0), default=0.1, help="drop clips shorter than this (default 0.1)")
    option("--max-s", type=number(float, 0), default=30.0, help="drop clips longer than this (default 30)")
    option("--allow-no-text", action="store_true", help="keep clips without checking their transcript")
    option(
        "--letters-per-s",
        type=_range,
        default=(1.0, 40.0),
        metavar="LOW,HIGH",
        help="drop clips whose text has far fewer or more letters than their seconds allow (default 1,40)",
    )
    option("--trim", action="store_true", help="cut silence at both ends down to 0.1 s")
    option("--level-db", type=number(float), metavar="DB", help="bring speech to this level, such as -26")
    option("--tts", action="store_true", help=f"for text to speech: --trim --level-db {_TTS_LEVEL_DB:g}")

    option = parser.add_argument_group("at scale").add_argument
    option(
        "--workers", type=number(int, 0), metavar="N", help="processes (default 1; on Ray: the whole cluster)"
    )
    option("--engine", choices=("local", "ray"), default="local", help="this machine, or a Ray cluster")
    option("--address", default="auto", help="of the Ray cluster; local starts one here (default auto)")
    option("--shard", type=_part, metavar="I/N", help="make this part only, in the folder of all parts")

    option = parser.add_argument_group("result").add_argument
    option("--n-q", type=number(int), metavar="K", help="codebooks to keep (default: all)")
    option("--rows-per-shard", type=number(int, 1), metavar="N", help="default: 64 to 1024, by the rows")
    option("--licence", default="", metavar="TEXT", help="licence of the source, stored in the manifest")
    option("--expect-rows", type=number(int, 0), metavar="N", help="fail if another number of rows is kept")
    add_codec_option(parser)
    add_model_options(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Prepare the source; 1 if no row was kept, or another number than expected."""
    from ..corpus import Limits, Shaping, dry_run, prepare, report

    workers = args.workers if args.workers is not None else int(args.engine == "local")
    level_db = args.level_db if args.level_db is not None else _TTS_LEVEL_DB if args.tts else None
    names = ("split", "language", "layout", "audio_root", "rows_per_shard", "engine", "address")
    common: dict[str, Any] = {name: getattr(args, name) for name in names}
    common |= {"columns": dict(args.column), "workers": workers, "progress": _Printer()}
    common["limits"] = Limits(args.min_s, args.max_s, not args.allow_no_text, *args.letters_per_s)
    common["shaping"] = Shaping(trim=args.trim or args.tts, level_db=level_db)
    out = Path(args.out)
    if args.dry_run:
        return _print(dry_run(args.source, args.out, **common) | {"out": str(out / "dry-run")}, args)
    codec = load_chosen_codec(args.codec, args)
    chosen: dict[str, Any] = {"n_q": args.n_q, "licence": args.licence, "part": args.shard}
    manifest = prepare(args.source, args.out, codec, **chosen, **common)
    if not (out / "manifest.json").is_file():
        print(f"{out}: this part is done, {manifest.rows} rows so far; other parts are not", file=sys.stderr)
        return 0
    return _print(report(out), args)


def _print(counts: dict[str, Any], args: argparse.Namespace) -> int:
    """Print counts; 1 if they differ from the expected ones."""
    import json

    from ..corpus import report_text

    print(json.dumps(counts, ensure_ascii=False) if args.json else report_text(counts))
    print(f"report: {Path(counts['out']) / 'report.html'}", file=sys.stderr)
    fault = "" if counts["rows"] else "every row was dropped, see dropped.jsonl"
    if args.expect_rows is not None and counts["rows"] != args.expect_rows:
        fault = f"expected {args.expect_rows} rows, got {counts['rows']}: check that the corpus is complete"
    if fault:
        print(f"audiotok: error: {args.out}: {fault}", file=sys.stderr)
    return 1 if fault else 0


def _pair(text: str) -> tuple[str, str]:
    field, separator, name = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"expected FIELD=NAME such as text=sentence, got {text!r}")
    return field, name


def _range(text: str) -> tuple[float, float]:
    parts = text.split(",")
    if len(parts) != 2:
        raise argparse.ArgumentTypeError(f"expected LOW,HIGH such as 1,40, got {text!r}")
    low, high = map(number(float, 0), parts)
    return low, high


def _part(text: str) -> tuple[int, int]:
    try:
        number, of = map(int, text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected I/N such as 3/16, got {text!r}") from None
    return number, of


class _Printer:
    """Prints progress on stderr: one line that is overwritten on a terminal, else a line every 30 s."""

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
            left_s = progress.elapsed_s * (progress.rows_total / progress.rows - 1)
            line += f", about {left_s:.0f} s left"
        start, end = ("\r\x1b[K", "\n" if done else "") if self._live else ("", "\n")
        print(start + line, end=end, file=sys.stderr, flush=True)
