"""Normalisation of English text: markup, addresses, abbreviations, acronyms, numbers and signs in words."""

from __future__ import annotations

import html
import re
import unicodedata
import warnings
from collections.abc import Sequence

from .english import TERMS, either, is_common, is_spelled, is_word
from .numbers import MONTH, cardinal, digits, ordinal, speak_numbers, spell_code

LETTERS = "abcdefghijklmnopqrstuvwxyz'"
PUNCTUATION = ".,?!;:-"
ALPHABET = LETTERS + PUNCTUATION + " "
MAX_SENTENCE_LETTERS = 160

_TYPOGRAPHY = str.maketrans(
    {"…": ".", "⁄": "/", "∕": "/", "∗": "*", "∶": ":", "ı": "i", "№": "No. ", "℅": "care of ", "‚": ","}
    | dict.fromkeys("‘’‛´′", "'") | dict.fromkeys("“”„«»″", '"') | dict.fromkeys("—―", " - ")
    | dict.fromkeys("‐‑", "-") | dict.fromkeys("\u00a0\u2009\u202f", " ") | dict.fromkeys("\u00ad\u200b\ufeff", "")
    | {"æ": "ae", "Æ": "Ae", "œ": "oe", "Œ": "Oe", "ø": "o", "Ø": "O", "ß": "ss", "ł": "l", "Ł": "L", "đ": "d"}
    | {"ð": "d", "þ": "th", "Þ": "Th"}
)  # fmt: skip
_KEPT = "²³µ½¼¾⅓⅔⅛™…"  # NFKC changes these to other characters
_SUPERSCRIPT = re.compile(r"(?:(?<=[\d)])|(?<=\b[A-Za-z]))[⁻⁰¹²³⁴-⁹]+")
_ABBREVIATIONS = TERMS["abbreviation"]
_STARTERS = either("starter")
_MONARCHS = either("monarch").title()
_TWO = TERMS["two"]
_INTERJECTION = re.compile("h+m+|s+h+|b+r+|g+r+|z+|m+|p+s+t+")
_ROMAN = r"(?=[IVXL]+\b)(?:L?X{0,3}|XL)(?:IX|IV|V?I{0,3})"
_SYMBOLS = (
    TERMS["symbol"]
    | {"=": "equals", ";": ";"}
    | dict.fromkeys('/®™†*"_\\`', "")
    | dict.fromkeys("|•→←⇒↔()[]{}", ",")
)
_GREEK = re.compile(r"(?<![\u0370-\u03ff])[\u0391-\u03a9\u03b1-\u03c9](?![\u0370-\u03ff])")

_URL_END = r"[^\s<>\"\u2e80-\uffef]*[^\s<>\"\u2e80-\uffef.,;:!?)\]}']"
ADDRESS = re.compile(  # ASCII: Han characters may touch an address
    rf"(?a:\b(?:https?|ftp)://{_URL_END}|\bwww\.{_URL_END}"
    r"|(?<![\w.+-])(?:mailto:)?[A-Za-z0-9_+-]+(?:\.[A-Za-z0-9_+-]+)*@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+"
    rf"|(?<![\w.@-])(?:[A-Za-z0-9_-]+\.)+(?:{either('domain')}|{either('file')})(?![\w.@-]*[A-Za-z0-9_])"
    r"(?:(?<!\d)/[\w./?=&%#~+-]*[\w/])?)"
)
"""URLs, mail addresses, domains and names of files."""


def normalise(text: str) -> str:
    """Normalise text to lower case, with numbers, signs and abbreviations in words.

    Args:
        text: English text, any length; Markdown, HTML, typographic signs and accents are supported. The letter A
            becomes ``ay`` where it is not an article.

    Returns:
        A string over ``ALPHABET`` with single spaces, holding at least one letter.

    Raises:
        TypeError: text is not a str.
        ValueError: nothing in the text can be spoken in English (empty, punctuation, emoji, another script).

    Emoji, and characters of another script inside an English text, are dropped with a ``UserWarning``.
    """
    if not isinstance(text, str):
        raise TypeError(f"expected the text as str, got {type(text).__name__}; pass one sentence at a time")
    plain_text = _GREEK.sub(
        lambda m: f" {unicodedata.name(m[0]).split()[-1].lower()} ", plain_letters(strip_markup(text))
    )
    spoken = speak_numbers(speak_shorthand(plain_text))
    spoken = _speak_capitals(spoken).lower()
    spoken = "".join(f" {_SYMBOLS[c]} " if c in _SYMBOLS else c for c in spoken)
    dropped = sorted({c for c in spoken if c not in ALPHABET and not c.isspace()})
    spoken = _tidy("".join(c if c in ALPHABET else " " for c in spoken))
    foreign = sum(c not in ALPHABET and c.isalpha() for c in plain_text.lower())
    if not re.search("[a-z]", spoken) or foreign > sum(c in LETTERS for c in plain_text.lower()):
        raise ValueError(_refusal(text, foreign))
    if dropped:
        shown = " ".join(c if c.isprintable() else ascii(c) for c in dropped[:12])
        warnings.warn(f"dropped characters that cannot be spoken in English: {shown}", stacklevel=2)
    return spoken


def split_sentences(text: str, max_letters: int = MAX_SENTENCE_LETTERS) -> list[str]:
    """Cut normalised text into sentences.

    Args:
        text: the output of :func:`normalise`.
        max_letters: a longer sentence is cut at its commas, then at its spaces, then inside a word.

    Returns:
        At least one sentence. Each has a letter, and together they have all words in order.
    """
    return ["".join(piece) for piece in split_symbols(text, max_letters, " ")]


def split_symbols(symbols: Sequence[str], limit: int, boundary: str) -> list[list[str]]:
    """Cut letters or phonemes after full stops, and longer sentences after commas, between words, then anywhere.

    Args:
        symbols: letters or phonemes with ``PUNCTUATION``; ``boundary`` separates words.
        limit: largest number of symbols of a piece.
        boundary: it is dropped at the ends of pieces.
    """
    return [
        piece
        for sentence in _split_after(symbols, ".?!")
        for piece in _cut(sentence, limit, (",;:-", boundary), boundary)
    ]


def _split_after(symbols: Sequence[str], ends: str) -> list[list[str]]:
    pieces: list[list[str]] = [[]]
    for symbol in symbols:
        pieces[-1].append(symbol)
        if symbol in ends:
            pieces.append([])
    return pieces


def _cut(symbols: list[str], limit: int, ends: tuple[str, ...], boundary: str) -> list[list[str]]:
    symbols = symbols[symbols[:1] == [boundary] : len(symbols) - (symbols[-1:] == [boundary])]
    if len(symbols) <= limit:
        return [symbols] if any(s not in PUNCTUATION and s != boundary for s in symbols) else []
    if not ends:
        return [symbols[at : at + limit] for at in range(0, len(symbols), limit)]
    joined: list[list[str]] = []
    for piece in _split_after(symbols, ends[0]):
        for part in _cut(piece, limit, ends[1:], boundary):
            if joined and len(joined[-1]) + 1 + len(part) <= limit:
                joined[-1] += [boundary, *part]
            else:
                joined.append(part)
    return joined


def plain_letters(text: str) -> str:
    """Convert typographic signs to ASCII and drop accents. Signs of numbers and units are kept."""
    text = re.sub("μ(?=[msgFLAWV]\\b)", "µ", text)
    text = re.sub("[½¼¾⅓⅔⅛]", lambda m: f" {unicodedata.normalize('NFKC', m[0])}", text).translate(
        _TYPOGRAPHY
    )
    text = _SUPERSCRIPT.sub(
        lambda m: (
            m[0] if m[0] in ("²", "³") else "^" + unicodedata.normalize("NFKC", m[0]).replace("\u2212", "-")
        ),
        text,
    )
    text = "".join(c if c in _KEPT else unicodedata.normalize("NFKC", c) for c in text)
    text = unicodedata.normalize("NFC", text.translate(_TYPOGRAPHY).replace("…", "."))
    return "".join(
        unicodedata.normalize("NFD", c)[0] if c.isalpha() else c
        for c in text
        if unicodedata.category(c) != "Mn"
    )


def speak_shorthand(text: str) -> str:
    """Write out addresses, abbreviations and initials. The remaining points end sentences or belong to numbers."""
    for pattern, speak in _SHORTHAND:
        text = pattern.sub(speak, text)
    return text


def spell(word: str) -> str:
    """``GPU`` -> ``g p u``; the letter A is ``ay``."""
    return " ".join("ay" if c in "aA" else c.lower() for c in word if c.isalpha())


def _refusal(text: str, foreign: int) -> str:
    shown = text if len(text) <= 40 else text[:37] + "..."
    if not text.strip():
        reason = "the text is empty"
    elif foreign:
        name = next(unicodedata.name(c, "unknown") for c in text if c.isalpha() and c.lower() not in ALPHABET)
        reason = f"it is in another script ({name.split()[0].title().replace('Cjk', 'CJK')})"
    elif any(unicodedata.category(c) == "So" for c in text):
        reason = "it holds only emoji and signs"
    else:
        reason = "it holds only punctuation"
    return f"expected English text with something to say, got {shown!r}: {reason}; write at least one word"


def _address(match: re.Match[str]) -> str:
    """A URL, mail address, domain or file name with its signs in words."""
    address = re.sub(r"^(?:https?|ftp)://|^mailto:|/$", "", match[0], flags=re.IGNORECASE)
    said = []
    for part in re.findall(r"[A-Za-z]+|\d+|.", address):
        if part.isalpha():
            said.append(
                spell(part)
                if part == "etc" or len(part) < 3 and part.lower() not in TERMS["short_domain"]
                else _name(part)
            )
        elif part.isdigit():
            said.append(cardinal(part) if len(part) < 5 else digits(part))
        else:
            said.append(TERMS["address_sign"].get(part, "equals" if part == "=" else " "))
    return " " + " ".join(said) + " "


def _name(word: str) -> str:
    """A part of an address or of a name in mixed case."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", word)
    return " ".join(
        spell(p)
        if p.isupper() and _is_acronym(p) or not _has_vowel(p) and not is_word(p.lower())
        else p.lower()
        for p in parts
    )


def _has_vowel(word: str) -> bool:
    return re.search("[aeiouy]", word.lower()) is not None


def _is_acronym(capitals: str) -> bool:
    word = capitals.lower()
    if word in TERMS["spelled"]:
        return True
    if word in TERMS["said"] or is_common(word) and len(word) > 2:
        return False
    if len(word) < 3:
        return word not in _TWO
    if len(word) == 3:
        return not is_common(word.removesuffix("s"))
    if is_word(word):
        return is_spelled(word)
    return len(word) < 5 or not _has_vowel(word) or re.search("[^aeiouy]{4}|[aeiou]{4}", word) is not None


def _speak_capitals(text: str) -> str:
    """Spell acronyms, lower-case emphasis, and separate the words of names such as PyTorch."""
    text = re.sub(
        r"\b([A-Z]{2,})('?s)\b", lambda m: (spell(m[1]) if _is_acronym(m[1]) else m[1].lower()) + "'s", text
    )
    text = re.sub(r"(?<!['\w])[A-Z]+(?:'[A-Z]+)?\b(?: +[A-Z]+(?:'[A-Z]+)?\b(?!['a-z]))*", _capitals, text)
    text = re.sub(r"\b[Pp]hD\b", "p h d", text)
    text = re.sub(
        r"\b(?!Mc|Mac|O'|De[A-Z]|Le[A-Z]|La[A-Z])[A-Za-z]*[a-z][A-Z][A-Za-z]*", lambda m: _name(m[0]), text
    )
    text = re.sub(r"\b[A-Z]{2,}[a-z]+\b", lambda m: _name(m[0]), text)
    return re.sub(r"(?<!')\b[a-z]{2,}\b", _lower, text)


def _capitals(match: re.Match[str]) -> str:
    """Consecutive words in capitals: emphasis if one of them is a plain word, else acronyms."""
    words = match[0].split()
    shouted = len(words) > 1 and any(
        len(w) > 1 and is_common(w.lower()) and not _is_acronym(w) for w in words
    )
    said = []
    for word in words:
        stem, apostrophe, rest = word.partition("'")
        lower = word.lower()
        if len(word) == 1:
            said.append(word)
        elif shouted and (
            lower in TERMS["ambiguous"]
            or stem not in TERMS["spelled"]
            and is_word(stem.lower())
            and not is_spelled(stem.lower())
            and len(stem) > 2
        ):
            said.append(lower)
        elif apostrophe and (
            stem.lower() in TERMS["ambiguous"] or is_word(lower) and rest != "S" or len(stem) == 1
        ):
            said.append(lower)
        else:
            said.append((spell(stem) if _is_acronym(stem) else stem.lower()) + apostrophe + rest.lower())
    return " ".join(said)


def _lower(match: re.Match[str]) -> str:
    word = match[0]
    known = (
        _has_vowel(word)
        and word not in TERMS["chat_spelled"]
        or is_common(word)
        or word in TERMS["chat"]
        or _INTERJECTION.fullmatch(word) is not None
    )
    return TERMS["chat"].get(word, word) if known else spell(word)


def _roman(text: str) -> int:
    values = [{"I": 1, "V": 5, "X": 10, "L": 50}[c] for c in text.upper()]
    return sum(-v if v < max(values[i:]) else v for i, v in enumerate(values))


def _point(match: re.Match[str], words: str) -> str:
    """The words of an abbreviation, with its point where the sentence ends."""
    return words + (
        "." if re.match(rf"\W*$|\s+(?:{_STARTERS})\b(?!\.)", match.string[match.end() :][:30]) else ""
    )


def _dotted_letters(match: re.Match[str]) -> str:
    return " " * (match.string[match.start() - 1 : match.start()] != "-") + _point(match, spell(match[0]))


def _abbreviation(match: re.Match[str]) -> str:
    word = match[1].lower()
    if word not in _ABBREVIATIONS or match[1].isupper() and word in TERMS["spelled"]:
        return match[0]
    return _ABBREVIATIONS[word] if word in TERMS["title"] else _point(match, _ABBREVIATIONS[word])


def _street(match: re.Match[str]) -> str:
    return match[1] + (
        _point(match, TERMS["street"][match[2].lower()]) if match[3] else TERMS["street"][match[2].lower()]
    )


def _hash(match: re.Match[str]) -> str:
    """Colours, numbers and hashtags."""
    word = match[1]
    hexadecimal = re.fullmatch(r"[\da-fA-F]{3,4}|[\da-fA-F]{6}|[\da-fA-F]{8}", word)
    mixed = re.search(r"\d", word) and not word.isdecimal()
    if hexadecimal and (mixed or not re.search(r"[\daeAE]", word) or re.fullmatch(r"0\d{5,}", word)):
        return " hash " + spell_code(word)
    if word.isdecimal():
        return " number " + word
    return " hashtag " + re.sub(r"(?<=[a-z])(?=[A-Z])", " ", word.replace("_", " "))


def _initial(match: re.Match[str]) -> str:
    """``J. Smith`` loses its point; the point of ``vitamin C. It`` ends the sentence."""
    letter = "ay" if match[1] == "A" else match[1]
    follows = re.match(rf"\s+(?:{_STARTERS})\b(?!\.)", match.string[match.end() :][:30])
    return letter + ("." if follows else "")


# fmt: off
_SHORTHAND: list = [
    (re.compile(pattern, re.IGNORECASE if flag == "i" else 0), speak)
    for flag, pattern, speak in (
        ("", r"(?<!\S)[:;=8][-^']?[)(DPp/|\\*O]+(?!\S)|(?<!\S)(?:\^_\^|<3|XD)(?!\S)", " "),
        ("", r"\bR\$\s?", "BRL "),
        ("", r"\b([A-Z]\w*)<([\w, <\[\]]*)>+", r"\1 \2 "),
        ("", r"(?<=\s)(?:-+|=+)>(?=\s)|<-+(?=\s)", ", "),
        ("", ADDRESS.pattern, _address),
        ("", r"(?<!\w)[A-Z]:\\[\w\\.-]*\w", _address),
        ("", r"(?<![^\s(\"'`])(?:~|\.{1,2})?/(?:[\w.-]+/)*[\w.-]*\w", _address),
        ("", r"(?<!\S)\.(?=[a-z]|[A-Z]{2})", " dot "),
        ("", r"(?<![\w@])@(\w+(?:\.\w+)*)",
         lambda m: " at " + re.sub(r"_|(?<=[a-z])(?=[A-Z])", " ", m[1]).replace(".", " dot ")),
        ("", r"(?<![\w#&])#(\w+)", _hash),
        ("", r"\b([CFG])#(?!\w)", r"\1 sharp "),
        ("", r"\b([CG])\+\+", r"\1 plus plus "),
        ("", r"\bc/o\b", "care of"),
        ("i", r"\bw/o\b", "without"),
        ("i", r"\bw/(?=\s)", "with"),
        ("i", r"\be\.\s?g\.,?", "for example"),
        ("i", r"\bi\.\s?e\.,?", "that is"),
        ("i", r"\bet al\.", lambda m: _point(m, "et al")),
        ("i", r"\bph\.\s?d\b\.?", lambda m: _point(m, "p h d")),
        ("", r"\b([BMD])\.\s?(Sc|Ed|Phil|Eng|Tech|Com|Arch|Litt)\b\.?",
         lambda m: _point(m, f"{m[1]} " + ("s c" if m[2] == "Sc" else m[2]))),
        ("i", rf"\b({either('before_number')})\.\s?(?=#?\d)", lambda m: TERMS["before_number"][m[1].lower()] + " "),
        ("", rf"\b({either('weekday')})\b(?:\.(?=\s?\w)|(?=,?\s(?:\d|{MONTH.title()}))|"
             rf"(?=\s?[-–]\s?(?:{either('weekday')})))|(?<=[-–])({either('weekday')})\b\.?",
         lambda m: TERMS["weekday"][m[1] or m[2]]),
        ("", r"(?<=day)\s?[-–]\s?(?=(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day)", " to "),
        # Streets: a preposition or a number, a name, then the kind of road.
        ("", r"(\b(?:\d{1,6}\w?|on|at|to|down|along|of|in|from|near|the|onto|off)\s(?:[NSEW]\.?\s)?"
             rf"(?:[A-Z]\w+\s|\d+\w\w\s){{1,3}})({either('street').title()})\b"
             rf"(?:(\.)(?!\s(?!(?:{_STARTERS})\b)[A-Z][a-z]+\b(?![,.]))|(?!\w|\.\w|\s[A-Z][a-z]))", _street),
        ("", r"(?<=[a-z] )(St)()\.(?!\s[A-Z])", "Street"),
        # Roman numerals.
        ("i", rf"\b({either('before_roman')})s?\s((?-i:{_ROMAN})|[ivx]{{2,5}})\b(?!['.]\w)(?! am\b)",
         lambda m: f"{m[0][: m.start(2) - m.start()]}{cardinal(str(_roman(m[2])))}"),
        ("", rf"\b({_ROMAN})(?=(?:st|nd|rd|th)?[ -](?:century|centuries|Century|dynasty|Dynasty))",
         lambda m: ordinal(str(_roman(m[1])))),
        ("", rf"\b((?:{_MONARCHS})(?<!Malcolm)(?<!David)) ((?!I\b){_ROMAN}|I(?=[,.;:?!]|'s|$|"
             r"\s(?:of|was|became|reigned|died|and|ruled|had|is)\b))(?![\w-])",
         lambda m: f"{m[1]} the {ordinal(str(_roman(m[2])))}"),
        ("", rf"(?<=[A-Za-z\d] )(?<!\b[Aa]n )(?<!\b[Aa] )((?=[IVX]{{2}}){_ROMAN})\b(?!['-]\w)",
         lambda m: cardinal(str(_roman(m[1])))),
        # Times of the day; the letter A; letters with points.
        ("", r"(?<![^\W\d])([aApP])\.\s?[mM]\.", lambda m: " " + _point(m, f"{spell(m[1])} m")),
        ("i", r"(?<=\d)\s?([ap])m\b", lambda m: f" {spell(m[1])} m"),
        ("", r"\b(?:[A-Za-z]\.){2,}[A-Za-z]?(?![A-Za-z])|\b[A-Z]\.[A-Z]\b(?!\.)", _dotted_letters),
        ("", r"\b([B-F])-(?=\s|$|[.,])", r"\1 minus"),
        ("", r"\bA-(?=\s|$|[.,])", "ay minus"),
        ("i", rf"\b({either('before_letter_a')}) ([\"']?)A\2(?![\w']|\.\w)", lambda m: f"{m[1]} ay"),
        ("", r"\bA\b(?=[/&]|\s(?:and|or|to|through|vs|versus)\s[B-Z]\b|\s(?:is|was|stands|means)\b)", "ay"),
        ("", r"(?<=[/&])A\b(?!')|(?<=[B-Z] or )A\b|\bA\b(?=[,;:?!)\]\"+]|[-–][B-Zz]\b|\W*$)", "ay"),
        ("", r"(?<=[a-z] )A\b(?! [A-Za-z])(?!['.])", "ay"),
        ("", r"\ba(?=[-/][bz]\b|\))|(?<=['\"])a(?=['\"])", "ay"),
        ("", r"\b([A-Z])\.(?=\s+(?:[A-Z]|ay\b))", _initial),
        ("", r"\bA\.(?=\W*$)", "ay."),
        # Abbreviations.
        ("", r"\b([A-Za-z]+)\.(?=\W|$)", _abbreviation),
        ("i", r"(?<![;/&])\b(mr|mrs|ms|dr|prof|jr|sr|vs|etc)\b(?=\s[A-Z]|\W*$|,)",
         lambda m: _ABBREVIATIONS[m[1].lower()]),
        ("i", r"\b(vs|etc|approx|dept)\b", lambda m: _ABBREVIATIONS[m[1].lower()]),
        # Signs that are not part of numbers.
        ("", r"(?<=[\w)])\s?±\s?|(?<!\S)±\s?", " plus or minus "),
        ("", r"(?<=[\w)])\s?[−](?=\s?[\w(])", "−"),
        ("", r"(?<!\S)~(?=\d)", "about "),
        ("", r"==+", "="),
        ("", r"!=", " is not equal to "),
        ("", r"<=", "≤"),
        ("", r">=", "≥"),
        ("", r"\*{1,3}(?=\w)|(?<=\w)\*{1,3}(?=\W|$)(?!\s?\d)", " "),
    )
]
# fmt: on


def _tidy(text: str) -> str:
    """Drop quotes, split compounds, and keep one mark after a word and one space after the mark."""
    text = re.sub(r"(?<![a-z])'(?!(?:tis|twas|em|til|cause)\b)|'(?![a-z])", " ", re.sub("'+", "'", text))
    text = re.sub(r"(?<=[a-z\s])-(?=[a-z])", " ", text)
    text = re.sub(r"\s+", " ", text).lstrip(" " + PUNCTUATION)
    return re.sub(r" ?[.,?!;:-][.,?!;: -]*", _mark, text).rstrip(" ,;:-")


def _mark(match: re.Match[str]) -> str:
    """Keep the first of several marks that ends a sentence, else the last."""
    marks = match[0].replace(" ", "")
    return next((mark for mark in marks if mark in ".?!"), marks[-1]) + " "


# ---- markup

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
