"""The evaluation itself: rows through the codec and its rivals, scored, averaged.

Knows nothing of tables or pictures. The law it keeps: every condition meets the same clips, and a run that was
killed and started again gives the report of one that was not.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..audio import load_audio, resample
from ..codec.streaming import decode_with_losses, random_losses
from ..metrics import METRICS, CodeUsage, check_libraries
from ..search import SearchingEncoder, search_codes
from .journal import Journal
from .opus import opus_missing
from .report import CodecReport, Condition
from .rows import Row
from .scoring import Attempt, Job, fit, mapper

if TYPE_CHECKING:
    from ..codec.model import AudioCodec

FAST_METRICS = tuple(name for name in METRICS if name != "visqol")
"""Every metric but ViSQOL, which takes longer than the others together."""

BASELINES = ("identity", "resample")


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
    visqol: Sequence[int] | None = None,
    workers: int = 2,
    journal: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> CodecReport:
    """Encode and decode every row, score it, and average.

    A clip is scored at its file's own sampling rate: what the codec's rate cuts off counts against it.

    Args:
        codec: the codec under test, on its device.
        rows: the clips, see :func:`read_rows`.
        n_qs: numbers of codebooks to decode from; empty = all of them at once.
        baselines: "identity" (the clip itself) and "resample" (the clip through the codec's rate and back).
        opus_kbps: bitrates to ask of Opus; reported as skipped where opus-tools is not installed.
        losses: shares of 20 ms packets (one frame each) to lose at random, at the largest n_q; each share once with
            the decoder carrying on, without waiting for what follows, and once with silence in their place.
        search: also score, for each of ``n_qs``, codes that were sought by so many steps
            (:func:`audiotok.search.search_codes`); None seeks none.
        metrics: names out of :data:`audiotok.metrics.METRICS`.
        visqol: score ViSQOL too, for these of ``n_qs`` and for everything that is compared; empty = for all
            of them, None = for nothing.
        workers: processes that compute metrics; 0 computes them here.
        journal: a file that keeps results clip by clip; found there, they are not computed again.
        progress: called with (clips done, clips) after each clip.

    Raises:
        ValueError: no row, an n_q the codec does not have, an unknown metric or baseline, a bitrate Opus has not,
            a loss outside (0, 1), losses for a codec that cannot stream, or a search where it cannot be.
        ModuleNotFoundError: a metric's package is missing.
        AudioError: a file cannot be read.
    """
    config = codec.config
    n_qs = tuple(n_qs) or (config.n_q,)
    _check(rows, n_qs, config.n_q, baselines, metrics, opus_kbps, visqol)
    _check_losses(losses, codec)
    if search is not None:
        SearchingEncoder(codec, steps=search)
    skipped = []
    if opus_kbps and (reason := opus_missing()):
        skipped = [{"condition": _opus_name(kbps), "reason": reason} for kbps in opus_kbps]
        opus_kbps = ()
    conditions = _conditions(
        n_qs, config.bitrate_bps / config.n_q, baselines, opus_kbps, losses, search, metrics, visqol
    )
    check_libraries(sorted({name for condition in conditions for name in condition.metrics}))
    usage = CodeUsage(config.n_q, config.codebook_size)
    seconds = 0.0
    run = {
        "codec": codec.weights_fingerprint,
        "numbers": sorted({str(weight.dtype) for weight in codec.parameters()}),
        "clips": [str(row.path) for row in rows],
        "conditions": [[condition.name, list(condition.metrics)] for condition in conditions],
        "versions": _versions(),
    }

    with torch.inference_mode(), Journal(journal, run) as kept, mapper(workers) as score:

        def jobs() -> Iterator[Job]:
            nonlocal seconds
            for index, row in enumerate(rows):
                wav, sampling_rate = load_audio(row.path)
                seconds += wav.shape[-1] / sampling_rate
                at_codec = resample(wav, sampling_rate, config.sampling_rate)
                out = codec.encode(codec.spread(at_codec[None]))
                codes = out.audio_codes
                assert codes is not None
                gains: dict[str, Any] = {"audio_scales": out.audio_scales} if codec.has_scale else {}
                usage.add(codes[0])
                if index not in kept.done:
                    seed = zlib.crc32(row.path.name.encode())  # the same losses in every run and selection
                    yield _job(codec, wav, sampling_rate, at_codec, codes, gains, conditions, seed)

        todo = [index for index in range(len(rows)) if index not in kept.done]
        results = dict(kept.done)
        # The scores stand first: the codes of clips at the end that are known already are counted, too.
        for result, index in zip(score(jobs()), todo, strict=True):
            kept.add(index, result)
            results[index] = result
            if progress:
                progress(len(results), len(rows))
    for index, row in enumerate(rows):
        for condition, result in zip(conditions, results[index], strict=True):
            condition.add(row.path, row.speaker, result)
    for condition in conditions:
        condition.average()
    return _report(codec, rows, seconds, conditions, skipped, usage)


def _check(
    rows: Sequence[Row],
    n_qs: Sequence[int],
    n_q: int,
    baselines: Sequence[str],
    metrics: Sequence[str],
    opus_kbps: Sequence[float],
    visqol: Sequence[int] | None,
) -> None:
    if not rows:
        raise ValueError("expected at least one clip to evaluate, got none")
    for value in n_qs:
        if not 1 <= value <= n_q:
            raise ValueError(f"expected 1 <= n_q <= {n_q} (what this codec has), got {value}")
    for name in baselines:
        if name not in BASELINES:
            raise ValueError(f"expected a baseline out of {', '.join(BASELINES)}, got {name!r}")
    for name in metrics:
        if name not in METRICS:
            raise ValueError(f"expected a metric out of {', '.join(METRICS)}, got {name!r}")
    for kbps in opus_kbps:
        if not 6 <= kbps <= 256:
            raise ValueError(f"expected an Opus bitrate of 6 to 256 kbit/s, got {kbps:g}")
    for value in visqol or ():
        if value not in n_qs:
            raise ValueError(f"expected ViSQOL for an n_q that is evaluated ({list(n_qs)}), got {value}")


def _check_losses(losses: Sequence[float], codec: AudioCodec) -> None:
    for loss in losses:
        if not 0 < loss < 1:
            raise ValueError(f"expected a share of lost packets above 0 and below 1, got {loss:g}")
    if losses and not codec.streams:
        raise ValueError("expected a codec that streams to lose packets of, got one that does not")


def _conditions(
    n_qs: Sequence[int],
    book_bps: float,
    baselines: Sequence[str],
    opus_kbps: Sequence[float],
    losses: Sequence[float],
    search: int | None,
    metrics: Sequence[str],
    visqol: Sequence[int] | None,
) -> list[Condition]:
    """The lines of the table, without their results. Rivals are scored by all that any n_q is scored by."""
    plain = tuple(metrics)
    full = plain if visqol is None else tuple(name for name in METRICS if name in {*plain, "visqol"})
    chosen = set(visqol or n_qs)
    conditions = [
        Condition(
            f"n_q={n_q}{'' if steps is None else f', search {steps}'}",
            "codec" if steps is None else "search",
            full if n_q in chosen else plain,
            n_q,
            search=steps,
            bitrate_bps=n_q * book_bps,
        )
        for steps in dict.fromkeys((None, search))
        for n_q in dict.fromkeys(n_qs)
    ]
    top = max(n_qs)
    conditions += [
        Condition(
            f"n_q={top}, {100 * loss:g} % lost, {how}",
            "loss",
            full,
            top,
            loss,
            conceal,
            bitrate_bps=top * book_bps,
        )
        for loss in dict.fromkeys(losses)
        for how, conceal in (("concealed", True), ("zeros", False))
    ]
    conditions += [
        Condition(_opus_name(kbps), "opus", full, opus_kbps=kbps) for kbps in dict.fromkeys(opus_kbps)
    ]
    return conditions + [Condition(name, "baseline", full) for name in dict.fromkeys(baselines)]


def _opus_name(kbps: float) -> str:
    return f"opus {kbps:g} kbps"


def _job(
    codec: AudioCodec,
    wav: Tensor,
    sampling_rate: int,
    at_codec: Tensor,
    codes: Tensor,
    gains: dict[str, Any],
    conditions: Sequence[Condition],
    seed: int,
) -> Job:
    """A clip [1, N], the same at the codec's rate, its codes [1, K, T] and scales, as the conditions' sounds."""
    attempts = []
    for condition in conditions:
        sound = wav
        if condition.n_q is not None:
            kept: Tensor | None = codes[:, : condition.n_q]
            if condition.search is not None:
                kept = search_codes(
                    codec, codec.spread(at_codec[None]), n_q=condition.n_q, steps=condition.search
                ).audio_codes
            assert kept is not None
            if condition.loss is None:
                audio = codec.decode(kept, **gains).audio_values
            else:
                lost = random_losses(codes.shape[-1], condition.loss, seed)
                audio = decode_with_losses(codec, kept, lost, conceal=bool(condition.conceal))
            assert audio is not None
            decoded = audio[0, :, : at_codec.shape[-1]].float().mean(dim=0, keepdim=True).cpu()
            sound = _back(decoded, codec.config.sampling_rate, sampling_rate, wav.shape[-1])
        elif condition.name == "resample":
            sound = _back(at_codec, codec.config.sampling_rate, sampling_rate, wav.shape[-1])
        estimate = sound.numpy() if condition.opus_kbps is None else None
        attempts.append(Attempt(estimate, condition.opus_kbps, condition.metrics))
    return Job(wav.numpy(), sampling_rate, tuple(attempts))


def _back(wav: Tensor, codec_rate: int, sampling_rate: int, samples: int) -> Tensor:
    """A wav [1, N] from the codec's rate to ``samples`` samples at the file's."""
    return fit(resample(wav, codec_rate, sampling_rate), samples)


def _versions() -> dict[str, str]:
    """Versions of the packages that scores may depend on, those that are installed."""
    found = {}
    for name in ("pesq", "pystoi", "visqol-python", "torch"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _report(
    codec: AudioCodec,
    rows: Sequence[Row],
    seconds: float,
    conditions: list[Condition],
    skipped: Sequence[dict[str, str]],
    usage: CodeUsage,
) -> CodecReport:
    config = codec.config
    facts: dict[str, Any] = {
        "name": config.codec_name,
        "sampling_rate": config.sampling_rate,
        "frame_rate": config.frame_rate,
        "n_q": config.n_q,
        "codebook_size": config.codebook_size,
        "bitrate_bps": config.bitrate_bps,
        "codes_fingerprint": codec.codes_fingerprint,
        "weights_fingerprint": codec.weights_fingerprint,
    }
    return CodecReport(
        codec=facts,
        rows=len(rows),
        duration_s=seconds,
        conditions=conditions,
        skipped=skipped,
        frames=usage.frames,
        perplexity=usage.perplexity,
        perplexity_percent=[100 * value / config.codebook_size for value in usage.perplexity],
        entropy_bits=usage.entropy_bits,
        efficiency=usage.book_efficiency,
        bitrate_efficiency=usage.efficiency,
        entropy_bps=sum(usage.entropy_bits) * config.frame_rate,
    )
