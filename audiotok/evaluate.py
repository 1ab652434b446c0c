"""Codec quality on a test set, per number of codebooks and compared with Opus, with bootstrap intervals."""

from __future__ import annotations

import csv
import multiprocessing
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import av
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .audio import load_audio, resample
from .bitstream.entropy import LayerCoder, find_model
from .bitstream.format import ADAPTIVE, LEARNT, MAX_PACKET_FRAMES, PACKET_S
from .codec.quantizer import perplexity
from .codec.streaming import decode_with_losses, random_losses
from .metrics import METRICS, Scores, check_libraries, score_outputs, use_one_thread
from .search import SearchingEncoder, search_codes

if TYPE_CHECKING:
    from .codec.model import AudioCodec

FAST_METRICS = tuple(name for name in METRICS if name != "visqol")
"""All metrics except ViSQOL, which takes longer than the others together."""

RESAMPLES = 2000
"""Bootstrap resamples."""


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

    Raises:
        FileNotFoundError: no ``metadata.csv``.
        ValueError: the table is not UTF-8 or has no ``file_name`` column, the limit is below 1, or no row is left.
    """
    data = Path(data)
    table = data / "metadata.csv" if data.is_dir() else data
    if not table.is_file():
        raise FileNotFoundError(f"{table}: no such file; name a folder with a metadata.csv")
    try:
        with table.open(newline="", encoding="utf-8") as lines:
            found = list(csv.DictReader(lines))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{table}: expected a table in UTF-8 ({error}); save it again") from None
    if found and "file_name" not in found[0]:
        raise ValueError(f"{table}: expected a column file_name, got {list(found[0])}")
    rows = [
        Row(
            path=table.parent / row["file_name"],
            text=row.get("transcription") or row.get("text") or "",
            speaker=row.get("speaker_id") or "",
            source=row.get("source") or "",
            split=row.get("split") or "",
        )
        for row in found
    ]
    kept = [row for row in rows if split in (None, row.split) and row.source.startswith(source or "")]
    if not kept:
        raise ValueError(
            f"no row of {table} has split {split!r} and a source beginning with {source or ''!r}; it has the splits "
            f"{sorted({row.split for row in rows})} and the sources {sorted({row.source for row in rows})}"
        )
    if limit is None or limit >= len(kept):
        return kept
    if limit < 1:
        raise ValueError(f"expected a limit of at least 1, got {limit}")
    return [kept[index * len(kept) // limit] for index in range(limit)]


def bootstrap_interval(
    count: int, statistic: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]
) -> tuple[float, float]:
    """The lower and upper end of a 95 % percentile bootstrap interval (Efron, Tibshirani 1993).

    ``statistic`` takes indices of the ``count`` clips, [R, count] int64, and returns [R]. ValueError: there is no clip.
    """
    if count < 1:
        raise ValueError(f"expected at least one value to average, got {count}")
    picks = np.random.default_rng(0).integers(0, count, (RESAMPLES, count))
    low, high = np.percentile(statistic(picks), (2.5, 97.5))
    return float(low), float(high)


@dataclass(frozen=True)
class Average:
    """The mean of a metric over clips, with the 95 % bootstrap interval of the mean."""

    mean: float
    low: float
    high: float
    clips: int


def bootstrap(values: Sequence[float]) -> Average:
    """The mean of at least one value and its 95 % bootstrap interval."""
    array = np.asarray(values, dtype=np.float64)
    low, high = bootstrap_interval(len(array), lambda picks: array[picks].mean(axis=1))
    return Average(float(array.mean()), low, high, len(array))


@dataclass
class Condition:
    """One line of the table: the codec at ``n_q`` codebooks, or Opus."""

    name: str
    kind: Literal["codec", "search", "loss", "opus"]  # search: optimised codes; loss: lost packets
    n_q: int | None = None
    loss: float | None = None  # share of packets that are lost
    conceal: bool = False  # whether lost packets are concealed or silent
    search: int | None = None  # optimisation steps
    opus_kbps: float | None = None
    raw_bps: float | None = None  # bits per second of the codes before entropy coding
    bitrate_bps: float | None = None  # bits per second of the coded codes, or of Opus packets
    averages: dict[str, Average] = field(default_factory=dict)  # over the clips on which a metric is defined
    failures: list[dict[str, str]] = field(default_factory=list)  # file, metric, reason
    clips: list[dict[str, Any]] = field(default_factory=list)  # file, speaker, length, coded bits, scores


@dataclass
class CodecReport:
    """Result of an evaluation."""

    codec: dict[str, Any]  # name, numbers and fingerprints
    rows: int  # number of clips
    duration_s: float  # their total length
    conditions: list[Condition]
    frames: int  # over which codebook use was counted
    perplexity: list[float]  # of each codebook, 1 to V
    entropy_bps: float  # bits per second of ideal order-0 coding

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON-plain values."""
        return asdict(self)


def evaluate_codec(
    codec: AudioCodec,
    rows: Sequence[Row],
    n_qs: Sequence[int] = (),
    *,
    opus_kbps: Sequence[float] = (),
    losses: Sequence[float] = (),
    search: int | None = None,
    metrics: Sequence[str] = FAST_METRICS,
    workers: int = 2,
    progress: Callable[[int, int], object] | None = None,
) -> CodecReport:
    """Encode, decode and score every clip. A clip is scored at its file's own sampling rate.

    Args:
        codec: the codec, on its device.
        rows: the clips, see :func:`read_rows`.
        n_qs: numbers of codebooks to decode from; empty = all of them at once.
        opus_kbps: bitrates of Opus in kbit/s.
        losses: shares of frames to lose at random at the largest n_q, each share once concealed and once as silence.
        search: also score codes optimised with this many steps (:func:`audiotok.search.search_codes`).
        metrics: names in :data:`audiotok.metrics.METRICS`.
        workers: processes that compute metrics; 0 computes them in this one. The result is the same.
        progress: called with (clips done, clips) after each clip.

    Raises:
        ValueError: no row, an n_q that the codec does not have, an unknown metric, a bitrate out of range, a loss
            outside (0, 1), or losses or search that the codec does not support.
        ModuleNotFoundError: the package of a metric is missing.
        AudioError: a file cannot be read.
    """
    config = codec.config
    conditions = _conditions(codec, tuple(dict.fromkeys(n_qs)) or (config.n_q,), opus_kbps, losses, search)
    if not rows:
        raise ValueError("expected at least one clip to evaluate, got none")
    if unknown := [name for name in metrics if name not in METRICS]:
        raise ValueError(f"unknown metric {unknown[0]!r}; choose from {', '.join(METRICS)}")
    check_libraries(metrics)
    codes: list[Tensor] = []
    seconds = 0.0

    def jobs() -> Iterator[_Job]:
        nonlocal seconds
        for row in rows:
            wav, rate = load_audio(row.path)
            seconds += wav.shape[-1] / rate
            outputs = list(_outputs(codec, row, wav, rate, conditions, codes))
            yield wav.numpy(), rate, outputs, tuple(metrics)

    with torch.inference_mode():
        for done, (row, results) in enumerate(zip(rows, _map(jobs(), workers), strict=True), 1):
            for condition, (facts, reasons) in zip(conditions, results, strict=True):
                file = {"file": str(row.path)}
                condition.clips.append({**file, "speaker": row.speaker, **facts})
                condition.failures += [{**file, "metric": k, "reason": v} for k, v in reasons.items()]
            if progress:
                progress(done, len(rows))
    for condition in conditions:
        for name in METRICS:
            if values := [clip[name] for clip in condition.clips if name in clip]:
                condition.averages[name] = bootstrap(values)
        condition.bitrate_bps = sum(clip["coded_bits"] for clip in condition.clips) / seconds
    names = ("codec_name", "sampling_rate", "frame_rate", "n_q", "codebook_size", "bitrate_bps")
    facts = {name.removeprefix("codec_"): getattr(config, name) for name in names}
    facts |= {name: getattr(codec, name) for name in ("codes_fingerprint", "weights_fingerprint")}
    every = torch.cat(codes, dim=1)
    effective = [float(perplexity(level, config.codebook_size)) for level in every]
    return CodecReport(
        codec=facts,
        rows=len(rows),
        duration_s=seconds,
        conditions=conditions,
        frames=every.shape[1],
        perplexity=effective,
        entropy_bps=float(np.log2(effective).sum()) * config.frame_rate,
    )


def _conditions(
    codec: AudioCodec,
    n_qs: Sequence[int],
    opus_kbps: Sequence[float],
    losses: Sequence[float],
    search: int | None,
) -> list[Condition]:
    """The conditions, without results. ValueError: one of them is not possible."""
    config = codec.config
    if wrong := [n_q for n_q in n_qs if not 1 <= n_q <= config.n_q]:
        raise ValueError(f"expected 1 <= n_q <= {config.n_q}, got {wrong[0]}")
    if wrong := [kbps for kbps in opus_kbps if not 6 <= kbps <= 256]:
        raise ValueError(f"expected an Opus bitrate of 6 to 256 kbit/s, got {wrong[0]:g}")
    if wrong := [loss for loss in losses if not 0 < loss < 1]:
        raise ValueError(f"expected a share of lost packets above 0 and below 1, got {wrong[0]:g}")
    if losses and not codec.streams:
        raise ValueError(f"{config.codec_name} does not stream, so no packets can be lost; leave out losses")
    if search is not None:
        SearchingEncoder(codec, steps=search)  # raises ValueError if the codec does not support it
    level_bps, top = config.bitrate_bps / config.n_q, max(n_qs)
    conditions = [Condition(f"n_q={n}", "codec", n, raw_bps=n * level_bps) for n in n_qs]
    if search is not None:
        for n in n_qs:
            name = f"n_q={n}, search {search}"
            conditions.append(Condition(name, "search", n, search=search, raw_bps=n * level_bps))
    for loss in dict.fromkeys(losses):
        for conceal in (True, False):
            name = f"n_q={top}, {100 * loss:g} % lost, {'concealed' if conceal else 'silent'}"
            conditions.append(Condition(name, "loss", top, loss, conceal, raw_bps=top * level_bps))
    opus = [Condition(f"opus {kbps:g} kbps", "opus", opus_kbps=kbps) for kbps in dict.fromkeys(opus_kbps)]
    return conditions + opus


def _outputs(
    codec: AudioCodec, row: Row, wav: Tensor, rate: int, conditions: Sequence[Condition], every: list[Tensor]
) -> Iterator[tuple[np.ndarray, int]]:
    """The output [1, N] for a clip [1, N] and its coded bits, under every condition; its codes go to ``every``."""
    at_codec = resample(wav, rate, codec.config.sampling_rate)
    spread = codec.spread(at_codec[None])
    encoded = codec.encode(spread)
    assert encoded.audio_codes is not None
    every.append(encoded.audio_codes[0].cpu())
    gains: dict[str, Any] = {"audio_scales": encoded.audio_scales} if codec.has_scale else {}
    layer_bits = _layer_bits(codec, encoded.audio_codes[0])
    for condition in conditions:
        n_q, codes = condition.n_q, encoded.audio_codes[:, : condition.n_q]
        if condition.opus_kbps is not None:
            output, bits = through_opus(wav, rate, condition.opus_kbps)
        else:
            bits = sum(layer_bits[:n_q])
            if condition.search is not None:
                codes = search_codes(codec, spread, n_q=n_q, steps=condition.search).audio_codes
                assert codes is not None
                bits = sum(_layer_bits(codec, codes[0]))
            if condition.loss is None:
                audio = codec.decode(codes, **gains).audio_values
            else:
                # The same packets are lost in every run.
                seed = zlib.crc32(row.path.name.encode("utf-8", "surrogateescape"))
                lost = random_losses(codes.shape[-1], condition.loss, seed)
                audio = decode_with_losses(codec, codes, lost, conceal=condition.conceal)
            assert audio is not None
            decoded = audio[0, :, : at_codec.shape[-1]].float().mean(dim=0, keepdim=True).cpu()
            output = resample(decoded, codec.config.sampling_rate, rate)
        # Two resamplings may change the length by one.
        output = F.pad(output[..., : wav.shape[-1]], (0, max(0, wav.shape[-1] - output.shape[-1])))
        yield output.numpy(), bits


def _layer_bits(codec: AudioCodec, codes: Tensor) -> list[int]:
    """Bits of each codebook of codes [K, T] after entropy coding, in packets as ``.atok`` files have them."""
    config, folder = codec.config, Path(str(codec.name_or_path))
    model = find_model(codec.codes_fingerprint, folder if folder.is_dir() else None)
    coder = LayerCoder((config.codebook_size,) * len(codes), ADAPTIVE if model is None else LEARNT, model)
    frames = min(MAX_PACKET_FRAMES, max(1, round(PACKET_S * config.frame_rate)))
    packets = coder.encode([packet.numpy() for packet in codes.cpu().split(frames, dim=1)])
    return [8 * sum(map(len, layers)) for layers in zip(*packets, strict=True)]


def through_opus(wav: Tensor, sampling_rate: int, bitrate_kbps: float) -> tuple[Tensor, int]:
    """Encode and decode a clip [1, N] float32 with libopus: 20 ms packets, variable rate, tuned for speech.

    Returns the decoded clip [1, N] (up to a sample of resampling) and the bits of its packets.
    """
    encoder: Any = av.CodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format = 48_000, "mono", "flt"
    encoder.bit_rate = round(1000 * bitrate_kbps)
    encoder.options = {"application": "voip", "vbr": "on", "frame_duration": "20"}
    samples = resample(wav, sampling_rate, 48_000).contiguous().numpy()
    frame = av.AudioFrame.from_ndarray(samples, format="flt", layout="mono")
    frame.sample_rate = 48_000
    packets = [*encoder.encode(frame), *encoder.encode(None)]
    decoder: Any = av.CodecContext.create("opus", "r")
    decoder.extradata = encoder.extradata
    pieces = [piece.to_ndarray() for packet in [*packets, None] for piece in decoder.decode(packet)]
    decoded = torch.from_numpy(np.concatenate(pieces, axis=-1).reshape(1, -1))
    return resample(decoded, 48_000, sampling_rate), 8 * sum(packet.size for packet in packets)


# Arguments of score_outputs.
_Job = tuple[np.ndarray, int, list[tuple[np.ndarray, int]], tuple[str, ...]]


def _map(jobs: Iterable[_Job], workers: int) -> Iterator[list[Scores]]:
    """Score jobs in order, in this process or in spawned ones (a fork beside torch's threads can hang)."""
    if workers < 1:
        yield from starmap(score_outputs, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=use_one_thread) as pool:
        pending: deque[Future[list[Scores]]] = deque()
        for job in jobs:
            pending.append(pool.submit(score_outputs, *job))
            if len(pending) > 2 * workers:  # the audio of a whole test set would fill the memory
                yield pending.popleft().result()
        for future in pending:
            yield future.result()
