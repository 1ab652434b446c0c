"""Counters in the format of Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """Counters of one server. Labels never contain client input. ``queue`` returns the length of the queue."""

    def __init__(self, queue: Callable[[], int]) -> None:
        to = self.registry = CollectorRegistry()
        seconds = partial(Histogram, buckets=_SECONDS, registry=to)
        self.requests = seconds("tts_lm_request_seconds", "Time to the end", ["route", "status"])
        self.first_sound = seconds("tts_lm_first_sound_seconds", "Time to the first audio of a stream")
        sizes = (1, 2, 4, 8, 16, 32)
        self.batch = Histogram("tts_lm_batch", "Sentences in one batch", buckets=sizes, registry=to)
        self.spoken = Counter("tts_lm_speech_seconds", "Speech made, in seconds", registry=to)
        Gauge("tts_lm_queue", "Requests that wait or run", registry=to).set_function(queue)
        ProcessCollector(registry=to)


class MetricsMiddleware:
    """Counts requests by route and status (499: the client disconnected). HEAD is routed as GET."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        began, status = time.monotonic(), 500

        async def watched(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        if scope.get("method") == "HEAD":  # uvicorn keeps its own scope, and sends no body
            scope = {**scope, "method": "GET"}
        await self._app(scope, receive, watched)
        if scope["type"] == "http":
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status)).observe(time.monotonic() - began)
