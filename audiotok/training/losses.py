"""What the codec is trained to make small. Pure functions and the spectra they compare.

Sources: multi-resolution STFT loss (Parallel WaveGAN, arXiv:1910.11480), hinge GAN and relative feature matching
(SoundStream arXiv:2107.03312; EnCodec arXiv:2210.13438).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def mel_filters(n_fft: int, n_mels: int, sampling_rate: int) -> Tensor:
    """Triangular filters equally spaced in mel: [n_mels, n_fft // 2 + 1] float32, each of unit peak."""
    top = 2595.0 * torch.log10(torch.tensor(1.0 + sampling_rate / 2 / 700.0))
    edges_hz = 700.0 * (10.0 ** (torch.linspace(0.0, float(top), n_mels + 2) / 2595.0) - 1.0)
    bins_hz = torch.linspace(0.0, sampling_rate / 2, n_fft // 2 + 1)
    rising = (bins_hz - edges_hz[:-2, None]) / (edges_hz[1:-1] - edges_hz[:-2])[:, None]
    falling = (edges_hz[2:, None] - bins_hz) / (edges_hz[2:] - edges_hz[1:-1])[:, None]
    return torch.minimum(rising, falling).clamp_min(0.0)


class SpectralLoss(nn.Module):
    """L1 between log spectra at several resolutions, in mel bands and in bins.

    Args:
        sampling_rate: Hz.
        resolutions: (n_fft, n_mels) pairs at 16 kHz, hops are a quarter of n_fft; at other rates windows of the same
            milliseconds and bands of the same width.
        floor: magnitude below which differences do not count.
    """

    def __init__(
        self,
        sampling_rate: int,
        resolutions: tuple[tuple[int, int], ...] = ((1024, 80), (512, 64), (256, 32)),
        floor: float = 5e-2,
    ) -> None:
        super().__init__()
        rate = sampling_rate / 16_000
        widths = math.log10(1 + sampling_rate / 1400) / math.log10(1 + 16_000 / 1400)
        resolutions = tuple((round(n_fft * rate), round(n_mels * widths)) for n_fft, n_mels in resolutions)
        self.resolutions = resolutions
        self.floor = floor
        for n_fft, n_mels in resolutions:
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft), persistent=False)
            self.register_buffer(f"mel_{n_fft}", mel_filters(n_fft, n_mels, sampling_rate), persistent=False)

    def forward(self, wav: Tensor, target: Tensor) -> Tensor:
        """[B, 1, N] float32 twice -> scalar."""
        total = wav.new_zeros(())
        for n_fft, _ in self.resolutions:
            ours, theirs = (self._magnitude(x, n_fft) for x in (wav, target))
            mel: Tensor = getattr(self, f"mel_{n_fft}")
            total = total + self._log_l1(mel @ ours, mel @ theirs) + 0.3 * self._log_l1(ours, theirs)
        return total / len(self.resolutions)

    def _magnitude(self, wav: Tensor, n_fft: int) -> Tensor:
        window: Tensor = getattr(self, f"window_{n_fft}")
        spectrum = torch.stft(wav[:, 0], n_fft, n_fft // 4, window=window, return_complex=True)
        return torch.sqrt(spectrum.real.square() + spectrum.imag.square() + 1e-9)

    def _log_l1(self, ours: Tensor, theirs: Tensor) -> Tensor:
        return F.l1_loss(torch.log(ours + self.floor), torch.log(theirs + self.floor))


def pitch_loss(
    f0_logits: Tensor, voiced_logit: Tensor, grid_hz: Tensor, f0_hz: Tensor, voiced: Tensor
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the pitch classes on voiced frames, and of the voicing decision on all.

    Args:
        f0_logits: [B, T, bins].
        voiced_logit: [B, T].
        grid_hz: [bins], log-spaced.
        f0_hz, voiced: the teacher's, [B, T].

    Returns:
        Two scalars. The target is a Gaussian bump of one class' width around the teacher's pitch.
    """
    steps = torch.log(grid_hz[1] / grid_hz[0])
    distance = (torch.log(f0_hz)[..., None] - torch.log(grid_hz)) / steps
    target = torch.softmax(-0.5 * distance.square(), dim=-1)
    cross_entropy = -(target * F.log_softmax(f0_logits, dim=-1)).sum(-1)
    weight = voiced.float()
    f0 = (cross_entropy * weight).sum() / weight.sum().clamp_min(1.0)
    return f0, F.binary_cross_entropy_with_logits(voiced_logit, weight)


def discriminator_loss(real: list[list[Tensor]], fake: list[list[Tensor]]) -> Tensor:
    """Hinge loss of the discriminators, a scalar; each list ends with the verdict, the others are features."""
    terms = [F.relu(1 - r[-1]).mean() + F.relu(1 + f[-1]).mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(terms).mean()


def adversarial_loss(fake: list[list[Tensor]]) -> Tensor:
    """Hinge loss of the generator, a scalar."""
    return torch.stack([F.relu(1 - f[-1]).mean() for f in fake]).mean()


def feature_loss(real: list[list[Tensor]], fake: list[list[Tensor]]) -> Tensor:
    """Relative L1 between the discriminators' features of real and decoded sound, a scalar (EnCodec, section 3.4)."""
    terms = [
        F.l1_loss(ours, theirs.detach()) / theirs.detach().abs().mean().clamp_min(1e-4)
        for r, f in zip(real, fake, strict=True)
        for theirs, ours in zip(r[:-1], f[:-1], strict=True)
    ]
    return torch.stack(terms).mean()
