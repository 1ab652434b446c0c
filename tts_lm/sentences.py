"""A text as sentences that the AR half is asked, and the best answers to them.

Knows nothing of sound. The laws it keeps: a sentence said beside others, or alone, gets the same answer; each begins
from the same prompt of its voice, so that a long text cannot drift away from it.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .ar import Answer, ArDecoder
from .pronounce import pronounce_text
from .sampling import FinishReason, FrameLimits, Sampling, frame_limits
from .text import (
    MAX_PROMPTED_LETTERS,
    MAX_SENTENCE_LETTERS,
    TEXT_START,
    build_prompt,
    normalise,
    split_sentences,
)
from .verify import Reading, Verifier
from .voices import Voice

ATTEMPTS = 3
ROWS_AT_ONCE = 16
REASONS: tuple[FinishReason, ...] = ("eos", "silence", "length", "loop")  # from good to bad
Progress = Callable[[int, int], None] | None
"""Called with (sentences spoken, sentences)."""


@dataclass(frozen=True)
class Sentence:
    """What the AR half is asked."""

    spoken: str
    """In sounds."""
    prompt: list[int]
    text_at: int
    """Where in the prompt it begins."""
    limits: FrameLimits
    seed: int
    voice: Voice
    """Who speaks."""
    row: int
    """Its number in the text; with the seed it is what the noise depends on."""


def plan_sentences(
    text: str, voice: Voice, seed: int, tokenizer: Any, characters: Mapping[str, int], frame_rate: float
) -> list[Sentence]:
    """Cut a text into sentences and build a prompt for each.

    Args:
        text: English, any length.
        voice: who speaks. One with a ``prompt_text`` has the AR half go on from its codes (VALL-E, arXiv:2301.02111,
            section 4.3); the others are called by their control token.
        seed: of the text.
        tokenizer: an ``audiotok`` tokenizer.
        characters: the id of each character, of :func:`~tts_lm.text.character_ids`.
        frame_rate: in Hz.

    Raises:
        TypeError, ValueError: as :func:`~tts_lm.text.normalise`.
    """
    before, most = "", MAX_SENTENCE_LETTERS
    if voice.prompt_text:
        before, most = pronounce_text(normalise(voice.prompt_text)) + " ", MAX_PROMPTED_LETTERS
    heard = (voice.codes[0] + tokenizer.audio_offset).tolist() if before else []
    out = []
    for row, spoken in enumerate(pronounce_text(s) for s in split_sentences(normalise(text), most)):
        ids = [characters[c] for c in before + spoken]
        limits = frame_limits(len(spoken.replace(" ", "")), frame_rate)
        prompt = build_prompt(tokenizer, ids, voice.index) + heard
        out.append(Sentence(spoken, prompt, TEXT_START + len(before), limits, seed, voice, row))
    return out


def answer_sentences(
    decoder: ArDecoder,
    sentences: Sequence[Sentence],
    sampling: Sampling,
    verifier: Verifier,
    silent: Collection[int],
    progress: Progress = None,
) -> list[Answer]:
    """Codebook 0 of every sentence, the best of several; what did not end by itself is tried again.

    Args:
        decoder: of the AR half.
        sentences: in any order.
        sampling: how codes are drawn, and of how many readings the best is kept.
        verifier: chooses.
        silent: codes of silence.
        progress: called after every group of readings of the first attempt.

    Returns:
        An answer a sentence. After three attempts it is the best there is, whatever ended it.
    """
    best: dict[int, tuple[int, float, Answer]] = {}
    waiting = sorted(range(len(sentences)), key=lambda index: len(sentences[index].prompt))
    for attempt in range(ATTEMPTS):
        readings = [(index, nth) for index in waiting for nth in range(sampling.best_of)]
        for start in range(0, len(readings), ROWS_AT_ONCE):
            group = readings[start : start + ROWS_AT_ONCE]
            rows = [sentences[index] for index, _ in group]
            # A row of noise of its own for every sentence, attempt and reading.
            turns = [(attempt << 32) + (nth << 40) for _, nth in group]
            fresh = decoder.generate(
                [row.prompt for row in rows],
                [row.limits for row in rows],
                [(row.seed, row.row + turn) for row, turn in zip(rows, turns, strict=True)],
                sampling,
                silent,
            )
            for (index, _), row, answer in zip(group, rows, fresh, strict=True):
                reading = Reading(answer.codes, row.spoken, row.prompt, row.text_at)
                wrong = verifier.fault(reading) if sampling.best_of > 1 else 0.0
                scored = (REASONS.index(answer.finish_reason), wrong, answer)
                if index not in best or scored[:2] < best[index][:2]:
                    best[index] = scored
            if progress is not None and not attempt:
                left = (len(readings) - start - len(group)) / sampling.best_of
                progress(len(sentences) - math.ceil(left), len(sentences))
        waiting = [index for index in waiting if best[index][0] > 0]
    return [best[index][2] for index in range(len(sentences))]


def check_seeds(seed: int | Sequence[int], texts: int) -> list[int]:
    """One seed a text.

    Args:
        seed: of all of them, or one for each.
        texts: how many.

    Raises:
        TypeError: a seed is not an int.
        ValueError: there are more or fewer than texts.
    """
    one_each = isinstance(seed, Sequence) and not isinstance(seed, str)
    given: list[Any] = [*seed] if one_each else [seed] * texts  # type: ignore[misc]
    for one in given:
        if isinstance(one, bool) or not hasattr(one, "__index__"):
            raise TypeError(f"expected seed to be an int, got {one!r}")
    if len(given) != texts:
        raise ValueError(f"expected one seed, or {texts} for as many texts, got {len(given)}")
    return [operator.index(one) for one in given]
