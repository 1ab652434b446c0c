"""Prepares data sets as token shards. Every row of a source ends in a shard or in ``dropped.jsonl`` with a reason.

Names are imported on first use, so that a command and its workers start quickly.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checks import Limits, Shaping, read_row
    from .preparation import Progress, dry_run, prepare
    from .reader import Batch, PreparedCorpus
    from .reports import listen, report, report_text
    from .rows import Source, SourceRow
    from .shards import Manifest
    from .sources import open_source
    from .verification import verify

_NAMES = {
    "checks": ("Limits", "Shaping", "read_row"),
    "preparation": ("Progress", "dry_run", "prepare"),
    "reader": ("Batch", "PreparedCorpus"),
    "reports": ("listen", "report", "report_text"),
    "rows": ("Source", "SourceRow"),
    "shards": ("Manifest",),
    "sources": ("open_source",),
    "verification": ("verify",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

__all__ = [
    "Batch",
    "Limits",
    "Manifest",
    "PreparedCorpus",
    "Progress",
    "Shaping",
    "Source",
    "SourceRow",
    "dry_run",
    "listen",
    "open_source",
    "prepare",
    "read_row",
    "report",
    "report_text",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import a public name from the module that defines it."""
    if name not in _HOME:
        raise AttributeError(f"module 'audiotok.corpus' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value
