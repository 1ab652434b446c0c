"""Means with the uncertainty that a test set of this size leaves: percentile bootstrap over clips.

Knows nothing of what the numbers measure. The law it keeps: the same numbers and seed give the same interval.

Source: Efron, Tibshirani, "An Introduction to the Bootstrap" (1993), chapter 13.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

RESAMPLES = 2000
"""Bootstrap resamples: the ends of a 95 % interval are then good to about a fiftieth of its width."""


@dataclass(frozen=True)
class Average:
    """The mean of one metric over clips, with the 95 % bootstrap interval of the mean."""

    mean: float
    low: float
    high: float
    clips: int


def bootstrap_interval(
    counts: Sequence[int], statistic: Callable[..., np.ndarray[Any, Any]], seed: int = 0
) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of a statistic over one or more sets of clips.

    Args:
        counts: clips of each set.
        statistic: takes one array of indices per set, [R, clips of the set] int64, and gives the statistic
            of each of the R resamples, [R].
        seed: of the resampling.

    Returns:
        The lower and the upper end.

    Raises:
        ValueError: a set without clips.
    """
    if not counts or min(counts) < 1:
        raise ValueError(f"expected at least one value to average, got sets of {list(counts)}")
    rng = np.random.default_rng(seed)
    picks = [rng.integers(0, count, (RESAMPLES, count)) for count in counts]
    low, high = np.percentile(statistic(*picks), (2.5, 97.5))
    return float(low), float(high)


def bootstrap(values: Sequence[float], seed: int = 0) -> Average:
    """The mean and its 95 % percentile bootstrap interval.

    Args:
        values: one number a clip, at least one.
        seed: of the resampling; the same seed gives the same interval.

    Raises:
        ValueError: no value.
    """
    array = np.asarray(values, dtype=np.float64)
    low, high = bootstrap_interval([len(array)], lambda picks: array[picks].mean(axis=1), seed)
    return Average(float(array.mean()), low, high, len(array))
