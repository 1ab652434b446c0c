"""Encoder: wav -> latents at frame rate.

Fixed filter banks give log powers through windows of several lengths: short ones locate onsets, long ones resolve the
harmonics of a low voice. Causal residual units at frame rate follow, at a tenth of the cost of an encoder at waveform
rate. Latents of frame t depend on samples before (t + 1) * hop_length only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from .config import CodecConfig
from .layers import CausalConv1d, Float32Module, ResidualUnit, StepConv1d, StreamState, no_autocast

FLOOR = 2.0**-20  # power added before the logarithm, about -90 dB full scale


def straight_log2(x: Tensor) -> Tensor:
    """Piecewise linear log2 (exponent plus mantissa) of positive floats, identical on every machine: equal to log2 at
    powers of two and at most 0.086 below it between them.
    """
    exponent = torch.frexp(x.detach()).exponent
    return torch.ldexp(x, 1 - exponent) + (exponent - 2)


def fourier_filters(bins: Iterable[int], window: int) -> Tensor:
    """Cosines and sines of F bins of a Fourier transform through a Hann window, as filters of a strided convolution:
    [2 * F, 1, window] float32, the cosines first, scaled so that a full-scale wave gives a magnitude of 8.
    """
    n = torch.arange(window, dtype=torch.float64)
    turns = torch.remainder(torch.tensor([*bins]).double()[:, None] * n, window) * (2 * math.pi / window)
    waves = torch.cat([torch.cos(turns), torch.sin(turns)])
    return (waves * torch.hann_window(window, dtype=torch.float64) * (32.0 / window)).float()[:, None]


def mel_weights(frequencies_hz: Tensor, bands: int, range_hz: tuple[float, float]) -> Tensor:
    """Triangular mel filters between two frequencies: [bands, F] float32 of unit peak, rounded to 1/256."""
    low, high = (2595.0 * math.log10(1.0 + hz / 700.0) for hz in range_hz)
    edges_hz = 700.0 * (10.0 ** (torch.linspace(low, high, bands + 2, dtype=torch.float64) / 2595.0) - 1.0)
    hz = frequencies_hz.double()
    rising = (hz - edges_hz[:-2, None]) / (edges_hz[1:-1] - edges_hz[:-2])[:, None]
    falling = (edges_hz[2:, None] - hz) / (edges_hz[2:] - edges_hz[1:-1])[:, None]
    weights = torch.minimum(rising, falling).clamp_min(0.0)
    return (torch.round(weights * 256) / 256).float()


def band_sums(bins: Sequence[int], bin_hz: float, bands: int | None, range_hz: tuple[float, float]) -> Tensor:
    """Sums of the squares of :func:`fourier_filters` into bands: [bands, 2 * F, 1] float32; None keeps every bin."""
    weights = torch.eye(len(bins))
    if bands is not None:
        weights = mel_weights(torch.tensor([*bins]) * bin_hz, bands, range_hz)
    return torch.cat([weights, weights], dim=1)[..., None]


class FilterBank(nn.Module):
    """Wav -> log power of bands: a Fourier transform as a convolution, squares, and sums over bands.

    The filters are not trained, because an error of 1 % would leak low harmonics into high bands, 40 dB below them.

    Args:
        config: of the codec.
        window: samples of a filter.
        low_hz, high_hz: lowest and highest frequency.
        bands: number of mel bands; None uses every bin of the transform as a band.
        snapshots: windows per frame.
    """

    def __init__(
        self,
        config: CodecConfig,
        window: int,
        low_hz: float,
        high_hz: float,
        bands: int | None,
        snapshots: int,
    ) -> None:
        super().__init__()
        self.snapshots = snapshots
        bin_hz = config.sampling_rate / window
        bins = range(math.floor(low_hz / bin_hz), math.ceil(high_hz / bin_hz) + 1)
        width = bands or len(bins)
        self.features = width * snapshots
        self.analysis = CausalConv1d(1, 2 * len(bins), window, config.hop_length // snapshots, bias=False)
        self.sums = StepConv1d(2 * len(bins), width, 1, bias=False)
        self.analysis.conv.fixed = partial(fourier_filters, bins, window)
        self.sums.fixed = partial(band_sums, bins, bin_hz, bands, (low_hz, high_hz))
        self.requires_grad_(False)

    def forward(self, wav: Tensor, state: StreamState | None = None) -> Tensor:
        """[B, 1, T * hop_length] float32 -> [B, features, T], -6 (silence) to about 8 (full scale)."""
        power = self.sums(self.analysis(wav, state).square())
        x = 0.5 * (straight_log2(power + FLOOR) + 8.0)
        # [B, bands, T * S] -> [B, S * bands, T]: a frame's snapshots become its channels.
        return x.unflatten(2, (-1, self.snapshots)).permute(0, 3, 1, 2).flatten(1, 2)


class Encoder(Float32Module):
    """Wav -> latents at frame rate."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        dim, slope = config.encoder_dim, config.leaky_slope
        banks = [FilterBank(config, **bank) for bank in config.encoder_banks]
        self.banks = nn.ModuleList(banks)
        self.mix = StepConv1d(sum(bank.features for bank in banks), dim, 1)
        self.units = nn.ModuleList(
            [ResidualUnit(dim, dilation, slope) for dilation in config.encoder_dilations]
        )
        self.latent = StepConv1d(dim, config.codebook_dim + config.semantic_dim, 1)

    @no_autocast
    def forward(self, wav: Tensor, state: StreamState | None = None) -> Tensor:
        """[B, 1, T * hop_length] float -> [B, latent_dim, T] float32."""
        wav = wav.float()
        x = self.mix(torch.cat([bank(wav, state) for bank in self.banks], dim=1))
        for unit in self.units:
            x = unit(x, state)
        return self.latent(x)
