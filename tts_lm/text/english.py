"""English words to phonemes by the CMU Pronouncing Dictionary, one character a phoneme."""

from __future__ import annotations

import functools
import lzma
import re
from collections.abc import Iterable
from pathlib import Path

SOUNDS = {
    name: character
    for name, _, character in (
        pair.partition("=")
        for pair in (
            "AA=A AE=E AH=U AO=O AW=0 AY=I EH=1 ER=2 EY=3 IH=4 IY=Y OW=5 OY=6 "
            "UH=7 UW=W B=B CH=C D=D DH=8 F=F G=G HH=H JH=J K=K L=L M=M "
            "N=N NG=9 P=P R=R S=S SH=X T=T TH=Q V=V W=& Y=$ Z=Z ZH=%"
        ).split()
    )
}
"""ARPAbet names, and the character of each: a digit or a capital, which normalised text does not hold."""
_DICTIONARY = Path(__file__).parent.parent / "pronunciations.txt.xz"
_VOICELESS = frozenset(SOUNDS[s] for s in ("P", "T", "K", "F", "TH"))
_HISSING = frozenset(SOUNDS[s] for s in ("S", "Z", "SH", "ZH", "CH", "JH"))


def write_sounds(phones: Iterable[str]) -> str:
    """ARPAbet names to characters: ``["K", "AE", "T"]`` -> ``"KET"``.

    Raises:
        KeyError: a name outside the 39 phonemes; stress marks must be removed.
    """
    return "".join(SOUNDS[phone] for phone in phones)


def pronounce(word: str) -> str | None:
    """The pronunciation of a word, without stress.

    Args:
        word: lower-case letters and apostrophes.

    Returns:
        One character a phoneme, or None when neither the word nor its stem is known.
    """
    known = _lexicon()
    if word in known:
        return known[word]
    for suffix, ending in (
        ("'s", "s"),
        ("s'", ""),
        ("s", "s"),
        ("ed", "d"),
        ("ing", "4" + SOUNDS["NG"]),
        ("ly", "LY"),
    ):
        stem = word.removesuffix(suffix)
        if stem == word or len(stem) < 2:
            continue
        sound = known.get(stem) or known.get(stem + "e" if suffix in ("ed", "ing") else stem)
        if sound is not None:
            return sound + _ending(sound[-1], ending)
    return None


def pronounce_text(text: str) -> str:
    """Replace the known words of normalised text by their phonemes; unknown words stay letters."""
    return re.sub(r"[a-z']+", lambda match: pronounce(match[0]) or match[0], text)


def is_word(word: str) -> bool:
    """Whether the dictionary has a lower-case word."""
    return word in _lexicon()


def is_common(word: str) -> bool:
    """Whether a lower-case word is common in running text."""
    return word in _common()


def is_spelled(word: str) -> bool:
    """Whether the dictionary reads a word letter by letter, as it does ``fbi``."""
    names = [SOUNDS["EY"] if letter == "a" else _lexicon().get(letter, "?") for letter in word]
    return _lexicon().get(word) == "".join(names)


def _ending(last: str, ending: str) -> str:
    if ending == "s":
        return "4Z" if last in _HISSING else "S" if last in _VOICELESS else "Z"
    if ending == "d":
        return "4D" if last in "TD" else "T" if last in _VOICELESS | {"S", "X", "C"} else "D"
    return ending


@functools.cache
def _entries() -> list[list[str]]:
    text = lzma.decompress(_DICTIONARY.read_bytes()).decode("ascii")
    return [line.split(" ") for line in text.splitlines() if line[0] != "#"]


@functools.cache
def _lexicon() -> dict[str, str]:
    marks = str.maketrans("", "", "',")
    return {entry[0]: entry[1].translate(marks) for entry in _entries()}


@functools.cache
def _common() -> frozenset[str]:
    return frozenset(entry[0] for entry in _entries() if len(entry) > 2)
