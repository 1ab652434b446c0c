"""Counters in the format of Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SIZES = (1, 2, 4, 8, 16, 32)
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The counters of one server. No label is taken from a client.

    Args:
        queue: returns the number of requests that wait or run.
        voices: returns the number of voices that clients added.
    """

    def __init__(self, queue: Callable[[], int], voices: Callable[[], int]) -> None:
        to = self._registry = CollectorRegistry()
        self.requests = Counter("tts_lm_requests", "Requests answered", ["route", "status"], registry=to)
        self.seconds = Histogram(
            "tts_lm_request_seconds",
            "Time to the end of the answer",
            ["route"],
            buckets=_SECONDS,
            registry=to,
        )
        self.first_sound = Histogram(
            "tts_lm_first_sound_seconds", "Time to the first audio of a stream", buckets=_SECONDS, registry=to
        )
        self.batch = Histogram(
            "tts_lm_sentences_at_once", "Sentences in one batch", buckets=_SIZES, registry=to
        )
        self.spoken = Counter("tts_lm_speech_seconds", "Speech made, in seconds", registry=to)
        Gauge("tts_lm_queue", "Requests that wait or run", registry=to).set_function(queue)
        Gauge("tts_lm_voices_added", "Voices that clients added", registry=to).set_function(voices)
        ProcessCollector(registry=to)

    def text(self) -> bytes:
        """All counters."""
        return generate_latest(self._registry)


class MetricsMiddleware:
    """Counts requests by route and status; 499 is a client that left.

    Args:
        app: the app behind it.
        metrics: where it counts.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        except Exception:
            status = status or 500
            raise
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status or 499)).inc()
            self._metrics.seconds.labels(route).observe(time.monotonic() - began)
