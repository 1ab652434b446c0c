"""Metrics against analytic values, and failures that are counted instead of scored."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from audiotok.metrics import (
    METRICS,
    MetricError,
    check_libraries,
    f0_error,
    mel_distance,
    pesq,
    si_sdr,
    stoi,
    track_pitch,
    visqol,
    voicing_error,
)

RATE = 16_000


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_noise_worsens_every_score(make_speech: Callable[..., Tensor]) -> None:
    pytest.importorskip("pesq")
    pytest.importorskip("pystoi")
    speech = make_speech(1.0, 24_000)
    assert pesq(speech, speech, 24_000) == pytest.approx(4.644, abs=0.002)
    assert stoi(speech, speech, 24_000) == pytest.approx(1.0, abs=1e-4)
    speech = make_speech(1.0)
    for name, metric in METRICS.items():
        if name not in ("visqol", "f0_error_cents"):
            little, much = (
                metric(speech, speech + level * noise(*speech.shape), RATE) for level in (0.003, 0.03)
            )
            assert (little < much) == (name in ("mel_distance_db", "voicing_error")), name


def test_si_sdr_known_values() -> None:
    wav = torch.sin(torch.arange(16_000) * 0.05)
    assert min(si_sdr(wav, 0.25 * wav), si_sdr(wav, -wav)) > 99  # the scale does not matter
    unit = torch.eye(4)
    assert si_sdr(unit[0], 0.3 * (unit[0] + 0.1 * unit[1])) == pytest.approx(20.0, abs=1e-4)
    assert si_sdr(unit[0], unit[1]) == -100.0


def test_mel_distance_of_a_gain_is_the_gain_in_db(make_speech: Callable[..., Tensor]) -> None:
    speech = make_speech(1.0) + 0.01 * noise(1, RATE)
    assert mel_distance(speech, speech, RATE) == 0.0
    assert mel_distance(speech, 0.5 * speech, RATE) == pytest.approx(6.02, abs=0.01)
    assert math.isfinite(mel_distance(speech[:, :100], speech[:, :100], RATE))


@pytest.mark.parametrize("name", [name for name in METRICS if name != "visqol"])
def test_undefined_scores_raise_and_lengths_must_match(name: str, make_speech: Callable[..., Tensor]) -> None:
    for module in ("pesq", "pystoi"):
        pytest.importorskip(module)
    metric: Any = METRICS[name]
    speech = make_speech(1.0)
    silent, broken = torch.zeros_like(speech), speech.clone()
    broken[0, 100] = torch.nan
    undefined = [(speech, broken), (speech[:, :0], speech[:, :0])]
    if name in ("pesq_wb", "si_sdr_db", "f0_error_cents"):
        undefined += [(speech, silent), (silent, silent)]
    if name in ("pesq_wb", "stoi", "f0_error_cents"):
        undefined += [(speech[:, :100], speech[:, :100])]
    for reference, estimate in undefined:
        with pytest.raises(MetricError):
            metric(reference, estimate, RATE)
    with pytest.raises(ValueError, match="one length"):
        metric(speech, speech[:, 1:], RATE)


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "visqol", None)
    with pytest.raises(ModuleNotFoundError, match="visqol"):
        check_libraries(["si_sdr_db", "visqol"])


@pytest.mark.slow  # the first call compiles for about 30 s
def test_visqol_falls_with_noise_and_refuses_silence(make_speech: Callable[..., Tensor]) -> None:
    pytest.importorskip("visqol")
    pytest.importorskip("ai_edge_litert")
    speech = make_speech(3.0)
    same, little, much = (
        visqol(speech, speech + level * noise(*speech.shape), RATE) for level in (0.0, 0.01, 0.1)
    )
    assert 5.0 >= same > little > much >= 1.0
    for estimate, end in ((torch.zeros_like(speech), None), (speech, 500)):
        with pytest.raises(MetricError):
            visqol(speech[:, :end], estimate[:, :end], RATE)


def tone(f0_hz: float, seconds: float = 1.0, rate: int = RATE) -> Tensor:
    """A buzz [1, N]: ten harmonics with falling strength."""
    t = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    harmonics = [torch.cos(2 * math.pi * h * f0_hz * t + h) / h for h in range(1, 11)]
    return 0.1 * torch.stack(harmonics).sum(0).float()[None]


@pytest.mark.parametrize(("f0_hz", "rate"), [(80.0, 16_000), (233.0, 16_000), (390.0, 24_000)])
def test_the_pitch_tracker_finds_the_pitch(f0_hz: float, rate: int) -> None:
    found, voiced = track_pitch(tone(f0_hz, rate=rate)[None], rate // 50, rate, 55.0, 440.0)
    assert found.shape == (1, 50) and bool(voiced[0, 3:-3].all())
    torch.testing.assert_close(found[0, 3:-3], torch.full((44,), f0_hz), rtol=0.01, atol=0)


def test_there_is_no_pitch_in_noise_silence_or_a_constant() -> None:
    for wav in (noise(1, RATE), torch.zeros(1, RATE), torch.full((1, RATE), 0.3)):
        voiced = track_pitch(wav[None], 160, RATE, 60.0, 500.0)[1]
        assert float(voiced.double().mean()) <= 0.05


def test_pitch_errors_are_cents_and_shares() -> None:
    low, high = tone(200.0), tone(212.0)
    assert f0_error(low, low, RATE) == pytest.approx(0.0, abs=1e-6)
    assert f0_error(low, high, RATE) == pytest.approx(1200 * math.log2(1.06), abs=5)
    half = torch.cat([low[:, : RATE // 2], torch.zeros(1, RATE // 2)], dim=1)
    assert voicing_error(low, low, RATE) == 0.0
    assert voicing_error(low, half, RATE) == pytest.approx(0.5, abs=0.03)
