"""A thousand generations of the shipped model, with hostile texts. Each ends within its bound, with a reason.

``TTS_LM_MODEL`` names another model.
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


def plain(rng: random.Random) -> str:
    """A sentence of 30 to 70 letters."""
    return " ".join(rng.choice(part.split("|")) for part in _PARTS) + "."


def hostile(rng: random.Random) -> str:
    """Repeats, punctuation, single letters, thousands of letters or digits."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    noise = "".join(rng.choice(letters + "  '") for _ in range(rng.choice([20, 200, 1999])))
    digits = "".join(rng.choice("0123456789") for _ in range(rng.randint(1, 40)))
    words = " ".join([rng.choice(["no", "the", "buffalo", "ha", "very very"])] * rng.randint(5, 60))
    marks = rng.choice("!?.,;:-") * rng.randint(1, 40) + rng.choice(letters) + "!?" * rng.randint(0, 20)
    repeated = rng.choice(letters) * rng.choice([1, 20, 400])
    return rng.choice([words, marks, repeated, digits, "a" + noise, "A " + "?! " * rng.randint(1, 50) + "b"])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "count"), [(plain, 600), (hostile, 400)])
def test_generations_end_within_their_bounds(kind, count: int) -> None:
    rng = random.Random(0)
    texts = [kind(rng) for _ in range(count)]
    synthesizer = Synthesizer.from_pretrained(os.environ.get("TTS_LM_MODEL"))
    sampling = type(synthesizer.sampling)(**vars(synthesizer.sampling) | {"best_of": 1})
    reasons: Counter[str] = Counter()  # the worst finish reason of each text
    for start in range(0, count, 16):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            plans = [synthesizer.plan(text, seed=start) for text in texts[start : start + 16]]
        said = iter(synthesizer.generate([sentence for plan in plans for sentence in plan], sampling))
        for plan in plans:
            mine = [next(said) for _ in plan]
            reasons[max((answer.finish_reason for answer in mine), key=REASONS.index)] += 1
            for sentence, answer in zip(plan, mine, strict=True):
                assert 1 <= len(answer.codes) <= sentence.limits.longest
                assert answer.finish_reason != "eos" or len(answer.codes) >= sentence.limits.shortest
    assert reasons.total() == count
    assert kind is hostile or reasons["eos"] >= 0.98 * count
