"""Synthetic noise for training codecs that denoise: coloured noise, babble, hum and clicks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

NOISES = ("coloured", "babble", "hum", "clicks")
_BABBLERS = 5


@dataclass
class NoisyBatch:
    """Crops to be denoised, or not."""

    wav: Tensor  # [B, 1, N] float32, input of the encoder
    target: Tensor  # [B, 1, N] float32, target of the decoder: clean in wanted frames, else the input
    wanted: Tensor  # [B, T] bool, frames to denoise


def coloured(samples: int, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Noise whose power falls or rises with frequency by a random power, from brown to blue: [samples] float32."""
    spectrum = np.fft.rfft(rng.standard_normal(samples))
    at_hz = np.fft.rfftfreq(samples, 1 / sampling_rate)
    at_hz[0] = at_hz[1] if len(at_hz) > 1 else 1.0
    slope = rng.uniform(-1.0, 0.5)  # exponent of the amplitude: -1 is brown, 0 white, 0.5 blue
    return np.fft.irfft(spectrum * np.maximum(at_hz, 20.0) ** slope, samples).astype(np.float32)


def babble(voices: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Several voices at once, each from a random position: voices [M, samples] -> [samples] float32."""
    samples = voices.shape[1]
    chosen = rng.choice(len(voices), size=min(_BABBLERS, len(voices)), replace=False)
    mix = np.zeros(samples, np.float32)
    for index in chosen:
        mix += np.roll(voices[index], int(rng.integers(samples))) * rng.uniform(0.5, 1.0)
    return mix


def hum(samples: int, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Mains hum, 50 or 60 Hz with harmonics and a slowly varying frequency: [samples] float32."""
    time_s = np.arange(samples) / sampling_rate
    base_hz = rng.choice([50.0, 60.0]) * (1 + 0.002 * np.sin(2 * np.pi * rng.uniform(0.1, 1.0) * time_s))
    phase = 2 * np.pi * np.cumsum(base_hz) / sampling_rate
    mix = np.zeros(samples)
    for harmonic in range(1, 13):
        mix += rng.uniform(0.1, 1.0) / harmonic * np.sin(harmonic * phase + rng.uniform(0, 2 * np.pi))
    return mix.astype(np.float32)


def clicks(samples: int, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Two to twenty clicks a second, each a burst that decays within milliseconds: [samples] float32."""
    mix = np.zeros(samples, np.float32)
    count = max(1, rng.poisson(rng.uniform(2.0, 20.0) * samples / sampling_rate))
    length = max(8, int(0.008 * sampling_rate))
    for at in rng.integers(samples, size=count):
        fall = np.exp(-np.arange(length) / (sampling_rate * rng.uniform(0.0003, 0.002)))
        burst = (rng.standard_normal(length) * fall * rng.uniform(0.3, 1.0)).astype(np.float32)
        mix[at : at + length] += burst[: samples - at]
    return mix


def make_noise(kind: str, voices: np.ndarray, sampling_rate: int, rng: np.random.Generator) -> np.ndarray:
    """Noise of a kind in :data:`NOISES`: voices [M, samples] for babble -> [samples]."""
    samples = voices.shape[1]
    if kind == "babble":
        return babble(voices, rng)
    return {"coloured": coloured, "hum": hum, "clicks": clicks}[kind](samples, sampling_rate, rng)


def at_snr(speech: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Speech mixed with noise at ``snr_db``; both [N] -> [N] float32, peaks below 1."""
    power = float(np.mean(speech**2)), float(np.mean(noise**2))
    if min(power) <= 0:
        return speech.astype(np.float32)
    mix = speech + noise * np.sqrt(power[0] / power[1] * 10 ** (-snr_db / 10))
    return (mix / max(1.0, float(np.abs(mix).max()) / 0.99)).astype(np.float32)


def noisy_batch(
    clean: Tensor,
    voices: Tensor,
    hop_length: int,
    sampling_rate: int,
    seed: int,
    step: int,
    wanted_share: float = 0.4,
) -> NoisyBatch:
    """Four of five crops with noise at -2 to 20 dB, and the frames to denoise; a function of the seed and the step.

    Args:
        clean: [B, 1, N] float32 on the CPU.
        voices: [M, 1, N] float32, other speech for babble.
        hop_length: samples per frame.
        wanted_share: share of crops to denoise, at most 0.8. In a fifth of the crops the flag changes within the crop;
            the others keep their noise.
    """
    rng = np.random.default_rng((seed, step, 0x6E6F6973))
    frames = clean.shape[-1] // hop_length
    noisy, wanted = clean.clone(), torch.zeros(len(clean), frames, dtype=torch.bool)
    target = clean.clone()
    for row in range(len(clean)):
        speech = clean[row, 0].numpy()
        if rng.random() >= 0.2:
            noise = make_noise(NOISES[rng.integers(len(NOISES))], voices[:, 0].numpy(), sampling_rate, rng)
            mix = at_snr(speech, noise, rng.uniform(-2.0, 20.0))
            noisy[row, 0] = torch.from_numpy(mix)
        mode, turn = rng.random(), int(rng.integers(frames + 1))
        wanted[row, : frames if mode < wanted_share else turn if mode > 0.8 else 0] = True
        if mode > 0.8 and rng.random() < 0.5:
            wanted[row] = ~wanted[row]
        keep = wanted[row].repeat_interleave(hop_length)
        target[row, 0, : len(keep)] = torch.where(
            keep, clean[row, 0, : len(keep)], noisy[row, 0, : len(keep)]
        )
    return NoisyBatch(noisy, target, wanted)
