"""Pitch -> the raw sound that the decoder filters: a pulse train and a hiss, both functions of the sample number.

Knows nothing of networks. The law kept: any chunking of the pitch gives the same samples, because the phase is summed
in float64 and the hiss is a hash of its sample's number.

Source: the harmonic-plus-noise model of DDSP (arXiv:2001.04643) with filtering in the STFT domain.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

_HASH_MULTIPLIER = 0x2545F491
# A live stream asks for a frame of noise at a time; a second of it at once costs as many operations.
_NOISE_SAMPLES = 1 << 14


@dataclass
class PitchState:
    """Where a pulse train stands: its phase in turns, the last pitch in Hz, whether that frame had a voice."""

    phase: Tensor
    f0_hz: Tensor
    voiced: Tensor
    sample: int = 0


def hold_pitch(f0_hz: Tensor, voiced: Tensor, previous_hz: Tensor) -> Tensor:
    """Replace the pitch of unvoiced frames by that of the last voiced frame.

    Args:
        f0_hz: [B, T] float32.
        voiced: [B, T] bool.
        previous_hz: [B] float32, for frames before the first voiced one.

    Returns:
        [B, T] float32.
    """
    count = voiced.long().cumsum(dim=1)  # voiced frames so far: the slot of the last one
    slots = f0_hz.new_zeros(f0_hz.shape[0], f0_hz.shape[1] + 1).scatter(1, count * voiced, f0_hz)
    return torch.cat([previous_hz[:, None], slots[:, 1:]], dim=1).gather(1, count)


def initial_pitch(batch: int, f0_hz: float, device: torch.device) -> PitchState:
    """The state before the first frame."""
    return PitchState(
        phase=torch.zeros(batch, dtype=torch.float64, device=device),
        f0_hz=torch.full((batch,), f0_hz, device=device),
        voiced=torch.zeros(batch, dtype=torch.bool, device=device),
    )


def pulse_train(
    f0_hz: Tensor, voiced: Tensor, state: PitchState, hop_length: int, sampling_rate: int
) -> tuple[Tensor, PitchState]:
    """Band-limited pulses of unit power at a pitch that glides within each frame.

    Args:
        f0_hz: [B, T] float32, pitch at the end of each frame.
        voiced: [B, T] bool. A frame after silence starts at its own pitch instead of gliding up to it.
        state: where the train stands.
        hop_length: samples per frame.
        sampling_rate: Hz.

    Returns:
        [B, T * hop_length] float32, and the state after it.
    """
    f0_hz = hold_pitch(f0_hz, voiced, state.f0_hz)
    before = torch.cat([state.f0_hz[:, None], f0_hz[:, :-1]], dim=1)
    was_voiced = torch.cat([state.voiced[:, None], voiced[:, :-1]], dim=1)
    start = torch.where(was_voiced, before, f0_hz).double()
    ramp = torch.arange(1, hop_length + 1, device=f0_hz.device, dtype=torch.float64) / hop_length
    pitch = start[..., None] + (f0_hz.double() - start)[..., None] * ramp
    # Whole frames are summed first: the order of additions must not depend on how many frames come at once.
    within = torch.cumsum(pitch / sampling_rate, dim=-1)
    ends = torch.cumsum(within[..., -1], dim=1)
    phase_before = torch.remainder(state.phase[:, None] + ends - within[..., -1], 1.0)
    turns = (phase_before[..., None] + within).flatten(1)
    harmonics = torch.floor(0.5 * sampling_rate / pitch.flatten(1)).clamp_min(1.0)
    theta = 2 * torch.pi * torch.remainder(turns, 1.0)
    # Dirichlet kernel: the sum of `harmonics` cosines in closed form.
    half = torch.sin(0.5 * theta)
    safe = torch.where(half.abs() < 1e-5, 1.0, half)
    kernel = torch.sin((harmonics + 0.5) * theta) / (2 * safe) - 0.5
    kernel = torch.where(half.abs() < 1e-5, harmonics, kernel)
    wave = (kernel / torch.sqrt(0.5 * harmonics)).float()
    phase, sample = torch.remainder(state.phase + ends[:, -1], 1.0), state.sample + wave.shape[1]
    return wave, PitchState(phase, f0_hz[:, -1], voiced[:, -1], sample)


def white_noise(first_sample: int, samples: int, device: torch.device) -> Tensor:
    """White noise of unit power, uniform, where sample n is a hash of n alone.

    Returns:
        [samples] float32 in [-sqrt(3), sqrt(3)].
    """
    if torch.compiler.is_exporting() or samples > _NOISE_SAMPLES:
        return _hash(first_sample, samples, device)
    block, start = divmod(first_sample, _NOISE_SAMPLES)
    piece = _noise_block(block, device)[start : start + samples]
    if len(piece) == samples:
        return piece
    return torch.cat([piece, _noise_block(block + 1, device)[: samples - len(piece)]])


# Tables that steps share are made outside inference mode, so that training may use them too.
@lru_cache(maxsize=64)
@torch.inference_mode(False)
def _noise_block(number: int, device: torch.device) -> Tensor:
    return _hash(number * _NOISE_SAMPLES, _NOISE_SAMPLES, device)


def _hash(first_sample: int, samples: int, device: torch.device) -> Tensor:
    n = torch.arange(first_sample, first_sample + samples, device=device, dtype=torch.int64)
    h = n & 0xFFFFFFFF
    for shift in (16, 15):
        h = ((h ^ (h >> shift)) * _HASH_MULTIPLIER) & 0xFFFFFFFF
    h = h ^ (h >> 16)
    return (h.float() / 2**31 - 1.0) * 3**0.5
