"""Rows of a data set before their sound is opened, and how they name files and parts of recordings."""

from __future__ import annotations

import json
import math
import os
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

Problem = tuple[str, str] | None
"""The reason and the detail of a row that cannot be used."""

_UNITS = ("", "_s", "_sec", "_seconds", "_ms")
# Usual column names of each field in public corpora, best first.
ALIASES: dict[str, tuple[str, ...]] = {
    "id": ("id", "utterance_id", "segment_id"),
    "audio": ("audio", "file_name", "audio_filepath", "audio_file", "file", "path", "wav"),
    "text": ("transcription", "text", "sentence", "transcript", "normalized_text"),
    "speaker": ("speaker_id", "speaker", "client_id", "speaker_name"),
    "language": ("language", "locale", "lang"),
    "split": ("split",),
    "start": tuple(n + u for n in ("offset", "start", "start_time", "begin_time", "begin") for u in _UNITS),
    "end": tuple(name + unit for name in ("end", "end_time", "stop") for unit in _UNITS),
    "duration": tuple("duration" + unit for unit in _UNITS),
    "channel": ("channel", "channel_id"),
}
SPLITS: dict[str, str] = dict.fromkeys(("train", "training"), "train")
SPLITS |= dict.fromkeys(("dev", "val", "valid", "validation"), "validation")
SPLITS |= dict.fromkeys(("test", "testing", "eval", "evaluation"), "test")
_CHANNELS = {"a": 0, "left": 0, "l": 0, "b": 1, "right": 1, "r": 1}


@dataclass(frozen=True, slots=True)
class FilePart:
    """A range of bytes of a file that is a sound file, such as a member of a tar."""

    path: str
    offset: int
    size: int

    def read(self) -> bytes:
        """The bytes."""
        with open(self.path, "rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@dataclass(frozen=True, slots=True)
class Cut:
    """The part of a recording that belongs to a row."""

    start_s: float = 0.0
    end_s: float | None = None  # None is the end of the recording
    channel: int | None = None  # counted from 0; None averages all channels
    length_s: float | None = None  # of the whole recording by its table, which has to be right


@dataclass(slots=True)
class SourceRow:
    """One row of a source. Texts are empty where the source has none."""

    id: str
    audio: bytes | str | FilePart | None  # bytes or path of the sound file, or a part of a file that holds it
    text: str = ""
    speaker: str = ""
    language: str = ""
    split: str = ""
    cut: Cut | None = None  # None is the whole sound
    problem: Problem = None  # why the row cannot be used, regardless of its sound
    other: str | dict[str, Any] | None = None  # further columns
    index: int = -1  # number in the source


class Source(Protocol):
    """Numbered rows that can be read in any order."""

    describe: str  # the name of the source in reports; it does not depend on the location of the source

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[SourceRow]: ...

    def listing(self) -> Iterator[SourceRow]:
        """All rows in order; the bytes of their sound may be missing."""
        ...

    def take(self, indices: Sequence[int]) -> list[SourceRow]:
        """The rows with these numbers."""
        ...


def find_columns(present: Sequence[str], asked: Mapping[str, str], describe: str) -> dict[str, str | None]:
    """The column of each field: the one ``asked`` for (an empty name is none), else the first usual one ``present``.

    ValueError if a column that was asked for is missing, none holds the audio, or two may say where a row's sound is.
    """
    columns = ", ".join(present)
    found: dict[str, str | None] = {}
    for field, usual in ALIASES.items():
        named = [name for name in usual if name in present]
        if field in asked:
            named = [asked[field]] if asked[field] else []
            if named and named[0] not in present:
                raise ValueError(f"{describe}: expected a column {named[0]!r} for {field}, got {columns}")
        elif len(named) > 1 and field in ("start", "end", "channel"):
            raise ValueError(
                f"{describe}: expected one column for {field}, got {' and '.join(named)}; choose one with --column "
                f"{field}={named[0]}"
            )
        found[field] = next(iter(named), None)
    if found["audio"] is None:
        usual = " or ".join(ALIASES["audio"][:2])
        raise ValueError(
            f"{describe}: expected a column {usual}, got {columns}; name it with --column audio=NAME"
        )
    return found


def read_cut(row: Mapping[str, Any], names: Mapping[str, str | None]) -> tuple[Cut | None, Problem]:
    """The part of a recording that the columns start, end, duration and channel of a row name; None if they name none.

    ``names`` is the column of each field, see :func:`find_columns`. The problem is of a value that makes no sense.
    """
    try:
        start, end, duration, channel = (
            _number(row, names, field) for field in ("start", "end", "duration", "channel")
        )
    except ValueError as error:
        return None, ("bad_span", str(error))
    has_span = bool(names.get("start") or names.get("end"))
    begin = start or 0.0
    if end is None and duration is not None and has_span:
        end = begin + duration
    if not (0 <= begin < math.inf and (end is None or begin < end < math.inf)):
        return None, ("bad_span", f"from {begin:g} s to {'the end' if end is None else f'{end:g} s'}")
    cut = Cut(begin, end, None if channel is None else int(channel), None if has_span else duration)
    return (None if cut == Cut() else cut), None


def _number(row: Mapping[str, Any], names: Mapping[str, str | None], field: str) -> float | None:
    """Seconds, or a channel; None where the row states none. ValueError if it is neither."""
    column = names.get(field) or ""
    value = row.get(column)
    text = "" if value is None else str(value).strip().lower()
    if text == "":
        return None
    try:
        number = float(_CHANNELS.get(text, text) if field == "channel" else text)
    except ValueError:
        number = math.nan
    if number == -1 and field != "start":  # Kaldi's mark for the end of the recording, and for all channels
        return None
    if math.isnan(number) or (field == "channel" and not (number >= 0 and number.is_integer())):
        raise ValueError(
            f"{column}: {value!r} is no {field}; if the column means something else, pass --column {field}="
        )
    return number / 1000 if column.endswith("_ms") else number


def table_row(row: Mapping[str, Any], names: Mapping[str, str | None], problem: Problem = None) -> SourceRow:
    """A row of a table, given its columns."""

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


def split_of(path: str) -> str:
    """The split that a path names, by the words that ``datasets`` looks for: ``data/dev-00.tar`` is validation."""
    return next((SPLITS[word] for word in re.split(r"[-._ 0-9/]+", path.lower()) if word in SPLITS), "")


def printable(text: str) -> str:
    """Escape the parts of a text that are not Unicode (lone surrogates, bytes of file names)."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def plain_name(text: str) -> str:
    """Normalise a name to NFC, because macOS stores ``é`` as two characters."""
    return unicodedata.normalize("NFC", text)


class Names:
    """Finds files by their names relative to ``folder``. Files outside ``root`` (None: ``folder``) are refused.

    Links inside it are followed.
    """

    def __init__(self, folder: Path, root: Path | None = None) -> None:
        self.folder = folder.resolve()
        self.root = (root or folder).resolve()
        self._listed: dict[Path, dict[str, str]] = {}

    def find(self, name: str) -> tuple[str, Problem]:
        """The path of a file, relative to ``root``, or why it may not be read.

        A name is tried as it stands, then with ``/`` for backslashes, then in the Unicode form of the file system.
        """
        if not name:
            return "", ("missing_file", "the row names no file")
        first = ""
        for spelling in dict.fromkeys((name, name.replace("\\", "/"))):
            relative = (
                os.path.relpath(os.path.join(self.folder, spelling), self.root) if "\0" not in name else ".."
            )
            if relative.split(os.sep)[0] == os.pardir or re.match(r"[A-Za-z]:/", spelling):
                return "", ("outside_folder", name.replace("\0", "\\0"))
            first = first or relative
            if (stored := self.stored(self.root / relative)) is not None:
                return os.path.relpath(stored, self.root), None
        return first, None

    def stored(self, path: Path) -> Path | None:
        """The path as the file system spells it; None if there is no such file."""
        if os.path.lexists(path):
            return path
        at = Path(path.anchor)
        for part in path.parts[1:]:
            if not os.path.lexists(at / part):
                if at not in self._listed:
                    try:
                        self._listed[at] = {plain_name(name): name for name in sorted(os.listdir(at))}
                    except OSError:
                        self._listed[at] = {}
                if (part := self._listed[at].get(plain_name(part), "")) == "":
                    return None
            at = at / part
        return at


def all_below(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Every file and folder below a folder, in no order. OSError if a folder cannot be read.

    Links to folders are followed, because corpora are put together by them; one that leads back to a folder on the way
    to it (``above``: their real paths) is not.
    """
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            yield Path(entry.path)
            if os.path.isdir(entry.path):  # false of a link that leads to itself
                yield from all_below(Path(entry.path), above | {real})


def read_text(path: Path | None) -> tuple[str, Problem]:
    """The content of a text file; a file that is missing has none, one that is not UTF-8 is a problem."""
    try:
        return (path.read_text(encoding="utf-8-sig") if path and path.is_file() else ""), None
    except (UnicodeDecodeError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        return "", ("no_text", f"{path.name if path else ''}: {reason}")


class ListSource:
    """Rows in memory, some hundred bytes each. Their sound is in files. ValueError if there are none.

    A layout gives them: ``audio`` is relative to the folder of ``names``, ``other`` a dict.
    """

    def __init__(self, rows: Iterable[SourceRow], names: Names, describe: str) -> None:
        self.describe = describe
        self._rows = [_checked(row, index, names) for index, row in enumerate(rows)]
        if not self._rows:
            raise ValueError(f"{describe}: expected at least one row, got none")

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[SourceRow]:
        return iter(self._rows)

    listing = __iter__

    def take(self, indices: Sequence[int]) -> list[SourceRow]:
        """The rows with these numbers."""
        return [self._rows[index] for index in indices]

    def select(self, keep: Callable[[SourceRow], bool], language: str = "") -> None:
        """Keep some of the rows, renumbered; those without a language get ``language`` first."""
        for row in self._rows:
            row.language = row.language or language
        self._rows = [row for row in self._rows if keep(row)]
        for index, row in enumerate(self._rows):
            row.index = index


def _checked(row: SourceRow, index: int, names: Names) -> SourceRow:
    """A row with the location of its file and Unicode texts, or with its problem."""
    part = row.audio if isinstance(row.audio, FilePart) else None
    name = part.path if part else str(row.audio or "")
    file, problem = names.find(name)
    try:
        row.other = packed(row.other)
    except RecursionError:
        row.other, problem = None, ("bad_row", "JSON with too deep nesting")
    own = file if os.path.isabs(name) else name  # an id does not depend on the location of the corpus
    row.id = row.id or _default_id(own, row.cut) or f"{index:08d}"
    row.text = " ".join(row.text.split())
    row.split, row.index = row.split or "train", index
    wrong = []
    for field in ("id", "text", "speaker", "language", "split", "other"):
        value = getattr(row, field)
        if value is not None and printable(value) != value:
            wrong.append(field)
            setattr(row, field, printable(value))
    if file != printable(file):
        problem = ("bad_name", name)
    elif problem is None and wrong:
        problem = ("bad_row", f"not Unicode: {', '.join(wrong)}")
    path = None if not file or problem else str(names.root / file)
    row.audio = FilePart(path, part.offset, part.size) if path and part else path
    problem = row.problem or problem
    row.problem = problem and (problem[0], printable(problem[1]))
    return row


def packed(other: str | dict[str, Any] | None) -> str | None:
    """The further columns of a row that hold something, as JSON. RecursionError if they are nested too deeply."""
    kept = (
        {key: value for key, value in other.items() if value not in (None, "")}
        if isinstance(other, dict)
        else {}
    )
    return json.dumps(kept, ensure_ascii=False, default=str) if kept else None


def _default_id(name: str, cut: Cut | None) -> str:
    """The file name, with the part of the recording if the row has one, since a recording may have many."""
    if cut is None or not name or cut == Cut(length_s=cut.length_s):
        return name
    part = f"{name}#{round(cut.start_s, 4)}" + ("" if cut.end_s is None else f"-{round(cut.end_s, 4)}")
    return part if cut.channel is None else f"{part}#{cut.channel}"
