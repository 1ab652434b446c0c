"""Corpora whose rows stand in a table of text: CSV, TSV, JSON lines, LJSpeech, Common Voice, Kaldi.

Knows nothing of sound. The law it keeps: nothing that a table says is run, and a table that is not UTF-8 is refused by
name.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..rows import find_columns
from .table import Entry, TableSource, build_table

TABLES = (".csv", ".tsv", ".jsonl", ".json")


def read_metadata(path: Path, columns: Mapping[str, str], root: Path | None = None) -> TableSource:
    """Rows of a table; the files it names are taken relative to its folder.

    Args:
        path: a .csv or .tsv file with a header, or JSON lines (.jsonl, .json).
        columns: field -> column, where the usual names do not find it.
        root: the folder that no file may lie outside of; None is the table's own.

    Raises:
        ValueError: it is no such table, has no rows, or lacks the column of the files.
    """
    with _readable(path):
        present = _columns(path)
        if not present:
            raise ValueError(f"{path}: expected at least one row of metadata, got none")
        names = find_columns(present, columns, str(path))
        try:
            return build_table(_entries(path, names), path.parent, root, path.parent.name)
        except ValueError as error:
            raise ValueError(f"{path}: {str(error).split(': ', 1)[-1]}") from None


def read_lj(folder: Path) -> TableSource:
    """LJSpeech: ``id|as written|normalised``, no header, no quoting; the sound is ``wavs/ID.wav``.

    Raises:
        ValueError: the table is not UTF-8 or has no rows.
    """

    def entries() -> Iterator[Entry]:
        for line in _lines(folder / "metadata.csv"):
            name, written, normalised = (*line.split("|"), "", "")[:3]
            yield Entry(name, f"wavs/{name}.wav", normalised or written, "LJ", "en")

    return build_table(entries(), folder, None, folder.name)


def is_lj(folder: Path) -> bool:
    """Whether the folder is laid out as LJSpeech."""
    table = folder / "metadata.csv"
    if not table.is_file() or not (folder / "wavs").is_dir():
        return False
    with table.open(encoding="utf-8-sig", errors="replace") as file:
        first = file.readline()
    return "|" in first and "file_name" not in first


def read_common_voice(folder: Path) -> TableSource:
    """Common Voice: ``validated.tsv`` and ``clips/``; a row's split is the table among train, dev, test that has it.

    Rows that were validated but are in none of these get the split ``validated``.

    Raises:
        FileNotFoundError: there is no ``validated.tsv``.
        ValueError: a table is damaged or empty.
    """
    splits: dict[str, str] = {}
    for name, split in (("train", "train"), ("dev", "validation"), ("test", "test")):
        if (folder / f"{name}.tsv").is_file():
            splits |= {row["path"]: split for row in _tsv(folder / f"{name}.tsv")}

    def entries() -> Iterator[Entry]:
        for row in _tsv(folder / "validated.tsv"):
            known = {"path", "sentence", "client_id", "locale"}
            other = {key: value for key, value in row.items() if key not in known and isinstance(key, str)}
            yield Entry(
                row["path"],
                f"clips/{row['path']}",
                row.get("sentence") or "",
                row.get("client_id") or "",
                row.get("locale") or "",
                splits.get(row["path"], "validated"),
                other=other,
            )

    return build_table(entries(), folder, None, folder.name)


def read_kaldi(folder: Path, root: Path | None) -> TableSource:
    """A Kaldi data folder: ``wav.scp`` and ``text``; ``utt2spk`` and ``segments`` where they are there.

    An entry of ``wav.scp`` that is a command (it ends in ``|``) is never run: its rows are dropped as unreadable.

    Raises:
        ValueError: a file is damaged or empty.
    """
    recordings = dict(_pairs(folder / "wav.scp"))
    texts, speakers = (dict(_pairs(folder / name)) for name in ("text", "utt2spk"))

    def entries() -> Iterator[Entry]:
        segmented = (folder / "segments").is_file()
        for id, rest in _pairs(folder / "segments") if segmented else recordings.items():
            recording, start, end, problem = id, -1.0, -1.0, None
            if segmented:
                try:
                    recording, first, last = rest.split()
                    start, end = float(first), float(last)
                except ValueError:
                    problem = ("unreadable", f"segments: {rest}")
            file = recordings.get(recording, "")
            if file.endswith("|"):
                file, problem = "", ("unreadable", "wav.scp holds a command; write its output to a file")
            text, speaker = texts.get(id, ""), speakers.get(id, "")
            yield Entry(id, file, text, speaker, start=start, end=end, problem=problem)

    return build_table(entries(), folder, root, folder.name)


def _columns(path: Path) -> list[str]:
    if path.suffix.lower() in (".jsonl", ".json"):
        return list(dict.fromkeys(key for row in _json_rows(path) for key in row))
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter=_delimiter(path)).fieldnames or ())


def _entries(path: Path, names: Mapping[str, str | None]) -> Iterator[Entry]:
    used = set(names.values())
    for row in _rows(path):

        def value(field: str, row: Mapping[str, Any] = row) -> str:
            found = row.get(names[field] or "")
            return "" if found is None else str(found).strip()

        other = {key: found for key, found in row.items() if key not in used and isinstance(key, str)}
        yield Entry(
            value("id"),
            value("audio"),
            value("text"),
            value("speaker"),
            value("language"),
            value("split"),
            other=other,
        )


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    if path.suffix.lower() in (".jsonl", ".json"):
        yield from _json_rows(path)
        return
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from csv.DictReader(file, delimiter=_delimiter(path))


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_lines(path), 1):
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError(
                f"{path}: expected a JSON object on each line, got something else as object {number}"
            )
        yield row


def _tsv(path: Path) -> Iterator[dict[str, str]]:
    """Rows of a Common Voice table: tabs between, and quotes that are only quotes."""
    with _readable(path), path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            if not row.get("path"):
                raise ValueError(f"{path}: expected a column path with a file in each row")
            yield row


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    """``key rest of the line`` of a Kaldi file; nothing where there is no such file."""
    if path.is_file():
        for line in _lines(path):
            key, _, rest = line.strip().partition(" ")
            yield key, rest.strip()


def _lines(path: Path) -> Iterator[str]:
    with _readable(path), path.open(encoding="utf-8-sig") as file:
        yield from (line.rstrip("\r\n") for line in file if line.strip())


def _delimiter(path: Path) -> str:
    return "\t" if path.suffix.lower() == ".tsv" else ","


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path}: expected UTF-8 metadata, got something else ({error}); repair the file"
        ) from None
