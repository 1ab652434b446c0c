"""Readers of corpus layouts. Each takes a :class:`Names` with the folder; ValueError if there are no rows."""

from __future__ import annotations

import csv
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from difflib import SequenceMatcher
from pathlib import Path, PurePath
from typing import Any

import pyarrow.parquet as pq

from ..files import parse_json
from .rows import (
    ALIASES,
    SPLITS,
    FilePart,
    ListSource,
    Names,
    Problem,
    SourceRow,
    all_below,
    find_columns,
    plain_name,
    read_cut,
    read_text,
    split_of,
    table_row,
)

METADATA = ("metadata.csv", "metadata.tsv", "metadata.jsonl", "metadata.parquet")
TABLES = (".csv", ".tsv", ".jsonl", ".json")
# Sound by its suffix. A file that cannot be decoded is a row too, dropped as unreadable.
SUFFIXES = frozenset(
    ".aif .aifc .aiff .au .caf .flac .mp3 .nist .oga .ogg .opus .rf64 .snd .sph .voc .w64 .wav .wave "
    ".aac .amr .m4a .wma".split()
)
_TEXT_BYTES = 1 << 20
_MOST_LINES = 100  # of one row of a CSV file whose text goes over several lines
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z]{2,4})?")
_Rows = Iterator[tuple[dict[str, Any], Problem]]
"""Rows of a table as column -> value; a row that cannot be read has a problem and does not affect others."""


# ---- tables


def read_tables(
    tables: Sequence[Path], names: Names, columns: Mapping[str, str], describe: str, splits: bool = False
) -> ListSource:
    """Rows of tables in ``names.folder`` or below; the files that a table names are relative to the table's folder.

    A table is .csv or .tsv with a header, JSON lines (.jsonl, .json), .parquet, or without a header and with cells
    separated by ``|``, as in LJSpeech; its columns are then called 1, 2, 3. With ``splits`` the rows of
    ``test/metadata.csv`` are of the split test where they name none. ValueError if a file is no such table, has no
    rows, or lacks the column of the files.
    """

    def entries() -> Iterator[SourceRow]:
        for table in tables:
            within = os.path.relpath(table.resolve(), names.folder) if splits else table.name
            folder = os.path.dirname(within)
            if is_piped(table):
                found, rows = _open_piped(table, columns, Names(names.folder / folder, names.root))
            else:
                present, rows = _open_table(table)
                found = find_columns(present, columns, str(table))
            row = None
            for row, problem in rows:
                entry = table_row(row, found, problem)
                entry.audio = f"{folder}/{entry.audio}" if folder and entry.audio else entry.audio
                entry.split = entry.split or split_of(folder)
                yield entry
            if row is None:
                raise ValueError(f"{table}: expected at least one row, got none")

    return ListSource(entries(), names, describe)


def is_piped(table: Path) -> bool:
    """Whether a table is one without a header, its cells separated by ``|``."""
    if table.suffix.lower() != ".csv":
        return False
    with table.open(encoding="utf-8-sig", errors="replace") as file:
        first = file.readline().rstrip("\r\n").split("|")
    usual = {name for field in ("audio", "text") for name in ALIASES[field]}
    return len(first) > 1 and not usual & {cell.strip() for cell in first}


def _open_table(path: Path, quotes: bool = True) -> tuple[list[str], _Rows]:
    """The columns and rows of a table. ValueError if it is none, or if two columns have the same name."""
    kind = path.suffix.lower()
    if kind == ".parquet":
        file = pq.ParquetFile(path)
        rows = ((row, None) for batch in file.iter_batches() for row in batch.to_pylist())
        return list(file.schema_arrow.names), rows
    if kind in (".jsonl", ".json"):
        found = list(_json_rows(path))
        present = list(dict.fromkeys(key for row, _ in found for key in row))
    else:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            lines = file.readlines()
        head = lines[0] if lines else ""
        delimiter = "\t" if kind == ".tsv" else next((mark for mark in ",;|\t" if mark in head), ",")
        present = _csv_header(path, head, delimiter)
        found = _csv_rows(lines, present, delimiter, quotes)
    if not present:
        raise ValueError(f"{path}: expected a table with at least one row, got none")
    return present, iter(found)


def _json_rows(path: Path) -> _Rows:
    for number, line in _lines(path):
        try:
            row = parse_json(line)
            if not isinstance(row, dict):
                raise ValueError("expected a JSON object on each line, got something else")
            yield row, None
        except ValueError as error:
            if number == 1:
                raise ValueError(f"{path}: line 1: {error}; check that it is JSON lines") from None
            yield {}, ("bad_row", f"line {number}: {error}")


def _csv_header(path: Path, line: str, delimiter: str) -> list[str]:
    if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in line):
        raise ValueError(f"{path}: expected a table in UTF-8, got something else; convert it to UTF-8")
    try:
        names = [name.strip() for name in _cells([line], delimiter)] if line.strip() else []
    except csv.Error as error:
        raise ValueError(f"{path}: line 1: {error}; repair the names of the columns") from None
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise ValueError(
            f"{path}: line 1: two columns are called {' and '.join(map(repr, twice))}; rename one"
        )
    return names


def _csv_rows(lines: list[str], header: list[str], delimiter: str, quotes: bool) -> _Rows:
    """Rows of a table, given all its lines. Reading continues on the line after an unbalanced quote."""
    audio = next((header.index(name) for name in ALIASES["audio"] if name in header), 0)
    at = 1
    while at < len(lines):
        plain = lines[at].rstrip("\r\n").split(delimiter)
        cells, end, fault = plain, at + 1, "a NUL character" if "\0" in lines[at] else ""
        while quotes and not fault and lines[at].strip():
            try:
                cells = _cells(lines[at:end], delimiter)
                break
            except csv.Error as error:
                fault = str(error)
            following = lines[end].rstrip("\r\n").split(delimiter) if end < len(lines) else []
            starts_a_row = len(following) == len(header) and _suffix(following, audio) == _suffix(
                plain, audio
            )
            if "end of data" in fault and following and not starts_a_row and end - at < _MOST_LINES:
                end, fault = end + 1, ""  # a text of several lines
            else:
                end = at + 1
        if not fault and any(cell.strip() for cell in cells[len(header) :]):
            fault = f"expected {len(header)} cells, got {len(cells)}"
        if lines[at].strip():
            row = dict(zip(header, (cell[:200] for cell in plain) if fault else cells, strict=False))
            yield row, ("bad_row", f"line {at + 1}: {fault}") if fault else None
        at = end


def _cells(lines: list[str], delimiter: str) -> list[str]:
    """The cells of one row of a CSV file, given the lines that it spans; csv.Error if it is not one row."""
    rows = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True))
    if len(rows) != 1:
        raise csv.Error("more than one row")
    return rows[0]


def _suffix(cells: list[str], at: int) -> str:
    suffix = os.path.splitext(cells[at].strip().strip('"'))[1].lower() if at < len(cells) else ""
    return suffix if suffix in SUFFIXES else ""


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers. Bytes that are not UTF-8 stay as escapes, for their row alone."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        yield from ((number, line.rstrip("\r\n")) for number, line in enumerate(file, 1) if line.strip())


def _open_piped(table: Path, columns: Mapping[str, str], names: Names) -> tuple[dict[str, str | None], _Rows]:
    """The fields and rows of a table as in LJSpeech, without header and quotes; its columns are called 1, 2, 3."""
    lines = [(number, [cell.strip() for cell in line.split("|")]) for number, line in _lines(table)]
    width = Counter(len(cells) for _, cells in lines).most_common(1)[0][0]
    usual = (
        {}
        if "text" in columns
        else _piped_columns(table, [cells for _, cells in lines if len(cells) == width], width)
    )
    present = ["id", "speaker", *(str(at) for at in range(1, width + 1))]
    found = find_columns(present, {"audio": "1", **usual, **columns}, str(table))

    def rows() -> _Rows:
        for number, cells in lines:
            row = {str(at): cell for at, cell in enumerate(cells[:width], 1)}
            name = row.get(found["audio"] or "", "")
            if usual == {"text": "3"}:  # the text as it was written, where the normalised one is missing
                row["3"] = row.get("3") or row.get("2", "")
            row |= {"id": "" if _suffix([name], 0) else name, found["audio"] or "": _piped_file(name, names)}
            if found["speaker"] == "speaker":
                row["speaker"] = names.folder.name
            fault = f"line {number}: expected {width} cells, got {len(cells)}"
            yield row, ("bad_row", fault) if len(cells) > width else None

    return found, rows()


def _piped_columns(table: Path, rows: list[list[str]], width: int) -> dict[str, str]:
    """Field -> column.

    ``id|text``, ``id|as written|normalised``, ``id|speaker|text``, ``id|text|speaker`` and ``id|speaker|language|text``
    are distinguished by their contents: two texts are similar, and a speaker is one word that is repeated.
    """

    def is_label(at: int) -> bool:
        cells = [row[at] for row in rows]
        return all(cell and not re.search(r"\s", cell) for cell in cells) and (
            len(set(cells)) < len(cells) or len(cells) == 1
        )

    if width == 2:
        return {"text": "2"}
    if width == 3:
        pairs = [row for row in rows[:200] if row[1] and row[2]]
        alike = [SequenceMatcher(None, row[1], row[2], False).ratio() for row in pairs]
        if not alike or sum(alike) > 0.5 * len(alike):
            return {"text": "3"}
        if not is_label(1) and is_label(2):
            return {"text": "2", "speaker": "3"}
        if not is_label(1) and any(re.search(r"\s", row[1]) for row in rows):  # numbers that were spelled out
            return {"text": "3"}
        return {"text": "3", "speaker": "2"}
    if width == 4 and is_label(1) and all(_LANGUAGE.fullmatch(row[2]) for row in rows):
        return {"text": "4", "speaker": "2", "language": "3"}
    raise ValueError(
        f"{table}: expected id|text, id|text|normalised, id|speaker|text or id|speaker|language|text in each line, got "
        f"{width} cells; name them, such as --column text=3 --column speaker=2, or give the table a header"
    )


def _piped_file(name: str, names: Names) -> str:
    if _suffix([name], 0):
        tried = [name, f"wavs/{name}", f"wav/{name}"]
    else:
        endings = (".wav", ".flac", ".mp3", ".ogg", ".opus")
        tried = [f"{folder}{name}{ending}" for folder in ("wavs/", "wav/", "") for ending in endings]
    for file in tried:
        path, problem = names.find(file)
        if problem is None and os.path.lexists(names.root / path):
            return file
    return tried[0]


def read_common_voice(names: Names, columns: Mapping[str, str], describe: str) -> ListSource:
    """Common Voice: ``validated.tsv`` and ``clips/``; a row's split is the table among train, dev, test that has it.

    Rows that were validated but are in none of these get the split ``validated``.
    """
    table = names.folder / "validated.tsv"
    present, rows = _open_table(table, quotes=False)
    found = find_columns(present, columns, str(table))
    splits: dict[str, str] = {}
    for path in (names.folder / f"{name}.tsv" for name in ("train", "dev", "test")):
        if path.is_file():
            listed = (table_row(row, found).audio for row, _ in _open_table(path, quotes=False)[1])
            splits |= dict.fromkeys((plain_name(str(name)) for name in listed), SPLITS[path.stem])

    def entries() -> Iterator[SourceRow]:
        for row, problem in rows:
            entry = table_row(row, found, problem)
            name = str(entry.audio)
            entry.id, entry.split = entry.id or name, splits.get(plain_name(name), "validated")
            entry.audio = f"clips/{name}" if name else ""
            yield entry

    return ListSource(entries(), names, describe)


def read_kaldi(names: Names, describe: str) -> ListSource:
    """A Kaldi data folder: ``wav.scp`` and ``text``; ``utt2spk``, ``utt2lang`` and ``segments`` where they are there.

    A segment ends where its recording does if its end is -1; a fifth column is the channel, counted from 0. An entry of
    ``wav.scp`` that is a command (it ends in ``|``) is never run: its rows are dropped as unreadable.
    """

    def pairs(name: str) -> list[tuple[str, str]]:
        """``key rest of the line`` of a file; empty if it does not exist."""
        path = names.folder / name
        lines = _lines(path) if path.is_file() else ()
        parts = (re.split(r"[ \t]+", line.strip(), maxsplit=1) for _, line in lines)
        return [(part[0], part[1] if len(part) > 1 else "") for part in parts]

    def entries() -> Iterator[SourceRow]:
        listed = pairs("wav.scp")
        recordings = {plain_name(key): file for key, file in listed}
        facts = [{plain_name(k): v for k, v in pairs(name)} for name in ("text", "utt2spk", "utt2lang")]
        segmented = (names.folder / "segments").is_file()
        for id, rest in pairs("segments") if segmented else listed:
            file, cut, problem = rest, None, None
            if segmented:
                file, *cells = rest.split() or [""]
                file = recordings.get(plain_name(file), "")
                columns = ("start", "end", "channel")
                cut, problem = read_cut(dict(zip(columns, cells, strict=False)), {n: n for n in columns})
                if not 2 <= len(cells) <= 3:
                    problem = ("bad_span", f"segments: {rest}")
            if file.endswith("|"):
                file, problem = "", ("unreadable", "wav.scp holds a command; write its output to a file")
            text, speaker, language = (fact.get(plain_name(id), "") for fact in facts)
            yield SourceRow(id, file, text, speaker, language, cut=cut, problem=problem)

    return ListSource(entries(), names, describe)


# ---- trees of files


def read_vctk(names: Names, describe: str) -> ListSource:
    """VCTK: ``txt/p225/p225_001.txt`` and ``wav48_silence_trimmed/p225/p225_001_mic1.flac`` (or ``wav48``).

    Of two microphones the first is taken.
    """
    folder = names.folder
    places = [folder / name for name in ("wav48_silence_trimmed", "wav48") if (folder / name).is_dir()]
    if not places:
        raise ValueError(
            f"{folder}: expected a folder wav48_silence_trimmed or wav48; choose another --layout"
        )

    def entries() -> Iterator[SourceRow]:
        for path, within in _sounds(places[0]):
            id, speaker = path.stem.removesuffix("_mic1"), path.parent.name
            text, problem = read_text(names.stored(folder / "txt" / speaker / f"{id}.txt"))
            if not id.endswith("_mic2"):
                yield SourceRow(id, f"{places[0].name}/{within.as_posix()}", text, speaker, problem=problem)

    return ListSource(entries(), names, describe)


def read_libri(names: Names, describe: str) -> ListSource:
    """LibriSpeech and LibriTTS: ``SUBSET/SPEAKER/CHAPTER/ID.flac`` with ``*.trans.txt`` or ``ID.normalized.txt``.

    Subsets whose name begins with dev, test or train give the splits validation, test and train.
    """

    def entries() -> Iterator[SourceRow]:
        chapter, transcripts = None, dict[str, str]()
        for path, within in _sounds(names.folder):
            if path.parent != chapter:
                chapter = path.parent
                tables = [read_text(table)[0] for table in sorted(chapter.glob("*.trans.txt"))]
                lines = (line.partition(" ") for table in tables for line in table.splitlines())
                transcripts = {plain_name(id): text for id, _, text in lines}
            subset = within.parts[-4] if len(within.parts) > 3 else names.folder.name
            text, problem = transcripts.get(plain_name(path.stem)), None
            if text is None:
                text, problem = read_text(names.stored(path.with_name(f"{path.stem}.normalized.txt")))
            row = SourceRow(path.stem, within.as_posix(), text, other={"subset": subset}, problem=problem)
            row.speaker = within.parts[-3] if len(within.parts) > 2 else ""
            row.split = SPLITS.get(subset.split("-")[0], "train")
            yield row

    return ListSource(entries(), names, describe)


def read_folder(names: Names, describe: str) -> ListSource:
    """Sound files with a text file beside each: ``anna/0001.wav`` and ``anna/0001.txt`` (or ``.lab``).

    The first folder of a path is the speaker, after an optional folder of a split (``test/anna/0001.wav``).
    """

    def entries() -> Iterator[SourceRow]:
        for path, within in _sounds(names.folder):
            beside = (names.stored(path.with_suffix(ending)) for ending in (".txt", ".lab", ".TXT", ".LAB"))
            text, problem = read_text(next((found for found in beside if found is not None), None))
            folders = list(within.parts[:-1])
            split = SPLITS.get(folders[0].lower(), "") if folders else ""
            speaker = next(iter(folders[1:] if split else folders), names.folder.name)
            file = within.as_posix()
            yield SourceRow(file, file, text, speaker, "", split, problem=problem)

    return ListSource(entries(), names, describe)


def _sounds(folder: Path) -> list[tuple[Path, PurePath]]:
    """The sound files below a folder, in order, and their paths in it."""
    found = sorted(path for path in all_below(folder) if path.suffix.lower() in SUFFIXES)
    return [(path, path.relative_to(folder)) for path in found]


# ---- tars


def read_tars(tars: Iterable[Path], names: Names, columns: Mapping[str, str], describe: str) -> ListSource:
    """WebDataset: files with the same key in a tar form a row, a sound with a ``.txt`` or ``.json`` file.

    A key ends at the first dot of the name, or at the last if a sound and a text share that much. Nothing is unpacked:
    a row holds the offset of its sound. Of a tar that is cut off or damaged, the rows in front of the damage are kept,
    and one dropped row stands for the rest. The splits are those that the paths of the tars name. ValueError if a tar
    is compressed or no tar.
    """

    def entries() -> Iterator[SourceRow]:
        for tar in tars:
            if tar.suffix != ".tar":
                raise ValueError(
                    f"{tar}: expected a plain tar, got a compressed one, of which no row can be read without all "
                    f"in front of it; decompress it first, as with gunzip {tar.name}"
                )
            yield from _tar_rows(tar, tar.relative_to(names.folder).as_posix(), columns)

    return ListSource(entries(), names, describe)


def _tar_rows(path: Path, file: str, columns: Mapping[str, str]) -> Iterator[SourceRow]:
    size, count, ends = path.stat().st_size, 0, 0
    sounds: dict[str, tuple[int, int]] = {}  # name without its suffix -> offset, size
    texts: dict[str, dict[str, bytes]] = {}  # name without its suffix -> suffix -> content
    if size:
        try:
            with tarfile.open(path, "r:") as tar:
                for member in _members(tar):
                    count += 1
                    name, suffix = os.path.splitext(plain_name(member.name))
                    suffix = suffix.lower()
                    if suffix in SUFFIXES:
                        sounds.setdefault(name, (member.offset_data, member.size))
                    elif suffix in (".txt", ".lab", ".json") and member.size <= _TEXT_BYTES:
                        content = b"\xff"  # of a text that is cut off: damaged in any encoding
                        with suppress(tarfile.ReadError):
                            content = getattr(tar.extractfile(member), "read", bytes)()
                        texts.setdefault(name, {})[suffix] = content
                ends = tar.offset
        except tarfile.TarError as error:
            raise ValueError(f"{path}: expected a plain tar file, got something else ({error})") from None
    groups: dict[str, list[str]] = {}  # key -> names
    for name in dict.fromkeys([*sounds, *texts]):
        folder, slash, base = name.rpartition("/")
        short = folder + slash + base.split(".")[0]
        is_key = (name in sounds and name in texts) or not (short in sounds or short in texts)
        groups.setdefault(name if is_key else short, []).append(name)
    for key, names in groups.items():
        found = [key] if key in sounds else [name for name in names if name in sounds] or [key]
        for name in found:
            id = key if len(found) == 1 else name
            entry = SourceRow(f"{file.removesuffix('.tar')}/{id}", "", split=split_of(file))
            _describe(entry, texts.get(name) or texts.get(key) or {}, columns)
            if name in sounds:
                entry.audio = FilePart(file, *sounds[name])
                if sum(sounds[name]) > size:
                    entry.problem = ("unreadable", f"{path.name} is cut off in the middle of it")
            yield entry
    with path.open("rb") as stream:
        stream.seek(ends)
        if stream.read(512) != b"\0" * 512:  # a tar ends in blocks of zeros
            detail = f"{path.name} is cut off or damaged after {count} files; copy it again for the rows behind them"
            yield SourceRow(f"{file.removesuffix('.tar')}/...", "", problem=("unreadable", detail))


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """The files of a tar, up to where it is cut off. tarfile.ReadError if it is no tar."""
    try:
        while member := tar.next():
            if member.isfile():
                yield member
    except tarfile.ReadError:
        if not tar.offset:
            raise


def _describe(entry: SourceRow, texts: Mapping[str, bytes], columns: Mapping[str, str]) -> None:
    """Add the text or JSON of a sound to its row."""
    for suffix, content in texts.items():
        try:
            text = content.decode("utf-8-sig")
            values: Any = parse_json(text) if suffix == ".json" else text
        except ValueError:
            entry.problem = ("no_text", f"the {suffix} file is damaged")
            continue
        if isinstance(values, str):
            entry.text = values
        elif isinstance(values, dict):
            asked = {name: key for name, key in columns.items() if not key or key in values}
            names = find_columns([*values, "audio"], asked, entry.id)
            for name in ("text", "speaker", "language", "split"):
                if (key := names[name]) and values.get(key) is not None:
                    setattr(entry, name, str(values[key]))
            entry.other = {key: value for key, value in values.items() if key not in names.values()}
            entry.cut, fault = read_cut(values, names)
            entry.problem = entry.problem or fault
