"""``audiotok bench``: how fast the codec is on this machine, beside another codec timed in the same run.

Knows nothing of quality. The law it keeps: the two codecs take turns, so that whatever else the machine does
meanwhile falls on both; medians are reported, and the threads they ran on.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .common import add_codec_option, add_model_options, load_chosen_codec

if TYPE_CHECKING:
    import torch
    from transformers import EncodecModel

    from ..codec.model import AudioCodec


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb ``bench``."""
    parser = subparsers.add_parser(
        "bench",
        help="time encode, decode and one streaming step",
        allow_abbrev=False,
        description="Seconds of audio per second of work: encode and decode, medians of repeats.",
    )
    add_codec_option(parser)
    parser.add_argument(
        "--against", choices=("encodec",), help="time transformers' EncodecModel (24 kHz, 6 kbps) too"
    )
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="length of the test sound (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads torch may use (default: %(default)s)")
    parser.add_argument(
        "--repeats", type=int, default=5, help="timed repeats, after one untimed (default: %(default)s)"
    )
    parser.add_argument(
        "--json",
        nargs="?",
        const="-",
        metavar="FILE",
        help="print JSON instead of the table, or write it to FILE too",
    )
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Time, print the table, write the JSON."""
    import torch

    from ..files import write_json

    for name in ("seconds", "threads", "repeats"):
        if getattr(args, name) <= 0:
            raise ValueError(f"expected --{name} above 0, got {getattr(args, name)}")
    before = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    try:
        codec = load_chosen_codec(args.codec, args)
        report = measure(codec, against=args.against, seconds=args.seconds, repeats=args.repeats)
    finally:
        torch.set_num_threads(before)
    report["machine"] = {
        "device": str(codec.device), "dtype": args.dtype, "threads": args.threads,
        "processor": platform.processor() or platform.machine(), "torch": torch.__version__,
    }  # fmt: skip
    if args.json == "-":
        print(json.dumps(report))
        return 0
    print_table(report)
    if args.json:
        write_json(args.json, report)
        print(f"wrote {args.json}", file=sys.stderr)
    return 0


def measure(
    codec: AudioCodec, against: str | None = None, seconds: float = 10.0, repeats: int = 5
) -> dict[str, Any]:
    """Time a codec, and another one in turns with it.

    Args:
        codec: in eval mode, on its device.
        against: "encodec" or None.
        seconds: length of the test sound, noise at -20 dB.
        repeats: timed repeats; one more goes before them, untimed.

    Returns:
        {"seconds", "repeats", "rows": [{"name", "encode_times_real_time", "decode_times_real_time"}],
        "ratio": {"encode", "decode"} or None, "streaming_step_ms": {"encode", "decode", "both"} or None,
        "frame_ms"}. Times real time = seconds of audio per second of work; ratio = ours over theirs.
    """
    import torch

    with torch.inference_mode():
        tasks = {"audiotok": _own_tasks(codec, seconds)}
        if against == "encodec":
            tasks["encodec 24 kHz 6 kbps"] = _encodec_tasks(random_encodec(str(codec.device)), seconds)
        times: dict[tuple[str, str], list[float]] = {}
        for turn in range(repeats + 1):
            for name, pair in tasks.items():
                for verb, task in pair.items():
                    taken_s = _timed(task, codec.device)
                    if turn:
                        times.setdefault((name, verb), []).append(taken_s)
        step = _streaming_step_ms(codec)
    speed = {key: seconds / statistics.median(values) for key, values in times.items()}
    names = list(tasks)
    return {
        "seconds": seconds,
        "repeats": repeats,
        "rows": [
            {
                "name": n,
                "encode_times_real_time": speed[n, "encode"],
                "decode_times_real_time": speed[n, "decode"],
            }
            for n in names
        ],
        "ratio": {verb: speed[names[0], verb] / speed[names[1], verb] for verb in ("encode", "decode")}
        if len(names) > 1
        else None,
        "streaming_step_ms": step,
        "frame_ms": 1000.0 / codec.config.frame_rate,
    }


def random_encodec(device: str = "cpu") -> EncodecModel:
    """EnCodec 24 kHz as its paper has it, with random weights: good for timing, and needs no download.

    Args:
        device: torch device.
    """
    import torch
    from transformers import EncodecConfig, EncodecModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = EncodecModel(EncodecConfig()).eval()
        # A random EncodecModel has all-zero codebooks; the search costs the same, but every code would be 0.
        for name, buffer in model.named_buffers():
            if name.endswith("codebook.embed"):
                buffer.normal_()
    return model.to(device)  # pyright: ignore[reportArgumentType]


def print_table(report: dict[str, Any]) -> None:
    """Print a report of :func:`measure` on stdout."""
    machine = report.get("machine", {})
    print(
        f"{report['seconds']:g} s of sound, median of {report['repeats']}, {machine.get('device', 'cpu')}, "
        f"{machine.get('threads', '?')} thread(s), torch {machine.get('torch', '?')}"
    )
    print(f"{'codec':<24}{'encode':>12}{'decode':>12}   (x real time)")
    for row in report["rows"]:
        print(
            f"{row['name']:<24}{row['encode_times_real_time']:>11.1f}x{row['decode_times_real_time']:>11.1f}x"
        )
    if report["ratio"]:
        print(f"{'ratio':<24}{report['ratio']['encode']:>11.2f}x{report['ratio']['decode']:>11.2f}x")
    step = report["streaming_step_ms"]
    if step:
        print(
            f"one streaming step of {report['frame_ms']:g} ms: encode {step['encode']:.2f} ms, "
            f"decode {step['decode']:.2f} ms, both {step['both']:.2f} ms (medians)"
        )


def _own_tasks(codec: AudioCodec, seconds: float) -> dict[str, Callable[[], object]]:
    wav = _noise(seconds, codec.config.sampling_rate).to(codec.device)
    codes = codec.encode(wav).audio_codes
    assert codes is not None
    return {
        "encode": lambda: codec.encode(wav),
        "decode": lambda: codec.decode(codes, num_samples=wav.shape[-1]),
    }


def _encodec_tasks(model: EncodecModel, seconds: float) -> dict[str, Callable[[], object]]:
    import torch

    wav = _noise(seconds, model.config.sampling_rate).to(model.device)
    mask = torch.ones_like(wav[:, 0], dtype=torch.bool)
    out: Any = model.encode(wav, mask, bandwidth=6.0)
    return {
        "encode": lambda: model.encode(wav, mask, bandwidth=6.0),
        "decode": lambda: model.decode(out.audio_codes, out.audio_scales, mask),
    }


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
    if not codec.is_causal:
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
