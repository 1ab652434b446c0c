"""Whether a prepared corpus is what its manifest says: every hash, every count, and a few rows heard.

Knows nothing of where the corpus came from. The law it keeps: nothing that can be derived is believed, and a check
that could not be made is said, not passed over.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from .checks import DROPPED, Drop, read_dropped
from .packing import CODES_DTYPE
from .reader import PreparedCorpus
from .shards import INDEX, NEEDED, Manifest, check_shard, sha256

if TYPE_CHECKING:
    from ..codec.model import AudioCodec

_FAULTS_SHOWN = 20


@dataclass
class Verdict:
    """What :func:`verify` found.

    Attributes:
        shards, rows, hours: what was checked.
        decoded: rows that were decoded.
        faults: what is wrong, a line each; the first few of each kind.
    """

    shards: int = 0
    rows: int = 0
    hours: float = 0.0
    decoded: int = 0
    faults: list[str] = field(default_factory=list)


def verify(
    path: str | Path,
    codec: AudioCodec | None = None,
    *,
    samples: int = 8,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Verdict:
    """Check a prepared corpus: hashes, counts, every code's range, and a sample of rows decoded.

    Args:
        path: a folder written by :func:`~audiotok.corpus.prepare`.
        codec: decodes the sample; None decodes none.
        samples: rows to decode.
        seed: which.
        progress: called with shards checked and shards in all.

    Returns:
        what was checked and what is wrong.

    Raises:
        FileNotFoundError: there is no manifest.
        ValueError: the manifest is damaged, or the codec is another.
    """
    folder = Path(path)
    manifest = Manifest.load(folder)
    if codec is not None and codec.codes_fingerprint != manifest.codes_fingerprint:
        raise ValueError(
            f"{folder}: holds codes of codec {manifest.codec['name']} ({manifest.codes_fingerprint}), got "
            f"{codec.codes_fingerprint}; name its codec with --codec, or check no sound with --samples 0"
        )
    verdict = Verdict()
    frames, seen = array("i"), array("q")
    for number, shard in enumerate(manifest.shards, 1):
        verdict.faults += _few(_check_file(folder, shard, manifest, verdict, frames, seen))
        verdict.shards += 1
        if progress is not None:
            progress(number, len(manifest.shards))
    verdict.faults += _few(_check_counts(folder, manifest, verdict, frames, seen))
    if codec is not None and not verdict.faults and verdict.rows:
        verdict.faults += _few(_check_sound(folder, codec, samples, seed, verdict))
    return verdict


def _check_file(
    folder: Path,
    shard: dict[str, Any],
    manifest: Manifest,
    verdict: Verdict,
    frames: array[int],
    seen: array[int],
) -> Iterator[str]:
    """Faults of one shard; counts its rows."""
    path = folder / "shards" / shard["file"]
    try:
        check_shard(path, shard["rows"], manifest.codes_fingerprint)
        if (digest := sha256(path)) != shard["sha256"]:
            yield f"{path}: expected SHA-256 {shard['sha256']}, got {digest}"
        table = pq.read_table(path)
    except (OSError, ValueError, pa.ArrowException) as error:
        yield str(error)
        return
    if empty := [name for name in NEEDED if table[name].null_count]:
        yield f"{path}: expected {' and '.join(empty)} in every row, got rows without"
        return
    seconds = 0.0
    for row in table.to_pylist():
        name = f"{path.name}: row {row['id']!r}"
        yield from (f"{name}: {fault}" for fault in _row_faults(row, manifest))
        if row.get("row") is not None:
            seen.append(row["row"])
        frames.append(row["frames"])
        seconds += row["seconds"]
    verdict.rows += table.num_rows
    verdict.hours += seconds / 3600
    if not math.isclose(seconds, shard.get("seconds", seconds), rel_tol=1e-5, abs_tol=1e-3):
        yield f"{path}: expected {shard['seconds']:.3f} s of sound, got {seconds:.3f}"


def _row_faults(row: dict[str, Any], manifest: Manifest) -> Iterator[str]:
    codec = manifest.codec
    if not math.isfinite(row["seconds"]):
        yield f"expected seconds, got {row['seconds']}"
        return
    if row["n_q"] != codec["n_q"]:
        yield f"expected {codec['n_q']} codebooks, got {row['n_q']}"
        return
    if len(row["codes"]) != 2 * row["n_q"] * row["frames"]:
        yield f"expected {row['frames']} frames of {row['n_q']} codes, got {len(row['codes'])} bytes"
        return
    codes = np.frombuffer(row["codes"], dtype=CODES_DTYPE)
    if len(codes) and not 0 <= codes.min() <= codes.max() < codec["codebook_size"]:
        yield f"expected codes in [0, {codec['codebook_size']}), got {codes.min()} to {codes.max()}"
    # Seconds are stored in float32: half a sample of slack.
    samples = row["seconds"] * codec["sampling_rate"]
    least, most = (math.ceil((samples + d) / codec["hop_length"]) for d in (-0.5, 0.5))
    if not least <= row["frames"] <= most:
        yield f"expected {most} frames for {row['seconds']:.3f} s, got {row['frames']}"


def _check_counts(
    folder: Path, manifest: Manifest, verdict: Verdict, frames: array[int], seen: array[int]
) -> Iterator[str]:
    """Faults of the whole: totals, dropped rows, index, files that belong to nothing."""
    try:
        drops: list[Drop] = read_dropped(folder)
        reasons = dict(sorted(Counter(drop.reason for drop in drops).items()))
        if reasons != manifest.dropped:
            yield f"{folder / DROPPED}: expected {manifest.dropped}, got {reasons}"
        rows, times = np.unique(np.array(seen), return_counts=True)
        yield from (f"{folder}: row {row} of the source is there twice" for row in rows[times > 1])
        both = np.intersect1d(rows, [drop.row for drop in drops]) if drops else []
        yield from (f"{folder / DROPPED}: row {int(row)} is both dropped and in a shard" for row in both)
        if verdict.rows + len(drops) != manifest.source_rows:
            yield (
                f"{folder}: expected {manifest.source_rows} rows of the source, got {verdict.rows} in shards and "
                f"{len(drops)} dropped"
            )
    except (OSError, ValueError) as error:
        yield str(error)
    if verdict.rows != manifest.rows:
        yield f"{folder}: expected {manifest.rows} rows, got {verdict.rows}"
    if not math.isclose(verdict.hours, manifest.hours, rel_tol=1e-5, abs_tol=1e-6):
        yield f"{folder}: expected {manifest.hours:.4f} h, got {verdict.hours:.4f}"
    strange = {path.name for path in (folder / "shards").iterdir()} - {s["file"] for s in manifest.shards}
    yield from (
        f"{folder / 'shards' / name}: belongs to no shard of the manifest" for name in sorted(strange)
    )
    if manifest.format_version > 1 and len(frames) == manifest.rows:
        try:
            if not np.array_equal(PreparedCorpus(folder).frames, frames):
                yield f"{folder / INDEX}: expected the lengths that are in the shards, got others"
        except (OSError, ValueError, pa.ArrowException) as error:
            yield str(error)


def _check_sound(folder: Path, codec: AudioCodec, samples: int, seed: int, verdict: Verdict) -> Iterator[str]:
    """Decode rows drawn at random; faults of what comes out."""
    corpus = PreparedCorpus(folder)
    chosen = np.random.default_rng(seed).permutation(len(corpus))[:samples]
    for number in np.sort(chosen):
        row = corpus.row(int(number))
        with torch.inference_mode():
            gains: dict[str, Any] = {"audio_scales": torch.tensor([row["scales"]])} if codec.has_scale else {}
            wav = codec.decode(row["codes"][None].to(codec.device), **gains).audio_values
        assert wav is not None
        verdict.decoded += 1
        if not bool(torch.isfinite(wav).all()):
            yield f"row {row['id']!r}: decodes to samples that are not finite"
        elif not float(wav.abs().max()) > 0:
            yield f"row {row['id']!r}: decodes to silence"


def _few(faults: Iterator[str]) -> list[str]:
    """The first faults, and how many more there are."""
    found = list(faults)
    more = len(found) - _FAULTS_SHOWN
    return found[:_FAULTS_SHOWN] + ([f"and {more} more of this kind"] if more > 0 else [])
