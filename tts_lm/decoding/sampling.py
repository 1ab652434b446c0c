"""Sampling of the next code, and the conditions that end a generation.

Noise is a function of (seed, row, step), so that the codes of a row do not depend on the other rows of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

FinishReason = Literal["eos", "length", "loop", "silence"]

_LOOP_SECONDS = 1.0
_LOOP_PERIOD_SECONDS = 0.4
_LOOP_TURNS = 4
_SILENCE_SECONDS = 1.5


@dataclass(frozen=True)
class Sampling:
    """Sampling settings.

    Args:
        temperature: divides the logits; 0 is greedy.
        top_k: number of the most likely codes to sample from, 0 = all.
        top_p: probability mass of the most likely codes to sample from, 0 < top_p <= 1.
        window: frames of repetition-aware sampling (VALL-E 2, arXiv:2406.05370); 0 turns it off.
        ratio: if a code fills more than this share of the window, the next code is drawn again from all codes.
        n_q: codebooks that the NAR model fills, 0 = all.
        best_of: candidates of each sentence, of which the reranker keeps the best.

    Raises:
        TypeError: a value is not a number, or not an int where one is required.
        ValueError: a value is out of range.
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.8
    window: int = 10
    ratio: float = 0.1
    n_q: int = 0
    best_of: int = 1

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            kind = int if name in ("top_k", "window", "n_q", "best_of") else (int, float)
            if isinstance(value, bool) or not isinstance(value, kind):
                number = "a whole number" if kind is int else "a number"
                raise TypeError(f"expected {name} to be {number}, got {value!r}")
            low, high = {"top_p": (math.ulp(0.0), 1), "best_of": (1, math.inf)}.get(name, (0, math.inf))
            if not low <= value <= high or value == math.inf:
                rule = {"top_p": "> 0 and <= 1", "best_of": ">= 1"}.get(name, ">= 0")
                raise ValueError(f"expected {name} {rule}, got {value}")


@dataclass(frozen=True)
class FrameLimits:
    """Shortest and longest answer to a text, in frames."""

    shortest: int
    longest: int


def frame_limits(symbols: int, frame_rate: float) -> FrameLimits:
    """Limits for a text of this many phonemes or letters: 25 to 160 ms for each, and one more second at most."""
    return FrameLimits(
        max(1, int(0.025 * symbols * frame_rate)), int((0.16 * max(symbols, 1) + 1.0) * frame_rate)
    )


def row_noise(seed: int, row: int, steps: int) -> np.ndarray:
    """Uniform noise of one row: [steps, 2] float64 in [0, 1). The first steps do not depend on ``steps``."""
    key = np.array([seed % 2**64, row % 2**64], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random((steps, 2))


def draw(logits: Tensor, noise: Tensor, recent: Tensor, sampling: Sampling) -> Tensor:
    """Draw one code per row with repetition-aware nucleus sampling.

    Args:
        logits: [B, V] float32; -inf forbids.
        noise: [B, 2] in [0, 1), from :func:`row_noise`.
        recent: [B, W] int64, the last codes of the row, -1 before its start.
        sampling: sampling settings.

    Returns:
        [B] int64.
    """
    if sampling.temperature == 0:
        return logits.argmax(-1)
    scaled = logits / sampling.temperature
    chosen = _invert(nucleus(scaled, sampling.top_k, sampling.top_p), noise[:, 0])
    if sampling.window and recent.shape[1]:
        share = (recent[:, -sampling.window :] == chosen[:, None]).sum(1) / sampling.window
        again = _invert(scaled.softmax(-1), noise[:, 1])
        chosen = torch.where(share > sampling.ratio, again, chosen)
    return chosen


def nucleus(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Probabilities [..., V] of the smallest set with mass ``top_p``, at most ``top_k`` codes (0 = any number)."""
    probabilities = logits.softmax(-1)
    ordered = _descending(probabilities)
    kept = (ordered.cumsum(-1) - ordered < top_p).sum(-1, keepdim=True)
    if top_k:
        kept = kept.clamp(max=top_k)
    least = ordered.gather(-1, kept - 1)
    above, equal = probabilities > least, probabilities == least
    # ties: the first code
    equal &= equal.cumsum(-1) <= kept - above.sum(-1, keepdim=True)
    probabilities = probabilities * (above | equal)
    return probabilities / probabilities.sum(-1, keepdim=True)


def find_loop(codes: np.ndarray, frame_rate: float) -> int | None:
    """Find a loop at the end of codes [T]: frames to keep, up to the end of the first period, or None."""
    for period in range(1, int(_LOOP_PERIOD_SECONDS * frame_rate) + 1):
        span = max(int(_LOOP_SECONDS * frame_rate), _LOOP_TURNS * period)
        if len(codes) >= span and np.array_equal(codes[-span:-period], codes[-span + period :]):
            return len(codes) - span + period
    return None


def find_silence(codes: np.ndarray, silent: Collection[int], frame_rate: float) -> int | None:
    """Find silence at the end of codes [T]: frames to keep, at least one, or None if the silence is short."""
    span = int(_SILENCE_SECONDS * frame_rate)
    if not silent or len(codes) < span or not np.isin(codes[-span:], list(silent)).all():
        return None
    return max(len(codes) - span, 1)


def _descending(values: Tensor) -> Tensor:
    if values.device.type == "cpu":  # numpy sorts 1,000 numbers ten times as fast as torch
        return torch.from_numpy(np.sort(-values.numpy(), axis=-1)).neg_()
    return values.sort(dim=-1, descending=True).values


def _invert(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Inverse transform sampling: the code [B] where the cumulative probability passes ``uniform``."""
    edges = probabilities.double().cumsum(-1)
    found = torch.searchsorted(edges, (uniform.double() * edges[:, -1])[:, None], right=True)[:, 0]
    last = probabilities.shape[-1] - 1 - (probabilities > 0).int().flip(-1).argmax(-1)
    return found.minimum(last)
