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

Tasks = dict[str, Callable[[], object]]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "codec",
        help="speed of encoding, decoding and one streaming step",
        allow_abbrev=False,
        description="Seconds of audio per second of work: encode and decode, medians of repeats in turns.",
    )
    add_codec_option(parser)
    parser.add_argument(
        "--against",
        nargs="+",
        default=(),
        choices=tuple(BASELINES),
        help="transformers' codecs with random weights",
    )
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
    codec: Any, against: Sequence[str] = (), seconds: float = 10.0, repeats: int = 5
) -> dict[str, Any]:
    """Time a codec, and others in turns with it.

    Args:
        codec: in eval mode, on its device.
        against: names in :data:`BASELINES`.
        seconds: length of the noise.
        repeats: timed repeats; one more goes before them, untimed.

    Returns:
        "rows": for each codec its name, parameters, "encode" and "decode" in times real time, by medians; and
        "streaming_step_ms": medians of one frame, None for a codec that does not stream; "algorithmic_latency_ms".
    """
    rate = codec.config.sampling_rate
    models = {"audiotok": codec}
    tasks = {}
    with torch.inference_mode():
        wav = _noise(seconds, rate).to(codec.device)
        codes = codec.encode(wav).audio_codes
        tasks["audiotok"] = {
            "encode": lambda: codec.encode(wav),
            "decode": lambda: codec.decode(codes, num_samples=wav.shape[-1]),
        }
    for name in against:
        label, models_rate, model, tasks_of = BASELINES[name]()
        models[label] = _ready(model).to(codec.device)
        with torch.inference_mode():
            tasks[label] = tasks_of(_noise(seconds, models_rate).to(codec.device))
    times: dict[tuple[str, str], list[float]] = {}
    with torch.inference_mode():
        for turn in range(repeats + 1):
            for name, pair in tasks.items():
                for verb, task in pair.items():
                    taken_s = _timed(task, codec.device)
                    if turn:
                        times.setdefault((name, verb), []).append(taken_s)
        step = _streaming_step_ms(codec)
    rows = [
        {
            "name": name,
            "parameters": sum(weight.numel() for weight in model.parameters()),
            **{verb: seconds / statistics.median(times[name, verb]) for verb in ("encode", "decode")},
        }
        for name, model in models.items()
    ]
    return {
        "seconds": seconds,
        "repeats": repeats,
        "rows": rows,
        "streaming_step_ms": step,
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


def _encodec() -> tuple[str, int, nn.Module, Callable[[Tensor], Tasks]]:
    """EnCodec 24 kHz at 6 kbit/s (arXiv:2210.13438): 75 Hz x 8 x 1024."""
    from transformers import EncodecConfig, EncodecModel

    model: Any = EncodecModel(EncodecConfig())

    def tasks(wav: Tensor) -> Tasks:
        def encode() -> Any:
            return model.encode(wav, torch.ones_like(wav[:, 0], dtype=torch.bool), bandwidth=6.0)

        out = encode()
        return {"encode": encode, "decode": lambda: model.decode(out.audio_codes, out.audio_scales)}

    return "encodec 24 kHz 6 kbps", model.config.sampling_rate, model, tasks


def _mimi() -> tuple[str, int, nn.Module, Callable[[Tensor], Tasks]]:
    """Mimi 24 kHz at 1.1 kbit/s (arXiv:2410.00037): 12.5 Hz x 8 x 2048."""
    from transformers import MimiConfig, MimiModel

    model: Any = MimiModel(MimiConfig())

    def tasks(wav: Tensor) -> Tasks:
        codes = model.encode(wav, num_quantizers=8).audio_codes
        return {"encode": lambda: model.encode(wav, num_quantizers=8), "decode": lambda: model.decode(codes)}

    return "mimi 24 kHz 1.1 kbps", model.config.sampling_rate, model, tasks


def _dac() -> tuple[str, int, nn.Module, Callable[[Tensor], Tasks]]:
    """DAC 16 kHz at 6 kbit/s (arXiv:2306.06546): 50 Hz x 12 x 1024."""
    from transformers import DacConfig, DacModel

    model: Any = DacModel(DacConfig(downsampling_ratios=[2, 4, 5, 8], n_codebooks=12))

    def tasks(wav: Tensor) -> Tasks:
        codes = model.encode(wav).audio_codes
        return {"encode": lambda: model.encode(wav), "decode": lambda: model.decode(audio_codes=codes)}

    return "dac 16 kHz 6 kbps", model.config.sampling_rate, model, tasks


BASELINES = {"encodec": _encodec, "mimi": _mimi, "dac": _dac}
"""Name -> function that returns label, sampling rate, model and its tasks for a wav [1, 1, N]."""


def _ready(model: nn.Module) -> nn.Module:
    """In eval mode, codebooks filled (they are zeros without a checkpoint), weight norm folded into the weights."""
    for name, buffer in model.named_buffers():
        if name.endswith(("codebook.embed", "codebook.embed_sum")):
            buffer.normal_()
    for module in model.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
    return model.eval()


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _noise(seconds: float, sampling_rate: int) -> Tensor:
    return 0.1 * torch.randn(1, 1, round(seconds * sampling_rate), generator=torch.Generator().manual_seed(0))


def _timed(task: Callable[[], object], device: torch.device) -> float:
    start = time.perf_counter()
    task()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _streaming_step_ms(codec: Any, steps: int = 100, warm_up: int = 10) -> dict[str, float] | None:
    """Median milliseconds of one frame in streaming sessions; None for a codec that does not stream."""
    if not codec.streams:
        return None
    encoder, decoder = codec.streaming_encoder(), codec.streaming_decoder()
    hop = codec.config.hop_length
    wav = _noise((steps + warm_up) * hop / codec.config.sampling_rate, codec.config.sampling_rate).to(
        codec.device
    )
    times: dict[str, list[float]] = {"encode": [], "decode": []}
    for chunk in wav.split(hop, dim=-1):
        codes: list[Any] = []
        times["encode"].append(_timed(lambda c=chunk, out=codes: out.append(encoder.push(c)), codec.device))
        times["decode"].append(_timed(lambda out=codes: decoder.push(out[0]), codec.device))
    return {name: 1000 * statistics.median(values[warm_up:]) for name, values in times.items()}
