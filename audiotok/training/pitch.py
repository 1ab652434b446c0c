"""Pitch tracking of recorded speech, for the targets of the codec's pitch classes.

Normalised cross-correlation as in Talkin's RAPT (1995), without its dynamic programming, because training averages out
the few octave errors.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_WINDOW_S = 0.032


@torch.no_grad()
def track_pitch(
    wav: Tensor, hop_length: int, sampling_rate: int, f0_min_hz: float, f0_max_hz: float
) -> tuple[Tensor, Tensor]:
    """Pitch near the end of each frame.

    Args:
        wav: [B, 1, T * hop_length] float32.
        hop_length: samples per frame.
        sampling_rate: Hz.
        f0_min_hz, f0_max_hz: range of the search.

    Returns:
        f0_hz [B, T] float32, and voiced [B, T] bool.
    """
    window = int(_WINDOW_S * sampling_rate)
    lag_min, lag_max = int(sampling_rate / f0_max_hz), int(sampling_rate / f0_min_hz) + 1
    span = window + lag_max
    frames = wav.shape[-1] // hop_length
    # The segment is centred at three quarters of the frame.
    left = span // 2 - 3 * hop_length // 4
    x = F.pad(wav[:, 0], (left, span))
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
    lags = torch.arange(lag_max + 1, device=wav.device)
    # Multiples of the true lag correlate as well, so long lags get a small penalty.
    score = nccf * (1.0 - 0.12 * lags / lag_max)
    score[..., :lag_min] = -1.0
    best = score[..., :-1].argmax(-1, keepdim=True).clamp(1, lag_max - 1)
    below, peak, above = (nccf.gather(-1, best + shift)[..., 0] for shift in (-1, 0, 1))
    bend = (below - 2 * peak + above).clamp(max=-1e-6)
    lag = best[..., 0] + (0.5 * (below - above) / bend).clamp(-0.5, 0.5)
    voiced = peak > 0.6
    f0_hz = _median5(sampling_rate / lag).clamp(f0_min_hz, f0_max_hz)
    return f0_hz, voiced


def _median5(x: Tensor) -> Tensor:
    """Running median of 5 values over the last dimension."""
    return F.pad(x[:, None], (2, 2), mode="replicate")[:, 0].unfold(-1, 5, 1).median(-1).values
