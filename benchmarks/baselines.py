"""Other people's codecs to time beside ours: transformers' own classes at their published sizes, with random weights.

Knows nothing of ours. The law it keeps: a rival is timed at its best (weight norm folded), searches codebooks that are
filled, and is not downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize


@dataclass(frozen=True)
class Rival:
    """A codec that can be timed.

    Attributes:
        label: its name, rate and bitrate.
        sampling_rate: in Hz.
        model: with random weights, in eval mode.
        encode: wav [1, 1, N] -> codes [1, K, T], whatever shape the model has them in.
        decode: these codes -> anything; only the time is looked at.
    """

    label: str
    sampling_rate: int
    model: nn.Module
    encode: Callable[[torch.Tensor], Any]
    decode: Callable[[Any], object]


def encodec() -> Rival:
    """EnCodec 24 kHz as its paper has it, at 6 kbit/s (arXiv:2210.13438): 75 Hz x 8 x 1024."""
    from transformers import EncodecConfig, EncodecModel

    model: Any = _ready(EncodecModel(EncodecConfig()))

    def encode(wav: torch.Tensor) -> Any:
        return model.encode(wav, torch.ones_like(wav[:, 0], dtype=torch.bool), bandwidth=6.0)

    def decode(out: Any) -> object:
        return model.decode(out.audio_codes, out.audio_scales)

    return Rival("encodec 24 kHz 6 kbps", model.config.sampling_rate, model, encode, decode)


def mimi() -> Rival:
    """Mimi 24 kHz at 1.1 kbit/s (Kyutai, arXiv:2410.00037): 12.5 Hz x 8 x 2048."""
    from transformers import MimiConfig, MimiModel

    model: Any = _ready(MimiModel(MimiConfig()))
    return Rival(
        "mimi 24 kHz 1.1 kbps",
        model.config.sampling_rate,
        model,
        lambda wav: model.encode(wav, num_quantizers=8).audio_codes,
        model.decode,
    )


def dac() -> Rival:
    """DAC 16 kHz at 6 kbit/s (arXiv:2306.06546): 50 Hz x 12 x 1024."""
    from transformers import DacConfig, DacModel

    model: Any = _ready(DacModel(DacConfig(downsampling_ratios=[2, 4, 5, 8], n_codebooks=12)))
    return Rival(
        "dac 16 kHz 6 kbps",
        model.config.sampling_rate,
        model,
        lambda wav: model.encode(wav).audio_codes,
        lambda codes: model.decode(audio_codes=codes),
    )


RIVALS: dict[str, Callable[[], Rival]] = {"encodec": encodec, "mimi": mimi, "dac": dac}
"""Name in ``--against`` -> builder. Call under a fixed seed, see :func:`build_rival`."""


def build_rival(name: str) -> Rival:
    """A rival with the same random weights every time.

    Args:
        name: one of :data:`RIVALS`.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return RIVALS[name]()


def _ready(model: nn.Module) -> nn.Module:
    """In eval mode, every codebook filled, weight norm folded into the weights as in deployment."""
    # A random EncodecModel and MimiModel have all-zero codebooks: the search costs the same, but every code is 0.
    for name, buffer in model.named_buffers():
        if name.endswith(("codebook.embed", "codebook.embed_sum")):
            buffer.normal_()
    for module in model.modules():
        if parametrize.is_parametrized(module, "weight"):
            parametrize.remove_parametrizations(module, "weight")
    return model.eval()
