"""Corpora whose rows are files in folders: VCTK, LibriSpeech, LibriTTS, plain folders, WebDataset tars.

Knows nothing of sound but the suffixes of its files. The law it keeps: rows come sorted by their path (in a tar in its
order), so that the same tree gives the same rows on every file system.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..files import parse_json
from .rows import find_columns, printable
from .table import Entry, TableSource, build_table

# Sound by its suffix. What libsndfile cannot read is among it: such a file is a row too, dropped as unreadable.
SUFFIXES = frozenset(
    ".aif .aifc .aiff .au .caf .flac .mp3 .nist .oga .ogg .opus .rf64 .snd .sph .voc .w64 .wav .wave "
    ".aac .amr .m4a .wma".split()
)
_SPLITS = {"dev": "validation", "test": "test", "train": "train"}
_TEXTS = (".txt", ".lab", ".TXT", ".LAB")
_TEXT_BYTES = 1 << 20


def read_vctk(folder: Path) -> TableSource:
    """VCTK: ``txt/p225/p225_001.txt`` and ``wav48_silence_trimmed/p225/p225_001_mic1.flac`` (or ``wav48``).

    Of two microphones the first is taken.

    Raises:
        ValueError: there is no sound.
    """
    places = [folder / name for name in ("wav48_silence_trimmed", "wav48") if (folder / name).is_dir()]
    if not places:
        raise ValueError(
            f"{folder}: expected a folder wav48_silence_trimmed or wav48 in it; another --layout?"
        )
    sounds = places[0]

    def entries() -> Iterator[Entry]:
        for path in _sounds(sounds):
            if path.stem.endswith("_mic2"):
                continue
            id = path.stem.removesuffix("_mic1")
            text, problem = _text(folder / "txt" / path.parent.name / f"{id}.txt")
            file = path.relative_to(folder).as_posix()
            yield Entry(id, file, text, path.parent.name, "en", problem=problem)

    return build_table(entries(), folder, None, folder.name)


def read_libri(folder: Path) -> TableSource:
    """LibriSpeech and LibriTTS: ``SUBSET/SPEAKER/CHAPTER/ID.flac`` with ``*.trans.txt`` or ``ID.normalized.txt``.

    Subsets whose name begins with dev, test or train give the splits validation, test and train.

    Raises:
        ValueError: there is no sound.
    """
    spoken: dict[Path, dict[str, str]] = {}  # of the chapter that is read now

    def transcript(path: Path) -> tuple[str, tuple[str, str] | None]:
        if path.parent not in spoken:
            spoken.clear()
            lines = spoken[path.parent] = {}
            for table in sorted(path.parent.glob("*.trans.txt")):
                for line in _text(table)[0].splitlines():
                    id, _, said = line.partition(" ")
                    lines[id] = said
        if path.stem in spoken[path.parent]:
            return spoken[path.parent][path.stem], None
        return _text(path.with_name(f"{path.stem}.normalized.txt"))

    def entries() -> Iterator[Entry]:
        for path in _sounds(folder):
            parts = path.relative_to(folder).parts
            subset = parts[-4] if len(parts) > 3 else printable(folder.name)
            split = _SPLITS.get(subset.split("-")[0], "train")
            text, problem = transcript(path)
            file = path.relative_to(folder).as_posix()
            speaker = parts[-3] if len(parts) > 2 else ""
            yield Entry(
                path.stem, file, text, speaker, "en", split, other={"subset": subset}, problem=problem
            )

    return build_table(entries(), folder, None, folder.name)


def read_folder(folder: Path) -> TableSource:
    """Sound files with a text file beside each: ``anna/0001.wav`` and ``anna/0001.txt`` (or ``.lab``).

    The first folder on the way to a file is its speaker.

    Raises:
        ValueError: there is no sound.
    """

    def entries() -> Iterator[Entry]:
        for path in _sounds(folder):
            name = path.relative_to(folder)
            beside = next((b for s in _TEXTS if (b := path.with_suffix(s)).is_file()), None)
            text, problem = _text(beside) if beside else ("", None)
            speaker = name.parts[0] if len(name.parts) > 1 else printable(folder.resolve().name)
            yield Entry(name.as_posix(), name.as_posix(), text, speaker, problem=problem)

    return build_table(entries(), folder, None, folder.name)


def read_tars(folder: Path, tars: list[Path], columns: Mapping[str, str]) -> TableSource:
    """WebDataset: files of one name in a tar are a row: a sound, ``.txt`` or ``.json`` beside it.

    Nothing is unpacked: the table remembers where in the tar a sound lies.

    Args:
        folder: where the tars are.
        tars: their paths, plain ones; a compressed tar cannot be read from the middle.
        columns: field -> key of the JSON, where the usual names do not find it.

    Raises:
        ValueError: a tar is compressed or damaged, or holds no sound.
    """

    def entries() -> Iterator[Entry]:
        for tar in tars:
            try:
                yield from _tar_rows(tar, folder, columns)
            except tarfile.TarError as error:
                raise ValueError(f"{tar}: expected a plain tar file ({error}); unpack it first") from None

    return build_table(entries(), folder, None, folder.name)


def has_sound(folder: Path) -> bool:
    """Whether any file below the folder has the suffix of a sound."""
    return any(path.suffix.lower() in SUFFIXES for path in all_below(folder))


def all_below(folder: Path, above: frozenset[str] = frozenset()) -> Iterator[Path]:
    """Every file and folder below a folder, in no order.

    Links to folders are followed, for corpora are put together by them; one that leads back to a folder on the way to
    it (``above``: their real paths) is not.

    Raises:
        OSError: a folder cannot be read: what is in it would be missing without a word.
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


def _text(path: Path) -> tuple[str, tuple[str, str] | None]:
    """What a text file says; a file that is not there says nothing, one that is not UTF-8 is a problem."""
    try:
        return (path.read_text(encoding="utf-8-sig") if path.is_file() else ""), None
    except UnicodeDecodeError:
        return "", ("no_text", f"{path.name} is not UTF-8")
    except OSError as error:
        return "", ("no_text", f"{path.name}: {error.strerror}")


def _tar_rows(path: Path, folder: Path, columns: Mapping[str, str]) -> Iterator[Entry]:
    file = path.relative_to(folder).as_posix()
    rows: dict[str, Entry] = {}
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            if not member.isfile():
                continue
            place, _, base = member.name.rpartition("/")
            stem, _, suffix = base.partition(".")
            key = f"{place}/{stem}" if place else stem
            row = rows.setdefault(key, Entry(f"{path.stem}/{key}", ""))
            kind = f".{suffix.lower()}"
            if kind in SUFFIXES:
                row.file, row.offset, row.size = file, member.offset_data, member.size
            elif kind in (".txt", ".lab", ".json") and member.size <= _TEXT_BYTES:
                content = tar.extractfile(member)
                _describe(row, kind, content.read() if content else b"", columns)
    yield from rows.values()


def _describe(row: Entry, kind: str, content: bytes, columns: Mapping[str, str]) -> None:
    """Write into a row what the text or JSON beside its sound says."""
    try:
        text = content.decode("utf-8-sig")
        values: Any = parse_json(text) if kind == ".json" else text
    except ValueError:
        row.problem = ("no_text", f"the {kind} file is damaged")
        return
    if isinstance(values, str):
        row.text = values
    elif isinstance(values, dict):
        names = find_columns([*values, "audio"], {k: v for k, v in columns.items() if v in values}, row.id)
        for field in ("text", "speaker", "language", "split"):
            if (name := names[field]) and values.get(name) is not None:
                setattr(row, field, str(values[name]))
        row.other = {key: value for key, value in values.items() if key not in names.values()}
