"""Choosing among readings: the gaze of taught heads, and what counts as a fault."""

from __future__ import annotations

import pytest
import torch

from tts_lm.verify import fault, gaze


def path_attention(path: list[int], text: slice, first: int) -> torch.Tensor:
    """Attention of a head that looks where ``path`` says."""
    size = first + len(path)
    attention = torch.zeros(size, size)
    for frame, place in enumerate(path):
        attention[first + frame, text.start + place] = 1.0
    return attention


def test_gaze_finds_the_path() -> None:
    text, path = slice(3, 13), [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9]
    attention = path_attention(path, text, first=15)
    torch.testing.assert_close(gaze(attention, 15, len(path), text), torch.tensor(path, dtype=torch.float32))


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ([0, 1, 2, 3, 12, 13, 14, 15, 16, 17, 18, 19], "skips"),
        ([*range(0, 14), *range(2, 20)], "repeats"),
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], "stops early"),
    ],
)
def test_a_faulty_reading_is_worse_than_a_whole_one(path: list[int], why: str) -> None:
    whole = torch.arange(20, dtype=torch.float32)
    assert fault([whole], 20) == 0.0
    assert fault([torch.tensor(path, dtype=torch.float32)], 20) > 0.2, why
