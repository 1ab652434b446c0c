"""Which of several readings of a sentence follows its text: what a verifier is, and two of them.

Knows nothing of sound or of recognisers, so that choosing by it and judging by a recogniser stay two things. The law
it keeps: it only listens; the same codes get the same fault whatever stands beside them.

By gaze: some heads of the AR half were taught where in the text the next frame is (tts_lm/training/attention.py).
When a reading skips, repeats or stops early, so does their gaze; what was mumbled they do not hear.
By ear: a listener of its own (tts_lm/listener.py) says of every frame which sound it is, and how well the text's
sounds, in their order, explain that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .ar import ArDecoder
from .listener import CLASSES, SILENCE, Listener
from .pronounce import SOUNDS
from .text import LETTERS, TEXT_START

_STRIDE = 3.0  # sounds that a gaze may move on in a frame without having skipped any
_SLACK = 2.0  # sounds that it may look back without having repeated any
_NEVER = -1e9
_USUAL = "AE B K D EH F G HH IH JH K L M N AA P K R S T AH V W K Y Z".split()
# What a letter of an unknown word most likely sounds like: wrong now and then, but for all readings alike.
_CLASS_OF = CLASSES | {c: CLASSES[SOUNDS[s]] for c, s in zip(LETTERS[:26], _USUAL, strict=True)}


@dataclass(frozen=True)
class Reading:
    """What the AR half made of one sentence."""

    codes: Tensor
    """[T] int64, codebook 0, T >= 0."""
    spoken: str
    """The sentence in sounds, of :func:`~tts_lm.pronounce.pronounce_text`."""
    prompt: Sequence[int]
    """The ids that the AR half was given."""


class Verifier(Protocol):
    """What chooses among readings; plug in another one by writing this method."""

    def fault(self, reading: Reading) -> float:
        """How badly a reading follows its text: of several readings of one sentence the least is the best."""
        ...


class GazeVerifier:
    """Chooses by where the AR half looked.

    Args:
        decoder: of the AR half whose readings are judged.
    """

    def __init__(self, decoder: ArDecoder) -> None:
        self.decoder = decoder

    def fault(self, reading: Reading) -> float:
        """Share of the text that was skipped, repeated or left over; 0 without taught heads."""
        frames, prompt = len(reading.codes), reading.prompt
        if not frames:
            return math.inf
        ids = [*prompt, *(reading.codes + self.decoder.audio["audio_offset"]).tolist()]
        text = slice(TEXT_START, len(prompt) - 2)  # what follows is </text> <audio>
        paths = [
            gaze(self.decoder.attention(ids, layer, head), len(prompt) - 1, frames, text)
            for layer, head in self.decoder.audio.get("look", [])
        ]
        return fault(paths, text.stop - text.start)


class ListenerVerifier:
    """Chooses by what a listener hears.

    Args:
        listener: for the codes of the AR half.
    """

    def __init__(self, listener: Listener) -> None:
        self.listener = listener.eval()

    @torch.inference_mode()
    def fault(self, reading: Reading) -> float:
        """By how much the text explains the frames worse than they could be explained, in nats a sound."""
        words = sounds_of(reading.spoken)
        sounds = sum(map(len, words))
        if not len(reading.codes) or not sounds:
            return math.inf
        logits = self.listener(reading.codes[None].to(self.listener.device))[0]
        return unexplained(logits.float().log_softmax(-1).cpu().numpy(), words) / sounds


def sounds_of(spoken: str) -> list[list[int]]:
    """The classes of a text's sounds, word by word.

    Args:
        spoken: sounds, and the letters of unknown words, of :func:`~tts_lm.pronounce.pronounce_text`.

    Returns:
        One list a word, of :data:`~tts_lm.listener.CLASSES`; none is empty.
    """
    words = [[_CLASS_OF[c] for c in word if c in _CLASS_OF] for word in spoken.split()]
    return [word for word in words if word]


def unexplained(log_probabilities: np.ndarray, words: Sequence[Sequence[int]]) -> float:
    """What the best walk through a text falls short of the best walk through anything.

    A walk passes every sound in order, stays in each for a frame or more, and may rest in silence between words.

    Args:
        log_probabilities: [T, 40] float, of silence and the sounds, T >= 1.
        words: of :func:`sounds_of`, at least one.

    Returns:
        Nats, >= 0; about 1e9 when there are fewer frames than sounds.

    Source: the Viterbi algorithm over a left-to-right hidden Markov model (Rabiner 1989, section III B).
    """
    states = np.array([SILENCE, *(s for word in words for s in (*word, SILENCE))])
    scores = log_probabilities[:, states]  # [T, S]
    passable = np.zeros(len(states), dtype=bool)  # reached past a silence that was not taken
    passable[2:] = states[1:-1] == SILENCE
    best = np.full(len(states), _NEVER)
    best[:2] = scores[0, :2]
    for frame in scores[1:]:
        moved = np.maximum(best, np.append(_NEVER, best[:-1]))
        jumped = np.where(passable[2:], best[:-2], _NEVER)
        moved[2:] = np.maximum(moved[2:], jumped)
        best = moved + frame
    return float(log_probabilities.max(axis=1).sum() - best[-2:].max())


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
