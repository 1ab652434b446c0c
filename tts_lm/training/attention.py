"""Teach chosen heads of a stock Llama where in the text the next frame is.

Knows nothing of speech. The law it keeps: the model is only listened to; without this object it computes the
same.

A decoder-only speech model finds the path through its text by itself, but late: it needs hundreds of hours.
With the times of the words known, a few heads are told where to look, and the rest learns to use what they
bring.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class AttentionTeacher:
    """Listens to some heads of a ``LlamaForCausalLM`` and scores where they look.

    Args:
        model: the model, with as many key heads as heads.
        layers: blocks to listen to, from 0.
        heads: the first so many heads of each.
        width: positions either side of the target that count as right.

    Raises:
        ValueError: the model has no such block or head.
    """

    def __init__(self, model: Any, layers: Sequence[int], heads: int, width: int) -> None:
        config = model.config
        if (
            not layers
            or max(layers) >= config.num_hidden_layers
            or not 0 < heads <= config.num_key_value_heads
        ):
            raise ValueError(
                f"expected attention.layers below {config.num_hidden_layers} and 1 to "
                f"{config.num_key_value_heads} heads, got layers {list(layers)} and {heads} heads; "
                "--set attention.layers=[0] suits the smallest, --set attention.weight=0 goes without"
            )
        self.heads = heads
        self.width = width
        self.size = config.head_dim
        self._heard: list[tuple[nn.Module, Tensor, tuple[Tensor, Tensor]]] = []
        for index in layers:
            model.model.layers[index].self_attn.register_forward_pre_hook(self._listen, with_kwargs=True)

    def loss(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Score the forward pass that has just been run, and forget it.

        Args:
            targets: [B, S] int64, for each position the position it should look at, -1 for none.

        Returns:
            The mean of -log(attention within ``width`` of the target), and the mean attention there, both
            scalars; zeros when no position has a target.
        """
        heard, self._heard = self._heard, []
        rows, queries = torch.nonzero(targets >= 0, as_tuple=True)
        if not len(rows):
            zero = torch.zeros((), device=targets.device)
            return zero, zero
        logs = []
        window = targets[rows, queries, None] + torch.arange(
            -self.width, self.width + 1, device=targets.device
        )
        window = window.clamp(min=0).minimum(queries[:, None])
        for attention, hidden, (cos, sin) in heard:
            scores = self._scores(attention, hidden, cos, sin)  # [B, H, S, S]
            total = scores.logsumexp(-1)[rows, :, queries]  # [M, H]
            near = scores[rows[:, None], :, queries[:, None], window]  # [M, W, H]
            logs.append(near.logsumexp(1) - total)
        found = torch.cat(logs, dim=1)
        return -found.mean(), found.detach().exp().mean()

    def _listen(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if module.training:
            hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            where = kwargs["position_embeddings"] if "position_embeddings" in kwargs else args[1]
            self._heard.append((module, hidden, where))

    def _scores(self, attention: Any, hidden: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = hidden.shape
        wide = self.heads * self.size
        query = (
            F.linear(hidden, attention.q_proj.weight[:wide])
            .view(batch, length, self.heads, self.size)
            .transpose(1, 2)
        )
        key = (
            F.linear(hidden, attention.k_proj.weight[:wide])
            .view(batch, length, self.heads, self.size)
            .transpose(1, 2)
        )
        query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
        scores = (query @ key.transpose(-1, -2)).float() * self.size**-0.5
        future = torch.ones(length, length, dtype=torch.bool, device=hidden.device).triu(1)
        return scores.masked_fill(future, torch.finfo(torch.float32).min)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    turned = torch.cat((-x[..., half:], x[..., :half]), dim=-1)
    return x * cos.unsqueeze(1) + turned * sin.unsqueeze(1)
