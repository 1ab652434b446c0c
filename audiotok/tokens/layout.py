"""Layouts: codes [K, T] <-> one sequence of symbols, ``offset + k * V + code``.

``delay`` is the pattern of MusicGen (arXiv:2306.05284, figure 1): codebook k is shifted by k frames.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal, NamedTuple, overload

import torch
from torch import Tensor

Layout = Literal["first", "flat", "delay", "coarse"]
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
        came = "the end of the sequence" if got is None else str(got)
        wanted = []
        if codebooks:
            names = " or ".join(map(str, codebooks))
            wanted.append(f"a symbol of codebook {names} in [{expected.start}, {expected.stop})")
        if fill is not None:
            wanted.append(f"the fill symbol {fill}")
        message = " or ".join(wanted) or "the end of the sequence"
        super().__init__(
            f"malformed {layout!r} sequence: at position {position} expected {message}, got {came}"
        )
        self.layout = layout
        self.position = position
        self.codebook = codebooks.start if codebooks else None
        self.expected = expected
        self.got = got
        self._arguments = (layout, position, codebooks, expected, fill, got)

    def __reduce__(self) -> tuple[type[LayoutError], tuple[str, int, range, range, int | None, int | None]]:
        # Worker processes pickle their errors; by default only the message would be pickled.
        return type(self), self._arguments


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

    Args:
        context: context length of a model in ids, >= 0.
        frame_rate: frames per second, Hz.
        n_q: K, codebooks.
        layout: see :func:`sequence_length`.

    Raises:
        ValueError: as in :func:`sequence_length`, or ``frame_rate`` is not positive.
    """
    if frame_rate <= 0:
        raise ValueError(f"expected frame_rate > 0 Hz, got {frame_rate}")
    per_frame = sequence_length(2, n_q, layout) - sequence_length(1, n_q, layout)
    first = sequence_length(1, n_q, layout)
    return max(0, 1 + (context - first) // per_frame) / frame_rate


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
    """

    def __init__(
        self, layout: Layout, n_q: int, codebook_size: int, offset: int = 0, fill: int = NO_FILL
    ) -> None:
        check_layout(layout)
        check_sizes(n_q, codebook_size)
        self.layout: Layout = layout
        self.n_q = 1 if layout == "first" else n_q
        self.codebook_size = codebook_size
        self.offset = offset
        self.fill = fill
        check_fill(self.layout, self.n_q, codebook_size, offset, fill)
        self.position = 0
        self.begun = 0
        self.settled = False

    def copy(self) -> Cursor:
        """Another cursor at the same position."""
        return copy.copy(self)

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
        if self.layout != "delay" or self.n_q == 1 or (self.settled and self.shortest == 0):
            return False
        if not self.codebooks:
            return True
        return self.position % self.n_q == 0 and self.position > 0 and not self.settled

    @property
    def may_end(self) -> bool:
        """Whether the symbols taken so far are a complete sequence."""
        return self.shortest == 0

    @property
    def shortest(self) -> int:
        """Minimum number of further symbols after which the sequence may end."""
        return sequence_length(self.begun, self.n_q, self.layout) - self.position

    def codebook(self, symbol: int) -> int | None:
        """The codebook of a symbol that may come next; None for the fill symbol.

        Raises:
            LayoutError: this symbol may not come next.
        """
        for level in self.codebooks:
            low = self.offset + level * self.codebook_size
            if low <= symbol < low + self.codebook_size:
                return level
        if symbol == self.fill and self.may_fill:
            return None
        raise self.error(symbol)

    def push(self, symbol: int) -> int | None:
        """Take one symbol and return its codebook, None for the fill symbol.

        Raises:
            LayoutError: the symbol is not allowed here; the cursor does not move.
        """
        level = self.codebook(symbol)
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
            raise self.error(None)

    def error(self, got: int | None) -> LayoutError:
        """The error for ``got`` (None: the end) at this position."""
        codebooks = self.codebooks
        low = self.offset + codebooks.start * self.codebook_size
        expected = range(low, low + len(codebooks) * self.codebook_size)
        fill = self.fill if self.may_fill else None
        if not codebooks:
            expected = range(0) if fill is None else range(fill, fill + 1)
        return LayoutError(self.layout, self.position, codebooks, expected, fill, got)


def check_layout(layout: str) -> None:
    """Refuse an unknown layout. Raises ValueError."""
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout!r}; choose from {', '.join(LAYOUTS)}")


def check_sizes(n_q: int, codebook_size: int) -> None:
    """Refuse sizes below 1. Raises ValueError."""
    for name, value in (("codebook_size", codebook_size), ("n_q", n_q)):
        if value < 1:
            raise ValueError(f"expected {name} >= 1, got {value}")


def check_fill(layout: str, n_q: int, codebook_size: int, offset: int, fill: int) -> None:
    """Refuse a fill symbol in the range of the codes. Raises ValueError."""
    stop = offset + n_q * codebook_size
    if layout == "delay" and offset <= fill < stop:
        raise ValueError(f"expected a fill symbol outside the codes' [{offset}, {stop}), got {fill}")


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
        layout: ``first``, ``flat``, ``delay`` or ``coarse``.
        n_q: K, codebooks in the sequence; ``first`` always holds one.
        codebook_size: V.
        offset: the symbol of code 0 of codebook 0.
        fill: the symbol in the corners of ``delay``.
        errors: ``strict`` or ``repair``.
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
        self._given = 0  # frames returned
        # repair: symbols of the step being read, None for the fill symbol
        self._pending: list[tuple[int, int] | None] = []
        self._frames: dict[int, list[int]] = {}  # repair: unfinished frames by their number
        self._step = 0
        self._symbols = self._kept = 0

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
        """End the sequence.

        Returns:
            [K, T'] int64, the codes that are left (``coarse`` under repair); None otherwise.

        Raises:
            LayoutError: strict, and the sequence is not complete.
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
        # In every layout the code of the last codebook is the last of its frame.
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
    codes: Tensor, codebook_size: int, layout: Layout = "flat", offset: int = 0, fill: int = NO_FILL
) -> Tensor:
    """Turn codes into one sequence of symbols ``offset + k * V + code``.

    Args:
        codes: [K, T] integers in [0, V), K >= 1 and T >= 0.
        codebook_size: V, entries per codebook.
        layout: ``first`` keeps codebook 0 only; ``flat`` keeps all, frame by frame, coarse to fine; ``delay`` is frame
            by frame with codebook k shifted by k frames; ``coarse`` is codebook by codebook.
        offset: added to every symbol.
        fill: the symbol for the corners of ``delay`` where no code is; ``offset`` is not added.

    Returns:
        [S] int64 on the device of ``codes``; :func:`sequence_length` gives S.

    Raises:
        TypeError: ``codes`` is not a tensor of integers.
        ValueError: ``codes`` is not [K, T], a code is outside [0, V), the layout is unknown, or ``fill`` is
            a code's symbol.
    """
    check_layout(layout)
    check_sizes(1, codebook_size)
    symbols = _symbols(codes, codebook_size) + offset
    n_q, frames = symbols.shape
    if layout == "first":
        return symbols[0]
    if layout == "coarse":
        return symbols.reshape(-1)
    if layout == "flat":
        return symbols.T.reshape(-1)
    check_fill(layout, n_q, codebook_size, offset, fill)
    if frames == 0:
        return symbols.reshape(-1)
    steps = symbols.new_full((frames + n_q - 1, n_q), fill)
    at, level = _delayed(n_q, frames, symbols.device)
    steps[at, level] = symbols
    return steps.reshape(-1)


@overload
def unflatten(
    symbols: Tensor | Sequence[int],
    n_q: int,
    codebook_size: int,
    layout: Layout = "flat",
    offset: int = 0,
    fill: int = NO_FILL,
    errors: Literal["strict"] = "strict",
) -> Tensor: ...


@overload
def unflatten(
    symbols: Tensor | Sequence[int],
    n_q: int,
    codebook_size: int,
    layout: Layout = "flat",
    offset: int = 0,
    fill: int = NO_FILL,
    *,
    errors: Literal["repair"],
) -> Repaired: ...


def unflatten(
    symbols: Tensor | Sequence[int],
    n_q: int,
    codebook_size: int,
    layout: Layout = "flat",
    offset: int = 0,
    fill: int = NO_FILL,
    errors: Literal["strict", "repair"] = "strict",
) -> Tensor | Repaired:
    """Turn a sequence of symbols back into codes: the inverse of :func:`flatten`.

    Args:
        symbols: [S] integers, a tensor or a list.
        n_q: K, codebooks in the sequence; ``first`` always holds one.
        codebook_size: V, entries per codebook.
        layout: as for :func:`flatten`.
        offset: as for :func:`flatten`.
        fill: as for :func:`flatten`.
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
    cursor = Cursor(layout, n_q, codebook_size, offset, fill)  # checks the arguments
    if errors not in ("strict", "repair"):
        raise ValueError(f"expected errors 'strict' or 'repair', got {errors!r}")
    symbols = _as_sequence(symbols)
    codes = _read_codes(symbols, cursor)
    if codes is not None:
        return Repaired(codes, 0) if errors == "repair" else codes
    if errors == "repair":
        reader = FrameReader(layout, n_q, codebook_size, offset, fill, errors="repair")
        parts = [reader.push(symbol) for symbol in symbols.tolist()]
        kept = [part for part in [*parts, reader.close()] if part is not None]
        codes = torch.cat(kept, dim=1) if kept else torch.zeros(cursor.n_q, 0, dtype=torch.int64)
        return Repaired(codes.to(symbols.device), reader.lost)
    raise _first_error(symbols, cursor)


def _first_error(symbols: Tensor, cursor: Cursor) -> LayoutError:
    """The error of a malformed sequence [S]; ``cursor`` is at the start."""
    try:
        for symbol in symbols.tolist():
            cursor.push(symbol)
        cursor.end()
    except LayoutError as error:
        return error
    raise AssertionError("cursor and tensor code disagree")


def _read_codes(symbols: Tensor, cursor: Cursor) -> Tensor | None:
    """The codes [K, T] of a well-formed sequence [S]; None for any other."""
    n_q, size = cursor.n_q, cursor.codebook_size
    if symbols.shape[0] % n_q:
        return None
    if cursor.layout == "coarse":
        values = symbols.reshape(n_q, -1)
    elif cursor.layout != "delay" or symbols.shape[0] == 0:
        values = symbols.reshape(-1, n_q).T
    else:
        steps = symbols.reshape(-1, n_q)
        frames = steps.shape[0] - n_q + 1
        if frames < 1:
            return None
        at, level = _delayed(n_q, frames, symbols.device)
        values = steps[at, level]
        corner = torch.ones_like(steps, dtype=torch.bool)
        corner[at, level] = False
        if bool((steps[corner] != cursor.fill).any()):
            return None
    codes = values - _lows(n_q, size, symbols.device) - cursor.offset
    if bool(((codes < 0) | (codes >= size)).any()):
        return None
    return codes.contiguous()


def _delayed(n_q: int, frames: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Row [K, T] and column [K, 1] of every code among the steps of ``delay``."""
    level = torch.arange(n_q, device=device).unsqueeze(1)
    return torch.arange(frames, device=device) + level, level


def _lows(n_q: int, codebook_size: int, device: torch.device) -> Tensor:
    return torch.arange(n_q, device=device).unsqueeze(1) * codebook_size


def _symbols(codes: Tensor, codebook_size: int) -> Tensor:
    """Checked codes [K, T] -> symbols [K, T] without offset."""
    if not isinstance(codes, Tensor):
        raise TypeError(
            f"expected a tensor of codes [K, T], got {type(codes).__name__}; use torch.as_tensor(codes)"
        )
    _check_integers(codes, "codes")
    if codes.ndim != 2 or codes.shape[0] < 1:
        raise ValueError(
            f"expected codes [K, T] of one clip with K >= 1, got shape {list(codes.shape)}; "
            "take one item of a batch at a time: codes[i]"
        )
    codes = codes.long()
    bad = (codes < 0) | (codes >= codebook_size)
    if bad.any():
        k, t = bad.nonzero()[0].tolist()
        raise ValueError(
            f"expected codes in [0, {codebook_size}), got {int(codes[k, t])} in codebook {k} at frame {t}; "
            "were they made by another codec, or are they padding?"
        )
    return codes + _lows(codes.shape[0], codebook_size, codes.device)


def _check_integers(values: Tensor, what: str) -> None:
    if values.dtype == torch.bool or values.is_floating_point() or values.is_complex():
        raise TypeError(f"expected {what} of an integer dtype, got {values.dtype}")


def _as_sequence(symbols: Tensor | Sequence[int]) -> Tensor:
    if not isinstance(symbols, Tensor):
        if len(symbols) == 0:
            return torch.zeros(0, dtype=torch.int64)
        try:
            symbols = torch.as_tensor(symbols)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"expected a tensor or a flat list of integers: {error}") from error
    _check_integers(symbols, "symbols")
    if symbols.ndim != 1:
        raise ValueError(
            f"expected one sequence [S], got shape {list(symbols.shape)}; pass one row at a time"
        )
    return symbols.long()
