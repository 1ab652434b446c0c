"""Which rows are fit to be encoded, and why the others are not.

Knows nothing of codecs or shards. The law it keeps: a bad row becomes a :class:`Drop` with a reason, never an
exception and never silence in a shard; and no file makes it hold more than ``max_s`` of sound.
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from ..audio import resample
from .sources import SourceRow

REASONS = {
    "missing_file": "the row names no file, or one that is not there",
    "outside_folder": "the file's name leads out of the corpus folder",
    "duplicate_id": "a row before it has the same id",
    "no_text": "there is no transcript",
    "unreadable": "the file is not audio, or is damaged",
    "too_short": "less sound than the shortest allowed",
    "too_long": "more sound than the longest allowed",
    "not_finite": "samples are NaN or infinite",
    "bad_scale": "samples go far beyond full scale: they are in another unit",
    "silent": "no sample is louder than -60 dB of full scale",
}
SILENCE_PEAK = 1e-3
# Float files may overshoot full scale a little (they are clamped); this far beyond it the unit is another.
LARGEST_PEAK = 4.0
# A frame count from here on is libsndfile's way to say "unknown" (a stream without a length in its header).
_UNKNOWN_FRAMES = 1 << 60
_READ_SAMPLES = 1 << 16


@dataclass(frozen=True)
class Drop:
    """A row left out of the corpus: its number in the source, its id, a key of :data:`REASONS`, a detail."""

    row: int
    id: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Limits:
    """What a row must be like: seconds of sound from ``min_s`` to ``max_s``, and text if ``need_text``.

    Raises:
        ValueError: the limits leave no room.
    """

    min_s: float = 0.1
    max_s: float = 30.0
    need_text: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.min_s <= self.max_s:
            raise ValueError(f"expected 0 <= min_s <= max_s, got {self.min_s} and {self.max_s}")


@dataclass(frozen=True)
class Header:
    """A row that passed :func:`inspect`: number, id, length in seconds, and a hash of all that is known."""

    row: int
    id: str
    seconds: float
    digest: str


def inspect(row: SourceRow, limits: Limits) -> Header | Drop:
    """Check a row without decoding its sound."""
    problem = row.problem or (None if row.text or not limits.need_text else ("no_text", ""))
    if problem is None and row.audio is None:
        problem = ("missing_file", "the row holds no sound")
    if problem is None and isinstance(row.audio, Path) and not row.audio.is_file():
        problem = ("missing_file", row.audio.name)
    if problem is not None or row.audio is None:
        return Drop(row.index, row.id, *(problem or ("missing_file", "")))
    try:
        size = row.audio.stat().st_size if isinstance(row.audio, Path) else len(row.audio)
        with soundfile.SoundFile(_handle(row.audio)) as file:
            frames = file.frames
            if frames >= _UNKNOWN_FRAMES:
                frames = len(_read_mono(file, most=int(limits.max_s * file.samplerate) + 1))
            seconds = frames / file.samplerate
    except (soundfile.SoundFileError, OSError, ValueError, TypeError) as error:
        return Drop(row.index, row.id, "unreadable", _first_line(error))
    if fault := _length_fault(seconds, limits):
        return Drop(row.index, row.id, *fault)
    known = (row.id, row.text, row.speaker, row.language, row.split, seconds, size)
    return Header(row.index, row.id, seconds, hashlib.sha256(repr(known).encode()).hexdigest())


def decode(row: SourceRow, limits: Limits, sampling_rate: int) -> Tensor | Drop:
    """Decode a row that passed :func:`inspect`.

    Args:
        row: the row.
        limits: checked again, because a header can lie.
        sampling_rate: the rate to resample to, in Hz.

    Returns:
        wav [1, N] float32 in [-1, 1], or why there is none.
    """
    if row.audio is None:
        return Drop(row.index, row.id, "missing_file")
    try:
        with soundfile.SoundFile(_handle(row.audio)) as file:
            rate, told = file.samplerate, file.frames
            wav = _read_mono(file, most=int(limits.max_s * rate) + 1)
    except (soundfile.SoundFileError, OSError, ValueError, TypeError) as error:
        return Drop(row.index, row.id, "unreadable", _first_line(error))
    if fault := _length_fault(len(wav) / rate, limits):
        return Drop(row.index, row.id, *fault)
    if len(wav) < told < _UNKNOWN_FRAMES:
        return Drop(row.index, row.id, "unreadable", f"ends after {len(wav)} of {told} samples")
    peak = float(np.abs(wav).max())
    if not np.isfinite(peak):
        return Drop(
            row.index, row.id, "not_finite", f"{int((~np.isfinite(wav)).sum())} of {len(wav)} samples"
        )
    if peak > LARGEST_PEAK:
        return Drop(row.index, row.id, "bad_scale", f"peak {peak:.1e}")
    if peak < SILENCE_PEAK:
        return Drop(row.index, row.id, "silent", f"peak {peak:.1e}")
    sound = torch.from_numpy(wav).clamp_(-1, 1).unsqueeze(0)
    return resample(sound, rate, sampling_rate)


def _read_mono(file: soundfile.SoundFile, most: int) -> np.ndarray:
    """Up to ``most`` samples [N] float32, channels averaged, in blocks: a header's length is not trusted."""
    blocks, count = [], 0
    while count < most:
        block = file.read(min(_READ_SAMPLES, most - count), dtype="float32", always_2d=True)
        if not len(block):
            break
        with np.errstate(invalid="ignore", over="ignore"):  # inf - inf is found, and named, by decode()
            blocks.append(block.mean(axis=1, dtype=np.float32))
        count += len(block)
    return np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)


def _length_fault(seconds: float, limits: Limits) -> tuple[str, str] | None:
    if seconds <= 0 or seconds < limits.min_s:
        return "too_short", f"{seconds:.3f} s"
    if seconds > limits.max_s:
        return "too_long", f"{seconds:.3f} s"
    return None


def _handle(audio: bytes | Path) -> io.BytesIO | str:
    return io.BytesIO(audio) if isinstance(audio, bytes) else str(audio)


def _first_line(error: Exception) -> str:
    """The reason in an error, without the path: it must not depend on where the corpus lies."""
    return str(getattr(error, "error_string", "") or type(error).__name__).strip().split("\n")[0]
