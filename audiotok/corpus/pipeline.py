"""Sections of rows in, finished shards out: what is asked of the workers, and when.

Knows nothing of files. The law it keeps: a shard's rows come back in their order, whoever encoded them; and never more
than a few batches, and the rows of two sections, are under way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .checks import Drop, Header, Limits, inspect
from .plan import make_batches
from .pool import Call, Engine
from .progress import Clock
from .rows import SourceRow
from .sections import Section

Row = dict[str, Any] | Drop
# Rows that one call inspects.
_CHUNK = 64


@dataclass
class _Shard:
    """A section under way. ``light`` holds the rows whose sound is in a file, ``results`` what came of rows."""

    section: Section
    asked: list[Call] = field(default_factory=list)
    light: dict[int, SourceRow] = field(default_factory=dict)
    headers: list[Header] = field(default_factory=list)
    results: dict[int, Row] = field(default_factory=dict)

    def note(self, answers: Iterable[Header | Drop]) -> None:
        """Take what came of inspecting rows."""
        for answer in answers:
            if isinstance(answer, Drop):
                self.results[answer.row] = answer
            else:
                self.headers.append(answer)

    def rows(self, indices: list[int]) -> list[SourceRow]:
        """Rows with their sound, read again where it was not kept."""
        if all(index in self.light for index in indices):
            return [self.light[index] for index in indices]
        return self.section.take(indices)


def run_sections(
    engine: Engine, sections: Iterable[Section], limits: Limits, batch_s: float, clock: Clock
) -> Iterator[tuple[int, list[Row]]]:
    """Inspect and encode.

    Args:
        engine: of :class:`~audiotok.corpus.server.RowServer`.
        sections: the rows.
        limits: which of them are fit; rows that hold their sound are inspected here and not sent.
        batch_s: padded seconds of a batch.
        clock: told of what is finished.

    Yields:
        the number of each section, in order, and what came of each of its rows.
    """
    under_way: deque[tuple[_Shard, list[int], Call | None]] = deque()
    for shard in _inspected(engine, sections, limits):
        clock.add(len(shard.results), 0.0)
        for batch in make_batches(shard.headers, batch_s):
            under_way.append((shard, batch, engine.submit("encode", shard.rows(batch))))
            while len(under_way) > 3 * engine.workers:
                yield from _settle(engine, *under_way.popleft(), clock)
        under_way.append((shard, [], None))
    while under_way:
        yield from _settle(engine, *under_way.popleft(), clock)


def _inspected(engine: Engine, sections: Iterable[Section], limits: Limits) -> Iterator[_Shard]:
    """Sections whose rows are inspected; those of the next one are while this one is encoded."""
    ahead: deque[_Shard] = deque()

    def finish(shard: _Shard) -> _Shard:
        for call in shard.asked:
            shard.note(engine.result(call))
        return shard

    for section in sections:
        shard = _Shard(section)
        for start in range(section.indices.start, section.indices.stop, _CHUNK):
            rows = section.take(range(start, min(start + _CHUNK, section.indices.stop)))
            held = [row for row in rows if not isinstance(row.audio, Path)]
            named = [row for row in rows if isinstance(row.audio, Path)]
            shard.light |= {row.index: row for row in named}
            shard.note(inspect(row, limits) for row in held)
            if named:
                shard.asked.append(engine.submit("inspect", named))
        ahead.append(shard)
        if len(ahead) == 2:
            yield finish(ahead.popleft())
    yield from map(finish, ahead)


def _settle(
    engine: Engine, shard: _Shard, batch: list[int], call: Call | None, clock: Clock
) -> Iterator[tuple[int, list[Row]]]:
    """Take a batch's answer; at the end of a shard give all of its rows."""
    if call is not None:
        answers: list[Row] = engine.result(call)
        shard.results |= dict(zip(batch, answers, strict=True))
        clock.add(len(batch), sum(row["seconds"] for row in answers if not isinstance(row, Drop)))
        return
    shard.section.close()
    yield shard.section.number, [shard.results[index] for index in sorted(shard.results)]
