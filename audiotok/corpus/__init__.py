"""Prepares data sets as token shards. Every row of a source ends in a shard or in ``dropped.jsonl`` with a reason.

Names are imported on first use, so that a command and its workers start quickly.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checks import Limits as Limits
    from .checks import Shaping as Shaping
    from .checks import read_row as read_row
    from .preparation import Progress as Progress
    from .preparation import dry_run as dry_run
    from .preparation import prepare as prepare
    from .reader import Batch as Batch
    from .reader import PreparedCorpus as PreparedCorpus
    from .reader import verify as verify
    from .reports import listen as listen
    from .reports import report as report
    from .reports import report_text as report_text
    from .rows import Source as Source
    from .rows import SourceRow as SourceRow
    from .shards import Manifest as Manifest
    from .sources import open_source as open_source

_NAMES = {
    "checks": ("Limits", "Shaping", "read_row"),
    "preparation": ("Progress", "dry_run", "prepare"),
    "reader": ("Batch", "PreparedCorpus", "verify"),
    "reports": ("listen", "report", "report_text"),
    "rows": ("Source", "SourceRow"),
    "shards": ("Manifest",),
    "sources": ("open_source",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name from the module that defines it."""
    if name not in _HOME:
        raise AttributeError(f"module 'audiotok.corpus' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value
