"""Pages and pictures that a browser shows and that need no other file: HTML, SVG, and PNG of a grid of codes.

Knows nothing of corpora. The law it keeps: every text that comes from data is escaped, and equal input gives equal
bytes.
"""

from __future__ import annotations

import html
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_WIDTH, _LINE = 440, 18
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 }
th, td { text-align: left; padding: .15em 1.2em .15em 0; vertical-align: top }
audio { width: 100%; margin: .4em 0 }
img.codes { width: 100%; image-rendering: pixelated; display: block }
section { border-top: 1px solid #ccc; padding: 1em 0 }
.small { color: #666; font-size: 13px }
svg { max-width: 100%; height: auto }
"""


@dataclass(frozen=True)
class Histogram:
    """Counts in bins of one width from ``start``; the first and the last bin hold what lies beyond too."""

    title: str
    unit: str
    start: float
    step: float
    counts: Sequence[int]


@dataclass(frozen=True)
class Bars:
    """Named numbers, one bar each."""

    title: str
    values: Sequence[tuple[str, float]]


def page(title: str, body: str) -> str:
    """An HTML page; ``body`` is HTML, ``title`` is text."""
    name = html.escape(title)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f"<style>{_STYLE}</style></head>\n<body><h1>{name}</h1>\n{body}\n</body></html>\n"
    )


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """An HTML table of text."""
    top = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    lines = ["".join(f"<td>{html.escape(str(value))}</td>" for value in row) for row in rows]
    return f"<table><tr>{top}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>\n"


def charts_svg(charts: Sequence[Histogram | Bars]) -> str:
    """Charts as one SVG picture, in two columns; a chart with nothing in it is left out."""
    drawn = []
    for chart in charts:
        if isinstance(chart, Histogram) and any(chart.counts):
            drawn.append(_draw_histogram(chart))
        elif isinstance(chart, Bars) and chart.values:
            drawn.append(_draw_bars(chart))
    parts, ends = [], [0, 0]
    for svg, height in drawn:
        column = int(ends[1] < ends[0])
        parts.append(f'<g transform="translate({_WIDTH * column} {ends[column]})">{svg}</g>')
        ends[column] += height
    top = max(ends)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * _WIDTH} {top}" width="{2 * _WIDTH}" '
        f'height="{top}" font-family="system-ui, sans-serif" font-size="12">\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def grid_png(grid: np.ndarray, size: int) -> bytes:
    """A grid of codes as a picture: one pixel a code, level 0 at the top, a colour for each value.

    Args:
        grid: [K, T] integers in [0, size).
        size: values that a code can have.

    Returns:
        The bytes of a PNG file, T x K pixels.
    """
    # A palette that runs once through blue, green and yellow: neighbouring codes need not look alike.
    steps = np.linspace(0, 1, 256)
    palette = np.stack(
        [255 * steps**1.5, 40 + 200 * steps, 130 + 60 * np.sin(np.pi * steps) - 110 * steps], axis=1
    )
    pixels = (grid.astype(np.int64) * 256 // size).astype(np.uint8)
    lines = b"".join(b"\0" + line.tobytes() for line in pixels)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 8, 3, 0, 0, 0)),
        (b"PLTE", palette.clip(0, 255).astype(np.uint8).tobytes()),
        (b"IDAT", zlib.compress(lines, 9)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def _draw_histogram(chart: Histogram) -> tuple[str, int]:
    left, top, width, height = 46, 28, _WIDTH - 70, 120
    bins, most = len(chart.counts), max(chart.counts)
    bars = "".join(
        f'<rect x="{left + width * i / bins:.1f}" y="{top + height * (1 - n / most):.1f}" '
        f'width="{max(width / bins - 1, 0.5):.1f}" height="{height * n / most:.1f}" fill="#2a5d9f"/>'
        for i, n in enumerate(chart.counts)
        if n
    )
    marks = "".join(
        f'<text x="{left + width * i / bins:.1f}" y="{top + height + 14}" text-anchor="middle" fill="#555">'
        f"{chart.start + chart.step * i:g}</text>"
        for i in range(0, bins + 1, max(1, bins // 6))
    )
    unit = f", {chart.unit}" if chart.unit else ""
    axis = f'<path d="M{left} {top + height}h{width}" stroke="#999"/>'
    peak = f'<text x="{left - 6}" y="{top + 10}" text-anchor="end" fill="#555">{most}</text>'
    return _title(chart.title + unit) + bars + axis + marks + peak, top + height + 34


def _draw_bars(chart: Bars) -> tuple[str, int]:
    left, top, width = 150, 28, _WIDTH - 230
    most = max(value for _, value in chart.values) or 1
    lines = []
    for number, (name, value) in enumerate(chart.values):
        y = top + _LINE * number
        label = html.escape(name if len(name) <= 22 else name[:21] + "…")
        lines.append(
            f'<text x="{left - 6}" y="{y + 12}" text-anchor="end">{label}</text>'
            f'<rect x="{left}" y="{y + 2}" width="{max(width * value / most, 1):.1f}" height="{_LINE - 6}" '
            f'fill="#c8641b"/><text x="{left + width * value / most + 5:.1f}" y="{y + 12}" fill="#555">'
            f"{value:g}</text>"
        )
    return _title(chart.title) + "".join(lines), top + _LINE * len(chart.values) + 16


def _title(text: str) -> str:
    return f'<text x="10" y="18" font-weight="bold">{html.escape(text)}</text>'
