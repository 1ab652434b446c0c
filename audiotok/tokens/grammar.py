"""What may come next in a sequence of audio symbols: the one statement of the four layouts' rules.

Knows nothing of tensors, text or models; counts in plain integers, one symbol at a time. The strict inverse,
the streaming inverse and constrained generation all ask the same :class:`Cursor`, so they cannot disagree.
The law it keeps: a sequence may end where it stands if and only if it is the image of a grid.
"""

from __future__ import annotations

import copy
from typing import Literal

Layout = Literal["first", "flat", "delay", "coarse"]
LAYOUTS: tuple[Layout, ...] = ("first", "flat", "delay", "coarse")
NO_FILL = -1  # what stands in the corners of ``delay`` unless a caller names an id of its own


class LayoutError(ValueError):
    """A sequence that is not the image of any grid.

    Attributes:
        layout: the layout it was read in.
        position: index of the first bad symbol; the sequence's length when it ends too early.
        codebook: the codebook expected there, the lower one where two may come; None where only the fill
            symbol or the end may.
        expected: half-open range of symbols that the layout allows there; empty where it must end.
        got: the symbol that stands there; None at the end of the sequence.
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
        # An exception pickles its message only, and worker processes send their errors by pickle.
        return type(self), self._arguments


def sequence_length(frames: int, n_q: int, layout: Layout = "flat") -> int:
    """Symbols S that a grid of T frames becomes.

    Args:
        frames: T >= 0.
        n_q: K, codebooks of the grid.
        layout: ``first`` gives T; ``flat`` and ``coarse`` K * T; ``delay`` K * (T + K - 1), or 0 for T = 0.

    Returns:
        S.

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
    """Seconds of sound that fit in ``context`` ids: whole frames only, markers around them not counted.

    Args:
        context: ids that a model can hold, >= 0.
        frame_rate: frames per second, Hz.
        n_q: K, codebooks.
        layout: see :func:`sequence_length`.

    Returns:
        Seconds, s.

    Raises:
        ValueError: as in :func:`sequence_length`, or ``frame_rate`` is not positive.
    """
    if frame_rate <= 0:
        raise ValueError(f"expected frame_rate > 0 Hz, got {frame_rate}")
    per_frame = sequence_length(2, n_q, layout) - sequence_length(1, n_q, layout)
    first = sequence_length(1, n_q, layout)
    return max(0, 1 + (context - first) // per_frame) / frame_rate


class Cursor:
    """Where a sequence stands in its layout, and what may come next.

    Args:
        layout: one of :data:`LAYOUTS`.
        n_q: K, codebooks in the sequence; ``first`` holds one whatever this says.
        codebook_size: V.
        offset: the symbol of code 0 of codebook 0.
        fill: the symbol that stands in the corners of ``delay``; outside the range of the codes.

    Attributes:
        position: symbols taken so far.
        begun: frames whose code of codebook 0 has been taken.
        settled: T is known, because something came that only follows the last frame's first code.
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
        """Another cursor that stands where this one does."""
        return copy.copy(self)

    @property
    def codebooks(self) -> range:
        """Codebooks a code of which may come next: none, one, or the two at the first turn of ``coarse``."""
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
        """Whether what was taken so far is the whole image of a grid."""
        return self.shortest == 0

    @property
    def shortest(self) -> int:
        """The fewest symbols after which it may end."""
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
        """Take one symbol.

        Args:
            symbol: the next one.

        Returns:
            Its codebook; None for the fill symbol.

        Raises:
            LayoutError: it may not come here; the cursor stays where it was.
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
        """Say that no more comes.

        Raises:
            LayoutError: the sequence is not whole.
        """
        if not self.may_end:
            raise self.error(None)

    def error(self, got: int | None) -> LayoutError:
        """The error that says what may come here and that ``got`` came (None: the end)."""
        codebooks = self.codebooks
        low = self.offset + codebooks.start * self.codebook_size
        expected = range(low, low + len(codebooks) * self.codebook_size)
        fill = self.fill if self.may_fill else None
        if not codebooks:
            expected = range(0) if fill is None else range(fill, fill + 1)
        return LayoutError(self.layout, self.position, codebooks, expected, fill, got)


def check_layout(layout: str) -> None:
    """Refuse a name that is no layout. Raises ValueError."""
    if layout not in LAYOUTS:
        raise ValueError(f"expected a layout of {', '.join(LAYOUTS)}; got {layout!r}")


def check_sizes(n_q: int, codebook_size: int) -> None:
    """Refuse sizes below 1. Raises ValueError."""
    for name, value in (("codebook_size", codebook_size), ("n_q", n_q)):
        if value < 1:
            raise ValueError(f"expected {name} >= 1, got {value}")


def check_fill(layout: str, n_q: int, codebook_size: int, offset: int, fill: int) -> None:
    """Refuse a fill symbol that is also a code's. Raises ValueError."""
    stop = offset + n_q * codebook_size
    if layout == "delay" and offset <= fill < stop:
        raise ValueError(f"expected a fill symbol outside the codes' [{offset}, {stop}), got {fill}")
