"""Size of ``.atok`` files of recorded clips, and the speed of coding and of seeking in them, on one thread."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audiotok.audio import load_audio
from audiotok.bitstream import AtokReader, AtokWriter
from audiotok.bitstream.format import CODINGS
from audiotok.cli.common import (
    add_codec_option,
    add_model_options,
    add_overwrite_option,
    check_reports,
    load_chosen_codec,
    model_of,
    number,
    write_report,
)
from audiotok.cli.encode import new_header
from audiotok.evaluate import read_rows
from audiotok.machine import threads


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "atok",
        help="size of .atok files, speed of coding and seeking",
        allow_abbrev=False,
        description="Code clips of DIR/metadata.csv into .atok files and back, then seek in an hour of them.",
    )
    parser.add_argument("data", metavar="DIR", help="folder with a metadata.csv")
    parser.add_argument("--split", help="only rows of this split (default: all)")
    parser.add_argument(
        "--clips", type=number(int, 1), default=40, metavar="N", help="evenly spaced (default: 40)"
    )
    parser.add_argument("--turns", type=number(int, 1), default=3, metavar="N", help="repeats (default: 3)")
    parser.add_argument(
        "--seeks", type=number(int, 1), default=50, metavar="N", help="places in the hour (default: 50)"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the values to this file")
    add_overwrite_option(parser, "what --json names")
    add_codec_option(parser)
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, print the table, write the JSON."""
    check_reports([args.json], args.overwrite)
    codec = load_chosen_codec(args.codec, args)
    model = model_of(codec, codec.codes_fingerprint)
    header = new_header(codec.config, codec.codes_fingerprint, codec.config.n_q, model)
    rate = codec.config.sampling_rate
    clips = []
    with threads(1), tempfile.TemporaryDirectory() as folder:
        for row in read_rows(args.data, args.split, limit=args.clips):
            codes = codec.encode(codec.spread(load_audio(row.path, rate)[0][None])).audio_codes
            assert codes is not None
            clips.append(codes[0])
        figures = measure(clips, header, model, Path(folder), args.turns, args.seeks)
    print(f"{figures['clips']} clips, {figures['seconds']:.0f} s, {figures['coding']} coding, one thread")
    print(
        f"saved {figures['saved']:.1%} of the raw bits, everything counted; framing is {figures['framing']:.1%}"
    )
    for name in ("encode", "decode"):
        print(f"{name}: {figures[name]:.1f}x real time")
    seek = figures["seek_ms"]
    print(
        f"ms: open an hour {seek['open']:.1f}, a second anywhere {seek['median']:.1f}, worst {seek['worst']:.1f}"
    )
    if args.json:
        write_report(args.json, figures)
    return 0


def measure(
    clips: Sequence[Tensor],
    header: Any,
    model: Any,
    folder: Path,
    turns: int,
    seeks: int,
    hour_s: float = 3600.0,
) -> dict[str, Any]:
    """Code clips, decode them, and seek in an hour of them.

    Args:
        clips: codes [K, T] int64 of one codec, without scales.
        header, model: for their files.
        folder: an empty folder.
        turns: repeats.
        seeks: places.
        hour_s: length of the file to seek in.

    Returns:
        "clips", "seconds", "coding"; "saved": share of the raw bits that the files save, everything counted;
        "framing": share of the files that is not layers; "encode", "decode": times real time, by CPU time;
        "seek_ms": CPU milliseconds of "open", and "median" and "worst" of reading one second.
    """
    seconds = sum(codes.shape[1] for codes in clips) / header.frame_rate
    paths = [folder / f"{i}.atok" for i in range(len(clips))]
    took: dict[str, list[float]] = {"encode": [], "decode": []}
    layers = 0
    for _ in range(turns):
        sizes, taken_s = _timed(
            lambda: [_write(path, codes, header, model) for path, codes in zip(paths, clips, strict=True)]
        )
        layers = sum(sizes)
        took["encode"].append(taken_s)
        back, taken_s = _timed(lambda: [_read(path, model) for path in paths])
        took["decode"].append(taken_s)
        assert all(bool((a == b).all()) for a, b in zip(back, clips, strict=True))
    size = sum(path.stat().st_size for path in paths)
    frames = round(hour_s * header.frame_rate)
    joined = torch.cat([*clips], dim=1)
    _write(folder / "hour.atok", joined.repeat(1, -(-frames // joined.shape[1]))[:, :frames], header, model)
    file, opening_s = _timed(lambda: AtokReader(folder / "hour.atok", model))
    with file:
        places = np.random.default_rng(0).uniform(0, hour_s - 1, seeks).tolist()
        each_ms = [1000 * _timed(lambda at=at: file.read(at, at + 1.0))[1] for at in places]
    return {
        "clips": len(clips),
        "seconds": seconds,
        "coding": CODINGS[header.coding],
        "saved": 1 - 8 * size / (seconds * header.bitrate_bps),
        "framing": 1 - layers / size,
        **{name: seconds / statistics.median(values) for name, values in took.items()},
        "seek_ms": {"open": 1000 * opening_s, "median": statistics.median(each_ms), "worst": max(each_ms)},
    }


def _timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """The result and its CPU seconds."""
    began = time.process_time()
    result = work()
    return result, max(time.process_time() - began, 1e-9)


def _write(path: Path, codes: Tensor, header: Any, model: Any) -> int:
    """Write a file; bytes of its layers."""
    with path.open("wb") as file:
        writer = AtokWriter(file, header, model)
        writer.write(codes)
        writer.close(num_samples=codes.shape[1] * header.hop_length)
        return writer.layer_bytes


def _read(path: Path, model: Any) -> Tensor:
    with AtokReader(path, model) as file:
        return file.read().codes
