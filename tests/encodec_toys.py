"""EncodecModels for tests with random weights, codebooks and biases."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import EncodecConfig, EncodecModel

# Differences of the two released models from the defaults of EncodecConfig.
PAPER: dict[str, dict[str, Any]] = {
    "24k": {},
    "48k": {
        "sampling_rate": 48_000,
        "audio_channels": 2,
        "normalize": True,
        "chunk_length_s": 1.0,
        "overlap": 0.01,
        "norm_type": "time_group_norm",
        "use_causal_conv": False,
        "target_bandwidths": [3.0, 6.0, 12.0, 24.0],
    },
}
# Small models for quick tests: 50 Hz x 8 and 100 Hz x 4, 8 kHz.
SMALL: dict[str, dict[str, Any]] = {
    "24k": {"target_bandwidths": [1.0, 4.0]},
    "48k": {**PAPER["48k"], "target_bandwidths": [1.0, 4.0], "chunk_length_s": 0.4},
}
for changes in SMALL.values():
    changes |= {
        "sampling_rate": 8_000,
        "num_filters": 4,
        "hidden_size": 16,
        "upsampling_ratios": [8, 5, 2, 2],
        "codebook_size": 256,
    }


def sounds(count: int, samples: int, channels: int, seed: int) -> Tensor:
    """[count, channels, samples]: coloured noise and moving tones, at levels from -26 to -3 dB."""
    generator = torch.Generator().manual_seed(seed)
    t = torch.arange(samples) / samples
    noise = torch.randn(count, channels, samples, generator=generator)
    mix, tones, gain = torch.rand(3, count, 1, 1, generator=generator)
    bend = torch.rand(count, channels, 1, generator=generator)
    smooth = (noise + torch.roll(noise, 1, -1) + torch.roll(noise, 2, -1)) / 3
    sweep = torch.sin(2 * torch.pi * (20 + 400 * tones) * (t + bend * t * t))
    return (mix * smooth + (1 - mix) * sweep * torch.sin(40 * t + bend)).clamp(-1, 1) * 10 ** (
        -1.3 + 1.15 * gain
    )


@torch.no_grad()
def random_encodec(changes: dict[str, Any], seed: int = 0) -> EncodecModel:
    """A model with random biases and with codebooks drawn around its latents."""
    before = torch.get_rng_state()
    torch.manual_seed(seed)
    model = EncodecModel(EncodecConfig(**changes)).eval()
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            weight.normal_(std=0.03)
        elif name.endswith("original0"):
            weight.mul_(
                1.7
            )  # Each ELU attenuates the signal; without this the latents would mostly depend on biases.
    config = model.config
    wav = sounds(12, config.sampling_rate, config.audio_channels, seed + 1)
    if config.normalize:
        wav = wav / wav.mean(1, keepdim=True).square().mean(-1, keepdim=True).sqrt()
    residual = model.encoder(wav).transpose(1, 2).flatten(0, 1)
    for layer in model.quantizer.layers:
        book = layer.codebook.embed
        book.copy_(residual.mean(0) + 0.5 * residual.std(0) * torch.randn(book.shape))
        residual = residual - book[layer.codebook.quantize(residual)]
    torch.set_rng_state(before)
    return model


@torch.no_grad()
def their_codes(model: EncodecModel, wav: Tensor) -> tuple[Tensor, Any, int]:
    """Codes [B, K, T] of all codebooks with segments end to end, and the scales and padding for ``decode``."""
    out = model.encode(wav, bandwidth=max(model.config.target_bandwidths))
    padded = out.last_frame_pad_length or 0
    codes = torch.cat(list(out.audio_codes), dim=-1)
    return codes[..., : codes.shape[-1] - padded], out.audio_scales, padded


@torch.no_grad()
def their_sound(model: EncodecModel, wav: Tensor) -> Tensor:
    """Encode and decode a wav [B, C, N] with the model, as long as its frames."""
    out = model.encode(wav, bandwidth=max(model.config.target_bandwidths))
    return model.decode(
        out.audio_codes, out.audio_scales, last_frame_pad_length=out.last_frame_pad_length
    ).audio_values
