"""Sampling and the stopping conditions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tts_lm.decoding.engine import Sampling, draw, find_loop, find_silence, frame_limits, nucleus, row_noise

RATE = 50.0


def test_noise_is_a_function_of_seed_row_and_step():
    assert np.array_equal(row_noise(3, 5, 40)[:10], row_noise(3, 5, 10))
    assert np.array_equal(row_noise(-1, 0, 4), row_noise(2**64 - 1, 0, 4))
    assert len({row_noise(*key, 1)[0, 0] for key in ((3, 5), (3, 6), (4, 5))}) == 3


@pytest.mark.parametrize(
    ("top_k", "top_p", "kept"),
    [
        (0, 1.0, [0.5, 0.25, 0.15, 0.1]),
        (0, 0.5, [1.0, 0, 0, 0]),
        (0, 0.89, [0.5 / 0.9, 0.25 / 0.9, 0.15 / 0.9, 0]),
        (2, 1.0, [2 / 3, 1 / 3, 0, 0]),
        (1, 1e-9, [1.0, 0, 0, 0]),
    ],
)
def test_nucleus_keeps_the_fewest_best(top_k, top_p, kept):
    order = torch.tensor([2, 0, 3, 1])  # whatever stands where
    found = nucleus(torch.tensor([[0.5, 0.25, 0.15, 0.1]]).log()[:, order], top_k, top_p)
    assert torch.allclose(found, torch.tensor([kept])[:, order], atol=1e-6)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_codes_are_drawn_as_often_as_they_are_likely(temperature):
    probabilities = torch.tensor([0.6, 0.3, 0.1])
    steps = 20_000
    noise = torch.from_numpy(row_noise(0, 0, steps))
    chosen = Sampling(temperature=temperature, top_p=1.0, window=0)
    drawn = draw(probabilities.log().expand(steps, 3), noise, torch.full((steps, 0), -1), chosen)
    wanted = probabilities ** (1 / temperature)
    assert torch.allclose(torch.bincount(drawn) / steps, wanted / wanted.sum(), atol=0.015)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32), edge=st.sampled_from([0.0, 0.5, 1 - 2**-53]), top_p=st.floats(0.01, 1.0))
def test_what_is_forbidden_is_never_drawn(seed, edge, top_p):
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(6, 30, generator=generator)
    logits[torch.rand(6, 30, generator=generator) < 0.5] = -torch.inf
    logits[:, 11] = 0.0
    noise = torch.full((6, 2), edge, dtype=torch.float64)
    recent = logits.argmax(-1, keepdim=True).expand(-1, 10)
    for chosen in (Sampling(top_p=top_p), Sampling(top_p=top_p, window=0), Sampling(temperature=0)):
        drawn = draw(logits, noise, recent, chosen)
        assert torch.isfinite(logits[torch.arange(6), drawn]).all()
    assert torch.equal(drawn, logits.argmax(-1))  # greedy needs no noise


def test_a_code_that_fills_the_window_is_drawn_again_from_all():
    logits = torch.tensor([[0.9, 0.06, 0.04]]).log()
    noise = torch.tensor([[0.3, 0.93]], dtype=torch.float64)  # nucleus says 0; all codes say 1
    chosen = Sampling(temperature=1.0, top_p=0.5, window=10, ratio=0.1)
    twice = torch.tensor([[0, 0] + 8 * [2]])
    for recent, code in ((torch.full((1, 0), -1), 0), (torch.tensor([[0] + 9 * [2]]), 0), (twice, 1)):
        assert draw(logits, noise, recent, chosen).item() == code
    assert draw(logits, noise, torch.tensor([[-1, -1, 0, 0]]), chosen).item() == 1
    assert draw(logits, noise, twice, Sampling(temperature=1.0, top_p=0.5, window=0)).item() == 0


def test_settings_out_of_range_are_refused():
    wrong = {"temperature": [-0.1, math.nan, math.inf], "top_p": [0.0, 1.1, math.nan], "best_of": [0]}
    for name, values in (wrong | dict.fromkeys(("top_k", "window", "ratio", "n_q"), [-1])).items():
        for value in values:
            with pytest.raises(ValueError, match=name):
                Sampling(**{name: value})


@pytest.mark.parametrize("period", [1, 2, 7, 20])
def test_loops_are_found_and_cut_behind_the_first_turn(period):
    head = np.arange(100, 130)
    turns = np.tile(np.arange(period), 200 // period)
    codes = np.concatenate((head, turns))
    kept = find_loop(codes, RATE)
    assert kept is not None and len(head) <= kept < len(codes)
    assert find_loop(head, RATE) is None
    assert find_loop(np.random.default_rng(0).integers(1000, size=400), RATE) is None
    assert find_loop(turns[: 3 * period], RATE) is None  # said thrice is still speech


def test_silence_is_found_and_something_is_kept():
    speech, quiet = np.arange(10, 60), np.tile([3, 4, 4], 25)
    codes = np.concatenate((speech, quiet))
    found = [find_silence(codes, silent, RATE) for silent in ({3, 4}, {3}, ())]
    assert found == [len(speech), None, None]
    assert find_silence(codes[:-5], {3, 4}, RATE) is None and find_silence(quiet, {3, 4}, RATE) == 1


@pytest.mark.parametrize("rate", [12.5, 25.0, 50.0, 75.0])
def test_limits_leave_room(rate):
    """Between 25 and 160 ms a phoneme."""
    for phonemes in range(1, 500):
        limits = frame_limits(phonemes, rate)
        assert 1 <= limits.shortest < limits.longest <= frame_limits(phonemes + 1, rate).longest
        assert limits.shortest / rate <= max(0.025 * phonemes, 1 / rate)
        assert limits.longest / rate >= 0.16 * phonemes
