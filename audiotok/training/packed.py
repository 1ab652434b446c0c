"""Packed clips: a corpus in two files that need neither soundfile nor the corpus to be read again.

``NAME.safetensors`` holds ``pcm`` (int16, all clips end to end), ``offsets`` (int64 [clips + 1], samples) and, when
the clips were aligned, ``phones`` (int8, one label a frame, clip after clip, -1 where unknown); ``NAME.jsonl`` holds a
row of text fields per clip. Knows nothing of codecs. The law kept: crops are a function of (seed, step) alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor

from ..files import write_aside

# The phone set of CMUdict, which pocketsphinx' aligner speaks, and silence.
PHONES = (
    "SIL AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W Y Z ZH"
).split()


@dataclass
class Batch:
    """Crops for one step.

    Attributes:
        wav: [B, 1, N] float32 in [-1, 1].
        phones: [B, T] int64, -1 where unknown.
    """

    wav: Tensor
    phones: Tensor


class PackedClips:
    """Clips in memory, cut into random crops.

    Args:
        path: of either of the two files, or without a suffix.
        hop_length: samples per frame, for the phone labels.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: the two do not belong together.
    """

    def __init__(self, path: str | Path, hop_length: int) -> None:
        stem = Path(path).with_suffix("")
        for suffix in (".safetensors", ".jsonl"):
            if not stem.with_suffix(suffix).is_file():
                raise FileNotFoundError(f"expected packed clips at {stem.with_suffix(suffix)}, found none")
        tensors = load_file(stem.with_suffix(".safetensors"))
        self.rows: list[dict[str, Any]] = [
            json.loads(line) for line in stem.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()
        ]
        self.pcm, self.offsets = tensors["pcm"], tensors["offsets"]
        if len(self.rows) != len(self.offsets) - 1 or self.offsets[-1] != len(self.pcm):
            raise ValueError(
                f"{stem}: {len(self.rows)} rows for {len(self.offsets) - 1} clips; pack them again"
            )
        self.hop_length = hop_length
        frames = -(-np.diff(self.offsets) // hop_length)
        self._first_frame = np.concatenate([[0], np.cumsum(frames)])
        self.phones = tensors.get("phones", np.full(int(self._first_frame[-1]), -1, dtype=np.int8))
        if len(self.phones) != self._first_frame[-1]:
            raise ValueError(f"{stem}: {len(self.phones)} phone labels for {self._first_frame[-1]} frames")

    def __len__(self) -> int:
        return len(self.rows)

    def clip(self, index: int) -> Tensor:
        """Clip ``index`` whole: [1, N] float32."""
        pcm = self.pcm[self.offsets[index] : self.offsets[index + 1]]
        return torch.from_numpy(pcm.astype(np.float32) / 32768.0)[None]

    def crops(self, seed: int, step: int, batch: int, frames: int, max_gain_db: float) -> Batch:
        """The crops of one step: clips drawn by length, positions on the frame grid, random gain.

        Clips that are shorter than a crop are followed by silence.
        """
        rng = np.random.default_rng((seed, step))
        seconds = np.diff(self.offsets).astype(np.float64)
        picks = rng.choice(len(self), size=batch, p=seconds / seconds.sum())
        wav = np.zeros((batch, 1, frames * self.hop_length), dtype=np.float32)
        phones = np.full((batch, frames), -1, dtype=np.int64)
        for row, index in enumerate(picks):
            first, last = self._first_frame[index], self._first_frame[index + 1]
            start = int(rng.integers(0, max(1, last - first - frames + 1)))
            samples = slice(self.offsets[index] + start * self.hop_length, self.offsets[index + 1])
            pcm = self.pcm[samples][: frames * self.hop_length].astype(np.float32) / 32768.0
            gain = 10.0 ** (rng.uniform(-max_gain_db, max_gain_db) / 20.0)
            peak = float(np.abs(pcm).max(initial=1e-6))
            wav[row, 0, : len(pcm)] = pcm * min(gain, 0.99 / peak)
            labels = self.phones[first + start : last][:frames]
            phones[row, : len(labels)] = labels
        return Batch(torch.from_numpy(wav), torch.from_numpy(phones))


def write_packed(
    stem: str | Path,
    clips: Iterable[tuple[dict[str, Any], np.ndarray]],
    alignments: dict[str, list[Any]] | None = None,
    hop_length: int = 320,
    sampling_rate: int = 16_000,
) -> int:
    """Write clips as a pack.

    Args:
        stem: path without suffix.
        clips: (row, samples) pairs; row holds at least ``id``; samples float [N] in [-1, 1].
        alignments: per id, words as ``[word, start, duration, [[phone, start, duration], ...]]`` in 10 ms units.
        hop_length: samples per frame of the phone labels.
        sampling_rate: Hz.

    Returns:
        The number of clips; of none no pack is written.
    """
    stem = Path(stem)
    rows, pcm, offsets, phones = [], [], [0], []
    for row, samples in clips:
        rows.append(json.dumps(row, ensure_ascii=False))
        pcm.append((np.clip(samples, -1.0, 1.0) * 32767.0).astype(np.int16))
        offsets.append(offsets[-1] + len(samples))
        words = (alignments or {}).get(row["id"])
        frames = -(-len(samples) // hop_length)
        phones.append(phone_labels(words, frames, hop_length / sampling_rate))
    if not rows:
        return 0
    tensors = {"pcm": np.concatenate(pcm), "offsets": np.asarray(offsets, dtype=np.int64)}
    if alignments:
        tensors["phones"] = np.concatenate(phones)
    with write_aside(stem.with_suffix(".safetensors")) as aside:
        save_file(tensors, aside)
    with write_aside(stem.with_suffix(".jsonl")) as aside:
        aside.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return len(rows)


def phone_labels(words: list[Any] | None, frames: int, frame_s: float) -> np.ndarray:
    """The phone at the start of each frame: [frames] int8, index into :data:`PHONES`, -1 without an alignment."""
    if words is None:
        return np.full(frames, -1, dtype=np.int8)
    labels = np.zeros(frames, dtype=np.int8)
    for _, _, _, parts in words:
        for phone, start, duration in parts:
            if phone in PHONES:
                first, last = (int(round(edge * 0.01 / frame_s)) for edge in (start, start + duration))
                labels[first:last] = PHONES.index(phone)
    return labels
