"""Readers of corpus layouts: tables, LJSpeech, Common Voice, Kaldi, VCTK, LibriSpeech, plain folders, tars."""

from __future__ import annotations

import csv
import os
import re
import tarfile
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ..files import parse_json
from .rows import ALIASES, FilePart, ListSource, Names, Problem, SourceRow, find_columns, plain_name, read_cut

METADATA = ("metadata.csv", "metadata.tsv", "metadata.jsonl", "metadata.parquet")
TABLES = (".csv", ".tsv", ".jsonl", ".json")
# Sound by its suffix. A file that cannot be decoded is a row too, dropped as unreadable.
SUFFIXES = frozenset(
    ".aif .aifc .aiff .au .caf .flac .mp3 .nist .oga .ogg .opus .rf64 .snd .sph .voc .w64 .wav .wave "
    ".aac .amr .m4a .wma".split()
)
_SPLITS: dict[str, str] = dict.fromkeys(("train", "training"), "train")
_SPLITS |= dict.fromkeys(("dev", "val", "valid", "validation"), "validation")
_SPLITS |= dict.fromkeys(("test", "testing", "eval", "evaluation"), "test")
_TEXTS = (".txt", ".lab", ".TXT", ".LAB")
_TEXT_BYTES = 1 << 20
_LONGEST_LINE = 1 << 17
_MOST_LINES = 100  # of one row of a CSV file whose text goes over several lines
_LANGUAGE = re.compile(r"[A-Za-z]{2,3}([-_][A-Za-z]{2,4})?")
_Row = tuple[dict[str, Any], Problem]


def split_of(path: str) -> str:
    """The split that a path names, by the words that ``datasets`` looks for: ``data/dev-00.tar`` is validation."""
    return next((_SPLITS[word] for word in re.split(r"[-._ 0-9/]+", path.lower()) if word in _SPLITS), "")


# ---- tables


def read_tables(
    tables: Sequence[Path], names: Names, columns: Mapping[str, str], describe: str, splits: bool = False
) -> ListSource:
    """Rows of tables; the files that a table names are relative to the table's folder.

    Args:
        tables: files in ``names.folder`` or below: .csv or .tsv with a header, JSON lines (.jsonl, .json), .parquet,
            or a table without a header whose cells are separated by ``|``, as in LJSpeech.
        names: finds the files.
        columns: field -> column, where the usual names do not find it.
        describe: the name of the source.
        splits: whether the rows of ``test/metadata.csv`` are of the split test where they name none.

    Raises:
        ValueError: a file is no such table, has no rows, or lacks the column of the files.
    """

    def entries() -> Iterator[SourceRow]:
        for table in tables:
            within = os.path.relpath(table.resolve(), names.folder) if splits else table.name
            folder = os.path.dirname(within)
            read = _piped if is_piped(table) else _tabled
            for entry in read(table, columns, Names(names.folder / folder, names.root)):
                entry.audio = f"{folder}/{entry.audio}" if folder and entry.audio else entry.audio
                entry.split = entry.split or split_of(folder)
                yield entry

    return ListSource(entries(), names, describe)


def is_piped(table: Path) -> bool:
    """Whether a table is one without a header, its cells separated by ``|``."""
    if table.suffix.lower() != ".csv":
        return False
    with table.open(encoding="utf-8-sig", errors="replace") as file:
        first = file.readline().rstrip("\r\n").split("|")
    usual = {name for field in ("audio", "text") for name in ALIASES[field]}
    return len(first) > 1 and not usual & {cell.strip() for cell in first}


def _tabled(path: Path, columns: Mapping[str, str], names: Names) -> Iterator[SourceRow]:
    present = (
        list(dict.fromkeys(key for row, _ in _rows(path) for key in row)) if _is_json(path) else _header(path)
    )
    if not present:
        raise ValueError(f"{path}: expected at least one row of metadata, got none")
    found = find_columns(present, columns, str(path))
    entry = None
    for row, problem in _rows(path):
        entry = _entry(row, found, problem)
        yield entry
    if entry is None:
        raise ValueError(f"{path}: expected at least one row, got none")


def _entry(row: Mapping[str, Any], names: Mapping[str, str | None], problem: Problem) -> SourceRow:
    def value(name: str) -> str:
        found = row.get(names[name] or "")
        if isinstance(found, dict):  # {"path": ...}, as datasets writes a sound
            found = found.get("path")
        return "" if found is None else str(found).strip()

    used = set(names.values())
    other = {key: found for key, found in row.items() if key not in used}
    cut, fault = read_cut(row, names)
    texts = (value(name) for name in ("id", "audio", "text", "speaker", "language", "split"))
    return SourceRow(*texts, cut=cut, other=other, problem=problem or fault)


def _is_json(path: Path) -> bool:
    return path.suffix.lower() in (".jsonl", ".json")


def _header(path: Path) -> list[str]:
    """The names of the columns.

    Raises:
        ValueError: they are not UTF-8, or two have the same name.
    """
    if path.suffix.lower() == ".parquet":
        return list(pq.read_schema(path).names)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        line = file.readline()
    if not line.strip():
        return []
    if any(c == "\0" or "\ud800" <= c <= "\udfff" for c in line):
        raise ValueError(f"{path}: expected a table in UTF-8, got something else; convert it to UTF-8")
    try:
        names = [name.strip() for name in _cells([line], _delimiter(path, line))]
    except csv.Error as error:
        raise ValueError(f"{path}: line 1: {error}; repair the names of the columns") from None
    if twice := sorted({name for name in names if name and names.count(name) > 1}):
        raise ValueError(
            f"{path}: line 1: two columns are called {' and '.join(map(repr, twice))}; rename one"
        )
    return names


def _rows(path: Path, quotes: bool = True) -> Iterator[_Row]:
    """Rows of a table as column -> value; a row that cannot be read has a problem and does not affect others."""
    if path.suffix.lower() == ".parquet":
        for batch in pq.ParquetFile(path).iter_batches():
            yield from ((row, None) for row in batch.to_pylist())
    elif _is_json(path):
        yield from _json_rows(path)
    else:
        yield from _csv_rows(path, quotes)


def _json_rows(path: Path) -> Iterator[_Row]:
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


def _csv_rows(path: Path, quotes: bool) -> Iterator[_Row]:
    """Rows of a table with a header. Reading continues on the line after an unbalanced quote."""
    header = _header(path)
    audio = next((header.index(name) for name in ALIASES["audio"] if name in header), 0)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        delimiter = _delimiter(path, file.readline())
        number, ahead = 2, deque[str]()

        def line(at: int) -> str:
            while len(ahead) <= at and (text := file.readline()):
                ahead.append(text)
            return ahead[at] if at < len(ahead) else ""

        while first := line(0):
            if not first.strip():
                ahead.popleft()
                number += 1
                continue
            plain = first.rstrip("\r\n").split(delimiter)
            suffix = _suffix(plain, audio)

            def starts_a_row(text: str, suffix: str = suffix) -> bool:
                cells = text.rstrip("\r\n").split(delimiter)
                return len(cells) == len(header) and _suffix(cells, audio) == suffix

            taken, cells, fault = 1, plain, ""
            if "\0" in first or len(first) > _LONGEST_LINE:
                fault = "a NUL character" if "\0" in first else f"a line of {len(first)} characters"
            elif quotes:
                while True:
                    try:
                        cells = _cells([line(at) for at in range(taken)], delimiter)
                        break
                    except csv.Error as error:
                        more = line(taken)
                        if (
                            "end of data" in str(error)
                            and more
                            and taken < _MOST_LINES
                            and not starts_a_row(more)
                        ):
                            taken += 1
                            continue
                        fault = "a quote that does not end" if "end of data" in str(error) else str(error)
                        taken = 1
                        break
            if not fault and any(cell.strip() for cell in cells[len(header) :]):
                fault = f"expected {len(header)} cells, got {len(cells)}"
            row = dict(zip(header, (cell[:200] for cell in plain) if fault else cells, strict=False))
            yield row, ("bad_row", f"line {number}: {fault}") if fault else None
            for _ in range(taken):
                ahead.popleft()
            number += taken


def _cells(lines: list[str], delimiter: str) -> list[str]:
    """The cells of one row of a CSV file, given the lines that it spans; csv.Error if it is not one row."""
    rows = list(csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True))
    if len(rows) != 1:
        raise csv.Error("more than one row")
    return rows[0]


def _suffix(cells: list[str], at: int) -> str:
    suffix = os.path.splitext(cells[at].strip().strip('"'))[1].lower() if at < len(cells) else ""
    return suffix if suffix in SUFFIXES else ""


def _delimiter(path: Path, header: str) -> str:
    if path.suffix.lower() == ".tsv":
        return "\t"
    return next((mark for mark in ",;|\t" if mark in header), ",")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their numbers. Bytes that are not UTF-8 stay as escapes, for their row alone."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        yield from ((number, line.rstrip("\r\n")) for number, line in enumerate(file, 1) if line.strip())


def _piped(table: Path, columns: Mapping[str, str], names: Names) -> Iterator[SourceRow]:
    """Rows of a table as in LJSpeech, without header and quotes. The first cell names the sound."""
    rows = [(number, line.split("|")) for number, line in _lines(table)]
    width = Counter(len(cells) for _, cells in rows).most_common(1)[0][0]
    whole = [[cell.strip() for cell in cells] for _, cells in rows if len(cells) == width]
    speaker, language, text = _piped_columns(table, whole, width)
    for number, cells in rows:
        name, *cells = (cell.strip() for cell in cells)
        count = len(cells) + 1
        fault = f"line {number}: expected {width} cells, got {count}" if count > width else ""
        cells += [""] * (width - count)
        yield SourceRow(
            "" if _suffix([name], 0) else name,
            _piped_file(name, names),
            next((cells[at - 1] for at in text if cells[at - 1]), ""),
            cells[speaker - 1] if speaker else names.folder.name,
            cells[language - 1] if language else "",
            problem=("bad_row", fault) if fault else None,
        )


def _piped_columns(table: Path, rows: list[list[str]], width: int) -> tuple[int, int, tuple[int, ...]]:
    """The columns of speaker and language (0: none), and those of the text, best first.

    ``id|text``, ``id|as written|normalised``, ``id|speaker|text``, ``id|text|speaker`` and ``id|speaker|language|text``
    are distinguished by their contents: two texts are similar, and a speaker is one word that is repeated.
    """

    def is_label(at: int) -> bool:
        cells = [row[at] for row in rows]
        return all(cell and not re.search(r"\s", cell) for cell in cells) and (
            len(set(cells)) < len(cells) or len(cells) == 1
        )

    if width == 2:
        return 0, 0, (1,)
    if width == 3:
        alike = [
            SequenceMatcher(None, row[1], row[2], False).ratio() for row in rows[:200] if row[1] and row[2]
        ]
        if not alike or sum(alike) > 0.5 * len(alike):
            return 0, 0, (2, 1)
        if is_label(1) or is_label(2):
            return (1, 0, (2,)) if is_label(1) else (2, 0, (1,))
        if any(re.search(r"\s", row[1]) for row in rows):  # two texts, such as numbers spelled out
            return 0, 0, (2, 1)
        return 1, 0, (2,)
    if width == 4 and is_label(1) and all(_LANGUAGE.fullmatch(row[2]) for row in rows):
        return 1, 2, (3,)
    raise ValueError(
        f"{table}: expected id|text, id|text|normalised, id|speaker|text or id|speaker|language|text in each line, got "
        f"{width} cells; give the table a header such as file_name|transcription|speaker_id"
    )


def _piped_file(name: str, names: Names) -> str:
    if _suffix([name], 0):
        tried = [name, f"wavs/{name}", f"wav/{name}"]
    else:
        endings = (".wav", ".flac", ".mp3", ".ogg", ".opus")
        tried = [f"{folder}{name}{ending}" for folder in ("wavs/", "wav/", "") for ending in endings]
    return next((file for file in tried if names.has(file)), tried[0])


def read_common_voice(names: Names, columns: Mapping[str, str], describe: str) -> ListSource:
    """Common Voice: ``validated.tsv`` and ``clips/``; a row's split is the table among train, dev, test that has it.

    Rows that were validated but are in none of these get the split ``validated``.

    Raises:
        FileNotFoundError: there is no ``validated.tsv``.
        ValueError: a table is damaged or empty.
    """
    table = names.folder / "validated.tsv"
    found = find_columns(_header(table), columns, str(table))
    audio = found["audio"] or ""
    splits: dict[str, str] = {}
    for name in ("train", "dev", "test"):
        if (names.folder / f"{name}.tsv").is_file():
            rows = _rows(names.folder / f"{name}.tsv", quotes=False)
            splits |= {plain_name(row[audio]): _SPLITS[name] for row, _ in rows if row.get(audio)}

    def entries() -> Iterator[SourceRow]:
        for row, problem in _rows(table, quotes=False):
            entry = _entry(row, found, problem)
            name = str(entry.audio)
            entry.id, entry.split = entry.id or name, splits.get(plain_name(name), "validated")
            entry.audio = f"clips/{name}" if name else ""
            yield entry

    return ListSource(entries(), names, describe)


def read_kaldi(names: Names, describe: str) -> ListSource:
    """A Kaldi data folder: ``wav.scp`` and ``text``; ``utt2spk``, ``utt2lang`` and ``segments`` where they are there.

    A segment ends where its recording does if its end is -1; a fifth column is the channel, counted from 0. An entry of
    ``wav.scp`` that is a command (it ends in ``|``) is never run: its rows are dropped as unreadable.

    Raises:
        ValueError: the folder lists nothing.
    """
    folder = names.folder
    listed = list(_pairs(folder / "wav.scp"))
    recordings = {plain_name(key): file for key, file in listed}
    texts, speakers, languages = (
        {plain_name(key): rest for key, rest in _pairs(folder / name)}
        for name in ("text", "utt2spk", "utt2lang")
    )

    def entries() -> Iterator[SourceRow]:
        segmented = (folder / "segments").is_file()
        for id, rest in _pairs(folder / "segments") if segmented else listed:
            file, cut, problem = rest, None, None
            if segmented:
                cells = rest.split()
                file = recordings.get(plain_name(cells[0]), "") if cells else ""
                columns = ("start", "end", "channel")
                cut, problem = read_cut(dict(zip(columns, cells[1:], strict=False)), {n: n for n in columns})
                if not 3 <= len(cells) <= 4:
                    problem = ("bad_span", f"segments: {rest}")
            if file.endswith("|"):
                file, problem = "", ("unreadable", "wav.scp holds a command; write its output to a file")
            key = plain_name(id)
            facts = (texts.get(key, ""), speakers.get(key, ""), languages.get(key, ""))
            yield SourceRow(id, file, *facts, cut=cut, problem=problem)

    return ListSource(entries(), names, describe)


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    """``key rest of the line`` of a Kaldi file; empty if the file does not exist."""
    if path.is_file():
        for _, line in _lines(path):
            key, rest = (*re.split(r"[ \t]+", line.strip(), maxsplit=1), "")[:2]
            yield key, rest


# ---- trees of files


def read_vctk(names: Names, describe: str) -> ListSource:
    """VCTK: ``txt/p225/p225_001.txt`` and ``wav48_silence_trimmed/p225/p225_001_mic1.flac`` (or ``wav48``).

    Of two microphones the first is taken.

    Raises:
        ValueError: the folder has no sound files.
    """
    folder = names.folder
    places = [folder / name for name in ("wav48_silence_trimmed", "wav48") if (folder / name).is_dir()]
    if not places:
        raise ValueError(
            f"{folder}: expected a folder wav48_silence_trimmed or wav48 in it; choose another --layout"
        )

    def entries() -> Iterator[SourceRow]:
        for path in _sounds(places[0]):
            if path.stem.endswith("_mic2"):
                continue
            id = path.stem.removesuffix("_mic1")
            text, problem = _text(names.stored(folder / "txt" / path.parent.name / f"{id}.txt"))
            yield SourceRow(id, _within(path, folder), text, path.parent.name, problem=problem)

    return ListSource(entries(), names, describe)


def read_libri(names: Names, describe: str) -> ListSource:
    """LibriSpeech and LibriTTS: ``SUBSET/SPEAKER/CHAPTER/ID.flac`` with ``*.trans.txt`` or ``ID.normalized.txt``.

    Subsets whose name begins with dev, test or train give the splits validation, test and train.

    Raises:
        ValueError: the folder has no sound files.
    """
    folder = names.folder
    transcripts: dict[Path, dict[str, str]] = {}  # transcripts of the current chapter

    def transcript(path: Path) -> tuple[str, Problem]:
        if path.parent not in transcripts:
            transcripts.clear()
            lines = transcripts[path.parent] = {}
            for table in sorted(path.parent.glob("*.trans.txt")):
                for line in _text(table)[0].splitlines():
                    id, _, text = line.partition(" ")
                    lines[plain_name(id)] = text
        if (key := plain_name(path.stem)) in transcripts[path.parent]:
            return transcripts[path.parent][key], None
        return _text(names.stored(path.with_name(f"{path.stem}.normalized.txt")))

    def entries() -> Iterator[SourceRow]:
        for path in _sounds(folder):
            parts = path.relative_to(folder).parts
            subset = parts[-4] if len(parts) > 3 else folder.name
            text, problem = transcript(path)
            speaker = parts[-3] if len(parts) > 2 else ""
            split = _SPLITS.get(subset.split("-")[0], "train")
            other = {"subset": subset}
            yield SourceRow(
                path.stem, _within(path, folder), text, speaker, "", split, other=other, problem=problem
            )

    return ListSource(entries(), names, describe)


def read_folder(names: Names, describe: str) -> ListSource:
    """Sound files with a text file beside each: ``anna/0001.wav`` and ``anna/0001.txt`` (or ``.lab``).

    The first folder of a path is the speaker, after an optional folder of a split (``test/anna/0001.wav``).

    Raises:
        ValueError: the folder has no sound files.
    """

    def entries() -> Iterator[SourceRow]:
        for path in _sounds(names.folder):
            name = path.relative_to(names.folder)
            found = (names.stored(path.with_suffix(ending)) for ending in _TEXTS)
            text, problem = _text(next((b for b in found if b is not None), None))
            folders = list(name.parts[:-1])
            split = _SPLITS.get(folders[0].lower(), "") if folders else ""
            speaker = next(iter(folders[1:] if split else folders), names.folder.name)
            yield SourceRow(name.as_posix(), name.as_posix(), text, speaker, "", split, problem=problem)

    return ListSource(entries(), names, describe)


def all_below(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Every file and folder below a folder, in no order.

    Links to folders are followed, because corpora are put together by them; one that leads back to a folder on the way
    to it (``above``: their real paths) is not.

    Raises:
        OSError: a folder cannot be read: its files would be missing silently.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            yield Path(entry.path)
            if os.path.isdir(entry.path):  # false of a link that leads to itself
                yield from all_below(Path(entry.path), above | {real})


def _sounds(folder: Path) -> list[Path]:
    return sorted(path for path in all_below(folder) if path.suffix.lower() in SUFFIXES)


def _within(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def _text(path: Path | None) -> tuple[str, Problem]:
    """The content of a text file; a file that is missing has none, one that is not UTF-8 is a problem."""
    try:
        return (path.read_text(encoding="utf-8-sig") if path and path.is_file() else ""), None
    except UnicodeDecodeError:
        return "", ("no_text", f"{path.name if path else ''} is not UTF-8")
    except OSError as error:
        return "", ("no_text", f"{path.name if path else ''}: {error.strerror}")


# ---- tars


@dataclass
class _Sample:
    """The files of one key in a tar: suffix -> (offset, size), and the content of those that are text."""

    sounds: dict[str, tuple[int, int]] = field(default_factory=dict)
    texts: dict[str, bytes] = field(default_factory=dict)


def read_tars(tars: Iterable[Path], names: Names, columns: Mapping[str, str], describe: str) -> ListSource:
    """WebDataset: files with the same key in a tar form a row, a sound with a ``.txt`` or ``.json`` file.

    Nothing is unpacked. The table holds the offset of each sound. Of a tar that is cut off or damaged, the rows in
    front of the damage are kept, and one dropped row stands for the rest.

    Args:
        tars: their paths in ``names.folder`` or below. Their splits are those that their paths name.
        names: finds the tars.
        columns: field -> key of the JSON, where the usual names do not find it.
        describe: the name of the source.

    Raises:
        ValueError: a tar is compressed or no tar, or all are empty.
    """

    def entries() -> Iterator[SourceRow]:
        for tar in tars:
            if tar.suffix != ".tar":
                raise ValueError(
                    f"{tar}: expected a plain tar, got a compressed one, of which no row can be read without all "
                    f"in front of it; decompress it first, as with gunzip {tar.name}"
                )
            yield from _tar_rows(tar, names.folder, columns)

    return ListSource(entries(), names, describe)


def _tar_rows(path: Path, folder: Path, columns: Mapping[str, str]) -> Iterator[SourceRow]:
    file = _within(path, folder)
    samples: dict[str, _Sample] = {}
    size, count, ends = path.stat().st_size, 0, 0
    if size:
        try:
            with tarfile.open(path, "r:") as tar:
                while (member := _next(tar)) is not None:
                    count += 1
                    if member.isfile():
                        _file_of_sample(samples, tar, member)
                ends = tar.offset
        except tarfile.TarError as error:
            raise ValueError(f"{path}: expected a plain tar file, got something else ({error})") from None
    for key, sample in _grouped(samples):
        entry = SourceRow(f"{file.removesuffix('.tar')}/{key}", "", split=split_of(file))
        _describe(entry, sample, columns)
        if sample.sounds:
            offset, length = next(iter(sample.sounds.values()))
            entry.audio = FilePart(file, offset, length)
            if offset + length > size:
                entry.problem = ("unreadable", f"{path.name} is cut off in the middle of it")
        yield entry
    with path.open("rb") as stream:
        stream.seek(ends)
        if stream.read(512) != b"\0" * 512:  # a tar ends in blocks of zeros
            detail = f"{path.name} is cut off or damaged after {count} files; copy it again for the rows behind them"
            yield SourceRow(f"{file.removesuffix('.tar')}/...", "", problem=("unreadable", detail))


def _next(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
    """The next member; None at the end, and where the tar is cut off."""
    try:
        return tar.next()
    except tarfile.ReadError:
        if not tar.offset:  # not even the first member: no tar
            raise
        return None


def _file_of_sample(samples: dict[str, _Sample], tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    """Put a file of a tar with the files of its key: its path up to the first dot of its name."""
    place, _, base = member.name.rpartition("/")
    stem, _, suffix = base.partition(".")
    sample = samples.setdefault(plain_name(f"{place}/{stem}" if place else stem), _Sample())
    kind = os.path.splitext(f"x.{suffix}")[1].lower()
    if kind in SUFFIXES:
        sample.sounds.setdefault(suffix, (member.offset_data, member.size))
    elif kind in (".txt", ".lab", ".json") and member.size <= _TEXT_BYTES:
        try:
            content = tar.extractfile(member)
            sample.texts[suffix] = content.read() if content else b""
        except tarfile.ReadError:
            sample.texts[suffix] = b"\xff"  # cut off; damaged in any encoding


def _grouped(samples: Mapping[str, _Sample]) -> Iterator[tuple[str, _Sample]]:
    """The samples. Where a key has no ``KEY.flac``, the names have dots: ``a.1.flac`` and ``a.2.flac`` are two."""
    for key, sample in samples.items():
        plain = {suffix: place for suffix, place in sample.sounds.items() if "." not in suffix}
        dotted = {suffix.rpartition(".")[0] for suffix in sample.sounds}
        if (
            plain
            or not sample.sounds
            or (len(dotted) == 1 and not any("." in suffix for suffix in sample.texts))
        ):
            yield (
                key,
                _Sample(plain or sample.sounds, {s: t for s, t in sample.texts.items() if "." not in s}),
            )
            continue
        found: dict[str, _Sample] = {}
        for kind in ("sounds", "texts"):
            for suffix, value in getattr(sample, kind).items():
                more, _, last = suffix.rpartition(".")
                whole = found.setdefault(f"{key}.{more}" if more else key, _Sample())
                getattr(whole, kind).setdefault(last, value)
        yield from found.items()


def _describe(entry: SourceRow, sample: _Sample, columns: Mapping[str, str]) -> None:
    """Add the text or JSON of a sound to its row."""
    for suffix, content in sample.texts.items():
        try:
            text = content.decode("utf-8-sig")
            values: Any = parse_json(text) if suffix.lower() == "json" else text
        except ValueError:
            entry.problem = ("no_text", f"the .{suffix} file is damaged")
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
