"""Constrained generation: every audio block that ``generate()`` produces can be decoded."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import LogitsProcessor

from .chat import eos_id
from .layout import Cursor, Layout, sequence_length
from .tokenizer import AudioTextTokenizer


@dataclass
class _State:
    """State of a row: inside a block with a cursor, or outside, before or after a block."""

    cursor: Cursor | None = None
    closed: bool = False


class AudioConstraint(LogitsProcessor):
    """A logits processor for any Hugging Face model; pass it to ``generate(logits_processor=[...])``.

    Inside an audio block (after ``audio_start``; the prompt may end inside one) only ids that the layout allows next
    keep their logits, and ``audio_end`` where the block may end. Outside, a block is opened, and the sequence ends
    after it. With ``text=True`` all text ids and ``audio_start`` keep their logits instead. A block is closed before
    ``max_length`` is reached. The state of a row depends only on its ids, so batches and beams work.

    Args:
        tokenizer: tokenizer of the model.
        max_length: ids after which ``generate`` stops, including the prompt: its ``max_length``, or the prompt's
            width plus its ``max_new_tokens``.
        layout: layout of the audio blocks.
        n_q: K, codebooks in the blocks; None means all of the tokenizer's.
        min_frames: minimum frames of a block, if ``max_length`` leaves room for them.
        max_frames: maximum frames of a block; None means no limit besides ``max_length``.
        text: whether text, and another block, may come before or after a block.

    Raises:
        ValueError: a number is out of range, or the layout is unknown.
    """

    def __init__(
        self,
        tokenizer: AudioTextTokenizer,
        max_length: int,
        layout: Layout = "flat",
        n_q: int | None = None,
        min_frames: int = 1,
        max_frames: int | None = None,
        text: bool = False,
    ) -> None:
        if max_length < 1 or min_frames < 0 or (max_frames is not None and max_frames < max(1, min_frames)):
            limits = f"max_length {max_length}, min_frames {min_frames} and max_frames {max_frames}"
            raise ValueError(f"expected max_length >= 1 and 0 <= min_frames <= max_frames, got {limits}")
        self._fresh = lambda: tokenizer.audio_cursor(layout, n_q)
        self._fresh()  # checks layout and n_q
        self._start, self._end = tokenizer.control_id("audio_start"), tokenizer.control_id("audio_end")
        self._eos = eos_id(tokenizer)
        self._text_stop = tokenizer.control_offset
        self._rows = tokenizer.audio_offset + tokenizer.n_q * tokenizer.codebook_size
        self.max_length = max_length
        self.min_frames, self.max_frames = min_frames, max_frames
        self.text = text
        self._seen: Tensor | None = None  # [B, S] ids of the last call, and the state of each row after it
        self._states: list[_State] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Logits [B, rows] of the next id after ``input_ids`` [B, S], minus infinity where it may not come.

        Raises:
            LayoutError: the prompt ends inside an audio block that is malformed.
            ValueError: the model has no rows for the audio ids.
        """
        if scores.shape[1] < self._rows:
            raise ValueError(
                f"expected logits of {self._rows} ids, got {scores.shape[1]}; resize_embeddings() first"
            )
        self._follow(input_ids)
        masked = torch.full_like(scores, -torch.inf)
        room = self.max_length - input_ids.shape[1]
        for row, state in enumerate(self._states):
            spans = self._outside(state, room) if state.cursor is None else self._inside(state.cursor, room)
            for span in spans:
                masked[row, span.start : span.stop] = scores[row, span.start : span.stop]
        return masked

    def _follow(self, input_ids: Tensor) -> None:
        """Update the state of each row, starting from the previous step if the row continues one of its rows."""
        parents: list[int | None] = [None] * len(input_ids)
        if self._seen is not None and self._seen.shape[1] == input_ids.shape[1] - 1:
            # With beams, a row may continue any row, and several rows may continue the same one.
            same = (input_ids[:, None, :-1] == self._seen[None]).all(dim=-1)  # [B, B before]
            parents = [int(row.nonzero()[0]) if row.any() else None for row in same]
        states = []
        for row, (parent, last) in enumerate(zip(parents, input_ids[:, -1].tolist(), strict=True)):
            if parent is None:
                states.append(self._replay(input_ids[row].tolist()))
            else:
                states.append(self._step(deepcopy(self._states[parent]), last))
        self._seen, self._states = input_ids.clone(), states

    def _replay(self, ids: list[int]) -> _State:
        state = _State()
        start = len(ids) - 1 - ids[::-1].index(self._start) if self._start in ids else len(ids)
        for symbol in ids[start:]:
            state = self._step(state, symbol)
        state.closed = False  # blocks of the prompt do not count
        return state

    def _step(self, state: _State, symbol: int) -> _State:
        """Update the state with one more id."""
        if symbol == self._start:
            state.cursor = self._fresh()
        elif state.cursor is not None and symbol == self._end:
            state.cursor, state.closed = None, True
        elif state.cursor is not None:
            state.cursor.push(symbol)
        return state

    def _outside(self, state: _State, room: int) -> list[range]:
        """Ids that may come next outside a block, as half-open ranges, where ``room`` more fit."""
        end, start = range(self._eos, self._eos + 1), range(self._start, self._start + 1)
        if not self.text:
            return [end] if state.closed or room < 2 else [start]
        cursor = self._fresh()
        fits = sequence_length(1, cursor.n_q, cursor.layout) + 3 <= room
        return [range(self._text_stop), end, *([start] if fits else [])]

    def _inside(self, cursor: Cursor, room: int) -> list[range]:
        """Ids that may come next in a block; room is reserved for the end of the block and of the sequence."""
        longer = sequence_length(cursor.begun + 1, cursor.n_q, cursor.layout) - cursor.position
        grows = longer + 2 <= room and (self.max_frames is None or cursor.begun < self.max_frames)
        held = grows and cursor.begun < self.min_frames  # too short to be closed
        settles = 0 in cursor.codebooks  # any other id would end the frames
        spans = []
        for level in cursor.codebooks:
            if (level == 0 and not grows) or (level > 0 and settles and held):
                continue
            low = cursor.offset + level * cursor.codebook_size
            spans.append(range(low, low + cursor.codebook_size))
        if cursor.may_fill and not (settles and held):
            spans.append(range(cursor.fill, cursor.fill + 1))
        if cursor.may_end and not held:
            spans.append(range(self._end, self._end + 1))
        return spans
