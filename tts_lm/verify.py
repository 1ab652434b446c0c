"""Which of several readings of a sentence follows its text: read off the heads that were taught to look at it.

Knows nothing of sound or of recognisers, so that choosing by it and judging by a recogniser stay two things. The law
it keeps: it only listens; the same codes get the same fault whatever stands beside them.

Some heads of the AR half were taught where in the text the next frame is (tts_lm/training/attention.py). When a
reading skips, repeats or stops early, so does their gaze.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_STRIDE = 3.0  # sounds that a gaze may move on in a frame without having skipped any
_SLACK = 2.0  # sounds that it may look back without having repeated any


def gaze(attention: Tensor, first_frame: int, frames: int, text: slice) -> Tensor:
    """Where in the text each frame was looked for.

    Args:
        attention: [S, S] float, rows sum to 1.
        first_frame: position whose row looks for the first frame (``<audio>``).
        frames: T >= 1.
        text: positions of the text.

    Returns:
        [T] float32, positions counted from the text's first, the mean under the attention, smoothed by a median of 5.
    """
    weights = attention[first_frame : first_frame + frames, text]
    places = torch.arange(weights.shape[1], dtype=weights.dtype)
    where = (weights * places).sum(1) / weights.sum(1).clamp_min(1e-6)
    padded = torch.cat([where[:1].expand(2), where, where[-1:].expand(2)])
    return padded.unfold(0, 5, 1).median(dim=1).values


def fault(paths: Sequence[Tensor], sounds: int) -> float:
    """How much of a text was skipped, repeated or left over.

    Args:
        paths: [T] each, of :func:`gaze`, one per head.
        sounds: length of the text.

    Returns:
        Share of the text, 0 is none; the mean over heads.
    """
    total = 0.0
    for path in paths:
        moves = path.diff()
        skipped = (moves - _STRIDE).clamp_min(0.0).sum()
        repeated = (-moves - _SLACK).clamp_min(0.0).sum()
        left_over = max(0.0, sounds - 1 - float(path.max()))
        total += (float(skipped + repeated) + float(path[0]) + left_over) / max(sounds, 1)
    return total / max(len(paths), 1)
