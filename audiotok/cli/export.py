"""``audiotok export``: a codec as ONNX files, which run with onnxruntime and numpy, without torch."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .common import add_overwrite_option, codec_name

_TAKES = 5


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "export",
        help="a codec as ONNX files, which run without torch",
        description="Write encoder and decoder of a codec as ONNX, with a card that holds its fingerprint and licence. "
        "audiotok.load_onnx(FOLDER) runs them with onnxruntime and numpy.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "codec",
        nargs="?",
        type=codec_name,
        default="default",
        metavar="CODEC",
        help="a shipped codec, a folder or a hub id (default: %(default)s)",
    )
    parser.add_argument("--out", required=True, metavar="FOLDER", help="the folder to write: new or empty")
    parser.add_argument("--license", metavar="TEXT", help="of the weights (default: as its README.md says)")
    parser.add_argument(
        "--check",
        metavar="CLIP",
        help="compare codes, sound and speed (CPU time on one thread) with torch on this sound file; prints JSON",
    )
    add_overwrite_option(parser, "the bundle that is there")


def run(args: argparse.Namespace) -> int:
    """Export; 1 if the check finds other codes or another sound."""
    from ..audio import load_audio, resample
    from ..codec.pretrained import load_codec
    from ..onnx.bundle import check_target
    from ..onnx.export import export_onnx

    check_target(args.out, args.overwrite)
    wav = None
    codec = load_codec(args.codec)
    if args.check:
        sound, rate = load_audio(args.check)
        wav = resample(sound, rate, codec.config.sampling_rate)[None]
    export_onnx(codec, args.out, args.license, args.overwrite)
    size = sum(path.stat().st_size for path in Path(args.out).iterdir())
    print(f"wrote {args.out}: {size / 1e6:.1f} MB", file=sys.stderr)
    if wav is None:
        return 0
    found = compare(codec, args.out, wav)
    print(json.dumps(found))
    return 0 if found["codes_differ"] == 0 and found["audio_difference"] <= 1e-4 else 1


def compare(codec: Any, folder: str | Path, wav: Any) -> dict[str, Any]:
    """Codes, sound and speed of a bundle beside those of the codec it was made of.

    Args:
        codec: an ``AudioCodec``.
        folder: its bundle.
        wav: [1, 1, N] float32 torch tensor at its rate.

    Returns:
        JSON values: ``codes_differ`` of ``codes``, ``audio_difference`` (largest), and how many times faster than real
        time each encodes and decodes on one thread, by CPU time, the best of five.
    """
    import numpy as np
    import torch

    from ..machine import threads
    from ..onnx.runtime import load_onnx

    theirs = load_onnx(folder, threads=1)
    with threads(1), torch.inference_mode():
        codes, sound = codec.encode(wav).audio_codes, wav.numpy()
        numbers = codes.numpy()
        decoded = codec.decode(codes, num_samples=wav.shape[-1]).audio_values.numpy()
        difference = np.abs(theirs.decode(numbers, num_samples=wav.shape[-1]) - decoded).max()
        seconds = wav.shape[-1] / codec.config.sampling_rate
        speeds = {
            name: round(seconds / _cost(work), 1)
            for name, work in (
                ("encode_onnx", lambda: theirs.encode(sound)),
                ("encode_torch", lambda: codec.encode(wav)),
                ("decode_onnx", lambda: theirs.decode(numbers)),
                ("decode_torch", lambda: codec.decode(codes)),
            )
        }
    return {
        "seconds": round(seconds, 2),
        "codes": int(codes.numel()),
        "codes_differ": int((theirs.encode(sound) != numbers).sum()),
        "audio_difference": float(difference),
        "times_real_time": speeds,
    }


def _cost(work: Callable[[], object]) -> float:
    """CPU seconds of the fastest of some takes: a busy machine makes them no longer."""
    takes = []
    for _ in range(_TAKES):
        began = time.process_time()
        work()
        takes.append(time.process_time() - began)
    return max(min(takes), 1e-9)
