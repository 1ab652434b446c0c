"""Words to sounds: the CMU pronouncing dictionary, written with one character a sound.

Knows nothing of tokens or models. The law it keeps: letters stay lower case and sounds are written with
capitals and digits, so a pronounced text mixes both without doubt, and no text a user types (it is
lower-cased) forges a sound.
"""

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
"""ARPAbet names and the character each is written with."""
_DICTIONARY = Path(__file__).parent / "pronunciations.txt.xz"
_VOICELESS = frozenset(SOUNDS[s] for s in ("P", "T", "K", "F", "TH"))
_HISSING = frozenset(SOUNDS[s] for s in ("S", "Z", "SH", "ZH", "CH", "JH"))


def write_sounds(phones: Iterable[str]) -> str:
    """ARPAbet names to characters: ``["K", "AE", "T"]`` -> ``"KET"``.

    Raises:
        KeyError: a name outside the 39 sounds (stress marks must be gone).
    """
    return "".join(SOUNDS[phone] for phone in phones)


def pronounce(word: str) -> str | None:
    """How a word sounds.

    Args:
        word: lower-case letters and apostrophes.

    Returns:
        One character a sound, or None when neither the word nor its stem is known.
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
    """Replace the known words of normalised text by their sounds; unknown words stay letters."""
    return re.sub(r"[a-z']+", lambda match: pronounce(match[0]) or match[0], text)


def _ending(last: str, ending: str) -> str:
    if ending == "s":
        return "4Z" if last in _HISSING else "S" if last in _VOICELESS else "Z"
    if ending == "d":
        return "4D" if last in "TD" else "T" if last in _VOICELESS | {"S", "X", "C"} else "D"
    return ending


@functools.cache
def _lexicon() -> dict[str, str]:
    text = lzma.decompress(_DICTIONARY.read_bytes()).decode("ascii")
    return dict(line.split(" ") for line in text.splitlines() if line[0] != "#")
