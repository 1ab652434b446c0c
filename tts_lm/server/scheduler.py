"""Queue of requests, and the thread that runs the models.

A turn of the thread generates one chunk of every stream, runs every call and synthesizes one batch of sentences. The
batch takes one sentence of each waiting text before a second of any. Results do not depend on other requests.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
import warnings
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..synthesizer import Said, Sentence, Speech, SpeechChunk, Synthesizer
from ..voices import Voice

# Wait for requests that arrive together, and for clients that send a request as soon as they have a response.
# Without it they form two groups that alternate.
_GATHER_SECONDS = 0.03
_CHUNKS_AHEAD = 4  # chunks generated ahead of the client of a stream
_LOG = logging.getLogger("tts_lm.server")
_T = TypeVar("_T")


@dataclass(frozen=True)
class ServeLimits:
    """Largest values of requests."""

    queue: int = 64  # waiting and running requests
    batch: int = 8  # sentences per batch
    text_letters: int = 4096  # characters of a text
    upload_bytes: int = 8 << 20
    clip_seconds: float = 18.0  # of an uploaded clip, with silence at its ends
    voices: int = 32  # added by clients
    timeout_seconds: float = 120.0  # from a request to its response or to the end of its stream


class QueueFull(RuntimeError):
    """The queue is full."""


class Stopped(RuntimeError):
    """The server is stopping."""


@dataclass(eq=False)
class _Job:
    """A place in the queue. ``work`` is the function of a call."""

    work: Callable[[], Any] = lambda: None
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.get_running_loop)
    results: asyncio.Queue[Any] = field(default_factory=asyncio.Queue)
    is_done: bool = False

    def put(self, result: Any) -> None:
        """Deliver a result or an exception, from any thread."""
        with suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self.results.put_nowait, result)

    def finish(self, result: Any) -> None:
        """Deliver the last result, None at the end of a stream."""
        self.is_done = True
        self.put(result)

    async def get(self) -> Any:
        """The next result. Raises it if it is an exception."""
        result = await self.results.get()
        if isinstance(result, BaseException):
            raise result
        return result


@dataclass(eq=False)
class _Text(_Job):
    text: str = ""
    voice: Voice | None = None
    seed: int = 0
    sentences: list[Sentence] | None = None
    said: list[Said] = field(default_factory=list)
    last_turn: int = 0
    """The last turn with one of its sentences, initially the turn of its arrival."""
    is_stream: bool = False
    chunks: Iterator[SpeechChunk] | None = None
    ahead: int = 0
    """Generated chunks that were not taken yet."""


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
            job.finish(Stopped())

    async def say(self, text: str, voice: Voice, seed: int) -> Speech:
        """Synthesize a text. QueueFull, Stopped: the request is not accepted; TimeoutError; ValueError: no words."""
        return await self._result(_Text(text=text, voice=voice, seed=seed))

    async def call(self, work: Callable[[], _T]) -> _T:
        """Run a function that uses the models on the thread. Raises what :meth:`say` and ``work`` raise."""
        return await self._result(_Job(work=work))

    async def stream(self, text: str, voice: Voice, seed: int) -> AsyncGenerator[SpeechChunk, None]:
        """Synthesize a text as a stream. Raises what :meth:`say` raises; close the generator to cancel."""
        job = _Text(text=text, voice=voice, seed=seed, is_stream=True)
        deadline = job.loop.time() + self._limits.timeout_seconds
        with self._place(job):
            while True:
                async with asyncio.timeout_at(deadline):
                    chunk = await job.get()
                if chunk is None:
                    return
                with self._changed:
                    job.ahead -= 1
                    self._changed.notify()
                yield chunk

    async def _result(self, job: _Job) -> Any:
        with self._place(job):
            async with asyncio.timeout(self._limits.timeout_seconds):
                return await job.get()

    @contextmanager
    def _place(self, job: _Job) -> Iterator[None]:
        with self._changed:
            if self._stopping:
                raise Stopped
            if len(self._jobs) >= self._limits.queue:
                raise QueueFull
            if isinstance(job, _Text):
                job.last_turn = self._turns
            self._jobs.append(job)
            self._changed.notify()
        try:
            yield
        finally:
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
                is_urgent = any(isinstance(job, _Text) and job.is_stream for job in self._jobs)
            if gather and not is_urgent:
                time.sleep(_GATHER_SECONDS)
            self._turn()

    def _runnable(self) -> list[_Job]:
        """Jobs that can be worked on now."""
        return [
            job
            for job in self._jobs
            if not job.is_done and not (isinstance(job, _Text) and job.ahead >= _CHUNKS_AHEAD)
        ]

    def _turn(self) -> None:
        """Process a chunk of every stream, every call and one batch of sentences."""
        with self._changed:
            self._turns += 1
            jobs = self._runnable()
        texts = []
        for job in jobs:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # about characters that are not spoken
                    if not isinstance(job, _Text):
                        job.finish(job.work())
                    elif job.is_stream:
                        self._stream_chunk(job)
                    else:
                        if job.sentences is None:
                            job.sentences = self._synthesizer.plan(job.text, job.voice, job.seed)
                        texts.append(job)
            except Exception as error:
                job.finish(error)
        if texts:
            self._synthesize(share(texts, self._limits.batch))

    def _stream_chunk(self, job: _Text) -> None:
        if job.chunks is None:
            job.chunks = self._synthesizer.stream(job.text, job.voice, job.seed)
        chunk = next(job.chunks, None)
        if chunk is None:
            job.finish(None)
        else:
            with self._changed:
                job.ahead += 1
            job.put(chunk)

    def _synthesize(self, picked: Sequence[tuple[_Text, Sentence]]) -> None:
        """Synthesize one batch. If it fails, each sentence is tried alone, so that other requests succeed."""
        try:
            said = self._synthesizer.speak([sentence for _, sentence in picked])
        except Exception as error:
            if len(picked) == 1:
                _LOG.exception("a sentence could not be synthesized")
                picked[0][0].finish(RuntimeError(f"the model failed: {error}"))
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
                self._answered = True
                try:
                    job.finish(self._synthesizer.join(job.said))
                except Exception as error:
                    _LOG.exception("a speech could not be decoded")
                    job.finish(RuntimeError(f"the codec failed: {error}"))


def share(texts: Sequence[_Text], limit: int) -> list[tuple[_Text, Sentence]]:
    """Choose ``limit`` sentences: one of each unfinished text, the longest waiting first, then a second of each."""
    left = [
        (job, (job.sentences or [])[len(job.said) :]) for job in sorted(texts, key=lambda job: job.last_turn)
    ]
    picked: list[tuple[_Text, Sentence]] = []
    for nth in range(max(len(sentences) for _, sentences in left)):
        picked += [(job, sentences[nth]) for job, sentences in left if nth < len(sentences)]
        if len(picked) >= limit:
            break
    return picked[:limit]
