"""A prepared corpus on disk: Parquet shards of codes, and a manifest."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from ..files import parse_json, write_aside, write_json
from .checks import Drop, parse_drop

CODES_DTYPE = "<i2"
FORMAT_VERSION = 2
_READABLE = (1, 2)  # 1 had fewer columns
MANIFEST = "manifest.json"
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("speaker", pa.string()),
        ("language", pa.string()),
        ("split", pa.string()),
        ("frames", pa.int32()),
        ("seconds", pa.float32()),
        ("codes", pa.binary()),  # CODES_DTYPE, C order [K, T]
        ("n_q", pa.int16()),
        ("scales", pa.list_(pa.float32())),  # gains of a codec that has them; null for one that has not
        ("row", pa.int64()),  # number in the source
        ("start_s", pa.float32()),  # seconds cut from the start of the source's clip
        ("level_db", pa.float32()),  # of the speech in the source's clip, dB of full scale
        ("fields", pa.string()),  # the source's other columns, JSON
        ("codes_fingerprint", pa.string()),  # of the codec, for readers of single rows such as ``datasets``
    ]
)
NEEDED = ("id", "frames", "seconds", "codes", "n_q")
"""Columns that every shard has had since format 1, and that are not empty in any row."""

_ROW_GROUP = 256
# Values of a manifest, of its codec and of its shards -> their types.
_KINDS: dict[str, Any] = dict.fromkeys(("codes_fingerprint", "source", "plan", "licence"), str)
_KINDS |= dict.fromkeys(("codec", "options", "versions", "splits", "dropped"), dict)
_KINDS |= {"source_rows": int, "rows": int, "hours": int | float, "shards": list}
CODEC_KINDS = {"name": str, "n_q": int, "codebook_size": int, "hop_length": int, "sampling_rate": int}
_SHARD_KINDS = {"file": str, "rows": int, "sha256": str}


def pack_codes(codes: torch.Tensor) -> bytes:
    """codes [K, T] integers below 32768 -> the bytes of a shard's ``codes`` column, little-endian on every machine."""
    return codes.cpu().numpy().astype(CODES_DTYPE).tobytes()


def unpack_codes(data: bytes, n_q: int) -> torch.Tensor:
    """The bytes of a ``codes`` column -> codes [K, T] int64. ValueError if they are not complete frames."""
    return torch.from_numpy(np.frombuffer(data, dtype=CODES_DTYPE).reshape(n_q, -1).astype(np.int64))


@dataclass(kw_only=True)
class Manifest:
    """Describes a prepared corpus. It has no time, host or worker count, so equal inputs give an equal file.

    ``dropped`` counts rows by reason; ``splits`` counts the source's rows by split; ``shards`` lists ``{"file", "rows",
    "seconds", "sha256"}`` in order; ``plan`` is the hash of everything the result depends on; ``licence`` is that of
    the source; ``versions`` are those of the libraries that decoded, resampled and encoded.
    """

    format_version: int = FORMAT_VERSION
    codes_fingerprint: str
    codec: dict[str, Any]
    source: str
    options: dict[str, Any]
    plan: str
    licence: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    source_rows: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    rows: int = 0
    hours: float = 0.0
    dropped: dict[str, int] = field(default_factory=dict)
    shards: list[dict[str, Any]] = field(default_factory=list)

    def save(self, folder: str | Path, name: str = MANIFEST) -> None:
        """Write ``manifest.json`` (or ``name``) in ``folder``; raises OSError when that is not possible."""
        write_json(Path(folder) / name, asdict(self))

    @classmethod
    def load(cls, folder: str | Path, name: str = MANIFEST) -> Manifest:
        """Read ``manifest.json`` (or ``name``) from ``folder``.

        FileNotFoundError if it is not there, ValueError if it is not a manifest, or of an unsupported version.
        """
        path = Path(folder) / name
        if not path.is_file():
            raise FileNotFoundError(f"{path}: no such file; expected a folder written by `audiotok prepare`")
        try:
            values = parse_json(path.read_bytes())
            version = values.get("format_version")
            if version not in _READABLE:
                raise ValueError(f"expected format_version {' or '.join(map(str, _READABLE))}, got {version}")
            manifest = cls(**values)
            _expect(asdict(manifest), _KINDS)
            _expect(manifest.codec, CODEC_KINDS)
            _expect(manifest.dropped, dict.fromkeys(manifest.dropped, int))
            for shard in manifest.shards:
                _expect(shard, _SHARD_KINDS)
                float(shard.get("seconds", 0.0))
                if not re.fullmatch(r"(\w+-)?\d{5,}\.parquet", shard["file"]):
                    raise ValueError(f"expected the name of a shard, got {shard['file']!r}")
            return manifest
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(
                f"{path}: not a manifest that this version reads ({error}); move the folder away, then prepare again"
            ) from None

    def differences(self, asked: Manifest) -> str:
        """The settings in which ``asked`` differs from this manifest, each with both values."""
        settings = []
        for manifest in (self, asked):
            names = ("format_version", "source", "codes_fingerprint")
            of = {name: getattr(manifest, name) for name in names}
            of |= {f"codec {name}": value for name, value in manifest.codec.items()} | manifest.options
            settings.append({name: json.dumps(value, ensure_ascii=False) for name, value in of.items()})
        old, new = settings
        pairs = [(name, old.get(name, "not given"), new.get(name, "not given")) for name in old | new]
        changed = [f"{name} was {was}, is {now} now" for name, was, now in pairs if was != now]
        unseen = "the source lists other rows or sizes of files, or another version of audiotok began it"
        return "; ".join(changed) or unseen


def _expect(values: Any, kinds: Mapping[str, Any]) -> None:
    """Check the types of values. ValueError if one is missing, or of another type, or no positive size of a codec."""
    for name, kind in kinds.items():
        value = values.get(name)
        if not isinstance(value, kind) or (kinds is CODEC_KINDS and kind is int and value < 1):
            raise ValueError(f"expected another {name}, got {str(value)[:40]!r}")


def group_of(split: str) -> str:
    """The name of a split in the names of shards, of the characters that ``datasets`` allows for a split."""
    return re.sub(r"\W+", "_", split) or "train"


def shard_name(group: str, number: int) -> str:
    """The file name of a shard: ``train-00003.parquet``."""
    return f"{group}-{number:05d}.parquet"


def write_shard(
    path: Path, rows: Sequence[Mapping[str, Any]], binding: Mapping[str, Any], drops: Sequence[Drop] = ()
) -> str:
    """Write one shard atomically: rows with the columns of :data:`SCHEMA`, where missing values are null.

    The file's metadata hold ``binding`` (``codes_fingerprint``, ``n_q``...) and the dropped rows that belong here.
    Returns the SHA-256 of the file, hex.
    """
    metadata = {
        "audiotok": json.dumps(binding, sort_keys=True),
        "dropped": json.dumps([asdict(drop) for drop in drops]),
    }
    schema = SCHEMA.with_metadata(metadata)
    marked = [{**row, "codes_fingerprint": binding.get("codes_fingerprint")} for row in rows]
    # The type stubs of pyarrow accept only a bool.
    repeating: Any = ["speaker", "language", "split", "codes_fingerprint"]
    with write_aside(path) as aside:
        with pq.ParquetWriter(
            aside, schema, compression="zstd", use_dictionary=repeating, write_page_checksum=True
        ) as writer:
            if rows:  # datasets cannot read a row group of no rows
                writer.write_table(pa.Table.from_pylist(marked, schema=schema), row_group_size=_ROW_GROUP)
    return sha256(path)


def shard_facts(path: Path, plan: str) -> tuple[int, list[Drop]] | None:
    """Rows and dropped rows of a shard of this plan; None if it is not there, not whole, or of another plan."""
    try:
        metadata = pq.read_metadata(path)
        held = metadata.metadata or {}
        if parse_json(held[b"audiotok"])["plan"] != plan:
            return None
        return metadata.num_rows, [parse_drop(drop) for drop in parse_json(held[b"dropped"])]
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError):
        return None


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file, hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_shard(file: Path, rows: int, fingerprint: str) -> None:
    """Refuse a shard that differs from the manifest; only its last bytes are read.

    FileNotFoundError if it is missing. ValueError if it is no Parquet file, lacks a column, is of another length, or
    holds codes of another codec.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file}: this shard is missing; run `audiotok prepare` again to restore it")
    try:
        metadata = pq.read_metadata(file)
        bound = parse_json((metadata.metadata or {}).get(b"audiotok", b"{}")).get("codes_fingerprint")
        there = metadata.schema.to_arrow_schema()
        for name in NEEDED:
            if name not in there.names or there.field(name).type != SCHEMA.field(name).type:
                raise ValueError(f"expected a column {name} of {SCHEMA.field(name).type}")
    except (pa.ArrowException, OSError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{file}: not a shard of a preparation ({error}); run `audiotok prepare` again"
        ) from None
    if metadata.num_rows != rows or bound != fingerprint:
        raise ValueError(
            f"{file}: expected {rows} rows of codec {fingerprint}, got {metadata.num_rows} of {bound}; it is of "
            "another corpus, prepare again"
        )
