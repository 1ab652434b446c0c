"""Which rows go into which shard and which batch, decided by the rows alone.

Knows nothing of codecs, files or processes. The law it keeps: a shard is so many rows of the source in their order,
and a batch is a matter of its shard only; who computes what, and when, changes nothing in the result.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .checks import Header
from .rows import Source


@dataclass(frozen=True)
class Survey:
    """What a source lists, before any sound is opened.

    Attributes:
        rows: how many there are.
        digest: hex, over everything that is listed.
        repeated: [rows] bool, true where a row before has the same id.
    """

    rows: int
    digest: str
    repeated: np.ndarray


def survey(source: Source) -> Survey:
    """Go once through the listing of a source; 16 bytes a row are held."""
    digest = hashlib.sha256()
    hashes = bytearray()
    for piece in source.listing():
        digest.update(json.dumps(piece, ensure_ascii=False, default=str).encode())
        for id, *_ in piece:
            hashes += hash_id(str(id))
    ids = np.frombuffer(bytes(hashes), dtype=np.uint64).reshape(-1, 2)
    repeated = np.zeros(len(ids), dtype=bool)
    if len(ids):
        order = np.lexsort((ids[:, 1], ids[:, 0]))  # stable: of equal ids the first row comes first
        ordered = ids[order]
        repeated[order[1:]] = (ordered[1:] == ordered[:-1]).all(axis=1)
    return Survey(len(ids), digest.hexdigest(), repeated)


def hash_id(id: str) -> bytes:
    """16 bytes that stand for an id: two of ten thousand million ids are as good as never alike."""
    return hashlib.blake2b(id.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def plan_digest(settings: Mapping[str, Any], listed: str) -> str:
    """Hex: what the whole result depends on, settings and listing."""
    return hashlib.sha256(f"{json.dumps(settings, sort_keys=True)}{listed}".encode()).hexdigest()


def make_batches(headers: Iterable[Header], batch_s: float) -> list[list[int]]:
    """The rows of a shard in batches of like lengths, of at most ``batch_s`` padded seconds (or one row)."""
    batches: list[list[int]] = []
    for header in sorted(headers, key=lambda header: (header.seconds, header.row)):
        # Sorted upwards: the newest row is the longest, so it sets the padded size.
        if batches and (len(batches[-1]) + 1) * header.seconds <= batch_s:
            batches[-1].append(header.row)
        else:
            batches.append([header.row])
    return batches
