"""Judges of sound: complex STFTs at several resolutions.

Source: EnCodec's MS-STFT discriminator (arXiv:2210.13438, section 3.4), narrow enough for a CPU.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm


class STFTDiscriminator(nn.Module):
    """Convolutions over one complex spectrogram.

    Args:
        n_fft: samples of a window; hops are a quarter.
        channels: of every hidden layer.
    """

    window: Tensor

    def __init__(self, n_fft: int, channels: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)
        shapes = [(2, (3, 9), (1, 1), (1, 1))]
        shapes += [(channels, (3, 9), (1, 2), (dilation, 1)) for dilation in (1, 2, 4)]
        self.layers = nn.ModuleList(
            [
                weight_norm(
                    nn.Conv2d(
                        inputs,
                        channels,
                        kernel,
                        stride,
                        dilation=dilation,
                        padding=(dilation[0], kernel[1] // 2),
                    )
                )
                for inputs, kernel, stride, dilation in shapes
            ]
        )
        self.verdict = weight_norm(nn.Conv2d(channels, 1, (3, 3), padding=(1, 1)))

    def forward(self, wav: Tensor) -> list[Tensor]:
        """[B, 1, N] -> features of each layer, then the verdict, [B, 1, frames, bins']."""
        spectrum = torch.stft(
            wav[:, 0], self.n_fft, self.n_fft // 4, window=self.window, normalized=True, return_complex=True
        )
        x = torch.stack([spectrum.real, spectrum.imag], dim=1).transpose(2, 3)
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        return [*features, self.verdict(x)]


class MultiResolutionDiscriminator(nn.Module):
    """One :class:`STFTDiscriminator` per resolution."""

    def __init__(self, resolutions: tuple[int, ...] = (1024, 512, 256), channels: int = 16) -> None:
        super().__init__()
        self.parts = nn.ModuleList([STFTDiscriminator(n_fft, channels) for n_fft in resolutions])

    def forward(self, wav: Tensor) -> list[list[Tensor]]:
        """[B, 1, N] -> features and verdict per resolution."""
        return [part(wav) for part in self.parts]
