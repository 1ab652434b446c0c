"""The entropy model in training: float weights that are rounded in the forward pass like the exported integers.

With rounding the forward pass equals :class:`~audiotok.bitstream.EntropyModel`. Gradients pass the rounding unchanged
(straight-through estimator, Bengio et al., arXiv:1308.3432).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..bitstream.entropy import AHEAD, BEHIND, EntropyModel

# Steps per unit of every kind of value; powers of two, so that rescaling is a shift.
_EMB, _WEIGHT, _ACT, _OUT, _EXP = 32, 128, 16, 32, 64
_SHIFTS = (8, 7, 7, 3)
assert _EMB * _WEIGHT == _ACT << _SHIFTS[0] and _ACT * _WEIGHT == _ACT << _SHIFTS[1]
assert _ACT * _OUT == _EXP << _SHIFTS[3]
_TABLE = 1024


class EntropyNet(nn.Module):
    """Predicts the codes of packets, codebook by codebook.

    Args:
        n_q, codebook_size: K and V of the codec.
        width: width of the embeddings (E).
        hidden: width of h1 and h2.
        out_width: width of q (O).
        taps: past frames at which h1 is read.
    """

    def __init__(
        self, n_q: int, codebook_size: int, width: int, hidden: int, out_width: int, taps: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.n_q, self.codebook_size, self.taps = n_q, codebook_size, tuple(taps)
        self.emb = nn.Parameter(0.3 * torch.randn(n_q, codebook_size, width))
        inputs = (2 + AHEAD + BEHIND) * width
        self.w1 = nn.Parameter(torch.randn(n_q, inputs, hidden) / inputs**0.5)
        self.b1 = nn.Parameter(torch.zeros(n_q, hidden))
        joined = (1 + len(taps)) * hidden
        self.w2 = nn.Parameter(torch.randn(n_q, joined, hidden) / joined**0.5)
        self.b2 = nn.Parameter(torch.zeros(n_q, hidden))
        self.w3 = nn.Parameter(0.3 * torch.randn(n_q, hidden, out_width) / hidden**0.5)
        self.b3 = nn.Parameter(torch.zeros(n_q, out_width))
        self.out = nn.Parameter(0.3 * torch.randn(n_q, codebook_size, out_width))
        self.bias = nn.Parameter(torch.zeros(n_q, codebook_size))

    @torch.no_grad()
    def start_from(self, codebooks: Tensor, usage: Tensor) -> None:
        """Initialise embeddings and outputs with the codewords and the bias with the frequencies of the codes.

        Args:
            codebooks: [K, V, D] float32 of the codec.
            usage: [K, V] counts of the codes in the training data.
        """
        self.bias.copy_(((usage + 0.5) / (usage + 0.5).sum(1, keepdim=True)).log())
        self.bias.sub_(self.bias.mean(1, keepdim=True))
        share = usage / usage.sum(1, keepdim=True)
        centred = codebooks - (share[..., None] * codebooks).sum(1, keepdim=True)
        spread = torch.einsum("kv,kvd,kve->de", share, centred, centred)
        main = torch.linalg.eigh(spread).eigenvectors.flip(1)
        width = min(self.emb.shape[-1], centred.shape[-1])
        words = centred @ main[:, :width]
        self.emb.zero_()
        self.emb[..., :width] = words / (words[0].std() + 1e-9)
        for k in range(self.n_q):
            own = torch.linalg.eigh(centred[k].t() @ (share[k][:, None] * centred[k])).eigenvectors.flip(1)
            size = min(self.out.shape[-1], own.shape[-1])
            words = centred[k] @ own[:, :size]
            self.out[k].zero_()
            self.out[k, :, :size] = words / (words.std() + 1e-9)

    def forward(self, k: int, codes: Tensor) -> Tensor:
        """Logits of codebook k.

        Args:
            k: the codebook.
            codes: [P, K, T] int64 in [0, V]; V marks frames after a packet's end.

        Returns:
            [P, T, V] float32, natural logarithms of unnormalised probabilities.
        """
        table = F.pad(_rounded(self.emb[: k + 1], _EMB), (0, 0, 0, 1))
        each = [F.embedding(codes[:, j], table[j]) for j in range(k + 1)]
        low = torch.stack(each[:k]).sum(0) if k else torch.zeros_like(each[0])
        own = low + each[k]
        parts = [low, each[k - 1] if k else low]
        parts += [_earlier(low, -i) for i in range(1, AHEAD + 1)] + [
            _earlier(own, i) for i in range(1, BEHIND + 1)
        ]
        h1 = _active(
            torch.cat(parts, -1) @ _rounded(self.w1[k], _WEIGHT) + _bias(self.b1[k], _EMB * _WEIGHT), 0
        )
        joined = torch.cat([_earlier(h1, tap) for tap in (0, *self.taps)], -1)
        h2 = _active(joined @ _rounded(self.w2[k], _WEIGHT) + _bias(self.b2[k], _ACT * _WEIGHT), 0)
        q = _active(h2 @ _rounded(self.w3[k], _WEIGHT) + _bias(self.b3[k], _ACT * _WEIGHT), -127)
        return q @ _rounded(self.out[k], _OUT).t() + _bias(self.bias[k], _ACT * _OUT)

    @torch.no_grad()
    def export(self, codes_fingerprint: str) -> EntropyModel:
        """Convert this network to integers.

        Raises:
            EntropyModelError: the weights are too large for exact sums.
        """
        tensors = {
            "emb": _int8(self.emb, _EMB), "w1": _int8(self.w1, _WEIGHT), "w2": _int8(self.w2, _WEIGHT),
            "w3": _int8(self.w3, _WEIGHT), "out": _int8(self.out, _OUT), "bias": _int32(self.bias, _ACT * _OUT),
            "b1": _int32(self.b1, _EMB * _WEIGHT), "b2": _int32(self.b2, _ACT * _WEIGHT),
            "b3": _int32(self.b3, _ACT * _WEIGHT),
        }  # fmt: skip
        for name, shift in zip(("b1", "b2", "b3"), _SHIFTS, strict=False):
            tensors[name] += 1 << shift - 1  # half a step, to round instead of truncating
        tensors["exp_table"] = np.rint(65536 * np.exp(-np.arange(_TABLE) / _EXP)).astype(np.int32)
        return EntropyModel(tensors, self.taps, _SHIFTS, codes_fingerprint)


def _through(x: Tensor, rounded: Tensor) -> Tensor:
    """Return ``rounded`` with the gradient of ``x``."""
    return x + (rounded - x).detach()


def _rounded(x: Tensor, steps: int) -> Tensor:
    """Round weights like the exported int8."""
    x = x.clamp(-127 / steps, 127 / steps)
    return _through(x, torch.round(x * steps) / steps)


def _bias(x: Tensor, steps: int) -> Tensor:
    return _through(x, torch.round(x * steps) / steps)


def _active(x: Tensor, low: int) -> Tensor:
    """Round activations like the exported integers: half up, within [low, 127] steps."""
    x = x.clamp(low / _ACT, 127 / _ACT)
    return _through(x, torch.floor(x * _ACT + 0.5).clamp(low, 127) / _ACT)


def _int8(x: Tensor, steps: int) -> np.ndarray:
    return torch.round(x.clamp(-127 / steps, 127 / steps) * steps).to("cpu", torch.int8).numpy()


def _int32(x: Tensor, steps: int) -> np.ndarray:
    return torch.round(x * steps).to("cpu", torch.int32).numpy()


def _earlier(x: Tensor, frames: int) -> Tensor:
    """Shift x [P, T, D] by ``frames`` (negative: to earlier frames), with 0 outside the packet."""
    if frames == 0:
        return x
    size = x.shape[1]
    return F.pad(x, (0, 0, frames, 0))[:, :size] if frames > 0 else F.pad(x, (0, 0, 0, -frames))[:, -frames:]
