"""Reads a prepared corpus by row or in batches of similar lengths, and checks it against its manifest."""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from .checks import DROPPED, read_dropped
from .shards import CODES_DTYPE, NEEDED, SCHEMA, Manifest, check_shard, sha256, unpack_codes

if TYPE_CHECKING:
    from ..codec.model import AudioCodec

# Shards whose rows are shuffled together: enough for similar lengths, few enough to read within a second.
_POOL_SHARDS = 8
_FAULTS_SHOWN = 20


@dataclass(frozen=True)
class Batch:
    """Rows of similar lengths."""

    codes: Tensor  # [B, K, T] int64, zeros where a row is shorter than the longest
    frames: Tensor  # [B] int64, the length of each
    rows: list[dict[str, Any]]  # the other columns


class PreparedCorpus:
    """Random access to the rows of a prepared corpus.

    Args:
        path: a folder written by :func:`~audiotok.corpus.prepare`.
        split: only the rows of this split; None takes all.

    FileNotFoundError if there is no manifest, or a shard that it names is missing. ValueError if the manifest is not
    one, a shard is of another codec, or no row has that split.
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

        IndexError if the row does not exist, ValueError if it is damaged.
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
        """One column of all rows, read without the codes. ValueError if there is no such column."""
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

    def check(self, other: Any) -> None:
        """ValueError if a codec, tokenizer, model or other object with ``codes_fingerprint`` is bound to other codes.

        ``other`` may be the fingerprint itself.
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


def choose(corpus: PreparedCorpus, rows: int, seed: int) -> list[int]:
    """Numbers of rows drawn at random, in order."""
    return np.sort(np.random.default_rng(seed).permutation(len(corpus))[:rows]).tolist()


def decode_row(row: Mapping[str, Any], codec: AudioCodec) -> np.ndarray:
    """The samples [N] float32 that a row's codes decode to, as long as the row's clip."""
    codes = row["codes"]
    # The last frame may be longer than the clip.
    num_samples = min(round(row["seconds"] * codec.config.sampling_rate), codec.samples(codes.shape[1]))
    gains = {"audio_scales": torch.tensor([row["scales"]])} if codec.has_scale else {}
    with torch.inference_mode():
        wav = codec.decode(codes[None].to(codec.device), num_samples=num_samples, **gains).audio_values
    assert wav is not None
    return wav[0, 0].float().cpu().numpy()


# ---- verification


@dataclass
class Verification:
    """The result of :func:`verify`: what was checked, the rows decoded, and a line for each fault (few of a kind)."""

    shards: int = 0
    rows: int = 0
    hours: float = 0.0
    decoded: int = 0
    faults: list[str] = field(default_factory=list)


def verify(
    path: str | Path, codec: AudioCodec | None = None, *, samples: int = 8, seed: int = 0
) -> Verification:
    """Check a prepared corpus: hashes, counts, every code's range, and a sample of rows decoded.

    ``codec`` decodes ``samples`` rows drawn with ``seed``; None decodes none. FileNotFoundError if there is no
    manifest; ValueError if it is damaged, or the codec is another.
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
