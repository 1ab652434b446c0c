"""English words to phonemes: the CMU Pronouncing Dictionary, homographs, weak forms, and unknown words by analogy."""

from __future__ import annotations

import bisect
import collections
import functools
import lzma
import math
import re
from collections.abc import Iterable
from pathlib import Path


def _read_terms() -> dict[str, dict[str, str]]:
    out: dict[str, dict[str, str]] = {}
    for line in (Path(__file__).parent / "english_terms.txt").read_text(encoding="utf-8").splitlines():
        if not line.startswith("# "):
            kind, _, entries = line.partition(": ")
            for entry in entries.split("; "):
                written, _, spoken = entry.partition("=")
                out.setdefault(kind, {})[written] = spoken
    return out


TERMS = _read_terms()
"""Kind -> written form -> spoken form, which is empty in kinds that are sets of words."""


def either(kind: str) -> str:
    """Regular expression for the words of a kind of :data:`TERMS`, longer words first."""
    return "|".join(sorted(TERMS[kind], key=len, reverse=True))


def table(text: str) -> dict[str, str]:
    """``"a=b c=d"`` -> ``{"a": "b", "c": "d"}``."""
    pairs = (pair.partition("=") for pair in text.split())
    return {key: value for key, _, value in pairs}


SOUNDS = table(
    "AA=A AE=E AH=U AO=O AW=0 AY=I EH=1 ER=2 EY=3 IH=4 IY=Y OW=5 OY=6 UH=7 UW=W B=B CH=C D=D DH=8 F=F G=G HH=H JH=J "
    "K=K L=L M=M N=N NG=9 P=P R=R S=S SH=X T=T TH=Q V=V W=& Y=$ Z=Z ZH=%"
)
"""ARPAbet names, and the character of each. It is a digit, capital or sign that is not in normalised text."""
_NAMES = {character: name for name, character in SOUNDS.items()}
_SUFFIXES = table(
    "'s=s s'= es=4Z s=s ed=d ing=49 ly=LY ers=2Z er=2 ness=NUS less=LUS able=UBUL ful=FUL like=LI,K n't=UNT 'll=UL "
    "'ve=UV 'd=D 're=2"
)
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
    """The pronunciation of a word in lower case, without stress: one character a phoneme, or None if it is unknown."""
    known = _lexicon()
    return known.get(word) or _inflected(word, known, ("'s", "s'", "s", "ed", "ing", "ly"))


def _inflected(
    word: str, known: dict[str, str], suffixes: Iterable[str], doubled: bool = False
) -> str | None:
    """The pronunciation of a known stem and a suffix; ``doubled`` also finds the stem of "stopped"."""
    for suffix in suffixes:
        stem = word.removesuffix(suffix)
        if stem == word or len(stem) < 2:
            continue
        stems = [stem]
        if suffix in ("ed", "ing", "er", "ers", "able"):
            stems += [stem + "e", *([stem[:-1]] if doubled and stem[-1] == stem[-2] else [])]
        found = next((known[s] for s in stems if s in known), None)
        if found is not None:
            return found + _ending(found.rstrip("',")[-1], _SUFFIXES[suffix])
    return None


def pronounce_text(text: str) -> str:
    """Replace the known words of normalised text by their phonemes. Unknown words stay in letters."""
    return re.sub(r"[a-z']+", lambda match: pronounce(match[0]) or match[0], text)


def english_phonemes(text: str) -> list[str]:
    """ARPAbet with stress of normalised English text.

    Args:
        text: the output of :func:`~tts_lm.text.normalise`.

    Returns:
        Symbols such as ``AE1``; ``_`` separates words, and punctuation follows words. Homographs depend on adjacent
        words, function words inside a clause are unstressed, and :func:`guess` pronounces unknown words.
    """
    tokens = re.findall(r"[a-z']+|[.,?!;:-]", text)
    said: list[list[str]] = []
    for at, token in enumerate(tokens):
        if not token[0].isalpha() and token[0] != "'":
            said.append([token])
            continue
        after = tokens[at + 1] if at + 1 < len(tokens) else "."
        if token in TERMS["homograph"]:
            said.append(TERMS["homograph"][token].split("/")[_is_verb(tokens, at)].split(" "))
        elif token in TERMS["weak"] and (after[0].isalpha() or token in TERMS["pronoun"]) and len(tokens) > 2:
            said.append(TERMS["weak"][token].split(" "))
        else:
            said.append(word_phonemes(token))
    out: list[str] = []
    for token, phones, after in zip(tokens, said, [*said[1:], [""]], strict=True):
        if token in ("the", "to") and after[0][-1:].isdigit():
            phones = [phones[0], "IY0" if token == "the" else "UH0"]
        if out and token[0] not in ".,?!;:-":
            out.append("_")
        out += phones
    return out


@functools.lru_cache(maxsize=10_000)
def word_phonemes(word: str) -> list[str]:
    """ARPAbet with stress of one word, from the dictionary, its stem, its two parts, or by analogy."""
    known = _stressed()
    if word in TERMS["word"]:
        return TERMS["word"][word].split(" ")
    if word in known:
        return _arpabet(known[word])
    word = word.strip("'") or word
    found = _inflected(word, known, _SUFFIXES, doubled=True)
    if found is not None:
        return _arpabet(found)
    for cut in range(len(word) - 3, 2, -1):
        if is_common(word[:cut]) and is_common(word[cut:]):
            return [*word_phonemes(word[:cut]), *(p.replace("1", "2") for p in word_phonemes(word[cut:]))]
    letters = re.sub("[^a-z]", "", word)
    said = _arpabet(guess(letters[:40])) or [
        phone for letter in letters[:40] for phone in _arpabet(known[letter])
    ]
    return said + (word_phonemes(letters[40:]) if letters[40:] else [])


def guess(word: str) -> str:
    """Pronounce a word by analogy with the dictionary, in the characters of ``SOUNDS`` with stress marks.

    The phonemes of a letter are predicted from the dictionary words that share its widest context with ten occurrences,
    given the phonemes of the letter before. A beam search keeps six hypotheses. On 250 words of the dictionary,
    each left out with its plural, 9.3 % of the phonemes are wrong (12.7 % with stress).
    """
    padded = f"#{word}#"
    beam: list[tuple[float, list[str]]] = [(0.0, [""])]
    for at in range(len(word)):
        levels = []
        for width in (5, 4, 3, 2, 1, 0):
            low = max(0, at + 1 - width)
            levels.append(_occurrences(padded[low : at + 2 + width], at + 1 - low))
            if len(levels[-1]) >= 10:
                break
        grown = [
            (score + math.log(share), [*read, sound])
            for score, read in beam
            for sound, share in _shares(levels, read[-1]).items()
            if share > 0.003
        ]
        beam = sorted(grown, key=lambda found: -found[0])[:6] or [(s, [*read, ""]) for s, read in beam]
    readings = ["".join(read) for _, read in beam]
    return next((reading for reading in readings if reading.count("'") == 1), readings[0])


def _shares(levels: list[list[tuple[str, str]]], before: str) -> dict[str, float]:
    """Witten-Bell interpolation of the phonemes of a letter, from narrow to wide contexts."""
    shares: dict[str, float] = {}
    for level in reversed(levels):
        counts = collections.Counter(sound for previous, sound in level if previous == before)
        total = sum(counts.values())
        if total:
            kept = 0.7 * len(counts) / (total + 0.7 * len(counts)) if shares else 0.0
            shares = {sound: kept * share for sound, share in shares.items()}
            for sound, count in counts.items():
                shares[sound] = shares.get(sound, 0.0) + (1 - kept) * count / total
    return shares


def _occurrences(window: str, at: int) -> list[tuple[str, str]]:
    """(phonemes of the letter before, of the letter) at up to 300 occurrences of a context in the dictionary."""
    letters, starts, entries = _letters()
    out = []
    found = letters.find(window)
    while found >= 0 and len(out) < 300:
        place = found + at
        index = bisect.bisect_right(starts, place) - 1
        read = _letter_readings(entries[index][1], entries[index][2])
        here = place - starts[index]
        out.append((read[here - 1] if here else "", read[here]))
        found = letters.find(window, found + 1)
    return out


def _letter_readings(characters: str, counts: str) -> list[str]:
    phones = iter(re.findall("(.[',]?)", characters))
    return ["".join(next(phones) for _ in range(int(count))) for count in counts]


@functools.cache
def _letters() -> tuple[str, list[int], list[list[str]]]:
    """All words of the dictionary in one string, the start of each, and their entries."""
    entries = [entry for entry in _entries() if entry[2] != "-"]
    starts, place = [], 1
    for entry in entries:
        starts.append(place)
        place += len(entry[0]) + 1
    return "#" + "#".join(entry[0] for entry in entries) + "#", starts, entries


def _is_verb(tokens: list[str], at: int) -> bool:
    """Whether a homograph has its second pronunciation, from the words beside it."""
    word = tokens[at]
    before = tokens[at - 1] if at else ""
    after = tokens[at + 1] if at + 1 < len(tokens) else ""
    noun = before in TERMS["noun_before"]
    verb = before in TERMS["verb_before"] or (not before[:1].isalpha() and after in TERMS["object_after"])
    if word == "read":
        ago = {"yesterday", "ago", "last"} & set(tokens) and before not in TERMS["present_before"]
        return not (before in TERMS["past_before"] or ago)
    if word == "lead":
        return after not in TERMS["lead_after"] and before not in TERMS["lead_before"]
    if word == "live":
        show = after in TERMS["live_after"] and before not in TERMS["verb_before"]
        return not (before in TERMS["live_before"] or show)
    if word == "lives":
        return not (noun or before in TERMS["lives_before"])
    if word in ("wind", "tear", "bow", "close", "wound") and after in TERMS["particle"]:
        return not noun or word == "close" and before not in ("a", "the")
    if word == "close":
        return verb or after in TERMS["close_after"]
    if word == "wound":
        return False
    if word == "bass":
        return after not in TERMS["bass_after"]
    if word == "minute":
        return before in TERMS["minute_before"] and after != ""
    if word in ("content", "compact", "invalid", "perfect") and before in TERMS["adjective_before"]:
        return word != "perfect"
    if word in ("separate", "estimate") and before in TERMS["state_before"]:
        return False
    if word in TERMS["verb_unless_noun"]:
        return not noun
    return verb and not noun


def is_word(word: str) -> bool:
    """Whether a lower-case word is in the dictionary."""
    return word in _lexicon()


def is_common(word: str) -> bool:
    """Whether a lower-case word is common in running text."""
    return word in _common()


def is_spelled(word: str) -> bool:
    """Whether the dictionary spells a word, such as ``fbi``."""
    names = [SOUNDS["EY"] if letter == "a" else _lexicon().get(letter, "?") for letter in word]
    return _lexicon().get(word) == "".join(names)


def _ending(last: str, ending: str) -> str:
    if ending == "s":
        return "4Z" if last in _HISSING else "S" if last in _VOICELESS else "Z"
    if ending == "d":
        return "4D" if last in "TD" else "T" if last in _VOICELESS | {"S", "X", "C"} else "D"
    return ending


def _arpabet(characters: str) -> list[str]:
    """``KE'T`` -> ``K AE1 T``."""
    out = []
    for phone, mark in re.findall("(.)([',]?)", characters):
        name = _NAMES[phone]
        out.append(name + {"'": "1", ",": "2"}.get(mark, "0") if name[0] in "AEIOU" else name)
    return out


@functools.cache
def _stressed() -> dict[str, str]:
    return {entry[0]: entry[1] for entry in _entries()}


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
    return frozenset(entry[0] for entry in _entries() if len(entry) > 3)
