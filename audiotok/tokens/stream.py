"""The inverse of a layout, one symbol at a time: a frame comes out as soon as its last code is in.

Knows nothing of text or models. The laws it keeps: what comes out, put together, is what the inverse of the
whole sequence gives, strict or repaired; a repaired frame holds only codes that stood together in the input.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .grammar import NO_FILL, Cursor, Layout


class Repaired(NamedTuple):
    """What ``errors="repair"`` gives.

    Attributes:
        codes: [K, T] int64, whole frames only; fewer codebooks for a ``coarse`` sequence that stops early.
        lost: symbols of the input, the fill symbol apart, that are not in ``codes``.
    """

    codes: Tensor
    lost: int


class FrameReader:
    """Takes symbols one at a time, gives frames.

    With ``errors="repair"`` nothing raises. Symbols that are no codes of this layout are dropped. In ``first``,
    ``flat`` and ``delay`` a step (the K symbols that belong together) that is not whole is dropped, and in
    ``delay`` with it every frame that reaches across the gap. In ``coarse`` the codes of each codebook are
    taken in order and :meth:`close` gives the largest grid that the first codebooks fill.

    Args:
        layout: ``first``, ``flat``, ``delay`` or ``coarse``.
        n_q: K, codebooks in the sequence; ``first`` holds one whatever this says.
        codebook_size: V.
        offset: the symbol of code 0 of codebook 0.
        fill: the symbol in the corners of ``delay``.
        errors: ``strict`` or ``repair``.

    Attributes:
        lost: symbols dropped so far, the fill symbol not counted; final after :meth:`close`.
    """

    def __init__(
        self,
        layout: Layout,
        n_q: int,
        codebook_size: int,
        offset: int = 0,
        fill: int = NO_FILL,
        errors: Literal["strict", "repair"] = "strict",
    ) -> None:
        if errors not in ("strict", "repair"):
            raise ValueError(f"expected errors 'strict' or 'repair', got {errors!r}")
        self._cursor = Cursor(layout, n_q, codebook_size, offset, fill)
        self._strict = errors == "strict"
        self._size, self._offset = codebook_size, offset
        self._n_q = self._cursor.n_q
        self._levels: list[list[int]] = [[] for _ in range(self._n_q)]
        self._given = 0  # frames that came out
        self._pending: list[
            tuple[int, int] | None
        ] = []  # repair: symbols of the step being read; None = fill
        self._frames: dict[int, list[int]] = {}  # repair: unfinished frames by their number
        self._step = 0
        self._symbols = self._kept = 0

    @property
    def lost(self) -> int:
        """Symbols dropped so far; what still waits for its frame counts as lost until it is whole."""
        return 0 if self._strict else self._symbols - self._kept

    def push(self, symbol: int) -> Tensor | None:
        """Take one symbol.

        Args:
            symbol: the next one.

        Returns:
            [K, T'] int64, the frames that it completes; None when it completes none.

        Raises:
            LayoutError: strict, and this symbol may not come here.
        """
        if self._strict:
            level = self._cursor.push(symbol)
            if level is None:
                return None
            return self._take(level, symbol)
        level, code = divmod(symbol - self._offset, self._size)
        inside = 0 <= level < self._n_q
        if not inside and (symbol != self._cursor.fill or self._cursor.layout != "delay"):
            self._symbols += 1
            return None
        self._symbols += inside
        if self._cursor.layout == "coarse":
            self._levels[level].append(code)
            return None
        self._pending.append((level, code) if inside else None)
        return self._resynchronise()

    def close(self) -> Tensor | None:
        """Say that no more comes.

        Returns:
            [K, T'] int64, what is left to give (``coarse`` under repair); None otherwise.

        Raises:
            LayoutError: strict, and the sequence is not whole.
        """
        if self._strict:
            self._cursor.end()
            return None
        if self._cursor.layout != "coarse":
            return None
        sizes = [min(len(level) for level in self._levels[: k + 1]) for k in range(self._n_q)]
        k = max(range(self._n_q), key=lambda k: ((k + 1) * sizes[k], k))
        self._kept = (k + 1) * sizes[k]
        if self._kept == 0:
            return None
        return torch.tensor([level[: sizes[k]] for level in self._levels[: k + 1]])

    def _take(self, level: int, symbol: int) -> Tensor | None:
        # In every layout the last codebook's code is the last of its frame to come.
        self._levels[level].append(symbol - self._offset - level * self._size)
        if level < self._n_q - 1:
            return None
        if self._cursor.layout == "coarse":
            frame = [codes[self._given] for codes in self._levels]
        else:
            frame = [codes.pop(0) for codes in self._levels]
        self._given += 1
        return torch.tensor(frame).unsqueeze(1)

    def _resynchronise(self) -> Tensor | None:
        """Drop symbols until what is pending can begin a step; give the frame that a whole step completes."""
        pending = self._pending
        while any(cell is not None and cell[0] != k for k, cell in enumerate(pending)):
            pending.pop(0)
            self._frames.clear()  # frames do not reach across a gap
        if len(pending) < self._n_q:
            return None
        lag = self._cursor.layout == "delay"
        for k, cell in enumerate(pending):
            if cell is not None:
                self._frames.setdefault(self._step - k * lag, []).append(cell[1])
        pending.clear()
        frame = self._frames.pop(self._step - (self._n_q - 1) * lag, [])
        self._step += 1
        if len(frame) < self._n_q:
            return None
        self._kept += self._n_q
        return torch.tensor(frame).unsqueeze(1)
