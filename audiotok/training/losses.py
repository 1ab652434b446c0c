"""Spectral, pitch and adversarial losses of the codecs.

Sources: multi-resolution STFT loss (Parallel WaveGAN, arXiv:1910.11480), hinge loss and relative feature matching
(SoundStream, arXiv:2107.03312; EnCodec, arXiv:2210.13438).
"""

from __future__ import annotations

import math
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.audio_utils import mel_filter_bank


def mel_filters(n_fft: int, n_mels: int, sampling_rate: int) -> Tensor:
    """Triangular filters equally spaced in mel: [n_mels, n_fft // 2 + 1] float32, each of unit peak."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # narrow bands of short windows are empty
        filters = mel_filter_bank(n_fft // 2 + 1, n_mels, 0.0, sampling_rate / 2, sampling_rate)
    return torch.from_numpy(filters).float().t().contiguous()


_MELS = 64
_FLOOR = 5e-2  # magnitude below which differences are ignored


class SpectralLoss(nn.Module):
    """L1 between log spectra at several resolutions, in mel bands and in bins, with hops of a quarter of a window.

    ``resolutions`` are (n_fft, n_mels) at 16 kHz. Other rates use windows of the same duration and bands of the same
    width.
    """

    def __init__(
        self,
        sampling_rate: int,
        resolutions: tuple[tuple[int, int], ...] = ((1024, 80), (512, 64), (256, 32)),
    ) -> None:
        super().__init__()
        rate = sampling_rate / 16_000
        widths = math.log10(1 + sampling_rate / 1400) / math.log10(1 + 16_000 / 1400)
        self.sizes = [round(n_fft * rate) for n_fft, _ in resolutions]
        for n_fft, (_, bands) in zip(self.sizes, resolutions, strict=True):
            n_mels = round(bands * widths)
            self.register_buffer(f"window_{n_fft}", torch.hann_window(n_fft), persistent=False)
            self.register_buffer(f"mel_{n_fft}", mel_filters(n_fft, n_mels, sampling_rate), persistent=False)

    def forward(self, wav: Tensor, target: Tensor) -> Tensor:
        """Two wavs [B, 1, N] float32 -> scalar."""
        total = wav.new_zeros(())
        for n_fft in self.sizes:
            window: Tensor = getattr(self, f"window_{n_fft}")
            mel: Tensor = getattr(self, f"mel_{n_fft}")
            ours, theirs = (_magnitude(x[:, 0], window) for x in (wav, target))
            total = total + self._log_l1(mel @ ours, mel @ theirs) + 0.3 * self._log_l1(ours, theirs)
        return total / len(self.sizes)

    @staticmethod
    def _log_l1(ours: Tensor, theirs: Tensor) -> Tensor:
        return F.l1_loss(torch.log(ours + _FLOOR), torch.log(theirs + _FLOOR))


class MultiScaleSpectralLoss(nn.Module):
    """L1 between mel spectra plus L2 between their logarithms, over windows from short to long.

    Args:
        sampling_rate: Hz.
        shortest: window in samples; each next one is twice as long, to 2048. Hops are a quarter of the window.
        log_weights: SoundStream's sqrt(window / 2) for the second term, relative to its mean; False weighs all alike.

    Source: SoundStream (arXiv:2107.03312), equations 4 and 5; EnCodec (arXiv:2210.13438), equation 2. Means
    replace the sums, so that weights do not depend on the crop length.
    """

    def __init__(self, sampling_rate: int, shortest: int, log_weights: bool) -> None:
        super().__init__()
        windows = [shortest]
        while windows[-1] < 2048:
            windows.append(2 * windows[-1])
        self.windows = tuple(windows)
        roots = [(size / 2) ** 0.5 if log_weights else 1.0 for size in windows]
        self.log_weights = tuple(root * len(roots) / sum(roots) for root in roots)
        for size in windows:
            self.register_buffer(f"window_{size}", torch.hann_window(size), persistent=False)
            self.register_buffer(f"mel_{size}", mel_filters(size, _MELS, sampling_rate), persistent=False)

    def forward(self, wav: Tensor, target: Tensor) -> Tensor:
        """Two wavs [B, C, N] float32 -> scalar."""
        total = wav.new_zeros(())
        for size, weight in zip(self.windows, self.log_weights, strict=True):
            window: Tensor = getattr(self, f"window_{size}")
            mel: Tensor = getattr(self, f"mel_{size}")
            ours, theirs = (mel @ _magnitude(x.flatten(0, 1), window, True) for x in (wav, target))
            logs = torch.log(ours + 1e-5) - torch.log(theirs + 1e-5)
            # root mean square over the bands of each frame, smooth at zero
            total = total + F.l1_loss(ours, theirs) + weight * (logs.square().mean(1) + 1e-8).sqrt().mean()
        return total / len(self.windows)


def _magnitude(wav: Tensor, window: Tensor, normalized: bool = False) -> Tensor:
    """Magnitudes [B, bins, frames] of wavs [B, N] with hops of a quarter of the window."""
    size = len(window)
    spectrum = torch.stft(wav, size, size // 4, window=window, normalized=normalized, return_complex=True)
    return torch.sqrt(spectrum.real.square() + spectrum.imag.square() + 1e-9)


def pitch_loss(
    f0_logits: Tensor, voiced_logit: Tensor, grid_hz: Tensor, f0_hz: Tensor, voiced: Tensor
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of the pitch classes on voiced frames, and of the voicing decision on all frames.

    Args:
        f0_logits: [B, T, bins].
        voiced_logit: [B, T].
        grid_hz: [bins], log-spaced.
        f0_hz, voiced: [B, T], the tracked pitch.

    Returns:
        Two scalars. The target of the pitch is a Gaussian around the tracked pitch, as wide as one class.
    """
    steps = torch.log(grid_hz[1] / grid_hz[0])
    distance = (torch.log(f0_hz)[..., None] - torch.log(grid_hz)) / steps
    target = torch.softmax(-0.5 * distance.square(), dim=-1)
    cross_entropy = -(target * F.log_softmax(f0_logits, dim=-1)).sum(-1)
    weight = voiced.float()
    f0 = (cross_entropy * weight).sum() / weight.sum().clamp_min(1.0)
    return f0, F.binary_cross_entropy_with_logits(voiced_logit, weight)


def discriminator_loss(real: list[list[Tensor]], fake: list[list[Tensor]]) -> Tensor:
    """Hinge loss of the discriminators, a scalar; each list holds features and ends with the logits."""
    terms = [F.relu(1 - r[-1]).mean() + F.relu(1 + f[-1]).mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(terms).mean()


def discriminate(
    discriminator: nn.Module, wav: Tensor, target: Tensor
) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
    """Features and logits of recorded (``target``) and decoded waveforms (``wav``, without gradient), both [B, C, N].

    One pass, because data-parallel training allows only one. ``discriminator`` has accelerate's wrapper.
    """
    both = [[f.chunk(2) for f in part] for part in discriminator(torch.cat([target, wav.detach()]))]
    real, fake = ([[pair[side] for pair in part] for part in both] for side in (0, 1))
    return real, fake


def generator_losses(discriminator: nn.Module, wav: Tensor, real: list[list[Tensor]]) -> dict[str, Tensor]:
    """Losses of decoded waveforms [B, C, N] against discriminators, which get no gradient.

    ``adv/gen`` is the hinge loss, ``adv/feature`` the relative L1 to the features ``real`` of the recorded waveforms
    (EnCodec, section 3.4). ``discriminator`` is without accelerate's wrapper.
    """
    discriminator.requires_grad_(False)
    try:
        fake = discriminator(wav)
    finally:
        discriminator.requires_grad_(True)
    hinge = [F.relu(1 - f[-1]).mean() for f in fake]
    features = [
        F.l1_loss(ours, theirs.detach()) / theirs.detach().abs().mean().clamp_min(1e-4)
        for r, f in zip(real, fake, strict=True)
        for theirs, ours in zip(r[:-1], f[:-1], strict=True)
    ]
    return {"adv/gen": torch.stack(hinge).mean(), "adv/feature": torch.stack(features).mean()}
