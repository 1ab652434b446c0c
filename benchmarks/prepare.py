"""Speed of ``audiotok prepare`` compared with that of the codec alone."""

from __future__ import annotations

import argparse
import copy
import os
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from audiotok.cli.common import (
    add_codec_option,
    add_model_options,
    add_report_option,
    check_reports,
    duration,
    load_chosen_codec,
    number,
    write_report,
)

if TYPE_CHECKING:
    from audiotok.codec.model import AudioCodec

_PURE_S = 5.0  # for which the codec alone is timed in each turn
_CLIP_S = 6.0


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "prepare",
        help="time preparation, beside the codec alone",
        allow_abbrev=False,
        description=(
            "Seconds of audio per second: `audiotok prepare` from start to end, and the codec on batches of equal "
            "length held in memory, in as many processes. The two take turns."
        ),
    )
    parser.add_argument("source", metavar="SOURCE", help="what audiotok prepare takes")
    workers = os.cpu_count() or 1
    parser.add_argument(
        "--workers", type=number(int, 1, 1024), default=workers, metavar="N", help="default: all cores"
    )
    parser.add_argument(
        "--batch-s", type=number(float, above=0), default=64.0, metavar="S", help="default 64 s"
    )
    parser.add_argument(
        "--turns", type=number(int, 1), default=3, metavar="N", help="medians of so many (default 3)"
    )
    add_report_option(parser)
    add_codec_option(parser)
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Time, print the table, write the JSON."""
    from audiotok.corpus import Limits, prepare

    check_reports([args.json], args.overwrite)
    codec = load_chosen_codec(args.codec, args)
    rates: dict[str, list[float]] = {"codec alone": [], "prepare": []}
    hours, load = 0.0, []
    for _ in range(args.turns):
        load.append(os.getloadavg()[0])
        rates["codec alone"].append(_pure_rate(codec, args.workers, args.batch_s))
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            limits = Limits(need_text=False, max_clipped=1.0)
            given: dict[str, Any] = {"limits": limits, "workers": args.workers, "batch_s": args.batch_s}
            hours = prepare(args.source, Path(folder) / "out", codec, **given).hours
            rates["prepare"].append(hours * 3600 / (time.perf_counter() - began))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    share = medians["prepare"] / medians["codec alone"]
    figures = {"hours": hours, "workers": args.workers, "batch_s": args.batch_s, "load": load}
    figures |= {"times_real_time": rates, "share": share}
    before = ", ".join(f"{value:.1f}" for value in load)
    print(f"{duration(hours)}, {args.workers} workers, load before the turns {before}")
    print(f"{'x real time':<16}{'median':>9}   turns")
    for name, values in rates.items():
        print(f"{name:<16}{medians[name]:>9.1f}   {'  '.join(f'{value:.1f}' for value in values)}")
    print(f"prepare reaches {share:.0%} of the codec alone")
    if args.json:
        write_report(args.json, figures)
    return 0


def _pure_rate(codec: AudioCodec, workers: int, batch_s: float) -> float:
    """Sum of the rates of ``workers`` processes that run only the codec."""
    from audiotok.corpus.executors import run_tasks

    job = pickle.dumps(copy.deepcopy(codec).cpu()), str(codec.device), batch_s
    return sum(rate for _, rate in run_tasks(_encoder, job, [_PURE_S] * workers, workers=workers))


def _encoder(job: tuple[bytes, str, float]) -> Callable[[float], float]:
    """Return a function that encodes for a given time and returns seconds of audio per second."""
    import torch

    codec = pickle.loads(job[0]).to(job[1]).eval()
    clips = max(1, int(job[2] / _CLIP_S))
    shape = (clips, codec.config.audio_channels, round(_CLIP_S * codec.config.sampling_rate))
    wav = 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(job[1])
    codec.encode(wav)

    def encode(for_s: float) -> float:
        began, batches = time.perf_counter(), 0
        while time.perf_counter() - began < for_s:
            codec.encode(wav).audio_codes.cpu()
            batches += 1
        return batches * clips * _CLIP_S / (time.perf_counter() - began)

    return encode
