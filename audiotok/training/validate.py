"""Validation of a codec in training: whole held-out clips through its public methods."""

from __future__ import annotations

import torch

from ..codec.model import AudioCodec
from ..codec.quantizer import perplexity
from .losses import SpectralLoss
from .packed import PackedClips


def validate(codec: AudioCodec, clips: PackedClips, count: int) -> dict[str, float]:
    """Encode and decode clips spread over the pack.

    Returns:
        ``eval/log_spectral_l1``, ``eval/perplexity_k`` per codebook (as a share of its size) and, where the packages
        are installed, ``eval/pesq_wb`` and ``eval/stoi``.
    """
    rate, size = codec.config.sampling_rate, codec.config.codebook_size
    spectral = SpectralLoss(rate).to(codec.device)
    distances, pesqs, stois, codes = [], [], [], []
    for index in range(0, len(clips), max(1, len(clips) // count)):
        wav = clips.clip(index)[None].to(codec.device)
        out = codec(wav)
        assert out.audio_values is not None and out.audio_codes is not None
        distances.append(float(spectral(out.audio_values, wav)))
        codes.append(out.audio_codes[0].cpu())
        score = _perceptual(wav[0, 0].cpu(), out.audio_values[0, 0].cpu(), rate)
        pesqs += [score[0]] if score and score[0] is not None else []
        stois += [score[1]] if score else []
    values = {"eval/log_spectral_l1": sum(distances) / len(distances)}
    if pesqs:
        values["eval/pesq_wb"] = sum(pesqs) / len(pesqs)
        values["eval/stoi"] = sum(stois) / len(stois)
    joined = torch.cat(codes, dim=-1)
    for k in range(joined.shape[0]):
        values[f"eval/perplexity_{k}"] = float(perplexity(joined[k], size)) / size
    return values


def _perceptual(wav: torch.Tensor, decoded: torch.Tensor, rate: int) -> tuple[float | None, float] | None:
    """(PESQ-WB or None where it finds no utterance, STOI) at 16 kHz, or None where the packages are missing."""
    try:
        import soxr
        from pesq import NoUtterancesError, pesq
        from pystoi import stoi
    except ImportError:
        return None
    reference, degraded = (soxr.resample(x.numpy(), rate, 16_000) for x in (wav, decoded))
    try:
        quality: float | None = float(pesq(16_000, reference, degraded, "wb"))
    except NoUtterancesError:
        quality = None
    return quality, float(stoi(reference, degraded, 16_000))
