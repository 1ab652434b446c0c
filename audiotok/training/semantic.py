"""Features of Whisper's encoder for every frame of a pack, the targets of codebook 0.

``python -m audiotok.training.semantic PACK --whisper openai/whisper-base`` writes ``PACK.features.safetensors``, 50
frames a second. SpeechTokenizer (arXiv:2308.16692) does the same with HuBERT.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import soxr
import torch
from safetensors.numpy import save_file
from transformers import WhisperFeatureExtractor, WhisperModel

from ..files import write_aside
from .packed import PackedClips

_RATE = 16_000
_FRAMES = 1500  # frames of Whisper's window of 30 s
_GAP = 10  # frames of silence between clips that share a window
_SAMPLE = 200_000  # frames from which the principal components are computed

_clips: PackedClips
_model: Any
_extract: Any


def _start(pack: str, hop_length: int, name: str) -> None:
    """Open pack and model once per worker."""
    global _clips, _model, _extract
    torch.set_num_threads(1)
    _clips = PackedClips(pack, hop_length)
    _model = WhisperModel.from_pretrained(name, dtype=torch.bfloat16).encoder.eval()
    _extract = WhisperFeatureExtractor.from_pretrained(name)


def plan_windows(lengths: list[int]) -> list[list[tuple[int, int, int]]]:
    """Distribute clips of these lengths in frames over windows of 30 s.

    Returns:
        The pieces of each window as (clip, first frame of the clip, first frame of the window).
    """
    windows: list[list[tuple[int, int, int]]] = [[]]
    place = 0
    for clip, length in enumerate(lengths):
        for first in range(0, length, _FRAMES):
            size = min(_FRAMES, length - first)
            if place + size > _FRAMES:
                windows.append([])
                place = 0
            windows[-1].append((clip, first, place))
            place += size + _GAP
    return windows


@torch.inference_mode()
def encode_window(pieces: list[tuple[int, int, int]]) -> np.ndarray:
    """Whisper's features of one window: [1500, C] float16."""
    window = np.zeros(_FRAMES * _RATE // 50, dtype=np.float32)
    for clip, first, place in pieces:
        rate = 50 * _clips.hop_length
        wav = _clips.clip(clip)[0].numpy()[first * _clips.hop_length :][: 30 * rate]
        wav = soxr.resample(wav, rate, _RATE) / max(0.05, float(np.abs(wav).max())) * 0.7
        start = place * _RATE // 50
        wav = wav[: len(window) - start]
        window[start : start + len(wav)] = wav
    mel = _extract(window, sampling_rate=_RATE, return_tensors="pt").input_features
    encoded = _model(mel.to(torch.bfloat16)).last_hidden_state[0]
    return encoded.to(torch.float16).numpy()


def reduce_features(raw: np.ndarray, positions: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Remove what depends on the position in the window, then keep the strongest principal components.

    Args:
        raw: [frames, C] float16.
        positions: [frames] int, position of each frame in its window.
        width: components to keep.

    Returns:
        [frames, width] float16 with a mean square of 1, and the cumulative share of the variance, [width].
    """
    means = np.zeros((_FRAMES, raw.shape[1]), dtype=np.float64)
    counts = np.bincount(positions, minlength=_FRAMES)
    parts = [slice(first, first + (1 << 17)) for first in range(0, len(raw), 1 << 17)]
    for part in parts:
        np.add.at(means, positions[part], raw[part].astype(np.float32))
    means /= np.maximum(counts, 1)[:, None]
    pick = np.sort(np.random.default_rng(0).permutation(len(raw))[:_SAMPLE])
    sample = raw[pick].astype(np.float32) - means[positions[pick]]
    values, vectors = np.linalg.eigh(sample.T @ sample / len(sample))
    order = np.argsort(values)[::-1][:width]
    basis = vectors[:, order] / np.sqrt(values[order].mean())
    out = np.empty((len(raw), width), dtype=np.float16)
    for part in parts:
        out[part] = (raw[part].astype(np.float32) - means[positions[part]]) @ basis
    return out, np.cumsum(values[order]) / values.sum()


def main(argv: list[str] | None = None) -> int:
    """Write the features of a pack."""
    parser = argparse.ArgumentParser(prog="python -m audiotok.training.semantic", description=__doc__)
    parser.add_argument("pack", help="packed clips of a codec with 50 frames a second")
    parser.add_argument("--whisper", required=True, metavar="NAME", help="a Whisper model, folder or hub id")
    parser.add_argument("--hop-length", type=int, default=480, help="samples per frame (default: 480)")
    parser.add_argument("--width", type=int, default=128, help="principal components to keep (default: 128)")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args(argv)
    clips = PackedClips(args.pack, args.hop_length)
    ranges = [clips.frame_range(index) for index in range(len(clips))]
    windows = plan_windows([part.stop - part.start for part in ranges])
    positions = np.zeros(clips.frames, dtype=np.int32)
    stem = Path(args.pack).with_suffix("")
    start = (args.pack, args.hop_length, args.whisper)
    with (
        tempfile.TemporaryFile(dir=stem.parent) as file,
        ProcessPoolExecutor(args.workers, initializer=_start, initargs=start) as pool,
    ):
        raw: np.ndarray | None = None
        results = pool.map(encode_window, windows, chunksize=4)
        for done, (pieces, encoded) in enumerate(zip(windows, results, strict=True), 1):
            if raw is None:
                raw = np.memmap(file, np.float16, "w+", shape=(clips.frames, encoded.shape[1]))
            for clip, first, place in pieces:
                at = ranges[clip].start + first
                size = min(_FRAMES - place, ranges[clip].stop - at)
                raw[at : at + size] = encoded[place : place + size]
                positions[at : at + size] = np.arange(place, place + size)
            if done % 50 == 0 or done == len(windows):
                print(f"{done}/{len(windows)} windows", file=sys.stderr, flush=True)
        assert raw is not None
        features, kept = reduce_features(raw, positions, args.width)
    with write_aside(stem.with_suffix(".features.safetensors")) as aside:
        save_file({"features": features}, aside)
    print(f"{len(features)} frames, {args.width} components keep {kept[-1]:.1%} of the variance")
    return 0


if __name__ == "__main__":
    sys.exit(main())
