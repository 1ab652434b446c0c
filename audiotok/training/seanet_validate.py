"""What a codec of the papers is judged by in training: held-out clips, whole, through its public face."""

from __future__ import annotations

import math
from statistics import fmean

import numpy as np
import torch
from torch import Tensor

from ..codec.quantizer import perplexity
from ..codec.seanet_codec import SeanetCodec
from .noise import NOISES, at_snr, make_noise
from .packed import PackedClips
from .seanet_losses import si_sdr_db

_PESQ_HZ = 16_000
_SNR_DB = 5.0


def validate_seanet(codec: SeanetCodec, clips: PackedClips, count: int) -> dict[str, float]:
    """Encode and decode clips spread over the pack.

    Returns:
        ``eval/si_sdr_db``, ``eval/perplexity_k`` per codebook (as a share of its size) and, where the packages are
        installed, ``eval/pesq_wb`` and ``eval/stoi``; of a codec that denoises the same of speech at 5 dB SNR, each
        against the clean speech: ``noisy/…`` as it is, ``kept/…`` decoded with denoising off, ``denoised/…`` on.
    """
    found: dict[str, list[float]] = {}
    codes = []
    chosen = range(0, len(clips), max(1, len(clips) // count))
    wavs = [clips.clip(index) for index in chosen]
    for number, wav in enumerate(wavs):
        heard = wav.expand(codec.config.audio_channels, -1)[None].to(codec.device)
        out = codec(heard)
        assert out.audio_values is not None and out.audio_codes is not None
        _note(found, "eval/si_sdr_db", float(si_sdr_db(out.audio_values, heard)))
        _score(found, "eval", out.audio_values[0, :1].cpu(), wav, codec)
        codes.append(out.audio_codes[0].cpu())
        if codec.config.denoises:
            noise = _noise_for(number, wavs, codec.config.sampling_rate)
            noisy = torch.from_numpy(at_snr(wav[0].numpy(), noise, _SNR_DB))[None]
            _score(found, "noisy", noisy, wav, codec)
            for path, wanted in (("kept", False), ("denoised", True)):
                made = codec.encode(noisy[None].to(codec.device), denoise=wanted).audio_codes
                assert made is not None
                decoded = codec.decode(made, num_samples=noisy.shape[-1]).audio_values
                assert decoded is not None
                _score(found, path, decoded[0].cpu(), wav, codec)
    values = {key: fmean(each) for key, each in found.items()}
    joined = torch.cat(codes, dim=-1)
    for k in range(joined.shape[0]):
        size = codec.config.codebook_size
        values[f"eval/perplexity_{k}"] = float(perplexity(joined[k], size)) / size
    return values


def _noise_for(number: int, wavs: list[Tensor], sampling_rate: int) -> np.ndarray:
    """Noise [N] for clip ``number``, another kind for each, the same in every evaluation."""
    size = wavs[number].shape[-1]
    others = [wav for i, wav in enumerate(wavs) if i != number] or wavs
    voices = np.stack([np.resize(wav[0].numpy(), size) for wav in others[:8]])
    return make_noise(NOISES[number % len(NOISES)], voices, sampling_rate, np.random.default_rng(number))


def _score(
    found: dict[str, list[float]], path: str, decoded: Tensor, clean: Tensor, codec: SeanetCodec
) -> None:
    """PESQ-WB and STOI of [1, N] against [1, N], where their packages are installed."""
    try:
        from pesq import NoUtterancesError, pesq
        from pystoi import stoi

        from ..audio import resample
    except ImportError:
        return
    rate = codec.config.sampling_rate
    ours, theirs = (resample(x.clamp(-1, 1), rate, _PESQ_HZ)[0].numpy() for x in (decoded, clean))
    try:
        _note(found, f"{path}/pesq_wb", float(pesq(_PESQ_HZ, theirs, ours, "wb")))
    except NoUtterancesError:
        return
    _note(found, f"{path}/stoi", float(stoi(theirs, ours, _PESQ_HZ)))


def _note(found: dict[str, list[float]], key: str, value: float) -> None:
    if math.isfinite(value):
        found.setdefault(key, []).append(value)
