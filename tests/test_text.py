"""The English normaliser, refused texts, and splitting into sentences."""

from __future__ import annotations

import re
import time
import warnings
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_toys import toy_tokenizer

from tts_lm.decoding.engine import TEXT_START, build_prompt
from tts_lm.models.ar import character_ids
from tts_lm.text import (
    ALPHABET,
    SOUNDS,
    normalise,
    pronounce,
    pronounce_text,
    split_sentences,
    write_sounds,
)

TABLE = {
    # punctuation and typography
    "Hello, world!": "hello, world!",
    "“Well,” he said — ‘yes’…": "well, he said- yes.",
    "Wait... what?! Yes!!! (Really) [ok]": "wait. what? yes! really, ok",
    "He said so -- twice ; \n\n and\tleft .": "he said so- twice; and left.",
    "don't stop the rock 'n' roll, 'tis the dogs' bone": "don't stop the rock n roll, 'tis the dogs bone",
    "a well-known half_hidden *star*": "a well known half hidden star",
    "naïve café, Œuvre, Straße, Ångström, ﬁne": "naive cafe, oeuvre, strasse, angstrom, fine",
    "Ｈｅｌｌｏ": "hello",
    # numbers
    "0 1 12 105": "zero one twelve one hundred and five",
    "1,234,567 people": "one million two hundred and thirty four thousand five hundred and sixty seven people",
    "3.14 and -5 and 0.05": "three point one four and minus five and zero point zero five",
    "007": "zero zero seven",
    "12345678901234": "one two three four five six seven eight nine zero one two three four",
    "1e10 B2B": "one times ten to the power of ten b two b",
    "50% & more #1": "fifty percent and more number one",
    "a+b=c, a/b": "a plus b equals c, ay b",
    "½ a cup, 1½ cups, 3/4, 2 1/2, 7/8": "one half a cup, one and a half cups, three quarters, two and a half, "
    "seven eighths",
    "No. 5 of Nos. 6 and 7. Say no. One.": "number five of numbers six and seven. say no. one.",
    "pages 10–20": "pages ten to twenty",
    "٣٤ apples": "thirty four apples",
    # ordinals
    "1st 2nd 3rd 12th 22ND 103rd": "first second third twelfth twenty second one hundred and third",
    # currency
    "$1, $5, $1.50, $0.99, $1,200.01": "one dollar, five dollars, one dollar and fifty cents, "
    "ninety nine cents, one thousand two hundred dollars and one cent",
    "£5m": "five million pounds",
    "£5m, $3bn, €10k, $3.2 billion, £1 million": "five million pounds, three billion dollars, "
    "ten thousand euros, three point two billion dollars, one million pounds",
    "£2.30 £0.01 ¥500 -$5": "two pounds and thirty pence one penny five hundred yen minus five dollars",
    # dates and years
    "in 1999, 2005, 2010, 1900": "in nineteen ninety nine, two thousand and five, twenty ten, nineteen hundred",
    "1,999 or 1999.5": "one thousand nine hundred and ninety nine or one thousand nine hundred and ninety nine "
    "point five",
    "80s": "eighties",
    "the '90s, the 1980s, the 1800s, 100s": "the nineties, the nineteen eighties, the eighteen hundreds, hundreds",
    "Jan. 5, 2020; 5 May 2021; March 31.": "january fifth, twenty twenty; fifth may twenty twenty one; "
    "march thirty first.",
    "On Sept. 3rd 5 may go.": "on september third five may go.",
    "9/11, 24/7, 5/17/2024": "nine eleven, twenty four seven, may seventeenth, twenty twenty four",
    # times
    "10:30, 10:00, 5:05pm, 7 PM": "ten thirty, ten o'clock, five oh five p m, seven p m",
    "10:00 AM": "ten ay m",
    "At 5 a.m. on Monday.": "at five ay m on monday.",
    "Up at 6 a.m. He left at 7 p.m.": "up at six ay m. he left at seven p m.",
    # units
    "1 km, 5 km/h, 60mph, 1 ft, 3 kHz": "one kilometer, five kilometers per hour, sixty miles per hour, one foot, "
    "three kilohertz",
    "20°C or 68 °F, a 90° turn": "twenty degrees celsius or sixty eight degrees fahrenheit, a ninety degree turn",
    # abbreviations and initials
    "Mr. Smith, Dr Jones & Mrs. Lee": "mister smith, doctor jones and missus lee",
    "St. Paul on Main St. in Mt. Vernon": "saint paul on main street in mount vernon",
    "e.g. this, i.e. that, etc.": "for example this, that is that, et cetera.",
    "J. K. Rowling and J. Smith. So did I. He left.": "j k rowling and j smith. so did i. he left.",
    "the U.S. Army, a Ph.D. student a.k.a. Bob": "the u s army, a p h d student ay k ay bob",
    "NASA, HTML, IT and TV; no WORD": "nasa, h t m l, i t and t v; no word",
    "THE U.S. ARMY LEFT AT 5 A.M. SHARP.": "the u s army left at five ay m sharp.",
    "www.example.com, me@site.org": "w w w dot example dot com, me at site dot org",
    "end.Then go": "end. then go",
}


CASES = [
    line.split("\t")
    for line in (Path(__file__).parent / "text_cases.tsv").read_text(encoding="utf-8").splitlines()
]
"""Kind, written (a line end is \\n), spoken."""


@pytest.mark.parametrize(("written", "spoken"), TABLE.items(), ids=list(TABLE))
def test_normaliser(written, spoken):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert normalise(written) == spoken
    assert normalise(spoken) == spoken


@pytest.mark.parametrize("kind", sorted({kind for kind, _, _ in CASES}))
def test_chat_and_web_text(kind):
    cases = {written.replace("\\n", "\n"): spoken for k, written, spoken in CASES if k == kind}
    assert len(cases) > 3
    assert {written: normalise(written) for written in cases} == cases
    assert [normalise(spoken) for spoken in cases.values()] == [*cases.values()]


@pytest.mark.parametrize(
    ("nothing", "reason"),
    [
        ("", "empty"),
        ("  \n", "empty"),
        ("😀", "emoji"),
        ("👩‍👩‍👧 ❤️", "emoji"),
        ("今天天气很好", "script"),
        ("今天3点见", "script"),
        ("Привет, мир", "script"),
        ("Γειά σου", "script"),
        ("...", "punctuation"),
        ("-", "punctuation"),
        ("\x00", "punctuation"),
        ("(?)", "punctuation"),
        ("***\n---", "punctuation"),
        ("<br/>", "punctuation"),
    ],
)
def test_nothing_to_say_is_refused_with_the_reason(nothing, reason):
    with pytest.raises(ValueError, match=reason):
        normalise(nothing)


def test_what_is_no_text_is_refused():
    with pytest.raises(TypeError, match="bytes"):
        normalise(b"hello")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        ("Hello 😀 there", "hello there"),
        ("Tokyo (東京) is big", "tokyo, is big"),
        ("a\x07bell", "a bell"),
    ],
)
def test_what_cannot_be_said_is_dropped_with_a_warning(written, spoken):
    with pytest.warns(UserWarning, match="dropped"):
        assert normalise(written) == spoken


@settings(deadline=None, max_examples=50)
@given(st.text(max_size=60) | st.text("aA1b2'.,-:;?! $£%/&St", max_size=60))
def test_only_the_alphabet_comes_out(text):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            spoken = normalise(text)
        except ValueError:
            return
    assert set(spoken) <= set(ALPHABET)
    assert re.search("[a-z]", spoken) and "  " not in spoken and spoken == spoken.strip()
    assert "".join(split_sentences(spoken)).replace(" ", "") == spoken.replace(" ", "")
    assert not re.search(r"[.,?!;:-]{2}", spoken)
    assert set(pronounce_text(spoken)) <= set(ALPHABET) | set(SOUNDS.values())


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("at five a m on monday.", ["at five a m on monday."]),
        ("yes. no! what? so", ["yes.", "no!", "what?", "so"]),
        ("one", ["one"]),
    ],
)
def test_splitting(text, pieces):
    assert split_sentences(text) == pieces


@pytest.mark.parametrize(
    "text",
    [
        "It was a bright cold day, and the clocks were striking thirteen. " * 77,
        "and so it went on, for ever " * 180,
        "and so it went on " * 280,
        "x" * 5000,
        "Dr. Smith paid $5.50 at 10:30 a.m. on Jan. 5, 2020; the U.S. won 3-2! " * 70,
    ],
)
def test_five_thousand_characters_lose_nothing(text):
    spoken = normalise(text[:5000])
    pieces = split_sentences(spoken, max_letters=160)
    assert all(0 < len(piece) <= 160 for piece in pieces)
    if " " in spoken:
        assert " ".join(pieces) == spoken
    else:
        assert "".join(pieces) == spoken
    assert sum(map(len, pieces)) / len(pieces) > 30  # not a heap of crumbs


@pytest.mark.filterwarnings("ignore:dropped")
@pytest.mark.parametrize(
    "tooth",
    [
        "-",
        "'",
        ". ",
        "1",
        "1,",
        "a.",
        "$",
        "1 ",
        "w.w.",
        "a-",
        "1/",
        "½",
        "(",
        "A ",
        "A",
        "[",
        "*",
        "<b",
        "&",
        "IV ",
        "1-",
        "www.",
        "\n- ",
    ],
)
def test_no_text_takes_for_ever(tooth):
    began = time.process_time()
    normalise((tooth * 1500)[:1500] + " a")
    assert time.process_time() - began < 2


def test_the_prompt_is_the_template():
    tokenizer = toy_tokenizer()
    ids = character_ids(tokenizer)
    prompt = build_prompt(tokenizer, [ids[c] for c in "hi"], voice=3)
    names = ["bos", "voice_03", "text_start", None, None, "text_end", "audio_start"]
    controls = [None if name is None else tokenizer.control_id(name) for name in names]
    assert [i for i, c in zip(prompt, controls, strict=True) if c is not None] == [c for c in controls if c]
    assert prompt[TEXT_START : TEXT_START + 2] == [ids["h"], ids["i"]]
    assert len(set(ids.values())) == 95 and max(ids.values()) < tokenizer.control_offset


@pytest.mark.parametrize(
    ("word", "phones"),
    [
        ("cat", "K AE T"),
        ("cats", "K AE T S"),
        ("dogs", "D AA G Z"),
        ("fbi", "EH F B IY AY"),
    ],
)
def test_pronunciation(word, phones):
    assert pronounce(word) == write_sounds(phones.split())


def test_endings_follow_the_last_sound_and_unknown_words_stay_letters():
    assert pronounce("blorptz") is None
    assert pronounce_text("a blorptz, cat.") == f"{pronounce('a')} blorptz, {pronounce('cat')}."
    assert len(set(SOUNDS.values())) == len(SOUNDS) == 39
    assert not set(SOUNDS.values()) & set(ALPHABET)
    with pytest.raises(KeyError):
        write_sounds(["AE1"])
