"""Small codecs of every family with seeded random weights, and sounds for them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
import transformers
from conftest import build_tiny_codec
from torch import Tensor, nn
from transformers import EncodecConfig, EncodecModel

from audiotok import AudioCodec, CodecConfig
from audiotok.codec.adapters import adapt
from audiotok.codec.seanet import SeanetCodec, seanet_preset

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
            weight.mul_(1.7)  # against the attenuation of the ELUs; otherwise latents mostly depend on biases
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


DAC: dict[str, Any] = {
    "encoder_hidden_size": 8,
    "decoder_hidden_size": 64,
    "downsampling_ratios": [2, 4, 5, 8],
    "upsampling_ratios": [8, 5, 4, 2],
    "hidden_size": 64,
}


def dac() -> Any:
    books: dict[str, Any] = {"n_codebooks": 4, "codebook_size": 64, "codebook_dim": 8}
    return transformers.DacModel(transformers.DacConfig(**DAC, **books))


def mimi() -> Any:
    sizes = {
        "num_filters": 4,
        "hidden_size": 32,
        "intermediate_size": 32,
        "head_dim": 16,
        "upsample_groups": 32,
    }
    books = {"codebook_size": 64, "codebook_dim": 16, "num_quantizers": 4}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = transformers.MimiConfig(**sizes, **books, **heads, vector_quantization_hidden_dimension=16)
    return transformers.MimiModel(config)


def xcodec() -> Any:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    positions = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
    config = transformers.XcodecConfig(
        codebook_size=64,
        target_bandwidths=[0.3, 1.2],
        acoustic_model_config=transformers.DacConfig(**DAC | {"downsampling_ratios": [8, 5, 4, 2]}),
        semantic_model_config=transformers.HubertConfig(**sizes, **positions, conv_dim=[8] * 7),
    )
    return transformers.XcodecModel(config)


def encodec() -> Any:
    return random_encodec(SMALL["24k"] | {"target_bandwidths": [0.4, 1.6]})


MAKERS: dict[str, Callable[[], Any]] = {"encodec": encodec, "dac": dac, "mimi": mimi, "xcodec": xcodec}
BOOKS = {"mimi": "embed_sum", "xcodec": "embed"}


@torch.no_grad()
def random_codec(kind: str) -> Any:
    """A small codec of transformers with seeded weights and with codebooks drawn around its latents."""
    before = torch.get_rng_state()
    torch.manual_seed(0)
    model = MAKERS[kind]().eval()
    if kind != "encodec":
        rate = getattr(model.config, "sampling_rate", None) or model.config.sample_rate
        wav = sounds(6, rate, 1, 1)
        kinds = ("VectorQuantization", "VectorQuantize")
        layers = [m for m in model.modules() if type(m).__name__.endswith(kinds) and hasattr(m, "codebook")]
        for layer in layers:
            name = "decode_latents" if kind == "dac" else "encode"
            with mock.patch.object(layer, name, wraps=getattr(layer, name)) as call:
                model.encode(wav)
            latents = call.call_args_list[0].args[0].transpose(1, 2).flatten(0, 1)
            book = layer.codebook.weight if kind == "dac" else layer.codebook.state_dict()[BOOKS[kind]]
            # In Mimi these are sums, which equal the codewords because the counts are 1.
            book.copy_(latents.mean(0) + 0.8 * latents.std(0) * torch.randn(book.shape))
            if kind == "mimi":
                layer.codebook._embed = None
    torch.set_rng_state(before)
    return model


def semantic_codec() -> AudioCodec:
    """The tiny codec with a semantic codebook among its latents, so that more than one code is used."""
    tiny = build_tiny_codec()
    codec = AudioCodec(CodecConfig(**tiny.config.to_dict() | {"semantic_dim": 8})).eval()
    with torch.no_grad():
        latents = codec.encoder(sounds(1, 320 * 64, 1, 0))[0].T
        codec.quantizer.semantic_codebook.copy_(latents[:, codec.config.codebook_dim :])
        codec.quantizer.codebooks.mul_(latents[:, : codec.config.codebook_dim].std())
    return codec


def soundstream() -> SeanetCodec:
    sizes = {"filters": 4, "n_q": 4, "codebook_size": 32, "codebook_dim": 16}
    torch.manual_seed(0)
    codec = SeanetCodec(seanet_preset("soundstream", sampling_rate=8_000, **sizes)).eval()
    nn.init.normal_(codec.encoder.film.linear.weight, std=0.3)
    codec.quantizer.codebooks.mul_(0.05)
    return codec


FAMILIES: dict[str, Callable[[], Any]] = {
    "speech": build_tiny_codec,
    "semantic": semantic_codec,
    "soundstream": soundstream,
    "encodec-24k": lambda: adapt(random_encodec(SMALL["24k"]), "encodec-24k"),
    "encodec-48k": lambda: adapt(random_encodec(SMALL["48k"]), "encodec-48k"),
    "dac": lambda: adapt(random_codec("dac"), "dac"),
    "mimi": lambda: adapt(random_codec("mimi"), "mimi"),
    "xcodec": lambda: adapt(random_codec("xcodec"), "xcodec"),
}


@functools.cache
def shared_codec(family: str) -> Any:
    """A codec of the family that no test may change."""
    return FAMILIES[family]()
