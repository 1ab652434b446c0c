"""How far one recording sounds from another: listeners' models, and plain distances of waveform and spectrum.

Knows nothing of codecs, files or data sets: it takes waveforms. The law it keeps: a metric that cannot be
computed on a clip raises :class:`MetricError`; no score ever stands for a failure.
"""

from __future__ import annotations

import importlib
import math
import warnings
from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from ..audio import resample

SI_SDR_LIMIT_DB = 100.0
"""An identical signal has an infinite SI-SDR; scores are held inside +- this, so that means stay finite."""


class MetricError(ValueError):
    """A metric is not defined on this clip (silence, too short, not finite); the text says which and why."""


def pesq(reference: Tensor, estimate: Tensor, sampling_rate: int, band: Literal["wb", "nb"] = "wb") -> float:
    """Perceptual evaluation of speech quality, ITU-T P.862.2 (wide band) or P.862 (narrow band).

    Args:
        reference: wav, [N] or [1, N] float32.
        estimate: wav of the same shape.
        sampling_rate: of both, in Hz; anything but 16000 is resampled to 16000 first.
        band: "wb" or "nb".

    Returns:
        The mean opinion score: 1.04 (bad) to 4.64 (identical) for "wb", 1.02 to 4.55 for "nb".

    Raises:
        MetricError: no utterance was found, or the clip is shorter than 0.25 s.
        ModuleNotFoundError: the package ``pesq`` is missing.
    """
    library = import_library("pesq", "eval")
    reference, estimate = (resample(wav, sampling_rate, 16000) for wav in checked_pair(reference, estimate))
    # Level alignment divides by the estimate's power: a dead output is a failure, not a bad score.
    if not bool(estimate.any()):
        raise MetricError("pesq: the estimate is digital silence")
    try:
        return _finite("pesq", float(library.pesq(16000, reference.numpy(), estimate.numpy(), band)))
    except library.PesqError as error:
        detail = error.args[0] if error.args else type(error).__name__
        text = detail.decode() if isinstance(detail, bytes) else str(detail)
        raise MetricError(f"pesq: {text}") from error


def stoi(reference: Tensor, estimate: Tensor, sampling_rate: int) -> float:
    """Short-time objective intelligibility (Taal et al. 2011), 0 to 1.

    Args:
        reference: wav, [N] or [1, N] float32.
        estimate: wav of the same shape.
        sampling_rate: of both, in Hz.

    Raises:
        MetricError: fewer than 30 frames (0.4 s) are left after silence is removed.
        ModuleNotFoundError: the package ``pystoi`` is missing.
    """
    library = import_library("pystoi", "eval")
    reference, estimate = checked_pair(reference, estimate)
    with warnings.catch_warnings():
        # pystoi says "too short" by a warning and the score 1e-5.
        warnings.simplefilter("error", RuntimeWarning)
        try:
            value = library.stoi(reference.double().numpy(), estimate.double().numpy(), sampling_rate)
        except (RuntimeWarning, ValueError, IndexError) as error:
            raise MetricError(f"stoi: {str(error).split('.')[0]}") from error
    return _finite("stoi", float(value))


def visqol(reference: Tensor, estimate: Tensor, sampling_rate: int) -> float:
    """ViSQOL v3 in speech mode (Chinen et al. 2020), with the deep-lattice mapping of the original program.

    The mapping is named here, not left to what is installed: the package falls back to another one that
    scores a point or two higher.

    Args:
        reference: wav, [N] or [1, N] float32.
        estimate: wav of the same shape.
        sampling_rate: of both, in Hz; anything but 16000 is resampled to 16000 first.

    Returns:
        The mean opinion score, 1 (bad) to 5.

    Raises:
        MetricError: the estimate is silent, the clip is too short, or no speech is found in it.
        ModuleNotFoundError: the package ``visqol-python`` or its lattice runtime is missing.
    """
    api = _visqol_api()
    pair = [resample(wav, sampling_rate, 16000) for wav in checked_pair(reference, estimate)]
    # Both are brought to one level: a dead output is a failure, not a bad score.
    if not bool(pair[1].any()):
        raise MetricError("visqol: the estimate is digital silence")
    try:
        outcome = api.measure_from_arrays(*(wav.double().numpy() for wav in pair), 16000)
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise MetricError(f"visqol: {error}") from error
    return _finite("visqol", float(outcome.moslqo))


@cache
def _visqol_api() -> Any:
    api = import_library("visqol", "visqol").VisqolApi()
    import_library("ai_edge_litert.interpreter", "visqol")
    api.create(mode="speech", use_lattice_model=True)
    return api


def si_sdr(reference: Tensor, estimate: Tensor) -> float:
    """Scale-invariant signal-to-distortion ratio in dB, within +- :data:`SI_SDR_LIMIT_DB`.

    Args:
        reference: wav, [N] or [1, N] float32.
        estimate: wav of the same shape.

    Raises:
        MetricError: one of the two is silent.

    Source: Le Roux et al., "SDR - half-baked or well done?", ICASSP 2019 (no mean is removed).
    """
    reference, estimate = (wav.double() for wav in checked_pair(reference, estimate))
    power = float(reference.square().sum())
    if power == 0.0 or not bool(estimate.any()):
        raise MetricError(f"si_sdr: the {'reference' if power == 0.0 else 'estimate'} is silent")
    target = reference * (float(reference @ estimate) / power)
    signal, noise = float(target.square().sum()), float((estimate - target).square().sum())
    if signal == 0.0 or noise == 0.0:
        return math.copysign(SI_SDR_LIMIT_DB, signal - noise)
    return max(-SI_SDR_LIMIT_DB, min(SI_SDR_LIMIT_DB, 10 * math.log10(signal / noise)))


def mel_distance(reference: Tensor, estimate: Tensor, sampling_rate: int) -> float:
    """Mean absolute difference of two log-mel spectrograms, in dB (80 bands, 32 ms frames every 8 ms).

    Args:
        reference: wav, [N] or [1, N] float32.
        estimate: wav of the same shape.
        sampling_rate: of both, in Hz.

    Raises:
        MetricError: a sample is not finite, or there is none.
    """
    from transformers.audio_utils import mel_filter_bank

    pair = torch.stack(checked_pair(reference, estimate))
    size = 2 ** round(math.log2(0.032 * sampling_rate))
    bank = torch.from_numpy(
        mel_filter_bank(
            size // 2 + 1, 80, 0.0, sampling_rate / 2, sampling_rate, norm="slaney", mel_scale="slaney"
        )
    ).float()
    if pair.shape[-1] <= size:  # reflect padding needs more samples than it adds
        pair = torch.nn.functional.pad(pair, (0, size + 1 - pair.shape[-1]))
    spectrum = torch.stft(pair, size, size // 4, window=torch.hann_window(size), return_complex=True)
    mel = spectrum.abs().square().transpose(1, 2) @ bank
    # The floor lies about 100 dB under full-scale speech: below it a difference is not heard.
    level_db = 10 * torch.log10(mel.clamp_min(1e-7))
    return float((level_db[0] - level_db[1]).abs().mean())


def import_library(name: str, extra: str) -> Any:
    """Import an optional package.

    Args:
        name: of the module.
        extra: of ours, which installs it.

    Raises:
        ModuleNotFoundError: it is missing; the text names the extra.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the metric needs the package '{error.name}', which is not installed; "
            f"pip install 'audiotok[{extra}]'",
            name=error.name,
        ) from error


def checked_pair(reference: Tensor, estimate: Tensor) -> tuple[Tensor, Tensor]:
    """Both signals as a metric wants them.

    Args:
        reference: wav, [N] or [1, N].
        estimate: wav of the same length.

    Returns:
        Both as [N] float32 on the CPU.

    Raises:
        ValueError: two lengths.
        MetricError: a sample is not finite, or there is none.
    """
    pair = [wav.detach().reshape(-1).cpu().float() for wav in (reference, estimate)]
    if pair[0].shape != pair[1].shape:
        raise ValueError(
            f"expected two signals of one length, got {len(pair[0])} and {len(pair[1])}; cut or pad one"
        )
    for name, wav in zip(("reference", "estimate"), pair, strict=True):
        if not len(wav) or not bool(torch.isfinite(wav).all()):
            raise MetricError(
                f"the {name} {'has no samples' if not len(wav) else 'is not finite (NaN or infinity)'}"
            )
    return pair[0], pair[1]


def _finite(name: str, value: float) -> float:
    if not math.isfinite(value):
        raise MetricError(f"{name}: the result is {value}")
    return value
