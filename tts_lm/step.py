"""One step of the AR half on a CPU, in numpy: the same numbers as the stock model's, without its bookkeeping.

Knows nothing of sampling or prompts. The law it keeps: it reads the weights and writes the cache that torch holds, so
a step here and a step there are one generation.

Why numpy: a step of a small model is 25 products of a matrix and a vector with a hundred small operations between them.
Its BLAS runs those products at 2.4 times the speed of torch's on this project's machines (AMD EPYC, one thread), and a
small operation costs a fraction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class FusedLayer:
    """The weights of one Llama block, products that share an input joined."""

    attention_norm: Tensor
    qkv: Tensor
    out: Tensor
    feed_norm: Tensor
    gate_up: Tensor
    down: Tensor


def fuse(layer: Any) -> FusedLayer:
    """Join the weights of a ``LlamaDecoderLayer``."""
    attention, feed = layer.self_attn, layer.mlp
    return FusedLayer(
        layer.input_layernorm.weight.detach(),
        torch.cat((attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight)).detach(),
        attention.o_proj.weight.detach(),
        layer.post_attention_layernorm.weight.detach(),
        torch.cat((feed.gate_proj.weight, feed.up_proj.weight)).detach(),
        feed.down_proj.weight.detach(),
    )


class NumpyStep:
    """Feeds one id a row.

    Args:
        layers: the blocks, float32 on the CPU.
        heads: of the queries.
        kv_heads: of keys and values.
        eps: of the norms.
    """

    def __init__(self, layers: Sequence[FusedLayer], heads: int, kv_heads: int, eps: float) -> None:
        self._layers = [tuple(weight.numpy() for weight in vars(layer).values()) for layer in layers]
        self.heads, self.kv_heads, self.eps = heads, kv_heads, np.float32(eps)

    def __call__(self, x: Array, cos: Array, sin: Array, positions: Array, cache: Array) -> Array:
        """Hidden states after the last block.

        Args:
            x: [B, D] float32, the embedded ids.
            cos: [B, 1, size] of their positions.
            sin: the same.
            positions: [B] int64; the cache holds what came before.
            cache: [L, 2, B, H_kv, P, size] float32, written to.

        Returns:
            [B, D] float32.
        """
        batch, heads, kv = len(x), self.heads, self.kv_heads
        size = cos.shape[-1]
        half, rows = size // 2, np.arange(batch)
        reach = int(positions.max()) + 1
        later = np.arange(reach) > positions[:, None]  # rows that are shorter than the longest
        hidden = later[:, None, None] if later.any() else None
        scale = np.float32(size**-0.5)
        for (norm, qkv, out, feed_norm, gate_up, down), (keys, values) in zip(
            self._layers, cache, strict=True
        ):
            mixed = (self._norm(x) * norm) @ qkv.T
            mixed = mixed.reshape(batch, heads + 2 * kv, size)
            turned = mixed[:, : heads + kv]
            other = np.concatenate((-turned[..., half:], turned[..., :half]), axis=-1)
            turned = turned * cos + other * sin
            keys[rows, :, positions] = turned[:, heads:]
            values[rows, :, positions] = mixed[:, heads + kv :]
            query = turned[:, :heads].reshape(batch, kv, heads // kv, size) * scale
            scores = query @ keys[:, :, :reach].swapaxes(-1, -2)  # [B, H_kv, H / H_kv, P]
            if hidden is not None:
                np.putmask(scores, np.broadcast_to(hidden, scores.shape), np.float32(-np.inf))
            scores = np.exp(scores - scores.max(axis=-1, keepdims=True))
            scores /= scores.sum(axis=-1, keepdims=True)
            x = x + (scores @ values[:, :, :reach]).reshape(batch, -1) @ out.T
            gate, up = np.split((self._norm(x) * feed_norm) @ gate_up.T, 2, axis=-1)
            # Beyond 80 a sigmoid is 0 or 1 in float32; exp must not overflow on the way.
            x = x + (gate / (1 + np.exp(-np.maximum(gate, np.float32(-80)))) * up) @ down.T
        return x

    def _norm(self, x: Array) -> Array:
        return x / np.sqrt(np.add.reduce(x * x, axis=-1, keepdims=True) / np.float32(x.shape[-1]) + self.eps)
