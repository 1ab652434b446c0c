"""What was said: sentences, and a text of them as one sound.

Knows nothing of the language model. The law it keeps: every sentence ends as long after its last sound as the others
(tts_lm/endings.py), whatever it was said beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .decoding.sampling import FinishReason
from .endings import Ending
from .sentences import REASONS

PAUSE_SECONDS = 0.25
"""Silence between sentences, beside the little that each ends with."""


@dataclass(frozen=True)
class Speech:
    """What was said."""

    wav: Tensor
    """[N] float32 in [-1, 1]."""
    sampling_rate: int
    """Hz."""
    codes: Tensor
    """[K, T] int64, K the codebooks that were filled; without the pauses between sentences."""
    finish_reason: FinishReason
    """``eos`` when every sentence came to its end by itself, else the worst of theirs."""

    @property
    def seconds(self) -> float:
        """Length."""
        return self.wav.shape[-1] / self.sampling_rate


@dataclass(frozen=True)
class Said:
    """A sentence that was spoken."""

    codes: Tensor
    """[K, T] int64."""
    finish_reason: FinishReason


def join_sentences(said: Sequence[Said], codec: Any) -> Speech:
    """The sentences of one text as one speech, with pauses between them.

    Args:
        said: at least one, in order.
        codec: of the codes.
    """
    config = codec.config
    pause = torch.zeros(int(PAUSE_SECONDS * config.sampling_rate))
    wavs: list[Tensor] = []
    kept: list[Tensor] = []
    with torch.inference_mode():
        for sentence in said:
            wav = codec.decode(sentence.codes[None]).audio_values[0, 0].float().cpu().clamp(-1.0, 1.0)
            frames = Ending(config.hop_length, config.frame_rate).push(wav)
            wavs += [pause] * bool(wavs) + [wav[: frames * config.hop_length]]
            kept.append(sentence.codes[:, :frames])
    worst = REASONS[max(REASONS.index(sentence.finish_reason) for sentence in said)]
    return Speech(torch.cat(wavs).clone(), config.sampling_rate, torch.cat(kept, dim=1).cpu(), worst)
