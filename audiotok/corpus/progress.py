"""How far a run is, for whoever watches it.

Knows nothing of what is done. The law it keeps: an estimate is never more than what is done tells.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a run is. ``stage`` is "encode" or "check"; seconds are of sound, ``elapsed_s`` is time.

    ``rows`` of ``rows_total`` are done; a stream's total is None.
    """

    stage: str
    rows: int
    rows_total: int | None
    seconds: float
    elapsed_s: float

    @property
    def remaining_s(self) -> float:
        """Estimated seconds until the stage is done; NaN where that is not known."""
        if not self.rows or self.rows_total is None:
            return float("nan")
        return self.elapsed_s * (self.rows_total - self.rows) / self.rows


class Clock:
    """Turns finished work into :class:`Progress` calls.

    Args:
        stage: what is done.
        rows_total: of all that is to do; None if that is not known.
        tell: called with each progress; None tells nobody.
    """

    def __init__(self, stage: str, rows_total: int | None, tell: Callable[[Progress], None] | None) -> None:
        self._stage = stage
        self._total = rows_total
        self._tell = tell
        self._rows, self._seconds = 0, 0.0
        self._began = time.monotonic()

    def add(self, rows: int, seconds: float) -> None:
        """So many more rows, with so many seconds of sound, are done."""
        self._rows, self._seconds = self._rows + rows, self._seconds + seconds
        if self._tell is not None:
            elapsed = time.monotonic() - self._began
            self._tell(Progress(self._stage, self._rows, self._total, self._seconds, elapsed))
