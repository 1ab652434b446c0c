"""Queue of requests, and the thread that runs the models.

A turn of the thread generates one chunk of every stream, runs every call and synthesizes one batch of sentences. The
batch takes one sentence of each waiting text before a second of any. Results do not depend on other requests.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
import warnings
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..sentences import Sentence
from ..speech import Said, Speech, SpeechChunk
from ..synthesizer import Synthesizer
from ..voices import Voice

# Wait for requests that arrive together, and for clients that send a request as soon as they have a response.
# Without it they form two groups that alternate.
_GATHER_SECONDS = 0.03
_CHUNKS_AHEAD = 4  # chunks generated ahead of the client of a stream
_LONGEST_RETRY_SECONDS = 60
_LOG = logging.getLogger("tts_lm.server")
_T = TypeVar("_T")


@dataclass(frozen=True)
class ServeLimits:
    """Limits of requests. Raises ValueError for a value that is not positive."""

    queue: int = 64
    """Largest number of waiting and running requests."""
    batch: int = 8
    """Largest number of sentences per batch."""
    text_letters: int = 4096
    """Largest number of characters of a text."""
    upload_bytes: int = 8 << 20
    """Largest body of an upload in bytes."""
    clip_seconds: float = 18.0
    """Longest uploaded clip in seconds, with silence at its ends."""
    voices: int = 32
    """Largest number of voices added by clients."""
    timeout_seconds: float = 120.0
    """Longest time in seconds from a request to its response or to the end of its stream."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"expected {name} above 0, got {value}")


class QueueFull(RuntimeError):
    """The queue is full."""

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"the queue is full; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class Stopped(RuntimeError):
    """The server is stopping."""

    def __init__(self) -> None:
        super().__init__("the server is stopping; try again later")


@dataclass(eq=False)
class _Job:
    """A place in the queue."""

    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    future: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    is_done: bool = False

    def finish(self, value: Any = None, error: BaseException | None = None) -> None:
        """Deliver the result, from any thread."""
        self.is_done = True

        def deliver() -> None:
            if self.future.done():
                return
            if error is None:
                self.future.set_result(value)
            else:
                self.future.set_exception(error)

        with suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(deliver)


@dataclass(eq=False)
class _Call(_Job):
    work: Callable[[], Any] = lambda: None


@dataclass(eq=False)
class _Text(_Job):
    text: str = ""
    voice: Voice | None = None
    seed: int = 0
    sentences: list[Sentence] | None = None
    said: list[Said] = field(default_factory=list)
    last_turn: int = 0
    """The last turn with one of its sentences, initially the turn of its arrival."""


@dataclass(eq=False)
class _Stream(_Text):
    chunks: Iterator[SpeechChunk] | None = None
    items: asyncio.Queue[SpeechChunk | BaseException | None] = field(default_factory=asyncio.Queue)
    ahead: int = 0
    """Generated chunks that were not taken yet."""

    def finish(self, value: Any = None, error: BaseException | None = None) -> None:
        """Deliver a chunk (``value``), an error or, with neither, the end, from any thread."""
        self.ahead += 1
        self.is_done = value is None
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.items.put_nowait, error or value)


class Scheduler:
    """The queue and the thread, which has exclusive use of ``synthesizer``.

    ``on_batch`` is called with the number of sentences after each batch.
    """

    def __init__(
        self,
        synthesizer: Synthesizer,
        limits: ServeLimits,
        on_batch: Callable[[int], None] = lambda sentences: None,
    ) -> None:
        self._synthesizer, self._limits, self._on_batch = synthesizer, limits, on_batch
        self._jobs: list[_Job] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._turns = 0
        self._turn_seconds = 1.0  # of recent turns
        self._answered = False  # a client got a response since the last turn and may send another request
        self._thread = threading.Thread(target=self._work, name="tts-lm-scheduler", daemon=True)

    @property
    def places_taken(self) -> int:
        """Number of waiting and running requests."""
        return len(self._jobs)

    @property
    def alive(self) -> bool:
        """Whether requests are accepted."""
        return self._thread.is_alive() and not self._stopping

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Accept no more requests, finish the turn and fail waiting requests with :class:`Stopped`."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout_s)
        for job in list(self._jobs):
            job.finish(error=Stopped())

    async def say(self, text: str, voice: Voice, seed: int) -> Speech:
        """Synthesize a text.

        Raises:
            QueueFull, Stopped: the request is not accepted.
            TimeoutError: the time limit is exceeded.
            ValueError: nothing in the text can be spoken.
        """
        return await self._result(_Text(text=text, voice=voice, seed=seed))

    async def call(self, work: Callable[[], _T]) -> _T:
        """Run a function that uses the models on the thread. Raises what :meth:`say` and ``work`` raise."""
        return await self._result(_Call(work=work))

    async def stream(self, text: str, voice: Voice, seed: int) -> AsyncGenerator[SpeechChunk, None]:
        """Synthesize a text as a stream. Raises what :meth:`say` raises; close the generator to cancel."""
        job = _Stream(text=text, voice=voice, seed=seed)
        deadline = job.loop.time() + self._limits.timeout_seconds
        self._enter(job)
        try:
            while True:
                async with asyncio.timeout_at(deadline):
                    item = await job.items.get()
                if isinstance(item, BaseException):
                    raise item
                if item is None:
                    return
                with self._changed:
                    job.ahead -= 1
                    self._changed.notify()
                yield item
        finally:
            self._leave(job)

    async def _result(self, job: _Job) -> Any:
        self._enter(job)
        try:
            async with asyncio.timeout(self._limits.timeout_seconds):
                return await job.future
        finally:
            self._leave(job)

    def _enter(self, job: _Job) -> None:
        with self._changed:
            if self._stopping:
                raise Stopped
            if len(self._jobs) >= self._limits.queue:
                raise QueueFull(min(_LONGEST_RETRY_SECONDS, math.ceil(self._turn_seconds)))
            if isinstance(job, _Text):
                job.last_turn = self._turns
            self._jobs.append(job)
            self._changed.notify()

    def _leave(self, job: _Job) -> None:
        with self._changed:
            job.is_done = True
            self._jobs.remove(job)

    def _work(self) -> None:
        """Body of the thread."""
        while True:
            with self._changed:
                gather = self._answered or not self._runnable()
                self._answered = False
                while not self._stopping and not self._runnable():
                    self._changed.wait()
                if self._stopping:
                    return
                is_urgent = any(isinstance(job, _Stream) for job in self._jobs)
            if gather and not is_urgent:
                time.sleep(_GATHER_SECONDS)
            began = time.monotonic()
            self._turn()
            self._turn_seconds += 0.2 * (time.monotonic() - began - self._turn_seconds)

    def _runnable(self) -> list[_Job]:
        """Jobs that can be worked on now."""
        return [
            job
            for job in self._jobs
            if not job.is_done and not (isinstance(job, _Stream) and job.ahead >= _CHUNKS_AHEAD)
        ]

    def _turn(self) -> None:
        """Process a chunk of every stream, every call and one batch of sentences."""
        with self._changed:
            self._turns += 1
            jobs = self._runnable()
        texts = []
        for job in jobs:
            try:
                if isinstance(job, _Stream):
                    job.finish(self._next_chunk(job))
                elif isinstance(job, _Call):
                    job.finish(job.work())
                elif isinstance(job, _Text):
                    if job.sentences is None:
                        job.sentences = self._quietly(self._synthesizer.plan, job)
                    texts.append(job)
            except Exception as error:
                job.finish(error=error)
        if texts:
            self._synthesize(share(texts, self._limits.batch))

    def _next_chunk(self, job: _Stream) -> SpeechChunk | None:
        if job.chunks is None:
            job.chunks = self._quietly(self._synthesizer.stream, job)
        return next(job.chunks, None)

    @staticmethod
    def _quietly(method: Callable[..., _T], job: _Text) -> _T:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about characters that are not spoken
            return method(job.text, job.voice, job.seed)

    def _synthesize(self, picked: Sequence[tuple[_Text, Sentence]]) -> None:
        """Synthesize one batch. If it fails, each sentence is tried alone, so that other requests succeed."""
        try:
            said = self._synthesizer.speak([sentence for _, sentence in picked])
        except Exception as error:
            if len(picked) == 1:
                _LOG.exception("a sentence could not be synthesized")
                picked[0][0].finish(error=RuntimeError(f"the model failed: {error}"))
                return
            for one in picked:
                if not one[0].is_done:
                    self._synthesize([one])
            return
        self._on_batch(len(picked))
        for (job, _), one in zip(picked, said, strict=True):
            job.said.append(one)
            job.last_turn = self._turns
            if not job.is_done and len(job.said) == len(job.sentences or ()):
                self._finish_text(job)

    def _finish_text(self, job: _Text) -> None:
        self._answered = True
        try:
            job.finish(self._synthesizer.join(job.said))
        except Exception as error:
            _LOG.exception("a speech could not be decoded")
            job.finish(error=RuntimeError(f"the codec failed: {error}"))


def share(texts: Sequence[_Text], limit: int) -> list[tuple[_Text, Sentence]]:
    """Choose the next batch: one sentence of each text, the longest waiting first, then a second of each.

    Args:
        texts: unfinished texts in order of arrival.
        limit: largest number of sentences.
    """
    left = [
        (job, (job.sentences or [])[len(job.said) :]) for job in sorted(texts, key=lambda job: job.last_turn)
    ]
    picked: list[tuple[_Text, Sentence]] = []
    for nth in range(max(len(sentences) for _, sentences in left)):
        picked += [(job, sentences[nth]) for job, sentences in left if nth < len(sentences)]
        if len(picked) >= limit:
            break
    return picked[:limit]
