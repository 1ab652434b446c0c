"""The token sequence around the text of a sentence."""

from __future__ import annotations

from typing import Any

TEXT_START = 3
"""Position of the first text id in a prompt."""
MAX_PROMPTED_LETTERS = 100
"""Longest sentence after a voice's own words; both together are no longer than the training texts."""
_PRINTABLE = "".join(map(chr, range(32, 127)))


def character_ids(tokenizer: Any) -> dict[str, int]:
    """The id of every printable ASCII character.

    Raises:
        ValueError: the tokenizer splits or merges some of them.
    """
    ids = {c: tokenizer.encode_text(c) for c in _PRINTABLE}
    if any(len(found) != 1 for found in ids.values()):
        raise ValueError(
            "expected a tokenizer with one id for each printable character; use load_tokenizer()"
        )
    return {c: found[0] for c, found in ids.items()}


def build_prompt(tokenizer: Any, text_ids: list[int], voice: int) -> list[int]:
    """Wrap text ids for the AR model: ``<bos> <voice_k> <text> t… </text> <audio>``.

    The text begins at position ``TEXT_START``.

    Args:
        tokenizer: an ``audiotok`` tokenizer (``control_id``).
        text_ids: ids of one sentence.
        voice: 0..15, the voice's control token.

    Returns:
        The ids the model continues with codebook-0 ids, then ``</audio>`` and ``<eos>``.
    """
    control = tokenizer.control_id
    head = [control("bos"), control(f"voice_{voice:02}"), control("text_start")]
    return [*head, *text_ids, control("text_end"), control("audio_start")]
