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

CASES = [
    line.split("\t")
    for line in (Path(__file__).parent / "text_cases.tsv").read_text(encoding="utf-8").splitlines()
]
"""Kind, written (with \\n and \\t), spoken."""


@pytest.mark.parametrize("kind", sorted({kind for kind, _, _ in CASES}))
def test_chat_and_web_text(kind):
    cases = {
        written.replace("\\n", "\n").replace("\\t", "\t"): spoken for k, written, spoken in CASES if k == kind
    }
    assert len(cases) > 3
    assert {written: normalise(written) for written in cases} == cases
    assert [normalise(spoken) for spoken in cases.values()] == [*cases.values()]


NOTHING = {
    "empty": ["", "  \n"],
    "emoji": ["😀", "👩‍👩‍👧 ❤️"],
    "script": ["今天天气很好", "今天3点见", "Привет, мир", "Γειά σου"],
    "punctuation": ["...", "-", "\x00", "(?)", "***\n---", "<br/>"],
}


def test_what_cannot_be_said_is_refused_or_dropped_with_a_warning():
    for reason, texts in NOTHING.items():
        for nothing in texts:
            with pytest.raises(ValueError, match=reason):
                normalise(nothing)
    for written, spoken in (("Hello 😀 there", "hello there"), ("Tokyo (東京) is", "tokyo, is")):
        with pytest.warns(UserWarning, match="dropped"):
            assert normalise(written) == spoken
    with pytest.raises(TypeError, match="bytes"):
        normalise(b"hello")  # pyright: ignore[reportArgumentType]


@settings(deadline=None, max_examples=25)
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
    "text",
    [
        "It was a bright cold day, and the clocks were striking thirteen. " * 77,
        "and so it went on, for ever " * 180,
        "x" * 5000,
        "Dr. Smith paid $5.50 at 10:30 a.m. on Jan. 5, 2020; the U.S. won 3-2! " * 20,
    ],
)
def test_long_texts_lose_nothing(text):
    spoken = normalise(text[:5000])
    pieces = split_sentences(spoken, max_letters=160)
    assert all(0 < len(piece) <= 160 for piece in pieces)
    assert (" " if " " in spoken else "").join(pieces) == spoken
    assert sum(map(len, pieces)) / len(pieces) > 30  # not a heap of crumbs
    assert split_sentences("yes. no! what? so") == ["yes.", "no!", "what?", "so"]


TEETH = ["-", "'", ". ", "1", "1,", "a.", "$", "1 ", "w.w.", "1/", "½", "(", "A ", "A", "[", "*", "<b", "&"]


@pytest.mark.filterwarnings("ignore:dropped")
@pytest.mark.parametrize("tooth", [*TEETH, "IV ", "#a"])
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


def test_endings_follow_the_last_sound_and_unknown_words_stay_letters():
    for word, phones in (
        ("cat", "K AE T"),
        ("cats", "K AE T S"),
        ("dogs", "D AA G Z"),
        ("fbi", "EH F B IY AY"),
    ):
        assert pronounce(word) == write_sounds(phones.split())
    assert pronounce("blorptz") is None
    assert pronounce_text("a blorptz, cat.") == f"{pronounce('a')} blorptz, {pronounce('cat')}."
    assert len(set(SOUNDS.values())) == len(SOUNDS) == 39
    assert not set(SOUNDS.values()) & set(ALPHABET)
    with pytest.raises(KeyError):
        write_sounds(["AE1"])
