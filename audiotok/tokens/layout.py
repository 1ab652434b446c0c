"""Layouts: codes [K, T] <-> one sequence of symbols, ``offset + k * V + code``.

``delay`` is the pattern of MusicGen (arXiv:2306.05284, figure 1): codebook k is shifted by k frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

Layout = Literal["first", "flat", "delay", "coarse"]
Errors = Literal["strict", "repair"]
LAYOUTS: tuple[Layout, ...] = ("first", "flat", "delay", "coarse")
NO_FILL = -1  # default symbol in the corners of ``delay``


class LayoutError(ValueError):
    """The sequence is malformed in this layout.

    Attributes:
        layout: expected layout.
        position: index of the first bad symbol, or the length of the sequence if it ends too early.
        codebook: the codebook expected there, the lower of two; None where only the fill symbol or the end may come.
        expected: half-open range of symbols that the layout allows there; empty where it must end.
        got: the symbol there; None at the end of the sequence.
    """

    def __init__(
        self, layout: str, position: int, codebooks: range, expected: range, fill: int | None, got: int | None
    ) -> None:
        super().__init__(
            layout, position, codebooks, expected, fill, got
        )  # its arguments, so that it can be pickled
        self.layout, self.position, self.expected, self.got = layout, position, expected, got
        self.codebook = codebooks.start if codebooks else None
        self._codebooks, self._fill = codebooks, fill

    def __str__(self) -> str:
        wanted = []
        if self._codebooks:
            names = " or ".join(map(str, self._codebooks))
            wanted.append(f"a symbol of codebook {names} in [{self.expected.start}, {self.expected.stop})")
        if self._fill is not None:
            wanted.append(f"the fill symbol {self._fill}")
        end = "the end of the sequence"
        return (
            f"malformed {self.layout!r} sequence: at position {self.position} expected {' or '.join(wanted) or end}, "
            f"got {end if self.got is None else self.got}"
        )


def sequence_length(frames: int, n_q: int, layout: Layout = "flat") -> int:
    """Number of symbols S of T frames.

    Args:
        frames: T >= 0.
        n_q: K, codebooks.
        layout: ``first`` gives T; ``flat`` and ``coarse`` K * T; ``delay`` K * (T + K - 1), or 0 for T = 0.

    Raises:
        ValueError: the layout is unknown, ``frames`` is negative or ``n_q`` below 1.
    """
    check_layout(layout)
    if frames < 0 or n_q < 1:
        raise ValueError(f"expected frames >= 0 and n_q >= 1, got {frames} and {n_q}")
    if layout == "first":
        return frames
    return n_q * (frames + n_q - 1 if layout == "delay" and frames else frames)


def seconds_in_context(context: int, frame_rate: float, n_q: int, layout: Layout = "flat") -> float:
    """Seconds of audio that fit in ``context`` ids: whole frames, without markers.

    Raises:
        ValueError: as in :func:`sequence_length`, or ``frame_rate`` (Hz) is not positive.
    """
    if frame_rate <= 0:
        raise ValueError(f"expected frame_rate > 0 Hz, got {frame_rate}")
    first = sequence_length(1, n_q, layout)
    per_frame = sequence_length(2, n_q, layout) - first
    return max(0, 1 + (context - first) // per_frame) / frame_rate


def check_layout(layout: str) -> None:
    """Refuse an unknown layout. Raises ValueError."""
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}; choose from {', '.join(LAYOUTS)}")


class Cursor:
    """Position in a sequence, with the symbols that its layout allows next.

    Args:
        layout: one of :data:`LAYOUTS`.
        n_q: K, codebooks in the sequence; ``first`` always holds one.
        codebook_size: V.
        offset: the symbol of code 0 of codebook 0.
        fill: the symbol in the corners of ``delay``, outside the range of the codes.

    Attributes:
        position: symbols taken so far.
        begun: frames whose code of codebook 0 has been taken.
        settled: whether T is known, because a symbol was taken that only follows the last frame's first code.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self, layout: Layout, n_q: int, codebook_size: int, offset: int = 0, fill: int = NO_FILL
    ) -> None:
        check_layout(layout)
        if n_q < 1 or codebook_size < 1:
            raise ValueError(f"expected n_q >= 1 and codebook_size >= 1, got {n_q} and {codebook_size}")
        self.layout: Layout = layout
        self.n_q = 1 if layout == "first" else n_q
        self.codebook_size, self.offset, self.fill = codebook_size, offset, fill
        stop = offset + self.n_q * codebook_size
        if layout == "delay" and offset <= fill < stop:
            raise ValueError(f"expected a fill symbol outside the codes' [{offset}, {stop}), got {fill}")
        self.position = self.begun = 0
        self.settled = False

    @property
    def codebooks(self) -> range:
        """Codebooks whose codes may come next: none, one, or two in the first codebook of ``coarse``."""
        n_q, position = self.n_q, self.position
        if self.layout == "coarse":
            if not self.settled:
                return range(0, 2 if position and n_q > 1 else 1)
            level = position // self.begun
            return range(level, level + 1) if level < n_q else range(0)
        level = position % n_q
        if self.layout == "delay":
            frame = position // n_q - level
            if frame < 0 or (self.settled and frame >= self.begun):
                return range(0)
        return range(level, level + 1)

    @property
    def may_fill(self) -> bool:
        """Whether the fill symbol may come next."""
        if self.layout != "delay" or self.n_q == 1 or (self.settled and self.may_end):
            return False
        if not self.codebooks:
            return True
        return self.position % self.n_q == 0 and self.position > 0 and not self.settled

    @property
    def may_end(self) -> bool:
        """Whether the symbols taken so far are a complete sequence."""
        return self.position == sequence_length(self.begun, self.n_q, self.layout)

    def push(self, symbol: int) -> int | None:
        """Take one symbol and return its codebook, None for the fill symbol.

        Raises:
            LayoutError: the symbol is not allowed here; the cursor does not move.
        """
        level = (symbol - self.offset) // self.codebook_size
        if level not in self.codebooks:
            if symbol != self.fill or not self.may_fill:
                raise self._error(symbol)
            level = None
        if self.layout == "coarse":
            self.settled = self.settled or level != 0
        elif self.layout == "delay" and level is None and self.position % self.n_q == 0:
            self.settled = True
        self.begun += level == 0
        self.position += 1
        return level

    def end(self) -> None:
        """Check that the sequence may end here.

        Raises:
            LayoutError: the sequence is not complete.
        """
        if not self.may_end:
            raise self._error(None)

    def _error(self, got: int | None) -> LayoutError:
        codebooks = self.codebooks
        low = self.offset + codebooks.start * self.codebook_size
        expected = range(low, low + len(codebooks) * self.codebook_size)
        fill = self.fill if self.may_fill else None
        if not codebooks:
            expected = range(0) if fill is None else range(fill, fill + 1)
        return LayoutError(self.layout, self.position, codebooks, expected, fill, got)


class Repaired(NamedTuple):
    """Result of ``errors="repair"``.

    Attributes:
        codes: [K, T] int64, whole frames only; fewer codebooks for a ``coarse`` sequence that stops early.
        lost: symbols of the input that are not in ``codes``, without the fill symbol.
    """

    codes: Tensor
    lost: int


class FrameReader:
    """The streaming inverse of a layout: takes symbols one at a time, returns a frame with its last symbol.

    With ``errors="repair"`` nothing raises, and a frame only holds codes that belonged together in the input. Symbols
    that are not codes are dropped. In ``first``, ``flat`` and ``delay`` an incomplete step (the K symbols that belong
    together) is dropped, and in ``delay`` also every frame that spans the gap. In ``coarse`` the codes of each codebook
    are taken in order, and :meth:`close` returns the codebooks that are complete.

    Args:
        layout, n_q, codebook_size, offset, fill: as for :class:`Cursor`.
        errors: ``strict`` or ``repair``.
    """

    def __init__(
        self,
        layout: Layout,
        n_q: int,
        codebook_size: int,
        offset: int = 0,
        fill: int = NO_FILL,
        errors: Errors = "strict",
    ) -> None:
        if errors not in ("strict", "repair"):
            raise ValueError(f"expected errors 'strict' or 'repair', got {errors!r}")
        self._cursor = Cursor(layout, n_q, codebook_size, offset, fill)
        self._strict = errors == "strict"
        self._n_q = self._cursor.n_q
        self._levels: list[list[int]] = [[] for _ in range(self._n_q)]
        self._given = 0  # frames returned
        # repair: symbols of the step being read, None for the fill symbol
        self._pending: list[tuple[int, int] | None] = []
        self._frames: dict[int, list[int]] = {}  # repair: unfinished frames by their number
        self._step = self._symbols = self._kept = 0

    @property
    def lost(self) -> int:
        """Symbols dropped so far, without the fill symbol; those of an incomplete frame count as dropped."""
        return 0 if self._strict else self._symbols - self._kept

    def push(self, symbol: int) -> Tensor | None:
        """Take one symbol.

        Returns:
            [K, T'] int64, the frames that it completes; None if it completes none.

        Raises:
            LayoutError: strict, and the symbol is not allowed here.
        """
        cursor = self._cursor
        level, code = divmod(symbol - cursor.offset, cursor.codebook_size)
        if self._strict:
            if cursor.push(symbol) is None:
                return None
            self._levels[level].append(code)
            if (
                level < self._n_q - 1
            ):  # in every layout the code of the last codebook is the last of its frame
                return None
            at = self._given if cursor.layout == "coarse" else 0
            frame = [codes[at] if cursor.layout == "coarse" else codes.pop(0) for codes in self._levels]
            self._given += 1
            return torch.tensor(frame).unsqueeze(1)
        inside = 0 <= level < self._n_q
        self._symbols += inside
        if not inside and (symbol != cursor.fill or cursor.layout != "delay"):
            self._symbols += 1
        elif cursor.layout == "coarse":
            self._levels[level].append(code)
        else:
            self._pending.append((level, code) if inside else None)
            return self._resynchronise()
        return None

    def close(self) -> Tensor | None:
        """End the sequence.

        Returns:
            [K, T'] int64, the codes that are left (``coarse`` under repair); None otherwise.

        Raises:
            LayoutError: strict, and the sequence is not complete.
        """
        if self._strict:
            self._cursor.end()
        if self._strict or self._cursor.layout != "coarse":
            return None
        sizes = [min(len(level) for level in self._levels[: k + 1]) for k in range(self._n_q)]
        k = max(range(self._n_q), key=lambda k: ((k + 1) * sizes[k], k))
        self._kept = (k + 1) * sizes[k]
        return torch.tensor([level[: sizes[k]] for level in self._levels[: k + 1]]) if self._kept else None

    def _resynchronise(self) -> Tensor | None:
        """Drop symbols until the pending ones can begin a step; return the frame that a complete step finishes."""
        pending = self._pending
        while any(cell is not None and cell[0] != k for k, cell in enumerate(pending)):
            pending.pop(0)
            self._frames.clear()  # frames that span a gap are dropped
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


def flatten(
    codes: Any, codebook_size: int, layout: Layout = "flat", offset: int = 0, fill: int = NO_FILL
) -> Tensor:
    """Turn codes into one sequence of symbols ``offset + k * V + code``.

    Args:
        codes: [K, T] integers in [0, V), K >= 1 and T >= 0: a tensor, an array or nested lists.
        codebook_size: V, entries per codebook.
        layout: ``first`` keeps codebook 0 only; ``flat`` keeps all, frame by frame, coarse to fine; ``delay`` is frame
            by frame with codebook k shifted by k frames; ``coarse`` is codebook by codebook.
        offset: added to every symbol.
        fill: the symbol for the corners of ``delay`` where no code is; ``offset`` is not added.

    Returns:
        [S] int64 on the device of ``codes``; :func:`sequence_length` gives S.

    Raises:
        TypeError: ``codes`` are not integers.
        ValueError: ``codes`` is not [K, T], a code is outside [0, V), the layout is unknown, or ``fill`` is
            a code's symbol.
    """
    codes = _integers(as_tensor(codes), "codes")
    if codes.ndim != 2 or codes.shape[0] < 1:
        raise ValueError(
            f"expected codes [K, T] of one clip with K >= 1, got shape {list(codes.shape)}; "
            "take one item of a batch at a time: codes[i]"
        )
    Cursor(layout, codes.shape[0], codebook_size, offset, fill)  # checks the arguments
    bad = (codes < 0) | (codes >= codebook_size)
    if bad.any():
        k, t = bad.nonzero()[0].tolist()
        raise ValueError(
            f"expected codes in [0, {codebook_size}), got {int(codes[k, t])} in codebook {k} at frame {t}; "
            "were they made by another codec, or are they padding?"
        )
    return _arrange(codes, codebook_size, layout, offset, fill)


def unflatten(
    symbols: Tensor | Sequence[int],
    n_q: int,
    codebook_size: int,
    layout: Layout = "flat",
    offset: int = 0,
    fill: int = NO_FILL,
    errors: Errors = "strict",
) -> Any:
    """Turn a sequence of symbols back into codes: the inverse of :func:`flatten`.

    Args:
        symbols: [S] integers, a tensor or a list.
        n_q: K, codebooks in the sequence; ``first`` always holds one.
        codebook_size, layout, offset, fill: as for :func:`flatten`.
        errors: ``strict`` raises on a malformed sequence; ``repair`` keeps its whole frames (see
            :class:`FrameReader`) and counts what was lost.

    Returns:
        [K, T] int64 codes in [0, V), K = 1 for ``first``, on the device of ``symbols``. With ``errors="repair"`` a
        :class:`Repaired` of codes and count.

    Raises:
        TypeError: ``symbols`` are not integers.
        ValueError: ``symbols`` is not one sequence, a size is below 1, or layout, fill or errors are unknown.
        LayoutError: the sequence is malformed; the error names the first bad position and the expected symbols.
    """
    cursor = Cursor(layout, n_q, codebook_size, offset, fill)
    reader = FrameReader(layout, n_q, codebook_size, offset, fill, errors)
    empty = not isinstance(symbols, Tensor) and len(symbols) == 0
    symbols = _integers(torch.zeros(0).long() if empty else as_tensor(symbols), "symbols")
    if symbols.ndim != 1:
        raise ValueError(f"expected one sequence [S], got shape {list(symbols.shape)}")
    codes = _read_codes(symbols, cursor)
    if codes is not None:
        return Repaired(codes, 0) if errors == "repair" else codes
    parts = [reader.push(symbol) for symbol in symbols.tolist()]  # strict: raises here or in close()
    kept = [part for part in [*parts, reader.close()] if part is not None]
    codes = torch.cat(kept, dim=1) if kept else torch.zeros(cursor.n_q, 0, dtype=torch.int64)
    return Repaired(codes.to(symbols.device), reader.lost)


def _read_codes(symbols: Tensor, cursor: Cursor) -> Tensor | None:
    """The codes [K, T] of a well-formed sequence [S]; None for any other."""
    n_q, size, layout = cursor.n_q, cursor.codebook_size, cursor.layout
    if len(symbols) % n_q:
        return None
    values = symbols.reshape(n_q, -1) if layout == "coarse" else symbols.reshape(-1, n_q).T
    if layout == "delay" and len(symbols):
        frames = values.shape[1] - n_q + 1
        if frames < 1:
            return None
        values = torch.stack([row[k : k + frames] for k, row in enumerate(values)])
    codes = values - _lows(n_q, size, symbols.device) - cursor.offset
    if bool(((codes < 0) | (codes >= size)).any()):
        return None
    if not torch.equal(_arrange(codes, size, layout, cursor.offset, cursor.fill), symbols):
        return None  # a corner of ``delay`` is not filled
    return codes.contiguous()


def _arrange(codes: Tensor, codebook_size: int, layout: Layout, offset: int, fill: int) -> Tensor:
    """Checked codes [K, T] -> symbols [S]."""
    n_q, frames = codes.shape
    symbols = codes + _lows(n_q, codebook_size, codes.device) + offset
    if layout == "first":
        return symbols[0]
    if layout == "coarse":
        return symbols.reshape(-1)
    if layout == "delay" and frames:
        steps = symbols.new_full((n_q, frames + n_q - 1), fill)
        for k in range(n_q):
            steps[k, k : k + frames] = symbols[k]
        symbols = steps
    return symbols.T.reshape(-1)


def _lows(n_q: int, codebook_size: int, device: torch.device) -> Tensor:
    return torch.arange(n_q, device=device).unsqueeze(1) * codebook_size


def as_tensor(values: Any) -> Tensor:
    """Convert an array or nested lists to a tensor; a tensor is returned as it is.

    Raises:
        TypeError: ``values`` are none of these, or ragged.
    """
    if isinstance(values, Tensor):
        return values
    try:
        array = np.asarray(values)
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    except (TypeError, ValueError) as error:
        raise TypeError(f"expected an array of integers, got {type(values).__name__} ({error})") from None


def _integers(values: Tensor, what: str) -> Tensor:
    if values.dtype == torch.bool or values.is_floating_point() or values.is_complex():
        raise TypeError(f"expected {what} of an integer dtype, got {values.dtype}")
    return values.long()
