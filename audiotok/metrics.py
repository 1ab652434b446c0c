"""How far one recording is from another, and how well a codebook is used.

Knows nothing of codecs, files or data sets: it takes waveforms and code grids. The law it keeps: a metric
that cannot be computed on a clip raises :class:`MetricError`; no score ever stands for a failure.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from .audio import resample

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
        The mean opinion score, 1.04 (bad) to 4.64 (identical) for "wb".

    Raises:
        MetricError: no utterance was found, or the clip is shorter than 0.25 s.
        ModuleNotFoundError: the package ``pesq`` is missing.
    """
    library = _library("pesq")
    reference, estimate = _pair(reference, estimate)
    if sampling_rate != 16000:
        reference, estimate = (resample(wav, sampling_rate, 16000) for wav in (reference, estimate))
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
    library = _library("pystoi")
    reference, estimate = _pair(reference, estimate)
    with warnings.catch_warnings():
        # pystoi says "too short" by a warning and the score 1e-5.
        warnings.simplefilter("error", RuntimeWarning)
        try:
            value = library.stoi(reference.double().numpy(), estimate.double().numpy(), sampling_rate)
        except (RuntimeWarning, ValueError, IndexError) as error:
            raise MetricError(f"stoi: {str(error).split('.')[0]}") from error
    return _finite("stoi", float(value))


def si_sdr(reference: Tensor, estimate: Tensor) -> float:
    """Scale-invariant signal-to-distortion ratio in dB, within +- :data:`SI_SDR_LIMIT_DB`.

    Args:
        reference: wav, [N] or [1, N] float32.
        estimate: wav of the same shape.

    Raises:
        MetricError: one of the two is silent.

    Source: Le Roux et al., "SDR - half-baked or well done?", ICASSP 2019 (no mean is removed).
    """
    reference, estimate = (wav.double() for wav in _pair(reference, estimate))
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

    pair = torch.stack(_pair(reference, estimate))
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


METRICS: dict[str, Callable[[Tensor, Tensor, int], float]] = {
    "pesq_wb": pesq,
    "stoi": stoi,
    "si_sdr_db": lambda reference, estimate, sampling_rate: si_sdr(reference, estimate),
    "mel_distance_db": mel_distance,
}
"""What a clip is scored by: name -> f(reference, estimate, sampling_rate)."""


def score(
    reference: Tensor, estimate: Tensor, sampling_rate: int, metrics: tuple[str, ...] = tuple(METRICS)
) -> tuple[dict[str, float], dict[str, str]]:
    """Compute several metrics; one that is not defined on the clip lands in the second dictionary.

    Args:
        reference: wav, [N] or [1, N] float32.
        estimate: wav of the same shape.
        sampling_rate: of both, in Hz.
        metrics: names out of :data:`METRICS`.

    Returns:
        (scores by name, reasons of failure by name); every name is in exactly one of the two.
    """
    scores: dict[str, float] = {}
    failed: dict[str, str] = {}
    for name in metrics:
        try:
            scores[name] = METRICS[name](reference, estimate, sampling_rate)
        except MetricError as error:
            failed[name] = str(error)
    return scores, failed


class CodeUsage:
    """Counts the codes of every codebook over a set of clips and tells how evenly they are used.

    Args:
        n_q: codebooks, K.
        codebook_size: V.
    """

    def __init__(self, n_q: int, codebook_size: int) -> None:
        self.codebook_size = codebook_size
        self.counts = torch.zeros(n_q, codebook_size, dtype=torch.int64)

    def add(self, codes: Tensor) -> None:
        """Count one clip.

        Args:
            codes: [K, T] int64 in [0, V).

        Raises:
            ValueError: another number of codebooks, or a code outside [0, V).
        """
        n_q = len(self.counts)
        if codes.dim() != 2 or len(codes) != n_q:
            raise ValueError(f"expected codes [K = {n_q}, T], got {list(codes.shape)}; pass one clip's grid")
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.codebook_size:
            raise ValueError(
                f"expected codes in [0, {self.codebook_size}), got {int(codes.min())}..{int(codes.max())}"
            )
        for row, counts in zip(codes.cpu(), self.counts, strict=True):
            counts += torch.bincount(row, minlength=self.codebook_size)

    @property
    def frames(self) -> int:
        """Frames counted, T summed over the clips."""
        return int(self.counts[0].sum()) if len(self.counts) else 0

    @property
    def entropy_bits(self) -> list[float]:
        """Entropy of each codebook's histogram in bits per frame, 0 to log2 V."""
        share = self.counts.double() / max(1, self.frames)
        return (torch.special.entr(share).sum(dim=1) / math.log(2)).tolist()

    @property
    def perplexity(self) -> list[float]:
        """2 ** entropy of each codebook: how many equally likely codes would carry as much, 1 to V."""
        return [2.0**bits for bits in self.entropy_bits]

    @property
    def efficiency(self) -> float:
        """Bits that the codes carry (order-0 entropy) over the bits they are stored in, 0 to 1."""
        return sum(self.entropy_bits) / (len(self.counts) * math.log2(self.codebook_size))


def perplexity(codes: Tensor, codebook_size: int) -> list[float]:
    """Perplexity of every codebook of one grid.

    Args:
        codes: [K, T] int64 in [0, V).
        codebook_size: V.

    Returns:
        K numbers from 1 (collapsed) to V (uniform).

    Raises:
        ValueError: a code outside [0, V), or not a [K, T] grid.
    """
    usage = CodeUsage(len(codes), codebook_size)
    usage.add(codes)
    return usage.perplexity


def _library(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"the metric needs the package '{name}', which is not installed; pip install 'audiotok[eval]'",
            name=name,
        ) from error


def _pair(reference: Tensor, estimate: Tensor) -> tuple[Tensor, Tensor]:
    """Both as [N] float32 on the CPU, checked to be finite, non-empty and of one length."""
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
