"""``audiotok bench``: how fast the codec is on this machine, beside other codecs timed in the same run.

Knows nothing of quality. The law it keeps: the codecs take turns, so that whatever else the machine does
meanwhile falls on all of them; medians are reported, and the threads they ran on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
    import torch

    from ..codec.model import AudioCodec

_RIVALS = ("encodec", "mimi", "dac")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb ``bench``."""
    parser = subparsers.add_parser(
        "bench",
        help="time encode, decode and one streaming step",
        allow_abbrev=False,
        description="Seconds of audio per second of work: encode and decode, medians of repeats in turns.",
    )
    add_codec_option(parser)
    parser.add_argument(
        "--against", type=_names, default=(), metavar="NAMES",
        help=f"time transformers' codecs too, random weights: {','.join(_RIVALS)}, joined by commas",
    )  # fmt: skip
    parser.add_argument(
        "--seconds",
        type=number(float, 0.1, 3600),
        default=10.0,
        help="length of the test sound (default: %(default)s)",
    )
    parser.add_argument(
        "--threads",
        type=number(int, 1, 1024),
        default=1,
        help="threads torch may use (default: %(default)s)",
    )
    parser.add_argument(
        "--repeats",
        type=number(int, 1),
        default=5,
        help="timed repeats, after one untimed (default: %(default)s)",
    )
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="print JSON instead of the table, or write it to FILE too"
    )  # fmt: skip
    add_model_options(parser)
    add_overwrite_option(parser, "what --json names")


def run(args: argparse.Namespace) -> int:
    """Time, print the table, write the JSON."""
    import torch

    from ..machine import threads

    check_reports([args.json], args.overwrite)
    with threads(args.threads):
        codec = load_chosen_codec(args.codec, args)
        report = measure(codec, args.against, seconds=args.seconds, repeats=args.repeats)
    report["machine"] = {
        "device": str(codec.device), "dtype": args.dtype, "threads": args.threads, "cores": os.cpu_count(),
        "processor": _processor(), "torch": torch.__version__,
    }  # fmt: skip
    if args.json == "-":
        print(json.dumps(report))
        return 0
    print_table(report)
    if args.json:
        write_report(args.json, report)
    return 0


def measure(
    codec: AudioCodec, against: Sequence[str] = (), seconds: float = 10.0, repeats: int = 5
) -> dict[str, Any]:
    """Time a codec, and others in turns with it.

    Args:
        codec: in eval mode, on its device.
        against: names out of "encodec", "mimi", "dac".
        seconds: length of the test sound, noise at -20 dB.
        repeats: timed repeats; one more goes before them, untimed.

    Returns:
        "rows": for each codec name, parameters, "encode_times_real_time", "decode_times_real_time" (seconds of audio
        per second of work, by the median) and the repeats themselves, "encode_s" and "decode_s"; "ratio": for each
        rival our speed over its own, "encode" and "decode"; "streaming_step_ms": medians "encode", "decode" and
        "both", None for a codec that cannot stream; "algorithmic_latency_ms", "frame_ms", "seconds", "repeats".
    """
    import torch

    from .rivals import build_rival

    # Not under inference_mode: folding weight norm there leaves weights that are no parameters any more.
    rivals = [build_rival(name) for name in against]
    with torch.inference_mode():
        tasks = {"audiotok": _own_tasks(codec, seconds)}
        sizes = {"audiotok": codec.num_parameters()}
        for rival in rivals:
            rival.model.to(codec.device)
            wav = _noise(seconds, rival.sampling_rate).to(codec.device)
            tasks[rival.label] = _tasks(rival.encode, rival.decode, wav)
            sizes[rival.label] = sum(weight.numel() for weight in rival.model.parameters())
        times: dict[str, dict[str, list[float]]] = {name: {"encode": [], "decode": []} for name in tasks}
        for turn in range(repeats + 1):
            for name, pair in tasks.items():
                for verb, task in pair.items():
                    taken_s = _timed(task, codec.device)
                    if turn:
                        times[name][verb].append(taken_s)
        step = _streaming_step_ms(codec)
    rows = [
        {
            "name": name,
            "parameters": sizes[name],
            **{f"{verb}_times_real_time": seconds / statistics.median(taken) for verb, taken in pair.items()},
            **{f"{verb}_s": taken for verb, taken in pair.items()},
        }
        for name, pair in times.items()
    ]
    verbs = ("encode", "decode")
    return {
        "seconds": seconds,
        "repeats": repeats,
        "rows": rows,
        "ratio": {
            row["name"]: {
                verb: rows[0][f"{verb}_times_real_time"] / row[f"{verb}_times_real_time"] for verb in verbs
            }
            for row in rows[1:]
        },
        "streaming_step_ms": step,
        "algorithmic_latency_ms": codec.algorithmic_latency_ms,
        "frame_ms": 1000.0 / codec.config.frame_rate,
    }


def print_table(report: dict[str, Any]) -> None:
    """Print a report of :func:`measure`, with the machine it ran on, on stdout."""
    machine = report["machine"]
    print(
        f"{report['seconds']:g} s of sound, median of {report['repeats']} in turns; {machine['device']}, "
        f"{machine['threads']} thread(s) of {machine['cores']}, {machine['processor']}, torch {machine['torch']}"
    )
    print(f"{'x real time':<24}{'parameters':>12}{'encode':>10}{'decode':>10}   ours is faster by")
    for row in report["rows"]:
        ratio = report["ratio"].get(row["name"])
        print(
            f"{row['name']:<24}{row['parameters'] / 1e6:>10.1f} M{row['encode_times_real_time']:>9.1f}x"
            f"{row['decode_times_real_time']:>9.1f}x"
            + (f"   {ratio['encode']:.1f}x, {ratio['decode']:.1f}x" if ratio else "")
        )
    step = report["streaming_step_ms"]
    if step:
        print(
            f"one streaming step of {report['frame_ms']:g} ms: encode {step['encode']:.2f} ms, "
            f"decode {step['decode']:.2f} ms, both {step['both']:.2f} ms (medians)"
        )
    latency = report["algorithmic_latency_ms"]
    print("algorithmic latency: all of a sound" if latency is None else f"algorithmic latency {latency:g} ms")


def _names(text: str) -> tuple[str, ...]:
    """``encodec,mimi`` -> its parts, each once."""
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if wrong := [name for name in names if name not in _RIVALS]:
        raise argparse.ArgumentTypeError(
            f"expected names out of {','.join(_RIVALS)}, joined by commas, got {wrong[0]!r}"
        )
    return names


def _processor() -> str:
    """The processor's name, as far as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _own_tasks(codec: AudioCodec, seconds: float) -> dict[str, Callable[[], object]]:
    wav = _noise(seconds, codec.config.sampling_rate).to(codec.device)
    return _tasks(
        lambda wav: codec.encode(wav).audio_codes,
        lambda codes: codec.decode(codes, num_samples=wav.shape[-1]),
        wav,
    )


def _tasks(
    encode: Callable[[torch.Tensor], Any], decode: Callable[[Any], object], wav: torch.Tensor
) -> dict[str, Callable[[], object]]:
    codes = encode(wav)
    return {"encode": lambda: encode(wav), "decode": lambda: decode(codes)}


def _noise(seconds: float, sampling_rate: int) -> torch.Tensor:
    import torch

    return 0.1 * torch.randn(1, 1, round(seconds * sampling_rate), generator=torch.Generator().manual_seed(0))


def _timed(task: Callable[[], object], device: torch.device) -> float:
    import torch

    start = time.perf_counter()
    task()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _streaming_step_ms(codec: AudioCodec, steps: int = 100, warm_up: int = 10) -> dict[str, float] | None:
    """Median milliseconds of one frame through live sessions; None for a codec that cannot stream."""
    if not codec.streams:
        return None
    encoder, decoder = codec.streaming_encoder(), codec.streaming_decoder()
    hop = codec.config.hop_length
    wav = _noise((steps + warm_up) * hop / codec.config.sampling_rate, codec.config.sampling_rate)
    wav = wav.to(codec.device)
    times: dict[str, list[float]] = {"encode": [], "decode": [], "both": []}
    for step in range(steps + warm_up):
        codes: list[Any] = []
        chunk = wav[..., step * hop : (step + 1) * hop]
        encode_s = _timed(lambda chunk=chunk, codes=codes: codes.append(encoder.push(chunk)), codec.device)
        decode_s = _timed(lambda codes=codes: decoder.push(codes[0]), codec.device)
        if step >= warm_up:
            for name, taken_s in (("encode", encode_s), ("decode", decode_s), ("both", encode_s + decode_s)):
                times[name].append(1000 * taken_s)
    return {name: statistics.median(values) for name, values in times.items()}
