"""Data sets -> token shards: where rows come from, which are kept, how they are encoded, how they are stored.

Knows nothing of training or of language models. The law it keeps is accounting: every row of a source ends in
a shard or in ``dropped.jsonl`` with a reason, and the result does not depend on workers or on being killed.

Names are imported when they are first used: a worker needs few of them, and starts sooner.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .checks import Limits
    from .engine import dry_run, prepare
    from .journal import merge
    from .listening import listen
    from .progress import Progress
    from .reader import Batch, PreparedCorpus
    from .reporting import report, report_text
    from .rows import Source, SourceRow
    from .shaping import Shaping
    from .shards import Manifest
    from .sources import open_source
    from .verifying import verify

_HOME = {
    "Batch": "reader",
    "Limits": "checks",
    "Manifest": "shards",
    "PreparedCorpus": "reader",
    "Progress": "progress",
    "Shaping": "shaping",
    "Source": "rows",
    "SourceRow": "rows",
    "dry_run": "engine",
    "listen": "listening",
    "merge": "journal",
    "open_source": "sources",
    "prepare": "engine",
    "report": "reporting",
    "report_text": "reporting",
    "verify": "verifying",
}

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
    "merge",
    "open_source",
    "prepare",
    "report",
    "report_text",
    "verify",
]


def __getattr__(name: str) -> Any:
    """Import a public name from the module it lives in, once."""
    if name not in _HOME:
        raise AttributeError(f"module 'audiotok.corpus' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value
