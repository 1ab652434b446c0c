"""Rows of a corpus before anything is known of their sound, and the compact table that holds them.

Knows nothing of layouts, codecs or shards, and imports nothing heavy: workers get rows and nothing else. The laws it
keeps: a row that names no usable file is still a row (with a problem), so that it can be accounted for; and no name
in a table leads out of the table's folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

FIELDS = ("id", "audio", "text", "speaker", "language", "split")
# The names that a field goes by in public corpora, best first.
ALIASES: dict[str, tuple[str, ...]] = {
    "id": ("id", "utterance_id", "segment_id"),
    "audio": ("audio", "file_name", "audio_filepath", "file", "path", "wav"),
    "text": ("transcription", "text", "sentence", "transcript", "normalized_text"),
    "speaker": ("speaker_id", "speaker", "client_id"),
    "language": ("language", "locale", "lang"),
    "split": ("split",),
}


@dataclass(frozen=True)
class SourceRow:
    """One row of a source.

    Attributes:
        index: its number in the source.
        id, text, speaker, language, split: what the source says; empty where it says nothing.
        audio: the sound's bytes, or the file that holds them; None if there is none.
        problem: a (reason, detail) when the row cannot be used whatever its sound is like.
        span: the seconds (from, to) of the sound that are this row's; None takes all of it.
        fields: the source's other columns, a JSON object as text; empty if there are none.
    """

    index: int
    id: str
    text: str
    speaker: str
    language: str
    split: str
    audio: bytes | Path | None
    problem: tuple[str, str] | None = None
    span: tuple[float, float] | None = None
    fields: str = ""


class Rows(Protocol):
    """Rows by number, whatever holds them."""

    def take(self, indices: Sequence[int]) -> list[SourceRow]:
        """The rows with these numbers, with their sound or the file that holds it."""
        ...


class Source(Protocol):
    """Numbered rows that can be read in any order.

    Attributes:
        describe: what the source is, for reports; the same wherever it lies.
    """

    describe: str

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[SourceRow]: ...

    def take(self, indices: Sequence[int]) -> list[SourceRow]:
        """The rows with these numbers, with their sound or the file that holds it."""
        ...

    def listing(self) -> Iterator[list[tuple[object, ...]]]:
        """What is known of the rows without opening their sound, in pieces; the first value of a row is its id."""
        ...


def find_columns(
    present: Sequence[str], asked: Mapping[str, str], describe: str, needed: str = "audio"
) -> dict[str, str | None]:
    """The column of each field: the one asked for, else the first usual name that is there.

    Args:
        present: the columns that there are.
        asked: field -> column.
        describe: what errors call the source.
        needed: the field that must be found.

    Raises:
        ValueError: a column that was asked for, or that of ``needed``, is not there.
    """
    for field, name in asked.items():
        if name not in present:
            raise ValueError(f"{describe}: expected a column {name!r} for {field}, got {', '.join(present)}")
    names = {
        field: asked.get(field) or next((name for name in usual if name in present), None)
        for field, usual in ALIASES.items()
    }
    if names[needed] is None:
        usual = " or ".join(ALIASES[needed][:2])
        raise ValueError(
            f"{describe}: expected a column {usual}, got {', '.join(present)}; "
            f"name it with --column {needed}=NAME"
        )
    return names


def printable(text: str) -> str:
    """A text that is Unicode: what is none in it (half of a pair, bytes of a file's name) becomes an escape."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def inside(folder: Path, name: str, root: Path) -> tuple[str, tuple[str, str] | None]:
    """Where the file ``name`` of ``folder`` lies, or why it may not be read.

    A name must not lead out of ``root``. Links inside it are followed: its owner put them there.

    Returns:
        The file's path relative to ``root``, and the problem if there is one.
    """
    if not name:
        return "", ("missing_file", "the row names no file")
    relative = "" if "\0" in name else os.path.relpath(os.path.join(folder, name), root)
    if not relative or relative.split(os.sep)[0] == os.pardir:
        return "", ("outside_folder", name.replace("\0", "\\0"))
    return relative, None
