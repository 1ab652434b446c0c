"""Checks a prepared corpus against its manifest."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .checks import DROPPED, read_dropped
from .reader import PreparedCorpus
from .reports import choose, decode_row
from .shards import CODES_DTYPE, NEEDED, Manifest, check_shard, sha256

if TYPE_CHECKING:
    from ..codec.model import AudioCodec

_FAULTS_SHOWN = 20


@dataclass
class Verification:
    """The result of :func:`verify`.

    Attributes:
        shards, rows, hours: what was checked.
        decoded: rows that were decoded.
        faults: one line for each fault; the first few of each kind.
    """

    shards: int = 0
    rows: int = 0
    hours: float = 0.0
    decoded: int = 0
    faults: list[str] = field(default_factory=list)


def verify(
    path: str | Path, codec: AudioCodec | None = None, *, samples: int = 8, seed: int = 0
) -> Verification:
    """Check a prepared corpus: hashes, counts, every code's range, and a sample of rows decoded.

    Args:
        path: a folder written by :func:`~audiotok.corpus.prepare`.
        codec: decodes the sample; None decodes none.
        samples: rows to decode.
        seed: of their choice.

    Raises:
        FileNotFoundError: there is no manifest.
        ValueError: the manifest is damaged, or the codec is another.
    """
    folder = Path(path)
    manifest = Manifest.load(folder)
    if codec is not None and codec.codes_fingerprint != manifest.codes_fingerprint:
        raise ValueError(
            f"{folder}: holds codes of codec {manifest.codec['name']} ({manifest.codes_fingerprint}), got "
            f"{codec.codes_fingerprint}; name its codec with --codec, or decode nothing with --samples 0"
        )
    found, places = Verification(), Counter[int]()
    for shard in manifest.shards:
        found.faults += _few(_shard_faults(folder / "shards" / shard["file"], shard, manifest, found, places))
        found.shards += 1
    found.faults += _few(_folder_faults(folder, manifest, found, places))
    if codec is not None and not found.faults and found.rows:
        corpus = PreparedCorpus(folder)
        for row in map(corpus.row, choose(corpus, samples, seed)):
            wav = decode_row(row, codec)
            found.decoded += 1
            if not np.isfinite(wav).all() or not np.abs(wav).max(initial=0) > 0:
                found.faults.append(
                    f"row {row['id']!r}: decodes to silence, or to samples that are not finite"
                )
    return found


def _shard_faults(
    path: Path, shard: dict[str, Any], manifest: Manifest, found: Verification, places: Counter[int]
) -> Iterator[str]:
    """Faults of one shard; counts its rows, and the numbers that they have in the source."""
    try:
        check_shard(path, shard["rows"], manifest.codes_fingerprint)
        if (digest := sha256(path)) != shard["sha256"]:
            yield f"{path}: expected SHA-256 {shard['sha256']}, got {digest}; delete it and prepare again"
        table = pq.read_table(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        yield str(error)
        return
    if empty := [name for name in NEEDED if table[name].null_count]:
        yield f"{path}: expected {' and '.join(empty)} in every row, got rows without"
        return
    seconds = 0.0
    for row in table.to_pylist():
        if fault := _row_fault(row, manifest.codec):
            yield f"{path.name}: row {row['id']!r}: {fault}"
        if row.get("row") is not None:
            places[row["row"]] += 1
        seconds += row["seconds"]
    found.rows += table.num_rows
    found.hours += seconds / 3600
    if not math.isclose(seconds, shard.get("seconds", seconds), rel_tol=1e-5, abs_tol=1e-3):
        yield f"{path}: expected {shard['seconds']:.3f} s of sound, got {seconds:.3f}"


def _row_fault(row: dict[str, Any], codec: dict[str, Any]) -> str:
    if not math.isfinite(row["seconds"]):
        return f"expected seconds, got {row['seconds']}"
    if row["n_q"] != codec["n_q"]:
        return f"expected {codec['n_q']} codebooks, got {row['n_q']}"
    if len(row["codes"]) != 2 * row["n_q"] * row["frames"]:
        return f"expected {row['frames']} frames of {row['n_q']} codes, got {len(row['codes'])} bytes"
    codes = np.frombuffer(row["codes"], dtype=CODES_DTYPE)
    if len(codes) and not 0 <= codes.min() <= codes.max() < codec["codebook_size"]:
        return f"expected codes in [0, {codec['codebook_size']}), got {codes.min()} to {codes.max()}"
    # Seconds are stored in float32, so 0.5 samples are tolerated.
    samples = row["seconds"] * codec["sampling_rate"]
    least, most = (math.ceil((samples + d) / codec["hop_length"]) for d in (-0.5, 0.5))
    if not least <= row["frames"] <= most:
        return f"expected {most} frames for {row['seconds']:.3f} s, got {row['frames']}"
    return ""


def _folder_faults(
    folder: Path, manifest: Manifest, found: Verification, places: Counter[int]
) -> Iterator[str]:
    """Faults of the corpus: totals, dropped rows, files that belong to no shard."""
    try:
        drops = read_dropped(folder)
        reasons = dict(sorted(Counter(drop.reason for drop in drops).items()))
        if reasons != manifest.dropped:
            yield f"{folder / DROPPED}: expected {manifest.dropped}, got {reasons}"
        for row in (row for row, count in places.items() if count > 1):
            yield f"{folder}: row {row} of the source is there twice"
        for row in sorted(drop.row for drop in drops if drop.row in places):
            yield f"{folder / DROPPED}: row {row} is both dropped and in a shard"
        if found.rows + len(drops) != manifest.source_rows:
            yield (
                f"{folder}: expected {manifest.source_rows} rows of the source, got {found.rows} in shards and "
                f"{len(drops)} dropped"
            )
    except (OSError, ValueError) as error:
        yield str(error)
    if found.rows != manifest.rows:
        yield f"{folder}: expected {manifest.rows} rows, got {found.rows}"
    if not math.isclose(found.hours, manifest.hours, rel_tol=1e-5, abs_tol=1e-6):
        yield f"{folder}: expected {manifest.hours:.4f} h, got {found.hours:.4f}"
    named = {shard["file"] for shard in manifest.shards}
    for name in sorted({path.name for path in (folder / "shards").iterdir()} - named):
        yield f"{folder / 'shards' / name}: belongs to no shard of the manifest"


def _few(faults: Iterable[str]) -> list[str]:
    """The first faults, and how many more there are."""
    found = list(faults)
    more = len(found) - _FAULTS_SHOWN
    return found[:_FAULTS_SHOWN] + ([f"and {more} more of this kind"] if more > 0 else [])
