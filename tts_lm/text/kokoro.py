"""Conversion of timed phonemes of the teacher Kokoro-82M (the IPA of misaki) to the inventory."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from .english import table
from .phonemes import BOUNDARY, ERHUA, MARKS

Timed = tuple[str, float, float]
"""Symbol, start and end in seconds."""


_VOWELS = table(
    "ɑ=AA æ=AE ə=AH ʌ=AH ᵊ=AH ɐ=AH ɔ=AO W=AW I=AY ɛ=EH ɜ=ER A=EY ɪ=IH ᵻ=IH i=IY O=OW Y=OY ʊ=UH u=UW a=AE o=OW "
    "e=EY"
)
_CONSONANTS = table(
    "b=B ʧ=CH d=D ð=DH f=F ɡ=G h=HH ʤ=JH k=K l=L m=M n=N ŋ=NG p=P ɹ=R s=S ʃ=SH t=T ɾ=T θ=TH v=V w=W j=Y z=Z "
    "ʒ=ZH"
)
_INITIALS = table(
    "p=b pʰ=p m=m f=f t=d tʰ=t n=n l=l k=g kʰ=k x=h h=h ʨ=j ʨʰ=q ɕ=x ꭧ=zh ꭧʰ=ch ʂ=sh ɻ=r ʐ=r ʦ=z ʦʰ=c s=s"
)
_FINALS = table(
    "a=a ai=ai an=an aŋ=ang au=ao ɤ=e ei=ei ən=en əŋ=eng i=i ja=ia jɛn=ian jaŋ=iang jau=iao je=ie in=in "
    "jou=iou iŋ=ing jʊŋ=iong ʊŋ=ong ou=ou u=u wei=uei wa=ua wai=uai wan=uan wən=uen waŋ=uang wəŋ=ueng wo=uo "
    "y=v ɥe=ve ɥɛn=van yn=vn ɨ=iii ɚ=er ɔ=o jɔ=io ɛ=ei"
)
_TONES = {"→": "1", "↗": "2", "↓": "3", "↘": "4"}
_AFTER_N = set("y u a ɤ ai ei au ou ja je jau jou wo ɥe ʊŋ jɛn jaŋ".split())
"""Finals before which an n is more often an initial than the coda of the previous syllable."""


def from_kokoro(phonemes: Sequence[Timed], language: str) -> list[Timed]:
    """Convert the IPA characters of one clip, as ``teacher.py`` writes them, to symbols of ``PHONEMES``.

    Stress marks and tones are merged into their vowels and finals. ``language`` is ``en`` or ``zh``.

    Raises:
        ValueError: a character has no counterpart.
    """
    return _from_english(phonemes) if language == "en" else _from_mandarin(phonemes)


def align(spoken: Sequence[str], timed: Sequence[Timed]) -> tuple[list[Timed], int]:
    """Assign the times of :func:`from_kokoro` to the phonemes of the front end for the same text.

    Returns:
        ``spoken`` with times, and the number of phonemes without a counterpart, boundaries and punctuation not
        counted. The start and the end of such a phoneme are equal.
    """
    rows, columns = len(spoken), len(timed)
    cost = [[0.0] * (columns + 1) for _ in range(rows + 1)]
    for i in range(rows + 1):
        for j in range(columns + 1):
            if i or j:
                cost[i][j] = min(
                    cost[i - 1][j - 1] + _difference(spoken[i - 1], timed[j - 1][0]) if i and j else 1e9,
                    cost[i - 1][j] + _gap(spoken[i - 1]) if i else 1e9,
                    cost[i][j - 1] + _gap(timed[j - 1][0]) if j else 1e9,
                )
    out: list[Timed] = []
    i, j, alone = rows, columns, 0
    while i or j:
        if i and j and cost[i][j] == cost[i - 1][j - 1] + _difference(spoken[i - 1], timed[j - 1][0]):
            i, j = i - 1, j - 1
            out.append((spoken[i], timed[j][1], timed[j][2]))
        elif i and cost[i][j] == cost[i - 1][j] + _gap(spoken[i - 1]):
            i -= 1
            edge = timed[j - 1][2] if j else timed[0][1] if timed else 0.0
            out.append((spoken[i], edge, edge))
            alone += _gap(spoken[i]) > 0.5
        else:
            j -= 1
            alone += _gap(timed[j][0]) > 0.5
    return out[::-1], alone


@cache
def _gap(symbol: str) -> float:
    return 0.3 if symbol == BOUNDARY or symbol in MARKS else 1.0


@cache
def _difference(one: str, other: str) -> float:
    if one == other:
        return 0.0
    marks = [symbol == BOUNDARY or symbol in MARKS for symbol in (one, other)]
    if any(marks):
        return 0.25 if all(marks) else 9.0
    if one.rstrip("012345") == other.rstrip("012345") or one == ERHUA and other[:2] == "er":
        return 0.1
    return 0.6 if one[-1].isdigit() == other[-1].isdigit() else 1.6


def _from_english(phonemes: Sequence[Timed]) -> list[Timed]:
    out: list[Timed] = []
    stress, since = "0", None
    for at, (symbol, start, end) in enumerate(phonemes):
        if symbol in "ˈˌ":
            stress, since = "1" if symbol == "ˈ" else "2", start
        elif symbol == "ɹ" and out and (phonemes[at - 1][0] in "əɜ" or out[-1][0][:2] == "ER"):  # əɹ, ɜɹ, əɹɹ
            out[-1] = ("ER" + out[-1][0][-1], out[-1][1], end)
        elif symbol in _VOWELS:
            out.append((_VOWELS[symbol] + stress, start if since is None else since, end))
            stress, since = "0", None
        else:
            out.append((_other(symbol, _CONSONANTS), start, end))
    return out


def _from_mandarin(phonemes: Sequence[Timed]) -> list[Timed]:
    out: list[Timed] = []
    at = 0
    while at < len(phonemes):
        symbol, start, end = phonemes[at]
        length = 2 if at + 1 < len(phonemes) and phonemes[at + 1][0] == "ʰ" else 1
        initial = "".join(p[0] for p in phonemes[at : at + length])
        if initial in _INITIALS:
            out.append((_INITIALS[initial], start, phonemes[at + length - 1][2]))
            at += length
            continue
        final, tone, length = _final(phonemes, at)
        if final:
            name = _FINALS[final]
            before = out[-1][0] if out else ""
            if name == "iii" and before in ("z", "c", "s"):
                name = "ii"
            if name == "uo" and before in ("b", "p", "m", "f"):
                name = "o"
            out.append((name + tone, start, phonemes[at + length - 1][2]))
            at += length
        elif symbol in _TONES and out and out[-1][0] in ("n", "m"):
            out[-1] = ("en" + _TONES[symbol], out[-1][1], end)  # the syllable n of 嗯
            at += 1
        else:
            out.append((_other(symbol, {}), start, end))
            at += 1
    return out


def _final(phonemes: Sequence[Timed], at: int) -> tuple[str, str, int]:
    """The longest final at an index, its tone and its number of characters. The tone is before the coda."""
    best = ("", "5", 0)
    final, tone = "", "5"
    for length in range(1, 6):
        if at + length > len(phonemes):
            break
        symbol = phonemes[at + length - 1][0]
        if symbol in _TONES:
            if tone != "5":
                break
            tone = _TONES[symbol]
        elif tone != "5" and symbol not in "nŋ":
            break
        else:
            final += symbol
        if final in _FINALS and not (
            symbol == "n" and best[0] and _begins_syllable(phonemes, at + length - 1)
        ):
            best = (final, tone, length)
    return best


def _begins_syllable(phonemes: Sequence[Timed], at: int) -> bool:
    """Whether an n is an initial, not a coda."""
    following = _final(phonemes, at + 1)[0] if at + 1 < len(phonemes) else ""
    return following in _AFTER_N


def _other(symbol: str, table: dict[str, str]) -> str:
    if symbol == " ":
        return BOUNDARY
    if symbol in MARKS:
        return symbol
    if symbol in table:
        return table[symbol]
    raise ValueError(f"the phoneme {symbol!r} of the teacher has no counterpart in the inventory")
