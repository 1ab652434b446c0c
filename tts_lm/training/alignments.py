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
from itertools import pairwise
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np

from audiotok import load_audio, read_rows, write_aside

from ..text import SOUNDS, write_sounds
from ..text.english import word_phonemes
from ..text.kokoro import align, from_kokoro
from ..text.phonemes import BOUNDARY

_UNUSED = '—…“”()"ː'  # characters of the teacher without a counterpart


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


def read_alignments(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Read alignments, by the id of their clip.

    Args:
        paths: JSON lines of pocketsphinx, ``{"id", "words": [[word, start, length, [[PHONE, start, length]…]]…]}`` in
            units of 10 ms, or of the teacher, ``{"file_name" or "id", "phonemes": [[symbol, start, end]…]}`` in
            seconds. Lines with neither are left out.

    Raises:
        FileNotFoundError: a file is missing.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"no alignments at {path}; leave the option out to train without them")
        with path.open(encoding="utf-8") as lines:
            for row in (json.loads(line) for line in lines if line.strip()):
                if row.get("words") or row.get("phonemes"):
                    found[row.get("id") or row["file_name"]] = row
    return found


def match_times(alignment: dict[str, Any], words: Sequence[Word], frame_rate: float) -> list[Times | None]:
    """The times of each word; None for a word without a counterpart.

    Args:
        alignment: a row of :func:`read_alignments`. Words of pocketsphinx are matched by their letters, phonemes of the
            teacher by :func:`~tts_lm.text.kokoro.align`.
        words: the words of the clip.
        frame_rate: in Hz.

    Raises:
        ValueError: a phoneme of the teacher has no counterpart.
    """
    if not alignment.get("words"):
        return _teacher_times(alignment["phonemes"], words, frame_rate)
    timed = [[phone for phone in word[3] if phone[0] in SOUNDS] for word in alignment["words"]]
    letters = [re.sub(r"\(\d+\)$", "", word[0]) for word in alignment["words"]]
    found: list[Times | None] = [None] * len(words)
    matcher = SequenceMatcher(None, [word.letters for word in words], letters, autojunk=False)
    for tag, low, high, first, last in matcher.get_opcodes():
        if tag not in ("equal", "replace"):  # "mr" in the alignment, "mister" in the text
            continue
        runs = timed[first:last]
        if tag == "replace":  # one run per word, with lengths about in proportion to the words
            phones = sum(runs, [])
            weights = np.cumsum([0, *(len(word.text) for word in words[low:high])])
            cuts = np.rint(weights * len(phones) / max(weights[-1], 1)).astype(int)
            runs = [phones[start:end] for start, end in pairwise(cuts)]
        for index, run in zip(range(low, high), runs, strict=True):
            if run:
                starts, lengths = np.asarray([phone[1:] for phone in run]).T
                edges = (np.stack([starts, starts + lengths]) * (frame_rate / 100)).astype(np.float32)
                known = write_sounds(phone[0] for phone in run) if tag == "equal" else None
                found[index] = Times(edges[0], edges[1], known)
    return found


def _teacher_times(phonemes: Sequence[Any], words: Sequence[Word], frame_rate: float) -> list[Times | None]:
    names = {char: name for name, char in SOUNDS.items()}
    marked = [[*(names.get(c, c) for c in word.text), *word.after.strip(), BOUNDARY] for word in words]
    known = [(symbol, start, end) for symbol, start, end in phonemes if symbol not in _UNUSED]
    timed = align(sum(marked, []), from_kokoro(known, "en"))[0]
    found: list[Times | None] = []
    for word, symbols in zip(words, marked, strict=True):
        edges = np.asarray([phone[1:] for phone in timed[: len(word.text)]], dtype=np.float32) * frame_rate
        found.append(Times(edges[:, 0], edges[:, 1], word.text) if word.text else None)
        timed = timed[len(symbols) :]
    return found


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
