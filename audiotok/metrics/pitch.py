"""The pitch of speech, for measuring: an estimator of its own, and how far two recordings' pitches differ.

Knows nothing of codecs. The law it keeps: it shares nothing with the pitch that a codec is trained on, so that
a codec is not judged by its own teacher.

Source: de Cheveigne, Kawahara, "YIN, a fundamental frequency estimator for speech and music", JASA 2002.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .quality import MetricError, checked_pair

F0_MIN_HZ, F0_MAX_HZ = 60.0, 500.0
"""Where a pitch is looked for: speaking voices of men, women and children."""

_HOP_S, _WINDOW_S = 0.010, 0.025
# Of the normalised difference: the paper's absolute threshold is 0.1 for clean speech; 0.15 bears a little noise.
_THRESHOLD = 0.15
# A frame this far below the clip's loudest one has no pitch worth comparing.
_QUIET_DB = 40.0


def yin(wav: Tensor, sampling_rate: int) -> Tensor:
    """Pitch of every 10 ms.

    Args:
        wav: [N] float32.
        sampling_rate: in Hz.

    Returns:
        [T] float64, Hz; 0 where there is no pitch. T = 0 for a clip shorter than 42 ms.

    Source: equations 6 to 8 of the paper and its steps 4 and 5 (threshold, parabola).
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
    # Equation 8; lag 0 is 1 by definition. Silence comes out as 0 here; its level tells it from a pitch.
    normal = difference[:, 1:] * lags / difference[:, 1:].cumsum(-1).clamp_min(1e-12)
    normal = F.pad(normal, (1, 0), value=1.0)
    # Step 4: the first lag that dips under the threshold, and from there down to the bottom of its dip.
    falling = F.pad(normal[:, 1:] < normal[:, :-1], (0, 1))
    candidate = (normal < _THRESHOLD) & ~falling
    candidate[:, :shortest] = False
    candidate[:, longest:] = False
    level = frames[:, :window].square().mean(-1)
    voiced = candidate.any(-1) & (level > level.max() * 10 ** (-_QUIET_DB / 10)) & (level > 0)
    best = candidate.double().argmax(-1).clamp(1, longest - 1)
    # Step 5: a parabola through the dip of the plain difference, which has no slope of its own.
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

    Returns:
        Cents (1200 an octave), 0 or more. An octave error of either track counts in full.

    Raises:
        MetricError: no frame has a pitch in both.
    """
    first, second = (yin(wav, sampling_rate) for wav in checked_pair(reference, estimate))
    both = (first > 0) & (second > 0)
    if not bool(both.any()):
        raise MetricError("f0_error: no frame has a pitch in both")
    cents = 1200 * torch.log2(second[both] / first[both])
    return float(cents.square().mean().sqrt())


def voicing_error(reference: Tensor, estimate: Tensor, sampling_rate: int) -> float:
    """Share of frames in which one of the two has a pitch and the other has none, 0 to 1.

    Args:
        reference: wav, [N] or [1, N] float32.
        estimate: wav of the same shape.
        sampling_rate: of both, in Hz.

    Raises:
        MetricError: the clip is shorter than one frame.
    """
    first, second = (yin(wav, sampling_rate) > 0 for wav in checked_pair(reference, estimate))
    if not len(first):
        raise MetricError("voicing_error: the clip is shorter than 42 ms")
    return float((first != second).double().mean())


def _difference(frames: Tensor, window: int, longest: int) -> Tensor:
    """Equation 6 for lags 0 to ``longest``: energies minus twice the correlation, which an FFT gives."""
    size = 1 << (frames.shape[-1] - 1).bit_length()  # no lag looked at wraps around
    head = torch.fft.rfft(frames[:, :window], size)
    correlation = torch.fft.irfft(head.conj() * torch.fft.rfft(frames, size), size)[:, : longest + 1]
    energy = F.pad(frames.square().cumsum(-1), (1, 0))
    energy = energy[:, window : window + longest + 1] - energy[:, : longest + 1]
    return (energy[:, :1] + energy - 2 * correlation).clamp_min(0.0)
