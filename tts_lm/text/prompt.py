"""Conversion of text to sentences of model symbols, and the prompt of the AR model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from .english import pronounce_text
from .normalize import MAX_SENTENCE_LETTERS, normalise, split_sentences
from .phonemes import MAX_PHONEMES, PHONEMES, phonemes, split_phonemes

TEXT_START = 3
"""Position of the first text id in a prompt."""
MAX_PROMPTED_LETTERS = 100
"""Longest sentence after the transcript of a voice prompt, so that both fit the training length."""
_PRINTABLE = "".join(map(chr, range(32, 127)))


def character_ids(tokenizer: Any) -> dict[str, int]:
    """Map the text symbols of a model to ids.

    Args:
        tokenizer: tokenizer of the model. If it has an id for every symbol of ``PHONEMES``, the symbols are English and
            Mandarin phonemes; otherwise they are printable ASCII characters.

    Raises:
        ValueError: the tokenizer splits or merges some of them.
    """
    if len(tokenizer.encode_text(PHONEMES[-1])) == 1:
        ids = {symbol: tokenizer.encode_text(symbol) for symbol in PHONEMES}
        if all(len(found) == 1 for found in ids.values()):
            return {symbol: found[0] for symbol, found in ids.items()}
    ids = {c: tokenizer.encode_text(c) for c in _PRINTABLE}
    if any(len(found) != 1 for found in ids.values()):
        raise ValueError(
            "expected a tokenizer with one id for each printable character; use load_tokenizer()"
        )
    return {c: found[0] for c, found in ids.items()}


def spoken_sentences(text: str, symbols: Collection[str], limit: int | None = None) -> list[Sequence[str]]:
    """Cut a text into sentences of model symbols.

    Args:
        text: English text, or also Mandarin if the symbols are ``PHONEMES``.
        symbols: symbols of :func:`character_ids`.
        limit: largest number of symbols of a sentence.

    Raises:
        TypeError, ValueError: as :func:`~tts_lm.text.normalise` and :func:`~tts_lm.text.phonemes`.
    """
    if PHONEMES[-1] in symbols:
        return [*split_phonemes(phonemes(text), limit or MAX_PHONEMES)]
    return [pronounce_text(s) for s in split_sentences(normalise(text), limit or MAX_SENTENCE_LETTERS)]


def build_prompt(tokenizer: Any, text_ids: list[int], voice: int) -> list[int]:
    """Wrap text ids for the AR model: ``<bos> <voice_k> <text> t… </text> <audio>``.

    The text begins at position ``TEXT_START``.

    Args:
        tokenizer: an ``audiotok`` tokenizer (``control_id``).
        text_ids: ids of one sentence.
        voice: 0..15, the voice's control token.

    Returns:
        The prompt. The model continues it with ids of codebook 0, then ``</audio>`` and ``<eos>``.
    """
    control = tokenizer.control_id
    head = [control("bos"), control(f"voice_{voice:02}"), control("text_start")]
    return [*head, *text_ids, control("text_end"), control("audio_start")]
