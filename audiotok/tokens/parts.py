"""A sequence of ids -> the texts and the codes in it.

Knows nothing of waveforms. The law it keeps: every id stands in one part, is a marker, or is counted as lost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from torch import Tensor

from .chat import is_batch
from .grammar import Layout
from .tokenizer import AudioTextTokenizer


class Part(NamedTuple):
    """A piece of a sequence: ``text``, or ``codes`` [K, T] int64; the other is None. ``lost``: ids repaired away."""

    text: str | None = None
    codes: Tensor | None = None
    lost: int = 0


def parse_sequence(
    tok: AudioTextTokenizer,
    ids: Sequence[int] | Tensor,
    layout: Layout,
    n_q: int,
    errors: Literal["strict", "repair"] = "strict",
) -> list[Part]:
    """Take a sequence apart.

    Args:
        tok: whose ids they are.
        ids: [S], whole or from anywhere after the prompt; it may begin inside an audio block.
        layout: of the audio blocks.
        n_q: K, codebooks in them.
        errors: ``strict``, or ``repair`` to keep the whole frames of malformed blocks.

    Returns:
        Texts without their special tokens, and codes, in order.

    Raises:
        LayoutError: strict, and an audio block does not hold whole frames.
    """
    start, end = tok.control_id("audio_start"), tok.control_id("audio_end")
    given = ids.tolist() if isinstance(ids, Tensor) else list(ids)
    inside = bool(given) and tok.audio_offset <= given[0] < tok.audio_offset + tok.n_q * tok.codebook_size
    parts: list[Part] = []
    piece: list[int] = []

    def close() -> None:
        if inside:
            if errors == "repair":
                repaired = tok.decode_audio(piece, layout, n_q, errors="repair")
                parts.append(Part(codes=repaired.codes, lost=repaired.lost))
            else:
                parts.append(Part(codes=tok.decode_audio(piece, layout, n_q)))
        elif text := tok.decode(piece, skip_special_tokens=True):
            parts.append(Part(text=str(text)))
        piece.clear()

    for index in given:
        if index in (start, end):
            close()
            inside = index == start
        else:
            piece.append(index)
    if piece or inside:
        close()
    return parts


def readable(conversation: Any) -> Any:
    """A conversation, or a batch, with its content as plain strings, sound as its markers."""
    if is_batch(conversation):
        return [readable(messages) for messages in conversation]
    texts = []
    for message in conversation:
        content = message.get("content") or ""
        if not isinstance(content, str):
            content = "".join(
                part if isinstance(part, str) else part.get("text", "<audio></audio>") for part in content
            )
        texts.append({**message, "content": content})
    return texts
