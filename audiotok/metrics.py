"""Distances between a reference and an estimate, and statistics of codebook use."""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .audio import resample

SI_SDR_LIMIT_DB = 100.0
"""Scores are clipped to +- this value, because identical signals have an infinite SI-SDR."""

F0_MIN_HZ, F0_MAX_HZ = 60.0, 500.0
"""Range of the pitch estimator."""

_HOP_S, _WINDOW_S = 0.010, 0.025
# Threshold of the normalised difference. The paper uses 0.1 for clean speech; 0.15 tolerates a little noise.
_THRESHOLD = 0.15
# Frames this far below the loudest one of the clip have no pitch.
_QUIET_DB = 40.0


class MetricError(ValueError):
    """A metric is not defined on this clip, for the reason in the message."""


def pesq(reference: Tensor, estimate: Tensor, sampling_rate: int, band: Literal["wb", "nb"] = "wb") -> float:
    """Perceptual evaluation of speech quality, ITU-T P.862.2 (wide band) or P.862 (narrow band).

    Args:
        reference: wav, [N] or [1, N] float32.
        estimate: wav of the same shape.
        sampling_rate: of both, in Hz; other rates than 16000 are resampled to 16000 first.
        band: "wb" or "nb".

    Returns:
        the mean opinion score: 1.04 (bad) to 4.64 (identical) for "wb", 1.02 to 4.55 for "nb".

    Raises:
        MetricError: no utterance was found, or the clip is shorter than 0.25 s.
        ModuleNotFoundError: the package ``pesq`` is missing.
    """
    library = _import("pesq", "eval")
    reference, estimate = (resample(wav, sampling_rate, 16000) for wav in _checked_pair(reference, estimate))
    if not bool(estimate.any()):  # level alignment divides by its power
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
    library = _import("pystoi", "eval")
    reference, estimate = _checked_pair(reference, estimate)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "error", RuntimeWarning
        )  # pystoi warns of a clip that is too short and returns 1e-5
        try:
            value = library.stoi(reference.double().numpy(), estimate.double().numpy(), sampling_rate)
        except (RuntimeWarning, ValueError, IndexError) as error:
            raise MetricError(f"stoi: {str(error).split('.')[0]}") from error
    return _finite("stoi", float(value))


def visqol(reference: Tensor, estimate: Tensor, sampling_rate: int) -> float:
    """ViSQOL v3 in speech mode (Chinen et al. 2020), with the deep-lattice mapping of the original program.

    Args:
        reference: wav, [N] or [1, N] float32.
        estimate: wav of the same shape.
        sampling_rate: of both, in Hz; other rates than 16000 are resampled to 16000 first.

    Returns:
        the mean opinion score, 1 (bad) to 5.

    Raises:
        MetricError: the estimate is silent, the clip is too short, or no speech is found in it.
        ModuleNotFoundError: the package ``visqol-python`` or its lattice runtime is missing.
    """
    api = _visqol_api()
    pair = [resample(wav, sampling_rate, 16000) for wav in _checked_pair(reference, estimate)]
    if not bool(pair[1].any()):
        raise MetricError("visqol: the estimate is digital silence")
    try:
        outcome = api.measure_from_arrays(*(wav.double().numpy() for wav in pair), 16000)
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise MetricError(f"visqol: {error}") from error
    return _finite("visqol", float(outcome.moslqo))


@cache
def _visqol_api() -> Any:
    api = _import("visqol", "visqol").VisqolApi()
    # Without the lattice runtime the package falls back to another mapping, which scores a point or two higher.
    _import("ai_edge_litert.interpreter", "visqol")
    api.create(mode="speech", use_lattice_model=True)
    return api


def si_sdr(reference: Tensor, estimate: Tensor) -> float:
    """Scale-invariant signal-to-distortion ratio in dB, clipped to +- :data:`SI_SDR_LIMIT_DB`.

    Le Roux et al., "SDR - half-baked or well done?", ICASSP 2019. No mean is removed.

    Args:
        reference: wav, [N] or [1, N] float32.
        estimate: wav of the same shape.

    Raises:
        MetricError: one of the two is silent.
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
    """Mean absolute difference of two log-mel spectrograms in dB (80 bands, 32 ms frames every 8 ms).

    Args:
        reference: wav, [N] or [1, N] float32.
        estimate: wav of the same shape.
        sampling_rate: of both, in Hz.

    Raises:
        MetricError: a sample is not finite, or there is none.
    """
    from transformers.audio_utils import mel_filter_bank

    pair = torch.stack(_checked_pair(reference, estimate))
    size = 2 ** round(math.log2(0.032 * sampling_rate))
    scale: Any = {"norm": "slaney", "mel_scale": "slaney"}
    bank = torch.from_numpy(
        mel_filter_bank(size // 2 + 1, 80, 0.0, sampling_rate / 2, sampling_rate, **scale)
    ).float()
    if pair.shape[-1] <= size:  # reflect padding needs more samples than it adds
        pair = F.pad(pair, (0, size + 1 - pair.shape[-1]))
    spectrum = torch.stft(pair, size, size // 4, window=torch.hann_window(size), return_complex=True)
    mel = spectrum.abs().square().transpose(1, 2) @ bank
    level_db = 10 * torch.log10(mel.clamp_min(1e-7))  # about 100 dB below full-scale speech
    return float((level_db[0] - level_db[1]).abs().mean())


def yin(wav: Tensor, sampling_rate: int) -> Tensor:
    """Pitch every 10 ms, by de Cheveigne and Kawahara, "YIN", JASA 2002 (equations 6 to 8, steps 4 and 5).

    Codec training uses a different pitch estimator.

    Args:
        wav: [N] float32.
        sampling_rate: in Hz.

    Returns:
        [T] float64, Hz; 0 where there is no pitch. T = 0 for a clip shorter than 42 ms.
    """
    window, hop = round(_WINDOW_S * sampling_rate), round(_HOP_S * sampling_rate)
    shortest, longest = int(sampling_rate / F0_MAX_HZ), math.ceil(sampling_rate / F0_MIN_HZ)
    span = window + longest
    if wav.shape[-1] < span:
        return torch.zeros(0, dtype=torch.float64)
    wav = wav.double()
    frames = (wav - wav.mean()).unfold(0, span, hop)
    difference = _difference(frames, window, longest)
    lags = torch.arange(1, longest + 1)
    # Equation 8; lag 0 is 1 by definition.
    normal = difference[:, 1:] * lags / difference[:, 1:].cumsum(-1).clamp_min(1e-12)
    normal = F.pad(normal, (1, 0), value=1.0)
    # Step 4: the first dip below the threshold, followed to its minimum.
    falling = F.pad(normal[:, 1:] < normal[:, :-1], (0, 1))
    candidate = (normal < _THRESHOLD) & ~falling
    candidate[:, :shortest] = False
    candidate[:, longest:] = False
    level = frames[:, :window].square().mean(-1)
    voiced = candidate.any(-1) & (level > level.max() * 10 ** (-_QUIET_DB / 10)) & (level > 0)
    best = candidate.double().argmax(-1).clamp(1, longest - 1)
    # Step 5: a parabola through the minimum of the plain difference.
    below, bottom, above = (difference.gather(-1, (best + shift)[:, None])[:, 0] for shift in (-1, 0, 1))
    bend = (below - 2 * bottom + above).clamp_min(1e-12)
    lag = best + (0.5 * (below - above) / bend).clamp(-1, 1)
    return torch.where(voiced, sampling_rate / lag, 0.0)


def f0_error(reference: Tensor, estimate: Tensor, sampling_rate: int) -> float:
    """Root mean square difference of pitch in cents, over the frames in which both have one.

    Args:
        reference: wav, [N] or [1, N] float32.
        estimate: wav of the same shape.
        sampling_rate: of both, in Hz.

    Raises:
        MetricError: no frame has a pitch in both.
    """
    first, second = (yin(wav, sampling_rate) for wav in _checked_pair(reference, estimate))
    both = (first > 0) & (second > 0)
    if not bool(both.any()):
        raise MetricError("f0_error: no frame has a pitch in both")
    cents = 1200 * torch.log2(second[both] / first[both])
    return float(cents.square().mean().sqrt())


def voicing_error(reference: Tensor, estimate: Tensor, sampling_rate: int) -> float:
    """Share of frames in which only one of the two has a pitch, 0 to 1.

    Args:
        reference: wav, [N] or [1, N] float32.
        estimate: wav of the same shape.
        sampling_rate: of both, in Hz.

    Raises:
        MetricError: the clip is shorter than one frame.
    """
    first, second = (yin(wav, sampling_rate) > 0 for wav in _checked_pair(reference, estimate))
    if not len(first):
        raise MetricError("voicing_error: the clip is shorter than 42 ms")
    return float((first != second).double().mean())


METRICS: dict[str, Callable[[Tensor, Tensor, int], float]] = {
    "pesq_wb": pesq,
    "pesq_nb": partial(pesq, band="nb"),
    "stoi": stoi,
    "visqol": visqol,
    "si_sdr_db": lambda reference, estimate, sampling_rate: si_sdr(reference, estimate),
    "mel_distance_db": mel_distance,
    "f0_error_cents": f0_error,
    "voicing_error": voicing_error,
}
"""Name -> f(reference, estimate, sampling_rate)."""

NEEDS = {
    "pesq_wb": (("pesq", "eval"),),
    "pesq_nb": (("pesq", "eval"),),
    "stoi": (("pystoi", "eval"),),
    "visqol": (("visqol", "visqol"), ("ai_edge_litert", "visqol")),
}
"""Metric -> the optional modules it imports, each with the extra that installs it."""


def check_libraries(metrics: Sequence[str]) -> None:
    """Import the packages that metrics need, so that a missing package is found in advance.

    Raises:
        ModuleNotFoundError: a package is missing; the message names the extra that installs it.
    """
    for name in metrics:
        for module, extra in NEEDS.get(name, ()):
            _import(module, extra)


def score(
    reference: Tensor, estimate: Tensor, sampling_rate: int, metrics: Sequence[str]
) -> tuple[dict[str, float], dict[str, str]]:
    """Compute several metrics.

    Args:
        reference: wav, [N] or [1, N] float32.
        estimate: wav of the same shape.
        sampling_rate: of both, in Hz.
        metrics: names in :data:`METRICS`.

    Returns:
        scores by name, and reasons by name for the metrics that are not defined on this clip. Every name is in
        exactly one of the two.
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
    """Histograms of the codes of every codebook over a set of clips.

    Args:
        n_q: codebooks, K.
        codebook_size: V.
    """

    def __init__(self, n_q: int, codebook_size: int) -> None:
        self.codebook_size = codebook_size
        self.counts = torch.zeros(n_q, codebook_size, dtype=torch.int64)

    def add(self, codes: Tensor) -> None:
        """Count the codes [K, T] int64 of one clip. ValueError: another K, or a code outside [0, V)."""
        n_q = len(self.counts)
        if codes.dim() != 2 or len(codes) != n_q:
            raise ValueError(
                f"expected codes [K = {n_q}, T], got {list(codes.shape)}; pass one clip at a time"
            )
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.codebook_size:
            raise ValueError(
                f"expected codes in [0, {self.codebook_size}), got {int(codes.min())}..{int(codes.max())}"
            )
        for row, counts in zip(codes.cpu(), self.counts, strict=True):
            counts += torch.bincount(row, minlength=self.codebook_size)

    @property
    def frames(self) -> int:
        """Frames counted."""
        return int(self.counts[0].sum()) if len(self.counts) else 0

    @property
    def entropy_bits(self) -> list[float]:
        """Entropy of each codebook in bits per frame, 0 to log2 V."""
        share = self.counts.double() / max(1, self.frames)
        return (torch.special.entr(share).sum(dim=1) / math.log(2)).tolist()

    @property
    def perplexity(self) -> list[float]:
        """2 ** entropy of each codebook, 1 (collapsed) to V (uniform)."""
        return [2.0**bits for bits in self.entropy_bits]


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
        raise ValueError(
            f"expected signals of one length, got {len(pair[0])} and {len(pair[1])}; cut or pad one"
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


def _difference(frames: Tensor, window: int, longest: int) -> Tensor:
    """Equation 6 of YIN for lags 0 to ``longest``: energies minus twice the correlation, which an FFT gives."""
    size = 1 << (frames.shape[-1] - 1).bit_length()  # no lag wraps around
    head = torch.fft.rfft(frames[:, :window], size)
    correlation = torch.fft.irfft(head.conj() * torch.fft.rfft(frames, size), size)[:, : longest + 1]
    energy = F.pad(frames.square().cumsum(-1), (1, 0))
    energy = energy[:, window : window + longest + 1] - energy[:, : longest + 1]
    return (energy[:, :1] + energy - 2 * correlation).clamp_min(0.0)
