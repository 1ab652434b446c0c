"""A prepared corpus on disk: Parquet shards of codes, one manifest, one list of dropped rows.

Knows nothing of sound or of how codes are made. The laws it keeps: a shard is whole or absent and named by
its hash; manifest and shards carry the codec's fingerprint, and a reader with another codec is refused
(binding).
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ..files import write_aside, write_json

FORMAT_VERSION = 1
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("speaker", pa.string()),
        ("language", pa.string()),
        ("split", pa.string()),
        ("frames", pa.int32()),
        ("seconds", pa.float32()),
        ("codes", pa.binary()),  # little-endian int16, C order [K, T]
        ("n_q", pa.int16()),
    ]
)
_OPEN_SHARDS = 16


@dataclass(kw_only=True)
class Manifest:
    """What a prepared corpus is. Holds no clock, host or worker count: equal work gives an equal file.

    ``dropped`` counts rows by reason; ``shards`` lists ``{"file", "rows", "sha256"}`` in order; ``plan`` is
    the hash of everything the result depends on.
    """

    format_version: int = FORMAT_VERSION
    codes_fingerprint: str
    codec: dict[str, Any]
    source: str
    options: dict[str, Any]
    plan: str
    source_rows: int = 0
    rows: int = 0
    hours: float = 0.0
    dropped: dict[str, int] = field(default_factory=dict)
    shards: list[dict[str, Any]] = field(default_factory=list)

    def save(self, folder: str | Path) -> None:
        """Write ``manifest.json`` in ``folder``; raises OSError when that is not possible."""
        write_json(Path(folder) / "manifest.json", asdict(self))

    @classmethod
    def load(cls, folder: str | Path) -> Manifest:
        """Read ``manifest.json`` from ``folder``.

        Raises:
            FileNotFoundError: it is not there.
            ValueError: it is not a manifest, or of a version that this program does not know.
        """
        path = Path(folder) / "manifest.json"
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; expected a folder written by `audiotok prepare`")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            version = values.get("format_version")
            if version != FORMAT_VERSION:
                raise ValueError(f"expected format_version {FORMAT_VERSION}, got {version}")
            return cls(**values)
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path}: not a manifest that this version reads ({error}); prepare again"
            ) from None


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pack_codes(codes: torch.Tensor) -> bytes:
    """codes [K, T] integers below 32768 -> the bytes of a shard's ``codes`` column."""
    return codes.cpu().numpy().astype("<i2").tobytes()


def unpack_codes(data: bytes, n_q: int) -> torch.Tensor:
    """The bytes of a ``codes`` column -> codes [K, T] int64. ValueError if they are no whole frames."""
    return torch.from_numpy(np.frombuffer(data, dtype="<i2").reshape(n_q, -1).astype(np.int64))


def write_shard(path: Path, rows: Sequence[Mapping[str, Any]], binding: Mapping[str, Any]) -> str:
    """Write one shard, whole or not at all.

    Args:
        path: the Parquet file.
        rows: dicts with the columns of :data:`SCHEMA`.
        binding: what the codes are bound to (``codes_fingerprint``, ``n_q``...); goes into the file's
            metadata.

    Returns:
        The file's SHA-256, hex.
    """
    schema = SCHEMA.with_metadata({"audiotok": json.dumps(binding, sort_keys=True)})
    table = pa.Table.from_pylist(list(rows), schema=schema)
    with write_aside(path) as aside:
        # A list is allowed here; the type stubs of pyarrow know only the bool.
        repeating: Any = ["speaker", "language", "split"]
        pq.write_table(table, aside, compression="zstd", use_dictionary=repeating)
        digest = sha256(aside)
    return digest


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
            _check_shard(file, shard["rows"], self.manifest.codes_fingerprint)
        counts = [shard["rows"] for shard in self.manifest.shards]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        self._index = np.arange(self._starts[-1])
        self._tables: OrderedDict[int, pa.Table] = OrderedDict()
        if split is not None:
            splits = np.array(self.column("split"), dtype=object)
            self._index = np.nonzero(splits == split)[0]
            if not len(self._index):
                have = ", ".join(sorted(set(splits))) or "no rows"
                raise ValueError(f"{self.path}: expected rows of split {split!r}, it has {have}")

    def __len__(self) -> int:
        return len(self._index)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self.row(index) for index in range(len(self)))

    def row(self, index: int) -> dict[str, Any]:
        """One row: the columns of the shard, with ``codes`` as a tensor [K, T] int64.

        Raises:
            IndexError: there is no such row.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"expected a row below {len(self)}, got {index}")
        at = int(self._index[index])
        shard = int(np.searchsorted(self._starts, at, side="right")) - 1
        values = self._table(shard).slice(at - int(self._starts[shard]), 1).to_pylist()[0]
        values["codes"] = unpack_codes(values["codes"], values["n_q"])
        return values

    def column(self, name: str) -> list[Any]:
        """One column of all rows (``frames`` for length buckets, say) without reading the codes.

        Raises:
            ValueError: there is no such column.
        """
        if name not in SCHEMA.names:
            raise ValueError(f"expected a column of {', '.join(SCHEMA.names)}, got {name!r}")
        values: list[Any] = []
        for file in self._files:
            values.extend(pq.read_table(file, columns=[name]).column(0).to_pylist())
        return [values[at] for at in self._index]

    def dataset(self, streaming: bool = False) -> Any:
        """The shards as ``datasets.load_dataset("parquet")`` opens them; ``codes`` stay bytes.

        Args:
            streaming: give an ``IterableDataset``, which copies nothing into the cache of ``datasets``.
        """
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

    def _table(self, shard: int) -> pa.Table:
        if shard in self._tables:
            self._tables.move_to_end(shard)
            return self._tables[shard]
        table = self._tables[shard] = pq.read_table(self._files[shard])
        if len(self._tables) > _OPEN_SHARDS:
            self._tables.popitem(last=False)
        return table


def _check_shard(file: Path, rows: int, fingerprint: str) -> None:
    """Refuse a shard that is missing, of another length, or of other codes than the manifest says."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: this shard is missing; run `audiotok prepare` again to restore it")
    try:
        metadata = pq.read_metadata(file)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{file}: not a Parquet file ({error}); run `audiotok prepare` again") from None
    bound = json.loads((metadata.metadata or {}).get(b"audiotok", b"{}"))
    if metadata.num_rows != rows or bound.get("codes_fingerprint") != fingerprint:
        raise ValueError(
            f"{file}: expected {rows} rows of codec {fingerprint}, got {metadata.num_rows} of "
            f"{bound.get('codes_fingerprint')}; it is of another corpus, prepare again"
        )
