"""The server as an ASGI app."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from fastapi import FastAPI

from audiotok import __version__

from ..synthesizer import Synthesizer
from . import routes
from .errors import install_handlers
from .metrics import Metrics, MetricsMiddleware
from .scheduler import Scheduler, ServeLimits
from .security import Access, protect
from .voices import VoiceStore


def create_app(
    synthesizer: Synthesizer,
    limits: ServeLimits | None = None,
    model: str = "tts-lm",
    access: Access | None = None,
    voices_folder: str | Path | None = None,
) -> FastAPI:
    """Create the server, which needs ``synthesizer`` for itself. ``model`` is its name in the API.

    The body limit of ``access`` is set from ``limits``. Without ``voices_folder``, added voices are kept in memory;
    ValueError: a voice in it is damaged or belongs to another codec.
    """
    limits, config = limits or ServeLimits(), synthesizer.codec.config
    store = VoiceStore(synthesizer.voices, limits.voices, voices_folder, config.n_q, config.codebook_size)
    scheduler = Scheduler(synthesizer, limits, lambda sentences: metrics.batch.observe(sentences))
    metrics = Metrics(lambda: scheduler.places_taken)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        scheduler.start()
        yield
        await asyncio.to_thread(scheduler.stop)

    app = FastAPI(
        title="tts-lm",
        version=__version__,
        summary="Text-to-speech: POST /v1/audio/speech for OpenAI's clients.",
        lifespan=lifespan,
        docs_url=None,  # their pages load external scripts
        redoc_url=None,
        redirect_slashes=False,  # a redirect repeats the Host header of the client
    )
    app.state.server = routes.Server(synthesizer, scheduler, store, limits, metrics, model)
    install_handlers(app)
    app.include_router(routes.router)
    body_bytes = max(limits.upload_bytes, 12 * limits.text_letters)  # JSON may take 12 bytes for a character
    protect(
        app,
        replace(access or Access(), body_bytes=body_bytes),
        (routes.TAG_HEADER, routes.IGNORED_HEADER, routes.REASON_HEADER, "Retry-After"),
    )
    app.add_middleware(MetricsMiddleware, metrics=metrics)
    return app
