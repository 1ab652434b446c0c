"""How much of everything a client may ask for. Knows nothing of HTTP; the law it keeps: nothing is without a bound."""

from __future__ import annotations

import os
from dataclasses import dataclass

MAX_CHANNELS = 8
MIN_RATE_HZ, MAX_RATE_HZ = 4_000, 192_000
MIN_SPEED, MAX_SPEED = 0.25, 4.0
MAX_NAME_LETTERS = 40
MAX_FIELD_LETTERS = 1_000
JSON_BYTES_PER_LETTER = 12  # a letter beyond the first plane, escaped as two surrogates
# oneDNN keeps the code it made for each of the last 1024 shapes of a product; sentences have all lengths, and 200 of
# them left 300 MB behind. What is needed again at once, in the steps of a batch, is a handful.
_KEPT_SHAPES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32", "LRU_CACHE_CAPACITY": "32"}


def keep_few_shapes() -> None:
    """Bound what torch keeps of the lengths that it has met; in time only before its first product."""
    for name, value in _KEPT_SHAPES.items():
        os.environ.setdefault(name, value)


@dataclass(frozen=True)
class ServeLimits:
    """What one client, and all of them together, may take.

    Raises:
        ValueError: a value is not above 0.
    """

    queue: int = 64
    """Requests that may wait or be spoken at one time; one more is answered 429."""
    batch: int = 8
    """Sentences that are spoken at once."""
    text_letters: int = 4096
    """Of one request."""
    upload_bytes: int = 8 << 20
    """Of one request's body."""
    clip_seconds: float = 60.0
    """Of one uploaded sound, and of the codes that are decoded."""
    voices: int = 32
    """That clients may add."""
    timeout_seconds: float = 120.0
    """From the arrival of a request to its answer, or to the last sound of a stream."""

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"expected {name} above 0, got {value}")

    @property
    def json_bytes(self) -> int:
        """Of a body that is no upload: the longest text as clumsily as JSON allows, or codes of a clip."""
        return JSON_BYTES_PER_LETTER * self.text_letters + (1 << 20)
