"""What is done to a clip before it is encoded, if it is wanted: silent ends cut, loudness evened out.

Knows nothing of rows or codecs. The law it keeps: a clip's speech is never cut, only what is 40 dB below its loudest
10 ms, and its gain is one number for the whole clip.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

SPEECH_BELOW_DB = 40.0
LEVEL_BELOW_DB = 20.0
LARGEST_PEAK = 0.99
_FRAME_S = 0.01


@dataclass(frozen=True)
class Shaping:
    """What is done to every clip.

    Attributes:
        trim: cut the silence at both ends down to ``edge_s``.
        level_db: bring the clip's speech to this level (see :func:`speech_level_db`); None leaves it as it is.
        edge_s: seconds of silence that stay at each end.

    Raises:
        ValueError: the level is not below 0 dB, or the edge is negative or infinite.
    """

    trim: bool = False
    level_db: float | None = None
    edge_s: float = 0.1

    def __post_init__(self) -> None:
        if self.level_db is not None and not -80 <= self.level_db < 0:
            raise ValueError(f"expected a level in [-80, 0) dB of full scale, got {self.level_db}")
        if not 0 <= self.edge_s < math.inf:
            raise ValueError(f"expected edge_s >= 0, got {self.edge_s}")


@dataclass(frozen=True)
class Sound:
    """A decoded clip: wav [1, N] float32 in [-1, 1].

    Attributes:
        wav: the samples.
        sampling_rate: in Hz.
        start_s: seconds cut from its start.
        level_db: level of its speech before any gain, in dB of full scale.
    """

    wav: Tensor
    sampling_rate: int
    start_s: float
    level_db: float


def shape(wav: Tensor, sampling_rate: int, shaping: Shaping) -> Sound:
    """Cut and level a clip, as far as it is wanted.

    Args:
        wav: [1, N] float32, N >= 1, not silent.
        sampling_rate: in Hz.
        shaping: what is wanted.

    Returns:
        the clip, at most as long as before.
    """
    powers = frame_powers(wav[0].numpy(), sampling_rate)
    level_db = speech_level_db(powers)
    start = 0
    if shaping.trim:
        hop = _frame(sampling_rate)
        loud = np.flatnonzero(powers >= powers.max() * 10 ** (-SPEECH_BELOW_DB / 10))
        edge = round(shaping.edge_s * sampling_rate)
        start = max(0, int(loud[0]) * hop - edge)
        wav = wav[:, start : (int(loud[-1]) + 1) * hop + edge]
    if shaping.level_db is not None:
        gain = 10 ** ((shaping.level_db - level_db) / 20)
        peak = float(wav.abs().max())
        wav = wav * min(gain, LARGEST_PEAK / max(peak, 1e-9))
    return Sound(wav, sampling_rate, start / sampling_rate, level_db)


def frame_powers(wav: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Mean square of every 10 ms of samples [N]: [ceil(N / 10 ms)] float64; the last may be of fewer samples."""
    edges = np.arange(0, len(wav), _frame(sampling_rate))
    sums = np.add.reduceat(np.square(wav, dtype=np.float64), edges)
    return sums / np.diff(np.append(edges, len(wav)))


def speech_level_db(powers: np.ndarray) -> float:
    """Level of the speech in a clip: mean power of the frames within 20 dB of its loudest, in dB of full scale."""
    loud = powers[powers >= powers.max() * 10 ** (-LEVEL_BELOW_DB / 10)]
    return 10 * math.log10(max(float(loud.mean()), 1e-12))


def _frame(sampling_rate: int) -> int:
    return max(1, round(_FRAME_S * sampling_rate))
