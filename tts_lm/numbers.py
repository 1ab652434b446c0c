"""Digits to English words: money, times, dates, years, ordinals, fractions, units.

Knows nothing of letters, abbreviations or models. The law it keeps: no digit is left.
"""

from __future__ import annotations

import functools
import re

_CURRENCY = {"$": ("dollar", "cent"), "£": ("pound", "penny"), "€": ("euro", "cent"), "¥": ("yen", "sen")}
_SCALES = {"k": "thousand", "m": "million", "bn": "billion", "b": "billion", "tn": "trillion"}
_SCALES |= {name: name for name in ("hundred", "thousand", "million", "billion", "trillion")}
_MONTHS = "january|february|march|april|may|june|july|august|september|october|november|december"
_SHORT_MONTHS = {
    month[:3]: month for month in _MONTHS.split("|") if month not in ("march", "may", "june", "july")
} | {"sept": "september"}
# The longer of two that begin alike comes first.
_UNITS = {
    "km/h": "kilometers per hour",
    "km": "kilometers",
    "kg": "kilograms",
    "cm": "centimeters",
    "mm": "millimeters",
    "mph": "miles per hour",
    "khz": "kilohertz",
    "mhz": "megahertz",
    "ghz": "gigahertz",
    "hz": "hertz",
    "kb": "kilobytes",
    "mb": "megabytes",
    "gb": "gigabytes",
    "tb": "terabytes",
    "ms": "milliseconds",
    "min": "minutes",
    "sec": "seconds",
    "hrs": "hours",
    "lbs": "pounds",
    "lb": "pounds",
    "oz": "ounces",
    "ft": "feet",
    "kw": "kilowatts",
}
_NUMBER = r"\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?"


def speak_numbers(text: str) -> str:
    """Replace every digit by words.

    Args:
        text: English text, any length; capitals tell nothing here.

    Returns:
        The text without digits; spaces may be doubled.
    """
    money = "[" + re.escape("".join(_CURRENCY)) + "]"
    scale = rf"(?:\s?({'|'.join(sorted(_SCALES, key=len, reverse=True))})\b)?"
    text = re.sub(rf"(-?)({money})\s?({_NUMBER}){scale}", _money, text, flags=re.IGNORECASE)
    text = re.sub(r"\b(\d{1,2}):([0-5]\d)\b(?=(\s?[ap]\.?\s?m\b)?)", _time, text, flags=re.IGNORECASE)
    text = _dates(text)
    text = re.sub(r"\b(\d+)(st|nd|rd|th)\b", lambda m: _words(m[1], "ordinal"), text, flags=re.IGNORECASE)
    text = re.sub(r"'?\b(\d{0,3}[1-9]0|\d{1,2}00)'?s\b", _decade, text)
    text = re.sub(r"(?<=\d)\s?–\s?(?=\d)", " to ", text)
    text = re.sub(r"(?<![\d,.])(1[1-9]\d\d|20\d\d)(?![\d,]*\d|\.\d)", lambda m: _words(m[1], "year"), text)
    text = re.sub(r"(?:\b(\d+)\s)?(?<![\d/.])(\d)/(\d)\b(?![\d/])", _fraction, text)
    text = re.sub(rf"(?<![\w.])-({_NUMBER})", r" minus \1", text)
    text = re.sub(rf"(?<!\d)({_NUMBER})\s?({'|'.join(_UNITS)})\b", _unit, text, flags=re.IGNORECASE)
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


def _dates(text: str) -> str:
    """The day of a date is an ordinal: "May 5, 2020", "5 May"."""
    short = "|".join(_SHORT_MONTHS)
    text = re.sub(
        rf"\b({short})\.?(?=\s\d{{1,2}}\b)|(?<=\d\s)\b({short})\b\.?(?!\w)",
        lambda m: _SHORT_MONTHS[m[0].rstrip(".").lower()],
        text,
        flags=re.IGNORECASE,
    )
    day = r"([1-9]|[12]\d|3[01])\b(?![:/.,]\d|-\d)"
    ordinal = functools.partial(_words, to="ordinal")
    text = re.sub(rf"\b({_MONTHS})\s{day}", lambda m: f"{m[1]} {ordinal(m[2])}", text, flags=re.IGNORECASE)
    # A bare "5 may" is more often five who may.
    months = _MONTHS.replace("may|", "").replace("march|", "")
    return re.sub(
        rf"(?<![\d.,:/-])\b([1-9]|[12]\d|3[01])\s({months}|May|March)\b",
        lambda m: f"{ordinal(m[1])} {m[2]}",
        text,
    )


def _decade(match: re.Match[str]) -> str:
    words = _words(match[1], "year" if len(match[1]) == 4 else "cardinal").removeprefix("one ")
    return words[:-1] + "ies" if words.endswith("y") else words + "s"


def _money(match: re.Match[str]) -> str:
    minus = "minus " if match[1] else ""
    unit, cent = _CURRENCY[match[2]]
    number, scale = match[3].replace(",", ""), match[4]
    many = unit if unit == "yen" else unit + "s"
    if scale:
        return f" {minus}{_words(number)} {_SCALES[scale.lower()]} {many}"
    whole, _, cents = number.partition(".")
    said = f"{_words(whole)} {unit if int(whole) == 1 else many}"
    if len(cents) == 2 and int(cents):
        coins = {"penny": "pence", "sen": "sen"}.get(cent, cent + "s")
        small = f"{_words(str(int(cents)))} {cent if int(cents) == 1 else coins}"
        return f" {minus}{said} and {small}" if int(whole) else f" {minus}{small}"
    return f" {minus}{_words(number)} {many}" if cents and int(cents) else f" {minus}{said}"


def _time(match: re.Match[str]) -> str:
    hour, minute = int(match[1]), match[2]
    if hour > 24:
        return f"{_words(match[1])} {_words(minute)}"
    if minute == "00":
        return _words(str(hour)) + ("" if match[3] else " o'clock")
    return f"{_words(str(hour))} " + (f"oh {_words(minute[1])}" if minute[0] == "0" else _words(minute))


def _fraction(match: re.Match[str]) -> str:
    top, bottom = int(match[2]), int(match[3])
    before = f"{_words(match[1])} and " if match[1] else ""
    if top == 0 or bottom < 2:
        return f"{match[1] or ''} {_words(match[2])} over {_words(match[3])}"
    name = {2: "half", 4: "quarter"}.get(bottom) or _words(str(bottom), "ordinal")
    plural = {"half": "halves"}.get(name, name + "s")
    if before and top == 1:
        return f"{before}a{'n' if name == 'eighth' else ''} {name}"
    return f"{before}{_words(match[2])} {name if top == 1 else plural}"


def _unit(match: re.Match[str]) -> str:
    unit = _UNITS[match[2].lower()]
    if match[1] == "1" and not unit.endswith("hertz"):
        first, *rest = unit.split()
        unit = " ".join(["foot" if first == "feet" else first.removesuffix("s"), *rest])
    return f"{match[1]} {unit}"
