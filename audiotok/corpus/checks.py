"""Which rows are fit to be encoded, and why the others are not.

Knows nothing of codecs or shards. The law it keeps: a bad row becomes a :class:`Drop` with a reason, never an
exception and never silence in a shard; and no file makes it hold more than ``max_s`` of sound.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..audio import MAX_PEAK, AudioError, AudioReader, open_audio, resample
from ..files import parse_json, write_aside
from .rows import SourceRow, printable
from .shaping import Shaping, Sound, shape

REASONS = {
    "bad_row": "the row is damaged: not JSON, not Unicode, or with a field that is far too long",
    "bad_name": "the file's name is not Unicode: rename the file",
    "missing_file": "the row names no file, or one that is not there",
    "outside_folder": "the file's name leads out of the corpus folder (--audio-root names another)",
    "duplicate": "a row before it has the same id",
    "no_text": "there is no transcript",
    "unreadable": "the file is not audio, or is damaged",
    "too_short": "less sound than the shortest allowed",
    "too_long": "more sound than the longest allowed",
    "text_ratio": "far more or far fewer letters than anyone says in that time",
    "not_finite": "samples are NaN or infinite",
    "bad_scale": "samples go far beyond full scale: they are in another unit",
    "clipped": "too many samples are cut off at full scale",
    "silent": "no sample is louder than -60 dB of full scale",
}
DROPPED = "dropped.jsonl"
SILENCE_PEAK = 1e-3
_DETAIL_CHARACTERS = 200
# Samples at full scale count as cut off when so many follow each other: a single one is a peak that just fits.
CLIPPED_RUN = 3
CLIPPED_PEAK = 0.999
# Letters that the text may have beyond what its seconds allow: a short clip may say a short word fast.
SPARE_LETTERS = 20
_AHEAD_BYTES = 1 << 22
_RATES_HZ = (1000, 1_000_000)
_READ_ERRORS = (OSError, ValueError, TypeError)


@dataclass(frozen=True)
class Drop:
    """A row left out of the corpus: its number in the source, its id, a key of :data:`REASONS`, a detail."""

    row: int
    id: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Limits:
    """What a row must be like.

    Attributes:
        min_s, max_s: seconds of sound.
        need_text: whether it must have text; then also its letters and digits must fit its seconds:
        min_letters_per_s, max_letters_per_s: of sound, with :data:`SPARE_LETTERS` to spare.
        max_clipped: share of samples that may be cut off at full scale.

    Raises:
        ValueError: the limits leave no room.
    """

    min_s: float = 0.1
    max_s: float = 30.0
    need_text: bool = True
    min_letters_per_s: float = 1.0
    max_letters_per_s: float = 40.0
    max_clipped: float = 0.01

    def __post_init__(self) -> None:
        for name in ("s", "letters_per_s"):
            least, most = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if not 0 <= least <= most < math.inf:
                raise ValueError(
                    f"expected 0 <= min_{name} <= max_{name}, both finite, got {least} and {most}"
                )
        if not 0 <= self.max_clipped <= 1:
            raise ValueError(f"expected max_clipped in [0, 1], got {self.max_clipped}")


@dataclass(frozen=True)
class Header:
    """A row that passed :func:`inspect`: its number and its length in seconds."""

    row: int
    seconds: float


def inspect(row: SourceRow, limits: Limits) -> Header | Drop:
    """Check a row without decoding its sound."""
    problem = row.problem or (("no_text", "") if limits.need_text and not row.text else None)
    if problem is None and row.audio is None:
        problem = ("missing_file", "the row holds no sound")
    if problem is None and isinstance(row.audio, Path) and not os.path.isfile(row.audio):
        problem = ("missing_file", row.audio.name)
    if problem is not None or row.audio is None:
        reason, detail = problem or ("missing_file", "")
        cut = "..." if len(detail) > _DETAIL_CHARACTERS else ""
        return Drop(row.index, row.id, reason, detail[:_DETAIL_CHARACTERS] + cut)
    try:
        with _open(row) as sound:
            seconds = sound.header_s
            if seconds is not None and row.span:
                seconds = min(seconds, row.span[1]) - row.span[0]
            if seconds is None or seconds < limits.min_s:  # the header may state too little
                seconds = len(_read(sound, row, limits.max_s)) / sound.sampling_rate
    except _READ_ERRORS as error:
        return Drop(row.index, row.id, "unreadable", _first_line(error, row))
    if fault := _length_fault(seconds, limits) or _text_fault(row.text, seconds, limits):
        return Drop(row.index, row.id, *fault)
    return Header(row.index, seconds)


def decode(row: SourceRow, limits: Limits, sampling_rate: int | None, shaping: Shaping) -> Sound | Drop:
    """Decode a row that passed :func:`inspect`, check its samples, resample it and shape it.

    Args:
        row: the row.
        limits: checked again, because a header can lie.
        sampling_rate: the rate to resample to, in Hz; None keeps the file's own.
        shaping: what is done about silent ends and loudness.

    Returns:
        the sound, or why there is none.
    """
    try:
        with _open(row) as sound:
            rate = sound.sampling_rate
            wav = _read(sound, row, limits.max_s)
    except _READ_ERRORS as error:
        return Drop(row.index, row.id, "unreadable", _first_line(error, row))
    if fault := _length_fault(len(wav) / rate, limits) or _sample_fault(wav, limits):
        return Drop(row.index, row.id, *fault)
    samples = torch.from_numpy(wav).clamp_(-1, 1).unsqueeze(0)
    sound = shape(resample(samples, rate, sampling_rate or rate), sampling_rate or rate, shaping)
    if fault := _length_fault(sound.wav.shape[1] / sound.sampling_rate, limits):
        return Drop(row.index, row.id, fault[0], f"{fault[1]} without its silent ends")
    return sound


def _open(row: SourceRow) -> AudioReader:
    audio = row.audio
    assert audio is not None
    if isinstance(audio, Path) and hasattr(os, "posix_fadvise"):
        # Rows are inspected some time before they are decoded: meanwhile the disk can bring them.
        with audio.open("rb") as stream:
            os.posix_fadvise(stream.fileno(), 0, _AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
    sound = open_audio(audio, name="sound")
    if not _RATES_HZ[0] <= sound.sampling_rate <= _RATES_HZ[1]:
        sound.close()
        raise ValueError(f"a sampling rate of {sound.sampling_rate} Hz")
    return sound


def _read(sound: AudioReader, row: SourceRow, max_s: float) -> np.ndarray:
    """The row's samples [N] float32, channels averaged, at most one more than allowed."""
    start_s, end_s = row.span or (0.0, None)
    longest_s = start_s + max_s + 1 / sound.sampling_rate
    blocks = list(sound.samples(start_s, longest_s if end_s is None else min(end_s, longest_s)))
    return np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)


def _length_fault(seconds: float, limits: Limits) -> tuple[str, str] | None:
    if seconds <= 0 or seconds < limits.min_s:
        return "too_short", f"{seconds:.3f} s"
    if seconds > limits.max_s:
        return "too_long", f"{seconds:.3f} s"
    return None


def _text_fault(text: str, seconds: float, limits: Limits) -> tuple[str, str] | None:
    letters = sum(map(str.isalnum, text))
    if not limits.need_text:
        return None
    if not letters:
        return "no_text", "neither a letter nor a digit"
    low = limits.min_letters_per_s * seconds - SPARE_LETTERS
    if low <= letters <= limits.max_letters_per_s * seconds + SPARE_LETTERS:
        return None
    return "text_ratio", f"{letters} letters in {seconds:.3f} s"


def _sample_fault(wav: np.ndarray, limits: Limits) -> tuple[str, str] | None:
    """What is wrong with samples [N], N >= 1."""
    peak = float(np.abs(wav).max())
    if not np.isfinite(peak):
        return "not_finite", f"{int((~np.isfinite(wav)).sum())} of {len(wav)} samples"
    if peak > MAX_PEAK:
        return "bad_scale", f"peak {peak:.1e}"
    if peak < SILENCE_PEAK:
        return "silent", f"peak {peak:.1e}"
    if peak >= CLIPPED_PEAK and (share := clipped_share(wav)) > limits.max_clipped:
        return "clipped", f"{share:.1%} of the samples"
    return None


def clipped_share(wav: np.ndarray) -> float:
    """Share of samples [N] that stand at full scale in runs of :data:`CLIPPED_RUN` or more."""
    full = np.abs(wav) >= CLIPPED_PEAK
    edges = np.flatnonzero(np.diff(np.concatenate([[False], full, [False]])))
    runs = edges[1::2] - edges[::2]
    return float(runs[runs >= CLIPPED_RUN].sum()) / len(wav)


def _first_line(error: Exception, row: SourceRow) -> str:
    """The reason in an error, without the path: it must not depend on where the corpus lies."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    text = str(error).removeprefix(f"{row.audio}: ") if isinstance(error, AudioError) else str(error)
    return text.strip().split("\n")[0].removeprefix("sound: ") or type(error).__name__


def read_dropped(out: str | Path) -> list[Drop]:
    """The dropped rows of a preparation, in the order of the source.

    Raises:
        FileNotFoundError: there is no ``dropped.jsonl``.
        ValueError: it is damaged.
    """
    path = Path(out) / DROPPED
    if not path.is_file():  # of a pipe by that name, nothing is waited for
        raise FileNotFoundError(f"{path}: no such file; run `audiotok prepare` again to restore it")
    try:
        with path.open("rb") as file:
            return [parse_drop(parse_json(line)) for line in file]
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); run `audiotok prepare` again to restore it") from None


def write_dropped(out: str | Path, drops: Iterable[Drop]) -> None:
    """Write what :func:`read_dropped` reads; OSError where that is not possible."""
    with write_aside(Path(out) / DROPPED) as aside, aside.open("w", encoding="utf-8") as file:
        for drop in drops:
            file.write(printable(json.dumps(asdict(drop), ensure_ascii=False)) + "\n")


def parse_drop(values: Any) -> Drop:
    """A dropped row from its JSON object.

    Raises:
        ValueError: it is none.
    """
    kinds = {field.name: int if field.name == "row" else str for field in fields(Drop)}
    if (
        not isinstance(values, dict)
        or set(values) != set(kinds)
        or not all(isinstance(values[name], kind) for name, kind in kinds.items())
        or values["row"] < 0
        or values["reason"] not in REASONS
    ):
        raise ValueError(f"expected a row with its reason, got {str(values)[:80]}")
    return Drop(**values)
