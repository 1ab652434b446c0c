"""Speed of the codec on this machine compared with other codecs, which are timed alternately."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers import DacConfig, DacModel, EncodecConfig, EncodecModel, MimiConfig, MimiModel

from audiotok.cli.common import (
    add_codec_option,
    add_model_options,
    add_overwrite_option,
    check_reports,
    load_chosen_codec,
    number,
    write_report,
)
from audiotok.machine import threads

BASELINES: dict[str, tuple[str, int, Callable[[], Any], dict[str, Any]]] = {
    "encodec": ("encodec 24 kHz 6 kbps", 24_000, lambda: EncodecModel(EncodecConfig()), {"bandwidth": 6.0}),
    "mimi": ("mimi 24 kHz 1.1 kbps", 24_000, lambda: MimiModel(MimiConfig()), {"num_quantizers": 8}),
    "dac": (
        "dac 16 kHz 6 kbps",
        16_000,
        lambda: DacModel(DacConfig(downsampling_ratios=[2, 4, 5, 8], n_codebooks=12)),
        {},
    ),
}
"""Name -> label, sampling rate, model with random weights, and arguments of its ``encode``."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the description and the options."""
    parser.description = (
        "Seconds of audio per second of work: encode and decode, medians of repeats in turns."
    )
    add_codec_option(parser)
    parser.add_argument(
        "--against", nargs="+", default=(), choices=tuple(BASELINES),
        help="transformers' codecs with random weights",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=number(float, 0.1, 3600), default=10.0, help="of noise (default: 10)"
    )
    parser.add_argument("--threads", type=number(int, 1, 1024), default=1, help="of torch (default: 1)")
    parser.add_argument("--repeats", type=number(int, 1), default=5, help="after one untimed (default: 5)")
    parser.add_argument(
        "--json", nargs="?", const="-", metavar="FILE", help="print JSON, or write it to FILE too"
    )
    add_model_options(parser)
    add_overwrite_option(parser, "what --json names")


def run(args: argparse.Namespace) -> int:
    """Time, print the table, write the JSON."""
    check_reports([args.json], args.overwrite)
    with threads(args.threads):
        codec = load_chosen_codec(args.codec, args)
        report = measure(codec, args.against, seconds=args.seconds, repeats=args.repeats)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    report["machine"] = {
        "device": str(codec.device), "dtype": args.dtype, "threads": args.threads, "cores": os.cpu_count(),
        "processor": names[0] if names else platform.machine(), "torch": torch.__version__,
    }  # fmt: skip
    if args.json == "-":
        print(json.dumps(report))
        return 0
    print_table(report)
    if args.json:
        write_report(args.json, report)
    return 0


@torch.inference_mode()
def measure(
    codec: Any, against: Sequence[str] = (), seconds: float = 10.0, repeats: int = 5
) -> dict[str, Any]:
    """Time a codec in turns with those of ``against``, on noise, with medians of ``repeats`` after one untimed.

    "encode" and "decode" are in times real time. "streaming_step_ms" is None for a codec that does not stream.
    """
    wav = _noise(seconds, codec.config.sampling_rate).to(codec.device)
    codes = codec.encode(wav).audio_codes
    models = {"audiotok": codec}
    tasks: dict[tuple[str, str], Callable[[], object]] = {
        ("audiotok", "encode"): lambda: codec.encode(wav),
        ("audiotok", "decode"): lambda: codec.decode(codes, num_samples=wav.shape[-1]),
    }
    for name in against:
        label, rate, build, options = BASELINES[name]
        with torch.inference_mode(False):  # where inference tensors would not be parameters
            model = models[label] = _ready(build()).to(codec.device)
        noise = _noise(seconds, rate).to(codec.device)
        out = model.encode(noise, **options)
        scales = {"audio_scales": out.audio_scales} if name == "encodec" else {}
        tasks[label, "encode"] = lambda model=model, noise=noise, o=options: model.encode(noise, **o)
        tasks[label, "decode"] = lambda model=model, codes=out.audio_codes, s=scales: model.decode(
            audio_codes=codes, **s
        )
    times: dict[tuple[str, str], list[float]] = {key: [] for key in tasks}
    for _ in range(repeats + 1):
        for key, task in tasks.items():
            times[key].append(_timed(task, codec.device))
    speeds = {key: seconds / statistics.median(each[1:]) for key, each in times.items()}
    rows = [
        {
            "name": name,
            "parameters": sum(weight.numel() for weight in model.parameters()),
            "encode": speeds[name, "encode"],
            "decode": speeds[name, "decode"],
        }
        for name, model in models.items()
    ]
    return {
        "seconds": seconds,
        "repeats": repeats,
        "rows": rows,
        "streaming_step_ms": _streaming_step_ms(codec) if codec.streams else None,
        "algorithmic_latency_ms": codec.algorithmic_latency_ms,
        "frame_ms": 1000.0 / codec.config.frame_rate,
    }


def print_table(report: dict[str, Any]) -> None:
    """Print a report of :func:`measure` with the machine it ran on."""
    machine = report["machine"]
    print(
        f"{report['seconds']:g} s of noise, median of {report['repeats']} in turns; {machine['device']}, "
        f"{machine['threads']} thread(s) of {machine['cores']}, {machine['processor']}, torch {machine['torch']}"
    )
    print(f"{'times real time':<24}{'parameters':>12}{'encode':>10}{'decode':>10}")
    for row in report["rows"]:
        size = f"{row['parameters'] / 1e6:.1f} M"
        print(f"{row['name']:<24}{size:>12}{row['encode']:>9.1f}x{row['decode']:>9.1f}x")
    if step := report["streaming_step_ms"]:
        print(
            f"one streaming step of {report['frame_ms']:g} ms: encode {step['encode']:.2f} ms, decode "
            f"{step['decode']:.2f} ms (medians); algorithmic latency {report['algorithmic_latency_ms']:g} ms"
        )


def _ready(model: nn.Module) -> Any:
    """In eval mode, codebooks filled (they are zeros without a checkpoint), weight norm folded into the weights."""
    for name, buffer in model.named_buffers():
        if name.endswith(("codebook.embed", "codebook.embed_sum")):
            buffer.normal_()
    for module in model.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
    return model.eval()


def _noise(seconds: float, sampling_rate: int) -> Tensor:
    return 0.1 * torch.randn(1, 1, round(seconds * sampling_rate), generator=torch.Generator().manual_seed(0))


def _timed(task: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    task()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _streaming_step_ms(codec: Any, steps: int = 100, warm_up: int = 10) -> dict[str, float]:
    """Median milliseconds of one frame in streaming sessions."""
    encoder, decoder = codec.streaming_encoder(), codec.streaming_decoder()
    hop = codec.config.hop_length
    wav = _noise((steps + warm_up) * hop / codec.config.sampling_rate, codec.config.sampling_rate)
    times: dict[str, list[float]] = {"encode": [], "decode": []}
    for chunk in wav.to(codec.device).split(hop, dim=-1):
        codes: list[Any] = []
        times["encode"].append(_timed(lambda c=chunk, out=codes: out.append(encoder.push(c)), codec.device))
        times["decode"].append(_timed(lambda out=codes: decoder.push(out[0]), codec.device))
    return {name: 1000 * statistics.median(values[warm_up:]) for name, values in times.items()}
