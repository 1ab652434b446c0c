"""Mandarin text to pinyin: numbers and signs in words, polyphones, tone sandhi and erhua."""

from __future__ import annotations

import functools
import re
import warnings
from pathlib import Path
from typing import Any

from .numbers import ungroup

HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff〇"
_DIGITS = "零一二三四五六七八九"
_THIRD, _NEUTRAL = "3", "5"
_NUMERALS = "零一二三四五六七八九十百千万亿点第"
_PRONOUNS = set("我 你 他 她 它 您 咱 谁 我们 你们 他们 她们 咱们 大家 人们 总 都 就 也 还 必 可".split())
_ER_WORDS = tuple("女儿 婴儿 幼儿 孤儿 健儿 胎儿 少儿 宠儿 混血儿 新生儿 孙儿 侄儿 育儿 产儿".split())
_FINALS = {"ê": "ei", "m": "en", "n": "en", "ng": "en", "ueng": "ueng", "io": "io"}
_BEHIND: dict[str, str] = {
    sign: name
    for sign, _, name in (
        pair.partition(":") for pair in "￥:元 ¥:元 $:美元 €:欧元 £:英镑 ₩:韩元 HK$:港元 US$:美元".split()
    )
}
_SIGNS: dict[str, str] = {
    pair[0]: pair[2:]
    for pair in (
        "÷:除以 ×:乘 ≈:约等于 ≠:不等于 ≤:小于等于 ≥:大于等于 =:等于 ±:正负 &:和 °:度 √:根号 ²:平方 ³:立方 "
        "‰:千分号 %:百分号 #:井号 +:加"
    ).split()
} | {"@": " at "}
_PUNCTUATION = str.maketrans(
    dict(zip("，、；：。．！？…—–（）()～％｜|", ",,;:..!?.--,,,,~%,,", strict=True))
    | dict.fromkeys('“”‘’「」『』《》〈〉【】[]{}·•*_`^~"\\<>', " ")
)
_RULES: list[tuple[re.Pattern[str], Any]] = [
    (re.compile(pattern), speak)
    for pattern, speak in (
        (r"(?<=\d),(?=\d{3}(?!\d))", ""),
        (rf"(?<=[{HAN}])\s+(?=\d)|(?<=\d)\s+(?=[{HAN}])", ""),
        (r"(?<=[A-Za-z])-(?=\d)", " "),
        (r"(?<![\d.第-])2(?=[台部辆条张本次位名件杯家块片双只座间篇种款套份句颗棵把头匹场批遍周天年小分秒个])", "两"),
        (r"\+(\d{1,3})[ -]?(?=1\d{2}|\d{3}[ -])", lambda m: f"加{_digits(m[1])},"),
        (r"(HK\$|US\$|[￥¥$€£₩])\s?(\d+(?:\.\d+)?)\s?([十百千万亿]*)(?:元|块|美元|欧元|英镑)?",
         lambda m: m[2] + m[3] + _BEHIND[m[1]]),
        (r"(?<![\d.])\d+(?:\.\d+){2,}(?![\d.])", lambda m: "点".join(map(_digits, m[0].split(".")))),
        (r"(?<![\d-])(1[3-9]\d)[ -](\d{4})[ -](\d{4})(?!\d)", r"\1\2\3"),
        (r"(?<![\d.])\d{7,}(?![\d.]*[十百千万亿元块人个米吨斤名条次年%])", lambda m: _digits(m[0], "幺")),
        (r"(?<!\d)\d{3,4}(?=室|房间|房|航班|次列车|路公交|号房)", lambda m: _digits(m[0])),
        (r"(?<=比分)(\d+)\s?[-:：]\s?(\d+)", r"\1比\2"),
        (r"(?<![\d-])(\d{1,3}|[12]\d{3})\s?[-–—~～]+\s?(\d{1,2}月|[12]\d{3}|\d{1,3}(?!\d))(?![\d-]|\s?=)",
         lambda m: m[0] if m[1][0] == "0" and len(m[1]) > 1 else f"{m[1]}到{m[2]}"),
        (r"(?:约|(?<![\d年月日号点]))[~～](?=\d)", "约"),
        (rf"(?<=[{HAN}])[~～](?=[{HAN}\d])", "到"),
        (r"(?<=\d)\s?\^\s?(\d+)", r"的\1次方"),
        (r"(?<=[\d\w])\s?>\s?(?=[\d\w])", "大于"),
        (r"(?<=[\d\w])\s?<\s?(?=[\d\w])", "小于"),
        (r"÷", "除以"),
    )
]  # fmt: skip


def normalise_mandarin(text: str) -> str:
    """Write the numbers, dates, money, units and signs of a Mandarin text in characters.

    Args:
        text: Han characters, digits and signs. Words in Latin letters are kept.

    Returns:
        The text without digits, with ASCII punctuation. Numbers that ``wetext`` rejects are read digit by digit.
    """
    text = ungroup(text)
    for pattern, speak in _RULES:
        text = pattern.sub(speak, text)
    if re.search(r"[\d%℃°℉]", text):
        try:
            text = _normalizer().normalize(text)
        except Exception:  # the transducers raise AssertionError and RuntimeError for unsupported input
            pass
    text = re.sub(r"\d+", lambda m: _digits(m[0]), text)
    return "".join(_SIGNS.get(c, c) for c in text).translate(_PUNCTUATION)


def pinyin(text: str) -> list[list[str]]:
    """Convert Han text to words of syllables.

    Args:
        text: one clause of Han characters. Sandhi does not cross its ends.

    Returns:
        A list of words, each of syllables such as ``ni2``; tone 5 is neutral; an ``r`` behind the tone marks erhua
        (``wan2r``). Sandhi of third tones, 一 and 不 is applied. Characters without a pronunciation are left out.
    """
    words = _words(text)
    syllables = [[list(s) for s in _readings(word, flag, at, words)] for at, (word, flag) in enumerate(words)]
    flat = [
        (char, syllable)
        for (word, _), group in zip(words, syllables, strict=True)
        for char, syllable in zip(word, group, strict=True)
    ]
    _sandhi_yi_bu(flat)
    _sandhi_third(syllables)
    out: list[list[str]] = []
    for (word, _), group in zip(words, syllables, strict=True):
        said: list[str] = []
        for at, (char, (base, tone)) in enumerate(zip(word, group, strict=True)):
            previous = said or (out[-1] if out else [])
            if (
                char == "儿"
                and previous
                and (at or len(word) == 1)
                and not word[: at + 1].endswith(_ER_WORDS)
                and base == "er"
            ):
                if not previous[-1].endswith("r"):
                    previous[-1] += "r"
            elif base:
                said.append(base + tone)
        if said:
            out.append(said)
    return out


def initial_final(syllable: str) -> list[str]:
    """``zhong1`` -> ``["zh", "ong1"]``; the finals of zi and zhi are ``ii`` and ``iii``, ü is ``v``."""
    from pypinyin.contrib.tone_convert import to_finals, to_initials

    base, tone = syllable[:-1], syllable[-1]
    initial, final = to_initials(base), to_finals(base).replace("ü", "v")
    if final == "i":
        final = {"z": "ii", "c": "ii", "s": "ii", "zh": "iii", "ch": "iii", "sh": "iii", "r": "iii"}.get(
            initial, "i"
        )
    final = _FINALS.get(final, final)
    return [initial, final + tone] if initial else [final + tone]


def _digits(number: str, one: str = "一") -> str:
    return "".join(one if c == "1" else _DIGITS[int(c)] for c in number)


@functools.cache
def _normalizer() -> Any:
    from wetext import Normalizer

    return Normalizer(lang="zh", operator="tn")


@functools.cache
def _terms() -> tuple[dict[str, str], frozenset[str]]:
    """Corrections, word -> syllables separated by spaces, and words whose last syllable is neutral."""
    said: dict[str, str] = {}
    neutral: set[str] = set()
    for line in (Path(__file__).parent / "mandarin_terms.txt").read_text(encoding="utf-8").splitlines():
        kind, _, entries = line.partition(": ")
        if kind == "say":
            said |= dict(entry.split(" ", 1) for entry in entries.split("; "))
        elif kind == "neutral":
            neutral |= set(entries.split("; "))
    return said, frozenset(neutral)


@functools.cache
def _cutter() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jieba has invalid escapes and imports pkg_resources
        import jieba.posseg

    jieba.setLogLevel(60)
    for word in _terms()[0]:
        if len(word) > 1:
            jieba.add_word(word)
    return jieba.posseg


def _words(text: str) -> list[tuple[str, str]]:
    return [(pair.word, pair.flag) for pair in _cutter().cut(text)]


def _readings(word: str, flag: str, at: int, words: list[tuple[str, str]]) -> list[list[str]]:
    """Syllable and tone of every character of a word, before sandhi."""
    from pypinyin import Style, lazy_pinyin
    from pypinyin.constants import PHRASES_DICT

    before = words[at - 1][0] if at else ""
    after = words[at + 1][0] if at + 1 < len(words) else ""
    said = _terms()[0].get(word)
    if said is None:
        said = _particle(word, flag, before, after, words[at + 1][1] if after else "")
    if said is None:
        style: Any = {
            "style": Style.TONE3,
            "neutral_tone_with_five": True,
            "errors": lambda chars: ["?"] * len(chars),
        }
        found = lazy_pinyin(word, **style)
        if len(found) != len(word):
            found = [lazy_pinyin(char, **style)[0] for char in word]
    else:
        found = said.split()
    found = [
        {"一": "yi1", "不": "bu4"}.get(c, s) if s[:-1] in ("yi", "bu") and s[-1] != _NEUTRAL else s
        for c, s in zip(word, found, strict=True)
    ]
    if said is None and "得" in word and len(word) > 1 and word not in PHRASES_DICT:
        at = word.index("得")
        found[at] = "de5" if at else "dei3" if not before or before in _PRONOUNS else "de2"
    if (
        word in _terms()[1]
        or len(word) == 2
        and word[0] == word[1]
        and flag[:1] == "v"
        or word[-1] in "们子"
        and len(word) > 2
    ):
        found[-1] = found[-1][:-1] + _NEUTRAL
    return [[s[:-1], s[-1]] if s != "?" else ["", ""] for s in found]


def _particle(word: str, flag: str, before: str, after: str, next_flag: str) -> str | None:
    """Pronunciation of single characters that depends on adjacent words."""
    if word == "得" and after[:1] in ("了", "到", "过"):
        return "de2"
    if word == "得":
        return "dei3" if not before or before in _PRONOUNS and next_flag[:1] in "vpad" else "de5"
    if word == "地":
        return "de5" if flag == "uv" or (before and next_flag[:1] == "v" and len(before) > 1) else "di4"
    if word == "为":
        return "wei2" if flag == "v" and next_flag[:1] not in "nrv" else "wei4"
    if word == "只":
        return "zhi1" if before and before[-1] in _NUMERALS + "两几每这那" else "zhi3"
    if word == "长":
        return (
            "zhang3"
            if after[:1] in ("得", "出", "成", "着", "了", "满", "大", "高", "在") and after
            else "chang2"
        )
    if word == "种":
        return "zhong3" if before and before[-1] in _NUMERALS + "两几每各这那多" else "zhong4"
    if word == "还" and next_flag[:1] in "nrm" and after not in ("你", "我", "他"):
        return "huan2"
    if word in ("了", "着", "的", "过"):
        return {"了": "le5", "着": "zhe5", "的": "de5", "过": "guo4"}[word]
    if len(word) == 2 and word[1] == "只" and word[0] in _NUMERALS + "两几每":
        return "".join(_readings(word[0], "m", 0, [(word[0], "m")])[0]) + " zhi1"
    return None


def _sandhi_yi_bu(flat: list[tuple[str, list[str]]]) -> None:
    """Apply the sandhi of 一 and 不."""
    for at, (char, syllable) in enumerate(flat):
        if char not in "一不" or syllable[0] not in ("yi", "bu") or syllable[1] == _NEUTRAL:
            continue
        before = flat[at - 1][0] if at else " "
        after, tone = (flat[at + 1][0], flat[at + 1][1][1]) if at + 1 < len(flat) else (" ", "")
        if before == after:
            syllable[1] = _NEUTRAL  # 看一看, 是不是
        elif char == "不":
            syllable[1] = "2" if tone == "4" else "4"
        elif after == " " or before in _NUMERALS + "周期统唯之专" or after in _DIGITS + "月号日楼班":
            syllable[1] = "1"
        else:
            syllable[1] = "2" if tone == "4" or after == "个" else "4"


def _sandhi_third(words: list[list[list[str]]]) -> None:
    """Apply third-tone sandhi inside words, then between a short word and the next."""
    for word in words:
        if len(word) > 2:  # 展览馆 is 展览 + 馆
            for at in range(0, len(word) - 2):
                if [s[1] for s in word[at : at + 3]] == [_THIRD] * 3:
                    word[at][1] = "2"
        for left, right in zip(word[-2::-1], word[:0:-1], strict=False):
            if left[1] == right[1] == _THIRD:
                left[1] = "2"
    for left, right in zip(words[-2::-1], words[:0:-1], strict=False):
        if left and right and left[-1][1] == right[0][1] == _THIRD and (len(left) == 1 or len(right) == 1):
            left[-1][1] = "2"
