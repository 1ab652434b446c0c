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
from tts_lm.synthesizer import REASONS

_PARTS = [
    "The old man|My sister|A tall woman|The children|Nobody|Our neighbour|The doctor|Every visitor",
    "walked along|looked at|came back from|talked about|slept beside|waited near|dreamt of|passed",
    "the river|a quiet garden|the station|the empty house|the hill|an open window|the market",
    "before the rain came|in the morning|for a long time|without a word|and went home|last winter",
]


def plain_sentences(count: int) -> list[str]:
    """Sentences of 30 to 70 letters, seeded."""
    rng = random.Random(0)
    return [" ".join(rng.choice(part.split("|")) for part in _PARTS) + "." for _ in range(count)]


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


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [("plain", 600), ("hostile", 400)])
def test_generations_end_within_their_bounds(
    kind: str, count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = plain_sentences(count) if kind == "plain" else hostile_texts(count)
    synthesizer = Synthesizer.from_pretrained(os.environ.get("TTS_LM_MODEL"))
    sampling = type(synthesizer.sampling)(**vars(synthesizer.sampling) | {"best_of": 1})
    reasons: Counter[str] = Counter()  # the worst finish reason of each text
    outside = 0
    for start in range(0, count, 16):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            plans = [synthesizer.plan(text, seed=start) for text in texts[start : start + 16]]
        flat = [sentence for plan in plans for sentence in plan]
        said = iter(synthesizer.generate(flat, sampling))
        for plan in plans:
            mine = [next(said) for _ in plan]
            reasons[max((answer.finish_reason for answer in mine), key=REASONS.index)] += 1
            for sentence, answer in zip(plan, mine, strict=True):
                frames = len(answer.codes)
                outside += not 1 <= frames <= sentence.limits.longest
                outside += answer.finish_reason == "eos" and frames < sentence.limits.shortest
    with capsys.disabled():
        shares = "".join(f"{why:>10} {100 * reasons[why] / count:.1f} %" for why in REASONS)
        print(f"\n{kind}: {count} texts,{shares}; {outside} out of bounds")
    assert reasons.total() == count and outside == 0
    assert kind == "hostile" or reasons["eos"] >= 0.98 * count
