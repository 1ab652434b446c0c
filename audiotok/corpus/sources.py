"""Opening a data set: layouts of paths, data sets of ``datasets``, and filters by split and language."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import soundfile
from datasets import config
from huggingface_hub import constants

from ..hub import hub_answers, is_hub_id, without_network
from .layouts import (
    METADATA,
    SUFFIXES,
    TABLES,
    all_below,
    is_piped,
    read_common_voice,
    read_folder,
    read_kaldi,
    read_libri,
    read_tables,
    read_tars,
    read_vctk,
)
from .rows import FIELDS, ListSource, Names, Problem, SourceRow, find_columns, printable, read_cut

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
_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
_PIECE = 1024
_OFFLINE = "no such folder, not kept on this machine, and the hub does not answer"
Locate = Callable[[str], tuple[str | None, Problem]]


def open_source(
    source: str | Path | datasets.Dataset | datasets.DatasetDict,
    *,
    layout: str | None = None,
    split: str | None = None,
    language: str | None = None,
    columns: Mapping[str, str] | None = None,
    audio_root: str | Path | None = None,
    streaming: bool = False,
) -> ListSource | DatasetSource | StreamSource:
    """Open a data set.

    Args:
        source: a folder in one of :data:`LAYOUTS`, a table (.csv, .tsv, .jsonl), a .parquet or .tar file, a name for
            ``datasets.load_dataset`` (``owner/name`` or ``owner/name:config``), or a data set already open.
        layout: one of :data:`LAYOUTS`; None detects it.
        split: which splits to take, separated by commas; None takes all.
        language: only rows of this language (``en`` takes ``en-GB`` too); rows without a language get this one.
        columns: the column of a field (one of :data:`FIELDS`) where the usual names do not find it; an empty name
            leaves the column of a usual name alone.
        audio_root: the folder that must contain all files; None is that of the source.
        streaming: stream a named data set without a copy on disk.

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
    if unknown := set(columns) - set(FIELDS):
        raise ValueError(f"expected columns for {', '.join(FIELDS)}, got {', '.join(sorted(unknown))}")
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"expected a layout of {', '.join(LAYOUTS)}, got {layout!r}")
    language = None if language is None else printable(language)
    root = Path(audio_root) if audio_root else None
    if isinstance(source, datasets.Dataset | datasets.DatasetDict):
        opened = open_datasets(source, columns, "a dataset in memory", _anywhere(root))
    elif (path := _path_of(source)).exists():
        if streaming:
            raise ValueError(
                f"{path}: expected the name of a data set to stream, got a path; leave out --streaming"
            )
        opened = _open_path(path, layout, columns, root)
    else:
        opened = _open_named(str(source), streaming, columns, split, language or "", root)
    if not isinstance(
        opened, StreamSource
    ):  # a stream is asked for its splits and language when it is opened
        _select(opened, split, language)
    opened.describe = printable(opened.describe)
    return opened


def _path_of(source: Any) -> Path:
    path = Path(source)
    # The data set has the name of its folder, also where that is "." or "..".
    return Path(os.path.abspath(path)) if path.name in ("", "..") else path


def find_layout(folder: Path) -> str:
    """Detect the layout of a folder by its characteristic files.

    Raises:
        ValueError: no layout was recognised.
    """
    if (folder / "metadata.csv").is_file() and is_piped(folder / "metadata.csv"):
        return "ljspeech"
    has = {name: (folder / name).exists() for name in ("wav.scp", "validated.tsv", "clips", "txt")}
    if any((folder / name).is_file() for name in METADATA):
        return "metadata"
    if (folder / "dataset_dict.json").exists() or (folder / "state.json").exists():
        return "datasets"
    if has["wav.scp"]:
        return "kaldi"
    if has["validated.tsv"] and has["clips"]:
        return "common_voice"
    if has["txt"] and any((folder / name).is_dir() for name in ("wav48_silence_trimmed", "wav48")):
        return "vctk"
    endings = {
        "metadata": METADATA,
        "webdataset": _TARS,
        "librispeech": (".trans.txt",),
        "libritts": (".normalized.txt",),
        "parquet": (".parquet",),
        "folder": tuple(SUFFIXES),
    }
    found = {
        layout
        for path in all_below(folder)
        for layout, known in endings.items()
        if (path.name in known if layout == "metadata" else path.name.lower().endswith(known))
    }
    for layout in endings:
        if layout in found:
            return layout
    raise ValueError(
        f"{folder}: expected metadata.csv or metadata.jsonl (columns file_name, transcription) beside the audio, "
        f"sound files with .txt beside them, or one of the layouts {', '.join(LAYOUTS)}"
    )


def _open_path(path: Path, layout: str | None, columns: Mapping[str, str], root: Path | None) -> Any:
    if path.is_dir():
        return _open_folder(path, layout, columns, root)
    names, name = Names(path.parent, root), path.name.lower()
    if name.endswith(TABLES):
        return read_tables([path], names, columns, path.resolve().parent.name)
    if name.endswith(_TARS):
        return read_tars([names.folder / path.name], names, columns, path.stem)
    if name.endswith(".parquet"):
        opened = quietly(str(path), lambda: datasets.load_dataset("parquet", data_files=str(path)))
        return open_datasets(opened, columns, path.name, _Below(names))
    raise ValueError(f"{path}: expected a folder, or a .csv, .tsv, .jsonl, .tar or .parquet file")


def _open_folder(folder: Path, layout: str | None, columns: Mapping[str, str], root: Path | None) -> Any:
    layout = layout or find_layout(folder)
    names, describe = Names(folder, root), folder.name
    if layout in ("metadata", "ljspeech"):
        return read_tables(_metadata_files(folder), names, columns, describe, splits=True)
    if layout == "datasets":
        opened = quietly(str(folder), lambda: datasets.load_from_disk(str(folder)))
        return open_datasets(opened, columns, describe, _Below(names))
    if layout == "parquet":
        opened = quietly(str(folder), lambda: datasets.load_dataset(str(folder)))
        return open_datasets(opened, columns, describe, _Below(names))
    if layout == "webdataset":
        tars = sorted(path for path in all_below(names.folder) if path.name.lower().endswith(_TARS))
        return read_tars(tars, names, columns, describe)
    if layout == "common_voice":
        return read_common_voice(names, columns, describe)
    readers = {"vctk": read_vctk, "kaldi": read_kaldi, "folder": read_folder}
    return readers.get(layout, read_libri)(names, describe)


def _metadata_files(folder: Path) -> list[Path]:
    """``metadata.*`` of a folder, else those of its subfolders, such as ``train/metadata.csv``."""
    found = [folder / name for name in METADATA if (folder / name).is_file()]
    found = found or sorted(path for path in all_below(folder) if path.name in METADATA)
    if not found:
        raise FileNotFoundError(f"{folder / 'metadata.csv'}: no such file; choose another --layout")
    for one, other in zip(found, found[1:], strict=False):
        if one.parent == other.parent:
            raise ValueError(f"{folder}: expected one table, got {one} and {other}; name the one to read")
    return found


def _select(source: ListSource | DatasetSource, split: str | None, language: str | None) -> None:
    """Keep the rows of the wanted splits and language; all rows if none is named."""
    if wanted := _names_in(split):
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


def _names_in(split: str | None) -> list[str]:
    return [name.strip() for name in (split or "").split(",") if name.strip()]


def matches(language: str, wanted: str) -> bool:
    """Whether a row's language is the wanted one: ``en`` takes ``en`` and ``en-GB``."""
    return language.lower().replace("_", "-").split("-")[: wanted.count("-") + 1] == wanted.lower().split("-")


# ---- data sets of ``datasets``. Sound is not decoded here (``Audio(decode=False)``), so torchcodec is not needed.


@dataclass
class _Part:
    """The rows of one split of a data set.

    Attributes:
        data: a ``Dataset`` or an ``IterableDataset``, its sound undecoded.
        names: field -> column, or None if there is none.
    """

    split: str
    data: Any
    names: Mapping[str, str | None]

    def row(self, index: int, at: int, values: Mapping[str, Any], language: str, locate: Locate) -> SourceRow:
        """Row ``at`` of this split as row ``index`` of the source."""

        def field(name: str) -> str:
            value = values.get(self.names[name] or "")
            return "" if value is None else str(value)

        audio, problem = _sound_of(values.get(self.names["audio"] or ""), locate)
        cut, fault = read_cut(values, self.names)
        used = set(self.names.values())
        other = {
            key: value
            for key, value in values.items()
            if key not in used and isinstance(value, str | int | float) and value != ""
        }
        return SourceRow(
            # Paths inside a data set need not be unique, numbers are.
            id=field("id") or f"{self.split}/{at:08d}",
            audio=audio,
            text=" ".join(field("text").split()),
            speaker=field("speaker"),
            language=field("language") or language,
            split=field("split") or self.split,
            cut=cut,
            problem=problem or fault,
            other=json.dumps(other, ensure_ascii=False) if other else None,
            index=index,
        )


class DatasetSource:
    """Numbered rows over the splits of a ``datasets.Dataset``, which keeps them memory-mapped.

    Attributes:
        describe: the name of the source in reports.
    """

    def __init__(self, parts: Sequence[_Part], describe: str, locate: Locate) -> None:
        self.describe = describe
        self._parts = list(parts)
        self._starts = np.cumsum([0, *(len(part.data) for part in parts)])
        self._locate = locate
        self._chosen = np.arange(self._starts[-1])
        self._language = ""

    def __len__(self) -> int:
        return len(self._chosen)

    def __iter__(self) -> Iterator[SourceRow]:
        return (row for index in range(len(self)) for row in self.take([index]))

    def listing(self) -> Iterator[SourceRow]:
        """All rows in order, without their sound."""
        index = 0
        for part, start in zip(self._parts, self._starts, strict=False):
            at = int(start) - 1
            for batch in part.data.remove_columns([part.names["audio"] or ""]).iter(_PIECE):
                for values in zip(*batch.values(), strict=True):
                    at += 1
                    if index < len(self) and self._chosen[index] == at:
                        row = dict(zip(batch, values, strict=True))
                        yield part.row(index, at - int(start), row, self._language, self._locate)
                        index += 1

    def take(self, indices: Sequence[int]) -> list[SourceRow]:
        """The rows with these numbers."""
        rows = []
        for index in indices:
            number = int(self._chosen[index])
            which = int(np.searchsorted(self._starts, number, side="right")) - 1
            part, at = self._parts[which], number - int(self._starts[which])
            rows.append(part.row(int(index), at, part.data[at], self._language, self._locate))
        return rows

    def select(self, keep: Callable[[SourceRow], bool], language: str = "") -> None:
        """Keep some of the rows, renumbered; those without a language get ``language`` first."""
        self._language = self._language or language
        kept = np.array([keep(row) for row in self.listing()], bool)
        self._chosen = self._chosen[kept]


class StreamSource:
    """Rows of a stream, which are read in order. Their number is known at the end.

    Args:
        parts: split -> ``datasets.IterableDataset``.
        columns: field -> column, where the usual names do not find it.
        language: only rows of this language; rows without one get it. Empty takes all.
        describe: the name of the source in reports.
        locate: returns the path of a file that a row names, or why it may not be read.
    """

    def __init__(
        self,
        parts: Mapping[str, Any],
        columns: Mapping[str, str],
        language: str,
        describe: str,
        locate: Locate | None = None,
    ) -> None:
        self.describe = describe
        self._language = language
        self._locate = locate or _anywhere(None)
        known = {name: p if p.features is not None else p._resolve_features() for name, p in parts.items()}
        self._parts = [_part(split, part, columns, describe) for split, part in known.items()]

    def __iter__(self) -> Iterator[SourceRow]:
        index = 0
        for part in self._parts:
            for at, values in enumerate(part.data):
                row = part.row(index, at, values, self._language, self._locate)
                if not self._language or matches(row.language, self._language):
                    yield row
                    index += 1


def open_datasets(
    opened: datasets.Dataset | datasets.DatasetDict, columns: Mapping[str, str], describe: str, locate: Locate
) -> DatasetSource:
    """Rows of a data set of ``datasets``, all splits.

    Raises:
        ValueError: there is no column with audio, or no row.
    """
    splits = (
        dict(opened) if isinstance(opened, datasets.DatasetDict) else {str(opened.split or "train"): opened}
    )
    parts = []
    for split, data in splits.items():
        part = _part(str(split), data, columns, describe)
        # Other columns are kept if they are plain values: reading a picture or a second sound would cost its decoding.
        used = {name for name in part.names.values() if name}
        plain = {
            n for n, f in data.features.items() if isinstance(f, datasets.Value) and "binary" not in f.dtype
        }
        part.data = part.data.select_columns([name for name in data.column_names if name in used | plain])
        parts.append(part)
    if not sum(len(part.data) for part in parts):
        raise ValueError(f"{describe}: expected at least one row, got none")
    return DatasetSource(parts, describe, locate)


def _part(split: str, data: Any, columns: Mapping[str, str], describe: str) -> _Part:
    names = find_columns(list(data.features), columns, describe)
    feature = data.features[names["audio"]]
    if not (isinstance(feature, dict) and {"array", "sampling_rate"} <= set(feature)):
        try:
            data = data.cast_column(names["audio"], datasets.Audio(decode=False))
        except (ValueError, TypeError) as error:
            raise ValueError(
                f"{describe}: expected sound, bytes or paths in the column {names['audio']}, got {feature} ({error})"
            ) from None
    return _Part(split, data, names)


def _sound_of(held: Any, locate: Locate) -> tuple[bytes | str | None, Problem]:
    """The sound of a row of a data set: bytes, a path, or samples with their rate, which become a wav in memory."""
    held = held or {}
    if held.get("array") is not None:
        samples, rate = np.asarray(held["array"]), held.get("sampling_rate")
        samples = samples.T if samples.ndim == 2 and samples.shape[0] < samples.shape[1] else samples
        if samples.dtype.kind not in "fi" or samples.ndim not in (1, 2) or not isinstance(rate, int | float):
            return None, (
                "unreadable",
                f"samples of type {samples.dtype} with {samples.ndim} dimensions at {rate} Hz",
            )
        # Whole numbers are 16-bit samples unless they are too large.
        scale = (
            1.0
            if samples.dtype.kind == "f"
            else 32768.0
            if np.abs(samples).max(initial=0) <= 32768
            else 2.0**31
        )
        wav = io.BytesIO()
        try:
            soundfile.write(wav, samples / scale, round(rate), format="WAV", subtype="FLOAT")
        except (soundfile.LibsndfileError, ValueError, OverflowError) as error:
            return None, ("unreadable", str(error))
        return wav.getvalue(), None
    if held.get("bytes") is not None:
        return held["bytes"], None
    return locate(held["path"]) if held.get("path") else (None, None)


def _anywhere(root: Path | None) -> Locate:
    """Paths of a data set made by the caller. Any path is allowed unless a root is given."""
    return _Below(Names(root, root)) if root else _as_named


def _as_named(name: str) -> tuple[str | None, Problem]:
    return name, None


class _Below:
    """Paths relative to the folder of a source, and not outside of its root, as for a table."""

    def __init__(self, names: Names) -> None:
        self._names = names

    def __call__(self, name: str) -> tuple[str | None, Problem]:
        file, problem = self._names.find(name)
        return (None if problem else str(self._names.root / file)), problem


def _in_cache(name: str) -> tuple[str | None, Problem]:
    """Paths of a named data set. Only paths in the caches of the data set are allowed."""
    path = Path(os.path.abspath(name))
    roots = (config.HF_DATASETS_CACHE, constants.HF_HUB_CACHE, config.DOWNLOADED_DATASETS_PATH)
    if not any(path.is_relative_to(os.path.abspath(root)) for root in roots):
        return None, ("outside_folder", name)
    return str(path), None


def _open_named(
    name: str,
    streaming: bool,
    columns: Mapping[str, str],
    split: str | None,
    language: str,
    root: Path | None,
) -> DatasetSource | StreamSource:
    """Open a data set by its name for ``datasets.load_dataset``, ``owner/name`` or ``owner/name:config``.

    Raises:
        FileNotFoundError: it is no such name.
        ValueError: it cannot be opened, or has no such split.
    """
    path, _, configuration = name.partition(":")
    is_file = Path(name).suffix.lower() in (*TABLES, ".parquet", ".tar", ".flac", ".wav")
    if is_file or not is_hub_id(path):
        raise FileNotFoundError(f"{name}: no such folder or file, and no OWNER/NAME of a data set")

    def load() -> Any:
        if hub_answers():
            return datasets.load_dataset(path, configuration or None, streaming=streaming)
        with without_network():
            try:
                return datasets.load_dataset(path, configuration or None, streaming=streaming)
            except Exception as error:
                raise ConnectionError(_OFFLINE) from error

    opened: Any = quietly(name, load)
    locate = _Below(Names(root, root)) if root else _in_cache
    if not streaming:
        return open_datasets(opened, columns, name, locate)
    wanted = _names_in(split) or list(opened)
    if missing := [part for part in wanted if part not in opened]:
        raise ValueError(f"{name}: expected split {' and '.join(missing)}, it has {', '.join(opened)}")
    return StreamSource(
        {part: opened[part] for part in opened if part in wanted}, columns, language, name, locate
    )


def quietly(name: str, load: Callable[[], Any]) -> Any:
    """Run ``load`` without progress bars; errors become one line that names the source.

    Raises:
        ValueError: ``load`` failed.
    """
    datasets.disable_progress_bars()
    try:
        return load()
    except Exception as error:  # loaders raise arbitrary errors of their readers
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{name}: datasets cannot open it: {type(error).__name__}: {reason}") from error
