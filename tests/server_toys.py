"""A server of tiny random parts on a port of this machine."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from copy import copy
from functools import cache
from pathlib import Path
from typing import Any

import av
import numpy as np
import soundfile
import uvicorn
from conftest import build_tiny_codec, speech_like
from lm_toys import toy_synthesizer
from openai import OpenAI

from tts_lm import Synthesizer
from tts_lm.cli.main import main
from tts_lm.server.app import create_app
from tts_lm.server.run import address_of, listen, server_config
from tts_lm.server.scheduler import ServeLimits
from tts_lm.server.security import Access

TEXT = "Hello there. And you."


@cache
def _toy() -> Synthesizer:
    return toy_synthesizer(build_tiny_codec())


def toy() -> Synthesizer:
    """A synthesizer whose methods a test may replace. All share their models."""
    return copy(_toy())


@contextmanager
def serving(
    synthesizer: Synthesizer,
    limits: ServeLimits | None = None,
    access: Access | None = None,
    voices_folder: Path | None = None,
    model: str = "toy",
    connections: int | None = None,
) -> Iterator[tuple[str, Any]]:
    """Yields the address and the app, and stops as on SIGTERM."""
    app = create_app(synthesizer, limits, model, access, voices_folder)
    config = server_config(app, connections, 5.0)
    config.port = 0
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive())
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", app
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def run_program(command: list[str], use: Callable[[str], None], capsys: Any) -> int:
    """Run a server of ``tts-lm`` in this thread until SIGTERM, which follows when ``use(address)`` in another ends."""
    with listen("127.0.0.1", 0) as free:
        address = address_of(free)
    ended = threading.Event()

    def work() -> None:
        try:
            until(lambda: address in capsys.readouterr().out or ended.is_set(), 240)
            use(address)
        finally:
            if not ended.is_set():
                os.kill(os.getpid(), signal.SIGTERM)

    with ThreadPoolExecutor(1) as pool:
        used = pool.submit(work)
        status = main([*command, "--port", address.rpartition(":")[2]])
        ended.set()
        used.result()
    return status


def until(true: Callable[[], Any], seconds: float = 30.0) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)


def client(address: str, key: str = "any") -> OpenAI:
    """The official client, without retries."""
    return OpenAI(base_url=f"{address}/v1", api_key=key, max_retries=0, timeout=60)


def places(app: Any) -> int:
    """Number of waiting and running requests."""
    return app.state.server.scheduler.places_taken


def clip(seconds: float = 2.0, form: str = "WAV", sampling_rate: int = 16_000) -> bytes:
    """A clip that passes as speech, as a file."""
    out = io.BytesIO()
    wav = speech_like(seconds, sampling_rate)[0].numpy()
    soundfile.write(out, wav, sampling_rate, format=form)
    return out.getvalue()


def heard(data: bytes) -> tuple[np.ndarray, int, str]:
    """Samples, rate and comment of a sound file."""
    with av.open(io.BytesIO(data)) as file:
        [stream] = file.streams.audio
        comment = (file.metadata | stream.metadata).get("comment", "")
        if stream.codec.name == "aac":  # which soundfile does not read
            frames = [frame.to_ndarray()[0] for frame in file.decode(stream)]
            return np.concatenate(frames), stream.rate, comment
    with soundfile.SoundFile(io.BytesIO(data)) as sound:
        return sound.read(dtype="float32"), sound.samplerate, comment


class Slow:
    """Blocks the batches of a synthesizer until they are released, and keeps the seeds of each."""

    def __init__(self, synthesizer: Synthesizer) -> None:
        self.go, self.inside = threading.Event(), threading.Event()
        self.batches: list[list[int]] = []
        speak = synthesizer.speak

        def waiting(sentences: Any, *rest: Any, **more: Any) -> Any:
            self.batches.append([sentence.seed for sentence in sentences])
            self.inside.set()
            assert self.go.wait(30)
            return speak(sentences, *rest, **more)

        synthesizer.speak = waiting  # type: ignore[method-assign]
