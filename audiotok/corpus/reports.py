"""Counts of a corpus as JSON, text and HTML, its data card, and a page with the audio of random rows."""

from __future__ import annotations

import base64
import html
import io
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile

from ..files import parse_json, write_aside, write_json
from ..program import duration
from .checks import REASONS
from .reader import PreparedCorpus, choose, decode_row
from .shards import CODES_DTYPE, Manifest

if TYPE_CHECKING:
    from ..codec.model import AudioCodec

REPORT_FILES = ("report.json", "report.html")
CARD = "README.md"
# Name -> title, first edge, width of a bin, bins; values beyond an end are counted in the bin at that end.
_HISTOGRAMS = {
    "seconds": ("Length of a clip, s", 0.0, 0.5, 60),
    "level_db": ("Level of its speech, dB of full scale", -60.0, 2.0, 30),
    "characters_per_s": ("Characters a second", 0.0, 1.0, 40),
}
_NAMES_SHOWN = 20
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 }
td { text-align: left; padding: .15em 1.2em .15em 0; vertical-align: top }
audio { width: 100%; margin: .4em 0 }
section { border-top: 1px solid #ccc; padding: 1em 0 }
.small { color: #666; font-size: 13px }
.bars { display: flex; align-items: flex-end; height: 120px; border-bottom: 1px solid #999 }
.bars i { flex: 1; margin-right: 1px; background: #2a5d9f }
"""


class Tally:
    """Incremental counts of rows in constant memory, except for the names of speakers."""

    def __init__(self) -> None:
        self._totals = Counter[str]()
        self._hours: dict[str, Counter[str]] = {name: Counter() for name in ("split", "language", "speaker")}
        self._counts = {name: np.zeros(shape[-1], dtype=np.int64) for name, shape in _HISTOGRAMS.items()}

    def add(self, columns: Mapping[str, Sequence[Any]]) -> None:
        """Count rows, given as columns of a shard; levels may be missing."""
        seconds = np.array(columns["seconds"], dtype=np.float64)
        characters = np.array([len(text or "") for text in columns["text"]], dtype=np.float64)
        self._totals.update(rows=len(seconds), frames=sum(columns["frames"]))
        self._totals["characters"] += characters.sum()
        self._totals["seconds"] += seconds.sum()
        for name, counter in self._hours.items():
            for value, length in zip(columns[name], seconds, strict=True):
                counter[value or ""] += length / 3600
        with_text = (characters > 0) & (seconds > 0)
        levels = [level for level in columns["level_db"] if level is not None]
        drawn = {"seconds": seconds, "level_db": levels}
        for name, values in (
            drawn | {"characters_per_s": characters[with_text] / seconds[with_text]}
        ).items():
            _, start, step, bins = _HISTOGRAMS[name]
            places = np.clip(np.floor((np.array(values) - start) / step), 0, bins - 1).astype(np.int64)
            self._counts[name] += np.bincount(places, minlength=bins)

    def result(
        self, source: str, source_rows: int, drops: Counter[str], manifest: Manifest | None
    ) -> dict[str, Any]:
        """The counts as JSON values, with those of the source; ``manifest`` is None for a dry run."""
        seconds = self._totals["seconds"]
        described: dict[str, Any] = {
            "source": source,
            "source_rows": source_rows,
            "rows": self._totals["rows"],
            "hours": round(float(seconds) / 3600, 4),
            "frames": self._totals["frames"],
            "characters_per_s": round(float(self._totals["characters"] / seconds), 2) if seconds else 0.0,
        }
        for name, counter in self._hours.items():
            described[f"{name}s"] = {key: round(float(value), 4) for key, value in sorted(counter.items())}
        described["histograms"] = {
            name: {"start": start, "step": step, "counts": self._counts[name].tolist()}
            for name, (_, start, step, _) in _HISTOGRAMS.items()
        }
        described["dropped"] = dict(sorted(drops.items()))
        if manifest is not None:
            described |= {"licence": manifest.licence, "shards": len(manifest.shards)}
            described |= {"codec": manifest.codec, "codes_fingerprint": manifest.codes_fingerprint}
        return described


def report(path: str | Path) -> dict[str, Any]:
    """The counts of a folder written by :func:`~audiotok.corpus.prepare`, from its ``report.json``.

    They are JSON values: rows, hours, frames, hours of splits, languages and speakers, histograms, dropped reasons,
    shards, codec. FileNotFoundError or ValueError if the folder is not a prepared corpus, or its report is damaged.
    """
    file = Path(path) / REPORT_FILES[0]
    manifest = Manifest.load(path)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file; run `audiotok prepare` again to restore it")
    try:
        counts = parse_json(file.read_bytes())
        if (
            counts["rows"] != manifest.rows
            or sum(counts["dropped"].values()) + manifest.rows != manifest.source_rows
        ):
            raise ValueError(f"expected {manifest.rows} of {manifest.source_rows} rows")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{file}: damaged ({error}); delete it and run `audiotok prepare` again") from None
    return {"out": str(path)} | counts


def report_text(counts: Mapping[str, Any]) -> str:
    """The result of :func:`report` as text."""
    name = f"{counts['out']}: " if "out" in counts else ""
    head = f"{name}{counts['rows']} of {counts['source_rows']} rows, {duration(counts['hours'])}"
    if "codec" in counts:
        of = "shard" if counts["shards"] == 1 else "shards"
        head += f", {counts['shards']} {of}, codec {counts['codec']['name']} ({counts['codes_fingerprint']})"
    splits = ", ".join(f"{name or '-'} {duration(hours)}" for name, hours in counts["splits"].items())
    speakers = f"speakers: {len(counts['speakers'])}, {counts['characters_per_s']} characters a second"
    lines = [head, f"splits: {splits}", speakers]
    if counts["dropped"]:
        lines.append(f"dropped: {sum(counts['dropped'].values())}, listed in dropped.jsonl")
        lines += [
            f"  {number:6d} {reason}: {REASONS[reason]}" for reason, number in counts["dropped"].items()
        ]
    return "\n".join(lines)


def write_report(folder: Path, counts: Mapping[str, Any]) -> None:
    """Write :data:`REPORT_FILES`: counts as JSON and as a page."""
    write_json(folder / REPORT_FILES[0], dict(counts))
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
        size = f"{codec['n_q']} x {codec['codebook_size']}"
        facts["codec"] = f"{codec['name']}, {size}, {counts['codes_fingerprint']}"
    body = _table(facts.items())
    for name, drawn in counts["histograms"].items():
        if most := max(drawn["counts"]):
            start, step = drawn["start"], drawn["step"]
            bars = "".join(
                f'<i style="height:{100 * n / most:.1f}%" title="from {start + step * at:g}: {n} rows"></i>'
                for at, n in enumerate(drawn["counts"])
            )
            ends = f"{start:g} to {start + step * len(drawn['counts']):g}, at most {most} rows in a bar"
            body += f'<h2>{_HISTOGRAMS[name][0]}</h2><div class="bars">{bars}</div><div class="small">{ends}</div>\n'
    for name in ("splits", "speakers", "languages"):
        largest = sorted(counts[name].items(), key=lambda pair: (-pair[1], pair[0]))[:_NAMES_SHOWN]
        body += f"<h2>Hours of {name}</h2>" + _table((name or "-", f"{hours:g}") for name, hours in largest)
    if counts["dropped"]:
        body += "<h2>Left out</h2>"
        body += _table((name, number, REASONS[name]) for name, number in counts["dropped"].items())
    title = f"{counts['source']}: {counts['rows']} rows, {duration(counts['hours'])}"
    _write_text(folder / REPORT_FILES[1], _page(title, body))


def write_card(folder: Path, manifest: Manifest) -> None:
    """Write the data card, which gives ``datasets.load_dataset(folder)`` the shards of each split."""
    codec = manifest.codec
    groups = dict.fromkeys(shard["file"].rpartition("-")[0] for shard in manifest.shards if shard["rows"])
    files = "".join(f"  - split: {json.dumps(name)}\n    path: shards/{name}-*.parquet\n" for name in groups)
    dropped = sum(manifest.dropped.values())
    source, licence = (" ".join(text.split()) for text in (manifest.source, manifest.licence))
    card = f"""---
configs:
- config_name: default
  data_files:
{files}---

# {source}, as codes of {codec["name"]}

{manifest.rows} clips, {manifest.hours:.2f} hours, prepared with `audiotok prepare`; {dropped} rows of the source were \
left out (`dropped.jsonl`).
Licence of the source: {licence or "not stated"}.

Codec `{codec["name"]}`, `codes_fingerprint` {manifest.codes_fingerprint}: {codec["n_q"]} codebooks of \
{codec["codebook_size"]} codes, {codec["sampling_rate"] / codec["hop_length"]:g} frames a second.
A row's codes [K, T] are little-endian int16 in C order: \
`numpy.frombuffer(row["codes"], "{CODES_DTYPE}").reshape(row["n_q"], -1)`.
"""
    _write_text(folder / CARD, card)


def listen(
    path: str | Path,
    codec: AudioCodec,
    out: str | Path,
    *,
    rows: int = 20,
    seed: int = 0,
    split: str | None = None,
) -> list[str]:
    """Write a page, one file, with decoded audio and text of random rows.

    Args:
        path: a folder written by :func:`~audiotok.corpus.prepare`, with the codec ``codec``.
        out: the .html file.
        rows, seed: how many are shown, and the seed of their choice.
        split: only rows of this split; None takes all.

    Returns the ids of the rows, in the order of the page. FileNotFoundError if there is no corpus, or no folder for the
    page; ValueError if the corpus is damaged, empty, or of another codec.
    """
    corpus = PreparedCorpus(path, split)
    corpus.check(codec)
    if not len(corpus):
        raise ValueError(f"{path}: expected at least one row to listen to, got none")
    chosen = [corpus.row(number) for number in choose(corpus, rows, seed)]
    manifest = corpus.manifest
    size = manifest.codec
    body = (
        f"<p>{len(chosen)} of {len(corpus)} rows, drawn with seed {seed}. Codec {html.escape(size['name'])} "
        f"({manifest.codes_fingerprint}), {size['n_q']} x {size['codebook_size']}. The audio is decoded from the "
        "codes.</p>"
    )
    body += "".join(_section(row, codec) for row in chosen)
    _write_text(Path(out), _page(f"{manifest.source}: listen", body))
    return [row["id"] for row in chosen]


def _section(row: dict[str, Any], codec: AudioCodec) -> str:
    sound = io.BytesIO()
    samples = decode_row(row, codec).clip(-1, 1)
    soundfile.write(sound, samples, codec.config.sampling_rate, format="FLAC", subtype="PCM_16")
    encoded = base64.b64encode(sound.getvalue()).decode("ascii")
    facts = [row[name] for name in ("split", "speaker", "language")]
    facts += [f"{row['seconds']:.2f} s", f"{row['frames']} frames"]
    if row.get("level_db") is not None:
        facts.append(f"speech at {row['level_db']:.0f} dB")
    return (
        f"<section><b>{html.escape(row['id'])}</b> "
        f'<span class="small">{html.escape(" · ".join(filter(None, facts)))}</span>'
        f"<p>{html.escape(row['text'] or '(no text)')}</p>"
        f'<audio controls preload="none" src="data:audio/flac;base64,{encoded}"></audio></section>\n'
    )


def _write_text(path: Path, text: str) -> None:
    with write_aside(path) as aside:
        aside.write_text(text, encoding="utf-8")


def _page(title: str, body: str) -> str:
    """An HTML page that needs no other file; ``body`` is HTML, ``title`` is text."""
    name = html.escape(title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{name}</h1>\n{body}\n</body></html>\n"
    )


def _table(rows: Iterable[Sequence[Any]]) -> str:
    lines = ("".join(f"<td>{html.escape(str(value))}</td>" for value in row) for row in rows)
    return f"<table>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>\n"
