"""Reads a prepared corpus by row or in batches of similar lengths for training."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from .shards import NEEDED, SCHEMA, Manifest, check_shard, unpack_codes

# Shards whose rows are shuffled together: enough for similar lengths, few enough to read within a second.
_POOL_SHARDS = 8


@dataclass(frozen=True)
class Batch:
    """Rows of similar lengths.

    Attributes:
        codes: [B, K, T] int64, zeros where a row is shorter than the longest.
        frames: [B] int64, the length of each.
        rows: the rows' other columns.
    """

    codes: Tensor
    frames: Tensor
    rows: list[dict[str, Any]]


class PreparedCorpus:
    """Random access to the rows of a prepared corpus.

    Args:
        path: a folder written by :func:`~audiotok.corpus.prepare`.
        split: only the rows of this split; None takes all.

    Raises:
        FileNotFoundError: there is no manifest, or a shard that it names is missing.
        ValueError: the manifest is not one, a shard is of another codec, or no row has that split.
    """

    def __init__(self, path: str | Path, split: str | None = None) -> None:
        self.path = Path(path)
        self.manifest = Manifest.load(path)
        self.split = split
        self._files = [self.path / "shards" / shard["file"] for shard in self.manifest.shards]
        for file, shard in zip(self._files, self.manifest.shards, strict=True):
            check_shard(file, shard["rows"], self.manifest.codes_fingerprint)
        counts = [shard["rows"] for shard in self.manifest.shards]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._frames: np.ndarray | None = None
        self._index = np.arange(self._starts[-1])
        self._tables: OrderedDict[int, pa.Table] = OrderedDict()
        if split is not None:
            splits = np.array(self._whole("split"), dtype=object)
            self._index = np.flatnonzero(splits == split)
            if not len(self._index):
                have = ", ".join(sorted(set(splits) - {None})) or "no rows"
                raise ValueError(f"{self.path}: expected rows of split {split!r}, it has {have}")

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self.row(index) for index in range(len(self)))

    def row(self, index: int) -> dict[str, Any]:
        """One row: the columns of the shard, ``codes`` as a tensor [K, T] int64, and the ``codes_fingerprint``.

        Raises:
            IndexError: the row does not exist.
            ValueError: it is damaged.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"expected a row below {len(self)}, got {index}")
        at = int(self._index[index])
        shard = int(np.searchsorted(self._starts, at, side="right")) - 1
        values = self._table(shard).slice(at - int(self._starts[shard]), 1).to_pylist()[0]
        try:
            if empty := [name for name in NEEDED if values[name] is None]:
                raise ValueError(f"no {' and '.join(empty)}")
            if not values["seconds"] >= 0:
                raise ValueError(f"{values['seconds']} seconds")
            values["codes"] = unpack_codes(values["codes"], values["n_q"])
            values["codes_fingerprint"] = self.manifest.codes_fingerprint
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"{self._files[shard]}: row {values['id']!r} is damaged ({error}); see `audiotok verify`"
            ) from None
        return values

    def column(self, name: str) -> list[Any]:
        """One column of all rows without reading the codes.

        Raises:
            ValueError: the column does not exist.
        """
        if name not in SCHEMA.names:
            raise ValueError(f"expected a column of {', '.join(SCHEMA.names)}, got {name!r}")
        values = self._whole(name)
        return [values[at] for at in self._index]

    @property
    def frames(self) -> np.ndarray:
        """Length of every row in frames, [rows] int32. The codes are not read."""
        if self._frames is None:
            self._frames = np.array(self._whole("frames"), np.int32)[self._index]
        return self._frames

    def batches(
        self,
        frames_per_batch: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        first: int = 0,
        reader: int = 0,
        readers: int = 1,
    ) -> Iterator[Batch]:
        """One epoch of shuffled batches of similar lengths.

        Shards are taken in a random order, a few at a time. Their rows are cut by length into batches, which are then
        shuffled. The batches follow from the lengths, ``seed``, ``epoch`` and ``readers``, so that ``first`` skips
        without reading.

        Args:
            frames_per_batch: padded frames of a batch at most (a longer row forms its own batch).
            seed: of the order; the same in all readers.
            epoch: another number gives another order.
            first: batches of this reader to leave out, to resume a training.
            reader: the number of this reader, 0 to ``readers`` - 1.
            readers: number of readers; each gets every ``readers``-th batch. Their counts differ by at most one.

        Yields:
            the batches.

        Raises:
            ValueError: a number is out of range.
        """
        if frames_per_batch < 1 or first < 0 or not 0 <= reader < readers:
            raise ValueError(
                "expected frames_per_batch >= 1, first >= 0 and 0 <= reader < readers, got "
                f"{frames_per_batch}, {first}, {reader} and {readers}"
            )
        number = 0
        for rows in self._plan_batches(frames_per_batch, np.random.default_rng((seed, epoch))):
            if number % readers == reader and number // readers >= first:
                yield self._batch(rows)
            number += 1

    def dataset(self, streaming: bool = False) -> Any:
        """The shards as ``datasets.load_dataset("parquet")`` opens them; ``codes`` stay bytes.

        Args:
            streaming: give an ``IterableDataset``, which copies nothing into the cache of ``datasets``.
        """
        import datasets

        files = [str(file) for file in self._files]
        opened = datasets.load_dataset("parquet", data_files=files, split="train", streaming=streaming)
        if self.split is None:
            return opened
        return opened.filter(lambda split: split == self.split, input_columns="split")

    def check(self, other: Any) -> None:
        """Refuse a codec, tokenizer or model that is bound to other codes.

        Args:
            other: anything with ``codes_fingerprint``, or the fingerprint itself.

        Raises:
            ValueError: the fingerprints differ.
        """
        theirs = other if isinstance(other, str) else other.codes_fingerprint
        if theirs != self.manifest.codes_fingerprint:
            raise ValueError(
                f"{self.path}: holds codes of codec {self.manifest.codes_fingerprint}, got {theirs}; "
                "use the codec it was prepared with, or prepare again"
            )

    def _plan_batches(self, frames_per_batch: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Row numbers of each batch of an epoch, in order."""
        frames = self.frames
        cuts = np.searchsorted(self._index, self._starts)
        order = rng.permutation(len(self._files))
        for at in range(0, len(order), _POOL_SHARDS):
            pool = np.concatenate(
                [np.arange(int(cuts[s]), int(cuts[s + 1])) for s in order[at : at + _POOL_SHARDS]]
            )
            # Rows of equal length are shuffled, so that batches differ between epochs.
            pool = rng.permutation(pool)
            pool = pool[np.argsort(frames[pool], kind="stable")]
            packed = list(_pack(pool, frames[pool], frames_per_batch))
            yield from (packed[which] for which in rng.permutation(len(packed)))

    def _batch(self, numbers: np.ndarray) -> Batch:
        rows = [self.row(int(number)) for number in np.sort(numbers)]
        codes = [row.pop("codes") for row in rows]
        lengths = torch.tensor([len(code[0]) for code in codes])
        padded = torch.zeros(len(codes), len(codes[0]), int(lengths.max()), dtype=torch.int64)
        for place, code in zip(padded, codes, strict=True):
            place[:, : code.shape[1]] = code
        return Batch(padded, lengths, rows)

    def _whole(self, name: str) -> list[Any]:
        """A column of all rows of the shards."""
        return [v for file in self._files for v in pq.ParquetFile(file).read([name]).column(0).to_pylist()]

    def _table(self, shard: int) -> pa.Table:
        """The rows of a shard; the latest ones are kept."""
        if shard not in self._tables:
            try:
                self._tables[shard] = pq.read_table(self._files[shard])
            except (pa.ArrowException, OSError) as error:
                raise ValueError(
                    f"{self._files[shard]}: damaged ({error}); run `audiotok prepare` again to restore it"
                ) from None
            if len(self._tables) > 2 * _POOL_SHARDS:
                self._tables.popitem(last=False)
        self._tables.move_to_end(shard)
        return self._tables[shard]


def _pack(rows: np.ndarray, frames: np.ndarray, frames_per_batch: int) -> Iterator[np.ndarray]:
    """Cut rows, sorted by length upwards, into batches of a limited number of padded frames."""
    start = 0
    for at in range(1, len(rows) + 1):
        if at == len(rows) or (at - start + 1) * frames[at] > frames_per_batch:
            yield rows[start:at]
            start = at
