"""The server as an ASGI app."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi import FastAPI

from audiotok import __version__

from ..synthesizer import Synthesizer
from ..voices import VoiceStore
from . import routes
from .errors import install_handlers
from .metrics import Metrics, MetricsMiddleware
from .run import keep_few_shapes
from .scheduler import Scheduler, ServeLimits
from .security import OPEN_PATHS, Access, protect


def create_app(
    synthesizer: Synthesizer,
    limits: ServeLimits | None = None,
    model: str = "tts-lm",
    access: Access | None = None,
    voices_folder: str | Path | None = None,
) -> FastAPI:
    """Make the server.

    Args:
        synthesizer: used by this app only.
        limits: what clients may ask for; None takes the defaults.
        model: name of the model.
        access: who may use it; None: everyone. Its limits of bodies are set from ``limits``.
        voices_folder: where added voices are kept; None keeps them in memory.

    Raises:
        ValueError: a voice in the folder is damaged or of another codec.
    """
    keep_few_shapes()
    limits, config = limits or ServeLimits(), synthesizer.codec.config
    store = VoiceStore(synthesizer.voices, limits.voices, voices_folder, config.n_q, config.codebook_size)
    scheduler = Scheduler(synthesizer, limits, lambda sentences: metrics.batch.observe(sentences))
    metrics = Metrics(lambda: scheduler.places_taken, lambda: len(store.added))

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        scheduler.start()
        yield
        await asyncio.to_thread(scheduler.stop)

    app = FastAPI(
        title="tts-lm",
        version=__version__,
        summary="Text-to-speech: POST /v1/audio/speech as OpenAI's clients call it.",
        lifespan=lifespan,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        redirect_slashes=False,  # a redirect repeats the Host that the client named
    )
    app.state.server = routes.Server(synthesizer, scheduler, store, limits, metrics, model)
    install_handlers(app)
    app.include_router(routes.router)
    access = replace(access or Access(), json_bytes=limits.json_bytes, upload_bytes=limits.upload_bytes)
    protect(app, access, (routes.TAG_HEADER, routes.IGNORED_HEADER, routes.REASON_HEADER, "Retry-After"))
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    _describe(app, access)
    return app


def _describe(app: FastAPI, access: Access) -> None:
    """Complete the OpenAPI document: the key, and 400 instead of 422 for a request that does not fit."""
    generate = app.openapi

    def document() -> dict[str, Any]:
        schema = generate()
        if access.api_key is not None:
            schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        for path, methods in schema["paths"].items():
            for operation in methods.values():
                if access.api_key is not None and path not in OPEN_PATHS:
                    operation["security"] = [{"key": []}]
                operation["responses"].pop("422", None)
        for name in ("HTTPValidationError", "ValidationError"):
            schema["components"]["schemas"].pop(name, None)
        return schema

    app.openapi = document
