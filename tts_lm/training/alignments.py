"""Phoneme times from pocketsphinx or a teacher model, matched to the words of the training text.

``python -m tts_lm.training.alignments FOLDER OUT.jsonl`` aligns the English recordings of a folder with a metadata.csv.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cache
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np

from audiotok import load_audio, read_rows, write_aside

from ..text import SOUNDS, write_sounds
from ..text.english import word_phonemes


@dataclass(frozen=True)
class Times:
    """Times of a word."""

    starts: np.ndarray  # start of each phoneme in frames, [M] float32
    ends: np.ndarray  # end of each phoneme in frames, [M] float32. A pause may follow the last
    phonemes: str | None  # the M phonemes, one character each; None if unknown

    def shifted(self, frames: int) -> Times:
        """The times shifted by ``frames``."""
        return Times(self.starts + np.float32(frames), self.ends + np.float32(frames), self.phonemes)


@dataclass(frozen=True)
class Word:
    """One word of a clip."""

    text: str  # the word as model input: phonemes, or letters if no pronunciation is known
    letters: str  # lower case
    after: str  # punctuation behind it, often empty
    times: Times | None = None  # its times; None if the clip was not aligned


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


@cache
def _decoder() -> Any:
    """The aligner of this process."""
    try:
        from pocketsphinx import Decoder
    except ImportError:
        raise ImportError("alignment needs pocketsphinx: pip install 'audiotok[align]'") from None
    # Rescoring with bestpath breaks about one alignment in seven (impossible phone durations).
    return Decoder(lm=None, loglevel="FATAL", bestpath=False)


def _align(row: tuple[str, Path, str]) -> dict[str, Any]:
    """Align a recording (id, file, text): ``{"id", "words": [...]}`` in units of 10 ms, or ``{"id", "fail": why}``."""
    name, path, text = row
    decoder = _decoder()
    words = re.findall(r"[a-z]+(?:'[a-z]+)*", text.lower().replace("\u2019", "'"))
    try:
        samples = load_audio(path, 16_000)[0].mean(0).numpy()
        pcm = (samples.clip(-1, 1) * 32767).astype(np.int16).tobytes()
        for word in words:
            if decoder.lookup_word(word) is None:
                phones = [phoneme.rstrip("012") for phoneme in word_phonemes(word)]
                decoder.add_word(word, " ".join(phones), True)
        decoder.set_align_text(" ".join(words))
        for again in (False, True):
            if again:
                decoder.set_alignment()  # the second pass aligns phones within the words of the first
            decoder.start_utt()
            decoder.process_raw(pcm, full_utt=True)
            decoder.end_utt()
        found = decoder.get_alignment()
    except (RuntimeError, ValueError, OSError) as error:
        return {"id": name, "fail": str(error)}
    parts = [[w.name, w.start, w.duration, [[p.name, p.start, p.duration] for p in w]] for w in found or ()]
    return {"id": name, "words": parts}


def main(argv: list[str] | None = None) -> int:
    """Align a folder; prints counts on stdout."""
    parser = argparse.ArgumentParser(prog="python -m tts_lm.training.alignments", description=__doc__)
    parser.add_argument("folder", type=Path, help="recordings with a metadata.csv")
    parser.add_argument("out", help="JSON lines to write")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args(argv)
    rows = [
        (row.path.relative_to(args.folder).as_posix(), row.path, row.text)
        for row in read_rows(args.folder)
        if row.text.strip()
    ]
    aligned = 0
    with Pool(args.workers) as pool, write_aside(args.out) as aside:
        results = pool.imap(_align, rows, chunksize=8) if args.workers > 1 else map(_align, rows)
        with aside.open("w", encoding="utf-8") as file:
            for done, result in enumerate(results, 1):
                aligned += bool(result.get("words"))
                file.write(json.dumps(result, ensure_ascii=False) + "\n")
                if done % 500 == 0:
                    print(f"{done}/{len(rows)}", file=sys.stderr)
    print(f"{aligned} aligned, {len(rows) - aligned} not")
    return 0


if __name__ == "__main__":
    sys.exit(main())
