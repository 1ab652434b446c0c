"""What a server counts, for Prometheus. Knows nothing of HTTP or models; its law: no label comes from a client."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest

_SIZES = (1, 2, 4, 8, 16, 32)
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Meters:
    """The counters of one server."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "tts_lm_requests", "Requests answered", ["route", "status"], registry=registry
        )
        self.took = Histogram(
            "tts_lm_request_seconds",
            "From arrival to the end of the answer",
            ["route"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.first_sound = Histogram(
            "tts_lm_first_sound_seconds",
            "From arrival to the first sound of a stream",
            buckets=_SECONDS,
            registry=registry,
        )
        self.left = Counter("tts_lm_left", "Clients that left before their answer", registry=registry)
        self.turns = Histogram(
            "tts_lm_sentences_at_once", "Sentences spoken in one batch", buckets=_SIZES, registry=registry
        )
        self.spoken = Counter("tts_lm_speech_seconds", "Speech made, in seconds", registry=registry)
        self._queue = Gauge("tts_lm_queue", "Requests that wait or are spoken", registry=registry)
        self._voices = Gauge("tts_lm_voices_added", "Voices that clients have added", registry=registry)
        ProcessCollector(registry=registry)

    def watch(self, queue: Callable[[], int], voices: Callable[[], int]) -> None:
        """Read these two when asked."""
        self._queue.set_function(queue)
        self._voices.set_function(voices)

    def text(self) -> bytes:
        """In the format that Prometheus reads."""
        return generate_latest(self._registry)
