"""Unfit rows are dropped with their reason, the others are trimmed and levelled, in bounded memory."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audiotok.corpus import Limits, Shaping, SourceRow
from audiotok.corpus.checks import Drop, clipped_share, decode, frame_powers, inspect, shape, speech_level_db

RATE = 16_000
LIMITS = Limits()


def row_of(audio: Path, text: str = "Some words.") -> SourceRow:
    return SourceRow("r", str(audio), text, index=0)


def written(path: Path, samples: np.ndarray, rate: int = RATE, **how: str) -> Path:
    soundfile.write(path, samples, rate, **how)
    return path


def reason(row: SourceRow, limits: Limits = LIMITS) -> str | None:
    """The reason of a row's drop, whichever step finds it; None if it is fit."""
    found = inspect(row, limits)
    if not isinstance(found, Drop):
        sound = decode(row, limits, RATE, Shaping())
        return sound.reason if isinstance(sound, Drop) else None
    return found.reason


def test_the_text_must_fit_the_time(tmp_path: Path, make_speech: Callable[..., torch.Tensor]) -> None:
    short = written(tmp_path / "a.wav", make_speech(1.0)[0].numpy())
    long = written(tmp_path / "b.wav", make_speech(29.0)[0].numpy())
    assert reason(row_of(short, "x" * 60)) is None and reason(row_of(short, "x" * 61)) == "text_ratio"
    assert reason(row_of(long, "x" * 9)) is None and reason(row_of(long, "x" * 8)) == "text_ratio"
    assert reason(row_of(short, "?! ...")) == "no_text"
    assert reason(row_of(short, "x" * 61), Limits(max_letters_per_s=80)) is None
    assert reason(row_of(short, ""), Limits(need_text=False)) is None


def test_clipped_sound(tmp_path: Path, make_speech: Callable[..., torch.Tensor]) -> None:
    sound = make_speech(1.0)[0].numpy()
    hard = np.clip(8 * sound, -1, 1)
    assert clipped_share(hard) > 0.05
    assert reason(row_of(written(tmp_path / "hard.wav", hard))) == "clipped"
    assert reason(row_of(tmp_path / "hard.wav"), Limits(max_clipped=1.0)) is None
    assert reason(row_of(written(tmp_path / "full.wav", sound / np.abs(sound).max()))) is None
    lone = np.zeros(1000)
    lone[::10] = 1.0
    assert clipped_share(lone) == 0.0


def unknown_length_flac(path: Path, seconds: float) -> Path:
    """A small FLAC file of silence whose header does not state its length."""
    soundfile.write(path, np.zeros(round(seconds * RATE), dtype=np.int16), RATE)
    data = bytearray(path.read_bytes())
    data[21] &= 0xF0  # the 36 bits of the number of samples
    data[22:26] = b"\0\0\0\0"
    path.write_bytes(data)
    return path


def test_bombs(tmp_path: Path) -> None:
    """Small files that contain or state a very long sound."""
    known = written(tmp_path / "known.flac", np.zeros(300 * RATE, dtype=np.int16))
    assert known.stat().st_size < 50_000 and reason(row_of(known)) == "too_long"
    assert reason(row_of(unknown_length_flac(tmp_path / "unknown.flac", 60))) == "too_long"
    wide = written(tmp_path / "wide.wav", np.full((RATE, 2), 0.1))
    header = bytearray(wide.read_bytes())
    header[22:24] = struct.pack("<H", 1023)  # channels
    header[32:34] = struct.pack("<H", 2046)  # bytes of all channels
    wide.write_bytes(header)
    assert reason(row_of(wide)) in ("too_short", "unreadable")
    slow = written(tmp_path / "slow.wav", np.full(25, 0.1))
    header = bytearray(slow.read_bytes())
    header[24:28] = struct.pack("<I", 1)  # Hz: to resample it would make 25 samples 400,000
    slow.write_bytes(header)
    assert reason(row_of(slow)) == "unreadable"


def test_silent_ends_are_cut_and_speech_is_not(make_speech: Callable[..., torch.Tensor]) -> None:
    speech = make_speech(1.0)
    speech = speech / speech.abs().max() * 0.5 + 0.05 * torch.sin(torch.arange(RATE) * 0.3)
    padded = torch.cat([torch.zeros(1, RATE), speech, 1e-4 * torch.ones(1, RATE // 2)], dim=1)
    cut = shape(padded, RATE, Shaping(trim=True))
    assert cut.start_s == pytest.approx(0.9) and cut.wav.shape[1] == pytest.approx(1.2 * RATE, abs=160)
    start = round(0.1 * RATE)
    assert torch.equal(cut.wav[:, start : start + RATE], speech)
    assert shape(padded, RATE, Shaping()).wav is padded
    assert shape(speech, RATE, Shaping(trim=True)).wav.shape == speech.shape


def test_speech_is_brought_to_a_level(make_speech: Callable[..., torch.Tensor]) -> None:
    speech = 0.01 * make_speech(1.0)
    before = shape(speech, RATE, Shaping())
    after = shape(speech, RATE, Shaping(level_db=-26))
    assert after.level_db == before.level_db
    assert speech_level_db(frame_powers(after.wav[0].numpy(), RATE)) == pytest.approx(-26, abs=1e-3)
    ratio = after.wav / speech
    assert float(ratio.max() - ratio.min()) < 1e-3 * float(ratio.max())
    loud = shape(speech, RATE, Shaping(level_db=-1))
    assert float(loud.wav.abs().max()) <= 0.99
    # The level of the speech does not depend on the silence around it.
    padded = torch.cat([torch.zeros(1, 3 * RATE), speech], dim=1)
    assert shape(padded, RATE, Shaping()).level_db == pytest.approx(before.level_db, abs=0.2)


def test_a_clip_that_is_silence_but_for_a_click_is_too_short_once_trimmed(tmp_path: Path) -> None:
    sound = np.zeros(2 * RATE)
    sound[RATE] = 0.5
    row = row_of(written(tmp_path / "click.wav", sound))
    found = decode(row, Limits(min_s=0.5), RATE, Shaping(trim=True))
    assert isinstance(found, Drop) and found.reason == "too_short" and "silent ends" in found.detail


def test_limits_and_shaping_out_of_range() -> None:
    for wrong in ({"min_s": 2, "max_s": 1}, {"min_letters_per_s": 50}, {"max_clipped": 2}, {"min_s": -1}):
        with pytest.raises(ValueError, match="expected"):
            Limits(**wrong)
    for wrong in ({"level_db": 3.0}, {"edge_s": -1.0}):
        with pytest.raises(ValueError, match="expected"):
            Shaping(**wrong)
