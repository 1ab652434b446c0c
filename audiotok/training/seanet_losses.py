"""How far a decoded sound is from the recorded one, as SoundStream and EnCodec measure it. Knows nothing of codecs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .losses import mel_filters

_MELS = 64
_LONGEST = 2048


class MultiScaleSpectralLoss(nn.Module):
    """L1 between mel spectra plus L2 between their logarithms, over windows from short to long.

    Args:
        sampling_rate: Hz.
        shortest: window in samples; each next one is twice as long, to 2048. Hops are a quarter of the window.
        log_weights: SoundStream's sqrt(window / 2) for the second term, relative to its mean; False weighs all alike.

    Source: SoundStream (arXiv:2107.03312), equations 4 and 5; EnCodec (arXiv:2210.13438), equation 2. Sums are means
    here, so that weights do not depend on the length of a crop.
    """

    def __init__(self, sampling_rate: int, shortest: int, log_weights: bool) -> None:
        super().__init__()
        windows = [shortest]
        while windows[-1] < _LONGEST:
            windows.append(2 * windows[-1])
        self.windows = tuple(windows)
        roots = [(size / 2) ** 0.5 if log_weights else 1.0 for size in windows]
        self.log_weights = tuple(root * len(roots) / sum(roots) for root in roots)
        for size in windows:
            self.register_buffer(f"window_{size}", torch.hann_window(size), persistent=False)
            self.register_buffer(f"mel_{size}", mel_filters(size, _MELS, sampling_rate), persistent=False)

    def forward(self, wav: Tensor, target: Tensor) -> Tensor:
        """[B, C, N] float32 twice -> scalar."""
        total = wav.new_zeros(())
        for size, weight in zip(self.windows, self.log_weights, strict=True):
            ours, theirs = (self._mel(x.flatten(0, 1), size) for x in (wav, target))
            logs = torch.log(ours + 1e-5) - torch.log(theirs + 1e-5)
            # The root of the mean square over bands, a frame at a time; smooth at zero.
            total = total + F.l1_loss(ours, theirs) + weight * (logs.square().mean(1) + 1e-8).sqrt().mean()
        return total / len(self.windows)

    def _mel(self, wav: Tensor, size: int) -> Tensor:
        window: Tensor = getattr(self, f"window_{size}")
        filters: Tensor = getattr(self, f"mel_{size}")
        spectrum = torch.stft(wav, size, size // 4, window=window, normalized=True, return_complex=True)
        return filters @ torch.sqrt(spectrum.real.square() + spectrum.imag.square() + 1e-9)


def si_sdr_db(decoded: Tensor, target: Tensor) -> Tensor:
    """Scale-invariant signal-to-distortion ratio of each item, dB: [B, C, N] twice -> [B].

    Source: Le Roux et al. (arXiv:1811.02508), equation 3.
    """
    ours, theirs = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (decoded, target))
    gain = (ours * theirs).sum(1, keepdim=True) / theirs.square().sum(1, keepdim=True).clamp_min(1e-9)
    signal = gain * theirs
    noise = (ours - signal).square().sum(1).clamp_min(1e-9)
    return 10 * torch.log10(signal.square().sum(1).clamp_min(1e-9) / noise)
