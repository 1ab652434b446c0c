"""What ``datasets`` opens: data sets of the hub by name, folders it saved, Parquet; whole or streamed.

Knows nothing of layouts of files. The law it keeps: sound is never decoded here (``Audio(decode=False)``), so that no
other decoder is needed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets

from ..hub import hub_answers, without_network
from .rows import SourceRow, find_columns

_PIECE = 1024


class DatasetSource:
    """Numbered rows over a ``datasets.Dataset``, which keeps them memory-mapped.

    Args:
        dataset: its audio column (named by ``names``) must hold undecoded sound.
        names: field -> column, or None where there is none.
        describe: what the source is, for reports.
    """

    def __init__(self, dataset: datasets.Dataset, names: Mapping[str, str | None], describe: str) -> None:
        self._dataset = dataset
        self._names = dict(names)
        self.describe = describe
        self._language = ""

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator[SourceRow]:
        return (row for index in range(len(self)) for row in self.take([index]))

    def take(self, indices: Sequence[int]) -> list[SourceRow]:
        """The rows with these numbers."""
        table = self._dataset[list(indices)]
        rows = (dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True))
        return [
            make_row(index, row, self._names, self._language)
            for index, row in zip(indices, rows, strict=True)
        ]

    def listing(self) -> Iterator[list[tuple[object, ...]]]:
        """Every column of the rows but the sound, of which its path, in pieces."""
        audio = self._names["audio"]
        light = self._dataset.remove_columns([audio] if audio else [])
        id_column = self._names["id"] or ""
        paths = self._dataset.select_columns([audio] if audio else []).with_format("arrow")
        for start in range(0, len(self), _PIECE):
            stop = min(start + _PIECE, len(self))
            table = light[start:stop]
            piece: Any = paths[start:stop]
            where = piece.column(0).combine_chunks().field("path").to_pylist()
            yield list(zip(table[id_column], *table.values(), map(_base, where), strict=True))

    def select(self, column: str, keep: Callable[[str], bool]) -> DatasetSource:
        """The rows whose ``column`` has a value that ``keep`` accepts, renumbered."""
        chosen = [index for index, value in enumerate(self._column(column)) if keep(value)]
        return self._like(self._dataset.select(chosen))

    def values(self, column: str) -> list[str]:
        """The different values of a column, sorted."""
        return sorted(set(self._column(column)))

    def fill_language(self, language: str) -> DatasetSource:
        """The same rows, taken to be of this language where they name none."""
        filled = self._like(self._dataset)
        filled._language = language
        return filled

    def _column(self, field: str) -> list[str]:
        name = self._names[field]
        values = self._dataset[name] if name else [""] * len(self)
        default = self._language if field == "language" else ""
        return ["" if value is None else str(value) or default for value in values]

    def _like(self, dataset: datasets.Dataset) -> DatasetSource:
        made = DatasetSource(dataset, self._names, self.describe)
        made._language = self._language
        return made


class StreamSource:
    """Rows that can only be read in their order, as they arrive; their number is known at the end.

    Args:
        parts: split -> ``datasets.IterableDataset``.
        columns: field -> column, where the usual names do not find it.
        language: only rows of this language; rows that name none are taken to be of it. Empty takes all.
        describe: what the source is, for reports.
    """

    def __init__(
        self, parts: Mapping[str, Any], columns: Mapping[str, str], language: str, describe: str
    ) -> None:
        self.describe = describe
        self._language = language
        self._parts = []
        for split, part in parts.items():
            part = part if part.features is not None else part._resolve_features()
            names = find_columns(list(part.features), columns, describe)
            part = part.cast_column(names["audio"], datasets.Audio(decode=False))
            self._parts.append((split, part, names))

    def __iter__(self) -> Iterator[SourceRow]:
        index = 0
        for split, part, names in self._parts:
            for number, values in enumerate(part):
                row = make_row(index, values, names, self._language, split, f"{split}/{number:08d}")
                if not self._language or matches(row.language, self._language):
                    yield row
                    index += 1


def open_datasets(
    opened: datasets.Dataset | datasets.DatasetDict, columns: Mapping[str, str], describe: str
) -> DatasetSource:
    """One data set of all splits, in which each row knows its split, with the sound left undecoded.

    Raises:
        ValueError: there is no column with audio, or no row.
    """
    parts = (
        dict(opened) if isinstance(opened, datasets.DatasetDict) else {str(opened.split or "train"): opened}
    )
    names: dict[str, str | None] = {}
    tagged = []
    for split, part in parts.items():
        names = find_columns(part.column_names, columns, describe)
        part = part.cast_column(str(names["audio"]), datasets.Audio(decode=False))
        if names["split"] is None:
            part = part.add_column("split", [split] * len(part))
        if names["id"] is None:  # paths inside a data set need not be unique, numbers are
            part = part.add_column("id", [f"{split}/{index:08d}" for index in range(len(part))])
        tagged.append(part)
    names |= {field: names[field] or field for field in ("split", "id")}
    if not tagged or not sum(map(len, tagged)):
        raise ValueError(f"{describe}: expected at least one row, got none")
    merged = tagged[0] if len(tagged) == 1 else datasets.concatenate_datasets(tagged)
    # Other columns are kept if they are plain values: reading a picture or a second sound would cost its decoding.
    used = {name for name in names.values() if name}
    plain = {
        name
        for name, feature in merged.features.items()
        if isinstance(feature, datasets.Value) and "binary" not in feature.dtype
    }
    return DatasetSource(
        merged.select_columns([n for n in merged.column_names if n in used | plain]), names, describe
    )


def load_named(
    name: str, streaming: bool, columns: Mapping[str, str], split: str | None, language: str
) -> DatasetSource | StreamSource:
    """Open what ``datasets.load_dataset`` knows by a name, ``owner/name`` or ``owner/name:config``.

    Raises:
        ValueError: it cannot be opened, or has no such split.
    """
    path, _, config = name.partition(":")

    def load() -> Any:
        if hub_answers():
            return datasets.load_dataset(path, config or None, streaming=streaming)
        with without_network():
            try:
                return datasets.load_dataset(path, config or None, streaming=streaming)
            except Exception as error:
                raise ConnectionError(
                    "no such folder, not kept on this machine, and the hub does not answer"
                ) from error

    opened: Any = quietly(name, load)
    if not streaming:
        return open_datasets(opened, columns, name)
    wanted = [part.strip() for part in split.split(",")] if split else list(opened)
    if missing := [part for part in wanted if part not in opened]:
        raise ValueError(f"{name}: expected split {' and '.join(missing)}, it has {', '.join(opened)}")
    return StreamSource({part: opened[part] for part in opened if part in wanted}, columns, language, name)


def quietly(name: str, load: Callable[[], Any]) -> Any:
    """Run ``load`` without progress bars; its many kinds of error become one line that names the source.

    Raises:
        ValueError: ``load`` failed.
    """
    datasets.disable_progress_bars()
    try:
        return load()
    except Exception as error:  # the loaders raise whatever their readers raise
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{name}: datasets cannot open it: {type(error).__name__}: {reason}") from error


def matches(language: str, wanted: str) -> bool:
    """Whether a row's language is the wanted one: ``en`` takes ``en`` and ``en-GB``."""
    return language.lower().replace("_", "-").split("-")[: wanted.count("-") + 1] == wanted.lower().split("-")


def make_row(
    index: int,
    values: Mapping[str, Any],
    names: Mapping[str, str | None],
    language: str = "",
    split: str = "train",
    id: str = "",
) -> SourceRow:
    """A row of a data set as ours; the last three stand in where it says nothing.

    Args:
        index: its number.
        values: column -> value, the sound undecoded.
        names: field -> column.
        language: of rows that name none.
        split: likewise.
        id: likewise; empty takes the number.
    """

    def field(name: str) -> str:
        value = values.get(names[name] or "")
        return "" if value is None else str(value)

    held = values.get(names["audio"] or "") or {}
    path, data = held.get("path"), held.get("bytes")
    used = set(names.values())
    other = {
        key: value
        for key, value in values.items()
        if key not in used and isinstance(value, str | int | float) and value != ""
    }
    return SourceRow(
        index=index,
        id=field("id") or id or f"{index:08d}",
        text=" ".join(field("text").split()),
        speaker=field("speaker"),
        language=field("language") or language,
        split=field("split") or split,
        audio=data if data is not None else Path(path) if path else None,
        fields=json.dumps(other, ensure_ascii=False) if other else "",
    )


def _base(path: str | None) -> str:
    return Path(path).name if path else ""
