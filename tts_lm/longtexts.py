"""Long texts: sentences joined, what a recogniser makes of minutes of sound, and which sentences got lost on the way.

Knows nothing of how speech is made. The law it keeps: a recogniser hears all of a reading, in pieces cut where it is
quiet; a sentence counts as skipped when most of its words have nothing in their place, and as repeated when words that
are too many are those of a sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from torch import Tensor

from .evaluate import spoken_form
from .recognise import Recogniser

PIECE_SECONDS = 12.0
_STEP_SECONDS = 0.02
_PAUSE_STEPS = 5
_LOST = 0.6  # of the words of a sentence
_LIKE = 0.6


@dataclass(frozen=True)
class LongText:
    """Lines as one text."""

    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The lines, each with a mark at its end."""
        return " ".join(line if line[-1] in ".?!" else line.rstrip(",;:-") + "." for line in self.lines)


def join_lines(lines: Sequence[str], letters: int) -> list[LongText]:
    """Join lines to texts of about one length.

    Args:
        lines: in order; each comes into one text.
        letters: of a text at least; what is left at the end, and shorter, is left out.

    Raises:
        ValueError: all lines together are shorter.
    """
    texts: list[LongText] = []
    group: list[str] = []
    for line in lines:
        group.append(line.strip())
        if len(LongText(tuple(group)).text) >= letters:
            texts.append(LongText(tuple(group)))
            group = []
    if not texts:
        raise ValueError(
            f"expected lines of {letters} letters together, got {sum(map(len, lines))}; give more or a smaller number"
        )
    return texts


def cut_at_pauses(wav: Tensor, sampling_rate: int, longest_s: float = PIECE_SECONDS) -> list[Tensor]:
    """Cut a long sound where it is quietest.

    Args:
        wav: [N] float32.
        sampling_rate: Hz.
        longest_s: of a piece.

    Returns:
        Pieces [n], joined the sound.
    """
    step, most = int(_STEP_SECONDS * sampling_rate), int(longest_s * sampling_rate)
    pieces = []
    while len(wav) > most:
        # The quietest 0.1 s of the second half of what a piece may hold; of equal ones the last.
        power = wav[: most // step * step].reshape(-1, step).square().mean(1)
        quiet = power.unfold(0, _PAUSE_STEPS, 1).sum(1)
        half = len(quiet) // 2
        at = len(quiet) - 1 - int(quiet[half:].flip(0).argmin()) + _PAUSE_STEPS // 2
        pieces.append(wav[: at * step])
        wav = wav[at * step :]
    return [*pieces, wav]


@dataclass(frozen=True)
class InPieces:
    """Makes recognisers that hear minutes of sound, which most do not.

    Args:
        recogniser: makes one for sentences.
    """

    recogniser: Callable[[], Recogniser]

    def __call__(self) -> Recogniser:
        """A recogniser."""
        return _PieceByPiece(self.recogniser())


class _PieceByPiece:
    def __init__(self, ear: Recogniser) -> None:
        self._ear = ear

    def transcribe(self, wav: Tensor, sampling_rate: int) -> str:
        """[N] float32 to words."""
        pieces = cut_at_pauses(wav, sampling_rate)
        return " ".join(self._ear.transcribe(piece, sampling_rate) for piece in pieces).strip()


def count_lost(sentences: Sequence[str], heard: str) -> tuple[list[str], list[str]]:
    """Sentences that were skipped and repeated.

    Args:
        sentences: what was to be said, in spoken form, in order; each has a word.
        heard: what the recogniser wrote, in spoken form.

    Returns:
        The skipped ones and the repeated ones. What was said wrongly is neither: it has words in its place.
    """
    import jiwer

    words = [sentence.split() for sentence in sentences]
    starts = [sum(map(len, words[:index])) for index in range(len(words))]
    [chunks] = jiwer.process_words(" ".join(sentences), heard).alignments
    missing: set[int] = set()
    repeated: list[str] = []
    said = heard.split()
    for chunk in chunks:
        if chunk.type == "delete":
            missing.update(range(chunk.ref_start_idx, chunk.ref_end_idx))
        elif chunk.type == "insert":
            extra = said[chunk.hyp_start_idx : chunk.hyp_end_idx]
            repeated += _whose(extra, words)
    skipped = [
        sentence
        for sentence, start, own in zip(sentences, starts, words, strict=True)
        if len(own) > 1 and sum(start + n in missing for n in range(len(own))) >= _LOST * len(own)
    ]
    return skipped, repeated


def _whose(extra: Sequence[str], sentences: Sequence[list[str]]) -> list[str]:
    """The sentences of more than two words that words which are too many say again."""
    return [
        " ".join(own)
        for own in sentences
        if len(own) > 2 and SequenceMatcher(None, own, list(extra), autojunk=False).ratio() >= _LIKE
    ]


def count_lost_of(texts: Sequence[LongText], details: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Count skipped and repeated sentences of all texts, and name them in the details.

    Args:
        texts: what was read.
        details: of the outcome, a text each; ``skipped`` and ``repeated`` come into them.

    Returns:
        ``sentences``, ``skipped`` and ``repeated``.
    """
    counts = {"sentences": 0, "skipped": 0, "repeated": 0}
    for text, detail in zip(texts, details, strict=True):
        sentences = [spoken_form(line) for line in text.lines]
        detail["skipped"], detail["repeated"] = count_lost(sentences, detail["hypothesis"])
        counts["sentences"] += len(sentences)
        for what in ("skipped", "repeated"):
            counts[what] += len(detail[what])
    return counts
