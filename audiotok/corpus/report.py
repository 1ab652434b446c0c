"""What a prepared corpus holds, in numbers and as text for people.

Knows only the files of a preparation. The law it keeps: source rows = rows + dropped, counted from the shards
themselves and not copied from the manifest.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from .checks import REASONS
from .journal import read_dropped
from .shards import PreparedCorpus


def report(path: str | Path) -> dict[str, Any]:
    """Count what is in a prepared corpus.

    Args:
        path: a folder written by :func:`~audiotok.corpus.prepare`.

    Returns:
        JSON values: rows, hours, frames, splits, speakers, languages (hours each), dropped reasons, shards,
        codec.

    Raises:
        FileNotFoundError, ValueError: the folder is not a prepared corpus, or rows are unaccounted for.
    """
    corpus = PreparedCorpus(path)
    seconds = np.array(corpus.column("seconds"), dtype=np.float64)
    reasons = Counter(drop.reason for drop in read_dropped(path))
    manifest = corpus.manifest
    if len(corpus) + sum(reasons.values()) != manifest.source_rows:
        raise ValueError(
            f"{path}: expected {manifest.source_rows} rows in shards or dropped, got {len(corpus)} and "
            f"{sum(reasons.values())}; prepare again"
        )
    characters = sum(map(len, corpus.column("text")))
    return {
        "out": str(path),
        "source": manifest.source,
        "source_rows": manifest.source_rows,
        "rows": len(corpus),
        "hours": round(float(seconds.sum()) / 3600, 4),
        "frames": int(sum(corpus.column("frames"))),
        "characters_per_s": round(characters / float(seconds.sum()), 2) if len(seconds) else 0.0,
        "splits": _hours(corpus.column("split"), seconds),
        "languages": _hours(corpus.column("language"), seconds),
        "speakers": _hours(corpus.column("speaker"), seconds),
        "dropped": dict(sorted(reasons.items())),
        "shards": len(manifest.shards),
        "codec": manifest.codec,
        "codes_fingerprint": manifest.codes_fingerprint,
    }


def report_text(counts: dict[str, Any]) -> str:
    """The result of :func:`report` as a few lines for people."""
    dropped = sum(counts["dropped"].values())
    lines = [
        f"{counts['out']}: {counts['rows']} of {counts['source_rows']} rows, {counts['hours']:.2f} h, "
        f"{counts['shards']} shards, codec {counts['codec']['name']} ({counts['codes_fingerprint']})",
        "splits: " + ", ".join(f"{name or '-'} {hours:.2f} h" for name, hours in counts["splits"].items()),
        f"speakers: {len(counts['speakers'])}, {counts['characters_per_s']} characters a second",
    ]
    if dropped:
        lines.append(f"dropped: {dropped}, listed in dropped.jsonl")
        lines.extend(
            f"  {number:6d} {reason}: {REASONS[reason]}" for reason, number in counts["dropped"].items()
        )
    return "\n".join(lines)


def _hours(names: list[str], seconds: np.ndarray) -> dict[str, float]:
    """Hours of sound by name, sorted by name."""
    keys = np.array(names, dtype=object)
    return {name: round(float(seconds[keys == name].sum()) / 3600, 4) for name in sorted(set(names))}
