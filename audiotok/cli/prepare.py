"""``audiotok prepare``: encodes a speech data set as token shards for language models."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import add_codec_option, add_json_option, add_model_options, load_chosen_codec, number

if TYPE_CHECKING:
    from ..corpus import Progress, Shaping

# Level of --tts.
_TTS_LEVEL_DB = -26.0


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
        help="a folder with metadata.csv; an LJSpeech, VCTK, LibriSpeech, LibriTTS, Common Voice, Kaldi, WebDataset or "
        "Parquet folder; a .csv, .tsv or .jsonl table; a datasets name, OWNER/NAME or OWNER/NAME:CONFIG",
    )
    parser.add_argument(
        "--out", metavar="DIR", required=True, help="folder for manifest, shards, report, dropped.jsonl"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="write only the report, into DIR/dry-run, without a codec"
    )
    _add_source_options(parser.add_argument_group("which rows"))
    _add_sound_options(parser.add_argument_group("limits and processing of the audio"))
    _add_scale_options(parser.add_argument_group("at scale"))
    result = parser.add_argument_group("result")
    result.add_argument("--n-q", type=number(int), metavar="K", help="codebooks to keep (default: all)")
    result.add_argument(
        "--rows-per-shard",
        type=number(int, 1),
        metavar="N",
        help="default: 64 to 1024, by the number of rows",
    )
    result.add_argument(
        "--licence", default="", metavar="TEXT", help="licence of the source, stored in the manifest"
    )
    result.add_argument(
        "--expect-rows", type=number(int, 0), metavar="N", help="fail if another number of rows is kept"
    )
    result.add_argument(
        "--expect-hours", type=number(float, 0), metavar="H", help="fail if the hours differ by over 1 %%"
    )
    add_codec_option(parser)
    add_model_options(parser)
    add_json_option(parser)


def _add_source_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--layout", metavar="NAME", help="layout of SOURCE if it is not recognised: ljspeech, vctk, ..."
    )
    group.add_argument("--split", metavar="A,B", help="only rows of these splits (default: all)")
    group.add_argument(
        "--language",
        metavar="XX",
        help="only rows of this language; rows that name none are taken to be of it",
    )
    group.add_argument(
        "--column",
        action="append",
        type=_pair,
        default=[],
        metavar="FIELD=NAME",
        help="the source's column of the field audio, text, speaker, language, split, id, start, end, duration or "
        "channel (found by its usual names otherwise; FIELD= for none)",
    )
    group.add_argument(
        "--audio-root",
        metavar="DIR",
        help="folder that must contain all files of a table (default: the table's folder)",
    )
    group.add_argument("--streaming", action="store_true", help="stream a datasets name without a local copy")


def _add_sound_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--min-s", type=number(float, 0), default=0.1, help="drop clips shorter than this (default 0.1)"
    )
    group.add_argument(
        "--max-s", type=number(float, 0), default=30.0, help="drop clips longer than this (default 30)"
    )
    group.add_argument(
        "--allow-no-text", action="store_true", help="keep clips without checking their transcript"
    )
    group.add_argument(
        "--letters-per-s",
        type=_range,
        default=(1.0, 40.0),
        metavar="LOW,HIGH",
        help="drop clips whose text has far fewer or more letters than their seconds allow (default 1,40)",
    )
    group.add_argument("--trim", action="store_true", help="cut silence at both ends down to 0.1 s")
    group.add_argument(
        "--level-db", type=number(float), metavar="DB", help="bring speech to this level, such as -26"
    )
    group.add_argument(
        "--tts", action="store_true", help=f"for text to speech: --trim --level-db {_TTS_LEVEL_DB:g}"
    )


def _add_scale_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--workers",
        type=number(int, 0),
        metavar="N",
        help="processes, one thread each (default 1; on a Ray cluster: all of it)",
    )
    group.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="this machine, or a Ray cluster"
    )
    group.add_argument(
        "--address", default="auto", help="of the Ray cluster; local starts one here (default auto)"
    )
    group.add_argument(
        "--shard",
        type=_part,
        metavar="I/N",
        help="make this part only; audiotok merge joins parts of other folders",
    )
    group.add_argument(
        "--batch-s",
        type=number(float, above=0),
        default=64.0,
        metavar="S",
        help="sound encoded at once (default 64 s)",
    )


def run(args: argparse.Namespace) -> int:
    """Prepare the source; 1 if no row was kept, or another number than expected."""
    from ..corpus import Limits, dry_run, prepare

    workers = args.workers if args.workers is not None else int(args.engine == "local")
    if workers < 1 and args.engine == "local":
        raise ValueError(f"expected at least one worker, got {workers}")
    common: dict[str, Any] = {
        "split": args.split,
        "language": args.language,
        "layout": args.layout,
        "columns": dict(args.column),
        "audio_root": args.audio_root,
        "streaming": args.streaming,
        "limits": Limits(args.min_s, args.max_s, not args.allow_no_text, *args.letters_per_s),
        "shaping": _shaping(args),
        "rows_per_shard": args.rows_per_shard,
        "batch_s": args.batch_s,
        "workers": workers,
        "engine": args.engine,
        "address": args.address,
        "progress": _Printer(),
    }
    if args.dry_run:
        counts = dry_run(args.source, args.out, **common)
        return _print(counts | {"out": str(Path(args.out) / "dry-run")}, args)
    codec = load_chosen_codec(args.codec, args)
    # Without a number it is the process's own GPU under accelerate launch.
    device = "cuda" if args.device in ("auto", "cuda") and codec.device.type == "cuda" else None
    manifest = prepare(
        args.source,
        args.out,
        codec,
        n_q=args.n_q,
        licence=args.licence,
        device=device,
        part=args.shard,
        **common,
    )
    return finish(args, manifest.rows)


def finish(args: argparse.Namespace, rows: int) -> int:
    """Print the report of ``args.out``; of a part that is not the last one only how many rows are done."""
    from ..corpus import report

    if not (Path(args.out) / "manifest.json").is_file():
        print(f"{args.out}: this part is done, {rows} rows so far; other parts are not", file=sys.stderr)
        return 0
    return _print(report(args.out), args)


def _print(counts: dict[str, Any], args: argparse.Namespace) -> int:
    """Print counts; 1 if they differ from the expected ones."""
    import json

    from ..corpus import report_text

    print(json.dumps(counts, ensure_ascii=False) if args.json else report_text(counts))
    print(f"report: {Path(counts['out']) / 'report.html'}", file=sys.stderr)
    faults = [] if counts["rows"] else ["every row was dropped, see dropped.jsonl"]
    if args.expect_rows is not None and counts["rows"] != args.expect_rows:
        faults.append(
            f"expected {args.expect_rows} rows, got {counts['rows']}: check that the corpus is complete"
        )
    if args.expect_hours is not None and abs(counts["hours"] - args.expect_hours) > 0.01 * args.expect_hours:
        faults.append(
            f"expected {args.expect_hours} h, got {counts['hours']}: check that the corpus is complete"
        )
    for fault in faults:
        print(f"audiotok: error: {args.out}: {fault}", file=sys.stderr)
    return 1 if faults else 0


def _shaping(args: argparse.Namespace) -> Shaping:
    from ..corpus import Shaping

    level_db = args.level_db if args.level_db is not None else _TTS_LEVEL_DB if args.tts else None
    return Shaping(trim=args.trim or args.tts, level_db=level_db)


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
        line = f"{progress.stage}: {progress.rows}"
        line += f" of {progress.rows_total} rows" if progress.rows_total is not None else " rows"
        if progress.seconds:
            line += f", {progress.seconds / max(progress.elapsed_s, 1e-9):.0f}x real time"
        if not done and progress.remaining_s == progress.remaining_s:  # not NaN
            line += f", about {progress.remaining_s:.0f} s left"
        over = self._live and not done
        print(
            f"\r\x1b[K{line}" if self._live else line, end="" if over else "\n", file=sys.stderr, flush=True
        )
