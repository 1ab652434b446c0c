"""Validation of codecs in training: whole held-out clips through the codec's public methods."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..codec.model import AudioCodec
from ..codec.quantizer import perplexity
from ..codec.seanet import SeanetCodec
from ..metrics import MetricError, pesq, si_sdr, stoi
from .losses import SpectralLoss
from .noise import NOISES, at_snr, make_noise
from .packed import PackedClips

_SNR_DB = 5.0


def validate(codec: AudioCodec, clips: PackedClips, count: int) -> dict[str, float]:
    """Encode and decode clips spread over the pack.

    Returns:
        ``eval/log_spectral_l1``, ``eval/perplexity_k`` per codebook (as a share of its size) and, where the packages
        are installed, ``eval/pesq_wb`` and ``eval/stoi``.
    """
    spectral = SpectralLoss(codec.config.sampling_rate).to(codec.device)
    found: dict[str, list[float]] = {}
    codes = []
    for wav in _spread(clips, count):
        target = wav[None].to(codec.device)
        decoded, code = _through(codec, target)
        codes.append(code)
        _note(found, "eval/log_spectral_l1", float(spectral(decoded, target)))
        _score(found, "eval", decoded[0], wav, codec.config.sampling_rate)
    return _means(found, codes, codec.config.codebook_size)


def validate_seanet(codec: SeanetCodec, clips: PackedClips, count: int) -> dict[str, float]:
    """Encode and decode clips spread over the pack.

    Returns:
        ``eval/si_sdr_db``, ``eval/perplexity_k`` per codebook (as a share of its size) and, where the packages are
        installed, ``eval/pesq_wb`` and ``eval/stoi``. Of a codec that denoises also the scores of speech at 5 dB SNR
        against the clean speech: ``noisy/...`` unprocessed, ``kept/...`` decoded without denoising, ``denoised/...``
        with it.
    """
    rate, channels = codec.config.sampling_rate, codec.config.audio_channels
    found: dict[str, list[float]] = {}
    codes = []
    wavs = list(_spread(clips, count))
    for number, wav in enumerate(wavs):
        target = wav.expand(channels, -1)[None].to(codec.device)
        decoded, code = _through(codec, target)
        codes.append(code)
        with suppress(MetricError):
            _note(found, "eval/si_sdr_db", si_sdr(target, decoded))
        _score(found, "eval", decoded[0, :1], wav, rate)
        if codec.config.denoises:
            noise = _noise_for(number, wavs, rate)
            noisy = torch.from_numpy(at_snr(wav[0].numpy(), noise, _SNR_DB))[None]
            _score(found, "noisy", noisy, wav, rate)
            for path, denoise in (("kept", False), ("denoised", True)):
                made = codec.encode(noisy[None].to(codec.device), denoise=denoise).audio_codes
                assert made is not None
                restored = codec.decode(made, num_samples=noisy.shape[-1]).audio_values
                assert restored is not None
                _score(found, path, restored[0], wav, rate)
    return _means(found, codes, codec.config.codebook_size)


def _spread(clips: PackedClips, count: int) -> Iterator[Tensor]:
    return (clips.clip(index) for index in range(0, len(clips), max(1, len(clips) // count)))


def _through(codec: Any, wav: Tensor) -> tuple[Tensor, Tensor]:
    """Decoded [1, C, N] and codes [K, T] of a clip [1, C, N]."""
    out = codec(wav)
    return out.audio_values, out.audio_codes[0].cpu()


def _noise_for(number: int, wavs: list[Tensor], sampling_rate: int) -> np.ndarray:
    """Noise [N] for clip ``number``; the kind alternates and is the same in every evaluation."""
    size = wavs[number].shape[-1]
    others = [wav for i, wav in enumerate(wavs) if i != number] or wavs
    voices = np.stack([np.resize(wav[0].numpy(), size) for wav in others[:8]])
    return make_noise(NOISES[number % len(NOISES)], voices, sampling_rate, np.random.default_rng(number))


def _score(
    found: dict[str, list[float]], path: str, decoded: Tensor, clean: Tensor, sampling_rate: int
) -> None:
    """PESQ-WB and STOI of two wavs [1, N], if they are defined and their packages are installed."""
    for name, metric in (("pesq_wb", pesq), ("stoi", stoi)):
        with suppress(MetricError, ModuleNotFoundError):
            _note(found, f"{path}/{name}", metric(clean, decoded.clamp(-1, 1), sampling_rate))


def _note(found: dict[str, list[float]], key: str, value: float) -> None:
    found.setdefault(key, []).append(value)


def _means(found: dict[str, list[float]], codes: list[Tensor], codebook_size: int) -> dict[str, float]:
    values = {key: fmean(each) for key, each in found.items()}
    for k, each in enumerate(torch.cat(codes, dim=-1)):
        values[f"eval/perplexity_{k}"] = float(perplexity(each, codebook_size)) / codebook_size
    return values
