"""A source cut into pieces of so many rows, each of which becomes a shard.

Knows nothing of codecs or workers. The law it keeps: where the cuts are depends on the source alone, whether it can be
read in any order or only as it arrives; of a stream never more than the sections under way is held, and on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .plan import hash_id, survey
from .rows import Rows, Source, SourceRow
from .sources import StreamSource


@dataclass
class Section:
    """Consecutive rows of a source, numbered as their shard.

    Attributes:
        number: of the shard.
        indices: the rows' numbers.
        rows: what gives them.
        repeated: numbers of rows that have an id of a row before them.
    """

    number: int
    indices: range
    rows: Rows
    repeated: frozenset[int]

    def take(self, indices: Sequence[int]) -> list[SourceRow]:
        """Rows of this section; a repeated id is a problem of its row."""
        return [
            replace(row, problem=row.problem or ("duplicate", row.id)) if row.index in self.repeated else row
            for row in self.rows.take(indices)
        ]

    def close(self) -> None:
        """Let go of what was held for the section."""
        if isinstance(self.rows, _Spool):
            self.rows.path.unlink(missing_ok=True)


class IndexedSections:
    """Sections of a source that can be read in any order.

    Attributes:
        rows: rows of the source.
        count: sections.
        digest: hex, over the source's listing.
    """

    def __init__(self, source: Source, size: int) -> None:
        self._source = source
        self._size = size
        found = survey(source)
        self._repeated = found.repeated
        self.rows: int | None = found.rows
        self.count: int | None = -(-found.rows // size)
        self.digest = found.digest

    def sections(self, wanted: Callable[[int], bool]) -> Iterator[Section]:
        """The sections whose number is wanted, in order."""
        assert self.count is not None and self.rows is not None
        for number in filter(wanted, range(self.count)):
            start = number * self._size
            indices = range(start, min(start + self._size, self.rows))
            again = frozenset(
                start + int(at) for at in self._repeated[indices.start : indices.stop].nonzero()[0]
            )
            yield Section(number, indices, self._source, again)


class StreamSections:
    """Sections of a source that arrives in order; how many there are is known when it has ended.

    Args:
        source: the stream.
        size: rows of a section.
        spool: the folder for the sound of the sections under way; made when it is needed.

    Attributes:
        rows, count: None until the stream has ended.
        digest: empty: nothing is listed beforehand.
    """

    def __init__(self, source: StreamSource, size: int, spool: Path) -> None:
        self._source = source
        self._size = size
        self._spool = spool
        self.rows: int | None = None
        self.count: int | None = None
        self.digest = ""

    def sections(self, wanted: Callable[[int], bool]) -> Iterator[Section]:
        """The sections whose number is wanted, in order; the others are read and let go."""
        seen: set[bytes] = set()
        rows = 0
        spool: _Spool | None = None
        repeated: set[int] = set()
        for row in self._source:
            number = rows // self._size
            if row.index % self._size == 0:
                spool = _Spool(self._spool / f"spool-{number:05d}") if wanted(number) else None
                repeated = set()
            if (key := hash_id(row.id)) in seen:
                repeated.add(row.index)
            seen.add(key)
            rows += 1
            if spool is not None:
                spool.add(row)
                if rows % self._size == 0:
                    yield self._close(number, spool, repeated)
                    spool = None
        if spool is not None:
            yield self._close(rows // self._size, spool, repeated)
        self.rows, self.count = rows, -(-rows // self._size)

    def _close(self, number: int, spool: _Spool, repeated: set[int]) -> Section:
        spool.finish()
        start = number * self._size
        return Section(number, range(start, start + len(spool.rows)), spool, frozenset(repeated))


class _Spool:
    """Rows of one section of a stream, their sound in one file."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self.rows: list[SourceRow] = []
        self._places: list[tuple[int, int] | None] = []
        self._file = path.open("wb")

    def add(self, row: SourceRow) -> None:
        if isinstance(row.audio, bytes):
            self._places.append((self._file.tell(), len(row.audio)))
            self._file.write(row.audio)
            row = replace(row, audio=None)
        else:
            self._places.append(None)
        self.rows.append(row)

    def finish(self) -> None:
        self._file.close()

    def take(self, indices: Sequence[int]) -> list[SourceRow]:
        first = self.rows[0].index
        taken = []
        with self.path.open("rb") as file:
            for index in indices:
                row, place = self.rows[index - first], self._places[index - first]
                if place is not None:
                    file.seek(place[0])
                    row = replace(row, audio=file.read(place[1]))
                taken.append(row)
        return taken
