"""English text to the words a voice says, and the sequence template around them.

Knows nothing of models. The law it keeps: what comes out holds only characters of ``ALPHABET``, so no text a user
types becomes an audio id or a control id, and text with nothing to say is refused rather than spoken as noise.
"""

from __future__ import annotations

import re
import unicodedata
import warnings
from typing import Any

LETTERS = "abcdefghijklmnopqrstuvwxyz'"
PUNCTUATION = ".,?!;:-"
ALPHABET = LETTERS + PUNCTUATION + " "
PRINTABLE = "".join(map(chr, range(32, 127)))
TEXT_START = 3  # where the text begins in a prompt
MAX_SENTENCE_LETTERS = 160

_TYPOGRAPHY = str.maketrans(
    {"‘": "'", "’": "'", "‚": ",", "‛": "'", "“": '"', "”": '"', "„": '"', "–": " - ", "—": " - ", "―": " - "}
    | {"‐": "-", "‑": "-", "…": ".", "«": '"', "»": '"', "\u00a0": " ", "\u2009": " ", "´": "'", "`": "'"}
    | {"(": ", ", ")": ", ", "[": ", ", "]": ", ", "{": ", ", "}": ", ", '"': " ", "_": " ", "*": " ", "~": " "}
    | {"|": " ", "<": " ", ">": " ", "\\": " ", "^": " "}
)
# Longest first within a letter is not needed: every entry ends at a word boundary.
_ABBREVIATIONS = {
    "mr": "mister", "mrs": "missus", "ms": "miz", "dr": "doctor", "prof": "professor", "capt": "captain",
    "col": "colonel", "gen": "general", "lt": "lieutenant", "sgt": "sergeant", "rev": "reverend", "hon": "honorable",
    "jr": "junior", "sr": "senior", "st": "saint", "mt": "mount", "vs": "versus", "etc": "et cetera",
    "esq": "esquire", "messrs": "messers", "maj": "major", "gov": "governor", "sen": "senator", "pres": "president",
    "vol": "volume", "dept": "department", "approx": "approximately", "inc": "incorporated", "ltd": "limited",
    "ave": "avenue", "blvd": "boulevard", "rd": "road", "jan": "january", "feb": "february", "aug": "august",
    "sept": "september", "oct": "october", "nov": "november", "dec": "december",
}  # fmt: skip
_UNITS = {
    "km": "kilometers", "kg": "kilograms", "cm": "centimeters", "mm": "millimeters", "mph": "miles per hour",
    "hz": "hertz", "khz": "kilohertz", "mhz": "megahertz", "ghz": "gigahertz", "mb": "megabytes", "gb": "gigabytes",
    "kb": "kilobytes", "tb": "terabytes", "ms": "milliseconds", "min": "minutes", "lb": "pounds", "lbs": "pounds",
    "oz": "ounces", "ft": "feet", "kw": "kilowatts",
}  # fmt: skip
_SPELLED = {"us": "u s", "uk": "u k", "tv": "t v", "pc": "p c", "it": "i t", "usa": "u s a", "eu": "e u", "un": "u n"}
_CURRENCY = {"$": ("dollar", "cent"), "£": ("pound", "penny"), "€": ("euro", "cent"), "¥": ("yen", "sen")}
_SYMBOLS = {"&": " and ", "+": " plus ", "=": " equals ", "@": " at ", "#": " number ", "%": " percent", "°": " degrees"}
_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"


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
    out = unicodedata.normalize("NFKC", text.translate(_TYPOGRAPHY)).translate(_TYPOGRAPHY)
    out = "".join(c for c in unicodedata.normalize("NFD", out) if unicodedata.category(c) != "Mn")
    out = _speak_numbers(_speak_acronyms(out)).lower()
    out = re.sub(r"\be\.\s?g\.", "for example", out)
    out = re.sub(r"\bi\.\s?e\.", "that is", out)
    out = re.sub(r"\bno\.(?= (?:one|two|three|four|five|six|seven|eight|nine|ten)\b)", "number", out)
    out = re.sub(r"\b([a-z]+)\.(?=\W|$)", _abbreviation, out)
    out = re.sub(r"\b(mr|mrs|dr|etc|vs)\b", lambda m: _ABBREVIATIONS[m[1]], out)
    out = re.sub("[" + re.escape("".join(_SYMBOLS)) + "]", lambda m: _SYMBOLS[m[0]], out)
    out = out.replace("/", " ")
    dropped = sorted({c for c in out if c not in ALPHABET and not c.isspace()})
    out = _tidy("".join(c if c in ALPHABET else " " for c in out))
    if not re.search("[a-z]", out):
        shown = text if len(text) <= 40 else text[:37] + "..."
        raise ValueError(f"expected English text with something to say, got {shown!r}; write at least one word")
    if dropped:
        warnings.warn(f"dropped what an English voice cannot say: {' '.join(dropped[:12])}", stacklevel=2)
    return out


def split_sentences(text: str, max_letters: int = MAX_SENTENCE_LETTERS) -> list[str]:
    """Cut normalised text into pieces that are spoken one at a time.

    Args:
        text: the output of :func:`normalise`.
        max_letters: a longer sentence is cut at its commas, then at its spaces; one word may exceed it, then it is
            cut inside.

    Returns:
        At least one piece; each holds a letter; joined by spaces they give back every word in order.
    """
    pieces: list[str] = []
    for sentence in re.split(r"(?<=[.!?])[.,!?;: -]*\s", text):
        pieces.extend(_cut(sentence.strip(), max_letters, (r"(?<=[;:,])\s", r"\s-\s", r"\s")))
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
        raise ValueError("expected a tokenizer with one id for each printable character; use load_tokenizer()")
    return {c: found[0] for c, found in ids.items()}


def build_prompt(tokenizer: Any, text_ids: list[int], voice: int) -> list[int]:
    """Wrap text ids for the AR model: ``<bos> <voice_k> <text> t… </text> <audio>``, text from ``TEXT_START`` on.

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


def _abbreviation(match: re.Match[str]) -> str:
    return _ABBREVIATIONS.get(match[1], match[0])


def _speak_acronyms(text: str) -> str:
    """Spell out capitals that nobody reads as a word; leave a text written all in capitals alone."""
    if not re.search("[a-z]", text):
        return text
    text = re.sub(r"\b(?:[A-Z]\.){2,}", lambda m: " ".join(m[0].replace(".", " ").split()) + " ", text)

    def spell(match: re.Match[str]) -> str:
        word = match[0].lower()
        if word in _SPELLED:
            return _SPELLED[word]
        return match[0] if re.search("[aeiouy]", word) and len(word) > 2 else " ".join(word)

    return re.sub(r"\b[A-Z]{2,5}\b", lambda m: m[0] if m[0].lower() in _ABBREVIATIONS else spell(m), text)


def _speak_numbers(text: str) -> str:
    """Replace every digit by words: currency, times, ordinals, years, fractions, decimals, units."""
    money = "[" + re.escape("".join(_CURRENCY)) + "]"
    scale = r"(?:\s(hundred|thousand|million|billion|trillion)\b)?"
    text = re.sub(rf"({money})\s?({_NUMBER}){scale}", _money, text)
    text = re.sub(r"\b(\d{1,2}):([0-5]\d)\b", _time, text)
    text = re.sub(r"\b(\d+)(st|nd|rd|th)\b", lambda m: _words(m[1], "ordinal"), text, flags=re.IGNORECASE)
    text = re.sub(r"\b(\d{2,3}0)'?s\b", lambda m: _plural(_words(m[1], "year" if len(m[1]) == 4 else "cardinal")), text)
    text = re.sub(r"(?<![\d,.])(1[1-9]\d\d|20\d\d)(?![\d,]*\d|\.\d)", lambda m: _words(m[1], "year"), text)
    text = re.sub(r"\b(\d)/(\d)\b", _fraction, text)
    text = re.sub(rf"(?<![\w.])-({_NUMBER})", r" minus \1", text)
    units = "|".join(_UNITS)
    text = re.sub(rf"({_NUMBER})\s?({units})\b", lambda m: f"{m[1]} {_UNITS[m[2].lower()]}", text, flags=re.IGNORECASE)
    text = re.sub(_NUMBER, lambda m: f" {_words(m[0])} ", text)
    return re.sub(r"\d", " ", text)


def _words(number: str, to: str = "cardinal") -> str:
    from num2words import num2words

    number = number.replace(",", "")
    if len(number.split(".")[0]) > 12 or (number[0] == "0" and len(number) > 1 and number[1] != "."):
        return " ".join(num2words(int(d)) if d.isdigit() else "point" for d in number)
    if "." in number:
        whole, _, decimals = number.partition(".")
        return f"{_words(whole)} point " + " ".join(num2words(int(d)) for d in decimals[:12])
    return num2words(int(number), to=to).replace(",", "")


def _plural(words: str) -> str:
    return words[:-1] + "ies" if words.endswith("y") else words + "s"


def _money(match: re.Match[str]) -> str:
    unit, cent = _CURRENCY[match[1]]
    number, scale = match[2].replace(",", ""), match[3]
    many = unit if unit == "yen" else unit + "s"
    if scale:
        return f"{_words(number)} {scale} {many}"
    whole, _, cents = number.partition(".")
    said = f"{_words(whole)} {unit if int(whole) == 1 else many}"
    if len(cents) == 2 and int(cents):
        coins = {"penny": "pence", "sen": "sen"}.get(cent, cent + "s")
        return f"{said} and {_words(str(int(cents)))} {cent if int(cents) == 1 else coins}"
    return f"{_words(number)} {many}" if cents and int(cents) else said


def _time(match: re.Match[str]) -> str:
    hour, minute = int(match[1]), match[2]
    if hour > 24:
        return f"{_words(match[1])} {_words(minute)}"
    if minute == "00":
        return f"{_words(str(hour))} o'clock"
    return f"{_words(str(hour))} " + (f"oh {_words(minute[1])}" if minute[0] == "0" else _words(minute))


def _fraction(match: re.Match[str]) -> str:
    top, bottom = int(match[1]), int(match[2])
    if top == 0 or bottom < 2:
        return f"{_words(match[1])} over {_words(match[2])}"
    name = {2: "half", 4: "quarter"}.get(bottom) or _words(str(bottom), "ordinal")
    plural = {"half": "halves"}.get(name, name + "s")
    return f"{_words(match[1])} {name if top == 1 else plural}"


def _tidy(text: str) -> str:
    text = re.sub(r"(?<![a-z])'+|'+(?![a-z])", lambda m: "'" if m.end() < len(text) and m[0] == "'" else " ", text)
    text = re.sub(r"(?<![a-z])'(?!(?:tis|twas|em|til|cause)\b)|'(?![a-z])", " ", text)
    text = re.sub(r"\s+", " ", text)
    text = re.sub(r"\s+([.,?!;:])", r"\1", text)
    text = re.sub(r"(?:[,;:-]\s?)+([.?!])", r"\1", text)
    text = re.sub(r"([.,?!;:])[.,?!;:]*(?=[.,?!;:])", lambda m: m[1] if m[1] in ".?!" else "", text)
    text = re.sub(r"([.?!])[.,?!;:]+", r"\1", text)
    text = re.sub(r"([.,?!;:])(?=[a-z])", r"\1 ", text)
    return text.strip(" ,;:-")


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
