"""Validation of codecs in training: whole held-out clips through the codec's public methods."""

from __future__ import annotations

from contextlib import suppress
from statistics import fmean
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..codec.quantizer import perplexity
from ..metrics import MetricError, pesq, si_sdr, stoi
from .losses import SpectralLoss
from .noise import NOISES, at_snr, make_noise
from .packed import PackedClips

_SNR_DB = 5.0


def validate(codec: Any, clips: PackedClips, count: int) -> dict[str, float]:
    """Encode and decode clips spread over the pack.

    Returns:
        ``eval/log_spectral_l1``, ``eval/si_sdr_db``, ``eval/perplexity_k`` per codebook (as a share of its size) and,
        where the packages are installed, ``eval/pesq_wb`` and ``eval/stoi``. Of a codec that denoises also the scores
        of speech at 5 dB SNR against the clean speech: ``noisy/...`` unprocessed, ``kept/...`` decoded without
        denoising, ``denoised/...`` with it.
    """
    config = codec.config
    rate, channels = config.sampling_rate, getattr(config, "audio_channels", 1)
    spectral = SpectralLoss(rate).to(codec.device)
    found: dict[str, list[float]] = {}

    def score(path: str, decoded: Tensor, clean: Tensor) -> None:
        """PESQ-WB and STOI of two wavs [1, N], where they are defined and installed."""
        for name, metric in (("pesq_wb", pesq), ("stoi", stoi)):
            with suppress(MetricError, ModuleNotFoundError):
                found.setdefault(f"{path}/{name}", []).append(metric(clean, decoded.clamp(-1, 1), rate))

    codes = []
    wavs = [clips.clip(index) for index in range(0, len(clips), max(1, len(clips) // count))]
    for number, wav in enumerate(wavs):
        target = wav.expand(channels, -1)[None].to(codec.device)
        out = codec(target)
        codes.append(out.audio_codes[0].cpu())
        pair = (x.flatten(0, 1)[:, None] for x in (out.audio_values, target))
        found.setdefault("eval/log_spectral_l1", []).append(float(spectral(*pair)))
        with suppress(MetricError):
            found.setdefault("eval/si_sdr_db", []).append(si_sdr(target, out.audio_values))
        score("eval", out.audio_values[0, :1], wav)
        if getattr(config, "denoises", False):
            others = [other for i, other in enumerate(wavs) if i != number] or wavs
            voices = np.stack([np.resize(other[0].numpy(), wav.shape[-1]) for other in others[:8]])
            # The kind alternates and is the same in every evaluation.
            noise = make_noise(NOISES[number % len(NOISES)], voices, rate, np.random.default_rng(number))
            noisy = torch.from_numpy(at_snr(wav[0].numpy(), noise, _SNR_DB))[None]
            score("noisy", noisy, wav)
            for path, denoise in (("kept", False), ("denoised", True)):
                made = codec.encode(noisy[None].to(codec.device), denoise=denoise).audio_codes
                score(path, codec.decode(made, num_samples=noisy.shape[-1]).audio_values[0], wav)
    values = {key: fmean(each) for key, each in found.items() if each}
    for k, each in enumerate(torch.cat(codes, dim=-1)):
        values[f"eval/perplexity_{k}"] = float(perplexity(each, config.codebook_size)) / config.codebook_size
    return values
