"""A codec over a test set: every metric per number of codebooks, with confidence intervals.

Knows nothing of training or of how a codec works inside; it asks for codes and for sound. The law it keeps:
every row is either scored or counted as failed, and the averages do not depend on the number of workers.
"""

from __future__ import annotations

import csv
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .audio import load_audio, resample
from .metrics import METRICS, CodeUsage, score

if TYPE_CHECKING:
    from .codec.model import AudioCodec

RESAMPLES = 2000
"""Bootstrap resamples: the ends of a 95 % interval are then good to about a fiftieth of its width."""


@dataclass(frozen=True)
class Row:
    """One line of an audio folder's ``metadata.csv``."""

    path: Path
    text: str = ""
    speaker: str = ""
    source: str = ""
    split: str = ""


@dataclass(frozen=True)
class Average:
    """The mean of one metric over clips, with the 95 % bootstrap interval of the mean."""

    mean: float
    low: float
    high: float
    clips: int


@dataclass
class Condition:
    """One line of the table: a codec at ``n_q`` codebooks, or a baseline."""

    name: str
    n_q: int | None
    bitrate_bps: float | None
    averages: dict[str, Average] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    failures: list[dict[str, str]] = field(default_factory=list)
    clips: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class CodecReport:
    """What ``audiotok eval`` prints and writes."""

    codec: dict[str, Any]
    rows: int
    duration_s: float
    conditions: list[Condition]
    perplexity: list[float]
    perplexity_percent: list[float]
    entropy_bps: float
    bitrate_efficiency: float
    frames: int

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-plain values."""
        return asdict(self)


def read_rows(
    data: str | Path, split: str | None = None, source: str | None = None, limit: int | None = None
) -> list[Row]:
    """Read the ``metadata.csv`` of an audio folder.

    Args:
        data: the folder (or the csv itself). Columns: ``file_name`` and, if there, ``transcription`` (or
            ``text``), ``speaker_id``, ``source``, ``split``.
        split: keep rows whose split is this.
        source: keep rows whose source begins with this.
        limit: keep this many, spread evenly over what is left so that few rows still hold many speakers.

    Returns:
        The rows in file order, at least one.

    Raises:
        FileNotFoundError: no ``metadata.csv``.
        ValueError: no ``file_name`` column, a limit below 1, or no row is left.
    """
    data = Path(data)
    table = data / "metadata.csv" if data.is_dir() else data
    if not table.is_file():
        raise FileNotFoundError(
            f"expected {table}, which is not there; give a folder that holds a metadata.csv"
        )
    with table.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        if "file_name" not in (reader.fieldnames or ()):
            raise ValueError(
                f"expected a column file_name in {table}, got {reader.fieldnames}; see datasets' audiofolder"
            )
        rows = [
            Row(
                path=table.parent / row["file_name"],
                text=row.get("transcription") or row.get("text") or "",
                speaker=row.get("speaker_id") or "",
                source=row.get("source") or "",
                split=row.get("split") or "",
            )
            for row in reader
        ]
    kept = [row for row in rows if split in (None, row.split) and row.source.startswith(source or "")]
    if not kept:
        splits = sorted({row.split for row in rows})
        sources = sorted({row.source for row in rows})
        raise ValueError(
            f"no row of {table} has split {split!r} and a source beginning with {source or ''!r}; "
            f"it has the splits {splits} and the sources {sources}"
        )
    return spread(kept, limit)


def spread(items: list[Any], limit: int | None) -> list[Any]:
    """``limit`` of the items at even distances, all if there are fewer. Raises ValueError below 1."""
    if limit is None or limit >= len(items):
        return items
    if limit < 1:
        raise ValueError(f"expected a limit of at least 1, got {limit}")
    return [items[index * len(items) // limit] for index in range(limit)]


def bootstrap(values: Sequence[float], seed: int = 0) -> Average:
    """The mean and its 95 % percentile bootstrap interval.

    Args:
        values: one number a clip, at least one.
        seed: of the resampling; the same seed gives the same interval.

    Raises:
        ValueError: no value.
    """
    if not len(values):
        raise ValueError("expected at least one value to average, got none")
    array = np.asarray(values, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(0, len(array), (RESAMPLES, len(array)))
    low, high = np.percentile(array[picks].mean(axis=1), (2.5, 97.5))
    return Average(float(array.mean()), float(low), float(high), len(array))


def evaluate_codec(
    codec: AudioCodec,
    rows: Sequence[Row],
    n_qs: Sequence[int] = (),
    *,
    baselines: Sequence[str] = (),
    metrics: Sequence[str] = tuple(METRICS),
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> CodecReport:
    """Encode and decode every row, score it, and average.

    A clip is scored at its file's own sampling rate: what the codec's rate cuts off counts against it.

    Args:
        codec: the codec under test, on its device.
        rows: the clips, see :func:`read_rows`.
        n_qs: numbers of codebooks to decode from; empty = all of them at once.
        baselines: "identity" (the clip itself) and "resample" (the clip through the codec's rate and back).
        metrics: names out of :data:`audiotok.metrics.METRICS`.
        workers: processes that compute metrics; 0 computes them here.
        progress: called with (clips done, clips) after each clip.

    Raises:
        ValueError: no row, an n_q the codec does not have, an unknown metric or baseline.
        AudioError: a file cannot be read.
    """
    config = codec.config
    n_qs = tuple(n_qs) or (config.n_q,)
    _check(rows, n_qs, config.n_q, baselines, metrics)
    book_bps = config.bitrate_bps / config.n_q
    conditions = [Condition(f"n_q={n_q}", n_q, n_q * book_bps) for n_q in n_qs]
    conditions += [Condition(name, None, None) for name in baselines]
    usage = CodeUsage(config.n_q, config.codebook_size)
    seconds = 0.0

    def jobs() -> Iterator[Job]:
        nonlocal seconds
        for row in rows:
            wav, sampling_rate = load_audio(row.path)
            seconds += wav.shape[-1] / sampling_rate
            codes, estimates = _through(codec, wav, sampling_rate, n_qs)
            usage.add(codes)
            estimates += [_baseline(name, wav, sampling_rate, config.sampling_rate) for name in baselines]
            yield wav, estimates, sampling_rate, tuple(metrics)

    with torch.inference_mode(), _mapper(workers) as run:
        for index, results in enumerate(run(_score_all, jobs())):
            for condition, (scores, failed) in zip(conditions, results, strict=True):
                _note(condition, rows[index], scores, failed)
            if progress:
                progress(index + 1, len(rows))
    for condition in conditions:
        columns = {name: [clip[name] for clip in condition.clips if name in clip] for name in metrics}
        condition.averages = {name: bootstrap(values) for name, values in columns.items() if values}
    return CodecReport(
        codec={
            "sampling_rate": config.sampling_rate,
            "frame_rate": config.frame_rate,
            "n_q": config.n_q,
            "codebook_size": config.codebook_size,
            "bitrate_bps": config.bitrate_bps,
            "codes_fingerprint": codec.codes_fingerprint,
            "weights_fingerprint": codec.weights_fingerprint,
        },
        rows=len(rows),
        duration_s=seconds,
        conditions=conditions,
        perplexity=usage.perplexity,
        perplexity_percent=[100 * value / config.codebook_size for value in usage.perplexity],
        entropy_bps=sum(usage.entropy_bits) * config.frame_rate,
        bitrate_efficiency=usage.efficiency,
        frames=usage.frames,
    )


def _check(
    rows: Sequence[Row], n_qs: Sequence[int], n_q: int, baselines: Sequence[str], metrics: Sequence[str]
) -> None:
    if not rows:
        raise ValueError("expected at least one clip to evaluate, got none")
    for value in n_qs:
        if not 1 <= value <= n_q:
            raise ValueError(f"expected 1 <= n_q <= {n_q} (what this codec has), got {value}")
    for name in baselines:
        if name not in ("identity", "resample"):
            raise ValueError(f"expected a baseline out of identity, resample, got {name!r}")
    for name in metrics:
        if name not in METRICS:
            raise ValueError(f"expected a metric out of {', '.join(METRICS)}, got {name!r}")


def _through(
    codec: AudioCodec, wav: Tensor, sampling_rate: int, n_qs: Sequence[int]
) -> tuple[Tensor, list[Tensor]]:
    """All codes [K, T] of one clip, and its reconstructions [1, N] at ``sampling_rate``, one for each n_q."""
    config = codec.config
    at_codec = (
        wav if sampling_rate == config.sampling_rate else resample(wav, sampling_rate, config.sampling_rate)
    )
    codes = codec.encode(at_codec[None].to(codec.device)).audio_codes
    assert codes is not None
    estimates = []
    for n_q in n_qs:
        audio = codec.decode(codes[:, :n_q], num_samples=at_codec.shape[-1]).audio_values
        assert audio is not None
        decoded = audio[0].float().cpu()
        if sampling_rate != config.sampling_rate:
            decoded = resample(decoded, config.sampling_rate, sampling_rate)
        estimates.append(_fit(decoded, wav.shape[-1]))
    return codes[0], estimates


def _baseline(name: str, wav: Tensor, sampling_rate: int, codec_rate: int) -> Tensor:
    if name == "identity" or sampling_rate == codec_rate:
        return wav
    return _fit(resample(resample(wav, sampling_rate, codec_rate), codec_rate, sampling_rate), wav.shape[-1])


def _fit(wav: Tensor, samples: int) -> Tensor:
    """Exactly ``samples`` samples: two resamplings may round the length by one."""
    return torch.nn.functional.pad(wav[..., :samples], (0, max(0, samples - wav.shape[-1])))


def _note(condition: Condition, row: Row, scores: dict[str, float], failed: dict[str, str]) -> None:
    condition.clips.append({"file": str(row.path), "speaker": row.speaker, **scores})
    for name, reason in failed.items():
        condition.failed[name] = condition.failed.get(name, 0) + 1
        condition.failures.append({"file": str(row.path), "metric": name, "reason": reason})


Job = tuple[Tensor, list[Tensor], int, tuple[str, ...]]
Scores = list[tuple[dict[str, float], dict[str, str]]]


def _score_all(job: Job) -> Scores:
    wav, estimates, sampling_rate, metrics = job
    return [score(wav, estimate, sampling_rate, metrics) for estimate in estimates]


def _score_arrays(job: tuple[Any, list[Any], int, tuple[str, ...]]) -> Scores:
    """``_score_all`` over numpy arrays: they cross to a worker by value, tensors by shared memory."""
    wav, estimates, sampling_rate, metrics = job
    return _score_all(
        (torch.from_numpy(wav), [torch.from_numpy(value) for value in estimates], sampling_rate, metrics)
    )


@contextmanager
def _mapper(workers: int) -> Iterator[Callable[[Callable[[Job], Scores], Iterator[Job]], Iterator[Scores]]]:
    """A lazy, ordered map: here, or over spawned processes (a fork beside torch's threads can hang)."""
    if workers < 1:
        yield map
        return

    def run(_: Callable[[Job], Scores], jobs: Iterator[Job]) -> Iterator[Scores]:
        pending: list[Future[Scores]] = []
        plain = (
            (wav.numpy(), [e.numpy() for e in estimates], rate, names) for wav, estimates, rate, names in jobs
        )
        # A bounded queue: the sound of a whole test set is never in memory.
        pending += [pool.submit(_score_arrays, job) for job in islice(plain, 2 * workers)]
        while pending:
            yield pending.pop(0).result()
            pending += [pool.submit(_score_arrays, job) for job in islice(plain, 1)]

    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        workers, mp_context=context, initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        yield run
