"""A thousand generations of the shipped model, with hostile texts. Each ends within its bound, with a reason.

Prints the table (``pytest tests/test_finish_slow.py -s``); ``TTS_LM_MODEL`` names another model.
"""

from __future__ import annotations

import os
import random
import warnings
from collections import Counter

import pytest

from tts_lm import Synthesizer
from tts_lm.sentences import REASONS, answer_sentences

PLAIN = 600
HOSTILE = 400
_SUBJECTS = (
    "The old man|My sister|A tall woman|The children|Nobody|Our neighbour|The doctor|Every visitor".split("|")
)
_VERBS = "walked along|looked at|came back from|talked about|slept beside|waited near|dreamt of|passed".split(
    "|"
)
_PLACES = "the river|a quiet garden|the station|the empty house|the hill|an open window|the market".split("|")
_ENDS = "before the rain came|in the morning|for a long time|without a word|and went home|last winter".split(
    "|"
)


def plain_sentences(count: int) -> list[str]:
    """Sentences of 30 to 70 letters, seeded."""
    rng = random.Random(0)
    parts = (_SUBJECTS, _VERBS, _PLACES, _ENDS)
    return [" ".join(rng.choice(words) for words in parts) + "." for _ in range(count)]


def hostile_texts(count: int) -> list[str]:
    """Unusual texts, seeded: repeats, punctuation, single letters, thousands of letters, digits."""
    rng = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyz"

    def noise(length: int) -> str:
        return "".join(rng.choice(letters + "  '") for _ in range(length))

    kinds = [
        lambda: " ".join([rng.choice(["no", "the", "buffalo", "ha", "very very"])] * rng.randint(5, 60)),
        lambda: rng.choice("!?.,;:-") * rng.randint(1, 40) + rng.choice(letters) + "!?" * rng.randint(0, 20),
        lambda: rng.choice(letters),
        lambda: rng.choice(letters) * rng.randint(2, 400),
        lambda: "x" + noise(1999),
        lambda: "".join(rng.choice("0123456789") for _ in range(rng.randint(1, 40))),
        lambda: "a" + noise(rng.randint(1, 200)),
        lambda: "A " + "?! " * rng.randint(1, 50) + "b",
    ]
    return [rng.choice(kinds)() for _ in range(count)]


def generate(synthesizer: Synthesizer, texts: list[str]) -> tuple[Counter[str], int]:
    """One sample of every text: the worst finish reason of each, and the number out of bounds."""
    reasons: Counter[str] = Counter()
    outside = 0
    for start in range(0, len(texts), 16):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            plans = [synthesizer.plan(text, seed=start) for text in texts[start : start + 16]]
        flat = [sentence for plan in plans for sentence in plan]
        settings, silent = synthesizer.sampling, synthesizer._silent
        answers = answer_sentences(synthesizer._decoder, flat, settings, synthesizer.reranker, silent)
        said = iter(answers)
        for plan in plans:
            mine = [next(said) for _ in plan]
            reasons[max((answer.finish_reason for answer in mine), key=REASONS.index)] += 1
            for sentence, answer in zip(plan, mine, strict=True):
                frames = len(answer.codes)
                outside += not 1 <= frames <= sentence.limits.longest
                outside += answer.finish_reason == "eos" and frames < sentence.limits.shortest
    return reasons, outside


@pytest.mark.slow
def test_a_thousand_generations_end_within_their_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    synthesizer = Synthesizer.from_pretrained(os.environ.get("TTS_LM_MODEL"))
    synthesizer.sampling = type(synthesizer.sampling)(**vars(synthesizer.sampling) | {"best_of": 1})
    found = {
        "plain": generate(synthesizer, plain_sentences(PLAIN)),
        "hostile": generate(synthesizer, hostile_texts(HOSTILE)),
    }
    with capsys.disabled():
        print(
            f"\n{'texts':<10}{'number':>8}"
            + "".join(f"{why:>10}" for why in REASONS)
            + f"{'out of bounds':>16}"
        )
        for name, (reasons, outside) in found.items():
            shares = "".join(f"{100 * reasons[why] / reasons.total():>9.1f}%" for why in REASONS)
            print(f"{name:<10}{reasons.total():>8}{shares}{outside:>16}")
    assert sum(reasons.total() for reasons, _ in found.values()) == 1000
    assert all(outside == 0 for _, outside in found.values())
    assert found["plain"][0]["eos"] >= 0.98 * PLAIN


def test_the_texts_are_what_they_are_called() -> None:
    from tts_lm.text import normalise

    hostile = hostile_texts(HOSTILE)
    assert len(set(plain_sentences(PLAIN))) > PLAIN / 2
    assert max(map(len, hostile)) == 2000 and min(map(len, hostile)) == 1
    assert any(text.isdigit() for text in hostile)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        assert all(normalise(text) for text in hostile)
