"""The weights of ``transformers``' EncodecModel -> ours: same codes, same sound.

Knows nothing of where weights are stored. The law it keeps: the converted weights, and so the fingerprints, are the
same on every machine: weight norm is folded in float64, in an order of sums that no processor chooses.

``python -m audiotok.codec.convert HUB_ID_OR_FOLDER OUT`` writes a folder that opens without conversion.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EncodecConfig, EncodecModel

from .seanet import SEANetConv, SEANetLSTM, SEANetUpsample
from .seanet_codec import SeanetCodec
from .seanet_config import SeanetConfig


def convert_config(config: EncodecConfig, name: str = "encodec") -> SeanetConfig:
    """The same numbers in our words.

    Args:
        config: of an EncodecModel.
        name: the ``codec_name`` of the result.

    Raises:
        ValueError: it asks for something that no EnCodec of the paper has.
    """
    rules = [
        ("trim_right_ratio", config.trim_right_ratio == 1.0, "1.0"),
        ("codebook_dim", config.codebook_dim == config.hidden_size, f"hidden_size={config.hidden_size}"),
        ("pad_mode", config.pad_mode in ("reflect", "constant"), "reflect or constant"),
    ]
    for field, holds, rule in rules:
        if not holds:
            raise ValueError(f"EncodecConfig.{field}: expected {rule}, got {getattr(config, field)!r}")
    return SeanetConfig(
        sampling_rate=config.sampling_rate,
        audio_channels=config.audio_channels,
        strides=list(reversed(config.upsampling_ratios)),
        filters=config.num_filters,
        dilations=[config.dilation_growth_rate**level for level in range(config.num_residual_layers)],
        kernel_size=config.kernel_size,
        latent_kernel_size=config.last_kernel_size,
        last_kernel_size=config.last_kernel_size,
        residual_kernel_size=config.residual_kernel_size,
        compress=config.compress,
        shortcut=config.use_conv_shortcut,
        lstm_layers=config.num_lstm_layers,
        causal=config.use_causal_conv,
        pad_mode="reflect" if config.pad_mode == "reflect" else "zero",
        group_norm=config.norm_type == "time_group_norm",
        n_q=config.num_quantizers,
        codebook_size=config.codebook_size,
        codebook_dim=config.hidden_size,
        segment_samples=config.chunk_length,
        overlap=config.overlap or 0.0,
        normalize=config.normalize,
        codec_name=name,
    )


@torch.no_grad()
def convert_encodec(model: EncodecModel, name: str = "encodec") -> SeanetCodec:
    """Our codec with the weights of an EncodecModel.

    Args:
        model: with any weights.
        name: the ``codec_name`` of the result.

    Returns:
        The codec in evaluation mode: the same codes (but for ties), audio within 1e-4.

    Raises:
        ValueError: as of :func:`convert_config`.
    """
    codec = SeanetCodec(convert_config(model.config, name))
    for theirs, ours in ((model.encoder, codec.encoder), (model.decoder, codec.decoder)):
        for source, target in zip(_boxes(theirs), _boxes(ours), strict=True):
            _copy(source, target)
    layers: Any = model.quantizer.layers
    codec.quantizer.codebooks.copy_(torch.stack([layer.codebook.embed for layer in layers]))
    return codec.eval()


def _boxes(network: nn.Module) -> list[nn.Module]:
    """What holds weights, in the order of the signal: both sides are built in it."""
    theirs = ("EncodecConv1d", "EncodecConvTranspose1d", "EncodecLSTM")
    ours = (SEANetConv, SEANetUpsample, SEANetLSTM)
    return [m for m in network.modules() if isinstance(m, ours) or type(m).__name__ in theirs]


def _copy(source: Any, target: Any) -> None:
    if isinstance(target, SEANetLSTM):
        target.lstm.load_state_dict(source.lstm.state_dict())
        return
    target.conv.weight.copy_(folded_weight(source.conv))
    target.conv.bias.copy_(source.conv.bias)
    if isinstance(target.norm, nn.GroupNorm):
        target.norm.load_state_dict(source.norm.state_dict())


def folded_weight(conv: Any) -> Tensor:
    """g * v / |v| of a weight-normed convolution (the weight itself of another): float32, bit for bit anywhere."""
    if not hasattr(conv, "parametrizations"):
        return conv.weight
    gain, direction = (p.detach().cpu().double() for p in conv.parametrizations.weight.parameters())
    squares = direction.square().flatten(1)
    while squares.shape[1] > 1:  # halves onto halves: each sum is of two numbers, in an order of our own
        if squares.shape[1] % 2:
            squares = torch.cat([squares, squares.new_zeros(len(squares), 1)], dim=1)
        half = squares.shape[1] // 2
        squares = squares[:, :half] + squares[:, half:]
    norm = squares.sqrt().view(gain.shape)
    return (gain * direction / norm).float()


def main(argv: list[str] | None = None) -> int:
    """Convert and save; prints the codes_fingerprint."""
    parser = argparse.ArgumentParser(prog="python -m audiotok.codec.convert", description=__doc__)
    parser.add_argument("source", help="hub id or folder of an EncodecModel")
    parser.add_argument("out", help="folder to write")
    parser.add_argument("--name", default="encodec", help="codec_name of the result (default: encodec)")
    args = parser.parse_args(argv)
    codec = convert_encodec(EncodecModel.from_pretrained(args.source, dtype=torch.float32), args.name)
    codec.save_pretrained(args.out)
    print(codec.codes_fingerprint)
    return 0


if __name__ == "__main__":
    sys.exit(main())
