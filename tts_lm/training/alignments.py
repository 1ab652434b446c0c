"""Phoneme times from pocketsphinx or a teacher model, matched to the words of the training text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np

from ..text import SOUNDS, write_sounds


@dataclass(frozen=True)
class Times:
    """Times of a word."""

    starts: np.ndarray
    """Start of each phoneme in frames, [M] float32."""
    ends: np.ndarray
    """End of each phoneme in frames, [M] float32. A pause may follow the last."""
    phonemes: str | None
    """The M phonemes, one character each; None if unknown."""

    def shifted(self, frames: int) -> Times:
        """The times shifted by ``frames``."""
        return Times(self.starts + np.float32(frames), self.ends + np.float32(frames), self.phonemes)


@dataclass(frozen=True)
class Word:
    """One word of a clip."""

    text: str
    """The word as model input: phonemes, or letters if no pronunciation is known."""
    letters: str
    """Lower case."""
    after: str
    """Punctuation behind it, often empty."""
    times: Times | None = None
    """Its times; None if the clip was not aligned."""


@dataclass(frozen=True)
class Alignment:
    """Phonemes of one clip with start and end in seconds, word by word.

    Args:
        words: the phonemes of each word.
        letters: each word in letters; None if only phonemes are known, as for a teacher.
        phrases: index of the phrase of each word, if ``letters`` is None.
    """

    words: list[list[tuple[str, float, float]]]
    letters: list[str] | None
    phrases: list[int]

    def match(self, words: Sequence[Word], frame_rate: float) -> list[Times | None]:
        """The times of each of ``words``; None for a word without a counterpart.

        Words are matched by their letters. Without letters, they are matched by order inside each phrase, and a phrase
        with another number of words is matched in proportion.
        """
        found: list[Times | None] = [None] * len(words)
        for low, high, first, last, same in self._spans(words):
            timed = self.words[first:last]
            if high - low != last - first or not same:
                timed = _share(sum(timed, []), [len(word.text) for word in words[low:high]])
            for index, phonemes in zip(range(low, high), timed, strict=True):
                if phonemes:
                    found[index] = self._times(words[index], phonemes, frame_rate, same)
        return found

    def _spans(self, words: Sequence[Word]) -> Iterable[tuple[int, int, int, int, bool]]:
        """Matching ranges of ``words`` and of the aligned words, and whether they are the same words."""
        if self.letters is not None:
            matcher = SequenceMatcher(None, [word.letters for word in words], self.letters, autojunk=False)
            for tag, low, high, first, last in matcher.get_opcodes():
                if tag in ("equal", "replace"):  # "mr" in the alignment, "mister" in the text
                    yield low, high, first, last, tag == "equal"
            return
        phrases = np.cumsum([0] + [bool(word.after.strip()) for word in words[:-1]])
        ours = np.asarray(self.phrases)
        if phrases[-1] != ours[-1]:
            yield 0, len(words), 0, len(ours), len(words) == len(ours)
            return
        for phrase in range(phrases[-1] + 1):
            mine, theirs = np.flatnonzero(phrases == phrase), np.flatnonzero(ours == phrase)
            if len(theirs):
                same = len(mine) == len(theirs)
                yield int(mine[0]), int(mine[-1]) + 1, int(theirs[0]), int(theirs[-1]) + 1, same

    def _times(
        self, word: Word, phonemes: list[tuple[str, float, float]], frame_rate: float, same: bool
    ) -> Times:
        edges = np.asarray([phoneme[1:] for phoneme in phonemes], dtype=np.float32) * np.float32(frame_rate)
        if self.letters is not None:
            return Times(edges[:, 0], edges[:, 1], write_sounds(p[0] for p in phonemes) if same else None)
        # The symbols of a teacher differ, so that its times are spread over the phonemes of the text.
        whole = np.append(edges[:, 0], edges[-1, 1])
        places = np.linspace(0, len(phonemes), len(word.text) + 1)
        spread = np.interp(places, np.arange(len(whole)), whole).astype(np.float32)
        return Times(spread[:-1], spread[1:], word.text)


def read_alignments(paths: Iterable[Path]) -> dict[str, Alignment]:
    """Read alignments, by the id of their clip.

    Args:
        paths: JSON lines of pocketsphinx, ``{"id", "words": [[word, start, length, [[PHONE, start, length]…]]…]}`` in
            units of 10 ms, or of a teacher, ``{"file_name" or "id", "phonemes": [[symbol, start, end]…]}`` in seconds
            with words between spaces. Lines with neither are left out.

    Raises:
        FileNotFoundError: a file is missing.
    """
    found: dict[str, Alignment] = {}
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"no alignments at {path}; leave the option out to train without them")
        with path.open(encoding="utf-8") as lines:
            for row in (json.loads(line) for line in lines if line.strip()):
                name = row.get("id") or row.get("file_name")
                if row.get("words"):
                    found[name] = _of_pocketsphinx(row["words"])
                elif row.get("phonemes"):
                    found[name] = _of_teacher(row["phonemes"])
    return found


def _of_pocketsphinx(words: list[Any]) -> Alignment:
    letters = [re.sub(r"\(\d+\)$", "", word[0]) for word in words]
    timed = [
        [(name, start / 100, (start + length) / 100) for name, start, length in word[3] if name in SOUNDS]
        for word in words
    ]
    return Alignment(timed, letters, [])


def _of_teacher(phonemes: list[Any]) -> Alignment:
    words: list[list[tuple[str, float, float]]] = [[]]
    marks = [False]  # whether a punctuation mark follows the word
    for symbol, start, end in phonemes:
        if symbol.isspace():
            words.append([])
            marks.append(False)
        elif symbol in ".,!?;:—…。，！？；：、":
            marks[-1] = True
        elif symbol.isalnum() or symbol in "ˈˌ→↗↘↓ː":
            words[-1].append((symbol, start, end))
    spoken = [index for index, word in enumerate(words) if word]
    phrases, phrase = [], 0
    for index, word in enumerate(words):
        if word:
            phrases.append(phrase)
        phrase += int(marks[index] and bool(phrases) and phrases[-1] == phrase)
    return Alignment([words[index] for index in spoken], None, phrases)


def _share(phonemes: list[Any], weights: list[int]) -> list[list[Any]]:
    """Split phonemes into one run per weight, with lengths about in proportion to the weights."""
    edges = np.rint(np.cumsum([0, *weights]) * len(phonemes) / max(sum(weights), 1)).astype(int)
    return [phonemes[low:high] for low, high in zip(edges, edges[1:], strict=False)]
