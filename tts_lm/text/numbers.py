"""English numbers in words: cardinals, ordinals, years, money, times, dates, fractions, units and digits."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from .english import TERMS, either

NUMBER = r"(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)"
MONTHS = "january february march april may june july august september october november december".split()
MONTH = "|".join((*MONTHS, *(rf"{m[:3]}\.?" for m in MONTHS if m != "may"), r"sept\.?"))
_SIGNS, _CODES, _LANDS = TERMS["currency"], TERMS["currency_code"], TERMS["currency_land"]
_SCALES, _UNITS, _PER = TERMS["scale"], TERMS["unit"], TERMS["per"]
_UNCOUNTED = {"yen", "won", "yuan", "baht", "dong", "hryvnia", "zloty", "lira", "naira", "percent", "celsius"}
_COINS = {"dollar": ("cent", "cents"), "euro": ("cent", "cents"), "pound": ("penny", "pence")}
_SIGN = "[" + re.escape("".join(_SIGNS)) + "]"
_SCALE = r"(?:(?:\s?(hundred|thousand|million|billion|trillion|bn|mn|tn)|([kKmMbBtT]))\b)?"
_SPACED_ONLY = {"B", "K", "in.", "N", "J"}
"""Not units directly after a number: 7B, 4K."""
_IRREGULAR = {"foot": "feet", "inch": "inches", "penny": "pence"}
_NAMES = "|".join(re.escape(unit) for unit in sorted(_UNITS, key=len, reverse=True))
_OTHERS = "|".join(sorted({*map(re.escape, _UNITS), *_PER} - {"%", "°", "K"}, key=len, reverse=True))
UNIT = rf"(?:{_NAMES})(?:\^?[23²³])?(?:/(?:{_OTHERS})(?:\^?[23²³])?)?(?![^\W_]|/\w)"


def ungroup(text: str) -> str:
    """Write ``1.234.567,89``, ``1 234,5`` and ``1.234.567`` without groups and with a decimal point."""
    text = re.sub(
        r"(?a:(?<![\w.,'])([1-9]\d{0,2}([.' ])\d{3}(?:\2\d{3})*),(\d\d?|\d{4,})(?!\w|[.,]\d))",
        lambda m: m[1].replace(m[2], "") + "." + m[3],
        text,
    )
    return re.sub(
        r"(?a:(?<!ersion )(?<![\w.,])([1-9]\d{0,2})\.(\d{3})\.(\d{3})(?!\w|[.,]\d))", r"\1\2\3", text
    )


def speak_numbers(text: str) -> str:
    """Replace every digit of English text by words. Abbreviations with points must be written out before."""
    text = ungroup(text)
    for pattern, speak in _RULES:
        text = pattern.sub(speak, text)
    return re.sub(r"\d", " ", text)


def _words(number: str, to: str = "cardinal") -> str:
    from num2words import num2words

    return num2words(int(number), to=to).replace(",", "")


def cardinal(number: str) -> str:
    """A number in words. Numbers with leading zeros or too many digits are read digit by digit."""
    number = number.replace(",", "")
    whole, _, decimals = number.partition(".")
    if len(whole) > 12 or (len(whole) > 9 and whole[-3:] != "000") or (len(whole) > 1 and whole[0] == "0"):
        return digits(number)
    words = _words(whole) if whole else ""
    return f"{words} point {digits(decimals[:20])}".strip() if decimals else words


def ordinal(number: str) -> str:
    """``21`` -> ``twenty-first``."""
    number = number.replace(",", "")
    return _words(number, "ordinal") if len(number) < 13 else digits(number)


def year(number: str) -> str:
    """``1999`` -> ``nineteen ninety-nine``."""
    return _words(number, "year") if len(number) == 4 else cardinal(number)


def digits(text: str) -> str:
    """A number digit by digit. Points are read, and other characters separate groups."""
    said = (_words(c) if c.isdecimal() else "point" if c == "." else "," for c in text)
    return re.sub(r"(?: ,)+ ?", ", ", " ".join(said)).strip(", ")


def spell_code(code: str) -> str:
    """Letters and digits one by one: ``ff0a`` -> ``f f zero ay``."""
    return " ".join(digits(c) if c.isdecimal() else "ay" if c in "aA" else c.lower() for c in code)


def plural(words: str) -> str:
    """The plural of a unit or a currency, up to its "per"."""
    first, per, rest = words.partition(" per ")
    first, _, last = first.rpartition(" ") if "degree" not in first else ("", "", first)
    if last.startswith("degree"):
        last = last.replace("degree", "degrees")
    elif last in _IRREGULAR:
        last = _IRREGULAR[last]
    elif last.lower() not in _UNCOUNTED and not last.endswith("hertz") and words != "per mille":
        last += "es" if last.endswith(("s", "x")) else "s"
    return f"{first} {last}".strip() + per + rest


def paired(number: str) -> str:
    """Numbers of houses, rooms and roads: ``221`` -> ``two twenty-one``, ``305`` -> ``three oh five``."""
    if len(number) == 3 and number[0] != "0":
        rest = number[1:]
        tail = "hundred" if rest == "00" else f"oh {cardinal(rest[1])}" if rest[0] == "0" else cardinal(rest)
        return f"{cardinal(number[0])} {tail}"
    if len(number) == 4 and number[0] != "0" and number[1:] != "000":
        return year(number) if number[2:] != "00" or number[1] != "0" else cardinal(number)
    return cardinal(number)


def _date(month: int, day: int, year_: str | None) -> str | None:
    """The words of a date, or None if there is no such day."""
    if not (1 <= month <= 12 and 1 <= day <= 31):
        return None
    if year_ and len(year_) == 2:
        year_ = ("19" if int(year_) > 50 else "20") + year_
    return f" {MONTHS[month - 1]} {ordinal(str(day))}" + (f", {year(year_)} " if year_ else " ")


def _iso_date(match: re.Match[str]) -> str:
    date = _date(int(match[2]), int(match[3]), match[1])
    if date is None:
        return digits(re.sub(r"\D", "-", match[0]))
    return date + (", " if match[4] is not None or match[0][-1] == "T" else "")


def _slash_date(match: re.Match[str]) -> str:
    """Words before, first and second number, year."""
    first, second = int(match[2]), int(match[3])
    month, day = (second, first) if first > 12 or "." in match[0] else (first, second)
    date = _date(month, day, match[4])
    return f"{match[1]} {date.lstrip()}" if date else match[0].replace(".", "/")


def _month(name: str) -> str:
    return next(m for m in MONTHS if m.startswith(name.lower()[:3]))


def _month_date(match: re.Match[str]) -> str:
    until = f" to {ordinal(match[3])}" if match[3] else ""
    return f" {_month(match[1])} {ordinal(match[2])}{until}" + (f", {year(match[4])}" if match[4] else "")


def _day_month(match: re.Match[str]) -> str:
    date = f" {ordinal(match[1])}{match[2] or ''} {_month(match[3])}"
    return date + (f" {year(match[4])}" if match[4] else "")


def _time(match: re.Match[str]) -> str:
    hour, minute, second, half = int(match[1]), match[2], (match[3] or "").strip("0") and match[3], match[4]
    if hour > 24:
        return f"{cardinal(str(hour))} {cardinal(minute)}" + (f" {cardinal(second)}" if second else "")
    said = cardinal(str(hour))
    if minute != "00" or second:
        said += f" oh {cardinal(minute[1])}" if minute[0] == "0" else f" {cardinal(minute)}"
    elif not half:
        said += " o'clock" if hour <= 12 else " hundred"
    if second:
        said += f" and {cardinal(str(int(second)))} second{'' if int(second) == 1 else 's'}"
    return said + _half(half)


def _half(half: str | None) -> str:
    return "" if not half else " ay m" if half[0] in "aA" else " p m"


def _money(match: re.Match[str]) -> str:
    minus, land, sign, number, until, *scale = match.groups("")
    unit = f"{_LANDS[land]} {_SIGNS[sign]}" if land else _SIGNS[sign]
    before = f" {minus}{cardinal(number)} to " if until else f" {minus}"
    return f"{before}{_amount(until or number, scale, unit)} "


def _amount(number: str, scale: Iterable[str | None], unit: str) -> str:
    number, letters = number.replace(",", ""), "".join(filter(None, scale)).lower()
    if letters:
        return f"{cardinal(number)} {_SCALES[letters]} {plural(unit)}"
    whole, _, cents = number.partition(".")
    if not cents or not int(cents) or len(cents) != 2 or unit.split()[-1] not in _COINS:
        many = number if cents and int(cents) else whole
        return f"{cardinal(many)} {unit if many == '1' else plural(unit)}"
    one, more = _COINS[unit.split()[-1]]
    small = f"{cardinal(str(int(cents)))} {one if int(cents) == 1 else more}"
    return f"{cardinal(whole)} {unit if whole == '1' else plural(unit)} and {small}" if int(whole) else small


def _unit(match: re.Match[str]) -> str:
    number, gap, name = match.groups()
    if name in _SPACED_ONLY and not gap:
        return match[0]
    first, _, below = name.partition("/")
    said = _power(first)
    if gap != "-" and number != "1" and not re.search(r"\b[aA]n? $", match.string[: match.start()][-4:]):
        said = plural(said)
    if below:
        said += " per " + re.sub(
            r"^(square|cubic) (second)$",
            lambda m: f"{m[2]} {m[1]}d".replace("cubicd", "cubed"),
            _power(below),
        )
    return f" {cardinal(number)} {said}"


def _power(name: str) -> str:
    base = name.rstrip("23²³^")
    words = _UNITS.get(base) or _PER[base]
    power = name[len(base) :].lstrip("^")
    return {"2": "square ", "²": "square ", "3": "cubic ", "³": "cubic "}.get(power, "") + words


def _fraction(match: re.Match[str]) -> str:
    if not match[4]:
        return _ratio(match)
    first, _, below = match[4].partition("/")
    unit = plural(_power(first)) if match[1] or int(match[2]) > int(match[3]) else _power(first)
    return f"{_ratio(match)} {unit}" + (f" per {_power(below)}" if below else "")


def _ratio(match: re.Match[str]) -> str:
    whole, top, bottom = match[1], int(match[2]), int(match[3])
    if bottom < 2 or bottom > 100 or top == 0:
        return f"{whole or ''} {cardinal(match[2])} over {cardinal(match[3])}"
    if top == bottom and bottom in (20, 50) or (top, bottom) == (24, 7) or (top, bottom) == (9, 11):
        return f"{whole or ''} {cardinal(match[2])} {cardinal(match[3])}"
    if top >= bottom and bottom in (5, 10, 100):
        return f"{whole or ''} {cardinal(match[2])} out of {cardinal(match[3])}"
    name = {2: "half", 4: "quarter", 100: "hundredth"}.get(bottom) or ordinal(match[3])
    before = f"{cardinal(whole)} and " if whole else ""
    if before and top == 1:
        return f"{before}a{'n' if name == 'eighth' else ''} {name}"
    many = {"half": "halves"}.get(name, name + "s")
    return f"{before}{cardinal(match[2])} {name if top == 1 else many}"


def _decade(match: re.Match[str]) -> str:
    words = year(match[1]) if len(match[1]) == 4 else cardinal(match[1]).removeprefix("one ")
    return words[:-1] + "ies" if words.endswith("y") else words + "s"


def _phone(match: re.Match[str]) -> str:
    text = match[0].strip()
    plus = "plus " if text.startswith("+") else ""
    groups = re.findall(r"\d+", text)
    return " " + plus + ", ".join("eight hundred" if g == "800" else digits(g) for g in groups) + " "


def _dotted(match: re.Match[str]) -> str:
    """Addresses and versions, whose parts are separate numbers."""
    parts, rest = match[1].split("."), match[2] or ""
    word = " dot " if len(parts) == 4 and all(int(part) < 256 for part in parts) else " point "
    if rest:
        rest = f" {'port' if rest[0] == ':' else 'slash'} {cardinal(rest[1:])}"
    return f" {word.join(map(cardinal, parts))}{rest} "


def _version(match: re.Match[str]) -> str:
    return match[1] + " " + " point ".join(map(cardinal, match[2].split("."))) + " "


def _alphanumeric(match: re.Match[str]) -> str:
    """Parts of letters and parts of digits, as in ``B2B``, ``GPT4``, ``FY2024``, ``221B``."""
    parts = re.findall(r"\d+|\D+", match[0])
    said = []
    for at, part in enumerate(parts):
        if not part.isdecimal():
            said.append(part if len(part) > 1 or part.upper() != "A" else "ay")
        elif len(part) == 3 and at == 0 and len(parts) == 2 and len(parts[1]) == 1:
            said.append(paired(part))
        elif len(part) == 4 and re.match("1[1-9]|20", part):
            said.append(year(part))
        else:
            said.append(cardinal(part) if len(part) < 5 else digits(part))
    return " " + " ".join(said) + " "


def _number(match: re.Match[str]) -> str:
    found = match[0]
    return f" {year(found) if _A_YEAR.fullmatch(found) else cardinal(found)} "


_A_YEAR = re.compile(r"(?:1[1-9]|20)\d\d")
_FREE = r"(?<![\w.,:/-])"
_DAY = r"(0?[1-9]|[12]\d|3[01])"
_YEAR = r"((?:1[1-9]|20)\d\d)"
_TO = r"\s?(?:[-–~]|--| - )\s?"
_TERM = r"(?:\d+(?:\.\d+)?[a-z]?|[a-z]\b)(?:\s?\^\s?-?\d+|[²³])?"
_HALF = r"(?:\s?(ay|[aApP])\.?\s?[mM]\b)"
_ENDS = rf"%|‰|°[CF]?|[ap]\.?m\.?|[kKMBx]|{_SIGN}|s|st|nd|rd|th|{MONTH}|[a-zA-Z]{{1,2}}"
# fmt: off
_RULES: list[tuple[re.Pattern[str], Callable[[re.Match[str]], str]]] = [
    (re.compile(pattern, re.IGNORECASE if flag == "i" else 0), speak)
    for flag, pattern, speak in (
        # Other ways to group the digits of a number.
        ("", rf"(?<![\d.,])(\d{{1,3}}(?:\.\d{{3}})*),(\d\d?)(?=\s?(?:€|{UNIT}))",
         lambda m: m[1].replace(".", "") + "." + m[2]),
        ("", r"\b0[xX]([\dA-Fa-f]+)\b", lambda m: "zero x " + spell_code(m[1])),
        ("", r"(?<=\d)(?: (?=000\b)|'(?=\d{3}\b))", lambda m: ""),
        ("", rf"(?<={_SIGN})(?=\.\d)", lambda m: "0"),
        # Groups of digits: addresses, dates, phone numbers, versions.
        ("", rf"{_FREE}(\d{{1,3}}(?:\.\d{{1,3}}){{3}})(:\d+|/\d+)?(?!\w|\.\d)", _dotted),
        ("", rf"{_FREE}{_YEAR}-(\d\d)-(\d\d)(?:(?=\s\d\d?:)()|T(?=\d)|(?![\w-]))", _iso_date),
        ("", rf"{_FREE}{_YEAR}[/.](\d\d?)[/.](\d\d?)()(?![\w/]|\.\d)", _iso_date),
        ("", rf"(){_FREE}(\d\d?)[/.](\d\d?)[/.]{_YEAR}(?![\w/]|\.\d)", _slash_date),
        ("", rf"(){_FREE}(\d\d?)/(\d\d?)/(\d\d)(?![\w/]|\.\d)", _slash_date),
        ("i", r"\b(on|by|due|until|till|before|after|since|from|mon|tue|wed|thu|fri|sat|sun),? "
              r"(\d\d?)/(\d\d?)()(?![\w/]|\.\d)", _slash_date),
        ("", rf"{_FREE}(?:\+\d{{1,3}}[ .-]?)(?:\(?\d{{1,5}}\)?[ .-]?){{1,5}}\d{{2,4}}(?![\w-])", _phone),
        ("", rf"{_FREE}0\d{{2,4}}/\d{{4,8}}(?![\w/-])", _phone),
        ("", rf"{_FREE}0\d{{2,4}}[ -](?:\d{{3,4}}[ -]\d{{3,4}}|\d{{6}})(?![\w-])", _phone),
        ("", rf"{_FREE}(?:1[ .-])?(?:\(\d{{3}}\)\s?|\d{{3}}[ .-])\d{{3}}[ .-]\d{{4}}(?![\w-])", _phone),
        ("", rf"{_FREE}(\d{{3}})-(\d{{4}})(?![\w-])",
         lambda m: m[0] if int(m[1]) % 50 == int(m[2]) % 50 == 0 else _phone(m)),
        ("", rf"{_FREE}\d+(?:-\d+){{2,}}(?![\w-])", _phone),
        ("", rf"{_FREE}(\d+(?:\.\d+){{2,}})()(?![^\W_])(?:-(?=[a-z]))?", _dotted),
        ("i", r"\b(version|release|python|ubuntu|ios|android|macos|cuda|pytorch|v)\s(\d+(?:\.\d+)+)\b", _version),
        ("i", r"\bv(?=\d)()(\d+(?:\.\d+)*)\b", lambda m: "version" + _version(m)),
        ("i", r"\b(?:code|pin|otp|zip|id|extension|password)(?: is|:| number)? (\d{4,})\b",
         lambda m: m[0].removesuffix(m[1]) + digits(m[1])),
        ("", r"(?<=\b[A-Z]{2} )\d{5}(?:-\d{4})?\b", lambda m: digits(m[0])),
        ("i", r"\b(call|called|calling|dial|dialed|dialled|phone|ring) (\d{3})(?: or (\d{3}))?\b",
         lambda m: f"{m[1]} {digits(m[2])}" + (f" or {digits(m[3])}" if m[3] else "")),
        ("", r"(?<!Porsche )(?<![\w.,$£€/:-])911\b"
             r"(?!,?\d|\.\d|[^\W\d]|[-/]\w|%| (?:[a-z]+s|people|men|women|children)\b)", lambda m: digits(m[0])),
        ("i", r"\b(room|flight|suite|apartment|bus|route|highway|interstate|gate) (\d{3,4})\b",
         lambda m: f"{m[1]} {paired(m[2])}"),
        # Dates with the name of a month.
        ("i", rf"\b({MONTH})\s{_DAY}(?:st|nd|rd|th)?(?:{_TO}{_DAY}(?:st|nd|rd|th)?)?\b"
              rf"(?![:/.]\d|-\d|,\d)(?:,?\s{_YEAR}\b)?", _month_date),
        ("", rf"(?<![\d.,:/-])\b{_DAY}(?:st|nd|rd|th)?( of)? ({MONTH.title()})(?!\w)(?:,?\s{_YEAR}\b)?", _day_month),
        ("", rf"\b({MONTH.title()}){_TO}({MONTH.title()})(?!\w)", lambda m: f"{_month(m[1])} to {_month(m[2])}"),
        ("", rf"\b({MONTH.title()})(?=,? {_YEAR}\b)", lambda m: _month(m[1])),
        # Times.
        ("", rf"\b(\d\d?(?::\d\d)?{_HALF}){_TO}(?=\d)", lambda m: f"{m[1]} to "),
        ("", rf"\b(\d\d?):([0-5]\d)(?::([0-5]\d))?{_HALF}?(?!\d)", _time),
        ("", rf"(?<![\d.,])\b(\d\d?)(?={_TO}\d\d?(?::\d\d)?{_HALF}){_TO}", lambda m: f"{cardinal(m[1])} to "),
        ("", rf"(?<![.,])\b(\d\d?){_HALF}", lambda m: cardinal(m[1]) + _half(m[2])),
        ("", r"\b(\d+):(\d+)\b", lambda m: f"{cardinal(m[1])} to {cardinal(m[2])}"),
        ("", r"\b(\d+)\s?h\s?(\d+)\s?m(?:in)?\b", lambda m: f"{m[1]} h {m[2]} min"),
        ("", r"\b(\d+)\s?m(?:in)?\s?(\d+)\s?s(?:ec)?\b", lambda m: f"{m[1]} min {m[2]} s"),
        ("", r"(?<=\d)[eE]([+-]?)(\d+)\b", lambda m: f" times ten to the power of {'minus ' * (m[1] == '-')}{m[2]}"),
        # Signs between numbers; the numbers stay digits for the rules below.
        ("", r"(?<=\d)\s?[-–]\s?(?=\d[\d\s+*/-]{0,30}=)", lambda m: " minus "),
        ("", rf"(?:(?<=[\d²³)])|(?<=\b[a-z])|(?<=\d[a-z]))\s[-–]\s(?={_TERM}(?:\s?[-+*/]\s?{_TERM}){{0,6}}\s?[=<>≤≥])",
         lambda m: " minus "),
        ("", rf"(?<![A-Za-z\d.-])((?:-)?{_SIGN}?{NUMBER}(?:\s?(?:{_ENDS}))?)(?:[-–~]|\s[-–~]\s|--|–-)(?=-?{_SIGN}?\d)",
         lambda m: f"{m[1]} to "),
        ("", r"(?<=\d)(\s?(?:[mck]?m|in\.?|ft|px))?\s?[x×]\s?(?=\d)",
         lambda m: " times " if "×" in m[0] and not m[1] else f"{m[1] or ''} by "),
        ("", r"(?<=\d)[xX]\b(?!\s?(?:[-+=*^²³≤≥<>]|minus\b))", lambda m: " times "),
        ("", r"(?<=\d)\"(?=\s(?:screen|monitor|display|TV|tablet|laptop)\b)", lambda m: "-in."),
        ("", r"(?<=\d)\"\s?[x×]\s?(\d+(?:\.\d+)?)\"", lambda m: f" in. by {m[1]} in."),
        ("", r"(?<=\d)\"(?=\s(?:wide|long|tall|high|thick|deep|by)\b)", lambda m: " in."),
        ("", r"(?<=\d)\s?\*\s?(?=\d)|(?<=\b[a-z]) \* (?=[a-z\d]\b)", lambda m: " times "),
        ("", r"(?<=[\d)]) / (?=[\d(])", lambda m: " divided by "),
        ("", r"(?<=\d)\s?−\s?(?=\d)", lambda m: " minus "),
        ("", r"(?<=[\d)])\s?\+\s?(?=[\d(])", lambda m: " plus "),
        ("", r"(?<=\d)\s?\^\s?(?=-?\d)", lambda m: " to the power of "),
        ("", rf"(?<![\w.)-])[-−](?={_SIGN}?\s?\.?\d)|(?<=to )-(?=\d)", lambda m: " minus "),
        # Money.
        ("", rf"({_SIGN}\s?{NUMBER}{_SCALE}|(?<![\d.,]){NUMBER}\s?{_SIGN})/([a-z]+|kWh|GB|L)\b",
         lambda m: f"{m[1]} per {_UNITS.get(m[m.lastindex]) or _PER.get(m[m.lastindex], m[m.lastindex])}"),
        ("", rf"(minus\s+)?(?:\b({either('currency_land')}))?({_SIGN})\s?({NUMBER})"
             rf"(?: to ({NUMBER})(?![\d,]*{_SIGN}))?{_SCALE}", _money),
        ("", rf"(?<![\w.])({NUMBER}){_SCALE}\s?({_SIGN}|(?:{'|'.join(_CODES)})\b)",
         lambda m: f" {_amount(m[1], m.group(2, 3), _SIGNS.get(m[4]) or _CODES[m[4]])} "),
        ("", rf"\b({'|'.join(_CODES)})\s?({NUMBER}){_SCALE}(?!\w)",
         lambda m: f" {_amount(m[2], m.group(3, 4), _CODES[m[1]])} "),
        # Units, scales, ordinals, decades and fractions.
        ("", r"\b(\d)'\s?(\d\d?)(?:\"|(?![\w']))", lambda m: f"{cardinal(m[1])} foot {cardinal(m[2])}"),
        ("i", r"(?<!\w)'?\b(\d{0,3}[1-9]0|\d{1,2}00)'s\b", _decade),
        ("", r"(?<!\w)'?\b(\d{2}[1-9]0|[2-9]0|\d{1,2}00)s\b", _decade),
        ("i", r"(?<![\d,])(\d[\d,]{0,20})(?:st|nd|rd|th)\b", lambda m: ordinal(m[1])),
        ("", r"(?:\b(\d+)\s)?(?<![\d/.])\b(\d{1,2}|100)/(\d{1,3})\b(?![\d/])"
             rf"(?:\s({UNIT})(?:\.(?=,|\s[a-z\d]))?)?", _fraction),
        ("", rf"(?<![\w.])({NUMBER})([\s-]?)({UNIT})(?:\.(?=,|\s[a-z\d]))?", _unit),
        ("", rf"(?<![\w.-])({NUMBER})(?:(?<!\b[245678])K|[kMT])\b(?! [A-Z])",
         lambda m: f"{cardinal(m[1])} {_SCALES[m[0][-1].lower()]}"),
        ("", rf"(?<![\w.])({NUMBER})[bB](?=[ -](?:parameter|param|model|user|people|view|token|dollar|year))",
         lambda m: f"{cardinal(m[1])} billion"),
        ("", r"(?<![\w.])(\d+\.\d+)(B)\b", lambda m: f"{cardinal(m[1])} billion"),
        # All other numbers.
        ("", r"(?<=\w)-(?=\w)", lambda m: " "),
        ("", r"(?<![\w.])(?=\w*\d)(?=\w*[A-Za-z])[A-Za-z\d]+", _alphanumeric),
        ("", rf"(?<![\d.])\.\d+|{NUMBER}", _number),
    )
]
# fmt: on
