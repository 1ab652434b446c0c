"""Wav -> latents, with only what can live on an integer grid: strided convolutions, residual adds, leaky ReLU.

One convolution of a frame and its predecessor, then residual blocks at frame rate: a tenth of the cost of an encoder
that works at waveform rate. The law kept: latents of frame t see samples before (t + 1) * hop_length only.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import CausalConv1d, ResidualUnit, StreamState

PHASES = 8  # filters of one band, 45 degrees apart: the rectified sum then ripples by 4 % as the wave's phase turns


def gabor_filters(channels: int, window: int, sampling_rate: int) -> Tensor:
    """A Hann-windowed filter bank: bands of :data:`PHASES` phases, dense where voices have their harmonics.

    A leaky ReLU of opposite phases sums to a magnitude, so an encoder that starts here sees a spectrum at once
    instead of having to find one.

    Returns:
        [channels, 1, window] float32, scaled so that speech gives values of order one.
    """
    bands = channels // PHASES
    nyquist = sampling_rate / 2
    # Bands spaced like mel, with the break moved up to 1 kHz: 25-40 Hz apart where pitch is read.
    mel_max = math.log1p(nyquist / 1000.0)
    centres_hz = 1000.0 * torch.expm1(torch.linspace(math.log1p(0.06), mel_max * 0.985, bands))
    time_s = torch.arange(window) / sampling_rate
    phases = torch.arange(PHASES) * (2 * math.pi / PHASES)
    waves = torch.cos(2 * math.pi * centres_hz[:, None, None] * time_s + phases[:, None])
    filters = waves * torch.hann_window(window, periodic=True)
    return (filters * (8.0 / math.sqrt(window))).reshape(bands * PHASES, 1, window)


class Encoder(nn.Module):
    """Wav -> latents at frame rate.

    Args:
        hop_length: samples per frame.
        window: samples that the first convolution sees; the newest ``hop_length`` are the frame.
        channels: filters of the first convolution.
        dim: width of the residual blocks.
        dilations: one residual block each, in frames.
        latent_dim: width of the latents.
        slope: negative slope of the leaky ReLU.
        sampling_rate: Hz, for the filters' start.
    """

    def __init__(
        self,
        hop_length: int,
        window: int,
        channels: int,
        dim: int,
        dilations: list[int],
        latent_dim: int,
        slope: float,
        sampling_rate: int,
    ) -> None:
        super().__init__()
        self.slope = slope
        self.sampling_rate = sampling_rate
        self.analysis = CausalConv1d(1, channels, window, stride=hop_length)
        self.mix = nn.Conv1d(channels, dim, 1)
        self.units = nn.ModuleList([ResidualUnit(dim, dilation, slope) for dilation in dilations])
        self.latent = nn.Conv1d(dim, latent_dim, 1)

    def init_filters(self) -> None:
        """Set the first convolution to :func:`gabor_filters` and spread the next layer's thresholds."""
        conv = self.analysis.conv
        with torch.no_grad():
            conv.weight.copy_(gabor_filters(conv.out_channels, conv.kernel_size[0], self.sampling_rate))
            assert conv.bias is not None
            conv.bias.zero_()

    def forward(self, wav: Tensor, state: StreamState | None = None) -> Tensor:
        """[B, 1, T * hop_length] float32 -> [B, latent_dim, T]."""
        x = F.leaky_relu(self.analysis(wav, state), self.slope)
        x = self.mix(x)
        for unit in self.units:
            x = unit(x, state)
        return self.latent(F.leaky_relu(x, self.slope))
