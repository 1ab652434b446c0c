"""The weights of a stock Llama joined for decoding, and one step of it on a CPU, in numpy.

Knows nothing of sampling or prompts. The law it keeps: it reads the weights and writes the cache that torch holds, so
a step here and a step there are one generation, with the numbers of the stock model.

Why numpy: a step of a small model is 25 products of a matrix and a vector with a hundred small operations between them.
Its BLAS runs those products at 2.4 times the speed of torch's on this project's machines (AMD EPYC, one thread), and a
small operation costs a fraction. Products of several rows go the way of tts_lm/products.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .products import Array, Product


@dataclass(frozen=True)
class FusedLayer:
    """The weights of one block: products that share an input are joined, and what only multiplies (norms'
    weights, the scale of the scores, the half in silu) is in them. The two numbers that a rotation turns together
    stand side by side in queries and keys, so that a rotation is a complex product."""

    qkv: Product
    out: Product
    gate_up: Product
    down: Product


def fuse(layer: Any, heads: int, kv_heads: int, size: int) -> FusedLayer:
    """Join the weights of a ``LlamaDecoderLayer``.

    Args:
        layer: the block.
        heads: of the queries.
        kv_heads: of keys and values.
        size: of a head.
    """
    attention, feed = layer.self_attn, layer.mlp
    order = torch.arange(size, device=attention.q_proj.weight.device).view(2, size // 2).t().flatten()
    query, key = (
        projection.weight.detach().view(count, size, -1)[:, order].flatten(0, 1)
        for projection, count in ((attention.q_proj, heads), (attention.k_proj, kv_heads))
    )
    qkv = torch.cat((query * size**-0.5, key, attention.v_proj.weight.detach()))
    gate_up = torch.cat((feed.gate_proj.weight * 0.5, feed.up_proj.weight)).detach()
    weights = (
        qkv * layer.input_layernorm.weight.detach(),
        attention.o_proj.weight.detach(),
        gate_up * layer.post_attention_layernorm.weight.detach(),
        feed.down_proj.weight.detach(),
    )
    return FusedLayer(*(Product(weight.t().contiguous()) for weight in weights))


class NumpyStep:
    """Feeds one id a row.

    Args:
        layers: the blocks, float32 on the CPU.
        heads: of the queries.
        kv_heads: of keys and values.
        eps: of the norms.
    """

    def __init__(self, layers: Sequence[FusedLayer], heads: int, kv_heads: int, eps: float) -> None:
        self._layers = list(layers)
        self.heads, self.kv_heads, self.eps = heads, kv_heads, eps

    def __call__(
        self, x: Array, turn: Array, positions: Array, cache: Sequence[tuple[Array, Array]]
    ) -> Array:
        """Hidden states after the last block, without the last norm's weight.

        Args:
            x: [B, D] float32, the embedded ids.
            turn: [B, 1, size / 2] complex64, the rotation of their positions.
            positions: [B] int64; the cache holds what came before.
            cache: keys and values of each block, [B, H_kv, P, size] float32, written to.

        Returns:
            [B, D] float32, normed.
        """
        batch, heads, kv, size = len(x), self.heads, self.kv_heads, 2 * turn.shape[-1]
        reach = int(positions.max()) + 1
        place: Any = (slice(None), slice(None), reach - 1)
        hidden = None
        if int(positions.min()) + 1 < reach:  # rows that are shorter than the longest
            place = (np.arange(batch), slice(None), positions)
            hidden = (np.arange(reach) > positions[:, None])[:, None, None]
        for layer, (keys, values) in zip(self._layers, cache, strict=True):
            mixed = layer.qkv.rows(self.norm(x)).reshape(batch, heads + 2 * kv, size)
            turned = (mixed[:, : heads + kv].view(np.complex64) * turn).view(np.float32)
            keys[place], values[place] = turned[:, heads:], mixed[:, heads + kv :]
            query = turned[:, :heads].reshape(batch, kv, heads // kv, size)
            scores = query @ keys[:, :, :reach].swapaxes(-1, -2)  # [B, H_kv, H / H_kv, P]
            if hidden is not None:
                np.putmask(scores, np.broadcast_to(hidden, scores.shape), np.float32(-np.inf))
            scores -= scores.max(axis=-1, keepdims=True)
            np.exp(scores, out=scores)
            scores /= scores.sum(axis=-1, keepdims=True)
            x = x + layer.out.rows((scores @ values[:, :, :reach]).reshape(batch, heads * size))
            both = layer.gate_up.rows(self.norm(x))
            half = both[:, : both.shape[1] // 2]
            gate = np.tanh(half)  # silu(2 h) = h (1 + tanh h), which cannot overflow
            gate += 1
            gate *= half
            gate *= both[:, both.shape[1] // 2 :]
            x += layer.down.rows(gate)
        return self.norm(x)

    def norm(self, x: Array) -> Array:
        """RMS norm of [B, D], without a weight."""
        if len(x) == 1:  # numbers of Python are quicker than arrays of one
            row = x[0]
            return x * np.float32(1 / math.sqrt(float(row.dot(row)) / len(row) + self.eps))
        squares = np.einsum("bd,bd->b", x, x) / x.shape[-1] + self.eps
        return x * (1 / np.sqrt(squares))[:, None].astype(np.float32)
