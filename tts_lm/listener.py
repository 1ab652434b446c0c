"""The listener: which sound each frame of codebook 0 is of.

Knows nothing of texts, waveforms or recognisers. The law it keeps: what it hears in a row does not depend on the
row's neighbours or its padding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel

from .pronounce import SOUNDS

SILENCE = 0
CLASSES = {character: index for index, character in enumerate(SOUNDS.values(), start=1)}
"""The class of every sound, by the character it is written with; class 0 is silence."""
_KERNEL = 5
_DILATIONS = (1, 2, 4)


class ListenerConfig(PreTrainedConfig):
    """Sizes of a :class:`Listener` and the codec it belongs to.

    Args:
        codebook_size: V.
        hidden_size: D.
        num_hidden_layers: convolutions of 5 frames, dilated by 1, 2, 4, 1, 2, 4...
        dropout: on the embedded codes, in training.
        codes_fingerprint: of the codec.
    """

    model_type = "audiotok_listener"

    def __init__(
        self,
        codebook_size: int = 1024,
        hidden_size: int = 128,
        num_hidden_layers: int = 5,
        dropout: float = 0.1,
        codes_fingerprint: str = "",
        **kwargs: Any,
    ) -> None:
        self.codebook_size = codebook_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.dropout = dropout
        self.codes_fingerprint = codes_fingerprint
        super().__init__(**kwargs)


class _Block(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv1d(width, width, _KERNEL, padding=dilation * (_KERNEL // 2), dilation=dilation)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        around = (self.norm(x) * mask).transpose(1, 2)  # the padding is silent, whatever its codes
        return x + F.gelu(self.conv(around)).transpose(1, 2)


class Listener(PreTrainedModel):
    """Reads codes, hears sounds. Make one from a :class:`ListenerConfig` or with ``from_pretrained``."""

    config_class = ListenerConfig
    base_model_prefix = "listener"
    main_input_name = "codes"
    _no_split_modules = ["_Block"]

    def __init__(self, config: ListenerConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.embedding = nn.Embedding(config.codebook_size, width)
        self.blocks = nn.ModuleList(
            _Block(width, _DILATIONS[index % len(_DILATIONS)]) for index in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(CLASSES) + 1)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5)
        elif isinstance(module, nn.Conv1d | nn.Linear | nn.LayerNorm):
            module.reset_parameters()

    def forward(self, codes: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scores of silence and the sounds.

        Args:
            codes: [B, T] int64, codebook 0.
            mask: [B, T] bool, True where there is a frame; None = everywhere.

        Returns:
            [B, T, 40] logits, silence first, then :data:`CLASSES`.
        """
        x = F.dropout(self.embedding(codes), self.config.dropout, self.training)
        there = torch.ones_like(x[..., :1]) if mask is None else mask[..., None].to(x.dtype)
        for block in self.blocks:
            x = block(x, there)
        return self.head(self.norm(x))
