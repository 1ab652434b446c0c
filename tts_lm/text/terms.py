"""The word lists of the English normaliser, from ``english_terms.txt``."""

from __future__ import annotations

from pathlib import Path


def _read() -> dict[str, dict[str, str]]:
    out: dict[str, dict[str, str]] = {}
    for line in (Path(__file__).parent / "english_terms.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("# "):
            kind, _, entries = line.partition(": ")
            for entry in entries.split("; "):
                written, _, spoken = entry.partition("=")
                out.setdefault(kind, {})[written] = spoken
    return out


TERMS = _read()
"""Kind -> written form -> spoken form, which is empty in kinds that are sets of words."""


def either(kind: str) -> str:
    """Regular expression for the words of a kind, longer words first."""
    return "|".join(sorted(TERMS[kind], key=len, reverse=True))
