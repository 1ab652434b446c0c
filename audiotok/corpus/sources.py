"""Opening a data set: layouts of paths, data sets of ``datasets``, and filters by split and language."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile
from datasets import config
from huggingface_hub import constants

from ..hub import hub_answers, is_hub_id, without_network
from . import layouts
from .rows import (
    ALIASES,
    ListSource,
    Names,
    Problem,
    SourceRow,
    all_below,
    find_columns,
    packed,
    printable,
    split_of,
    table_row,
)

_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
# Layout -> files in the folder itself, one of which shows that it is of this layout; then ends of files anywhere below.
_IN_FOLDER = {
    "metadata": layouts.METADATA,
    "datasets": ("dataset_dict.json", "state.json"),
    "kaldi": ("wav.scp",),
    "common_voice": ("validated.tsv",),
    "vctk": ("wav48_silence_trimmed", "wav48"),
}
_BELOW = {
    "metadata": tuple(f"/{name}" for name in layouts.METADATA),
    "webdataset": _TARS,
    "librispeech": (".trans.txt",),
    "libritts": (".normalized.txt",),
    "parquet": (".parquet",),
    "folder": tuple(layouts.SUFFIXES),
}
LAYOUTS = tuple(dict.fromkeys(["ljspeech", *_IN_FOLDER, *_BELOW]))
_PIECE = 1024
Locate = Callable[[str], tuple[str | None, Problem]]
"""Returns the path of a file that a row names, or why it may not be read."""


def open_source(
    source: str | Path | datasets.Dataset | datasets.DatasetDict,
    *,
    layout: str | None = None,
    split: str | None = None,
    language: str | None = None,
    columns: Mapping[str, str] | None = None,
    audio_root: str | Path | None = None,
) -> ListSource | DatasetSource:
    """Open a data set.

    Args:
        source: a folder in one of :data:`LAYOUTS`, a table (.csv, .tsv, .jsonl), a .parquet or .tar file, a name for
            ``datasets.load_dataset`` (``owner/name`` or ``owner/name:config``), or a data set already open.
        layout: one of :data:`LAYOUTS`; None detects it.
        split: which splits to take, separated by commas; None takes all.
        language: only rows of this language (``en`` takes ``en-GB`` too); rows without a language get this one.
        columns: the column of a field (one of :data:`ALIASES`) where the usual names do not find it; an empty name
            leaves the column of a usual name alone.
        audio_root: the folder that must contain all files; None is that of the source.

    Returns:
        The rows, in the order of the source.

    Raises:
        FileNotFoundError: the path does not exist.
        OSError: a folder in it cannot be read.
        ValueError: it is none of these, lacks a column that was asked for, or has no such split or language.
    """
    if str(source) == "":  # an unset shell variable; as a path it would be the current folder
        raise FileNotFoundError("expected a folder, a file or OWNER/NAME of a data set, got an empty name")
    columns = dict(columns or {})
    if unknown := set(columns) - set(ALIASES):
        raise ValueError(f"expected columns for {', '.join(ALIASES)}, got {', '.join(sorted(unknown))}")
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"expected a layout of {', '.join(LAYOUTS)}, got {layout!r}")
    root = Path(audio_root) if audio_root else None
    if isinstance(source, datasets.Dataset | datasets.DatasetDict):
        opened = DatasetSource(
            source, columns, "a dataset in memory", partial(_find_below, Names(root)) if root else _as_named
        )
    else:
        path = Path(source)
        # The data set has the name of its folder, also where that is "." or "..".
        path = Path(os.path.abspath(path)) if path.name in ("", "..") else path
        if path.exists():
            opened = _open_path(path, layout, columns, root)
        else:
            opened = _open_named(str(source), columns, root)
    _select(opened, split, printable(language or ""))
    opened.describe = printable(opened.describe)
    return opened


def find_layout(folder: Path) -> str:
    """Detect the layout of a folder by its characteristic files. ValueError if no layout was recognised."""
    if (folder / "metadata.csv").is_file() and layouts.is_piped(folder / "metadata.csv"):
        return "ljspeech"
    for layout, marks in _IN_FOLDER.items():
        if any((folder / name).exists() for name in marks):
            return layout
    found = {
        layout
        for path in all_below(folder)
        for layout, ends in _BELOW.items()
        if path.as_posix().lower().endswith(ends)
    }
    for layout in _BELOW:
        if layout in found:
            return layout
    raise ValueError(
        f"{folder}: expected metadata.csv or metadata.jsonl (columns file_name, transcription) beside the audio, "
        f"sound files with .txt beside them, or one of the layouts {', '.join(LAYOUTS)}"
    )


def _open_path(
    path: Path, layout: str | None, columns: Mapping[str, str], root: Path | None
) -> ListSource | DatasetSource:
    name, kind = path.name, path.suffix.lower()
    names = Names(path if path.is_dir() else path.parent, root)

    def opened(load: Callable[..., Any], *args: Any, **options: Any) -> DatasetSource:
        loaded = _load(str(path), load, *args, **options)
        return DatasetSource(loaded, columns, name, partial(_find_below, names))

    if not path.is_dir():
        if kind in layouts.TABLES:
            return layouts.read_tables([path], names, columns, name)
        if kind == ".parquet":
            return opened(datasets.load_dataset, "parquet", data_files=str(path))
        if name.lower().endswith(_TARS):
            return layouts.read_tars([names.folder / name], names, columns, name)
        raise ValueError(f"{path}: expected a folder, or a .csv, .tsv, .jsonl, .tar or .parquet file")
    layout = layout or find_layout(path)
    if layout in ("metadata", "ljspeech"):
        tables = _metadata_files(path)
        with_sound = [table for table in tables if _holds_sound(table, columns)]
        if not with_sound:
            return layouts.read_tables(tables, names, columns, name, splits=True)
        if with_sound != tables:
            raise ValueError(
                f"{path}: expected sound in all tables, {with_sound[0]} has some; name one table"
            )
        files: dict[str, list[str]] = {}
        for table in tables:
            split = split_of(table.relative_to(path).as_posix()) or "train"
            files.setdefault(split, []).append(str(table))
        return opened(datasets.load_dataset, "parquet", data_files=files)
    if layout in ("datasets", "parquet"):
        return opened(datasets.load_from_disk if layout == "datasets" else datasets.load_dataset, str(path))
    if layout == "webdataset":
        tars = sorted(found for found in all_below(names.folder) if found.name.lower().endswith(_TARS))
        return layouts.read_tars(tars, names, columns, name)
    if layout == "common_voice":
        return layouts.read_common_voice(names, columns, name)
    readers = {"vctk": layouts.read_vctk, "kaldi": layouts.read_kaldi, "folder": layouts.read_folder}
    return readers.get(layout, layouts.read_libri)(names, name)


def _metadata_files(folder: Path) -> list[Path]:
    """``metadata.*`` of a folder, else those of its subfolders, such as ``train/metadata.csv``."""
    found = [folder / name for name in layouts.METADATA if (folder / name).is_file()]
    found = found or sorted(path for path in all_below(folder) if path.name in layouts.METADATA)
    if not found:
        raise FileNotFoundError(f"{folder / 'metadata.csv'}: no such file; choose another --layout")
    for one, other in zip(found, found[1:], strict=False):
        if one.parent == other.parent:
            raise ValueError(f"{folder}: expected one table, got {one} and {other}; name the one to read")
    return found


def _holds_sound(table: Path, columns: Mapping[str, str]) -> bool:
    """Whether a table is a Parquet file with bytes or samples in the column of the sound, rather than only paths."""
    if table.suffix.lower() != ".parquet":
        return False
    with pq.ParquetFile(table) as file:
        audio = find_columns(file.schema_arrow.names, columns, str(table))["audio"]
        for batch in file.iter_batches(64, columns=[audio]):
            sounds = batch.column(0)
            if not isinstance(sounds, pa.StructArray):
                return not pa.types.is_string(sounds.type) and not pa.types.is_large_string(sounds.type)
            held = [
                sounds.field(name) for name in ("bytes", "array") if sounds.type.get_field_index(name) >= 0
            ]
            if any(values.null_count < len(values) for values in held):
                return True
    return False


def _select(source: ListSource | DatasetSource, split: str | None, language: str) -> None:
    """Keep the rows of the wanted splits and language; all rows if none is named."""
    if wanted := [name.strip() for name in (split or "").split(",") if name.strip()]:
        have = sorted({row.split for row in source.listing()})
        if missing := [name for name in wanted if name not in have]:
            raise ValueError(
                f"{source.describe}: expected split {' and '.join(missing)}, it has {', '.join(have)}"
            )
        source.select(lambda row: row.split in wanted)
    if language:
        have = sorted({row.language or language for row in source.listing()})
        source.select(lambda row: matches(row.language, language), language)
        if not len(source):
            raise ValueError(
                f"{source.describe}: expected rows of language {language}, it has {', '.join(have)}"
            )


def matches(language: str, wanted: str) -> bool:
    """Whether a row's language is the wanted one: ``en`` takes ``en`` and ``en-GB``."""
    return language.lower().replace("_", "-").split("-")[: wanted.count("-") + 1] == wanted.lower().split("-")


class DatasetSource:
    """Numbered rows over the splits of a data set of ``datasets``, which keeps them memory-mapped.

    Sound is not decoded here (``Audio(decode=False)``), so torchcodec is not needed. ``locate`` finds the files that
    rows name. ValueError if there is no column with audio, or no row.
    """

    def __init__(
        self,
        opened: datasets.Dataset | datasets.DatasetDict,
        columns: Mapping[str, str],
        describe: str,
        locate: Locate,
    ) -> None:
        self.describe = describe
        self._locate = locate
        self._language = ""
        self._parts: list[tuple[str, datasets.Dataset, dict[str, str | None]]] = []
        single = not isinstance(opened, datasets.DatasetDict)
        for split, data in ({str(opened.split or "train"): opened} if single else opened).items():
            names = find_columns(list(data.features), columns, describe)
            self._parts.append((str(split), _undecoded(data, names, describe), names))
        # Part and row within it of every row: [rows, 2].
        sizes = [len(data) for _, data, _ in self._parts]
        self._rows = np.stack(
            [np.repeat(range(len(sizes)), sizes), np.concatenate(list(map(np.arange, sizes)))], 1
        )
        if not len(self._rows):
            raise ValueError(f"{describe}: expected at least one row, got none")

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[SourceRow]:
        return (row for index in range(len(self)) for row in self.take([index]))

    def listing(self) -> Iterator[SourceRow]:
        """All rows in order, without their sound."""
        index = 0
        for part, (_, data, names) in enumerate(self._parts):
            rest = [name for name in data.column_names if name != names["audio"]]
            ats = self._rows[self._rows[:, 0] == part, 1]
            for piece in np.split(ats, range(_PIECE, len(ats), _PIECE)):
                values = data.select_columns(rest).select(piece)[:] if rest else {}
                for place, at in enumerate(piece):
                    row = {name: column[place] for name, column in values.items()}
                    yield self._row(index, part, int(at), row)
                    index += 1

    def take(self, indices: Sequence[int]) -> list[SourceRow]:
        """The rows with these numbers."""
        places = [(index, *map(int, self._rows[index])) for index in indices]
        return [self._row(int(index), part, at, self._parts[part][1][at]) for index, part, at in places]

    def select(self, keep: Callable[[SourceRow], bool], language: str = "") -> None:
        """Keep some of the rows, renumbered; those without a language get ``language`` first."""
        self._language = self._language or language
        self._rows = self._rows[np.array([keep(row) for row in self.listing()], bool)]

    def _row(self, index: int, part: int, at: int, values: Mapping[str, Any]) -> SourceRow:
        split, _, names = self._parts[part]
        row = table_row(values, names)
        row.audio, problem = _sound_of(values.get(names["audio"] or ""), self._locate)
        row.problem = problem or row.problem
        row.id = row.id or f"{split}/{at:08d}"  # paths inside a data set need not be unique, numbers are
        row.text = " ".join(row.text.split())
        row.language, row.split, row.index = row.language or self._language, row.split or split, index
        row.other = packed(row.other)
        return row


def _undecoded(data: datasets.Dataset, names: Mapping[str, str | None], describe: str) -> datasets.Dataset:
    """A data set with its sound as bytes, paths or samples, and otherwise only columns of plain values."""
    audio = names["audio"] or ""
    feature = data.features[audio]
    if not (isinstance(feature, dict) and {"array", "sampling_rate"} <= set(feature)):
        try:
            data = data.cast_column(audio, datasets.Audio(decode=False))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{describe}: expected sound, bytes or paths in the column {audio}, got {feature} ({error})"
            ) from None
    # Reading a picture or a second sound would cost its decoding.
    plain = {n for n, f in data.features.items() if isinstance(f, datasets.Value) and "binary" not in f.dtype}
    return data.select_columns([name for name in data.column_names if name in plain.union(names.values())])


def _sound_of(held: Any, locate: Locate) -> tuple[bytes | str | None, Problem]:
    """The sound of a row of a data set: bytes, a path, or samples with their rate, which become a wav in memory."""
    held = held or {}
    if held.get("array") is None:
        if held.get("bytes") is not None:
            return held["bytes"], None
        return locate(held["path"]) if held.get("path") else (None, None)
    samples, rate = np.asarray(held["array"]), held.get("sampling_rate")
    samples = samples.T if samples.ndim == 2 and samples.shape[0] < samples.shape[1] else samples
    if samples.dtype.kind not in "fi" or samples.ndim not in (1, 2) or not isinstance(rate, int | float):
        return None, (
            "unreadable",
            f"samples of type {samples.dtype}, {samples.ndim} dimensions, at {rate} Hz",
        )
    if samples.dtype.kind == "i":  # 16-bit samples unless they are too large
        samples = samples / (32768.0 if np.abs(samples).max(initial=0) <= 32768 else 2.0**31)
    wav = io.BytesIO()
    try:
        soundfile.write(wav, samples, round(rate), format="WAV", subtype="FLOAT")
    except (soundfile.LibsndfileError, ValueError, OverflowError) as error:
        return None, ("unreadable", str(error))
    return wav.getvalue(), None


def _as_named(name: str) -> tuple[str | None, Problem]:
    """Paths of a data set made by the caller: any path is allowed."""
    return name, None


def _find_below(names: Names, name: str) -> tuple[str | None, Problem]:
    """Paths relative to the folder of a source, and not outside of its root, as for a table."""
    file, problem = names.find(name)
    return (None if problem else str(names.root / file)), problem


def _in_cache(name: str) -> tuple[str | None, Problem]:
    """Paths of a named data set. Only paths in the caches of ``datasets`` are allowed."""
    path = Path(os.path.abspath(name))
    roots = (config.HF_DATASETS_CACHE, constants.HF_HUB_CACHE, config.DOWNLOADED_DATASETS_PATH)
    if not any(path.is_relative_to(os.path.abspath(root)) for root in roots):
        return None, ("outside_folder", name)
    return str(path), None


def _open_named(name: str, columns: Mapping[str, str], root: Path | None) -> DatasetSource:
    """Open a data set by its name for ``datasets.load_dataset``, ``owner/name`` or ``owner/name:config``."""
    path, _, configuration = name.partition(":")
    is_file = Path(name).suffix.lower() in (*layouts.TABLES, ".parquet", ".tar", ".flac", ".wav")
    if is_file or not is_hub_id(path):
        raise FileNotFoundError(f"{name}: no such folder or file, and no OWNER/NAME of a data set")

    def load() -> Any:
        if hub_answers():
            return datasets.load_dataset(path, configuration or None)
        with without_network():
            try:
                return datasets.load_dataset(path, configuration or None)
            except Exception as error:
                raise ConnectionError(
                    "no such folder, not on this machine, and the hub does not answer"
                ) from error

    return DatasetSource(
        _load(name, load), columns, name, partial(_find_below, Names(root)) if root else _in_cache
    )


def _load(name: str, load: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Run ``load`` without progress bars; an error becomes a ValueError of one line that names the source."""
    datasets.disable_progress_bars()
    try:
        return load(*args, **options)
    except Exception as error:  # loaders raise arbitrary errors of their readers
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{name}: datasets cannot open it: {type(error).__name__}: {reason}") from error
