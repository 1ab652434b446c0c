"""The scheduler: results do not depend on other requests, no request starves, no place in the queue leaks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import pytest
import torch

pytest.importorskip("fastapi", reason="the server is an extra")

from server_toys import Slow, toy

from tts_lm import Speech, Synthesizer
from tts_lm.server.scheduler import Scheduler, ServeLimits, Stopped

TEXTS = ["Hello there.", "A.", "One sentence. And you."]
LONG = "One more sentence. " * 40


@pytest.fixture
def synthesizer() -> Synthesizer:
    return toy()


@contextmanager
def running(
    synthesizer: Synthesizer, limits: ServeLimits | None = None
) -> Iterator[tuple[Scheduler, list[int]]]:
    batches: list[int] = []
    scheduler = Scheduler(synthesizer, limits or ServeLimits(), batches.append)
    scheduler.start()
    try:
        yield scheduler, batches
    finally:
        scheduler.stop()


def same(one: Speech, other: Speech) -> bool:
    equal = torch.equal(one.codes, other.codes) and one.finish_reason == other.finish_reason
    return equal and one.wav.shape == other.wav.shape and bool((one.wav - other.wav).abs().max() < 1e-5)


def test_batch_is_single(synthesizer):
    """Results of a mixed batch equal those of single requests."""
    slow, voices = Slow(synthesizer), list(synthesizer.voices.values())
    asked = [(text, voices[n % 2], 5 * n) for n, text in enumerate(TEXTS)]
    with running(synthesizer) as (scheduler, batches):

        async def all_at_once() -> list[Speech]:
            tasks = [asyncio.create_task(scheduler.say("A.", voices[0], 1))]
            await asyncio.to_thread(slow.inside.wait)
            tasks += [asyncio.create_task(scheduler.say(*one)) for one in asked]
            await asyncio.sleep(0)  # they enter the queue
            slow.go.set()
            return await asyncio.gather(*tasks)

        _, *answers = asyncio.run(all_at_once())
        assert scheduler.places_taken == 0
    assert batches == [1, 4]
    for answer, (text, voice, seed) in zip(answers, asked, strict=True):
        assert same(answer, synthesizer.say(text, voice, seed))


def test_a_long_text_starves_no_one(synthesizer):
    slow, voice = Slow(synthesizer), synthesizer.voice()
    with running(synthesizer, ServeLimits(batch=4)) as (scheduler, _):

        async def ask() -> None:
            long = [asyncio.create_task(scheduler.say(LONG, voice, 0)) for _ in range(5)]
            await asyncio.to_thread(slow.inside.wait)
            short = [asyncio.create_task(scheduler.say("A.", voice, 9)) for _ in range(3)]
            await asyncio.sleep(0)  # they enter the queue
            slow.go.set()
            await asyncio.gather(*short)
            assert not any(task.done() for task in long)
            [task.cancel() for task in long]

        asyncio.run(ask())
    assert sum(batch.count(9) for batch in slow.batches[:3]) == 3


def test_a_stream_and_the_others_take_turns(synthesizer):
    voice = synthesizer.voice()
    with running(synthesizer) as (scheduler, _):

        async def ask() -> None:
            async with aclosing(scheduler.stream(LONG, voice, 0)) as stream:
                for _ in range(2):
                    await anext(stream)
                    await scheduler.say("A.", voice, 0)
            assert scheduler.places_taken == 0
            whole = [chunk async for chunk in scheduler.stream(TEXTS[2], voice, 1)]
            alone = list(synthesizer.stream(TEXTS[2], voice, 1))
            assert all(torch.equal(a.codes, b.codes) for a, b in zip(whole, alone, strict=True))

        asyncio.run(ask())


def test_a_stream_stays_a_few_chunks_ahead_of_its_client(synthesizer):
    first, made = next(synthesizer.stream("A.", None, 0)), []

    def counting(*_: Any) -> Any:
        while True:
            made.append(first)
            yield first

    synthesizer.stream = counting  # type: ignore[method-assign]
    with running(synthesizer) as (scheduler, _):

        async def ask() -> None:
            async with aclosing(scheduler.stream(LONG, synthesizer.voice(), 0)) as chunks:
                await anext(chunks)
                for _ in range(20):  # each takes a turn of the thread
                    await scheduler.call(lambda: None)
                assert 1 <= len(made) <= 6

        asyncio.run(ask())


def test_a_failing_neighbour_costs_no_one_else(synthesizer):
    speak, voice = synthesizer.speak, synthesizer.voice()

    def moody(sentences: Any, *rest: Any) -> Any:
        if any(sentence.seed == 13 for sentence in sentences):
            raise RuntimeError("no such luck")
        return speak(sentences, *rest)

    synthesizer.speak = moody  # type: ignore[method-assign]
    with running(synthesizer) as (scheduler, _):

        async def ask() -> list[Any]:
            asked = [scheduler.say("A.", voice, seed) for seed in (1, 13)]
            return await asyncio.gather(*asked, return_exceptions=True)

        first, second = asyncio.run(ask())
    assert isinstance(second, RuntimeError) and same(first, synthesizer.say("A.", voice, 1))


def test_those_who_wait_are_told_when_it_stops(synthesizer):
    slow, voice = Slow(synthesizer), synthesizer.voice()
    scheduler = Scheduler(synthesizer, ServeLimits(batch=1))
    scheduler.start()

    async def ask() -> None:
        tasks = [asyncio.create_task(scheduler.say("A.", voice, seed)) for seed in range(2)]
        await asyncio.to_thread(slow.inside.wait)
        stopping = asyncio.create_task(asyncio.to_thread(scheduler.stop))
        while scheduler.alive:
            await asyncio.sleep(0.01)
        slow.go.set()
        await stopping
        first, second = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(first, Speech) and isinstance(second, Stopped)
        with pytest.raises(Stopped):
            await scheduler.say("A.", voice, 0)

    asyncio.run(ask())
    assert not scheduler.alive
