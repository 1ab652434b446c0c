"""Wav -> latents, with only what can live on an integer grid.

Strided convolutions, residual adds, leaky ReLU, and a logarithm made of straight lines (exponent plus mantissa), which
is exact where a table or a bit shift is. Two filter banks look at a frame: a short one for the spectrum's shape, a long
one that resolves the harmonics of a low voice; the rest works at frame rate, a tenth of the cost of an encoder at
waveform rate. The law kept: latents of frame t see samples before (t + 1) * hop_length only.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import CausalConv1d, ResidualUnit, StepConv1d, StreamState

PHASES = 8  # filters of one band, 45 degrees apart: the rectified sum then ripples by 4 % as the wave's phase turns
FLOOR = 2.0**-9  # magnitude under the logarithm, about -90 dB full scale: what lies below is silence


def straight_log2(x: Tensor) -> Tensor:
    """log2 with straight lines between powers of two: exponent plus mantissa, exact in any binary arithmetic.

    Args:
        x: any shape, float, positive.

    Returns:
        The same shape; equal to log2 at powers of two and at most 0.086 below it between them.
    """
    exponent = torch.frexp(x.detach()).exponent
    return torch.ldexp(x, 1 - exponent) + (exponent - 2)


def gabor_filters(centres_hz: Tensor, window: int, length: int, sampling_rate: int) -> Tensor:
    """Hann-windowed waves, :data:`PHASES` phases a band, at the newest end of ``window`` samples.

    A leaky ReLU of opposite phases sums to a magnitude, so an encoder that starts here sees a spectrum at once instead
    of having to find one.

    Args:
        centres_hz: [bands] float32.
        window: samples that the convolution sees.
        length: samples of the Hann window, at most ``window``.
        sampling_rate: Hz.

    Returns:
        [bands * PHASES, 1, window] float32, scaled so that speech gives values of order one.
    """
    time_s = torch.arange(length) / sampling_rate
    phases = torch.arange(PHASES) * (2 * math.pi / PHASES)
    waves = torch.cos(2 * math.pi * centres_hz[:, None, None] * time_s + phases[:, None])
    filters = waves * torch.hann_window(length, periodic=True) * (64.0 / length)
    return F.pad(filters, (window - length, 0)).reshape(-1, 1, window)


class FilterBank(nn.Module):
    """Wav -> log magnitudes of bands at frame rate, with filters that training leaves alone.

    Fixed, because a filter that is 1 % off lets a vowel's low notes, 40 dB louder, into the bands of its high ones.

    Args:
        bands: of :data:`PHASES` filters each.
        low_hz, high_hz: lowest and highest centre at the start; spaced like mel with the break at 1 kHz.
        window: samples that a filter sees, the newest ``hop_length`` of them new.
        hop_length: samples per frame.
        slope: negative slope of the leaky ReLU.
        sampling_rate: Hz.
    """

    def __init__(
        self,
        bands: int,
        low_hz: float,
        high_hz: float,
        window: int,
        hop_length: int,
        slope: float,
        sampling_rate: int,
    ) -> None:
        super().__init__()
        self.range_hz = (low_hz, high_hz)
        self.slope = slope
        self.sampling_rate = sampling_rate
        self.analysis = CausalConv1d(1, bands * PHASES, window, stride=hop_length)
        self.magnitude = StepConv1d(bands * PHASES, bands, 1, groups=bands)
        self.requires_grad_(False)

    def init_filters(self) -> None:
        """Set the filters to waves and the sums to magnitudes."""
        conv, sums = self.analysis.conv, self.magnitude
        low, high = (math.log1p(f / 1000.0) for f in self.range_hz)
        centres_hz = 1000.0 * torch.expm1(torch.linspace(low, high, sums.out_channels))
        window = conv.kernel_size[0]
        assert conv.bias is not None and sums.bias is not None
        with torch.no_grad():
            conv.weight.copy_(gabor_filters(centres_hz, window, window, self.sampling_rate))
            conv.bias.zero_()
            sums.weight.fill_(1.0 / PHASES)
            sums.bias.zero_()

    def forward(self, wav: Tensor, state: StreamState | None = None) -> Tensor:
        """[B, 1, T * hop_length] float32 -> [B, bands, T], about -1.5 (silence) to 1.5 (full scale)."""
        x = F.leaky_relu(self.analysis(wav, state), self.slope)
        return 0.25 * (straight_log2(F.relu(self.magnitude(x)) + FLOOR) + 3.0)


class Encoder(nn.Module):
    """Wav -> latents at frame rate.

    Args:
        shape_bank: the filter bank of the spectrum's shape.
        pitch_bank: the one that resolves harmonics.
        bands: of both together.
        dim: width of the residual blocks.
        dilations: one residual block each, in frames.
        latent_dim: width of the latents.
        slope: negative slope of the leaky ReLU.
    """

    def __init__(
        self,
        shape_bank: FilterBank,
        pitch_bank: FilterBank,
        bands: int,
        dim: int,
        dilations: list[int],
        latent_dim: int,
        slope: float,
    ) -> None:
        super().__init__()
        self.slope = slope
        self.shape_bank = shape_bank
        self.pitch_bank = pitch_bank
        self.mix = StepConv1d(bands, dim, 1)
        self.units = nn.ModuleList([ResidualUnit(dim, dilation, slope) for dilation in dilations])
        self.latent = StepConv1d(dim, latent_dim, 1)

    def forward(self, wav: Tensor, state: StreamState | None = None) -> Tensor:
        """[B, 1, T * hop_length] float32 -> [B, latent_dim, T]."""
        x = self.mix(torch.cat([self.shape_bank(wav, state), self.pitch_bank(wav, state)], dim=1))
        for unit in self.units:
            x = unit(x, state)
        return self.latent(x)
