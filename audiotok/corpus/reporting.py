"""What a corpus holds: counted in one pass, as JSON, as text, and as a page with pictures for people.

Knows only rows and the files of a preparation. The law it keeps: source rows = rows + dropped, counted from the shards
themselves and not copied from the manifest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ..files import write_aside, write_json
from ..program import duration
from .checks import REASONS, read_dropped
from .pages import Bars, Histogram, charts_svg, page, table
from .shards import Manifest, check_shard

REPORT_FILES = ("report.json", "report.html", "report.svg")
_COLUMNS = ("text", "speaker", "language", "split", "frames", "seconds", "level_db")
# Name -> first edge, width of a bin, bins; what lies beyond an end is counted in the bin at that end.
_HISTOGRAMS = {"seconds": (0.0, 0.5, 60), "level_db": (-60.0, 2.0, 30), "characters_per_s": (0.0, 1.0, 40)}
_TITLES = {
    "seconds": ("length of a clip", "s"),
    "level_db": ("level of its speech", "dB of full scale"),
    "characters_per_s": ("characters a second", ""),
}
_SPEAKERS_SHOWN = 20


class Tally:
    """Counts of rows, added up piece by piece in constant memory (but for the names of speakers)."""

    def __init__(self) -> None:
        self._rows = self._frames = self._characters = 0
        self._seconds = 0.0
        self._hours: dict[str, Counter[str]] = {name: Counter() for name in ("split", "language", "speaker")}
        self._counts = {name: np.zeros(bins, dtype=np.int64) for name, (_, _, bins) in _HISTOGRAMS.items()}

    def add(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Count rows, given as columns of a shard; levels may be missing."""
        seconds = np.array(columns["seconds"], dtype=np.float64)
        characters = np.array([len(text or "") for text in columns["text"]], dtype=np.float64)
        self._rows += len(seconds)
        self._frames += sum(columns["frames"])
        self._characters += int(characters.sum())
        self._seconds += float(seconds.sum())
        for name, counter in self._hours.items():
            for value, length in zip(columns[name], seconds, strict=True):
                counter[value or ""] += length / 3600
        self._count("seconds", seconds)
        self._count("level_db", np.array([level for level in columns["level_db"] if level is not None]))
        with_text = (characters > 0) & (seconds > 0)
        self._count("characters_per_s", characters[with_text] / seconds[with_text])

    def result(self) -> dict[str, Any]:
        """The counts as JSON values."""
        hours = {
            f"{name}s": {key: round(value, 4) for key, value in sorted(counter.items())}
            for name, counter in self._hours.items()
        }
        return {
            "rows": self._rows,
            "hours": round(self._seconds / 3600, 4),
            "frames": self._frames,
            "characters_per_s": round(self._characters / self._seconds, 2) if self._seconds else 0.0,
            **hours,
            "histograms": {
                name: {"start": start, "step": step, "counts": self._counts[name].tolist()}
                for name, (start, step, _) in _HISTOGRAMS.items()
            },
        }

    def _count(self, name: str, values: np.ndarray) -> None:
        start, step, bins = _HISTOGRAMS[name]
        places = np.clip(np.floor((values - start) / step), 0, bins - 1).astype(np.int64)
        self._counts[name] += np.bincount(places, minlength=bins)


def report(path: str | Path) -> dict[str, Any]:
    """Count what is in a prepared corpus.

    Args:
        path: a folder written by :func:`~audiotok.corpus.prepare`.

    Returns:
        JSON values: rows, hours, frames, hours of splits, languages and speakers, histograms, dropped reasons, shards,
        codec.

    Raises:
        FileNotFoundError, ValueError: the folder is not a prepared corpus, or rows are unaccounted for.
    """
    manifest = Manifest.load(path)
    reasons = Counter(drop.reason for drop in read_dropped(path))
    return {"out": str(path)} | count(Path(path), manifest, reasons)


def count(folder: Path, manifest: Manifest, reasons: Mapping[str, int]) -> dict[str, Any]:
    """The counts of :func:`report`, given the manifest and the number of dropped rows by reason.

    Raises:
        FileNotFoundError: a shard is missing.
        ValueError: a shard is damaged, or rows are unaccounted for.
    """
    tally = Tally()
    for shard in manifest.shards:
        file = folder / "shards" / shard["file"]
        check_shard(file, shard["rows"], manifest.codes_fingerprint)
        there = [name for name in _COLUMNS if name in pq.read_schema(file).names]
        columns = pq.read_table(file, columns=there).to_pydict()
        tally.add({"level_db": []} | columns)
    counts = tally.result()
    if counts["rows"] + sum(reasons.values()) != manifest.source_rows:
        raise ValueError(
            f"{folder}: expected {manifest.source_rows} rows in shards or dropped, got {counts['rows']} and "
            f"{sum(reasons.values())}; prepare again"
        )
    return describe(counts, manifest.source, manifest.source_rows, reasons) | {
        "licence": manifest.licence,
        "shards": len(manifest.shards),
        "codec": manifest.codec,
        "codes_fingerprint": manifest.codes_fingerprint,
    }


def describe(
    counts: Mapping[str, Any], source: str, source_rows: int, reasons: Mapping[str, int]
) -> dict[str, Any]:
    """A tally's counts with what they were counted of."""
    told = {"source": source, "source_rows": source_rows}
    return told | dict(counts) | {"dropped": dict(sorted(reasons.items()))}


def write_report(folder: Path, manifest: Manifest) -> None:
    """Write :data:`REPORT_FILES` of a preparation whose shards are done."""
    write_pages(folder, count(folder, manifest, manifest.dropped))


def write_pages(folder: Path, counts: Mapping[str, Any]) -> None:
    """Write counts as JSON, as a page and as a picture."""
    as_json, as_html, as_svg = (folder / name for name in REPORT_FILES)
    picture = report_svg(counts)
    write_json(as_json, dict(counts))
    for path, content in ((as_svg, picture), (as_html, report_html(counts, picture))):
        with write_aside(path) as aside:
            aside.write_text(content, encoding="utf-8")


def report_text(counts: Mapping[str, Any]) -> str:
    """The result of :func:`report` as a few lines for people."""
    dropped = sum(counts["dropped"].values())
    name = f"{counts['out']}: " if "out" in counts else ""
    head = f"{name}{counts['rows']} of {counts['source_rows']} rows, {duration(counts['hours'])}"
    if "codec" in counts:
        of = "shard" if counts["shards"] == 1 else "shards"
        head += f", {counts['shards']} {of}, codec {counts['codec']['name']} ({counts['codes_fingerprint']})"
    lines = [
        head,
        "splits: "
        + ", ".join(f"{name or '-'} {duration(hours)}" for name, hours in counts["splits"].items()),
        f"speakers: {len(counts['speakers'])}, {counts['characters_per_s']} characters a second",
    ]
    if dropped:
        lines.append(f"dropped: {dropped}, listed in dropped.jsonl")
        lines.extend(
            f"  {number:6d} {reason}: {REASONS[reason]}" for reason, number in counts["dropped"].items()
        )
    return "\n".join(lines)


def report_svg(counts: Mapping[str, Any]) -> str:
    """Histograms, speakers and reasons as one picture."""
    charts: list[Histogram | Bars] = [
        Histogram(*_TITLES[name], **{key: drawn[key] for key in ("start", "step", "counts")})
        for name, drawn in counts["histograms"].items()
    ]
    charts.append(Bars("hours of the longest speakers", _largest(counts["speakers"].items())))
    charts.append(Bars("hours of languages", _largest(counts["languages"].items())))
    charts.append(Bars("rows dropped", _largest(counts["dropped"].items())))
    return charts_svg(charts)


def report_html(counts: Mapping[str, Any], picture: str) -> str:
    """The report as a page that needs no other file."""
    facts = {
        "source": counts["source"],
        "licence": counts.get("licence") or "not stated",
        "rows": f"{counts['rows']} of {counts['source_rows']}",
        "hours": f"{counts['hours']:.2f}",
        "characters a second": counts["characters_per_s"],
        "speakers": len(counts["speakers"]),
    }
    if "codec" in counts:
        codec = counts["codec"]
        facts["codec"] = (
            f"{codec['name']}, {codec['n_q']} x {codec['codebook_size']}, {counts['codes_fingerprint']}"
        )
    reasons = [(name, number, REASONS[name]) for name, number in counts["dropped"].items()]
    splits = [(name or "-", f"{hours:.2f}") for name, hours in counts["splits"].items()]
    body = table(("", ""), list(facts.items())) + picture
    body += "<h2>Splits</h2>" + table(("split", "hours"), splits)
    if reasons:
        body += "<h2>Left out</h2>" + table(("reason", "rows", "that is"), reasons)
    return page(f"{counts['source']}: {counts['rows']} rows, {duration(counts['hours'])}", body)


def _largest(pairs: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    """The largest few, largest first; names break ties."""
    ordered = sorted(pairs, key=lambda pair: (-pair[1], pair[0]))
    return [(name or "-", value) for name, value in ordered[:_SPEAKERS_SHOWN]]
