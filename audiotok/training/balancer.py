"""Losses of one sound, each with the share of its gradient that its weight says.

Knows nothing of networks: it sees the decoded sound and scalars made of it. The law kept: over a run, the share that a
loss has of the gradient that reaches the decoder is its weight, however large the loss.

Source: EnCodec (arXiv:2210.13438), section 3.4, "balancer"; our ``total`` is its R, ``decay`` its beta.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


class Balancer:
    """Weighs gradients, not losses.

    Args:
        weights: of every loss, by path; a loss that is not in it may not come.
        decay: of the moving averages of the gradients' lengths; their start is corrected as in Adam.
        total: length of the sum's gradient, per item of the batch.
        balance: False multiplies the gradients by their weights and does no more (SoundStream's sum).

    Attributes:
        shares: of the latest step: each loss's part of the lengths of all gradients, after weighing.
    """

    def __init__(
        self, weights: Mapping[str, float], decay: float = 0.999, total: float = 1.0, balance: bool = True
    ) -> None:
        self.weights = dict(weights)
        self.decay, self.total, self.balance = decay, total, balance
        self.shares: dict[str, float] = {}
        self._lengths: dict[str, tuple[float, float]] = {}  # sum of decayed lengths, and of decayed ones

    def gradient(self, losses: Mapping[str, Tensor], wav: Tensor) -> Tensor:
        """The gradient that the decoder is to get.

        Args:
            losses: scalars by path, made of ``wav``.
            wav: [B, C, N], a leaf that requires a gradient.

        Returns:
            [B, C, N].

        Raises:
            KeyError: a loss has no weight.
        """
        names = [name for name in losses if self.weights[name] > 0]
        share = sum(self.weights[name] for name in names)
        weighed, lengths = torch.zeros_like(wav), {}
        for name in names:
            (gradient,) = torch.autograd.grad(losses[name], wav, retain_graph=True)
            length = gradient.flatten(1).norm(dim=1).mean()
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.all_reduce(length, torch.distributed.ReduceOp.AVG)
            factor = self.weights[name]
            if self.balance:
                factor *= self.total / share / max(self._average(name, float(length)), 1e-12)
            weighed += factor * gradient
            lengths[name] = factor * float(length)
        whole = sum(lengths.values()) or 1.0
        self.shares = {name: length / whole for name, length in lengths.items()}
        return weighed

    def _average(self, name: str, length: float) -> float:
        total, weight = self._lengths.get(name, (0.0, 0.0))
        total, weight = self.decay * total + length, self.decay * weight + 1.0
        self._lengths[name] = (total, weight)
        return total / weight

    def state_dict(self) -> dict[str, list[float]]:
        """What a checkpoint keeps."""
        return {name: list(pair) for name, pair in self._lengths.items()}

    def load_state_dict(self, state: Mapping[str, list[float]]) -> None:
        """Go on from a checkpoint."""
        self._lengths = {name: (pair[0], pair[1]) for name, pair in state.items()}
