"""The end of one sentence as the prompt of the next, so that a long text is read in one breath.

Knows nothing of sound. The law it keeps: what goes on in front is words with exactly the codes that were said for them,
no longer than asked for; where their border is not known, there is none.

A voice cannot drift away by it: the control token and the NAR half's prompt stay those of the voice (VALL-E,
arXiv:2301.02111, section 4.3, "continual", with the prompt renewed at every sentence).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from .ar import Answer
from .sentences import Progress, Sentence
from .text import TEXT_START, build_prompt
from .verify import ListenerVerifier, Reading, Verifier


@dataclass(frozen=True)
class Tail:
    """The last words of a sentence."""

    spoken: str
    """In sounds."""
    codes: Tensor
    """[T] int64, codebook 0."""


@dataclass(frozen=True)
class Rolling:
    """Has a sentence go on from the one before.

    Args:
        frames: of the sentence before, at most; 0 leaves every sentence as it is.
        verifier: what hears where words begin.
        tokenizer: an ``audiotok`` tokenizer.
        characters: the id of each character.
    """

    frames: int
    verifier: Verifier
    tokenizer: Any
    characters: Mapping[str, int]

    def __call__(self, sentence: Sentence, before: Sentence, answer: Answer) -> Sentence:
        """The sentence with the end of another in front of it.

        Args:
            sentence: of :func:`~tts_lm.sentences.plan_sentences`. One of a voice with a ``prompt_text`` has a prompt
                already, which stays.
            before: the sentence before it.
            answer: what was said for that.
        """
        if not self.frames or sentence.voice.prompt_text:
            return sentence
        reading = Reading(answer.codes, before.spoken, before.prompt, before.text_at)
        tail = find_tail(reading, self.verifier, self.frames)
        if tail is None:
            return sentence
        front = tail.spoken + " "
        ids = [self.characters[c] for c in front + sentence.spoken]
        heard = (tail.codes + self.tokenizer.audio_offset).tolist()
        prompt = build_prompt(self.tokenizer, ids, sentence.voice.index) + heard
        return replace(sentence, prompt=prompt, text_at=TEXT_START + len(front))


def find_tail(reading: Reading, verifier: Verifier, frames: int) -> Tail | None:
    """The most words at the end of a reading that fit.

    Args:
        reading: what was said.
        verifier: a :class:`~tts_lm.verify.ListenerVerifier` hears where words begin; without one only a whole sentence
            can be told.
        frames: at most.

    Returns:
        None where the last word alone is longer, or nothing was said.
    """
    length = len(reading.codes)
    if length <= frames:
        return Tail(reading.spoken, reading.codes) if length else None
    if not isinstance(verifier, ListenerVerifier):
        return None
    for word, start in verifier.word_starts(reading):
        if 0 < length - start <= frames:
            return Tail(" ".join(reading.spoken.split()[word:]), reading.codes[start:])
    return None


def answer_in_turns(
    texts: Sequence[Sequence[Sentence]],
    answer: Callable[[list[Sentence]], list[Answer]],
    rolling: Rolling,
    progress: Progress = None,
) -> list[Answer]:
    """Answer texts whose sentences go on from each other: the first sentences of all, then the second ones...

    Args:
        texts: their sentences.
        answer: what answers sentences that do not depend on each other.
        rolling: has one go on from another.
        progress: called after every turn.

    Returns:
        An answer a sentence, text after text.
    """
    total = sum(map(len, texts))
    asked: list[list[Sentence]] = [[] for _ in texts]
    answers: list[list[Answer]] = [[] for _ in texts]
    for turn in range(max(map(len, texts), default=0)):
        going = [index for index, sentences in enumerate(texts) if turn < len(sentences)]
        for index in going:
            sentence = texts[index][turn]
            if turn:
                sentence = rolling(sentence, asked[index][-1], answers[index][-1])
            asked[index].append(sentence)
        for index, said in zip(going, answer([asked[index][-1] for index in going]), strict=True):
            answers[index].append(said)
        if progress is not None:
            progress(sum(map(len, answers)), total)
    return [said for text in answers for said in text]
