"""Speech to words, for measuring: what a recogniser must offer, one without downloads, and a pool of them.

Knows nothing of texts or error rates. The law it keeps: a transcript depends on its clip alone: neither the
order of the clips nor the number of workers changes a result.
"""

from __future__ import annotations

import importlib
import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from audiotok import resample


@runtime_checkable
class Recogniser(Protocol):
    """What turns speech into text for the evaluation; plug in another one by writing this method."""

    def transcribe(self, wav: Tensor, sampling_rate: int) -> str:
        """The words of ``wav`` [N] float32 at ``sampling_rate`` Hz; an empty string if none was heard."""
        ...


class PocketSphinx:
    """The recogniser that needs no download: the package's own US English models.

    Every clip is heard on its own: cepstral means come from the clip (``full_utt``), so a transcript does
    not depend on which clips went before, and thus not on the number of workers.

    Raises:
        ModuleNotFoundError: the package ``pocketsphinx`` is missing.
    """

    # Word error rates on 49 validation recordings (29 Kathleen, 20 slt), default language model, seconds of
    # work per second of speech: as shipped 25.4 % (0.15); wider beams 24.0 % (0.27); wider beams and 0.25 s
    # of room noise at both ends 23.1 % (0.35); language weight 8.5 for 6.5: 40.0 %; weight 5: 24.9 %; wider
    # beams and weight 5 or 4: 24.9 and 26.3 %. Without ``full_utt``: 25.6 % with the means carried from
    # clip to clip, 32.4 % when they are reset.
    OPTIONS: dict[str, float] = {
        "beam": 1e-60,
        "pbeam": 1e-60,
        "wbeam": 1e-40,
        "fwdflatbeam": 1e-80,
        "fwdflatwbeam": 1e-40,
        "maxhmmpf": -1,
    }
    SAMPLING_RATE = 16000

    def __init__(self) -> None:
        try:
            from pocketsphinx import Decoder
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                "expected the package 'pocketsphinx', which is missing; pip install 'audiotok[eval]'",
                name="pocketsphinx",
            ) from error
        self._decoder = Decoder(loglevel="FATAL", **self.OPTIONS)

    def transcribe(self, wav: Tensor, sampling_rate: int) -> str:
        """The words of one clip.

        Args:
            wav: [N] or [1, N] float32 in [-1, 1].
            sampling_rate: Hz; resampled to 16000.

        Returns:
            Lower-case words, "" if nothing was recognised.
        """
        wav = wav.detach().float().cpu().reshape(1, -1)
        if sampling_rate != self.SAMPLING_RATE:
            wav = resample(wav, sampling_rate, self.SAMPLING_RATE)
        pcm = (wav[0].clamp(-1, 1) * 32767).to(torch.int16)
        # A tenth of a second is less than any word, and too little for the decoder's first frames.
        if len(pcm) < self.SAMPLING_RATE // 10:
            return ""
        self._decoder.start_utt()
        self._decoder.process_raw(pcm.numpy().tobytes(), full_utt=True)
        self._decoder.end_utt()
        hypothesis = self._decoder.hyp()
        return hypothesis.hypstr if hypothesis else ""


def find_recogniser(name: str) -> Callable[[], Recogniser]:
    """The maker of recognisers that ``--recogniser`` means.

    Args:
        name: ``pocketsphinx``, or ``module:factory`` of one's own: a class or function without arguments that gives
            something with ``transcribe(wav, sampling_rate) -> str``.

    Raises:
        ValueError: it is neither, there is no such module or factory, or it cannot be called.
    """
    if name == "pocketsphinx":
        return PocketSphinx
    module, colon, factory = name.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), factory) if colon else None
    except (ImportError, AttributeError) as error:
        raise ValueError(f"expected a recogniser module:factory, got {name!r} ({error})") from None
    if not callable(found):
        raise ValueError(f"expected a recogniser, pocketsphinx or module:factory, got {name!r}")
    return cast(Callable[[], Recogniser], found)


_own: dict[Callable[[], Recogniser], Recogniser] = {}
"""The recogniser of a worker process, made at its first clip: an error in a process's start has no cause."""


def _transcribe_in_worker(recogniser: Callable[[], Recogniser], wav: Any, sampling_rate: int) -> str:
    if recogniser not in _own:
        torch.set_num_threads(1)
        _own[recogniser] = recogniser()
    return _own[recogniser].transcribe(torch.from_numpy(wav), sampling_rate)


@contextmanager
def transcriber(
    recogniser: Callable[[], Recogniser], workers: int
) -> Iterator[Callable[[Iterable[tuple[Tensor, int]]], Iterator[str]]]:
    """A lazy, ordered map from clips to transcripts, in this process or over spawned ones.

    Args:
        recogniser: makes a recogniser, once in every process; picklable when workers > 0.
        workers: processes; 0 transcribes here.

    Yields:
        A function from pairs (wav [N] float32, sampling rate) to transcripts, in order; pairs are asked for
        as the workers need them, so a whole test set is never in memory.
    """
    if workers < 1:
        ear = recogniser()
        yield lambda clips: (ear.transcribe(wav, sampling_rate) for wav, sampling_rate in clips)
        return

    def run(clips: Iterable[tuple[Tensor, int]]) -> Iterator[str]:
        jobs = ((recogniser, wav.detach().cpu().numpy(), sampling_rate) for wav, sampling_rate in clips)
        pending: list[Future[str]] = [
            pool.submit(_transcribe_in_worker, *job) for job in islice(jobs, 2 * workers)
        ]
        while pending:
            yield pending.pop(0).result()
            pending += [pool.submit(_transcribe_in_worker, *job) for job in islice(jobs, 1)]

    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield run
