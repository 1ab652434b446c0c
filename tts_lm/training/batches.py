"""Which clips make up which batch.

Knows nothing of models. The law it keeps: the plan of an epoch follows from the seed and the epoch's number
alone, so a run that was killed goes on with the very batch it would have had.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..voices import VOICES
from .clips import Clip
from .recipe import DataRecipe

_NAMES = {index: name for name, index in VOICES.items()}


def sequence_length(clip: Clip) -> int:
    """Ids a clip takes at most in the AR sequence."""
    return (
        clip.frames + 7 + sum(1 + max(len(w.letters), len(w.sounds or "")) + len(w.after) for w in clip.words)
    )


def plan_epoch(clips: Sequence[Clip], data: DataRecipe, seed: int, epoch: int) -> list[list[int]]:
    """Choose and group the clips of one epoch.

    Args:
        clips: all training clips.
        data: weights of the voices, ids in a batch, curriculum.
        seed: of the run.
        epoch: 0, 1, …

    Returns:
        Batches of clip indices. A clip's padded batch holds at most ``batch_tokens`` ids unless it is alone.
    """
    rng = np.random.default_rng([seed, epoch])
    chosen: list[int] = []
    for index, clip in enumerate(clips):
        weight = data.weights.get(_NAMES.get(clip.voice, ""), data.other_weight)
        chosen += [index] * (int(weight) + int(rng.random() < weight % 1))
    order = np.asarray(chosen, dtype=np.int64)
    rng.shuffle(order)
    lengths = np.asarray([sequence_length(clip) for clip in clips])
    # A little noise on the length, so that neighbours differ from epoch to epoch.
    order = order[np.argsort(lengths[order] * rng.uniform(0.95, 1.05, len(order)), kind="stable")]
    batches: list[list[int]] = []
    longest = 0
    for index in order:
        longest = max(longest, int(lengths[index]))
        if not batches or longest * (len(batches[-1]) + 1) > data.batch_tokens:
            batches.append([])
            longest = int(lengths[index])
        batches[-1].append(int(index))
    if epoch + 1 <= data.curriculum_epochs:
        return batches
    if epoch < data.curriculum_epochs:  # a fraction of an epoch: its short half stays sorted
        cut = int(len(batches) * (data.curriculum_epochs - epoch))
        rest = batches[cut:]
        rng.shuffle(rest)
        return batches[:cut] + rest
    rng.shuffle(batches)
    return batches
