"""Discriminators of STFTs at several resolutions and of the waveform at several rates.

EnCodec's MS-STFT discriminator (arXiv:2210.13438, section 3.4) on complex or on log-magnitude spectra, and
SoundStream's waveform discriminator (arXiv:2107.03312, section III-D), which is MelGAN's (arXiv:1910.06711).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


class Discriminator(nn.Module):
    """Convolutions with leaky ReLUs, and a last one without, which gives the logits."""

    layers: nn.ModuleList
    logits: nn.Module

    def features(self, x: Tensor) -> list[Tensor]:
        """Features of each layer, then the logits."""
        found = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            found.append(x)
        return [*found, self.logits(x)]


class STFTDiscriminator(Discriminator):
    """Convolutions over one spectrogram, with hops of a quarter of the window.

    ``log_magnitude`` replaces complex spectra by log magnitudes, for a decoder with another phase.
    """

    window: Tensor

    def __init__(
        self, n_fft: int, channels: int, audio_channels: int = 1, log_magnitude: bool = False
    ) -> None:
        super().__init__()
        self.n_fft, self.log_magnitude = n_fft, log_magnitude
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        inputs = audio_channels if log_magnitude else 2 * audio_channels
        layers = [nn.Conv2d(inputs, channels, (3, 9), padding=(1, 4))]
        for dilation in (1, 2, 4):
            layers.append(
                nn.Conv2d(channels, channels, (3, 9), (1, 2), padding=(dilation, 4), dilation=(dilation, 1))
            )
        self.layers = nn.ModuleList([weight_norm(layer) for layer in layers])
        self.logits = weight_norm(nn.Conv2d(channels, 1, (3, 3), padding=(1, 1)))

    def forward(self, wav: Tensor) -> list[Tensor]:
        """[B, C, N] -> features of each layer, then the logits, [B, 1, frames, bins']."""
        hop = self.n_fft // 4
        spectrum = torch.stft(
            wav.flatten(0, 1), self.n_fft, hop, window=self.window, normalized=True, return_complex=True
        ).unflatten(0, wav.shape[:2])
        if self.log_magnitude:
            x = torch.log(torch.sqrt(spectrum.real.square() + spectrum.imag.square() + 1e-6))
        else:
            x = torch.cat([spectrum.real, spectrum.imag], dim=1)
        return self.features(x.transpose(2, 3))


class WaveDiscriminator(Discriminator):
    """Strided grouped convolutions over the waveform, which is first downsampled ``rate`` times by averages.

    Each of four strides of 4 has up to four times as many channels, at most 16 times ``channels``.
    """

    def __init__(self, rate: int, channels: int, audio_channels: int = 1) -> None:
        super().__init__()
        self.rate = rate
        widths = [channels * min(4**level, 16) for level in range(5)]
        layers = [nn.Conv1d(audio_channels, channels, 15, padding=7)]
        for before, after in zip(widths, widths[1:], strict=False):
            layers.append(nn.Conv1d(before, after, 41, stride=4, groups=max(1, before // 4), padding=20))
        layers.append(nn.Conv1d(widths[-1], widths[-1], 5, padding=2))
        self.layers = nn.ModuleList([weight_norm(layer) for layer in layers])
        self.logits = weight_norm(nn.Conv1d(widths[-1], 1, 3, padding=1))

    def forward(self, wav: Tensor) -> list[Tensor]:
        """[B, C, N] -> features of each layer, then the logits, [B, 1, n]."""
        return self.features(F.avg_pool1d(wav, self.rate) if self.rate > 1 else wav)


class MultiResolutionDiscriminator(nn.Module):
    """One :class:`STFTDiscriminator` per resolution, and one :class:`WaveDiscriminator` per rate."""

    def __init__(
        self,
        resolutions: tuple[int, ...],
        channels: int,
        audio_channels: int = 1,
        wave_rates: tuple[int, ...] = (),
        log_magnitude: bool = False,
    ) -> None:
        super().__init__()
        spectra = [STFTDiscriminator(n, channels, audio_channels, log_magnitude) for n in resolutions]
        waves = [WaveDiscriminator(rate, channels, audio_channels) for rate in wave_rates]
        self.parts = nn.ModuleList([*spectra, *waves])

    def forward(self, wav: Tensor) -> list[list[Tensor]]:
        """[B, C, N] -> features and logits per resolution and rate."""
        return [part(wav) for part in self.parts]
