"""A source as one compact Arrow table: names of files, text, and where in a file a sound lies.

Knows nothing of layouts: whoever knows one yields :class:`Entry` objects. The law it keeps: rows stay in the order in
which they came, and memory is the table's few hundred bytes a row.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import compute

from .rows import SourceRow, inside, printable

_TEXT = ("id", "text", "speaker", "language", "split", "file", "fields", "reason", "detail")
_SCHEMA = pa.schema(
    [(name, pa.string()) for name in _TEXT]
    + [("start", pa.float64()), ("end", pa.float64()), ("offset", pa.int64()), ("size", pa.int64())]
)
_PIECE = 4096
# Its functions are made when it is imported; the type stubs do not know them.
_compute: Any = compute


@dataclass
class Entry:
    """One row as a layout gives it; ``file`` is relative to the folder that the layout was found in.

    Attributes:
        start, end: seconds of the file that are this row's; -1 for all of it.
        offset, size: bytes of the file that hold the sound; -1 when the file is the sound.
        other: further columns of the source.
    """

    id: str
    file: str
    text: str = ""
    speaker: str = ""
    language: str = ""
    split: str = ""
    start: float = -1.0
    end: float = -1.0
    offset: int = -1
    size: int = -1
    other: dict[str, Any] = field(default_factory=dict)
    problem: tuple[str, str] | None = None


class TableSource:
    """Numbered rows over an Arrow table; made by :func:`build_table`.

    Attributes:
        describe: what the source is, for reports.
    """

    def __init__(self, table: pa.Table, root: Path, describe: str) -> None:
        self._table = table
        self._root = root
        self.describe = describe

    def __len__(self) -> int:
        return self._table.num_rows

    def __iter__(self) -> Iterator[SourceRow]:
        for start in range(0, len(self), _PIECE):
            yield from self._rows(self._table.slice(start, _PIECE), range(start, len(self)))

    def take(self, indices: Sequence[int]) -> list[SourceRow]:
        """The rows with these numbers."""
        return self._rows(self._table.take(pa.array(indices, pa.int64())), indices)

    def listing(self) -> Iterator[list[tuple[object, ...]]]:
        """Every column of the rows and the sizes of their files, in pieces."""
        for start in range(0, len(self), _PIECE):
            rows = self._table.slice(start, _PIECE).to_pylist()
            yield [(*row.values(), _size(self._root, row["file"])) for row in rows]

    def select(self, column: str, keep: Callable[[str], bool]) -> TableSource:
        """The rows whose ``column`` has a value that ``keep`` accepts, renumbered."""
        values = self._table[column]
        wanted = [value for value in _compute.unique(values).to_pylist() if keep(value)]
        chosen = self._table.filter(_compute.is_in(values, pa.array(wanted, pa.string())))
        return TableSource(chosen.combine_chunks(), self._root, self.describe)

    def values(self, column: str) -> list[str]:
        """The different values of a column, sorted."""
        return sorted(_compute.unique(self._table[column]).to_pylist())

    def fill_language(self, language: str) -> TableSource:
        """The same rows, taken to be of this language where they name none."""
        old = self._table["language"]
        new = _compute.if_else(_compute.equal(old, ""), language, old)
        at = self._table.column_names.index("language")
        return TableSource(self._table.set_column(at, "language", new), self._root, self.describe)

    def _rows(self, table: pa.Table, indices: Iterable[int]) -> list[SourceRow]:
        made = []
        for index, row in zip(indices, table.to_pylist(), strict=False):
            made.append(
                SourceRow(
                    index=index,
                    id=row["id"] or f"{index:08d}",
                    text=row["text"],
                    speaker=row["speaker"],
                    language=row["language"],
                    split=row["split"] or "train",
                    audio=self._audio(row),
                    problem=(row["reason"], row["detail"]) if row["reason"] else None,
                    span=(row["start"], row["end"]) if row["start"] >= 0 else None,
                    fields=row["fields"],
                )
            )
        return made

    def _audio(self, row: dict[str, Any]) -> bytes | Path | None:
        if not row["file"]:
            return None
        path = self._root / row["file"]
        if row["offset"] < 0:
            return path
        with path.open("rb") as file:
            file.seek(row["offset"])
            return file.read(row["size"])


def build_table(entries: Iterable[Entry], folder: Path, root: Path | None, describe: str) -> TableSource:
    """Lay out entries as a source.

    Args:
        entries: the rows, in order.
        folder: what their file names are relative to.
        root: the folder that no file may lie outside of; None is ``folder``.
        describe: what the source is.

    Raises:
        ValueError: there is no entry.
    """
    folder = folder.resolve()
    root = (root or folder).resolve()
    batches = []
    remaining = iter(entries)
    while piece := list(itertools.islice(remaining, _PIECE)):
        rows = [_values(entry, folder, root) for entry in piece]
        batches.append(pa.RecordBatch.from_pylist(rows, schema=_SCHEMA))
    if not batches:
        raise ValueError(f"{describe}: expected at least one row, got none")
    return TableSource(pa.Table.from_batches(batches).combine_chunks(), root, describe)


def _values(entry: Entry, folder: Path, root: Path) -> dict[str, Any]:
    file, problem = inside(folder, entry.file, root)
    try:
        other = {name: value for name, value in entry.other.items() if value not in (None, "")}
        fields = json.dumps(other, ensure_ascii=False, default=str) if other else ""
    except RecursionError:
        fields, problem = "", ("bad_row", "nested without end")
    if not _is_unicode(file):
        file, problem = "", ("bad_name", entry.file)
    said = {
        "id": entry.id or entry.file,
        "text": " ".join(entry.text.split()),
        "speaker": entry.speaker,
        "language": entry.language,
        "split": entry.split,
        "fields": fields,
    }
    if problem is None and (wrong := [name for name, value in said.items() if not _is_unicode(value)]):
        problem = ("bad_row", f"not Unicode: {', '.join(wrong)}")
    reason, detail = entry.problem or problem or ("", "")
    return {
        **{name: printable(value) for name, value in said.items()},
        "file": file,
        "reason": reason,
        "detail": printable(detail),
        "start": entry.start,
        "end": entry.end,
        "offset": entry.offset,
        "size": entry.size,
    }


def _is_unicode(text: str) -> bool:
    """Whether a text can be stored: JSON can hold half of a pair, and a file's name bytes that mean nothing."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _size(root: Path, file: str) -> int:
    try:
        return os.stat(root / file).st_size if file else -1
    except (OSError, ValueError):
        return -1
