"""Conversion of English, Mandarin and mixed text to phonemes of one inventory with stress and tone."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence

from .english import english_phonemes
from .mandarin import HAN, initial_final, normalise_mandarin, pinyin
from .normalize import ADDRESS, PUNCTUATION, normalise, plain_letters, split_symbols, strip_markup

BOUNDARY = "_"
"""Separator of words."""
MARKS = tuple(PUNCTUATION)
VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
CONSONANTS = tuple("B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH".split())
INITIALS = tuple("b p m f d t n l g k h j q x zh ch sh r z c s".split())
FINALS = tuple(
    "a o e ai ei ao ou an en ang eng ong er i ii iii ia ie iao iou ian in iang ing iong io u ua uo uai uei uan uen "
    "uang ueng v ve van vn".split()
)
ERHUA = "rr"
"""Erhua, after the final that 儿 changes."""
PHONEMES = (
    BOUNDARY,
    *MARKS,
    *CONSONANTS,
    *(vowel + stress for vowel in VOWELS for stress in "012"),
    *INITIALS,
    *(final + tone for final in FINALS for tone in "12345"),
    ERHUA,
)
"""The inventory: ARPAbet with stress 0-2 for English, initials and finals with tone 1-5 for Mandarin."""
_FULL_WIDTH = {code: code - 0xFEE0 for code in (*range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B))}  # letters
MAX_PHONEMES = 160
"""Longest sentence; a longer one is cut."""


def phonemes(text: str, language: str | None = None) -> list[str]:
    """The phonemes of a text.

    Args:
        text: English, Mandarin or both, any length.
        language: language of numbers and signs, ``en`` or ``zh``. None is ``zh`` if the text has a Han character, else
            ``en``. The language of words is that of their script.

    Returns:
        Symbols of ``PHONEMES``. ``BOUNDARY`` separates words, and punctuation follows words.

    Raises:
        TypeError: text is not a str.
        ValueError: the language is unknown, or nothing in the text can be spoken.
    """
    if language not in (None, "en", "zh"):
        raise ValueError(f"unknown language {language!r}; choose from en, zh")
    if not isinstance(text, str):
        raise TypeError(f"expected the text as str, got {type(text).__name__}")
    text = text.translate(_FULL_WIDTH)
    han = re.search(f"[{HAN}]", text)
    if language is None:
        wide = re.search("[、-】！-～]", text) and not re.search("[A-Za-z]", text)
        language = "zh" if han or wide else "en"
    if not han and language == "en":
        return english_phonemes(normalise(text))
    out: list[str] = []
    for chinese, run in _runs(strip_markup(text), language):
        said = _mandarin(run) if chinese else _english(run)
        if out and said and out[-1] != BOUNDARY and said[0] not in (*MARKS, BOUNDARY):
            out.append(BOUNDARY)
        out += said
    out = _tidy(out)
    if not any(symbol not in (*MARKS, BOUNDARY) for symbol in out):
        raise ValueError(f"nothing to speak in {text[:40]!r}; write at least one word in English or Mandarin")
    return out


def split_phonemes(symbols: Sequence[str], limit: int = MAX_PHONEMES) -> list[list[str]]:
    """Cut the output of :func:`phonemes` into sentences of at most ``limit`` symbols, without losing a phoneme."""
    return split_symbols(symbols, limit, BOUNDARY)


def _runs(text: str, language: str) -> list[tuple[bool, str]]:
    """Runs of Han characters, with their numbers and signs, and runs of Latin letters."""
    latin = r"[A-Za-zÀ-ɏ][A-Za-zÀ-ɏ'’.&+#]*"
    clause = rf"{latin}(?:[\s,]+[\w'’.,%$-]+)*?[\s,]+(?=[^\s{HAN}]*\d)[\w.,%$:-]+(?:[\s,]+[\w'’.,%$-]+)*?[\s,]+{latin}"
    parts = re.split(rf"({ADDRESS.pattern}|{clause})", text) if language == "zh" else [text]
    out: list[tuple[bool, str]] = []
    for at, part in enumerate(parts):
        if not part:
            continue
        if at % 2:
            out.append((False, part))
            continue
        part = normalise_mandarin(part) if language == "zh" else plain_letters(part)
        for run in re.findall(f"[{HAN}]+|[^{HAN}]+", part):
            out.append((run[0] > "\u3000", run))
    return out


def _mandarin(run: str) -> list[str]:
    out: list[str] = []
    for word in pinyin(run):
        for syllable in word:
            out += [*initial_final(syllable.removesuffix("r")), *([ERHUA] if syllable.endswith("r") else [])]
        out.append(BOUNDARY)
    return out[:-1]


def _english(run: str) -> list[str]:
    """Phonemes of a Latin run. Punctuation at its ends is kept."""
    head, tail = re.match(r"\W*", run), re.search(r"\W*$", run)
    before, after = (_mark(found[0] if found else "") for found in (head, tail))
    if not re.search("[A-Za-z0-9À-ɏ]", run):
        return before
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            said = english_phonemes(normalise(run))
    except ValueError:
        return before
    while said and said[-1] in MARKS:
        said.pop()
    return [*before, *([BOUNDARY] if before else []), *said, *after]


def _mark(text: str) -> list[str]:
    """The first of several marks that ends a sentence, else the last."""
    marks = [c for c in text if c in MARKS]
    if not marks:
        return []
    return [next((mark for mark in marks if mark in ".?!"), marks[-1])]


def _tidy(symbols: list[str]) -> list[str]:
    """Keep one mark or boundary between two words, none at the beginning, and a boundary after every inner mark."""
    out: list[str] = []
    for symbol in symbols:
        if symbol in MARKS:
            while out and out[-1] == BOUNDARY:
                out.pop()
            if out and out[-1] in MARKS:
                if symbol in ".?!" and out[-1] not in ".?!":
                    out[-1] = symbol
                continue
            if out:
                out.append(symbol)
        elif symbol != BOUNDARY or (out and out[-1] != BOUNDARY):
            if out and out[-1] in MARKS and symbol != BOUNDARY:
                out.append(BOUNDARY)
            out.append(symbol)
    while out and out[-1] == BOUNDARY:
        out.pop()
    return out
