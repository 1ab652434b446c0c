"""Which rows go into which shard and which batch, decided before any of them is encoded.

Knows nothing of codecs, files or processes. The law it keeps: the plan depends on the rows and the settings
alone, so that who computes what, and when, changes nothing in the result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass
from typing import Any

from .checks import Drop, Header


@dataclass(frozen=True)
class Plan:
    """The rows of each shard in source order, the rows already dropped, and a hash of all of it."""

    shards: list[list[Header]]
    drops: list[Drop]
    digest: str

    @property
    def rows(self) -> int:
        """Rows that are to be encoded."""
        return sum(map(len, self.shards))


def make_plan(inspected: Iterable[Header | Drop], settings: Mapping[str, Any], rows_per_shard: int) -> Plan:
    """Cut the rows into shards; a row whose id was there before is dropped.

    Args:
        inspected: every row of the source, in order.
        settings: whatever else the result depends on; JSON values.
        rows_per_shard: a shard gets so many consecutive rows, the last one what is left.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    kept: list[Header] = []
    drops: list[Drop] = []
    seen: set[str] = set()
    for item in inspected:
        if isinstance(item, Header) and item.id in seen:
            item = Drop(item.row, item.id, "duplicate_id", item.id)
        digest.update(repr(astuple(item)).encode())
        if isinstance(item, Drop):
            drops.append(item)
        else:
            seen.add(item.id)
            kept.append(item)
    shards = [kept[start : start + rows_per_shard] for start in range(0, len(kept), rows_per_shard)]
    return Plan(shards, drops, digest.hexdigest())


def make_batches(shard: list[Header], batch_s: float) -> list[list[int]]:
    """The rows of a shard in batches of like lengths, of at most ``batch_s`` padded seconds (or one row)."""
    batches: list[list[int]] = []
    for header in sorted(shard, key=lambda header: (header.seconds, header.row)):
        # Sorted upwards: the newest row is the longest, so it sets the padded size.
        if batches and (len(batches[-1]) + 1) * header.seconds <= batch_s:
            batches[-1].append(header.row)
        else:
            batches.append([header.row])
    return batches
