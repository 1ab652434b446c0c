"""Decoder: latents -> wav, with a causal ConvNeXt trunk at frame rate and a source-filter head.

A small network predicts the pitch of a pulse train. The trunk predicts filters for pulses and noise per synthesis hop,
and an inverse STFT synthesises the wav, so only the Fourier transforms run at the sampling rate. Trunk and ISTFT head
follow Vocos (arXiv:2306.00814), pulses and noise follow DDSP (arXiv:2001.04643).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .config import CodecConfig
from .layers import CausalConv1d, ConvNeXtBlock, Float32Module, StreamState, no_autocast


@dataclass
class DecoderFeatures:
    """Filters [B, T * S, F] float32, S synthesis hops per frame: magnitudes for pulses and noise, phase in radians."""

    harmonic: Tensor
    noise: Tensor
    phase: Tensor


@dataclass
class PitchFeatures:
    """Logits of the pitch head: [B, T, f0_bins] and [B, T]."""

    f0_logits: Tensor
    voiced_logit: Tensor


@dataclass
class PitchState:
    """State of a pulse train after a frame: phase [B] float64 in turns, pitch [B] float32 of the last voiced frame,
    whether the last frame was voiced [B] bool, and the samples so far.
    """

    phase: Tensor
    f0_hz: Tensor
    voiced: Tensor
    sample: int = 0


@dataclass
class DecoderState:
    """State of the decoder between pieces of a stream: ``past`` [2, B, synthesis_hop] is the last hop of pulses and of
    noise, ``overlap`` [B, synthesis_hop] the second half of the last synthesis window.
    """

    layers: StreamState = field(default_factory=StreamState)
    excitation: PitchState | None = None
    past: Tensor | None = None
    overlap: Tensor | None = None


def hold_pitch(f0_hz: Tensor, voiced: Tensor, previous_hz: Tensor) -> Tensor:
    """Replace the pitch [B, T] of unvoiced frames by that of the last voiced frame, ``previous_hz`` [B] at first."""
    count = voiced.long().cumsum(dim=1)  # the count of voiced frames is the slot of the last one
    slots = f0_hz.new_zeros(f0_hz.shape[0], f0_hz.shape[1] + 1).scatter(1, count * voiced, f0_hz)
    return torch.cat([previous_hz[:, None], slots[:, 1:]], dim=1).gather(1, count)


def pulse_train(
    f0_hz: Tensor, voiced: Tensor, state: PitchState, hop_length: int, sampling_rate: int
) -> tuple[Tensor, PitchState]:
    """Band-limited pulses of unit power; the pitch glides within each frame.

    Phase is summed in float64, whole frames first, so that streaming gives the same pulses as one pass.

    Args:
        f0_hz: [B, T] float32, pitch at the end of each frame.
        voiced: [B, T] bool. A frame after an unvoiced one starts at its own pitch instead of gliding to it.
        state: state after the preceding frames.
        hop_length, sampling_rate: of the codec.

    Returns:
        [B, T * hop_length] float32, and the state after it.
    """
    f0_hz = hold_pitch(f0_hz, voiced, state.f0_hz)
    before = torch.cat([state.f0_hz[:, None], f0_hz[:, :-1]], dim=1)
    was_voiced = torch.cat([state.voiced[:, None], voiced[:, :-1]], dim=1)
    start = torch.where(was_voiced, before, f0_hz).double()
    ramp = torch.arange(1, hop_length + 1, device=f0_hz.device, dtype=torch.float64) / hop_length
    pitch = start[..., None] + (f0_hz.double() - start)[..., None] * ramp
    within = torch.cumsum(pitch / sampling_rate, dim=-1)
    ends = torch.cumsum(within[..., -1], dim=1)
    phase_before = torch.remainder(state.phase[:, None] + ends - within[..., -1], 1.0)
    turns = (phase_before[..., None] + within).flatten(1)
    harmonics = torch.floor(0.5 * sampling_rate / pitch.flatten(1)).clamp_min(1.0)
    theta = 2 * torch.pi * torch.remainder(turns, 1.0)
    # Dirichlet kernel: the sum of `harmonics` cosines in closed form.
    half = torch.sin(0.5 * theta)
    at_zero = half.abs() < 1e-5
    kernel = torch.sin((harmonics + 0.5) * theta) / (2 * torch.where(at_zero, 1.0, half)) - 0.5
    wave = (torch.where(at_zero, harmonics, kernel) / torch.sqrt(0.5 * harmonics)).float()
    phase, sample = torch.remainder(state.phase + ends[:, -1], 1.0), state.sample + wave.shape[1]
    return wave, PitchState(phase, f0_hz[:, -1], voiced[:, -1], sample)


def white_noise(first_sample: int, samples: int, device: torch.device) -> Tensor:
    """Uniform white noise of unit power, where sample n is a hash of n: [samples] float32 in [-sqrt(3), sqrt(3)]."""
    n = torch.arange(first_sample, first_sample + samples, device=device, dtype=torch.int64)
    h = n & 0xFFFFFFFF
    for shift in (16, 15):
        h = ((h ^ (h >> shift)) * 0x2545F491) & 0xFFFFFFFF
    h = h ^ (h >> 16)
    return (h.float() / 2**31 - 1.0) * 3**0.5


class PitchHead(Float32Module):
    """Latents -> logits of log-spaced pitch classes and of voicing, in float64 outside training.

    Phase is the running sum of pitch, so float32 rounding errors would grow with time and differ between streaming and
    one pass.
    """

    grid_hz: Tensor

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        hidden = config.pitch_dim
        self.range_hz = (config.f0_min_hz, config.f0_max_hz)
        self.first = CausalConv1d(config.codebook_dim, hidden, 5)
        self.second = CausalConv1d(hidden, hidden, 3)
        self.out = CausalConv1d(hidden, config.f0_bins + 1, 1)
        self.register_buffer("grid_hz", torch.empty(config.f0_bins))
        self.init_tables()

    def init_tables(self) -> None:
        """Initialise the constant buffer."""
        low, high = (math.log(f) for f in self.range_hz)
        init.copy_(self.grid_hz, torch.exp(torch.linspace(low, high, self.grid_hz.shape[0])))

    @no_autocast
    def forward(self, latents: Tensor, state: StreamState | None = None) -> PitchFeatures:
        """[B, D, T] -> logits of T frames."""
        x = latents if self.training else latents.double()
        x = F.gelu(self.first(x, state))
        x = F.gelu(self.second(x, state))
        logits = self.out(x, state).transpose(1, 2)
        return PitchFeatures(f0_logits=logits[..., :-1], voiced_logit=logits[..., -1])

    def choose(self, features: PitchFeatures) -> tuple[Tensor, Tensor]:
        """Pitch in Hz [B, T] float32 (the mean, in log, of the classes around the likeliest) and voiced [B, T] bool."""
        logits = features.f0_logits
        best = logits.argmax(dim=-1, keepdim=True)
        near = (torch.arange(logits.shape[-1], device=logits.device) - best).abs() <= 3
        weights = torch.softmax(logits.masked_fill(~near, -torch.inf), dim=-1)
        f0_hz = torch.exp((weights * self.grid_hz.to(weights.dtype).log()).sum(dim=-1))
        return f0_hz.float(), features.voiced_logit > 0


class SourceFilterHead(nn.Module):
    """Trunk features -> filters -> windows of audio."""

    window: Tensor

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.hop_length, self.sampling_rate = config.hop_length, config.sampling_rate
        self.n_fft, self.synthesis_hop = config.n_fft, config.synthesis_hop
        self.hops = config.hop_length // config.synthesis_hop
        self.bins = config.n_fft // 2 + 1
        self.norm = nn.LayerNorm(config.decoder_dim)
        self.filters = nn.Linear(config.decoder_dim, self.hops * self.bins * 3)
        self.register_buffer("window", torch.empty(config.n_fft))
        self.init_tables()

    def init_tables(self) -> None:
        """Initialise the constant buffer."""
        init.copy_(self.window, torch.hann_window(self.n_fft, periodic=True).sqrt())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SourceFilterHead:
        window = self.window
        super()._apply(fn, recurse)
        if self.window.dtype != window.dtype:  # casts leave the window in float32
            self.window = window.to(self.window.device)
        return self

    def features(self, h: Tensor) -> DecoderFeatures:
        """[B, T, dim] -> filters."""
        h = self.norm(h)
        batch, frames, _ = h.shape
        harmonic, noise, phase = (
            self.filters(h).view(batch, frames * self.hops, 3, self.bins).float().unbind(dim=2)
        )
        # Magnitudes are exponentials, capped far above full scale (Vocos caps at 100).
        return DecoderFeatures(
            harmonic=torch.exp(harmonic.clamp(max=3.0) - 3.0),
            noise=torch.exp(noise.clamp(max=3.0) - 4.0),
            phase=phase,
        )

    def synthesize(self, features: DecoderFeatures, pulses: Tensor, noise: Tensor) -> Tensor:
        """Filter pulses and noise [B, (T * S + 1) * synthesis_hop] float32, which begin one synthesis hop before the T
        frames: [B, T * S, n_fft] float32, windows that overlap by half.
        """
        pulse_spectra = torch.fft.rfft(pulses.unfold(-1, self.n_fft, self.synthesis_hop) * self.window)
        noise_spectra = torch.fft.rfft(noise.unfold(-1, self.n_fft, self.synthesis_hop) * self.window)
        spectra = pulse_spectra * torch.polar(features.harmonic, features.phase)
        spectra = spectra + noise_spectra * features.noise
        return torch.fft.irfft(spectra, n=self.n_fft) * self.window


class Decoder(nn.Module):
    """Latents -> wav: ``pitch`` predicts the pitch of the pulses, the trunk and ``head`` predict the filters."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        dim, kernel_size, layers = config.decoder_dim, config.decoder_kernel, config.decoder_layers
        self.embed = CausalConv1d(config.codebook_dim, dim, kernel_size)
        self.norm = nn.LayerNorm(dim)
        self.blocks = nn.ModuleList(
            [
                ConvNeXtBlock(dim, kernel_size, config.decoder_ffn_ratio, layer_scale=1.0 / layers)
                for _ in range(layers)
            ]
        )
        self.pitch = PitchHead(config)
        self.head = SourceFilterHead(config)

    @property
    def gain_hop(self) -> int:
        """Samples per value of ``gains`` in :meth:`forward`."""
        return self.head.synthesis_hop

    def new_state(self) -> DecoderState:
        """State of a stream at its start."""
        return DecoderState()

    def forward(
        self, latents: Tensor, state: DecoderState | None = None, gains: Tensor | None = None
    ) -> Tensor:
        """Decode latents, a whole signal or the next piece of a stream.

        Args:
            latents: [B, D, T] float32.
            state: state of the stream, updated in place; None decodes a whole signal.
            gains: [T * S] float32, scales the synthesis windows of lost frames and holds their pitch.

        Returns:
            [B, 1, T * hop_length] float32. A whole signal fades out in its last synthesis hop. A stream is
            delayed by one synthesis hop: its first piece is that much shorter, and ``state.overlap`` holds the rest.
        """
        layers = None if state is None else state.layers
        features = self.features(latents, layers)
        f0_hz, voiced = self.pitch.choose(self.pitch(latents, layers))
        excitation = None if state is None else state.excitation
        if gains is not None:
            before = self._initial(latents) if excitation is None else excitation
            f0_hz, voiced = before.f0_hz[:, None].expand_as(f0_hz), before.voiced[:, None].expand_as(voiced)
        pulses, noise, excitation = self.excite(f0_hz, voiced, excitation)
        if state is not None:
            state.excitation = excitation
        return self.render(features, pulses, noise, state, gains)

    def features(self, latents: Tensor, state: StreamState | None = None) -> DecoderFeatures:
        """[B, D, T] -> filters of T frames."""
        latents = latents.to(self.embed.conv.weight.dtype)
        h = self.norm(self.embed(latents, state).transpose(1, 2)).transpose(1, 2)
        for block in self.blocks:
            h = block(h, state)
        return self.head.features(h.transpose(1, 2))

    def excite(
        self, f0_hz: Tensor, voiced: Tensor, state: PitchState | None = None
    ) -> tuple[Tensor, Tensor, PitchState]:
        """Pulses and noise [B, T * hop_length] float32 for this pitch and voicing [B, T], and the state after them."""
        head = self.head
        if state is None:
            state = self._initial(f0_hz)
        noise = white_noise(state.sample, f0_hz.shape[1] * head.hop_length, f0_hz.device)
        pulses, state = pulse_train(f0_hz, voiced, state, head.hop_length, head.sampling_rate)
        return pulses, noise.expand_as(pulses), state

    def _initial(self, x: Tensor) -> PitchState:
        batch, device = x.shape[0], x.device
        return PitchState(
            phase=torch.zeros(batch, dtype=torch.float64, device=device),
            f0_hz=torch.full((batch,), self.pitch.range_hz[0] * 2, device=device),
            voiced=torch.zeros(batch, dtype=torch.bool, device=device),
        )

    def render(
        self,
        features: DecoderFeatures,
        pulses: Tensor,
        noise: Tensor,
        state: DecoderState | None = None,
        gains: Tensor | None = None,
    ) -> Tensor:
        """Audio of T frames from their filters and their pulses and noise [B, T * hop_length]; otherwise as
        :meth:`forward`.
        """
        hop = self.head.synthesis_hop
        fresh = torch.stack([pulses, noise])
        past, tail, skip = fresh.new_zeros(*fresh.shape[:2], hop), pulses.new_zeros(pulses.shape[0], hop), hop
        if state is not None and state.past is not None and state.overlap is not None:
            past, tail, skip = state.past, state.overlap, 0
        joined = torch.cat([past, fresh], dim=-1)
        windows = self.head.synthesize(features, *joined)
        if gains is not None:
            windows = windows * gains[:, None]
        left, right = windows[..., :hop], windows[..., hop:]
        wav = (left + torch.cat([tail[:, None], right[:, :-1]], dim=1)).flatten(1)
        if state is None:
            wav = torch.cat([wav, right[:, -1]], dim=1)
        else:
            state.past, state.overlap = joined[..., -hop:], right[:, -1]
        return wav[:, None, skip:]
