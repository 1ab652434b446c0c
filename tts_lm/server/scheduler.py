"""One thread that speaks for many: whole texts sentence by sentence, streams chunk by chunk, other work between them.

Knows nothing of HTTP or files. The laws it keeps: the event loop never waits for a model; what one gets does not depend
on who else asks; a place in the queue is free again when its answer is there, has failed, is late, or is not wanted any
more; and nobody's long text keeps the others waiting, for in a turn everyone gets a sentence, or a chunk, before anyone
gets a second.
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
from ..stream import SpeechChunk
from ..synthesizer import Said, Speech, Synthesizer
from ..voices import Voice
from .limits import ServeLimits

# Those who ask at the same time are spoken together, and so are those who ask again as soon as they have their answer:
# without it they would fall into two halves that take turns.
_GATHER_SECONDS = 0.03
_CHUNKS_AHEAD = 4  # of what a stream's client has taken
_LONGEST_RETRY_SECONDS = 60
_LOG = logging.getLogger("tts_lm.server")
_T = TypeVar("_T")


class Busy(RuntimeError):
    """The queue is full.

    Args:
        retry_after_s: when a place may be free.
    """

    def __init__(self, retry_after_s: int) -> None:
        super().__init__(f"expected a free place in the queue, it is full; try again in {retry_after_s} s")
        self.retry_after_s = retry_after_s


class Stopped(RuntimeError):
    """The server is going down."""


@dataclass(eq=False)
class _Job:
    """A place in the queue."""

    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Any]
    deadline: float
    done: bool = False
    """Nothing is left to do for it."""

    def settle(self, value: Any = None, error: BaseException | None = None) -> None:
        """Hand over what came of it; from any thread."""
        self.done = True

        def tell() -> None:
            if self.future.done():
                return
            if error is None:
                self.future.set_result(value)
            else:
                self.future.set_exception(error)

        with suppress(RuntimeError):  # the loop is closed: no one waits any more
            self.loop.call_soon_threadsafe(tell)


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
    served: int = 0
    """The last turn that spoke for it, at first the one in which it came."""


@dataclass(eq=False)
class _Stream(_Text):
    chunks: Iterator[SpeechChunk] | None = None
    items: asyncio.Queue[SpeechChunk | BaseException | None] = field(default_factory=asyncio.Queue)
    ahead: int = 0
    """Chunks that were made and not taken."""

    def put(self, item: SpeechChunk | BaseException | None) -> None:
        """Hand over a chunk, an error, or None at the end; from any thread."""
        self.ahead += 1
        self.done = not isinstance(item, SpeechChunk)
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.items.put_nowait, item)


class Engine:
    """The queue and the thread. Its coroutines belong to the event loop that calls them.

    Args:
        synthesizer: speaks; only the thread uses it.
        limits: how long the queue, how large a batch, how late an answer.
        on_batch: told how many sentences were spoken at once, after each batch.
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
        self._pace = 1.0  # seconds that a turn takes, lately
        self._answered = False  # somebody has an answer since the last turn, and may ask again
        self._thread = threading.Thread(target=self._work, name="tts-lm-engine", daemon=True)

    @property
    def places_taken(self) -> int:
        """Requests that wait or are spoken."""
        return len(self._jobs)

    @property
    def alive(self) -> bool:
        """Whether requests are taken."""
        return self._thread.is_alive() and not self._stopping

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Take nothing more, finish the turn, and tell those who wait."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join(timeout_s)
        for job in list(self._jobs):
            error = Stopped("the server is going down; try again later")
            job.put(error) if isinstance(job, _Stream) else job.settle(error=error)

    async def say(self, text: str, voice: Voice, seed: int) -> Speech:
        """Speak a text, a sentence a turn.

        Raises:
            Busy: the queue is full.
            Stopped: the server is going down.
            TimeoutError: it took too long.
            ValueError: nothing in the text can be spoken.
        """
        return await self._outcome(_Text(*self._place(), text=text, voice=voice, seed=seed))

    async def call(self, work: Callable[[], _T]) -> _T:
        """Run something that needs the models, or must not run twice at a time.

        Raises:
            Busy, Stopped, TimeoutError: as :meth:`say`; and whatever ``work`` raises.
        """
        return await self._outcome(_Call(*self._place(), work=work))

    async def stream(self, text: str, voice: Voice, seed: int) -> AsyncGenerator[SpeechChunk, None]:
        """Speak a text while it is being made; close the iterator to give up.

        Yields:
            Chunks of sound.

        Raises:
            Busy, Stopped, TimeoutError, ValueError: as :meth:`say`, before the first chunk or between two.
        """
        job = _Stream(*self._place(), text=text, voice=voice, seed=seed)
        self._enter(job)
        try:
            while True:
                async with asyncio.timeout_at(job.deadline):
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

    async def _outcome(self, job: _Job) -> Any:
        self._enter(job)
        try:
            async with asyncio.timeout_at(job.deadline):
                return await job.future
        finally:
            self._leave(job)

    def _place(self) -> tuple[asyncio.AbstractEventLoop, asyncio.Future[Any], float]:
        loop = asyncio.get_running_loop()
        return loop, loop.create_future(), loop.time() + self._limits.timeout_seconds

    def _enter(self, job: _Job) -> None:
        with self._changed:
            if self._stopping:
                raise Stopped("the server is going down; try again later")
            if len(self._jobs) >= self._limits.queue:
                raise Busy(min(_LONGEST_RETRY_SECONDS, math.ceil(self._pace)))
            if isinstance(job, _Text):
                job.served = self._turns
            self._jobs.append(job)
            self._changed.notify()

    def _leave(self, job: _Job) -> None:
        with self._changed:
            job.done = True
            self._jobs.remove(job)

    def _work(self) -> None:
        """What the thread does."""
        while True:
            with self._changed:
                gather = self._answered or not self._waiting()
                self._answered = False
                while not self._stopping and not self._waiting():
                    self._changed.wait()
                if self._stopping:
                    return
                hurried = any(isinstance(job, _Stream) for job in self._jobs)
            if gather and not hurried:
                time.sleep(_GATHER_SECONDS)
            began = time.monotonic()
            self._turn()
            self._pace += 0.2 * (time.monotonic() - began - self._pace)

    def _waiting(self) -> list[_Job]:
        """For whom something can be done now."""
        return [
            job
            for job in self._jobs
            if not job.done and not (isinstance(job, _Stream) and job.ahead >= _CHUNKS_AHEAD)
        ]

    def _turn(self) -> None:
        """A chunk of every stream, every call, and one batch of sentences."""
        with self._changed:
            self._turns += 1
            jobs = self._waiting()
        texts = []
        for job in jobs:
            if isinstance(job, _Stream):
                self._advance(job)
            elif isinstance(job, _Text):
                texts.append(job)
            elif isinstance(job, _Call):
                self._run(job)
        texts = [job for job in texts if job.sentences is not None or self._plan(job)]
        if texts:
            self._speak(share(texts, self._limits.batch))

    def _run(self, job: _Call) -> None:
        try:
            job.settle(job.work())
        except Exception as error:
            job.settle(error=error)

    def _plan(self, job: _Text) -> bool:
        """Cut the text into sentences; False where there is nothing to say."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of letters that an English voice drops
                job.sentences = self._synthesizer.plan(job.text, job.voice, job.seed)
        except Exception as error:
            job.settle(error=error)
            return False
        return True

    def _advance(self, job: _Stream) -> None:
        try:
            if job.chunks is None:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    job.chunks = self._synthesizer.stream(job.text, job.voice, job.seed)
            job.put(next(job.chunks, None))
        except Exception as error:
            job.put(error)

    def _speak(self, picked: Sequence[tuple[_Text, Sentence]]) -> None:
        """One batch; should it fail, each on its own, so that nobody pays for a neighbour."""
        try:
            said = self._synthesizer.speak([sentence for _, sentence in picked])
        except Exception as error:
            if len(picked) == 1:
                _LOG.exception("a sentence could not be spoken")
                picked[0][0].settle(error=RuntimeError(f"the model failed: {error}"))
                return
            for one in picked:
                if not one[0].done:
                    self._speak([one])
            return
        self._on_batch(len(picked))
        for (job, _), one in zip(picked, said, strict=True):
            job.said.append(one)
            job.served = self._turns
            if not job.done and len(job.said) == len(job.sentences or ()):
                self._finish(job)

    def _finish(self, job: _Text) -> None:
        self._answered = True
        try:
            job.settle(self._synthesizer.join(job.said))
        except Exception as error:
            _LOG.exception("a speech could not be decoded")
            job.settle(error=RuntimeError(f"the codec failed: {error}"))


def share(texts: Sequence[_Text], most: int) -> list[tuple[_Text, Sentence]]:
    """Who speaks next: a sentence of each, of those who have waited longest first, then a second of each...

    Args:
        texts: with sentences that are not said yet, by arrival.
        most: sentences in all.
    """
    left = [
        (job, (job.sentences or [])[len(job.said) :]) for job in sorted(texts, key=lambda job: job.served)
    ]
    picked: list[tuple[_Text, Sentence]] = []
    for nth in range(max(len(sentences) for _, sentences in left)):
        picked += [(job, sentences[nth]) for job, sentences in left if nth < len(sentences)]
        if len(picked) >= most:
            break
    return picked[:most]
