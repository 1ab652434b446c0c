"""What the decoder's graph leaves to numpy: pulses and hiss, their filters applied, windows added up.

Imports numpy alone. The law it keeps: the samples of audiotok/codec/excitation.py and decoder.py, which say what is
done here and why, within the rounding of float32.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
_HASH_MULTIPLIER = 0x2545F491
_BLOCK_FRAMES = 48  # so that what a block of pulses needs stays in the cache
_HISS_SAMPLES = 1 << 14


def pulse_train(f0_hz: Array, voiced: Array, first_hz: float, hop_length: int, sampling_rate: int) -> Array:
    """Band-limited pulses of unit power at a pitch that glides within each frame.

    Args:
        f0_hz: [B, T] float32, pitch at the end of each frame.
        voiced: [B, T] bool.
        first_hz: what frames before the first voice hold.
        hop_length: samples per frame.
        sampling_rate: Hz.

    Returns:
        [B, T * hop_length] float32.
    """
    batch, frames = f0_hz.shape
    last = np.maximum.accumulate(np.where(voiced, np.arange(frames), -1), axis=1)
    held = np.where(last >= 0, np.take_along_axis(f0_hz, np.maximum(last, 0), axis=1), np.float32(first_hz))
    start = np.empty((batch, frames))
    start[:, 0] = held[:, 0]
    start[:, 1:] = np.where(voiced[:, :-1], held[:, :-1], held[:, 1:])
    glide = held.astype(np.float64) - start
    ramp = np.arange(1, hop_length + 1) / hop_length
    wave = np.empty((batch, frames, hop_length), np.float32)
    phase = np.zeros(batch)
    for begin in range(0, frames, _BLOCK_FRAMES):
        here = slice(begin, begin + _BLOCK_FRAMES)
        pitch = start[:, here, None] + glide[:, here, None] * ramp
        turns = np.cumsum(pitch / sampling_rate, axis=-1)
        for row in range(batch):
            at = float(phase[row])
            befores = []
            for step in turns[row, :, -1].tolist():
                befores.append(at)
                at = (at + step) % 1.0
            phase[row] = at
            turns[row] += np.array(befores)[:, None]
        wave[:, here] = _pulses(turns, pitch, sampling_rate)
    return wave.reshape(batch, frames * hop_length)


def _pulses(turns: Array, pitch: Array, sampling_rate: int) -> Array:
    """The sum of all harmonics of a pitch below half the rate, of equal strength: Dirichlet's kernel. float64."""
    harmonics = np.maximum(np.floor(0.5 * sampling_rate / pitch), 1.0)
    theta = (2 * np.pi) * np.remainder(turns, 1.0)
    half = np.sin(0.5 * theta)
    close = np.abs(half) < 1e-5
    kernel = np.sin((harmonics + 0.5) * theta) / (2 * np.where(close, 1.0, half)) - 0.5
    return np.where(close, harmonics, kernel) / np.sqrt(0.5 * harmonics)


def hiss(samples: int) -> Array:
    """White noise of unit power, uniform, where sample n is a hash of n alone: [samples] float32."""
    blocks = [_hiss_block(number) for number in range(-(-samples // _HISS_SAMPLES))]
    return np.concatenate(blocks)[:samples]


@lru_cache(maxsize=64)
def _hiss_block(number: int) -> Array:
    h = np.arange(number * _HISS_SAMPLES, (number + 1) * _HISS_SAMPLES, dtype=np.int64).astype(np.uint32)
    for shift in (16, 15):
        h = (h ^ (h >> np.uint32(shift))) * np.uint32(_HASH_MULTIPLIER)
    h = h ^ (h >> np.uint32(16))
    return (h.astype(np.float32) / np.float32(2**31) - np.float32(1.0)) * np.float32(3**0.5)


def render(pulses: Array, real: Array, imaginary: Array, noise: Array, window: Array) -> Array:
    """Sound of whole frames from their filters and pulses.

    Args:
        pulses: [B, W * hop] float32, hop half a window.
        real, imaginary: [B, W, F] float32, the filter of the pulses in each of W windows.
        noise: [B, W, F] float32, that of the hiss.
        window: [2 * hop] float32.

    Returns:
        [B, W * hop] float32.
    """
    hop = len(window) // 2
    batch, windows, _ = real.shape
    spectra = _spectra(pulses, window)
    filters = np.empty(real.shape, np.complex64)
    filters.real, filters.imag = real, imaginary
    spectra *= filters
    spectra += _spectra(hiss(windows * hop)[None], window) * noise
    pieces = np.fft.irfft(spectra, n=2 * hop).astype(np.float32, copy=False)
    pieces *= window
    wav = pieces[:, :, hop:].copy()
    wav[:, :-1] += pieces[:, 1:, :hop]
    return wav.reshape(batch, windows * hop)


def _spectra(sound: Array, window: Array) -> Array:
    """[B, W * hop] -> [B, W, F] complex64 of windows that overlap by half, the first of which begins a hop early."""
    hop = len(window) // 2
    halves = np.concatenate([np.zeros((len(sound), hop), np.float32), sound], axis=1).reshape(
        len(sound), -1, hop
    )
    pieces = np.concatenate([halves[:, :-1], halves[:, 1:]], axis=2)
    pieces *= window
    return np.fft.rfft(pieces)
