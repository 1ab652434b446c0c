"""Markup of chat and web pages to plain text: Markdown, HTML tags and entities, line ends."""

from __future__ import annotations

import html
import re

_BLOCKS = "p div br hr li ul ol dl dt dd tr table thead tbody h1 h2 h3 h4 h5 h6 section article header footer".split()
_INLINE = (
    "pre blockquote a abbr b big body button center cite code del em font head html i img input ins kbd label link "
    "main mark meta nav q s samp small span strike strong sub sup td th time title tt u var video audio source svg form"
)
_ATTRIBUTES = r"(?:\s+[\w:-]+\s*=\s*(?:\"[^\"]*\"|'[^']*'|[^\s>\"']+))*"
_TAG = re.compile(rf"</?({'|'.join(_BLOCKS + _INLINE.split())})\b{_ATTRIBUTES}\s*/?>", re.IGNORECASE)
_HIDDEN = re.compile(r"<!--.*?-->|<(script|style)\b[^<>]*>.*?</\1\s*>", re.IGNORECASE | re.DOTALL)
_BULLET = r"(?:[-*+•‣▪◦]|\d{1,2}[.)]|[a-z][.)]|\((?:[a-z]|[ivx]{2,4}|\d{1,2})\))"
_ITEM = re.compile(rf"[ \t>]*{_BULLET}[ \t]+(?=\S)")
_LINK = r"!?\[([^\[\]]*)\](?:\([^()\s]*(?:\([^()]*\)[^()\s]*)*(?:\s+\"[^\"]*\")?\)|\[[^\[\]]*\])"
_WRAPPED = 40
"""Shorter lines end a sentence, as in lists, addresses and poems."""


def strip_markup(text: str) -> str:
    """Remove Markdown and HTML, and end a sentence after each short line, list item, heading and table row.

    Args:
        text: any text. Other uses of the signs are kept, such as ``a < b`` and ``List<String>``.

    Returns:
        One line. Links are replaced by their text. The cells of a table are separated by commas.
    """
    if "<" in text or "&" in text:
        text = _HIDDEN.sub(" ", text)
        text = _TAG.sub(lambda m: "\n\n" if m[1].lower() in _BLOCKS else _inline(m[0]), text)
        text = html.unescape(text)
    return _join_lines([_line(line) for line in re.split(r"\r\n|[\n\r\v\f\x85\u2028\u2029]", text)])


def _inline(tag: str) -> str:
    return ", " if re.match(r"</t[dh]\b", tag, re.IGNORECASE) else ""


def _line(line: str) -> tuple[str, bool]:
    """The words of a line, and whether it is a sentence of its own."""
    stripped = line.strip()
    if re.fullmatch(r"[-*_=~`|:+\s]*|(?:```|~~~)\s*\w*", stripped):
        return "", True  # a rule, a fence, or the line below a table header
    alone = False
    while match := re.match(r"(?:>\s?)+|#{1,6}\s+", stripped):
        stripped, alone = stripped[match.end() :], True
    if match := _ITEM.match(stripped):
        label = re.sub(r"\W", "", match[0])
        stripped, alone = (f"{label}, " if label else "") + stripped[match.end() :], True
    stripped = re.sub(r"^\[[ xX]\]\s+|\s#+$", "", stripped)
    if stripped.startswith("|") or re.search(r"\S\s+\|\s+\S", stripped):
        cells = [cell.strip() for cell in stripped.split("|")]
        stripped, alone = ", ".join(cell for cell in cells if cell), True
    stripped = re.sub(_LINK, r"\1", stripped)
    stripped = re.sub(r"\[\^[\w-]+\]:?", " ", stripped)
    stripped = re.sub(r"<((?:https?://|mailto:)[^<>\s]+)>", r"\1", stripped)
    stripped = re.sub(r"`+([^`]*)`+", r"\1", stripped)
    for mark in (r"\*\*\*", r"\*\*", "~~", "==", r"\|\|", "__", r"\*", "_"):
        stripped = re.sub(rf"(?<![\w*]){mark}(?=\S)([^\n]{{1,300}}?)(?<=\S){mark}(?![\w*])", r"\1", stripped)
    return stripped, alone


def _join_lines(lines: list[tuple[str, bool]]) -> str:
    """One line of text, with a full stop at every line end that ends a sentence."""
    out, before, broken = "", 0, False
    for line, alone in lines:
        if not line:
            broken = True
            continue
        wrapped = before >= _WRAPPED and (line[0].islower() or before >= 1.5 * _WRAPPED)
        if out and (alone or broken or not wrapped) and not re.search(r"[.!?;,]\W*$", out):
            out = re.sub(r"[\s:-]+$", "", out) + "."
        out = f"{out} {line}" if out else line
        before, broken = len(line), False
    return out
