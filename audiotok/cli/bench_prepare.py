"""``audiotok bench-prepare``: how fast preparation is, beside the codec alone and beside ``datasets.map``.

Knows nothing of quality. The law it keeps: the three take turns in one run, on the same clips and the same number of
cores, and all of a preparation counts: starting its workers, reading, checking, encoding, writing.
"""

from __future__ import annotations

import argparse
import copy
import os
import pickle
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .common import (
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
    from ..codec.model import AudioCodec
    from ..corpus import Progress, Source, SourceRow

_PURE_S = 5.0  # time that the codec alone is given in each turn
_READ_CLIPS = 200  # that each process reads in each turn


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "bench-prepare",
        help="time preparation, beside the codec alone and datasets.map",
        allow_abbrev=False,
        description=(
            "Seconds of audio per second: `audiotok prepare` from start to end; the codec on equal-length batches held "
            "in memory, in as many processes; reading the clips alone, likewise; and datasets.map over one "
            "clip at a time with transformers' EncodecModel."
        ),
    )
    parser.add_argument("source", metavar="SOURCE", help="what audiotok prepare takes; its sound in files")
    parser.add_argument(
        "--clips", type=number(int, 1), default=2000, metavar="N", help="clips of 1 to 15 s (default 2000)"
    )
    parser.add_argument(
        "--rival-clips",
        type=number(int, 0),
        default=40,
        metavar="N",
        help="of these for datasets.map (default 40)",
    )
    parser.add_argument(
        "--workers",
        type=number(int, 1, 1024),
        default=os.cpu_count() or 1,
        metavar="N",
        help="default: all cores",
    )
    parser.add_argument(
        "--batch-s", type=number(float, above=0), default=64.0, metavar="S", help="default 64 s"
    )
    parser.add_argument(
        "--turns", type=number(int, 1), default=3, metavar="N", help="medians of so many (default 3)"
    )
    parser.add_argument(
        "--flac",
        action="store_true",
        help="store the clips as FLAC first, as most corpora are (default: as they are)",
    )
    add_report_option(parser)
    add_codec_option(parser)
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Time, print the table, write the JSON."""
    from ..corpus import open_source

    check_reports([args.json], args.overwrite)
    codec = load_chosen_codec(args.codec, args)
    # Not a stream: none was asked for.
    chosen = _Chosen(cast("Source", open_source(args.source)), args.clips)
    with tempfile.TemporaryDirectory() as folder:
        if args.flac:
            chosen.store_as_flac(Path(folder))
        figures = measure(codec, chosen, args.workers, args.batch_s, args.turns, args.rival_clips)
    _print(figures)
    if args.json:
        write_report(args.json, figures)
    return 0


def measure(
    codec: AudioCodec, source: _Chosen, workers: int, batch_s: float, turns: int, rival_clips: int
) -> dict[str, Any]:
    """Time the three in turns.

    Args:
        codec: in eval mode, on its device.
        source: the clips.
        workers: processes.
        batch_s: padded seconds of a batch.
        turns: repeats.
        rival_clips: of the clips, for ``datasets.map``; 0 leaves it out.

    Returns:
        "clips", "hours", "workers", "load": before each turn; "times_real_time": for "codec alone", "reading alone",
        "prepare" and "datasets.map" the rate in each turn; "prepare_running": the rate of prepare without starting and
        ending; "share": of prepare in codec alone, by medians; "most": the share that is left if nothing but the codec
        and reading took time; "faster": of prepare over datasets.map.
    """
    rates: dict[str, list[float]] = {
        "codec alone": [],
        "reading alone": [],
        "prepare": [],
        "prepare_running": [],
        "datasets.map": [],
    }
    load = []
    for _ in range(turns):
        load.append(os.getloadavg()[0])
        rates["codec alone"].append(_pure_rate(codec, source.median_s, workers, batch_s))
        rates["reading alone"].append(_reading_rate(source, workers))
        whole, running = _prepare_rate(codec, source, workers, batch_s)
        rates["prepare"].append(whole)
        rates["prepare_running"].append(running)
        if rival_clips:
            rates["datasets.map"].append(_map_rate(source, rival_clips, workers))
    running_rates = rates.pop("prepare_running")
    median = {name: statistics.median(values) for name, values in rates.items() if values}
    rival = median.get("datasets.map")
    return {
        "clips": len(source),
        "hours": source.seconds / 3600,
        "workers": workers,
        "batch_s": batch_s,
        "load": load,
        "times_real_time": rates,
        "prepare_running": running_rates,
        "share": median["prepare"] / median["codec alone"],
        "most": 1 / (1 + median["codec alone"] / median["reading alone"]),
        "share_running": statistics.median(running_rates) / median["codec alone"],
        "faster": median["prepare"] / rival if rival else None,
    }


class PureServer:
    """Encodes batches that it holds in memory, and tells how fast.

    Args:
        codec: pickled.
        device: where to encode.
        seconds: length of every clip of a batch.
        batch_s: seconds of a batch.
    """

    def __init__(self, codec: bytes, device: str, seconds: float, batch_s: float) -> None:
        import torch

        self.codec = pickle.loads(codec).to(device).eval()
        samples = round(seconds * self.codec.config.sampling_rate)
        shape = (max(1, int(batch_s / seconds)), 1, samples)
        self.wav = 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
        self.batch_s = shape[0] * seconds

    def encode(self, for_s: list[float]) -> float:
        """Seconds of audio per second, over so many seconds of encoding."""
        self.codec.encode(self.wav)
        began, batches = time.perf_counter(), 0
        while time.perf_counter() - began < for_s[0]:
            self.codec.encode(self.wav).audio_codes.cpu()
            batches += 1
        return batches * self.batch_s / (time.perf_counter() - began)


class _Chosen:
    """Clips of 1 to 15 s, evenly drawn from a source whose sound lies in files."""

    def __init__(self, source: Source, most: int) -> None:
        from ..corpus.checks import Header, Limits, inspect

        limits = Limits(min_s=1.0, max_s=15.0, need_text=False)
        headers = [header for row in source if isinstance(header := inspect(row, limits), Header)]
        if not headers:
            raise ValueError(f"{source.describe}: expected clips of 1 to 15 s, got none")
        step = max(1, len(headers) // most)
        headers = headers[::step][:most]
        self.describe = source.describe
        self.seconds = sum(header.seconds for header in headers)
        self.median_s = statistics.median(header.seconds for header in headers)
        self._source = source
        self._numbers = [header.row for header in headers]
        self._stored: Path | None = None

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[SourceRow]:
        return iter(self.take(range(len(self))))

    def take(self, indices: Sequence[int]) -> list[SourceRow]:
        """The clips with these numbers, renumbered."""
        from dataclasses import replace

        rows = self._source.take([self._numbers[index] for index in indices])
        rows = [replace(row, index=index) for index, row in zip(indices, rows, strict=True)]
        if self._stored is not None:
            rows = [replace(row, audio=self._stored / f"{row.index}.flac", span=None) for row in rows]
        return rows

    def store_as_flac(self, folder: Path) -> None:
        """Give the clips as FLAC files of 16 bits from now on, at their own rate.

        Args:
            folder: for the files; must stay.
        """
        import soundfile

        from ..corpus import Limits, Shaping
        from ..corpus.checks import Drop, decode

        limits = Limits(need_text=False, max_clipped=1.0)
        for row in self:
            sound = decode(row, limits, None, Shaping())
            if isinstance(sound, Drop):
                raise ValueError(
                    f"{row.id}: expected a clip that can be read, got {sound.reason} {sound.detail}"
                )
            soundfile.write(folder / f"{row.index}.flac", sound.wav[0].numpy(), sound.sampling_rate, "PCM_16")
        self._stored = folder

    def listing(self) -> Iterator[list[tuple[object, ...]]]:
        """Ids of the clips."""
        yield [(row.id,) for row in self]


def _pure_rate(codec: AudioCodec, seconds: float, workers: int, batch_s: float) -> float:
    """The codec alone in ``workers`` processes at once: their rates added up."""
    from ..corpus.pool import Pool

    pickled = pickle.dumps(copy.deepcopy(codec).cpu())
    with Pool(PureServer, (pickled, str(codec.device), seconds, batch_s), workers) as pool:
        for call in [pool.submit("encode", [0.5]) for _ in range(2 * workers)]:
            pool.result(call)  # all processes are up when they are timed
        return sum(pool.result(call) for call in [pool.submit("encode", [_PURE_S]) for _ in range(workers)])


def _reading_rate(source: _Chosen, workers: int) -> float:
    """Reading, checking and shaping of some of the clips in ``workers`` processes at once, without a codec."""
    from ..corpus import Limits, Shaping
    from ..corpus.pool import Pool
    from ..corpus.server import RowServer, Task

    task = Task(Limits(need_text=False, max_clipped=1.0), Shaping(), None, "cpu", 0)
    step = max(1, len(source) // (_READ_CLIPS * workers))
    chosen = source.take(range(0, len(source), step))
    with Pool(RowServer, (task,), workers) as pool:
        for call in [pool.submit("encode", chosen[:1]) for _ in range(2 * workers)]:
            pool.result(call)  # all processes are up when they are timed
        began = time.perf_counter()
        calls = [pool.submit("encode", chosen[at::workers]) for at in range(workers)]
        rows = [row for call in calls for row in pool.result(call)]
        return sum(row["seconds"] for row in rows) / (time.perf_counter() - began)


def _prepare_rate(codec: AudioCodec, source: _Chosen, workers: int, batch_s: float) -> tuple[float, float]:
    """All of a preparation, and its middle: from the first batch to the last."""
    from ..corpus import Limits, prepare

    seen: list[tuple[float, float]] = []

    def watch(progress: Progress) -> None:
        if progress.seconds:
            seen.append((time.perf_counter(), progress.seconds))

    limits = Limits(need_text=False, max_clipped=1.0)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        manifest = prepare(
            source,
            Path(folder) / "out",
            codec,
            limits=limits,
            workers=workers,
            batch_s=batch_s,
            progress=watch,
        )
        whole_s = time.perf_counter() - began
    (first, before), (last, after) = seen[0], seen[-1]
    return manifest.hours * 3600 / whole_s, (after - before) / max(last - first, 1e-9)


def _map_rate(source: _Chosen, clips: int, threads: int) -> float:
    """``datasets.map`` over one clip at a time, EncodecModel on as many threads as there are workers."""
    import datasets
    import soundfile
    import torch

    from ..audio import resample
    from ..machine import threads as running_on
    from .rivals import encodec

    rival = encodec()
    paths = [str(row.audio) for row in source.take(range(min(clips, len(source))))]
    seconds = sum(soundfile.info(path).duration for path in paths)

    def encode(row: dict[str, Any]) -> dict[str, Any]:
        samples, rate = soundfile.read(row["audio"], dtype="float32", always_2d=True)
        wav = resample(torch.from_numpy(samples.mean(axis=1))[None], rate, rival.sampling_rate)
        with torch.inference_mode():
            return {"codes": rival.encode(wav[None]).audio_codes[0, 0].numpy()}

    dataset = datasets.Dataset.from_dict({"audio": paths})
    datasets.disable_progress_bars()
    with running_on(threads):
        encode(dataset[0])
        began = time.perf_counter()
        dataset.map(encode, keep_in_memory=True, load_from_cache_file=False, new_fingerprint="bench")
        return seconds / (time.perf_counter() - began)


def _print(figures: dict[str, Any]) -> None:
    print(
        f"{figures['clips']} clips, {duration(figures['hours'])}, {figures['workers']} workers, load before the turns "
        + ", ".join(f"{load:.1f}" for load in figures["load"])
    )
    print(f"{'x real time':<16}{'median':>9}   turns")
    for name, rates in figures["times_real_time"].items():
        if rates:
            turns = "  ".join(f"{rate:.1f}" for rate in rates)
            print(f"{name:<16}{statistics.median(rates):>9.1f}   {turns}")
    print(
        f"prepare reaches {figures['share']:.0%} of the codec alone "
        f"({figures['share_running']:.0%} while it runs, without starting and ending)"
    )
    print(f"as reading takes time of the same cores, {figures['most']:.0%} is the most there could be")
    if figures["faster"]:
        print(f"prepare is {figures['faster']:.1f}x as fast as datasets.map over one clip at a time")
