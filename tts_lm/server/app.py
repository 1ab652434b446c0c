"""The server as an ASGI app: a synthesizer, its routes, and what stands before them.

Knows nothing of sockets or the command line. The law it keeps: what it starts it stops, and in between every answer
has passed the guard.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from audiotok import __version__

from ..synthesizer import Synthesizer
from . import routes, speech
from .scheduler import Engine
from .errors import install
from .front import Front
from .security import FREE, Door, Guard
from .keeper import VoiceKeeper
from .limits import ServeLimits, keep_few_shapes
from .meters import Meters

_CLIPS_AT_ONCE = 2


def create_app(
    synthesizer: Synthesizer,
    limits: ServeLimits | None = None,
    model: str = "tts-lm",
    door: Door | None = None,
    voices_folder: str | Path | None = None,
) -> FastAPI:
    """The server.

    Args:
        synthesizer: speaks; nobody else uses it meanwhile.
        limits: what clients may take; None takes the defaults.
        model: what it is called.
        door: who may come in; None: everyone.
        voices_folder: where added voices are kept; None keeps them in memory.

    Raises:
        ValueError: a voice in the folder is damaged or of another codec.
    """
    keep_few_shapes()
    limits, meters, config = limits or ServeLimits(), Meters(), synthesizer.codec.config
    folder = None if voices_folder is None else Path(voices_folder)
    keeper = VoiceKeeper(synthesizer.voices, limits.voices, folder, config.n_q, config.codebook_size)
    engine = Engine(synthesizer, limits, meters.turns.observe)
    meters.watch(lambda: engine.places_taken, lambda: keeper.added)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.front.clips = asyncio.Semaphore(_CLIPS_AT_ONCE)
        engine.start()
        yield
        await asyncio.to_thread(engine.stop)

    app = FastAPI(
        title="tts-lm",
        version=__version__,
        summary="Text in, speech out: POST /v1/audio/speech as OpenAI's clients call it.",
        lifespan=lifespan,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # a redirect repeats whatever Host the client named
    )
    app.state.front = Front(
        synthesizer=synthesizer,
        engine=engine,
        keeper=keeper,
        limits=limits,
        meters=meters,
        model=model,
        created=int(time.time()),
        clips=asyncio.Semaphore(_CLIPS_AT_ONCE),
    )
    install(app)
    app.include_router(speech.router)
    app.include_router(routes.router)
    door = door or Door()
    app.add_middleware(Guard, limits=limits, door=door, meters=meters)
    _describe(app, door)
    return app


def _describe(app: FastAPI, door: Door) -> None:
    """The OpenAPI document with the errors that are sent, a request that does not fit is a 400, and with the key."""
    made = app.openapi

    def document() -> dict[str, Any]:
        schema = made()
        if door.api_key is not None:
            schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, methods in schema["paths"].items():
            for operation in methods.values():
                if door.api_key is not None and path not in FREE:
                    operation["security"] = [{"key": []}]
                operation["responses"].pop("422", None)
                operation["description"] = operation["description"].split("\n\n")[0]
        for name in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(name, None)
        return schema

    app.openapi = document
