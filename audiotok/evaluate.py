"""Codec quality on a test set, per number of codebooks and compared with Opus, with bootstrap intervals."""

from __future__ import annotations

import csv
import multiprocessing
import os
import shutil
import subprocess
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from .audio import load_audio, resample, save_audio
from .bitstream.format import ADAPTIVE, LEARNT, MAX_PACKET_FRAMES, PACKET_S
from .bitstream.layers import LayerCoder, find_model
from .codec.streaming import decode_with_losses, random_losses
from .metrics import METRICS, CodeUsage, check_libraries, score
from .search import SearchingEncoder, search_codes

if TYPE_CHECKING:
    from .codec.model import AudioCodec

FAST_METRICS = tuple(name for name in METRICS if name != "visqol")
"""All metrics except ViSQOL, which takes longer than the others together."""

BASELINES = ("identity", "resample")
RESAMPLES = 2000
"""Bootstrap resamples."""

_OPUS_PROGRAMS = ("opusenc", "opusdec")

# ------------------------------------------------------------------------------------------------ rows of a test set


@dataclass(frozen=True)
class Row:
    """One row of an audio folder's ``metadata.csv``."""

    path: Path
    text: str = ""
    speaker: str = ""
    source: str = ""
    split: str = ""


def read_rows(
    data: str | Path, split: str | None = None, source: str | None = None, limit: int | None = None
) -> list[Row]:
    """Read the ``metadata.csv`` of an audio folder.

    Args:
        data: the folder or the csv file. Columns: ``file_name`` and optionally ``transcription`` (or ``text``),
            ``speaker_id``, ``source``, ``split``.
        split: keep rows of this split.
        source: keep rows whose source begins with this.
        limit: keep at most this many rows, evenly spaced.

    Returns:
        the rows in file order, at least one.

    Raises:
        FileNotFoundError: no ``metadata.csv``.
        ValueError: the table is not UTF-8 or has no ``file_name`` column, the limit is below 1, or no row is left.
    """
    data = Path(data)
    table = data / "metadata.csv" if data.is_dir() else data
    if not table.is_file():
        raise FileNotFoundError(f"{table}: no such file; name a folder with a metadata.csv")
    try:
        rows = _read_table(table)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(
            f"{table}: expected a table in UTF-8 with a column file_name ({error}); save it again"
        ) from None
    kept = [row for row in rows if split in (None, row.split) and row.source.startswith(source or "")]
    if not kept:
        raise ValueError(
            f"no row of {table} has split {split!r} and a source beginning with {source or ''!r}; it has the splits "
            f"{sorted({row.split for row in rows})} and the sources {sorted({row.source for row in rows})}"
        )
    return spread(kept, limit)


def _read_table(table: Path) -> list[Row]:
    with table.open(newline="", encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        if "file_name" not in (reader.fieldnames or ()):
            raise ValueError(
                f"{table}: expected a column file_name, got {reader.fieldnames}; see datasets' audiofolder"
            )
        return [
            Row(
                path=table.parent / row["file_name"],
                text=row.get("transcription") or row.get("text") or "",
                speaker=row.get("speaker_id") or "",
                source=row.get("source") or "",
                split=row.get("split") or "",
            )
            for row in reader
        ]


def spread(items: list[Any], limit: int | None) -> list[Any]:
    """``limit`` evenly spaced items, all if there are fewer. ValueError: a limit below 1."""
    if limit is None or limit >= len(items):
        return items
    if limit < 1:
        raise ValueError(f"expected a limit of at least 1, got {limit}")
    return [items[index * len(items) // limit] for index in range(limit)]


# ------------------------------------------------------------------------------------------------ intervals, report


@dataclass(frozen=True)
class Average:
    """The mean of a metric over clips, with the 95 % bootstrap interval of the mean."""

    mean: float
    low: float
    high: float
    clips: int


def bootstrap_interval(
    counts: Sequence[int], statistic: Callable[..., np.ndarray[Any, Any]], seed: int = 0
) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of a statistic over one or more sets of clips (Efron, Tibshirani 1993).

    Args:
        counts: clips of each set.
        statistic: takes one array of indices per set, [R, clips of the set] int64, and returns [R].
        seed: of the resampling.

    Returns:
        the lower and the upper end.

    Raises:
        ValueError: a set without clips.
    """
    if not counts or min(counts) < 1:
        raise ValueError(f"expected at least one value to average, got sets of {list(counts)}")
    rng = np.random.default_rng(seed)
    picks = [rng.integers(0, count, (RESAMPLES, count)) for count in counts]
    low, high = np.percentile(statistic(*picks), (2.5, 97.5))
    return float(low), float(high)


def bootstrap(values: Sequence[float], seed: int = 0) -> Average:
    """The mean of at least one value and its 95 % bootstrap interval. ValueError: no value."""
    array = np.asarray(values, dtype=np.float64)
    low, high = bootstrap_interval([len(array)], lambda picks: array[picks].mean(axis=1), seed)
    return Average(float(array.mean()), low, high, len(array))


@dataclass
class Condition:
    """One line of the table: the codec at ``n_q`` codebooks, or a system that it is compared with.

    Attributes:
        name: as printed.
        kind: "codec", "search" (optimised codes), "loss" (packets lost), "opus", or "baseline" (no codec).
        metrics: names of its metrics.
        n_q: codebooks decoded.
        loss: share of packets that are lost.
        conceal: whether lost packets are concealed or silent.
        search: optimisation steps.
        opus_kbps: the bitrate asked of Opus.
        raw_bps: bits per second of a codec's codes before entropy coding.
        bitrate_bps: coded bits per second: codes after entropy coding, or Opus packets.
        averages: metric -> mean over the clips on which it is defined.
        failed: metric -> number of clips on which it is not defined.
        failures: file, metric and reason of each.
        clips: file, speaker and scores of each clip.
    """

    name: str
    kind: Literal["codec", "search", "loss", "opus", "baseline"]
    metrics: tuple[str, ...]
    n_q: int | None = None
    loss: float | None = None
    conceal: bool | None = None
    search: int | None = None
    opus_kbps: float | None = None
    raw_bps: float | None = None
    bitrate_bps: float | None = None
    averages: dict[str, Average] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)
    failures: list[dict[str, str]] = field(default_factory=list)
    clips: list[dict[str, Any]] = field(default_factory=list)

    def add(self, path: Path, speaker: str, result: dict[str, Any]) -> None:
        """Add the result of one clip: "scores", "failed", "duration_s" and optionally "coded_bits"."""
        facts = {name: value for name, value in result.items() if name not in ("scores", "failed")}
        self.clips.append({"file": str(path), "speaker": speaker, **facts, **result["scores"]})
        for name, reason in result["failed"].items():
            self.failed[name] = self.failed.get(name, 0) + 1
            self.failures.append({"file": str(path), "metric": name, "reason": reason})

    def average(self) -> None:
        """Compute ``averages`` and ``bitrate_bps`` from ``clips``."""
        for name in self.metrics:
            if values := [clip[name] for clip in self.clips if name in clip]:
                self.averages[name] = bootstrap(values)
        if counted := [clip for clip in self.clips if "coded_bits" in clip]:
            self.bitrate_bps = sum(c["coded_bits"] for c in counted) / sum(c["duration_s"] for c in counted)


@dataclass
class CodecReport:
    """Result of an evaluation.

    Attributes:
        codec: name, numbers and fingerprints of the codec.
        rows: number of clips.
        duration_s: their total length.
        conditions: lines of the table.
        skipped: conditions that could not run on this machine, with the reason.
        frames: frames over which codebook use was counted.
        perplexity: of each codebook, 1 to V.
        entropy_bits: of each codebook, per frame.
        entropy_bps: bits per second of ideal order-0 coding.
    """

    codec: dict[str, Any]
    rows: int
    duration_s: float
    conditions: list[Condition]
    skipped: Sequence[dict[str, str]]
    frames: int
    perplexity: list[float]
    entropy_bits: list[float]
    entropy_bps: float

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-plain values."""
        return asdict(self)


# ------------------------------------------------------------------------------------------------ the evaluation


def evaluate_codec(
    codec: AudioCodec,
    rows: Sequence[Row],
    n_qs: Sequence[int] = (),
    *,
    baselines: Sequence[str] = (),
    opus_kbps: Sequence[float] = (),
    losses: Sequence[float] = (),
    search: int | None = None,
    metrics: Sequence[str] = FAST_METRICS,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> CodecReport:
    """Encode, decode and score every clip. A clip is scored at its file's own sampling rate.

    Args:
        codec: the codec, on its device.
        rows: the clips, see :func:`read_rows`.
        n_qs: numbers of codebooks to decode from; empty = all of them at once.
        baselines: "identity" (the clip itself) and "resample" (the clip at the codec's rate and back).
        opus_kbps: bitrates of Opus in kbit/s; skipped where opus-tools is not installed.
        losses: shares of frames to lose at random at the largest n_q, each share once concealed and once as silence.
        search: also score codes optimised with this many steps (:func:`audiotok.search.search_codes`).
        metrics: names in :data:`audiotok.metrics.METRICS`.
        workers: processes that compute metrics; 0 computes them in this one. The result is the same.
        progress: called with (clips done, clips) after each clip.

    Raises:
        ValueError: no row, an n_q that the codec does not have, an unknown metric or baseline, a bitrate out of
            range, a loss outside (0, 1), or losses or search that the codec does not support.
        ModuleNotFoundError: the package of a metric is missing.
        AudioError: a file cannot be read.
    """
    config = codec.config
    n_qs = tuple(dict.fromkeys(n_qs)) or (config.n_q,)
    _check(codec, rows, n_qs, baselines, metrics, opus_kbps, losses)
    if search is not None:
        SearchingEncoder(codec, steps=search)
    skipped = []
    if opus_kbps and (reason := opus_missing()):
        skipped = [{"condition": f"opus {kbps:g} kbps", "reason": reason} for kbps in opus_kbps]
        opus_kbps = ()
    conditions = _conditions(
        n_qs, config.bitrate_bps / config.n_q, baselines, opus_kbps, losses, search, tuple(metrics)
    )
    check_libraries(metrics)
    usage, seconds = CodeUsage(config.n_q, config.codebook_size), 0.0

    def jobs() -> Iterator[_Job]:
        nonlocal seconds
        for row in rows:
            wav, rate = load_audio(row.path)
            seconds += wav.shape[-1] / rate
            at_codec = resample(wav, rate, config.sampling_rate)
            out = codec.encode(codec.spread(at_codec[None]))
            assert out.audio_codes is not None
            usage.add(out.audio_codes[0])
            yield _Job(wav.numpy(), rate, tuple(_attempts(codec, row, wav, rate, at_codec, out, conditions)))

    with torch.inference_mode(), _mapper(workers) as score_jobs:
        for done, (row, results) in enumerate(zip(rows, score_jobs(jobs()), strict=True), 1):
            for condition, result in zip(conditions, results, strict=True):
                condition.add(row.path, row.speaker, result)
            if progress:
                progress(done, len(rows))
    for condition in conditions:
        condition.average()
    names = ("codec_name", "sampling_rate", "frame_rate", "n_q", "codebook_size", "bitrate_bps")
    facts = {name.removeprefix("codec_"): getattr(config, name) for name in names}
    fingerprints = {name: getattr(codec, name) for name in ("codes_fingerprint", "weights_fingerprint")}
    return CodecReport(
        codec=facts | fingerprints,
        rows=len(rows),
        duration_s=seconds,
        conditions=conditions,
        skipped=skipped,
        frames=usage.frames,
        perplexity=usage.perplexity,
        entropy_bits=usage.entropy_bits,
        entropy_bps=sum(usage.entropy_bits) * config.frame_rate,
    )


def _check(
    codec: AudioCodec,
    rows: Sequence[Row],
    n_qs: Sequence[int],
    baselines: Sequence[str],
    metrics: Sequence[str],
    opus_kbps: Sequence[float],
    losses: Sequence[float],
) -> None:
    if not rows:
        raise ValueError("expected at least one clip to evaluate, got none")
    for n_q in n_qs:
        if not 1 <= n_q <= codec.config.n_q:
            raise ValueError(f"expected 1 <= n_q <= {codec.config.n_q}, got {n_q}")
    for what, names, known in (("baseline", baselines, BASELINES), ("metric", metrics, tuple(METRICS))):
        if unknown := [name for name in names if name not in known]:
            raise ValueError(f"unknown {what} {unknown[0]!r}; choose from {', '.join(known)}")
    for kbps in opus_kbps:
        if not 6 <= kbps <= 256:
            raise ValueError(f"expected an Opus bitrate of 6 to 256 kbit/s, got {kbps:g}")
    for loss in losses:
        if not 0 < loss < 1:
            raise ValueError(f"expected a share of lost packets above 0 and below 1, got {loss:g}")
    if losses and not codec.streams:
        raise ValueError(
            f"{codec.config.codec_name} does not stream, so that no packets can be lost; leave out losses"
        )


def _conditions(
    n_qs: Sequence[int],
    codebook_bps: float,
    baselines: Sequence[str],
    opus_kbps: Sequence[float],
    losses: Sequence[float],
    search: int | None,
    metrics: tuple[str, ...],
) -> list[Condition]:
    """The conditions, without results."""
    conditions = [
        Condition(f"n_q={n_q}", "codec", metrics, n_q, raw_bps=n_q * codebook_bps)
        if steps is None
        else Condition(
            f"n_q={n_q}, search {steps}", "search", metrics, n_q, search=steps, raw_bps=n_q * codebook_bps
        )
        for steps in dict.fromkeys((None, search))
        for n_q in n_qs
    ]
    top = max(n_qs)
    conditions += [
        Condition(
            f"n_q={top}, {100 * loss:g} % lost, {'concealed' if conceal else 'silent'}",
            "loss",
            metrics,
            top,
            loss,
            conceal,
            raw_bps=top * codebook_bps,
        )
        for loss in dict.fromkeys(losses)
        for conceal in (True, False)
    ]
    conditions += [
        Condition(f"opus {kbps:g} kbps", "opus", metrics, opus_kbps=kbps) for kbps in dict.fromkeys(opus_kbps)
    ]
    return conditions + [Condition(name, "baseline", metrics) for name in dict.fromkeys(baselines)]


def _attempts(
    codec: AudioCodec,
    row: Row,
    wav: Tensor,
    rate: int,
    at_codec: Tensor,
    out: Any,
    conditions: Sequence[Condition],
) -> Iterator[_Attempt]:
    """The output for a clip [1, N] under every condition; ``out`` holds its codes and scales."""
    gains: dict[str, Any] = {"audio_scales": out.audio_scales} if codec.has_scale else {}
    plain_bits = _coded_bits(codec, out.audio_codes[0])
    for condition in conditions:
        if condition.n_q is None:
            kbps = condition.opus_kbps
            sound = wav
            if condition.name == "resample":
                sound = _fit(resample(at_codec, codec.config.sampling_rate, rate), wav.shape[-1])
            yield _Attempt(sound.numpy() if kbps is None else None, kbps, condition.metrics)
            continue
        codes, bits = out.audio_codes[:, : condition.n_q], plain_bits
        if condition.search is not None:
            optimised = search_codes(
                codec, codec.spread(at_codec[None]), n_q=condition.n_q, steps=condition.search
            )
            assert optimised.audio_codes is not None
            codes = optimised.audio_codes
            bits = _coded_bits(codec, codes[0])
        if condition.loss is None:
            audio = codec.decode(codes, **gains).audio_values
        else:
            seed = zlib.crc32(
                row.path.name.encode("utf-8", "surrogateescape")
            )  # the same losses in every run
            lost = random_losses(codes.shape[-1], condition.loss, seed)
            audio = decode_with_losses(codec, codes, lost, conceal=bool(condition.conceal))
        assert audio is not None
        decoded = audio[0, :, : at_codec.shape[-1]].float().mean(dim=0, keepdim=True).cpu()
        sound = _fit(resample(decoded, codec.config.sampling_rate, rate), wav.shape[-1])
        yield _Attempt(sound.numpy(), None, condition.metrics, sum(bits[: condition.n_q]))


def _coded_bits(codec: AudioCodec, codes: Tensor) -> list[int]:
    """Bits of every codebook of codes [K, T] after entropy coding, in packets as ``.atok`` files have them."""
    config, folder = codec.config, Path(str(codec.name_or_path))
    model = find_model(codec.codes_fingerprint, folder if folder.is_dir() else None)
    coder = LayerCoder((config.codebook_size,) * len(codes), ADAPTIVE if model is None else LEARNT, model)
    frames = min(MAX_PACKET_FRAMES, max(1, round(PACKET_S * config.frame_rate)))
    packets = coder.encode([packet.numpy() for packet in codes.cpu().split(frames, dim=1)])
    return [8 * sum(map(len, layers)) for layers in zip(*packets, strict=True)]


def _fit(wav: Tensor, samples: int) -> Tensor:
    """Cut or pad wav [1, N] to ``samples``, since two resamplings may change the length by one."""
    return torch.nn.functional.pad(wav[..., :samples], (0, max(0, samples - wav.shape[-1])))


# ------------------------------------------------------------------------------------------------ scoring in processes

_Samples = np.ndarray[Any, np.dtype[np.float32]]


@dataclass(frozen=True)
class _Attempt:
    """Output [1, N] of one condition or the Opus bitrate that produces it, its metrics, and its coded bits."""

    estimate: _Samples | None
    opus_kbps: float | None
    metrics: tuple[str, ...]
    coded_bits: int | None = None


@dataclass(frozen=True)
class _Job:
    """A clip, [1, N] at ``sampling_rate``, and its attempts."""

    wav: _Samples
    sampling_rate: int
    attempts: tuple[_Attempt, ...]


_Results = list[dict[str, Any]]


@contextmanager
def _mapper(workers: int) -> Iterator[Callable[[Iterator[_Job]], Iterator[_Results]]]:
    """A lazy, ordered map over jobs, in this process or in spawned ones (a fork beside torch's threads can hang)."""
    if workers < 1:
        yield lambda jobs: map(_score_all, jobs)
        return

    def run(jobs: Iterator[_Job]) -> Iterator[_Results]:
        # The bounded queue keeps the audio of a whole test set out of memory.
        pending: list[Future[_Results]] = [pool.submit(_score_all, job) for job in islice(jobs, 2 * workers)]
        while pending:
            yield pending.pop(0).result()
            pending += [pool.submit(_score_all, job) for job in islice(jobs, 1)]

    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as pool:
        yield run


def _one_thread() -> None:
    torch.set_num_threads(1)
    os.environ["NUMBA_NUM_THREADS"] = "1"  # ViSQOL reads it at import


def _score_all(job: _Job) -> _Results:
    return [_score_one(torch.from_numpy(job.wav), job.sampling_rate, attempt) for attempt in job.attempts]


def _score_one(wav: Tensor, sampling_rate: int, attempt: _Attempt) -> dict[str, Any]:
    facts: dict[str, Any] = {"duration_s": wav.shape[-1] / sampling_rate}
    bits = attempt.coded_bits
    if attempt.opus_kbps is None:
        assert attempt.estimate is not None
        estimate = torch.from_numpy(attempt.estimate)
    else:
        try:
            decoded, bits = through_opus(wav, sampling_rate, attempt.opus_kbps)
        except OpusError as error:
            return {"scores": {}, "failed": dict.fromkeys(attempt.metrics, str(error)), **facts}
        estimate = _fit(decoded, wav.shape[-1])
    scores, failed = score(wav, estimate, sampling_rate, attempt.metrics)
    return {"scores": scores, "failed": failed, **facts, **({} if bits is None else {"coded_bits": bits})}


# ------------------------------------------------------------------------------------------------ Opus


class OpusError(RuntimeError):
    """opusenc or opusdec failed on a clip. The message is that of the program."""


def opus_missing() -> str | None:
    """The reason why Opus is not available on this machine, or None."""
    missing = [name for name in _OPUS_PROGRAMS if shutil.which(name) is None]
    return f"{' and '.join(missing)} not on PATH; install opus-tools" if missing else None


def through_opus(wav: Tensor, sampling_rate: int, bitrate_kbps: float) -> tuple[Tensor, int]:
    """Encode and decode a clip with opusenc: 20 ms frames, variable rate, tuned for speech.

    Args:
        wav: [1, N] float32.
        sampling_rate: in Hz.
        bitrate_kbps: the target, 6 or more.

    Returns:
        the decoded clip [1, N] (up to a sample of resampling), and the bits of its packets.

    Raises:
        OpusError: one of the programs failed.
    """
    with TemporaryDirectory(prefix="audiotok-opus-") as folder:
        source, packed, decoded = (str(Path(folder) / name) for name in ("in.wav", "packed.opus", "out.wav"))
        save_audio(source, wav, sampling_rate)
        rate = ["--bitrate", f"{bitrate_kbps:g}", "--framesize", "20", "--speech"]
        _call("opusenc", "--quiet", *rate, source, packed)
        # Opus runs at 48 kHz. The resampler of opusdec would shift the sound slightly.
        _call("opusdec", "--quiet", "--float", "--rate", "48000", packed, decoded)
        return load_audio(decoded, sampling_rate)[0], 8 * ogg_payload_bytes(Path(packed).read_bytes())


def ogg_payload_bytes(data: bytes) -> int:
    """Bytes of the audio packets in an Ogg Opus file, without page headers, Opus headers and tags (RFC 3533, RFC 7845).

    Raises:
        ValueError: the bytes are not a sequence of Ogg pages.
    """
    sizes: list[int] = []
    at, open_size = 0, 0
    while at < len(data):
        if data[at : at + 4] != b"OggS" or at + 27 > len(data):
            raise ValueError(f"expected an Ogg page at byte {at}, got {data[at : at + 4]!r}")
        lacing = data[at + 27 : at + 27 + data[at + 26]]
        for value in lacing:
            open_size += value
            if value < 255:  # 255: the packet continues
                sizes.append(open_size)
                open_size = 0
        at += 27 + len(lacing) + sum(lacing)
    return sum(sizes[2:])


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        message = " ".join((done.stderr or done.stdout).split()) or f"exit {done.returncode}"
        raise OpusError(f"{command[0]}: {message}")
