"""A codec over a test set: every metric per number of codebooks, beside other ways to send the same sound.

Knows nothing of training or of how a codec works inside; it asks for codes and for sound. The law it keeps:
every row is either scored or counted as failed, and the averages do not depend on the number of workers.
"""

from __future__ import annotations

from .engine import FAST_METRICS, evaluate_codec
from .intervals import Average, bootstrap, bootstrap_interval
from .report import CodecReport, Condition
from .rows import Row, read_rows, spread

__all__ = [
    "FAST_METRICS",
    "Average",
    "CodecReport",
    "Condition",
    "Row",
    "bootstrap",
    "bootstrap_interval",
    "evaluate_codec",
    "read_rows",
    "spread",
]
