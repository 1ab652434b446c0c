"""The rows of an audio folder's ``metadata.csv``, and which of them a test takes.

Knows nothing of sound. The law it keeps: the choice depends on the table and the arguments alone.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One line of an audio folder's ``metadata.csv``."""

    path: Path
    text: str = ""
    speaker: str = ""
    source: str = ""
    split: str = ""


def read_rows(
    data: str | Path, split: str | None = None, source: str | None = None, limit: int | None = None
) -> list[Row]:
    """Read the ``metadata.csv`` of an audio folder.

    Args:
        data: the folder (or the csv itself). Columns: ``file_name`` and, if there, ``transcription`` (or
            ``text``), ``speaker_id``, ``source``, ``split``.
        split: keep rows whose split is this.
        source: keep rows whose source begins with this.
        limit: keep this many, spread evenly over what is left so that few rows still hold many speakers.

    Returns:
        The rows in file order, at least one.

    Raises:
        FileNotFoundError: no ``metadata.csv``.
        ValueError: no table in UTF-8, no ``file_name`` column, a limit below 1, or no row is left.
    """
    data = Path(data)
    table = data / "metadata.csv" if data.is_dir() else data
    if not table.is_file():
        raise FileNotFoundError(
            f"expected {table}, which is not there; give a folder that holds a metadata.csv"
        )
    try:
        rows = _read(table)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{table}: expected a table in UTF-8 with a column file_name, got something else ({error}); give a folder "
            "that holds a metadata.csv"
        ) from None
    kept = [row for row in rows if split in (None, row.split) and row.source.startswith(source or "")]
    if not kept:
        splits = sorted({row.split for row in rows})
        sources = sorted({row.source for row in rows})
        raise ValueError(
            f"no row of {table} has split {split!r} and a source beginning with {source or ''!r}; "
            f"it has the splits {splits} and the sources {sources}"
        )
    return spread(kept, limit)


def _read(table: Path) -> list[Row]:
    with table.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        if "file_name" not in (reader.fieldnames or ()):
            raise ValueError(
                f"expected a column file_name in {table}, got {reader.fieldnames}; see datasets' audiofolder"
            )
        return [
            Row(
                path=table.parent / row["file_name"],
                text=row.get("transcription") or row.get("text") or "",
                speaker=row.get("speaker_id") or "",
                source=row.get("source") or "",
                split=row.get("split") or "",
            )
            for row in reader
        ]


def spread(items: list[Any], limit: int | None) -> list[Any]:
    """``limit`` of the items at even distances, all if there are fewer. Raises ValueError below 1."""
    if limit is None or limit >= len(items):
        return items
    if limit < 1:
        raise ValueError(f"expected a limit of at least 1, got {limit}")
    return [items[index * len(items) // limit] for index in range(limit)]
