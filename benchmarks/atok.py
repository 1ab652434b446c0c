"""``audiotok bench-atok``: how small ``.atok`` files of a corpus are, how fast they are coded, and how fast one seeks.

Knows nothing of quality. The law it keeps: the codes are those of recorded clips, one thread does the work, and all of
it counts: model, coder, checksums, file. Seconds of work are told beside seconds passed: on a busy machine they part.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .common import (
    add_codec_option,
    add_model_options,
    add_report_option,
    check_reports,
    load_chosen_codec,
    number,
    write_report,
)

if TYPE_CHECKING:
    from torch import Tensor

    from ..bitstream import AtokHeader, EntropyModel
    from ..codec.model import AudioCodec
    from ..corpus import Source

_HOUR_S = 3600.0


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "bench-atok",
        help="size of .atok files, speed of coding and seeking",
        allow_abbrev=False,
        description=(
            "Code clips of a corpus into .atok files and back on one thread, then seek in an hour of them: bytes "
            "saved, seconds of audio per second, milliseconds and bytes read until a second of codes is there."
        ),
    )
    parser.add_argument("source", metavar="SOURCE", help="what audiotok prepare takes")
    parser.add_argument("--split", metavar="A,B", help="only rows of these splits (default: all)")
    parser.add_argument(
        "--clips", type=number(int, 1), default=40, metavar="N", help="clips, evenly drawn (default 40)"
    )
    parser.add_argument(
        "--seconds", type=number(float, 0.5, 30), default=10.0, metavar="S",
        help="of each; shorter clips are left out (default 10)",
    )  # fmt: skip
    parser.add_argument(
        "--turns", type=number(int, 1), default=3, metavar="N", help="medians of so many (default 3)"
    )
    parser.add_argument(
        "--seeks", type=number(int, 1), default=50, metavar="N", help="places in the hour (default 50)"
    )
    add_report_option(parser)
    add_codec_option(parser)
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Measure, print the table, write the JSON."""
    from ..corpus import open_source
    from ..machine import threads
    from .atok import model_of, new_header

    check_reports([args.json], args.overwrite)
    codec = load_chosen_codec(args.codec, args)
    model = model_of(codec, codec.codes_fingerprint)
    header = new_header(codec.config, codec.codes_fingerprint, codec.config.n_q, model)
    # Not a stream: none was asked for.
    source = cast("Source", open_source(args.source, split=args.split))
    with threads(1), tempfile.TemporaryDirectory() as folder:
        clips = list(_codes(codec, source, args.clips, args.seconds))
        figures = measure(clips, header, model, Path(folder), args.turns, args.seeks)
    _print(figures)
    if args.json:
        write_report(args.json, figures)
    return 0


def measure(
    clips: Sequence[Tensor],
    header: AtokHeader,
    model: EntropyModel | None,
    folder: Path,
    turns: int,
    seeks: int,
    hour_s: float = _HOUR_S,
) -> dict[str, Any]:
    """Code clips, decode them, and seek in an hour of them.

    Args:
        clips: codes [K, T] int64, of one codec, without scales.
        header: for them.
        model: for LEARNT coding.
        folder: for the files; empty.
        turns: repeats.
        seeks: places.
        hour_s: length of the file to seek in.

    Returns:
        "clips", "seconds", "coding"; "saved": share of the raw bits that the files do without, everything counted;
        "framing": share of the files that is not layers; "encode" and "decode": seconds of audio per second, by
        "clock" and by "work"; "seek": milliseconds, of "open", "first" and the "median" and "worst" of the others, and
        "read": most bytes read for one, opening included.
    """
    from ..bitstream import AtokReader
    from ..bitstream.format import CODINGS

    seconds = sum(codes.shape[1] for codes in clips) / header.frame_rate
    rates: dict[str, list[_Took]] = {"encode": [], "decode": []}
    layers = 0
    for _ in range(turns):
        sizes, took = _timed(
            lambda: [_write(folder / f"{i}.atok", codes, header, model) for i, codes in enumerate(clips)]
        )
        layers = sum(sizes)
        rates["encode"].append(took)

        def read_all() -> list[Tensor]:
            found = []
            for i in range(len(clips)):
                with AtokReader(folder / f"{i}.atok", model) as file:
                    found.append(file.read().codes)
            return found

        back, took = _timed(read_all)
        rates["decode"].append(took)
        assert all(bool((a == b).all()) for a, b in zip(back, clips, strict=True))
    size = sum((folder / f"{i}.atok").stat().st_size for i in range(len(clips)))
    return {
        "clips": len(clips),
        "seconds": seconds,
        "coding": CODINGS[header.coding],
        "saved": 1 - 8 * size / (seconds * header.bitrate_bps),
        "framing": 1 - layers / size,
        **{
            name: {
                "clock": seconds / statistics.median(took.clock_s for took in all_took),
                "work": seconds / statistics.median(took.work_s for took in all_took),
            }
            for name, all_took in rates.items()
        },
        "seek": _seek(folder / "hour.atok", clips, header, model, seeks, hour_s),
    }


class _Took:
    """What something took: seconds passed, and seconds that a processor worked for this process."""

    def __init__(self, clock_s: float, work_s: float) -> None:
        self.clock_s, self.work_s = clock_s, work_s


def _timed(work: Callable[[], Any]) -> tuple[Any, _Took]:
    clock, worked = time.perf_counter(), time.process_time()
    result = work()
    return result, _Took(time.perf_counter() - clock, time.process_time() - worked)


def _write(path: Path, codes: Tensor, header: AtokHeader, model: EntropyModel | None) -> int:
    """Write a file; bytes of its layers."""
    from ..bitstream import AtokWriter

    with path.open("wb") as file:
        writer = AtokWriter(file, header, model)
        writer.write(codes)
        writer.close(num_samples=codes.shape[1] * header.hop_length)
        return writer.layer_bytes


def _seek(
    path: Path,
    clips: Sequence[Tensor],
    header: AtokHeader,
    model: EntropyModel | None,
    seeks: int,
    hour_s: float,
) -> dict[str, Any]:
    """Read single seconds of an hour of the clips, again and again."""
    import numpy as np
    import torch

    from ..bitstream import AtokReader, EntropyModel

    frames = round(hour_s * header.frame_rate)
    joined = torch.cat([*clips], dim=1)
    _write(path, joined.repeat(1, -(-frames // joined.shape[1]))[:, :frames], header, model)
    fresh, loading = None, None
    if model is not None:
        stored = path.with_name("model.safetensors")
        model.save(stored)
        fresh, loading = _timed(lambda: EntropyModel.load(stored))
    places = np.random.default_rng(0).uniform(0, hour_s - 1, seeks + 1).tolist()
    file, opening = _timed(lambda: AtokReader(path, fresh))
    with file:
        took = [_timed(lambda at=at: file.read(at, at + 1.0))[1] for at in places]
    each = [(1000 * t.clock_s, 1000 * t.work_s) for t in took]
    result: dict[str, Any] = {"read": max(_bytes_read(path, fresh, at) for at in places)}
    for i, name in enumerate(("clock", "work")):
        later = [ms[i] for ms in each[1:]]
        result[name] = {
            "open": 1000 * (opening.clock_s, opening.work_s)[i],
            "first": each[0][i],
            "median": statistics.median(later),
            "worst": max(later),
        }
        if loading is not None:
            result[name]["model"] = 1000 * (loading.clock_s, loading.work_s)[i]
    return result


def _bytes_read(path: Path, model: EntropyModel | None, at: float) -> int:
    """Bytes read until a second of codes is there, opening included; 0 where the system does not tell (not Linux)."""
    from ..bitstream import AtokReader

    before = _bytes_so_far()
    with AtokReader(path, model) as file:
        file.read(at, at + 1.0)
    # What looking costs, a hundred bytes, is counted once.
    return _bytes_so_far() - before


def _bytes_so_far() -> int:
    told = Path("/proc/self/io")
    if not told.is_file():
        return 0
    return int(told.read_text().split("rchar:")[1].split()[0])


def _codes(codec: AudioCodec, source: Source, most: int, seconds: float) -> Iterator[Tensor]:
    """Codes [K, T] of the first ``seconds`` of clips that are as long, evenly drawn.

    Raises:
        ValueError: none is as long.
    """
    from ..corpus import Limits, Shaping
    from ..corpus.checks import Drop, decode, inspect

    limits = Limits(min_s=seconds, need_text=False, max_clipped=1.0)
    numbers = [row.index for row in source if isinstance(s := inspect(row, limits), float) and s >= seconds]
    if not numbers:
        raise ValueError(f"{source.describe}: expected clips of at least {seconds:g} s, got none")
    rate = codec.config.sampling_rate
    for row in source.take(numbers[:: max(1, len(numbers) // most)][:most]):
        sound = decode(row, limits, rate, Shaping())
        if isinstance(sound, Drop):
            continue
        wav = sound.wav[None, :, : round(seconds * rate)]
        codes = codec.encode(wav.expand(-1, codec.config.audio_channels, -1)).audio_codes
        assert codes is not None
        yield codes[0]


def _print(figures: dict[str, Any]) -> None:
    print(f"{figures['clips']} clips, {figures['seconds']:.0f} s, {figures['coding']} coding, one thread")
    print(
        f"saved {figures['saved']:.1%} of the raw bits, everything counted; framing is {figures['framing']:.1%}"
    )
    print(f"{'':<28}{'clock':>9}{'work':>9}")
    for name in ("encode", "decode"):
        print(f"{name + ', x real time':<28}{figures[name]['clock']:>9.1f}{figures[name]['work']:>9.1f}")
    seek = figures["seek"]
    shown = {
        "model": "load the model, ms",
        "open": "open an hour, ms",
        "first": "first second read, ms",
        "median": "a second anywhere, ms",
        "worst": "the slowest of these, ms",
    }
    for name, words in shown.items():
        if name in seek["clock"]:
            print(f"{words:<28}{seek['clock'][name]:>9.1f}{seek['work'][name]:>9.1f}")
    print(f"read of the file for it: at most {seek['read'] / 1024:.1f} KiB, opening included")
