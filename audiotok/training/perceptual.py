"""Differentiable losses after PESQ and STOI for crops of a second, without time alignment.

Sources: PESQ (ITU-T P.862 and P.862.2; as a loss PMSQE, Martín-Doñas et al., 2018), STOI (Taal et al., 2011, eq. 3-6).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_WINDOW_S = 0.032  # overlap of one half, as in P.862
_TOP_HZ = 8000.0
_BANDS = 49
_LEVEL = 10**7.3  # power of speech after levelling, in the units of the hearing threshold
_ZWICKER = 0.23
_SYLLABLE_FRAMES = 20  # 320 ms; within it the worst frames are weighted most
_THIRDS = 15
_LOWEST_THIRD_HZ = 150.0
_SEGMENT_FRAMES = 30  # 384 ms, as in STOI
_CLIP = 1.0 + 10 ** (15.0 / 20.0)


class Disturbance(nn.Module):
    """The disturbance of PESQ, which its score subtracts from the maximum.

    Levels, filters and hearing thresholds follow P.862.2. Differences that the recording masks are ignored, and added
    sounds weigh more than missing ones. Frequencies above 8 kHz are ignored.

    Raises:
        ValueError: the sampling rate is below 16,000 Hz.
    """

    bands: Tensor
    threshold: Tensor
    exponent: Tensor
    window: Tensor
    speech_band: Tensor

    def __init__(self, sampling_rate: int) -> None:
        super().__init__()
        if sampling_rate < 16_000:
            raise ValueError(f"PESQ needs at least 16000 Hz, got {sampling_rate}; set disturbance to 0")
        self.fft = round(_WINDOW_S * sampling_rate)
        self.bins = round(_WINDOW_S * _TOP_HZ) + 1
        bins_hz = torch.linspace(0.0, _TOP_HZ, self.bins)
        half = (bins_hz[1] - bins_hz[0]) / 2
        low, high = _bark(bins_hz - half), _bark((bins_hz + half).clamp_max(_TOP_HZ))
        edges = torch.linspace(0.0, float(_bark(torch.tensor(_TOP_HZ))), _BANDS + 1)
        self.width = float(edges[1])
        shared = torch.minimum(high, edges[1:, None]) - torch.maximum(low, edges[:-1, None])
        bands = shared.clamp_min(0.0) / (high - low)
        bands[:, 0] = 0.0
        high_pass = (bins_hz / 100.0) ** 2 / torch.sqrt(1.0 + (bins_hz / 100.0) ** 4)
        centre = (edges[1:] + edges[:-1]) / 2
        khz = 600.0 * torch.sinh(centre / 6.0) / 1000.0
        # The threshold of hearing in quiet (Terhardt, 1979).
        quiet_db = 3.64 * khz**-0.8 - 6.5 * torch.exp(-0.6 * (khz - 3.3) ** 2) + 1e-3 * khz**4
        tables = {
            "bands": bands * high_pass.square(),
            "threshold": 10 ** (0.1 * quiet_db.clamp(-6.0, 75.0))[:, None],
            "exponent": ((6.0 / (centre + 2.0)).clamp(1.0, 2.0) ** 0.15 * _ZWICKER)[:, None],
            "window": torch.hann_window(self.fft),
            "speech_band": ((bins_hz >= 325.0) & (bins_hz <= 3250.0)).float()[:, None],
        }
        for name, table in tables.items():
            self.register_buffer(name, table, persistent=False)

    def forward(self, wav: Tensor, target: Tensor) -> Tensor:
        """Two wavs [B, 1, N] float32, N >= 32 ms -> scalar, in points of PESQ before its mapping to MOS-LQO."""
        theirs, ours = self._equalise(self._pitch_power(target), self._pitch_power(wav))
        reference, degraded = self._loudness(theirs), self._loudness(ours)
        masked = 0.25 * torch.minimum(reference, degraded)
        audible = ((degraded - reference).abs() - masked).relu()
        added = (((ours + 50.0) / (theirs + 50.0)) ** 1.2).detach()
        added = torch.where(added < 3.0, 0.0, added.clamp(max=12.0))
        loud = ((self._audible(theirs, 1.0) + 1e5) / 1e7) ** 0.04
        whole = self.width * _BANDS
        symmetric = (torch.sqrt((self.width * audible.square()).sum(1) / whole + 1e-6) - 1e-3) * whole
        asymmetric = (self.width * audible * added).sum(1)
        symmetric, asymmetric = ((part / loud).clamp(max=45.0) for part in (symmetric, asymmetric))
        return (0.1 * _pool(symmetric) + 0.0309 * _pool(asymmetric)).mean()

    def _pitch_power(self, wav: Tensor) -> Tensor:
        """[B, 1, N] -> [B, bands, frames], the speech band at one level."""
        power = _power(wav, self.window, self.fft, self.fft // 2)[:, : self.bins]
        speech = (power * self.speech_band).sum(1).mean(1).clamp_min(1e-5)
        return self.bands @ power * (_LEVEL / speech)[:, None, None]

    def _equalise(self, theirs: Tensor, ours: Tensor) -> tuple[Tensor, Tensor]:
        """Compensate a filter over the whole crop and slow changes of gain, as PESQ does."""
        spoken = (self._audible(theirs, 1e2) >= 1e5)[:, None]

        def mean(power: Tensor) -> Tensor:
            return (power * ((power > self.threshold * 100.0) & spoken)).mean(2)

        ratio = ((mean(ours) + 1000.0) / (mean(theirs) + 1000.0)).clamp(0.01, 100.0).detach()
        theirs = theirs * ratio[..., None]
        gain = (self._audible(theirs, 1.0) + 5e3) / (self._audible(ours, 1.0) + 5e3)
        gain = torch.cat([gain[:, :1], 0.8 * gain[:, 1:] + 0.2 * gain[:, :-1]], dim=1)
        return theirs, ours * gain.clamp(3e-4, 5.0).detach()[:, None]

    def _audible(self, power: Tensor, factor: float) -> Tensor:
        return (power * (power > self.threshold * factor)).sum(1)

    def _loudness(self, power: Tensor) -> Tensor:
        """Zwicker's loudness: power in a band -> sone."""
        # Below the threshold of hearing loudness is 0, not negative.
        above = (0.5 + 0.5 * power / self.threshold).clamp_min(1.0) ** self.exponent
        return 0.187 * (self.threshold / 0.5) ** self.exponent * (above - 1.0)


class Unintelligibility(nn.Module):
    """1 - STOI, without the resampling to 10 kHz and without the removal of pauses.

    Raises:
        ValueError: the sampling rate is below 10,000 Hz.
    """

    bands: Tensor
    window: Tensor

    def __init__(self, sampling_rate: int) -> None:
        super().__init__()
        if sampling_rate < 10_000:
            raise ValueError(f"STOI needs at least 10000 Hz, got {sampling_rate}; set unintelligibility to 0")
        self.hop = round(0.0128 * sampling_rate)
        self.fft = 2 ** math.ceil(math.log2(2 * self.hop))
        bins_hz = torch.linspace(0.0, sampling_rate / 2, self.fft // 2 + 1)
        centre_hz = _LOWEST_THIRD_HZ * 2 ** (torch.arange(_THIRDS) / 3)
        low_hz, high_hz = (centre_hz[:, None] * 2 ** (sign / 6) for sign in (-1, 1))
        inside = (bins_hz >= low_hz) & (bins_hz < high_hz)
        self.register_buffer("bands", inside.float(), persistent=False)
        self.register_buffer("window", torch.hann_window(2 * self.hop), persistent=False)

    def forward(self, wav: Tensor, target: Tensor) -> Tensor:
        """Two wavs [B, 1, N] float32, N >= 0.42 s -> scalar from 0 (equal envelopes) to 2."""
        ours, theirs = (self._envelopes(x).unfold(2, _SEGMENT_FRAMES, 6) for x in (wav, target))
        energy = theirs.square().sum(dim=(1, 3))
        spoken = (energy > energy.amax(1, keepdim=True) * 1e-3).float()
        ours_energy, theirs_energy = (x.square().sum(3, keepdim=True) for x in (ours, theirs))
        # Equation 4: normalise to the level of the recording and clip errors at 15 dB.
        ours = torch.minimum(ours * torch.sqrt(theirs_energy / (ours_energy + 1e-8)), theirs * _CLIP)
        ours, theirs = (x - x.mean(3, keepdim=True) for x in (ours, theirs))
        norms = (ours.square().sum(3) * theirs.square().sum(3)).clamp_min(1e-8).sqrt()
        correlation = ((ours * theirs).sum(3) / norms).mean(1)
        return 1.0 - (correlation * spoken).sum() / spoken.sum().clamp_min(1.0)

    def _envelopes(self, wav: Tensor) -> Tensor:
        return torch.sqrt(self.bands @ _power(wav, self.window, self.fft, self.hop) + 1e-8)


def _power(wav: Tensor, window: Tensor, n_fft: int, hop: int) -> Tensor:
    size = len(window)
    spectrum = torch.stft(wav[:, 0], n_fft, hop, size, window=window, return_complex=True, center=False)
    return spectrum.real.square() + spectrum.imag.square()


def _bark(hz: Tensor) -> Tensor:
    return 6.0 * torch.asinh(hz.clamp_min(0.0) / 600.0)


def _pool(frames: Tensor) -> Tensor:
    """[B, frames] -> [B]: L6 norm within syllables, L2 norm over them (P.862, section 10.2.8)."""
    length = min(_SYLLABLE_FRAMES, frames.shape[1])
    syllables = frames.unfold(1, length, max(1, length // 2))
    return (((syllables + 1e-3) ** 6).mean(2) ** (1 / 3)).mean(1).add(1e-4).sqrt()
