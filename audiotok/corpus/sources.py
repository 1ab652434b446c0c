"""From what a user names to rows: which layout a path has.

Knows the layouts by name and nothing of sound. The law it keeps: a corpus is recognised by files that only it has, and
one that is not recognised is refused with the list of those that are.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets

from ..hub import is_hub_id
from .rows import FIELDS, SourceRow as SourceRow, printable
from .hub import DatasetSource, StreamSource, load_named, matches, open_datasets, quietly
from .layouts import TABLES, is_lj, read_common_voice, read_kaldi, read_lj, read_metadata
from .table import TableSource
from .trees import all_below, has_sound, read_folder, read_libri, read_tars, read_vctk

LAYOUTS = (
    "metadata",
    "ljspeech",
    "vctk",
    "librispeech",
    "libritts",
    "common_voice",
    "kaldi",
    "webdataset",
    "parquet",
    "datasets",
    "folder",
)
_Opened = TableSource | DatasetSource


def open_source(
    source: str | Path | datasets.Dataset | datasets.DatasetDict,
    *,
    layout: str | None = None,
    split: str | None = None,
    language: str | None = None,
    columns: Mapping[str, str] | None = None,
    audio_root: str | Path | None = None,
    streaming: bool = False,
) -> TableSource | DatasetSource | StreamSource:
    """Open a corpus.

    Args:
        source: a folder in one of :data:`LAYOUTS`, a table (.csv, .tsv, .jsonl), a .parquet or .tar file, a name that
            ``datasets.load_dataset`` knows (``owner/name`` or ``owner/name:config``), or a data set already open.
        layout: one of :data:`LAYOUTS`; None finds out.
        split: which splits to take, separated by commas; None takes all.
        language: only rows of this language (``en`` takes ``en-GB`` too); rows that name none are taken to be of it.
        columns: the column of a field (one of :data:`FIELDS`) where the usual names do not find it.
        audio_root: the folder that no file of a table may lie outside of; None is the table's own.
        streaming: read a named data set as it arrives, without a copy on disk.

    Returns:
        The rows, in the order of the source.

    Raises:
        FileNotFoundError: the path does not exist.
        OSError: a folder in it cannot be read.
        ValueError: it is none of these, lacks a column that was asked for, or has no such split or language.
    """
    if str(source) == "":  # as the variable of a shell script may be; a path of it would be this folder
        raise FileNotFoundError("expected a folder, a file or OWNER/NAME of a data set, got an empty name")
    language = None if language is None else printable(language)
    opened = _open(source, layout, split, language, dict(columns or {}), audio_root, streaming)
    opened.describe = printable(opened.describe)
    return opened


def _open(
    source: Any, layout: str | None, split: str | None, language: str | None, columns: dict[str, str],
    audio_root: str | Path | None, streaming: bool,
) -> TableSource | DatasetSource | StreamSource:  # fmt: skip
    if unknown := set(columns) - set(FIELDS):
        raise ValueError(f"expected columns for {', '.join(FIELDS)}, got {', '.join(sorted(unknown))}")
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"expected a layout of {', '.join(LAYOUTS)}, got {layout!r}")
    root = Path(audio_root) if audio_root else None
    if isinstance(source, datasets.Dataset | datasets.DatasetDict):
        return _select(open_datasets(source, columns, "a dataset in memory"), split, language)
    path = Path(source)
    if path.name in ("", ".."):  # as of ".": the name that the corpus goes by is that of the folder
        path = Path(os.path.abspath(path))
    if not path.exists():
        is_file = path.suffix.lower() in (*TABLES, ".parquet", ".tar", ".flac", ".wav")
        if is_file or not is_hub_id(str(source).partition(":")[0]):
            raise FileNotFoundError(f"{source}: no such folder or file, and no OWNER/NAME of a data set")
        named = load_named(str(source), streaming, columns, split, language or "")
        return named if isinstance(named, StreamSource) else _select(named, split, language)
    if streaming:
        raise ValueError(
            f"{path}: expected the name of a data set to stream, got a path; leave out --streaming"
        )
    if path.is_dir():
        return _select(_open_folder(path, layout, columns, root), split, language)
    return _select(_open_file(path, columns, root), split, language)


def find_layout(folder: Path) -> str:
    """The layout of a folder, recognised by the files that only it has.

    Raises:
        ValueError: it has none that is known.
    """
    if is_lj(folder):
        return "ljspeech"
    has = {name: (folder / name).exists() for name in ("wav.scp", "validated.tsv", "clips", "txt")}
    if (folder / "metadata.csv").is_file() or (folder / "metadata.jsonl").is_file():
        return "metadata"
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        return "datasets"
    if has["wav.scp"]:
        return "kaldi"
    if has["validated.tsv"] and has["clips"]:
        return "common_voice"
    if has["txt"] and any((folder / name).is_dir() for name in ("wav48_silence_trimmed", "wav48")):
        return "vctk"
    if next(folder.glob("*.tar"), None) is not None:
        return "webdataset"
    for ending, layout in (
        (".trans.txt", "librispeech"),
        (".normalized.txt", "libritts"),
        (".parquet", "parquet"),
    ):
        if any(path.name.endswith(ending) for path in all_below(folder)):
            return layout
    if has_sound(folder):
        return "folder"
    raise ValueError(
        f"{folder}: expected metadata.csv or metadata.jsonl (columns file_name, transcription) beside the audio, "
        f"sound files with .txt beside them, or one of the layouts {', '.join(LAYOUTS)}"
    )


def _open_folder(folder: Path, layout: str | None, columns: Mapping[str, str], root: Path | None) -> _Opened:
    layout = layout or find_layout(folder)
    if layout == "metadata":
        table = next((folder / n for n in ("metadata.csv", "metadata.jsonl") if (folder / n).is_file()), None)
        if table is None:
            raise FileNotFoundError(f"{folder / 'metadata.csv'}: no such file; another --layout?")
        return read_metadata(table, columns, root)
    if layout == "datasets":
        opened = quietly(str(folder), lambda: datasets.load_from_disk(str(folder)))
        return open_datasets(opened, columns, folder.name)
    if layout == "parquet":
        opened = quietly(str(folder), lambda: datasets.load_dataset(str(folder)))
        return open_datasets(opened, columns, folder.name)
    if layout == "kaldi":
        return read_kaldi(folder, root)
    if layout == "webdataset":
        return read_tars(folder, sorted(folder.glob("*.tar")), columns)
    readers = {
        "ljspeech": read_lj,
        "vctk": read_vctk,
        "common_voice": read_common_voice,
        "folder": read_folder,
    }
    return readers.get(layout, read_libri)(folder)


def _open_file(path: Path, columns: Mapping[str, str], root: Path | None) -> _Opened:
    suffix = path.suffix.lower()
    if suffix in TABLES:
        return (
            read_lj(path.parent)
            if path.name == "metadata.csv" and is_lj(path.parent)
            else read_metadata(path, columns, root)
        )
    if suffix == ".tar":
        return read_tars(path.parent, [path], columns)
    if suffix == ".parquet":
        opened = quietly(str(path), lambda: datasets.load_dataset("parquet", data_files=str(path)))
        return open_datasets(opened, columns, path.name)
    raise ValueError(f"{path}: expected a folder, or a .csv, .tsv, .jsonl, .tar or .parquet file")


def _select(source: _Opened, split: str | None, language: str | None) -> _Opened:
    """The rows of the wanted splits and language; all rows if none is named."""
    wanted = [name.strip() for name in split.split(",") if name.strip()] if split else []
    if wanted:
        have = sorted({value or "train" for value in source.values("split")})
        if missing := [name for name in wanted if name not in have]:
            raise ValueError(
                f"{source.describe}: expected split {' and '.join(missing)}, it has {', '.join(have)}"
            )
        source = source.select("split", lambda value: (value or "train") in wanted)
    if language:
        source = source.fill_language(language)
        have = source.values("language")
        source = source.select("language", lambda value: matches(value, language))
        if not len(source):
            raise ValueError(
                f"{source.describe}: expected rows of language {language}, it has {', '.join(have)}"
            )
    return source
