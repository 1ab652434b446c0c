"""Packed clips: a corpus in two memory-mapped files.

``NAME.safetensors`` holds ``pcm`` (int16, all clips end to end) and ``offsets`` (int64 [clips + 1], samples);
``NAME.jsonl`` holds a row of text fields per clip. Reading a pack needs numpy and torch only.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from ..files import write_aside, write_json

_HEADER = 512  # bytes reserved before the samples of a pack
_SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3"}


@dataclass
class Batch:
    """Crops for one step."""

    wav: Tensor  # [B, 1, N] float32 in [-1, 1]
    features: Tensor | None  # [B, T, F] float32, targets of codebook 0; None if the pack has no features
    spoken: Tensor  # [B, T] bool, true where a frame belongs to a clip

    def to(self, device: torch.device) -> Batch:
        """Move the crops to another device."""
        features = None if self.features is None else self.features.to(device)
        return Batch(self.wav.to(device), features, self.spoken.to(device))


@dataclass(frozen=True)
class Draw:
    """How crops are drawn and changed."""

    max_gain_db: float = 0.0  # crops are made louder or quieter by up to this
    lowpass_share: float = 0.0  # share of crops that are low-passed above a third of the spectrum
    noise_share: float = 0.0  # share of crops that get noise, 15 to 45 dB below the speech
    speaker_power: float = 0.0  # 0 draws clips by length; 0.5 speakers by the square root of their length
    draw_weights: dict[str, float] = field(default_factory=dict)  # prefix of ids -> times as often


def speaker_weights(lengths: np.ndarray, speakers: Sequence[str | None], power: float) -> np.ndarray:
    """Sampling weight of each row, [R] float64: its length, reduced if its speaker has much data.

    A ``power`` of 0 leaves lengths as they are, 1 gives every speaker the same share. All None count as one speaker.
    """
    _, which = np.unique([speaker or "" for speaker in speakers], return_inverse=True)
    totals = np.bincount(which, weights=lengths)
    return lengths / totals[which] ** power


class PackedClips:
    """Memory-mapped clips, cut into random crops.

    Args:
        path: path of either file, or without a suffix.
        hop_length: samples per frame.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: the files do not belong together.
    """

    def __init__(self, path: str | Path, hop_length: int) -> None:
        stem = Path(path).with_suffix("")
        for suffix in (".safetensors", ".jsonl"):
            if not stem.with_suffix(suffix).is_file():
                raise FileNotFoundError(f"expected packed clips at {stem.with_suffix(suffix)}, found none")
        self.rows: list[dict[str, Any]] = [
            json.loads(line) for line in stem.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()
        ]
        tensors = safe_open(stem.with_suffix(".safetensors"), "np")
        self.pcm = tensors.get_slice("pcm")  # the file stays on disk
        self.offsets: np.ndarray = tensors.get_tensor("offsets")
        if len(self.rows) != len(self.offsets) - 1 or [self.offsets[-1]] != self.pcm.get_shape():
            raise ValueError(
                f"{stem}: {len(self.rows)} rows for {len(self.offsets) - 1} clips; pack them again"
            )
        self.hop_length = hop_length
        frames = -(-np.diff(self.offsets) // hop_length)
        self._first_frame = np.concatenate([[0], np.cumsum(frames)])
        path = stem.with_suffix(".features.safetensors")
        self.features: Any = safe_open(path, "np").get_slice("features") if path.is_file() else None
        if self.features is not None and self.features.get_shape()[0] != self.frames:
            raise ValueError(f"{path}: {self.features.get_shape()[0]} features for {self.frames} frames")
        self._chances: dict[str, np.ndarray] = {}

    @property
    def frames(self) -> int:
        """Frames of all clips."""
        return int(self._first_frame[-1])

    def frame_range(self, index: int) -> slice:
        """The range of frames of clip ``index`` among the frames of all clips."""
        return slice(int(self._first_frame[index]), int(self._first_frame[index + 1]))

    def chances(self, draw: Draw) -> np.ndarray:
        """Sampling probability of each clip, [clips] float64."""
        key = json.dumps([draw.speaker_power, draw.draw_weights])
        if key not in self._chances:
            speakers = [row.get("speaker") for row in self.rows]
            chances = speaker_weights(np.diff(self.offsets), speakers, draw.speaker_power)
            for prefix, weight in draw.draw_weights.items():
                chances[[str(row["id"]).startswith(prefix) for row in self.rows]] *= weight
            self._chances[key] = chances / chances.sum()
        return self._chances[key]

    def __len__(self) -> int:
        return len(self.rows)

    def clip(self, index: int) -> Tensor:
        """The whole clip ``index``, [1, N] float32."""
        pcm = self.pcm[self.offsets[index] : self.offsets[index + 1]]
        return torch.from_numpy(pcm.astype(np.float32) / 32768.0)[None]

    def crops(self, seed: int, step: int, batch: int, frames: int, draw: Draw) -> Batch:
        """The crops of one step, a function of ``(seed, step)``: clips drawn by ``draw``, positions at whole frames.

        Clips that are shorter than a crop are padded with silence.
        """
        rng = np.random.default_rng((seed, step))
        picks = rng.choice(len(self), size=batch, p=self.chances(draw))
        wav = np.zeros((batch, 1, frames * self.hop_length), dtype=np.float32)
        spoken = np.zeros((batch, frames), dtype=bool)
        width = 0 if self.features is None else self.features.get_shape()[1]
        features = np.zeros((batch, frames, width), dtype=np.float32)
        for row, index in enumerate(picks):
            first, last = self._first_frame[index], self._first_frame[index + 1]
            start = int(rng.integers(0, max(1, last - first - frames + 1)))
            at = self.offsets[index] + start * self.hop_length
            end = min(at + frames * self.hop_length, self.offsets[index + 1])
            pcm = self.pcm[at:end].astype(np.float32) / 32768.0
            pcm = _colour(pcm, rng, draw)
            gain = 10.0 ** (rng.uniform(-draw.max_gain_db, draw.max_gain_db) / 20.0)
            peak = float(np.abs(pcm).max(initial=1e-6))
            wav[row, 0, : len(pcm)] = pcm * min(gain, 0.99 / peak)
            count = min(frames, int(last - first) - start)
            spoken[row, :count] = True
            if self.features is not None:
                features[row, :count] = self.features[first + start : first + start + count]
        targets = None if self.features is None else torch.from_numpy(features)
        return Batch(torch.from_numpy(wav), targets, torch.from_numpy(spoken))


def _colour(pcm: np.ndarray, rng: np.random.Generator, draw: Draw) -> np.ndarray:
    """Low-pass or add noise to some crops, [N] float32."""
    noisy, narrow = rng.random(2) < (draw.noise_share, draw.lowpass_share)
    level_db, cut, tilt = rng.uniform(-45.0, -15.0), rng.uniform(1 / 3, 1.0), rng.uniform(0.0, 1.0)
    if not len(pcm) or not (noisy or narrow):
        return pcm
    if noisy:
        noise = rng.standard_normal(len(pcm)).astype(np.float32)
        noise[1:] += tilt * noise[:-1]
        power = float(np.sqrt(np.mean(pcm**2))) * 10.0 ** (level_db / 20.0)
        pcm = pcm + noise * (power / max(1e-9, float(np.sqrt(np.mean(noise**2)))))
    if narrow:
        spectrum = np.fft.rfft(pcm)
        bins = np.arange(len(spectrum)) / len(spectrum)
        pcm = np.fft.irfft(spectrum / (1.0 + np.exp((bins - cut) * 120.0)), len(pcm)).astype(np.float32)
    return pcm.astype(np.float32)


def write_packed(stem: str | Path, clips: Iterable[tuple[dict[str, Any], np.ndarray]]) -> int:
    """Write clips as a pack, one at a time, so that the corpus does not have to fit into memory.

    ``stem`` is a path without suffix. Clips are pairs of a row with at least ``id`` and samples, float [N] in [-1, 1].
    Returns the number of clips. No pack is written if there are none.
    """
    stem, clips = Path(stem), iter(clips)
    first = next(clips, None)
    if first is None:
        return 0
    offsets = [0]
    with (
        write_aside(stem.with_suffix(".safetensors")) as aside,
        write_aside(stem.with_suffix(".jsonl")) as rows,
        aside.open("wb") as file,
        rows.open("w", encoding="utf-8") as lines,
    ):
        file.write(bytes(_HEADER))
        for row, samples in chain([first], clips):
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
            file.write((np.clip(samples, -1.0, 1.0) * 32767.0).astype("<i2").tobytes())
            offsets.append(offsets[-1] + len(samples))
        file.write(np.asarray(offsets, dtype="<i8").tobytes())
        size = 2 * offsets[-1]
        ends = [size, size + 8 * len(offsets)]
        header = {
            "pcm": {"dtype": "I16", "shape": [offsets[-1]], "data_offsets": [0, size]},
            "offsets": {"dtype": "I64", "shape": [len(offsets)], "data_offsets": ends},
        }
        file.seek(0)
        file.write((_HEADER - 8).to_bytes(8, "little") + json.dumps(header).encode().ljust(_HEADER - 8))
    return len(offsets) - 1


def is_pack(path: str | Path) -> bool:
    """Whether ``path`` is a pack of clips."""
    return Path(path).with_suffix(".safetensors").is_file() and Path(path).with_suffix(".jsonl").is_file()


def gather(source: str, stem: Path, sampling_rate: int, hop_length: int, split: str | None) -> PackedClips:
    """Open packed clips, or pack the source first; an existing pack of the same source is reused.

    Args:
        source: a pack; a folder of audio with or without metadata; a metadata file; a ``datasets`` name.
        stem: path of the new pack.
        sampling_rate: Hz of the clips.
        hop_length: samples per frame.
        split: rows to take; None takes all. Rows without a split belong to the split train.

    Raises:
        FileNotFoundError: the source does not exist.
        ValueError: the source holds no readable audio, or an existing pack has another source.
    """
    if is_pack(source):
        return PackedClips(source, hop_length)
    origin = {"source": source, "split": split, "sampling_rate": sampling_rate}
    record = stem.with_suffix(".origin.json")
    if not is_pack(stem):
        write_json(record, origin)
        if not write_packed(stem, _clips(source, sampling_rate, split)):
            of = f" of the split {split}; give --split or --validation" if split else ""
            raise ValueError(f"{source}: expected readable audio{of}, found none")
    elif record.is_file():
        found = json.loads(record.read_text(encoding="utf-8"))
        # Packs of earlier versions also name their alignments.
        if {key: found.get(key) for key in origin} != origin:
            raise ValueError(
                f"{stem} was packed from {found}, not from {origin}; choose another --out, or remove it"
            )
    return PackedClips(stem, hop_length)


def check_apart(train: PackedClips, validation: PackedClips) -> None:
    """Raise ValueError if a clip is in both packs."""
    trained = {row["id"]: index for index, row in enumerate(train.rows)}
    # Different clips may have the same name, so the samples are compared too.
    both = [
        row["id"]
        for index, row in enumerate(validation.rows)
        if row["id"] in trained and torch.equal(train.clip(trained[row["id"]]), validation.clip(index))
    ]
    if both:
        raise ValueError(
            f"{len(both)} validation clips are also training clips, {min(both)} among them; choose another --split or "
            "--validation"
        )


def _clips(source: str, sampling_rate: int, split: str | None) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    from ..audio import resample
    from ..corpus import SourceRow, open_source, read_row

    folder = Path(source)
    rows: Iterable[SourceRow] = ()
    if not folder.is_dir() or any(folder.glob("metadata.*")) or any(folder.rglob("*.parquet")):
        rows = open_source(source, split=split)
    elif split in (None, "train"):
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
        rows = (SourceRow(str(path.relative_to(folder)), str(path), split="train") for path in files)
    for row in rows:
        try:
            wav = resample(*read_row(row), sampling_rate)[0]
        except (ValueError, OSError) as error:
            print(f"left out: {row.id}: {error}", file=sys.stderr)
            continue
        fields = {"id": row.id, "text": row.text, "speaker": row.speaker, "language": row.language}
        yield fields, wav.numpy()
