"""Corpora whose rows stand in a table of text: CSV, TSV, JSON lines, LJSpeech, Common Voice, Kaldi.

Knows nothing of sound. The law it keeps: nothing that a table says is run; a table that is not UTF-8, or not of its
form from the start, is refused by name; one bad row among good ones is a row with a problem.
"""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..files import parse_json
from .rows import find_columns
from .table import Entry, TableSource, build_table

TABLES = (".csv", ".tsv", ".jsonl", ".json")
_Problem = tuple[str, str] | None
# Far beyond what the csv module takes by itself, so that one such field does not end the reading.
_LARGEST_FIELD = 1 << 30
_KEPT_CHARACTERS = 200


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
            splits |= {row["path"]: split for row, _ in _tsv(folder / f"{name}.tsv") if row["path"]}

    def entries() -> Iterator[Entry]:
        for row, problem in _tsv(folder / "validated.tsv"):
            known = {"path", "sentence", "client_id", "locale"}
            other = {key: value for key, value in row.items() if key not in known and isinstance(key, str)}
            name = row["path"] or ""
            yield Entry(
                name,
                f"clips/{name}" if name else "",
                row.get("sentence") or "",
                row.get("client_id") or "",
                row.get("locale") or "",
                splits.get(name, "validated"),
                other=other,
                problem=problem,
            )

    return build_table(entries(), folder, None, folder.name)


def read_kaldi(folder: Path, root: Path | None) -> TableSource:
    """A Kaldi data folder: ``wav.scp`` and ``text``; ``utt2spk`` and ``segments`` where they are there.

    An entry of ``wav.scp`` that is a command (it ends in ``|``) is never run: its rows are dropped as unreadable.

    Raises:
        ValueError: a file is damaged or empty.
    """
    listed = list(_pairs(folder / "wav.scp"))
    recordings = dict(listed)
    texts, speakers = (dict(_pairs(folder / name)) for name in ("text", "utt2spk"))

    def entries() -> Iterator[Entry]:
        segmented = (folder / "segments").is_file()
        for id, rest in _pairs(folder / "segments") if segmented else listed:
            file, start, end, problem = rest, -1.0, -1.0, None
            if segmented:
                try:
                    recording, first, last = rest.split()
                    file = recordings.get(recording, "")
                    start, end = float(first), float(last)
                    if not 0 <= start < end < math.inf:
                        raise ValueError("no span of time")
                except ValueError:
                    start = end = -1.0
                    file, problem = "", ("unreadable", f"segments: {rest}")
            if file.endswith("|"):
                file, problem = "", ("unreadable", "wav.scp holds a command; write its output to a file")
            text, speaker = texts.get(id, ""), speakers.get(id, "")
            yield Entry(id, file, text, speaker, start=start, end=end, problem=problem)

    return build_table(entries(), folder, root, folder.name)


def _columns(path: Path) -> list[str]:
    if path.suffix.lower() in (".jsonl", ".json"):
        return list(dict.fromkeys(key for row, _ in _json_rows(path) for key in row))
    with _table(path) as reader:
        return _header(reader)


def _entries(path: Path, names: Mapping[str, str | None]) -> Iterator[Entry]:
    used = set(names.values())
    for row, problem in _rows(path):

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
            problem=problem,
        )


def _rows(path: Path) -> Iterator[tuple[Mapping[str, Any], _Problem]]:
    if path.suffix.lower() in (".jsonl", ".json"):
        yield from _json_rows(path)
        return
    with _table(path) as reader:
        yield from _csv_rows(reader)


def _json_rows(path: Path) -> Iterator[tuple[dict[str, Any], _Problem]]:
    for number, line in enumerate(_lines(path), 1):
        try:
            row = parse_json(line)
            if not isinstance(row, dict):
                raise ValueError("expected a JSON object on each line, got something else")
            yield row, None
        except ValueError as error:
            if number == 1:  # no such table at all
                raise ValueError(f"{path}: {error}, as object 1") from None
            yield {}, ("bad_row", f"line {number}: {error}")


def _header(reader: csv.DictReader[str]) -> list[str]:
    """The names of the columns; csv.Error if one stands there twice, for it would be chance which one counts."""
    names = list(reader.fieldnames or ())
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise csv.Error(f"line 1: the column {', '.join(map(repr, twice))} twice")
    return names


def _csv_rows(reader: csv.DictReader[str]) -> Iterator[tuple[dict[str, Any], _Problem]]:
    """Rows; one with a field beyond what the csv module takes is cut down, and has a problem.

    Raises:
        csv.Error: of a quote that does not end, which would swallow the rows behind it, or of one inside a field; of a
            NUL; of two columns with one name. The text names the line.
    """
    most = csv.field_size_limit(_LARGEST_FIELD)  # of the process: given back at the end
    try:
        _header(reader)
        while True:
            line = reader.line_num + 1
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                what = "a quote that does not end" if "end of data" in str(error) else str(error)
                raise csv.Error(f"in the row of line {line}: {what}") from None
            fields = {name: field for name, field in row.items() if isinstance(field, str)}
            if any("\0" in field for field in fields.values()):
                raise csv.Error(f"in the row of line {line}: a NUL, which no text has")
            longest = max(fields.values(), key=len, default="")
            if len(longest) <= most:
                yield row, None
                continue
            if "\n" in longest:
                raise csv.Error(f"in the row of line {line}: a quote that does not end")
            cut = {name: field[:_KEPT_CHARACTERS] for name, field in fields.items()}
            yield cut, ("bad_row", f"line {reader.line_num}: a field of {len(longest)} characters")
    finally:
        csv.field_size_limit(most)


def _tsv(path: Path) -> Iterator[tuple[dict[str, Any], _Problem]]:
    """Rows of a Common Voice table: tabs between, and quotes that are only quotes."""
    with _readable(path), path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        if "path" not in (reader.fieldnames or ()):
            raise ValueError(f"{path}: expected a column path, got {', '.join(reader.fieldnames or ())}")
        yield from _csv_rows(reader)


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    """``key rest of the line`` of a Kaldi file; nothing where there is no such file."""
    if path.is_file():
        for line in _lines(path):
            key, rest = (*re.split(r"[ \t]+", line.strip(), maxsplit=1), "")[:2]
            yield key, rest


def _lines(path: Path) -> Iterator[str]:
    with _readable(path), path.open(encoding="utf-8-sig") as file:
        yield from (line.rstrip("\r\n") for line in file if line.strip())


@contextmanager
def _table(path: Path) -> Iterator[csv.DictReader[str]]:
    """A table with a header, opened: tabs between in .tsv; in .csv commas, or semicolons as spreadsheets write them."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        header = file.readline()
        file.seek(0)
        delimiter = "\t" if path.suffix.lower() == ".tsv" else "," if "," in header else ";"
        yield csv.DictReader(file, delimiter=delimiter, skipinitialspace=True, strict=True)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{path}: expected a table in UTF-8, got something else ({error}); repair the file"
        ) from None
