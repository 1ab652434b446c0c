"""Metrics against analytic values, and failures that are counted instead of scored."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from audiotok.metrics import (
    METRICS,
    CodeUsage,
    MetricError,
    check_libraries,
    f0_error,
    mel_distance,
    pesq,
    score,
    si_sdr,
    stoi,
    visqol,
    voicing_error,
    yin,
)

RATE = 16_000


def test_pesq_and_stoi_of_identical_speech(make_speech: Callable[..., Tensor]) -> None:
    pytest.importorskip("pesq")
    pytest.importorskip("pystoi")
    speech = make_speech(3.0)
    assert pesq(speech, speech, RATE) == pytest.approx(4.644, abs=0.002)
    assert pesq(speech, speech, RATE, band="nb") == pytest.approx(4.549, abs=0.002)
    assert stoi(speech, speech, RATE) == pytest.approx(1.0, abs=1e-4)


def test_noise_lowers_every_score(make_speech: Callable[..., Tensor]) -> None:
    pytest.importorskip("pesq")
    pytest.importorskip("pystoi")
    speech = make_speech(3.0)
    noise = torch.randn(speech.shape, generator=torch.Generator().manual_seed(1))
    names = [name for name in METRICS if name != "visqol"]
    little, much = (score(speech, speech + level * noise, RATE, names)[0] for level in (0.003, 0.03))
    assert set(little) == set(much) == set(names)
    assert little["pesq_wb"] > much["pesq_wb"] > 1.0
    assert little["pesq_nb"] > much["pesq_nb"] > 1.0
    assert little["stoi"] > much["stoi"]
    assert little["si_sdr_db"] > much["si_sdr_db"]
    assert little["mel_distance_db"] < much["mel_distance_db"]
    assert little["voicing_error"] < much["voicing_error"]


def test_pesq_resamples_what_is_not_16_khz(make_speech: Callable[..., Tensor]) -> None:
    pytest.importorskip("pesq")
    speech = make_speech(2.0, 24_000)
    assert pesq(speech, speech, 24_000) == pytest.approx(4.644, abs=0.002)


def test_si_sdr_known_values() -> None:
    wav = torch.sin(torch.arange(16_000) * 0.05)
    assert si_sdr(wav, 0.25 * wav) > 99  # the scale does not matter
    assert si_sdr(wav, -wav) > 99
    orthogonal = torch.zeros(4)
    orthogonal[0] = 1.0
    assert si_sdr(orthogonal, torch.tensor([1.0, 0.1, 0.0, 0.0])) == pytest.approx(20.0, abs=1e-4)
    assert si_sdr(orthogonal, torch.tensor([0.0, 1.0, 0.0, 0.0])) == -100.0
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(16_000, generator=generator)
    noise = noise - wav * (noise @ wav) / (wav @ wav)
    noise = noise * wav.norm() / noise.norm() * 10 ** (-12.5 / 20)
    assert si_sdr(wav, 0.3 * (wav + noise)) == pytest.approx(12.5, abs=1e-3)


def test_mel_distance_of_a_gain_is_the_gain_in_db(make_speech: Callable[..., Tensor]) -> None:
    speech = make_speech(1.0) + 0.01 * torch.randn(1, RATE, generator=torch.Generator().manual_seed(0))
    assert mel_distance(speech, speech, RATE) == 0.0
    assert mel_distance(speech, 0.5 * speech, RATE) == pytest.approx(6.02, abs=0.05)
    assert mel_distance(speech[:, :1], speech[:, :1], RATE) == 0.0  # shorter than any window


@pytest.mark.parametrize(
    ("estimate", "reason"),
    [
        (torch.zeros(1, 8000), "silen"),
        (torch.full((1, 8000), math.nan), "not finite"),
        (None, "Buffer|short|utter"),
    ],
)
def test_a_failing_metric_is_reported_not_scored(
    make_speech: Callable[..., Tensor], estimate: Tensor | None, reason: str
) -> None:
    pytest.importorskip("pesq")
    speech = make_speech(0.5)
    if estimate is None:
        speech = speech[:, :1000]
        estimate = speech
    with pytest.raises(MetricError, match=f"(?i){reason}"):
        pesq(speech, estimate, RATE)
    scores, failed = score(speech, estimate, RATE, ("pesq_wb",))
    assert scores == {} and set(failed) == {"pesq_wb"}


def test_stoi_of_a_clip_too_short_is_a_failure(make_speech: Callable[..., Tensor]) -> None:
    pytest.importorskip("pystoi")
    speech = make_speech(0.2)
    with pytest.raises(MetricError, match="stoi"):
        stoi(speech, speech, RATE)


def test_silence_has_no_si_sdr() -> None:
    silence, tone = torch.zeros(100), torch.ones(100)
    for pair in ((silence, tone), (tone, silence)):
        with pytest.raises(MetricError, match="silent"):
            si_sdr(*pair)


def test_signals_of_two_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="one length, got 3 and 4"):
        si_sdr(torch.ones(3), torch.ones(4))


def test_a_missing_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pesq", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'audiotok\[eval\]'"):
        pesq(torch.ones(8000), torch.ones(8000), RATE)


def test_a_missing_library_is_known_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "visqol", None)
    check_libraries(["si_sdr_db"])
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'audiotok\[visqol\]'"):
        check_libraries(["si_sdr_db", "visqol"])


@pytest.mark.slow  # the first call compiles for about 30 s
def test_visqol_falls_with_noise_and_refuses_silence(make_speech: Callable[..., Tensor]) -> None:
    pytest.importorskip("visqol")
    pytest.importorskip("ai_edge_litert")
    speech = make_speech(3.0)
    noise = torch.randn(speech.shape, generator=torch.Generator().manual_seed(1))
    same, little, much = (visqol(speech, speech + level * noise, RATE) for level in (0.0, 0.01, 0.1))
    assert 5.0 >= same > little > much >= 1.0
    with pytest.raises(MetricError, match="silence"):
        visqol(speech, torch.zeros_like(speech), RATE)
    with pytest.raises(MetricError, match="visqol"):
        visqol(speech[:, :500], speech[:, :500], RATE)


def tone(f0_hz: float, seconds: float = 1.0, rate: int = RATE) -> Tensor:
    """A buzz [1, N]: ten harmonics with falling strength."""
    t = torch.arange(round(seconds * rate), dtype=torch.float64) / rate
    harmonics = [torch.cos(2 * math.pi * h * f0_hz * t + h) / h for h in range(1, 11)]
    return 0.1 * torch.stack(harmonics).sum(0).float()[None]


@pytest.mark.parametrize("rate", [16_000, 24_000])
@pytest.mark.parametrize("f0_hz", [70.0, 123.4, 261.6, 430.0])
def test_yin_finds_the_pitch_of_a_buzz(f0_hz: float, rate: int) -> None:
    track = yin(tone(f0_hz, rate=rate)[0], rate)
    assert len(track) == 96 and bool((track > 0).all())
    assert 1200 * float((track / f0_hz).log2().abs().max()) < 5  # cents


def test_yin_finds_no_pitch_in_noise_silence_or_a_constant() -> None:
    noise = torch.randn(RATE, generator=torch.Generator().manual_seed(0))
    assert float((yin(noise, RATE) > 0).double().mean()) < 0.02
    assert not bool(yin(torch.zeros(RATE), RATE).any())
    assert not bool(yin(torch.full((RATE,), 0.3), RATE).any())
    assert len(yin(torch.ones(100), RATE)) == 0


def test_f0_error_is_the_interval_in_cents() -> None:
    low, high = tone(200.0), tone(212.0)
    assert f0_error(low, low, RATE) == pytest.approx(0.0, abs=1e-6)
    assert f0_error(low, high, RATE) == pytest.approx(1200 * math.log2(1.06), abs=3)
    with pytest.raises(MetricError, match="pitch in both"):
        f0_error(low, torch.randn(1, RATE, generator=torch.Generator().manual_seed(0)), RATE)


def test_voicing_error_is_the_share_of_frames_that_disagree() -> None:
    whole = tone(200.0)
    half = torch.cat([whole[:, : RATE // 2], torch.zeros(1, RATE // 2)], dim=1)
    assert voicing_error(whole, whole, RATE) == 0.0
    assert voicing_error(whole, half, RATE) == pytest.approx(0.5, abs=0.03)
    with pytest.raises(MetricError, match="shorter"):
        voicing_error(whole[:, :300], whole[:, :300], RATE)


def test_code_usage_adds_clips_and_checks_them() -> None:
    usage = CodeUsage(n_q=2, codebook_size=8)
    assert usage.perplexity == [1.0, 1.0] and usage.frames == 0
    usage.add(torch.tensor([[0, 1, 2, 3], [5, 5, 5, 5]]))
    usage.add(torch.tensor([[4, 5, 6, 7], [5, 5, 5, 5]]))
    assert usage.frames == 8
    assert usage.perplexity == pytest.approx([8.0, 1.0])
    assert usage.entropy_bits == pytest.approx([3.0, 0.0])
    for bad in (torch.zeros(3, 4, dtype=torch.int64), torch.tensor([[0, 8], [0, 0]])):
        with pytest.raises(ValueError):
            usage.add(bad)
