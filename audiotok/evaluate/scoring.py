"""One clip's scores under every condition, here or in worker processes.

Knows nothing of codecs: it gets their sound. The law it keeps: results come in the order of the jobs, and are the same
for any number of workers.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..metrics import score
from .opus import OpusError, through_opus

Samples = np.ndarray[Any, np.dtype[np.float32]]
"""One channel of sound, [1, N] float32: numpy crosses to a worker by value, a tensor by shared memory."""


@dataclass(frozen=True)
class Attempt:
    """A condition's share of a job: its sound, or the Opus bitrate to make it with, and what to score it by."""

    estimate: Samples | None
    opus_kbps: float | None
    metrics: tuple[str, ...]


@dataclass(frozen=True)
class Job:
    """A clip, [1, N] at ``sampling_rate``, and what became of it under each condition."""

    wav: Samples
    sampling_rate: int
    attempts: tuple[Attempt, ...]


Results = list[dict[str, Any]]


def score_all(job: Job) -> Results:
    """Score every attempt of a job.

    Args:
        job: the clip and the attempts.

    Returns:
        For each attempt "scores", "failed", "duration_s" and, for Opus, "payload_bits" and "file_bits".
    """
    return [_score_one(torch.from_numpy(job.wav), job.sampling_rate, attempt) for attempt in job.attempts]


def fit(wav: Tensor, samples: int) -> Tensor:
    """Exactly ``samples`` samples of a wav [1, N]: two resamplings may round the length by one."""
    return torch.nn.functional.pad(wav[..., :samples], (0, max(0, samples - wav.shape[-1])))


@contextmanager
def mapper(workers: int) -> Iterator[Callable[[Iterator[Job]], Iterator[Results]]]:
    """A lazy, ordered map of :func:`score_all`: here, or over spawned processes.

    Args:
        workers: processes; 0 computes here. Spawned, because a fork beside torch's threads can hang.

    Yields:
        The function to call with the jobs.
    """
    if workers < 1:
        yield lambda jobs: map(score_all, jobs)
        return

    def run(jobs: Iterator[Job]) -> Iterator[Results]:
        # A bounded queue: the sound of a whole test set is never in memory.
        pending: list[Future[Results]] = [pool.submit(score_all, job) for job in islice(jobs, 2 * workers)]
        while pending:
            yield pending.pop(0).result()
            pending += [pool.submit(score_all, job) for job in islice(jobs, 1)]

    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_one_thread) as pool:
        yield run


def _one_thread() -> None:
    torch.set_num_threads(1)
    os.environ["NUMBA_NUM_THREADS"] = "1"  # ViSQOL's, read when it is first imported


def _score_one(wav: Tensor, sampling_rate: int, attempt: Attempt) -> dict[str, Any]:
    facts: dict[str, Any] = {"duration_s": wav.shape[-1] / sampling_rate}
    if attempt.opus_kbps is None:
        assert attempt.estimate is not None
        estimate = torch.from_numpy(attempt.estimate)
    else:
        try:
            clip = through_opus(wav, sampling_rate, attempt.opus_kbps)
        except OpusError as error:
            return {"scores": {}, "failed": dict.fromkeys(attempt.metrics, str(error)), **facts}
        estimate = fit(clip.wav, wav.shape[-1])
        facts |= {"payload_bits": clip.payload_bits, "file_bits": clip.file_bits}
    scores, failed = score(wav, estimate, sampling_rate, attempt.metrics)
    return {"scores": scores, "failed": failed, **facts}
