"""Tasks of a preparation. Each makes one shard: it decodes, checks, encodes and writes the rows."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .checks import Drop, Limits, Shaping, Sound, decode, inspect
from .rows import FilePart, Source, SourceRow
from .shards import group_of, pack_codes, shard_name, write_shard

if TYPE_CHECKING:
    from ..codec.model import AudioCodec

_CHUNK = 64
Row = dict[str, Any] | Drop


@dataclass(frozen=True)
class Task:
    """One shard."""

    name: str  # of its file
    indices: np.ndarray  # numbers of its rows in the source
    repeated: frozenset[int] = frozenset()  # those of them that have an id of a row before them

    def __str__(self) -> str:
        return f"{self.name} (rows {self.indices[0]} to {self.indices[-1]} of the source)"


@dataclass(frozen=True)
class Job:
    """Settings that all tasks share; ``limits``, ``shaping``, ``batch_s`` and ``device`` as for :func:`prepare`."""

    source: Source
    limits: Limits
    shaping: Shaping
    batch_s: float
    # Pickled, because handing tensors to a process would share memory with it. None makes no codes (a dry run).
    codec: bytes | None = None
    device: str = "cpu"
    bound: Mapping[str, Any] = field(default_factory=dict)  # identity of the codec, stored in every shard
    folder: Path | None = None  # of the shards; None returns the rows instead


class ShardMaker:
    """Makes shards; one in each process."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.codec: AudioCodec | None = None
        if job.codec is not None:
            self.codec = pickle.loads(job.codec).to(job.device).eval()

    def __call__(self, task: Task) -> tuple[float, list[Row]]:
        """Make a shard: seconds of sound in it and, where none is written, its rows in order.

        Rows of similar lengths are encoded together, which does not change their codes.
        """
        made, lengths = dict[int, Row](), list[tuple[float, int]]()
        for chunk in np.split(task.indices, range(_CHUNK, len(task.indices), _CHUNK)):
            for row in self.job.source.take(chunk.tolist()):
                if row.index in task.repeated:
                    row = replace(row, problem=row.problem or ("duplicate", row.id))
                found = inspect(row, self.job.limits)
                if isinstance(found, Drop):
                    made[row.index] = found
                else:
                    lengths.append((found, row.index))
        for batch in make_batches(lengths, self.job.batch_s):
            made |= zip(batch, self._encode(self.job.source.take(batch)), strict=True)
        rows = [made[index] for index in sorted(made)]
        kept = [row for row in rows if not isinstance(row, Drop)]
        seconds = sum(row["seconds"] for row in kept)
        if self.job.folder is None:
            return seconds, rows
        drops = [row for row in rows if isinstance(row, Drop)]
        write_shard(self.job.folder / task.name, kept, self.job.bound, drops)
        return seconds, []

    def _encode(self, rows: list[SourceRow]) -> list[Row]:
        job = self.job
        rate = self.codec.config.sampling_rate if self.codec else None
        sounds = [decode(row, job.limits, rate, job.shaping) for row in rows]
        fit = [sound for sound in sounds if not isinstance(sound, Drop)]
        codes = iter(self._codes(self.codec, fit) if fit and self.codec else [{}] * len(fit))
        made: list[Row] = []
        for row, sound in zip(rows, sounds, strict=True):
            if isinstance(sound, Drop):
                made.append(sound)
                continue
            named = {name: getattr(row, name) for name in ("id", "text", "speaker", "language", "split")}
            seconds = sound.wav.shape[1] / sound.sampling_rate
            measured = {"seconds": seconds, "start_s": sound.start_s, "level_db": sound.level_db}
            made.append({"row": row.index, "fields": row.other or None, **named, **measured, **next(codes)})
        return made

    def _codes(self, codec: AudioCodec, sounds: list[Sound]) -> list[dict[str, Any]]:
        from ..codec.model import AudioCodec

        lengths = torch.tensor([sound.wav.shape[1] for sound in sounds])
        longest = int(lengths.max())
        # A mono clip on every channel.
        padded = torch.zeros(len(sounds), codec.config.audio_channels, longest)
        for place, sound in zip(padded, sounds, strict=True):
            place[:, : sound.wav.shape[1]] = sound.wav
        mask = None
        # Padding after a clip does not change the codes of a causal codec, so no mask is needed.
        if int(lengths.min()) < longest and not isinstance(codec, AudioCodec):
            mask = (torch.arange(longest) < lengths[:, None]).to(self.job.device)
        n_q = self.job.bound["n_q"]
        found = codec.encode(padded.to(self.job.device), padding_mask=mask, n_q=n_q)
        assert found.audio_codes is not None
        made = []
        for i, (codes, sound) in enumerate(zip(found.audio_codes.cpu(), sounds, strict=True)):
            frames = codec.frames(sound.wav.shape[1])
            row = {"frames": frames, "codes": pack_codes(codes[:, :frames]), "n_q": n_q}
            if found.audio_scales is not None:
                row["scales"] = found.audio_scales[i, : -(-frames // codec.scale_frames)].tolist()
            made.append(row)
        return made


def make_batches(lengths: Iterable[tuple[float, int]], batch_s: float) -> list[list[int]]:
    """Batch rows (seconds, number) of similar lengths, with at most ``batch_s`` padded seconds or one row."""
    batches: list[list[int]] = []
    shortest = 0.0
    for seconds, row in sorted(lengths):
        # Sorted upwards: the newest row is the longest, so it sets the padded size. No batch is padded by a third.
        if batches and (len(batches[-1]) + 1) * seconds <= batch_s and shortest >= 0.75 * seconds:
            batches[-1].append(row)
        else:
            batches.append([row])
            shortest = seconds
    return batches


# ---- cutting a source into tasks


@dataclass(frozen=True)
class Survey:
    """The listing of a source, read before any sound is opened."""

    digest: str  # hex, over everything that is listed
    groups: dict[str, np.ndarray]  # the split of each shard -> numbers of its rows
    repeated: np.ndarray  # [rows] bool, true where a row before has the same id

    def tasks(self, size: int) -> Iterator[Task]:
        """The tasks, each of at most ``size`` rows of one group."""
        for group, indices in self.groups.items():
            for number, part in enumerate(np.split(indices, range(size, len(indices), size))):
                yield Task(shard_name(group, number), part, frozenset(part[self.repeated[part]].tolist()))


def survey(source: Source) -> Survey:
    """List the rows of a source without opening their sound, with 20 bytes of memory per row."""
    digest, hashes, groups = hashlib.sha256(), bytearray(), dict[str, Any]()
    for row in source.listing():
        values: list[Any] = [row.id, row.text, row.speaker, row.language, row.split]
        values += [str(row.cut), row.problem, row.other]
        if isinstance(row.audio, str | FilePart):
            path = row.audio if isinstance(row.audio, str) else row.audio.path
            # The folder of the file does not count.
            values += [os.path.basename(path), os.stat(path).st_size if os.path.isfile(path) else -1]
        digest.update(json.dumps(values, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        # Collisions of 16 bytes are negligible.
        hashes += hashlib.blake2b(row.id.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        groups.setdefault(group_of(row.split), array("q")).append(row.index)
    ids = np.frombuffer(bytes(hashes), dtype=np.uint64).reshape(-1, 2)
    repeated = np.zeros(len(ids), dtype=bool)
    order = np.lexsort((ids[:, 1], ids[:, 0]))  # stable: of equal ids the first row comes first
    ordered = ids[order]
    repeated[order[1:]] = (ordered[1:] == ordered[:-1]).all(axis=1)
    return Survey(digest.hexdigest(), {name: np.array(rows) for name, rows in groups.items()}, repeated)
