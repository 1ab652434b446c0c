"""The run that turns a source into a prepared corpus, and that goes on where it was stopped.

Knows nothing of where rows come from or of what is later done with codes. The law it keeps is accounting:
every row ends in a shard or in ``dropped.jsonl``, and the files are the same for any number of workers and
any interruption.
"""

from __future__ import annotations

import copy
import itertools
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..codec.model import AudioCodec
from ..codec.pretrained import load_codec
from .checks import Drop, Header, Limits, decode, inspect
from .journal import Journal
from .plan import Plan, make_batches, make_plan
from .pool import Pool
from .shards import FORMAT_VERSION, Manifest, pack_codes
from .sources import Source, open_source

CODEC_FIELDS = ("name", "n_q", "codebook_size", "hop_length", "sampling_rate")
_CHUNK = 256  # rows that one call inspects


@dataclass(frozen=True)
class Progress:
    """How far a run is. ``stage`` is "check" or "encode"; seconds are of sound, ``elapsed_s`` is time."""

    stage: str
    rows: int
    rows_total: int
    seconds: float
    seconds_total: float
    elapsed_s: float

    @property
    def remaining_s(self) -> float:
        """Estimated seconds until the stage is done; NaN before anything is."""
        done = (
            self.seconds / self.seconds_total if self.seconds_total else self.rows / max(self.rows_total, 1)
        )
        return self.elapsed_s * (1 - done) / done if done else float("nan")


class RowServer:
    """What a worker does: inspect rows, and encode batches of them.

    Args:
        source: the rows.
        limits: which of them are fit.
        codec: a pickled codec. As bytes, because handing tensors to a process would share memory with it.
        device: where to encode.
        n_q: codebooks to keep.
    """

    def __init__(self, source: Source, limits: Limits, codec: bytes, device: str, n_q: int) -> None:
        self.source = source
        self.limits = limits
        self.codec: AudioCodec = pickle.loads(codec).to(device).eval()
        self.device = device
        self.n_q = n_q

    def inspect(self, indices: range) -> list[Header | Drop]:
        """Check the headers of rows."""
        return [inspect(self.source[index], self.limits) for index in indices]

    def encode(self, indices: list[int]) -> list[dict[str, Any] | Drop]:
        """Decode and encode rows as one batch; gives a row of a shard, or a drop, for each."""
        config = self.codec.config
        rows = [self.source[index] for index in indices]
        sounds = [decode(row, self.limits, config.sampling_rate) for row in rows]
        fit = [sound for sound in sounds if not isinstance(sound, Drop)]
        codes = iter(self._encode(fit) if fit else [])
        out: list[dict[str, Any] | Drop] = []
        for row, sound in zip(rows, sounds, strict=True):
            if isinstance(sound, Drop):
                out.append(sound)
                continue
            own = next(codes)
            shared = {"id": row.id, "text": row.text, "speaker": row.speaker, "language": row.language}
            length = {"frames": own.shape[1], "seconds": sound.shape[1] / config.sampling_rate}
            out.append(shared | length | {"split": row.split, "codes": pack_codes(own), "n_q": self.n_q})
        return out

    def _encode(self, sounds: list[torch.Tensor]) -> list[torch.Tensor]:
        lengths = torch.tensor([sound.shape[1] for sound in sounds])
        longest = int(lengths.max())
        padded = torch.zeros(len(sounds), 1, longest)
        for place, sound in zip(padded, sounds, strict=True):
            place[:, : sound.shape[1]] = sound
        mask = torch.arange(longest) < lengths[:, None]
        out = self.codec.encode(padded.to(self.device), padding_mask=mask.to(self.device), n_q=self.n_q)
        hop = self.codec.config.hop_length
        frames = [-(-sound.shape[1] // hop) for sound in sounds]
        return [codes[:, :count].cpu() for codes, count in zip(out["audio_codes"], frames, strict=True)]


def prepare(
    source: str | Path | Source | Any,
    out: str | Path,
    codec: AudioCodec | str | Path | None = None,
    *,
    split: str | None = None,
    columns: Mapping[str, str] | None = None,
    limits: Limits | None = None,
    n_q: int | None = None,
    rows_per_shard: int = 1024,
    batch_s: float = 64.0,
    workers: int = 1,
    device: str | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Manifest:
    """Encode a corpus into shards of codes.

    Run again after a stop, it keeps the shards that are finished (their hashes are checked) and makes the
    rest; the files are the same as if it had not been stopped. With ``workers`` > 1 the calling script needs
    the usual ``if __name__ == "__main__":`` guard, because the processes are spawned.

    Args:
        source: what :func:`~audiotok.corpus.sources.open_source` opens, or its result.
        out: folder to write; new, empty, or a preparation of the same.
        codec: a codec, or what :func:`~audiotok.load_codec` takes; None is the default one.
        split: which splits to take, separated by commas; None takes all.
        columns: the column of a field, where the usual names do not find it.
        limits: which rows are fit; None gives the defaults of :class:`~audiotok.corpus.checks.Limits`.
        n_q: codebooks to keep, of the codec's; None keeps all.
        rows_per_shard: rows planned for one Parquet file.
        batch_s: seconds of padded sound that are encoded at once.
        workers: processes with one thread each.
        device: where each of them encodes; None is where ``codec`` is.
        progress: called as the work goes on.

    Returns:
        The manifest, which is also in ``out/manifest.json``.

    Raises:
        FileNotFoundError: the source or the codec does not exist.
        ValueError: the source cannot be read, an option is out of range, or ``out`` holds something else.
        OSError: ``out`` cannot be written, or a worker died.
    """
    if rows_per_shard < 1 or not batch_s > 0:
        raise ValueError(f"expected rows_per_shard >= 1 and batch_s > 0, got {rows_per_shard} and {batch_s}")
    codec = codec if isinstance(codec, torch.nn.Module) else load_codec(codec, device=device or "cpu")
    device = device or str(codec.device)
    limits = limits or Limits()
    opened = source if isinstance(source, Source) else open_source(source, split=split, columns=columns)
    options = {"split": split, "columns": dict(columns or {}), **asdict(limits)}
    options |= {"rows_per_shard": rows_per_shard, "batch_s": batch_s}
    bound = _binding(codec, n_q)
    journal = Journal(out)
    clock = _Clock(progress)
    # On the CPU, because a worker need not see the device that this process uses.
    pickled = pickle.dumps(copy.deepcopy(codec).cpu())
    server = (opened, limits, pickled, device, bound["n_q"])
    with Pool(RowServer, server, workers) as pool:
        inspected = _inspect(pool, len(opened), clock)
        plan = make_plan(inspected, {"bound": bound, "options": options}, rows_per_shard)
        done = journal.finished(plan)
        for number, rows in _encode(pool, plan, set(done), batch_s, clock):
            done[number] = journal.write(number, rows, bound, plan)
    manifest = Manifest(
        codes_fingerprint=bound["codes_fingerprint"],
        codec={key: bound[key] for key in CODEC_FIELDS},
        source=opened.describe,
        options=options,
        plan=plan.digest,
        source_rows=len(opened),
    )
    return journal.finish(manifest, plan, done)


def _binding(codec: AudioCodec, n_q: int | None) -> dict[str, Any]:
    """What the codes of a shard mean: it goes into every shard and into the plan."""
    config = codec.config
    kept = config.n_q if n_q is None else n_q
    if not 1 <= kept <= config.n_q:
        raise ValueError(f"expected n_q from 1 to {config.n_q}, got {n_q}")
    if config.codebook_size > 1 << 15:
        raise ValueError(f"expected a codebook_size that fits int16, got {config.codebook_size}")
    return {
        "format_version": FORMAT_VERSION,
        "codes_fingerprint": codec.codes_fingerprint,
        "name": config.codec_name,
        "n_q": kept,
        "codebook_size": config.codebook_size,
        "hop_length": config.hop_length,
        "sampling_rate": config.sampling_rate,
    }


def _inspect(pool: Pool, total: int, clock: _Clock) -> Iterator[Header | Drop]:
    """Every row's header or drop, in order."""
    clock.start("check", total, 0.0)
    for answers in pool.map(
        "inspect", (range(at, min(at + _CHUNK, total)) for at in range(0, total, _CHUNK))
    ):
        clock.add(len(answers), 0.0)
        yield from answers


def _encode(
    pool: Pool, plan: Plan, done: set[int], batch_s: float, clock: _Clock
) -> Iterator[tuple[int, list[dict[str, Any] | Drop]]]:
    """The shards that are not done: their number, and what came of each planned row, in source order."""
    todo = [number for number in range(len(plan.shards)) if number not in done]
    headers = {header.row: header for number in todo for header in plan.shards[number]}
    clock.start("encode", len(headers), sum(header.seconds for header in headers.values()))
    batches = ((number, batch) for number in todo for batch in make_batches(plan.shards[number], batch_s))
    # Two readers of one plan: what is asked for, and which shard the next answer belongs to.
    asked, owners = itertools.tee(batches)
    answers = pool.map("encode", (batch for _, batch in asked))
    for number, group in itertools.groupby(zip(owners, answers, strict=True), key=lambda pair: pair[0][0]):
        results: dict[int, dict[str, Any] | Drop] = {}
        for (_, batch), answer in group:
            results |= dict(zip(batch, answer, strict=True))
            clock.add(len(batch), sum(headers[row].seconds for row in batch))
        yield number, [results[row] for row in sorted(results)]


class _Clock:
    """Turns finished work into :class:`Progress` calls."""

    def __init__(self, report: Callable[[Progress], None] | None) -> None:
        self._report = report

    def start(self, stage: str, rows: int, seconds: float) -> None:
        self._stage, self._totals, self._rows, self._seconds = stage, (rows, seconds), 0, 0.0
        self._began = time.monotonic()

    def add(self, rows: int, seconds: float) -> None:
        self._rows, self._seconds = self._rows + rows, self._seconds + seconds
        if self._report is not None:
            (rows_total, seconds_total), elapsed = self._totals, time.monotonic() - self._began
            self._report(Progress(self._stage, self._rows, rows_total, self._seconds, seconds_total, elapsed))
