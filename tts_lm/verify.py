"""Which of several readings of a sentence follows its text: what a verifier is, and two of them.

Knows nothing of sound or of recognisers, so that choosing by it and judging by a recogniser stay two things. The law
it keeps: it only listens; the same codes get the same fault whatever stands beside them.

By gaze: some heads of the AR half were taught where in the text the next frame is (tts_lm/training/attention.py).
When a reading skips, repeats or stops early, so does their gaze; what was mumbled they do not hear.
By ear: a listener of its own (tts_lm/listener.py) says of every frame which sound it is, and what counts is how far
the text's sounds, in their order, fall short of explaining that.
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
_USUAL_FRAMES = 4.0  # of a sound, at 50 Hz
_MOST = 3.0  # what one word can cost: wrong is wrong, as word errors are counted
_LIKELIEST = "AE B K D EH F G HH IH JH K L M N AA P K R S T AH V W K Y Z".split()
# What a letter of an unknown word most likely sounds like: wrong now and then, but for all readings alike.
_CLASS_OF = CLASSES | {c: CLASSES[SOUNDS[s]] for c, s in zip(LETTERS[:26], _LIKELIEST, strict=True)}


@dataclass(frozen=True)
class Reading:
    """What the AR half made of one sentence."""

    codes: Tensor
    """[T] int64, codebook 0, T >= 0."""
    spoken: str
    """The sentence in sounds, of :func:`~tts_lm.pronounce.pronounce_text`."""
    prompt: Sequence[int]
    """The ids that the AR half was given."""
    text_at: int = TEXT_START
    """Where in them the sentence begins; before it there may be what a voice says in its own prompt."""


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
        text = slice(reading.text_at, reading.text_at + len(reading.spoken))
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
        """The mean :func:`shortfall` of the words, 0 to 3 nats a sound, and of what was said between them."""
        words = sounds_of(reading.spoken)
        if not words or len(reading.codes) < sum(map(len, words)):
            return math.inf
        logits = self.listener(reading.codes[None].to(self.listener.device))[0]
        return float(shortfall(logits.float().log_softmax(-1).cpu().numpy(), words).sum()) / len(words)

    @torch.inference_mode()
    def word_starts(self, reading: Reading) -> list[tuple[int, int]]:
        """Where on the best walk each word begins.

        Returns:
            (number of the word in ``spoken.split()``, its first frame), in order, of words that have sounds; none
            where there are fewer frames than sounds.
        """
        written = [(index, sounds_of(word)) for index, word in enumerate(reading.spoken.split())]
        words = [(index, sounds[0]) for index, sounds in written if sounds]
        if not words or len(reading.codes) < sum(len(sounds) for _, sounds in words):
            return []
        logits = self.listener(reading.codes[None].to(self.listener.device))[0]
        states = np.array([SILENCE, *(s for _, word in words for s in (*word, SILENCE))])
        path = walk(logits.float().log_softmax(-1).cpu().numpy()[:, states], states == SILENCE)
        firsts = np.cumsum([1, *(len(word) + 1 for _, word in words[:-1])])
        return [
            (index, int(np.searchsorted(path, first)))
            for (index, _), first in zip(words, firsts, strict=True)
        ]


def sounds_of(spoken: str) -> list[list[int]]:
    """The classes of a text's sounds, word by word.

    Args:
        spoken: sounds, and the letters of unknown words, of :func:`~tts_lm.pronounce.pronounce_text`.

    Returns:
        One list a word, of :data:`~tts_lm.listener.CLASSES`; none is empty.
    """
    words = [[_CLASS_OF[c] for c in word if c in _CLASS_OF] for word in spoken.split()]
    return [word for word in words if word]


def shortfall(log_probabilities: np.ndarray, words: Sequence[Sequence[int]]) -> np.ndarray:
    """What the sounds of each word, on the best walk, fall short of the likeliest sound of each frame.

    Of a word it is the mean over its sounds of each one's mean over its frames; or, when the word drags on or hides
    another, the sum over its frames for sounds of usual length, if that is more. What lies between words, where there
    should be silence, counts as a word of four sounds. Neither can cost more than 3.

    Args:
        log_probabilities: [T, 40] float, of silence and the sounds.
        words: of :func:`sounds_of`, W >= 1 of them with at most T sounds.

    Returns:
        [2 W + 1] float64, nats a sound, 0 is none: gap, word, gap, word... gap.
    """
    states = np.array([SILENCE, *(s for word in words for s in (*word, SILENCE))])
    path = walk(log_probabilities[:, states], states == SILENCE)
    short = log_probabilities.max(axis=1) - log_probabilities[np.arange(len(path)), states[path]]
    frames = np.bincount(path, minlength=len(states))
    sums = np.bincount(path, weights=short, minlength=len(states))
    means = sums / np.maximum(frames, 1)
    out = [sums[0] / (4 * _USUAL_FRAMES)]
    at = 1
    for word in words:
        own = slice(at, at := at + len(word))
        out.append(max(means[own].mean(), sums[own].mean() / _USUAL_FRAMES))
        out.append(sums[at] / (4 * _USUAL_FRAMES))
        at += 1
    return np.minimum(out, _MOST)


def walk(scores: np.ndarray, silent: np.ndarray) -> np.ndarray:
    """The likeliest way through states that stand in a row: each for a frame or more, silent ones only if it pays.

    Args:
        scores: [T, S] float, log-probability of each state at each frame; T is at least the number of sounds.
        silent: [S] bool; no two in a row, the first and the last among them.

    Returns:
        [T] int64, the state at each frame.

    Source: the Viterbi algorithm over a left-to-right hidden Markov model (Rabiner 1989, section III B).
    """
    skips = np.append([False, False], silent[1:-1])  # states that are reached past a silence, too
    best = np.full(len(silent), _NEVER)
    best[:2] = scores[0, :2]
    steps = np.zeros(scores.shape, dtype=np.int64)
    for index, frame in enumerate(scores[1:], start=1):
        jumped = np.where(skips, np.append([_NEVER, _NEVER], best[:-2]), _NEVER)
        ways = np.stack([best, np.append(_NEVER, best[:-1]), jumped])
        steps[index] = ways.argmax(axis=0)
        best = ways.max(axis=0) + frame
    path = [len(silent) - 1 - int(best[-2] > best[-1])]
    for step in steps[:0:-1]:
        path.append(path[-1] - int(step[path[-1]]))
    return np.array(path[::-1])


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
