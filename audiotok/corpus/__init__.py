"""Data sets -> token shards: where rows come from, which are kept, how they are encoded, how they are stored.

Knows nothing of training or of language models. The law it keeps is accounting: every row of a source ends in
a shard or in ``dropped.jsonl`` with a reason, and the result does not depend on workers or on being killed.
"""

from __future__ import annotations

from .engine import Progress, prepare
from .report import report, report_text
from .shards import Manifest, PreparedCorpus
from .sources import Source, open_source

__all__ = [
    "Manifest",
    "PreparedCorpus",
    "Progress",
    "Source",
    "open_source",
    "prepare",
    "report",
    "report_text",
]
