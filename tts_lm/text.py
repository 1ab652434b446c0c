"""English text to the words a voice says, and the sequence template around them.

Knows nothing of models. The law it keeps: what comes out holds only characters of ``ALPHABET``, so no text a
user types becomes an audio id or a control id, and text with nothing to say is refused rather than spoken as
noise.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from typing import Any

from .numbers import speak_numbers

LETTERS = "abcdefghijklmnopqrstuvwxyz'"
PUNCTUATION = ".,?!;:-"
ALPHABET = LETTERS + PUNCTUATION + " "
PRINTABLE = "".join(map(chr, range(32, 127)))
TEXT_START = 3  # where the text begins in a prompt
MAX_SENTENCE_LETTERS = 160
MAX_PROMPTED_LETTERS = 100  # after a voice's own words: together no longer than what was learnt from

_TYPOGRAPHY = str.maketrans(
    {"‘": "'", "’": "'", "‚": ",", "‛": "'", "“": '"', "”": '"', "„": '"', "—": " - ", "―": " - ", "⁄": "/"}
    | {"‐": "-", "‑": "-", "−": "-", "…": ".", "«": '"', "»": '"', "\u00a0": " ", "\u2009": " ", "´": "'"}
    | {
        "(": ", ",
        ")": ", ",
        "[": ", ",
        "]": ", ",
        "{": ", ",
        "}": ", ",
        '"': " ",
        "_": " ",
        "*": " ",
        "~": " ",
    }
    | {
        "|": " ",
        "<": " ",
        ">": " ",
        "\\": " ",
        "^": " ",
        "`": "'",
        "æ": "ae",
        "Æ": "Ae",
        "œ": "oe",
        "Œ": "Oe",
    }
    | {"ø": "o", "Ø": "O", "ß": "ss", "ł": "l", "Ł": "L", "đ": "d", "ð": "d", "þ": "th", "Þ": "Th"}
)
_ABBREVIATIONS = {
    short: spoken.replace("_", " ")
    for short, _, spoken in (
        entry.partition("=")
        for entry in (
            "mr=mister mrs=missus ms=miz dr=doctor prof=professor capt=captain col=colonel gen=general lt=lieutenant "
            "sgt=sergeant rev=reverend hon=honorable jr=junior sr=senior st=saint mt=mount vs=versus etc=et_cetera "
            "esq=esquire messrs=messers maj=major gov=governor sen=senator pres=president vol=volume dept=department "
            "approx=approximately inc=incorporated ltd=limited co=company ave=avenue blvd=boulevard rd=road "
            "jan=january feb=february aug=august sept=september oct=october nov=november dec=december"
        ).split()
    )
}
_SPELLED = {"us": "u s", "uk": "u k", "it": "i t", "usa": "u s a", "eu": "e u", "un": "u n"}
_SYMBOLS = {
    "&": " and ",
    "+": " plus ",
    "=": " equals ",
    "@": " at ",
    "#": " number ",
    "%": " percent",
    "°": " degrees",
    "/": " ",
}


def normalise(text: str) -> str:
    """Write text the way it is spoken: lower case, numbers and abbreviations as words.

    Args:
        text: English text, any length; typographic quotes and dashes, accents and symbols are understood.

    Returns:
        A string over ``ALPHABET`` with single spaces, holding at least one letter.

    Raises:
        TypeError: text is not a str.
        ValueError: nothing in the text can be spoken in English (empty, punctuation, emoji, another script).

    Characters of another script inside an English text are dropped with a ``UserWarning``.
    """
    if not isinstance(text, str):
        raise TypeError(f"expected the text as str, got {type(text).__name__}; pass one sentence at a time")
    out = _plain_letters(text)
    foreign = sum(c not in ALPHABET and c.isalpha() for c in out.lower())
    spoken = speak_numbers(_speak_shorthand(out)).lower()
    spoken = re.sub(r"\b([a-z]+)\.(?=\W|$)", lambda m: _ABBREVIATIONS.get(m[1], m[0]), spoken)
    spoken = re.sub(r"\b(mr|mrs|dr|etc|vs)\b", lambda m: _ABBREVIATIONS[m[1]], spoken)
    spoken = re.sub("[" + re.escape("".join(_SYMBOLS)) + "]", lambda m: _SYMBOLS[m[0]], spoken)
    spoken = spoken.replace("–", " - ")
    dropped = sorted({c for c in spoken if c not in ALPHABET and not c.isspace()})
    spoken = _tidy("".join(c if c in ALPHABET else " " for c in spoken))
    letters = sum(c in LETTERS for c in out.lower())
    if not re.search("[a-z]", spoken) or foreign > letters:
        shown = text if len(text) <= 40 else text[:37] + "..."
        raise ValueError(
            f"expected English text with something to say, got {shown!r}; write at least one word"
        )
    if dropped:
        shown = " ".join(c if c.isprintable() else ascii(c) for c in dropped[:12])
        warnings.warn(f"dropped what an English voice cannot say: {shown}", stacklevel=2)
    return spoken


def split_sentences(text: str, max_letters: int = MAX_SENTENCE_LETTERS) -> list[str]:
    """Cut normalised text into pieces that are spoken one at a time.

    Args:
        text: the output of :func:`normalise`.
        max_letters: a longer sentence is cut at its commas, then at its spaces; one word may exceed it, then
            it is cut inside.

    Returns:
        At least one piece; each holds a letter; joined by spaces they give back every word in order.
    """
    pieces: list[str] = []
    for sentence in re.split(r"(?<=[.!?])\s", text):
        pieces.extend(_cut(sentence.strip(), max_letters, (r"(?<=[;:,-])\s", r"\s")))
    return [piece for piece in pieces if re.search("[a-z]", piece)]


def plain(text: str) -> str:
    """Drop the punctuation of normalised text, as careless typists do (``don't`` keeps its apostrophe)."""
    return " ".join("".join(" " if c in PUNCTUATION else c for c in text).split())


def character_ids(tokenizer: Any) -> dict[str, int]:
    """The id of every printable ASCII character.

    Raises:
        ValueError: the tokenizer splits or merges some of them.
    """
    ids = {c: tokenizer.encode_text(c) for c in PRINTABLE}
    if any(len(found) != 1 for found in ids.values()):
        raise ValueError(
            "expected a tokenizer with one id for each printable character; use load_tokenizer()"
        )
    return {c: found[0] for c, found in ids.items()}


def build_prompt(tokenizer: Any, text_ids: list[int], voice: int) -> list[int]:
    """Wrap text ids for the AR model: ``<bos> <voice_k> <text> t… </text> <audio>``.

    The text begins at position ``TEXT_START``.

    Args:
        tokenizer: an ``audiotok`` tokenizer (``control_id``).
        text_ids: ids of one sentence.
        voice: 0..15, the voice's control token.

    Returns:
        The ids the model continues with codebook-0 ids, then ``</audio>`` and ``<eos>``.
    """
    control = tokenizer.control_id
    head = [control("bos"), control(f"voice_{voice:02}"), control("text_start")]
    return [*head, *text_ids, control("text_end"), control("audio_start")]


def _plain_letters(text: str) -> str:
    """Typographic signs to ASCII ones (but for the en dash, which means "to" between numbers), accents dropped."""
    text = re.sub("[½¼¾⅓⅔⅛]", lambda m: f" {unicodedata.normalize('NFKC', m[0])}", text)
    text = unicodedata.normalize("NFKC", text.translate(_TYPOGRAPHY)).translate(_TYPOGRAPHY)
    return "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")


def _speak_shorthand(text: str) -> str:
    """Write out what points and capitals shorten, so that a point that is left ends a sentence."""
    if not re.search("[a-z]", text):
        text = text.lower()  # written all in capitals: they say nothing
    text = re.sub(r"\b[eE]\.\s?g\.", "for example", text)
    text = re.sub(r"\b[iI]\.\s?e\.", "that is", text)
    text = re.sub(r"\b[Pp]h\.\s?[Dd]\b\.?", "p h d", text)
    text = re.sub(r"\b[Nn]os?\.\s?(?=\d)", "number ", text)
    text = re.sub(r"(?<=[a-z] )St\.(?!\s[A-Z])", "Street", text)  # before a name it is a saint
    text = re.sub(r"°\s?([CF])\b", lambda m: " degrees " + {"C": "Celsius", "F": "Fahrenheit"}[m[1]], text)
    text = re.sub(
        r"(?<![\w.-])[\w-]+(?:\.[\w-]+)*\.(?:com|org|net|edu|gov|io|uk|eu)\b",
        lambda m: m[0].replace(".", " dot "),
        text,
    )
    # "a.m." before a capital, or at the end, ends the sentence too.
    text = re.sub(r"(?<![^\W\d])([aApP])\.\s?[mM]\.(?=\s+[A-Z]|\W*$)", r" \1 m.", text)
    text = re.sub(r"(?<![^\W\d])([aApP])\.\s?[mM]\b\.?", r" \1 m", text)
    text = re.sub(r"(?<=\d)\s?([aApP])[mM]\b", r" \1 m", text)
    text = re.sub(r"\b(?:[a-z]\.){2,}", lambda m: " ".join(m[0].replace(".", " ").split()) + " ", text)
    text = re.sub(r"\b(?:[A-Z]\.){2,}", lambda m: " ".join(m[0].replace(".", " ").split()) + " ", text)
    text = re.sub(r"\b([A-HJ-Z])\.(?=\s+[A-Z])", r"\1", text)
    return re.sub(r"\b[A-Z]{2,5}\b", lambda m: _spell(m[0]), text)


def _spell(capitals: str) -> str:
    """Spell out capitals that nobody reads as a word."""
    word = capitals.lower()
    if word in _SPELLED:
        return _SPELLED[word]
    if word in _ABBREVIATIONS or (re.search("[aeiouy]", word) and len(word) > 2):
        return capitals
    return " ".join(word)


def _tidy(text: str) -> str:
    """Quotes gone, compounds as words, one mark behind a word and one space behind the mark."""
    text = re.sub(r"(?<![a-z])'(?!(?:tis|twas|em|til|cause)\b)|'(?![a-z])", " ", re.sub("'+", "'", text))
    text = re.sub(r"(?<=[a-z])-(?=[a-z])", " ", text)
    text = re.sub(r"\s+", " ", text).lstrip(" " + PUNCTUATION)
    return re.sub(r" ?[.,?!;:-][.,?!;: -]*", _mark, text).rstrip(" ,;:-")


def _mark(match: re.Match[str]) -> str:
    """Of several marks the first that ends a sentence counts, else the last."""
    marks = match[0].replace(" ", "")
    return next((mark for mark in marks if mark in ".?!"), marks[-1]) + " "


def _cut(text: str, limit: int, seams: tuple[str, ...]) -> list[str]:
    if len(text) <= limit:
        return [text] if text else []
    if not seams:
        return [text[at : at + limit] for at in range(0, len(text), limit)]
    parts = [part for piece in re.split(seams[0], text) for part in _cut(piece.strip(), limit, seams[1:])]
    joined: list[str] = []
    for part in parts:
        if joined and len(joined[-1]) + 1 + len(part) <= limit:
            joined[-1] += " " + part
        else:
            joined.append(part)
    return joined
