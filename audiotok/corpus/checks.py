"""Decodes the audio of a row and checks whether it can be encoded."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..audio import MAX_PEAK, AudioError, AudioReader, open_audio, resample
from ..files import parse_json, write_aside
from .rows import Cut, FilePart, SourceRow, printable

REASONS = {
    "bad_row": "the row is damaged: not JSON, not Unicode, an unbalanced quote, or a field that is far too long",
    "bad_name": "the file's name is not Unicode: rename the file",
    "bad_span": "start, end, duration or channel of the row do not fit its file",
    "missing_file": "the row names no file, or one that is not there",
    "outside_folder": "the file's name leads out of the corpus folder (--audio-root names another)",
    "duplicate": "a row before it has the same id",
    "no_text": "there is no transcript",
    "unreadable": "the file is not audio, or is damaged",
    "too_short": "less sound than the shortest allowed",
    "too_long": "more sound than the longest allowed",
    "text_ratio": "far more or far fewer letters than speech has in that time",
    "not_finite": "samples are NaN or infinite",
    "bad_scale": "samples go far beyond full scale: they are in another unit",
    "clipped": "too many samples are cut off at full scale",
    "silent": "no sample is louder than -60 dB of full scale",
}
DROPPED = "dropped.jsonl"
SILENCE_PEAK = 1e-3
# Consecutive samples at full scale that count as clipping. A single one can be a valid peak.
CLIPPED_RUN = 3
CLIPPED_PEAK = 0.999
# Letters tolerated beyond the limit, because a short clip may hold a short word spoken fast.
SPARE_LETTERS = 20
# How far the times of a table may go beyond the file, as in Kaldi's extract-segments: tables round.
OVERSHOOT_S = 0.5
SPEECH_BELOW_DB = 40.0
LEVEL_BELOW_DB = 20.0
LARGEST_PEAK = 0.99
_FRAME_S = 0.01
_DETAIL_CHARACTERS = 200
_RATES_HZ = (1000, 1_000_000)


@dataclass(frozen=True)
class Drop:
    """A row left out of the corpus: its number in the source, its id, a key of :data:`REASONS`, a detail."""

    row: int
    id: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Limits:
    """Limits that a row must satisfy; ValueError if they leave no room."""

    min_s: float = 0.1  # of sound
    max_s: float = 30.0
    need_text: bool = (
        True  # then also its letters and digits must fit its seconds, with SPARE_LETTERS to spare
    )
    min_letters_per_s: float = 1.0
    max_letters_per_s: float = 40.0
    max_clipped: float = 0.01  # share of samples that may be cut off at full scale

    def __post_init__(self) -> None:
        for name in ("s", "letters_per_s"):
            least, most = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if not 0 <= least <= most < math.inf:
                raise ValueError(f"expected 0 <= min_{name} <= max_{name} < inf, got {least} and {most}")
        if not 0 <= self.max_clipped <= 1:
            raise ValueError(f"expected max_clipped in [0, 1], got {self.max_clipped}")


@dataclass(frozen=True)
class Shaping:
    """Processing of every clip before it is encoded; ValueError if a value is out of range."""

    # Cut the silence at both ends down to edge_s. Audio within 40 dB of the loudest 10 ms is never cut.
    trim: bool = False
    level_db: float | None = (
        None  # brings speech_level_db of the clip to this level by one gain; None leaves it
    )
    edge_s: float = 0.1

    def __post_init__(self) -> None:
        if self.level_db is not None and not -80 <= self.level_db < 0:
            raise ValueError(f"expected a level in [-80, 0) dB of full scale, got {self.level_db}")
        if not 0 <= self.edge_s < math.inf:
            raise ValueError(f"expected edge_s >= 0, got {self.edge_s}")


@dataclass(frozen=True)
class Sound:
    """A decoded clip, wav [1, N] float32 in [-1, 1].

    ``start_s`` seconds were cut from its start; its speech had ``level_db`` dB of full scale before any gain.
    """

    wav: Tensor
    sampling_rate: int
    start_s: float
    level_db: float


def inspect(row: SourceRow, limits: Limits) -> float | Drop:
    """Check a row without decoding its sound. Returns its seconds by the header, which may be wrong, or the fault."""
    problem = row.problem
    if problem is None and limits.need_text and not row.text:
        problem = ("no_text", "")
    elif problem is None and row.audio is None:
        problem = ("missing_file", "the row holds no sound")
    elif problem is None and isinstance(row.audio, str) and not os.path.isfile(row.audio):
        problem = ("missing_file", os.path.basename(row.audio))
    if problem is not None:
        reason, detail = problem
        cut = "..." if len(detail) > _DETAIL_CHARACTERS else ""
        return Drop(row.index, row.id, reason, detail[:_DETAIL_CHARACTERS] + cut)
    try:
        with _open(row) as sound:
            seconds = limits.max_s if sound.header_s is None else sound.header_s
    except (OSError, ValueError) as error:
        return Drop(row.index, row.id, "unreadable", _reason(error, row))
    if row.cut is not None:
        seconds = min(seconds, row.cut.end_s or seconds) - row.cut.start_s
    return min(max(seconds, 0.0), limits.max_s)


def decode(row: SourceRow, limits: Limits, sampling_rate: int | None, shaping: Shaping) -> Sound | Drop:
    """Decode a row that passed :func:`inspect`, check it, resample it to ``sampling_rate`` (None: not) and shape it.

    Returns the sound, or the reason why there is none.
    """

    try:
        wav, rate, fault = _read(row, limits.max_s)
    except (OSError, ValueError) as error:
        return Drop(row.index, row.id, "unreadable", _reason(error, row))
    seconds = len(wav) / rate
    fault = fault or _length_fault(seconds, limits) or _text_fault(row.text, seconds, limits)
    if fault := fault or _sample_fault(wav, limits):
        return Drop(row.index, row.id, *fault)
    samples = torch.from_numpy(wav).clamp_(-1, 1).unsqueeze(0)
    wanted = sampling_rate or rate
    sound = shape(resample(samples, rate, wanted), wanted, shaping)
    if fault := _length_fault(sound.wav.shape[1] / wanted, limits):
        return Drop(row.index, row.id, fault[0], f"{fault[1]} without its silent ends")
    return sound


def read_row(row: SourceRow) -> tuple[Tensor, int]:
    """The sound of a row of any length: wav [1, N] float32 in [-1, 1] and its rate in Hz.

    AudioError if the row holds no sound, or it is damaged, not finite or in another unit. OSError if its file cannot be
    read.
    """
    if row.problem is not None or row.audio is None:
        raise AudioError(f"{row.id}: {': '.join(row.problem or ('missing_file', 'the row holds no sound'))}")
    wav, rate, fault = _read(row, math.inf)
    fault = fault or (_sample_fault(wav, Limits(max_clipped=1.0)) if len(wav) else ("too_short", "0 s"))
    if fault and fault[0] != "silent":
        raise AudioError(f"{row.id}: {fault[0]}: {fault[1]}")
    return torch.from_numpy(wav).clamp_(-1, 1).unsqueeze(0), rate


def _open(row: SourceRow) -> AudioReader:
    assert row.audio is not None
    sound = open_audio(row.audio.read() if isinstance(row.audio, FilePart) else row.audio, name="sound")
    if not _RATES_HZ[0] <= sound.sampling_rate <= _RATES_HZ[1]:
        sound.close()
        raise ValueError(f"a sampling rate of {sound.sampling_rate} Hz")
    return sound


def _read(row: SourceRow, max_s: float) -> tuple[np.ndarray, int, tuple[str, str] | None]:
    """Samples [N] float32 of the row's part of its sound, cut off behind ``max_s``; their rate; the fault."""
    cut = row.cut or Cut()
    with _open(row) as sound:
        rate = sound.sampling_rate
        if cut.channel is not None and cut.channel >= sound.channels:
            detail = f"channel {cut.channel}, counted from 0, of a file with {sound.channels}"
            return np.zeros(1, dtype=np.float32), rate, ("bad_span", detail)
        stop_s = min(cut.end_s or math.inf, cut.start_s + max_s + 1 / rate)
        wav = _samples(sound, cut.start_s, stop_s, cut.channel)
    read_s = len(wav) / rate
    stated_s = read_s if cut.length_s is None else cut.length_s
    if abs(read_s - stated_s) > OVERSHOOT_S and min(read_s, stated_s) <= max_s:
        has = "more" if read_s > max_s else f"{read_s:.3f} s"
        fault = (
            f"the table states {stated_s:g} s, the file has {has}; a part of a file needs a column offset too"
        )
        return wav, rate, ("bad_span", fault)
    lacking_s = 0.0 if cut.end_s is None else stop_s - cut.start_s - read_s
    if lacking_s <= OVERSHOOT_S and (len(wav) or not cut.start_s):
        return wav, rate, None
    # The times may be those of a longer recording that was cut up already: then the file is as long as the span.
    with _open(row) as sound:
        whole = _samples(sound, 0.0, max_s + 1 / rate, cut.channel)
    whole_s = len(whole) / rate
    if cut.end_s is not None and abs(whole_s - (cut.end_s - cut.start_s)) <= OVERSHOOT_S:
        return whole, rate, None
    span = f"from {cut.start_s:g} s to {'the end' if cut.end_s is None else f'{cut.end_s:g} s'}"
    return wav, rate, ("bad_span", f"{span}, but the file ends before")


def _samples(sound: AudioReader, start_s: float, stop_s: float, channel: int | None) -> np.ndarray:
    blocks = list(sound.samples(start_s, stop_s if stop_s < math.inf else None, channel))
    return np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.float32)


def _length_fault(seconds: float, limits: Limits) -> tuple[str, str] | None:
    if seconds <= 0 or seconds < limits.min_s:
        return "too_short", f"{seconds:.3f} s"
    if seconds > limits.max_s:
        return "too_long", f"over {limits.max_s:g} s"
    return None


def _text_fault(text: str, seconds: float, limits: Limits) -> tuple[str, str] | None:
    letters = sum(map(str.isalnum, text))
    if not limits.need_text:
        return None
    if not letters:
        return "no_text", "no letter or digit"
    low = limits.min_letters_per_s * seconds - SPARE_LETTERS
    if low <= letters <= limits.max_letters_per_s * seconds + SPARE_LETTERS:
        return None
    return "text_ratio", f"{letters} letters in {seconds:.3f} s"


def _sample_fault(wav: np.ndarray, limits: Limits) -> tuple[str, str] | None:
    """The fault of samples [N], N >= 1, or None."""
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


def _reason(error: Exception, row: SourceRow) -> str:
    """The reason of an error without the path, so that it does not depend on the location of the corpus."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    text = str(error).removeprefix(f"{row.audio}: ").removeprefix("sound: ")
    return text.strip().split("\n")[0] or type(error).__name__


# ---- shaping


def shape(wav: Tensor, sampling_rate: int, shaping: Shaping) -> Sound:
    """Cut the silent ends of a clip, wav [1, N] float32 with N >= 1, and adjust its level."""
    powers = frame_powers(wav[0].numpy(), sampling_rate)
    level_db = speech_level_db(powers)
    start = 0
    if shaping.trim:
        hop = max(1, round(_FRAME_S * sampling_rate))
        loud = np.flatnonzero(powers >= powers.max() * 10 ** (-SPEECH_BELOW_DB / 10))
        edge = round(shaping.edge_s * sampling_rate)
        start = max(0, int(loud[0]) * hop - edge)
        wav = wav[:, start : (int(loud[-1]) + 1) * hop + edge]
    if shaping.level_db is not None:
        gain = 10 ** ((shaping.level_db - level_db) / 20)
        peak = float(wav.abs().max())
        wav = wav * min(gain, LARGEST_PEAK / max(peak, 1e-9))
    return Sound(wav, sampling_rate, start / sampling_rate, level_db)


def frame_powers(wav: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Mean square of every 10 ms of samples [N]: [ceil(N / 10 ms)] float64; the last may be of fewer samples."""
    edges = np.arange(0, len(wav), max(1, round(_FRAME_S * sampling_rate)))
    sums = np.add.reduceat(np.square(wav, dtype=np.float64), edges)
    return sums / np.diff(np.append(edges, len(wav)))


def speech_level_db(powers: np.ndarray) -> float:
    """Level of the speech in a clip: mean power of the frames within 20 dB of its loudest, in dB of full scale."""
    loud = powers[powers >= powers.max() * 10 ** (-LEVEL_BELOW_DB / 10)]
    return 10 * math.log10(max(float(loud.mean()), 1e-12))


# ---- dropped.jsonl


def read_dropped(out: str | Path) -> list[Drop]:
    """The dropped rows of a preparation. FileNotFoundError if there is no file, ValueError if it is damaged."""
    path = Path(out) / DROPPED
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; run `audiotok prepare` again to restore it")
    try:
        with path.open("rb") as file:
            return [parse_drop(parse_json(line)) for line in file]
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); delete it and run `audiotok prepare` again") from None


def write_dropped(out: str | Path, drops: Iterable[Drop]) -> None:
    """Write what :func:`read_dropped` reads; OSError where that is not possible."""
    with write_aside(Path(out) / DROPPED) as aside, aside.open("w", encoding="utf-8") as file:
        for drop in drops:
            file.write(printable(json.dumps(asdict(drop), ensure_ascii=False)) + "\n")


def parse_drop(values: Any) -> Drop:
    """A dropped row from its JSON object; ValueError if it is none."""
    try:
        drop = Drop(**values)
    except TypeError:
        drop = None
    if (
        drop is None
        or [type(value) for value in asdict(drop).values()] != [int, str, str, str]
        or drop.row < 0
        or drop.reason not in REASONS
    ):
        raise ValueError(f"expected a row with its reason, got {str(values)[:80]}")
    return drop
