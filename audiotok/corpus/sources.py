"""Where the rows of a corpus come from: audio folders, LJSpeech trees, and whatever ``datasets`` opens.

Knows nothing of codecs and decodes no sound. The law it keeps: rows come in the order of the source, each
with its number, and a row that names no usable file is still a row (with a problem), so that it can be
accounted for.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

FIELDS = ("id", "audio", "text", "speaker", "language", "split")
# The names that a field goes by in public corpora, best first.
ALIASES: dict[str, tuple[str, ...]] = {
    "id": ("id", "utterance_id", "segment_id"),
    "audio": ("audio", "file_name", "file", "path", "wav"),
    "text": ("transcription", "text", "sentence", "transcript", "normalized_text"),
    "speaker": ("speaker_id", "speaker", "client_id"),
    "language": ("language", "locale", "lang"),
    "split": ("split",),
}


@dataclass(frozen=True)
class SourceRow:
    """One row of a source. ``audio`` is the sound's bytes, or the file that holds them; None if there is
    none.

    ``problem`` is a (reason, detail) when the row cannot be used whatever its sound is like.
    """

    index: int
    id: str
    text: str
    speaker: str
    language: str
    split: str
    audio: bytes | Path | None
    problem: tuple[str, str] | None = None


class Source:
    """Numbered rows over a ``datasets.Dataset``, which keeps them memory-mapped and picklable for workers.

    Args:
        dataset: its ``audio`` column (named by ``names``) must hold undecoded sound
            (``Audio(decode=False)``).
        names: for each of :data:`FIELDS`, the dataset's column, or None where there is none.
        split: the split of rows that have no column for it.
        describe: what the source is, for reports.
    """

    def __init__(
        self, dataset: datasets.Dataset, names: Mapping[str, str | None], split: str, describe: str
    ) -> None:
        self.dataset = dataset
        self.names = dict(names)
        self.split = split
        self.describe = describe

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> SourceRow:
        return self._row(index, self.dataset[index])

    def __iter__(self) -> Iterator[SourceRow]:
        return (self[index] for index in range(len(self)))

    def _row(self, index: int, values: Mapping[str, Any]) -> SourceRow:
        def field(name: str) -> str:
            column = self.names[name]
            value = values[column] if column else None
            return "" if value is None else str(value)

        audio_column = self.names["audio"]
        held = (values[audio_column] if audio_column else None) or {}
        path, data = held.get("path"), held.get("bytes")
        problem = values.get("problem") or None
        return SourceRow(
            index=index,
            id=field("id") or f"{index:08d}",
            text=" ".join(field("text").split()),
            speaker=field("speaker"),
            language=field("language"),
            split=field("split") or self.split,
            audio=data if data is not None else Path(path) if path else None,
            problem=(problem["reason"], problem["detail"]) if problem else None,
        )


def open_source(
    source: str | Path | datasets.Dataset | datasets.DatasetDict,
    *,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> Source:
    """Open a corpus.

    Args:
        source: a folder with ``metadata.csv`` or ``metadata.jsonl`` (column ``file_name``), that file itself,
            a folder laid out as LJSpeech, a folder of Parquet, a ``save_to_disk`` folder, a name that
            ``datasets.load_dataset`` knows, or a dataset already open.
        split: which splits to take, separated by commas; None takes all.
        columns: the column of a field (one of :data:`FIELDS`) where the usual names do not find it.

    Returns:
        The rows, in the order of the source.

    Raises:
        FileNotFoundError: the path does not exist.
        ValueError: it is none of these, lacks a column that was asked for, or has no such split.
    """
    columns = dict(columns or {})
    if unknown := set(columns) - set(FIELDS):
        raise ValueError(f"expected columns for {', '.join(FIELDS)}, got {', '.join(sorted(unknown))}")
    wanted = [name.strip() for name in split.split(",") if name.strip()] if split else []
    if isinstance(source, datasets.Dataset | datasets.DatasetDict):
        return _select(_from_datasets(source, columns, "a dataset in memory"), wanted)
    path = Path(source)
    if not path.exists():
        if os.path.isabs(source) or str(source).startswith(".") or str(source).count("/") > 1 or path.suffix:
            raise FileNotFoundError(f"{source}: no such folder or file")
        opened = _quietly(str(source), lambda: datasets.load_dataset(str(source)))
        return _select(_from_datasets(opened, columns, str(source)), wanted)
    if path.is_dir():
        return _select(_open_folder(path, columns), wanted)
    if path.suffix.lower() in (".csv", ".jsonl"):
        return _select(_from_metadata(path, columns), wanted)
    if path.suffix.lower() == ".parquet":
        opened = _quietly(str(path), lambda: datasets.load_dataset("parquet", data_files=str(path)))
        return _select(_from_datasets(opened, columns, path.name), wanted)
    raise ValueError(f"{path}: expected a folder, or a .csv, .jsonl or .parquet file")


def _open_folder(folder: Path, columns: dict[str, str]) -> Source:
    for name in ("metadata.csv", "metadata.jsonl"):
        if (folder / name).is_file():
            return _from_metadata(folder / name, columns)
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        return _from_datasets(
            _quietly(str(folder), lambda: datasets.load_from_disk(str(folder))), columns, folder.name
        )
    if next(folder.rglob("*.parquet"), None) is not None:
        opened = _quietly(str(folder), lambda: datasets.load_dataset(str(folder)))
        return _from_datasets(opened, columns, folder.name)
    raise ValueError(
        f"{folder}: expected metadata.csv or metadata.jsonl (columns file_name, transcription) beside the "
        "audio, an LJSpeech folder, Parquet files, or a datasets folder"
    )


def _from_metadata(path: Path, columns: dict[str, str]) -> Source:
    """Rows of a metadata file; the files it names are taken relative to its folder."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        rows = _lj_rows(text) if _is_lj(path, text) else _table_rows(path, text)
    except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path}: expected UTF-8 metadata, got something else ({error}); repair the file"
        ) from None
    if not rows:
        raise ValueError(f"{path}: expected at least one row of metadata, got none")
    present = list(dict.fromkeys(key for row in rows for key in row if isinstance(key, str)))
    names = _find_columns(present, columns, str(path))
    if names["audio"] is None:
        raise ValueError(
            f"{path}: expected a column file_name, got {', '.join(present)}; name it with --audio-column"
        )
    table: dict[str, list[Any]] = {field: [] for field in (*FIELDS, "problem")}
    for row in rows:
        values = {field: _string(row.get(name)) if name else "" for field, name in names.items()}
        file, problem = _inside(path.parent, values["audio"])
        values["id"] = values["id"] or values["audio"]
        for field in FIELDS:
            table[field].append(values[field])
        table["audio"][-1] = file
        table["problem"].append(problem)
    string = datasets.Value("string")
    features = datasets.Features({field: string for field in FIELDS})
    features["problem"] = {"reason": string, "detail": string}
    # Audio takes paths only by a cast: encoding them one by one asks for torchcodec.
    dataset = datasets.Dataset.from_dict(table, features=features)
    dataset = dataset.cast_column("audio", datasets.Audio(decode=False))
    return Source(dataset, {field: field for field in FIELDS}, "train", path.parent.name)


def _is_lj(path: Path, text: str) -> bool:
    first = text.split("\n", 1)[0]
    return "|" in first and "file_name" not in first and (path.parent / "wavs").is_dir()


def _lj_rows(text: str) -> list[dict[str, Any]]:
    """LJSpeech: ``id|as written|normalised``, no header, no quoting; the sound is ``wavs/ID.wav``."""
    rows = []
    for line in filter(None, text.splitlines()):
        name, written, normalised = (*line.split("|"), "", "")[:3]
        row = {"id": name, "file_name": f"wavs/{name}.wav", "text": normalised or written}
        rows.append(row | {"speaker_id": "LJ", "language": "en"})
    return rows


def _table_rows(path: Path, text: str) -> list[dict[str, Any]]:
    if path.suffix.lower() == ".csv":
        return list(csv.DictReader(text.splitlines(keepends=True)))
    rows = [json.loads(line) for line in text.splitlines() if line.strip()]
    if bad := next((number for number, row in enumerate(rows, 1) if not isinstance(row, dict)), None):
        raise ValueError(f"{path}: expected a JSON object on each line, got something else as object {bad}")
    return rows


def _string(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _inside(folder: Path, name: str) -> tuple[str | None, dict[str, str] | None]:
    """The file ``name`` under ``folder``, or why it may not be read.

    A name must not lead out of the folder. Links inside the folder are followed: its owner put them there.
    """
    if not name:
        return None, {"reason": "missing_file", "detail": "the row names no file"}
    if "\0" in name or os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == os.pardir:
        return None, {"reason": "outside_folder", "detail": name.replace("\0", "\\0")}
    return str(folder / os.path.normpath(name)), None


def _from_datasets(
    opened: datasets.Dataset | datasets.DatasetDict, columns: dict[str, str], describe: str
) -> Source:
    """One dataset of all splits, in which each row knows its split, with the sound left undecoded."""
    parts = (
        dict(opened) if isinstance(opened, datasets.DatasetDict) else {str(opened.split or "train"): opened}
    )
    names: dict[str, str | None] = {}
    tagged = []
    for split, part in parts.items():
        names = _find_columns(part.column_names, columns, describe)
        if names["audio"] is None:
            raise ValueError(
                f"{describe}: expected a column with audio, got {', '.join(part.column_names)}; "
                "name it with --audio-column"
            )
        part = part.cast_column(names["audio"], datasets.Audio(decode=False))
        if names["split"] is None:
            part = part.add_column("split", [split] * len(part))
        if names["id"] is None:  # paths inside a dataset need not be unique, numbers are
            part = part.add_column("id", [f"{split}/{index:08d}" for index in range(len(part))])
        tagged.append(part)
    names |= {field: names[field] or field for field in ("split", "id")}
    if not tagged or not sum(map(len, tagged)):
        raise ValueError(f"{describe}: expected at least one row, got none")
    merged = tagged[0] if len(tagged) == 1 else datasets.concatenate_datasets(tagged)
    used = [name for name in names.values() if name]
    return Source(merged.select_columns(used), names, "train", describe)


def _find_columns(present: list[str], asked: dict[str, str], describe: str) -> dict[str, str | None]:
    """The column of each field: the one asked for, else the first usual name that is there."""
    for field, name in asked.items():
        if name not in present:
            raise ValueError(f"{describe}: expected a column {name!r} for {field}, got {', '.join(present)}")
    return {
        field: asked.get(field) or next((name for name in usual if name in present), None)
        for field, usual in ALIASES.items()
    }


def _select(source: Source, wanted: list[str]) -> Source:
    """The rows of the wanted splits; all rows if none is named."""
    if not wanted:
        return source
    column = source.names["split"]
    splits = [value or source.split for value in source.dataset[column]] if column else []
    if missing := [name for name in wanted if name not in splits]:
        have = ", ".join(sorted(set(splits))) or source.split
        raise ValueError(f"{source.describe}: expected split {' and '.join(missing)}, it has {have}")
    chosen = [index for index, value in enumerate(splits) if value in wanted]
    return Source(source.dataset.select(chosen), source.names, source.split, source.describe)


def _quietly(name: str, load: Callable[[], Any]) -> Any:
    """Run ``load`` without progress bars; its many kinds of error become one line that names the source."""
    datasets.disable_progress_bars()
    try:
        return load()
    except Exception as error:  # the loaders raise whatever their readers raise
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{name}: datasets cannot open it: {type(error).__name__}: {reason}") from error
