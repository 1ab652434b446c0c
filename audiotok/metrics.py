"""Distances between a reference and an estimate.

Every metric takes two wavs [N] or [1, N] float32 of one length and their sampling rate in Hz, and raises
:class:`MetricError` where it is not defined.
"""

from __future__ import annotations

import importlib
import math
import os
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .audio import resample

SI_SDR_LIMIT_DB = 100.0
"""Scores are clipped to +- this value, because identical signals have an infinite SI-SDR."""

F0_RANGE_HZ = (60.0, 500.0)
_F0_WINDOW_S = 0.032


class MetricError(ValueError):
    """A metric is not defined on this clip, for the reason in the message."""


def pesq(reference: Tensor, estimate: Tensor, sampling_rate: int) -> float:
    """Perceptual evaluation of speech quality, wide band (ITU-T P.862.2), at 16 kHz: 1.04 (bad) to 4.64 (identical).

    Not defined for clips without an utterance or shorter than 0.25 s. Needs the package ``pesq``.
    """
    library = _import("pesq", "eval")
    pair = [resample(wav, sampling_rate, 16000).numpy() for wav in _checked_pair(reference, estimate)]
    if not pair[1].any():  # level alignment divides by its power
        raise MetricError("pesq: the estimate is digital silence")
    try:
        return _finite("pesq", library.pesq(16000, *pair, "wb"))
    except library.PesqError as error:
        detail = error.args[0] if error.args else type(error).__name__
        raise MetricError(f"pesq: {detail.decode() if isinstance(detail, bytes) else detail}") from error


def stoi(reference: Tensor, estimate: Tensor, sampling_rate: int) -> float:
    """Short-time objective intelligibility (Taal et al. 2011), 0 to 1.

    Not defined if fewer than 30 frames (0.4 s) are left after silence is removed. Needs the package ``pystoi``.
    """
    library = _import("pystoi", "eval")
    pair = [wav.double().numpy() for wav in _checked_pair(reference, estimate)]
    with warnings.catch_warnings():
        # pystoi warns of a clip that is too short and returns 1e-5.
        warnings.simplefilter("error", RuntimeWarning)
        try:
            return _finite("stoi", library.stoi(*pair, sampling_rate))
        except (RuntimeWarning, ValueError, IndexError) as error:
            raise MetricError(f"stoi: {str(error).split('.')[0]}") from error


def visqol(reference: Tensor, estimate: Tensor, sampling_rate: int) -> float:
    """ViSQOL v3 in speech mode (Chinen et al. 2020) with its deep-lattice mapping, at 16 kHz: 1 (bad) to 5.

    Not defined for a silent estimate or a clip without speech. Needs ``visqol-python`` and a lattice runtime.
    """
    api = _visqol_api()
    pair = [resample(wav, sampling_rate, 16000) for wav in _checked_pair(reference, estimate)]
    if not bool(pair[1].any()):
        raise MetricError("visqol: the estimate is digital silence")
    try:
        outcome = api.measure_from_arrays(*(wav.double().numpy() for wav in pair), 16000)
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise MetricError(f"visqol: {error}") from error
    return _finite("visqol", outcome.moslqo)


@cache
def _visqol_api() -> Any:
    api = _import("visqol", "visqol").VisqolApi()
    # Without the lattice runtime the package falls back to another mapping, which scores a point or two higher.
    _import("ai_edge_litert.interpreter", "visqol")
    api.create(mode="speech", use_lattice_model=True)
    return api


def si_sdr(reference: Tensor, estimate: Tensor, sampling_rate: int = 0) -> float:
    """Scale-invariant signal-to-distortion ratio in dB, clipped to +- :data:`SI_SDR_LIMIT_DB`.

    Le Roux et al., "SDR - half-baked or well done?", ICASSP 2019. No mean is removed. Not defined for silence.
    """
    reference, estimate = (wav.double() for wav in _checked_pair(reference, estimate))
    power = float(reference.square().sum())
    if power == 0.0 or not bool(estimate.any()):
        raise MetricError(f"si_sdr: the {'reference' if power == 0.0 else 'estimate'} is silent")
    target = reference * (float(reference @ estimate) / power)
    signal, noise = float(target.square().sum()), float((estimate - target).square().sum())
    if signal == 0.0 or noise == 0.0:
        return math.copysign(SI_SDR_LIMIT_DB, signal - noise)
    return max(-SI_SDR_LIMIT_DB, min(SI_SDR_LIMIT_DB, 10 * math.log10(signal / noise)))


def mel_distance(reference: Tensor, estimate: Tensor, sampling_rate: int) -> float:
    """Mean absolute difference of two log-mel spectrograms in dB (80 bands, 32 ms frames every 8 ms)."""
    from transformers.audio_utils import mel_filter_bank

    pair = torch.stack(_checked_pair(reference, estimate))
    size = 2 ** round(math.log2(0.032 * sampling_rate))
    scale: Any = {"norm": "slaney", "mel_scale": "slaney"}
    bank = mel_filter_bank(size // 2 + 1, 80, 0.0, sampling_rate / 2, sampling_rate, **scale)
    if pair.shape[-1] <= size:  # reflect padding needs more samples than it adds
        pair = F.pad(pair, (0, size + 1 - pair.shape[-1]))
    spectrum = torch.stft(pair, size, size // 4, window=torch.hann_window(size), return_complex=True)
    mel = spectrum.abs().square().transpose(1, 2) @ torch.from_numpy(bank).float()
    level_db = 10 * torch.log10(mel.clamp_min(1e-7))  # about 100 dB below full-scale speech
    return float((level_db[0] - level_db[1]).abs().mean())


@torch.no_grad()
def track_pitch(
    wav: Tensor, hop_length: int, sampling_rate: int, f0_min_hz: float, f0_max_hz: float
) -> tuple[Tensor, Tensor]:
    """Pitch near the end of each frame, also the target of the codec's pitch classes.

    Normalised cross-correlation as in Talkin's RAPT (1995), with a running median instead of dynamic programming.

    Returns f0_hz [B, T] float32 and voiced [B, T] bool for wavs [B, 1, N], T = N // hop_length.
    """
    window = int(_F0_WINDOW_S * sampling_rate)
    lag_min, lag_max = int(sampling_rate / f0_max_hz), int(sampling_rate / f0_min_hz) + 1
    span = window + lag_max
    frames = wav.shape[-1] // hop_length
    # The segment is centred at three quarters of the frame.
    x = F.pad(wav[:, 0], (span // 2 - 3 * hop_length // 4, span))
    segments = x.unfold(-1, span, hop_length)[:, :frames]
    segments = segments - segments.mean(-1, keepdim=True)
    head = F.pad(segments[..., :window], (0, lag_max))
    size = 1 << (span + lag_max).bit_length()
    spectrum = torch.fft.rfft(head, size).conj() * torch.fft.rfft(segments, size)
    correlation = torch.fft.irfft(spectrum, size)[..., : lag_max + 1]
    energy = F.pad(segments.square().cumsum(-1), (1, 0))
    energy = energy[..., window : window + lag_max + 1] - energy[..., : lag_max + 1]
    floor = (1e-4**2) * window  # below -80 dBFS there is no pitch
    nccf = correlation / torch.sqrt((energy[..., :1] + floor) * (energy + floor))
    # Multiples of the true lag correlate as well, so long lags get a small penalty.
    score = nccf * (1.0 - 0.12 * torch.arange(lag_max + 1, device=wav.device) / lag_max)
    score[..., :lag_min] = -1.0
    best = score[..., :-1].argmax(-1, keepdim=True).clamp(1, lag_max - 1)
    below, peak, above = (nccf.gather(-1, best + shift)[..., 0] for shift in (-1, 0, 1))
    bend = (below - 2 * peak + above).clamp(max=-1e-6)
    f0_hz = sampling_rate / (best[..., 0] + (0.5 * (below - above) / bend).clamp(-0.5, 0.5))
    medians = F.pad(f0_hz[:, None], (2, 2), mode="replicate")[:, 0].unfold(-1, 5, 1).median(-1).values
    return medians.clamp(f0_min_hz, f0_max_hz), peak > 0.6


def _pitch_pair(reference: Tensor, estimate: Tensor, sampling_rate: int) -> tuple[Tensor, Tensor]:
    """Pitch [2, T] in Hz every 10 ms, and where there is one, [2, T] bool."""
    pair = torch.stack(_checked_pair(reference, estimate))[:, None]
    hop = round(0.010 * sampling_rate)
    if pair.shape[-1] < hop:
        raise MetricError("pitch: the clip is shorter than 10 ms")
    return track_pitch(pair, hop, sampling_rate, *F0_RANGE_HZ)


def f0_error(reference: Tensor, estimate: Tensor, sampling_rate: int) -> float:
    """Median absolute difference of pitch in cents over the frames in which both have one, at least one frame."""
    f0_hz, voiced = _pitch_pair(reference, estimate, sampling_rate)
    both = voiced.all(0)
    if not bool(both.any()):
        raise MetricError("f0_error: no frame has a pitch in both")
    return float((1200 * torch.log2(f0_hz[1] / f0_hz[0])[both]).abs().median())


def voicing_error(reference: Tensor, estimate: Tensor, sampling_rate: int) -> float:
    """Share of frames in which only one of the two has a pitch, 0 to 1."""
    voiced = _pitch_pair(reference, estimate, sampling_rate)[1]
    return float((voiced[0] != voiced[1]).double().mean())


METRICS: dict[str, Callable[[Tensor, Tensor, int], float]] = {
    "pesq_wb": pesq,
    "stoi": stoi,
    "visqol": visqol,
    "si_sdr_db": si_sdr,
    "mel_distance_db": mel_distance,
    "f0_error_cents": f0_error,
    "voicing_error": voicing_error,
}
"""Name -> f(reference, estimate, sampling_rate)."""

Scores = tuple[dict[str, Any], dict[str, str]]
"""Length, coded bits and scores of one output, and the reasons for scores that are not defined."""


def score_outputs(
    wav: np.ndarray, sampling_rate: int, outputs: Sequence[tuple[np.ndarray, int]], metrics: Sequence[str]
) -> list[Scores]:
    """Score outputs, each [1, N] with its coded bits, against the clip [1, N]."""
    results = []
    for output, bits in outputs:
        facts: dict[str, Any] = {"duration_s": wav.shape[-1] / sampling_rate, "coded_bits": bits}
        reasons = {}
        for name in metrics:
            try:
                facts[name] = METRICS[name](torch.from_numpy(wav), torch.from_numpy(output), sampling_rate)
            except MetricError as error:
                reasons[name] = str(error)
        results.append((facts, reasons))
    return results


def use_one_thread() -> None:
    """Limit this process, one of several that score, to one thread."""
    torch.set_num_threads(1)
    os.environ["NUMBA_NUM_THREADS"] = "1"  # ViSQOL reads it at import


_NEEDS = {"pesq_wb": ["pesq"], "stoi": ["pystoi"], "visqol": ["visqol", "ai_edge_litert"]}


def check_libraries(metrics: Sequence[str]) -> None:
    """Raise ModuleNotFoundError with the extra to install if a package is missing that metrics need."""
    for name in metrics:
        for module in _NEEDS.get(name, ()):
            _import(module, "visqol" if name == "visqol" else "eval")


def _import(name: str, extra: str) -> Any:
    """Import an optional module that the extra ``extra`` installs."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the metric needs the package '{error.name}', which is not installed; pip install 'audiotok[{extra}]'",
            name=error.name,
        ) from error


def _checked_pair(reference: Tensor, estimate: Tensor) -> tuple[Tensor, Tensor]:
    """Both signals as [N] float32 on the CPU. ValueError: two lengths. MetricError: empty or not finite."""
    pair = [wav.detach().reshape(-1).cpu().float() for wav in (reference, estimate)]
    if pair[0].shape != pair[1].shape:
        raise ValueError(f"expected signals of one length, got {len(pair[0])} and {len(pair[1])}")
    for name, wav in zip(("reference", "estimate"), pair, strict=True):
        if not len(wav):
            raise MetricError(f"the {name} has no samples")
        if not bool(torch.isfinite(wav).all()):
            raise MetricError(f"the {name} is not finite (NaN or infinity)")
    return pair[0], pair[1]


def _finite(name: str, value: Any) -> float:
    if not math.isfinite(value):
        raise MetricError(f"{name}: the result is {value}")
    return float(value)
