"""A long sound as segments that overlap a little, and back. Knows nothing of codecs.

The law kept: where segments come back as they went, so does the sound.

Source: EnCodec (arXiv:2210.13438), section 3.1: 48 kHz music in segments of 1 s with 1 % of overlap.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def segment_starts(num_samples: int, stride: int | None) -> list[int]:
    """Where segments begin, in samples; one that holds all where ``stride`` is None."""
    return list(range(0, num_samples, stride)) if stride else [0]


def fade_weights(size: int, device: torch.device | str = "cpu") -> Tensor:
    """How much each sample of a segment of ``size`` counts where segments overlap: a triangle, [size] float32."""
    return 0.5 - (torch.linspace(0, 1, size + 2, device=device)[1:-1] - 0.5).abs()


def overlap_add(segments: Sequence[Tensor], stride: int) -> Tensor:
    """Segments -> sound; where two overlap, the sound goes over from one to the other.

    Args:
        segments: [B, C, n] float32 each, the first the longest.
        stride: samples from the start of one to that of the next, at most the length of the first.

    Returns:
        [B, C, N] float32.
    """
    first, last = segments[0], segments[-1]
    total = stride * (len(segments) - 1) + last.shape[-1]
    weights = fade_weights(first.shape[-1], first.device)
    sound, weight = first.new_zeros(*first.shape[:-1], total), first.new_zeros(total)
    for number, segment in enumerate(segments):
        size, at = segment.shape[-1], number * stride
        size = min(size, total - at)
        sound[..., at : at + size] += weights[:size] * segment[..., :size]
        weight[at : at + size] += weights[:size]
    return sound / weight
