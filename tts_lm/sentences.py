"""Prompts of the AR model for the sentences of a text, and the choice of the best candidate for each."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .decoding.engine import Answer, ArDecoder
from .decoding.sampling import FinishReason, FrameLimits, Sampling, frame_limits
from .models.reranker import Reranker
from .text import MAX_PROMPTED_LETTERS, build_prompt, spoken_sentences
from .text.phonemes import BOUNDARY
from .voices import Voice

ATTEMPTS = 3
ROWS_AT_ONCE = 16
REASONS: tuple[FinishReason, ...] = ("eos", "silence", "length", "loop")  # from good to bad
Progress = Callable[[int, int], None] | None
"""Called with (sentences done, sentences)."""


@dataclass(frozen=True)
class Sentence:
    """A sentence and its prompt for the AR model."""

    spoken: str
    """Its phonemes."""
    prompt: list[int]
    limits: FrameLimits
    seed: int
    voice: Voice
    row: int
    """Index in the text. The sampling noise depends on it and on the seed."""


def plan_sentences(
    text: str, voice: Voice, seed: int, tokenizer: Any, characters: Mapping[str, int], frame_rate: float
) -> list[Sentence]:
    """Cut a text into sentences and build a prompt for each.

    Args:
        text: text of any length, in a language that the model's tokenizer covers.
        voice: the voice. If it has a ``prompt_text``, the AR model continues its codes (VALL-E, arXiv:2301.02111,
            section 4.3). Otherwise it is selected by its control token.
        seed: seed of the text.
        tokenizer: an ``audiotok`` tokenizer.
        characters: id of each text symbol, from :func:`~tts_lm.text.character_ids`.
        frame_rate: frame rate of the codec in Hz.

    Raises:
        TypeError, ValueError: as :func:`~tts_lm.text.normalise`.
    """
    boundary, before, most = " " if " " in characters else BOUNDARY, [], None
    if voice.prompt_text:
        for sentence in spoken_sentences(voice.prompt_text, characters):
            before += [*sentence, boundary]
        most = MAX_PROMPTED_LETTERS
    codes = (voice.codes[0] + tokenizer.audio_offset).tolist() if before else []
    out = []
    for row, spoken in enumerate(spoken_sentences(text, characters, most)):
        ids = [characters[symbol] for symbol in (*before, *spoken)]
        limits = frame_limits(sum(symbol != boundary for symbol in spoken), frame_rate)
        prompt = build_prompt(tokenizer, ids, voice.index) + codes
        written = spoken if isinstance(spoken, str) else " ".join(spoken)
        out.append(Sentence(written, prompt, limits, seed, voice, row))
    return out


def answer_sentences(
    decoder: ArDecoder,
    sentences: Sequence[Sentence],
    sampling: Sampling,
    reranker: Reranker | None,
    silent: Collection[int],
    progress: Progress = None,
) -> list[Answer]:
    """Generate codebook 0 of every sentence and keep the best candidate.

    A sentence whose generation did not end with ``</audio>`` is sampled again, in at most three attempts.

    Args:
        decoder: decoder of the AR model.
        sentences: sentences in any order.
        sampling: sampling settings and number of candidates.
        reranker: scores the candidates.
        silent: codes of silence.
        progress: called after each batch of the first attempt.

    Returns:
        One answer for each sentence. After three attempts it is the best of all candidates.

    Raises:
        ValueError: several candidates without a reranker.
    """
    if sampling.best_of > 1 and reranker is None:
        raise ValueError(f"expected best_of 1 for a model without a reranker, got {sampling.best_of}")
    best: dict[int, tuple[int, float, Answer]] = {}
    waiting = sorted(range(len(sentences)), key=lambda index: len(sentences[index].prompt))
    for attempt in range(ATTEMPTS):
        candidates = [(index, nth) for index in waiting for nth in range(sampling.best_of)]
        for start in range(0, len(candidates), ROWS_AT_ONCE):
            group = candidates[start : start + ROWS_AT_ONCE]
            rows = [sentences[index] for index, _ in group]
            # Each sentence, attempt and candidate has its own row of noise.
            turns = [(attempt << 32) + (nth << 40) for _, nth in group]
            fresh = decoder.generate(
                [row.prompt for row in rows],
                [row.limits for row in rows],
                [(row.seed, row.row + turn) for row, turn in zip(rows, turns, strict=True)],
                sampling,
                silent,
            )
            for (index, _), row, answer in zip(group, rows, fresh, strict=True):
                score = 0.0
                if reranker is not None and sampling.best_of > 1:
                    score = reranker.score(answer.codes, row.spoken)
                scored = (REASONS.index(answer.finish_reason), -score, answer)
                if index not in best or scored[:2] < best[index][:2]:
                    best[index] = scored
            if progress is not None and not attempt:
                left = (len(candidates) - start - len(group)) / sampling.best_of
                progress(len(sentences) - math.ceil(left), len(sentences))
        waiting = [index for index in waiting if best[index][0] > 0]
    return [best[index][2] for index in range(len(sentences))]


def check_seeds(seed: int | Sequence[int], texts: int) -> list[int]:
    """Return one seed for each text.

    Args:
        seed: one seed for all texts, or one for each.
        texts: number of texts.

    Raises:
        TypeError: a seed is not an int.
        ValueError: the numbers of seeds and texts differ.
    """
    one_each = isinstance(seed, Sequence) and not isinstance(seed, str)
    given: list[Any] = [*seed] if one_each else [seed] * texts  # type: ignore[misc]
    for one in given:
        if isinstance(one, bool) or not hasattr(one, "__index__"):
            raise TypeError(f"expected seed to be an int, got {one!r}")
    if len(given) != texts:
        raise ValueError(f"expected one seed, or one for each of {texts} texts, got {len(given)}")
    return [operator.index(one) for one in given]
