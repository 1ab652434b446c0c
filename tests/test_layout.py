"""The bijection law: codes -> symbols -> codes, strict both ways, and errors that say where and what."""

from __future__ import annotations

import pickle

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audiotok import LayoutError, flatten, unflatten

LAYOUTS = ("first", "flat")


@st.composite
def grids(draw: st.DrawFn) -> tuple[torch.Tensor, int, int]:
    """codes [K, T], V and an offset."""
    n_q, codebook_size = draw(st.integers(1, 32)), draw(st.sampled_from([1, 2, 7, 256, 1024, 4096]))
    seed, frames = draw(st.integers(0, 2**32)), draw(st.integers(0, 60))
    codes = torch.randint(codebook_size, (n_q, frames), generator=torch.Generator().manual_seed(seed))
    return codes, codebook_size, draw(st.sampled_from([0, 1, 416, 128_256]))


def test_flat_is_frame_major_and_level_major() -> None:
    codes = torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert flatten(codes, 10, "flat").tolist() == [1, 14, 2, 15, 3, 16]
    assert flatten(codes, 10, "flat", offset=100).tolist() == [101, 114, 102, 115, 103, 116]
    assert flatten(codes, 10, "first", offset=100).tolist() == [101, 102, 103]
    assert unflatten([1, 14, 2, 15, 3, 16], 2, 10, "flat").tolist() == codes.tolist()
    assert unflatten([101, 102], 2, 10, "first", offset=100).tolist() == [[1, 2]]


@settings(max_examples=200, deadline=None)
@given(grids())
def test_codes_survive(grid: tuple[torch.Tensor, int, int]) -> None:
    codes, codebook_size, offset = grid
    for layout in LAYOUTS:
        symbols = flatten(codes, codebook_size, layout, offset)
        assert symbols.dtype == torch.int64 and symbols.ndim == 1
        expected = codes[:1] if layout == "first" else codes
        for form in (symbols, symbols.tolist(), symbols.to(torch.int32)):
            back = unflatten(form, codes.shape[0], codebook_size, layout, offset)
            assert back.dtype == torch.int64 and torch.equal(back, expected)


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.integers(-1, 7), max_size=7), st.integers(1, 3), st.integers(1, 3), st.sampled_from(LAYOUTS)
)
def test_a_sequence_is_the_image_of_its_grid_or_an_error(
    symbols: list[int], n_q: int, codebook_size: int, layout: str
) -> None:
    """Strictness: nothing is accepted that flatten would not have written."""
    width = 1 if layout == "first" else n_q
    bad = [i for i, s in enumerate(symbols) if s // codebook_size != i % width]
    if bad or len(symbols) % width:
        with pytest.raises(LayoutError) as raised:
            unflatten(symbols, n_q, codebook_size, layout)
        position = bad[0] if bad else len(symbols)
        low = position % width * codebook_size
        assert raised.value.position == position
        assert raised.value.expected == range(low, low + codebook_size)
        assert raised.value.got == (symbols[position] if bad else None)
    else:
        codes = unflatten(symbols, n_q, codebook_size, layout)
        assert flatten(codes, codebook_size, layout).tolist() == symbols


def test_the_error_tells_position_range_and_what_came() -> None:
    with pytest.raises(LayoutError, match=r"position 3 .* codebook 1 in \[110, 120\), got 103"):
        unflatten([101, 114, 102, 103], 2, 10, "flat", offset=100)
    with pytest.raises(LayoutError, match=r"position 3 .* codebook 1 .*, got the end of the sequence"):
        unflatten([101, 114, 102], 2, 10, "flat", offset=100)


def test_the_error_crosses_processes() -> None:
    with pytest.raises(LayoutError) as raised:
        unflatten([3, 99], 1, 10, "first")
    copy = pickle.loads(pickle.dumps(raised.value))
    assert str(copy) == str(raised.value)
    assert (copy.position, copy.expected, copy.got) == (1, range(0, 10), 99)


@pytest.mark.parametrize(
    ("codes", "error", "match"),
    [
        ([[1]], TypeError, "as_tensor"),
        (torch.zeros(2, 3), TypeError, "integer"),
        (torch.zeros(2, 3, dtype=torch.bool), TypeError, "integer"),
        (torch.zeros(1, 2, 3, dtype=torch.int64), ValueError, r"\[1, 2, 3\]"),
        (torch.zeros(0, 3, dtype=torch.int64), ValueError, r"\[0, 3\]"),
        (torch.tensor([[0, 1], [2, 10]]), ValueError, r"got 10 in codebook 1 at frame 1"),
        (torch.tensor([[0, -1]]), ValueError, r"got -1 in codebook 0 at frame 1"),
    ],
)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_bad_codes(codes: object, error: type[Exception], match: str, layout: str) -> None:
    with pytest.raises(error, match=match):
        flatten(codes, 10, layout)


@pytest.mark.parametrize(
    ("symbols", "error"),
    [
        ([1.5, 2.0], TypeError),
        (["a"], TypeError),
        ([True, False], TypeError),
        ([2**70], TypeError),
        ([[1, 2]], ValueError),
        (torch.tensor(3), ValueError),
    ],
)
def test_bad_symbols(symbols: object, error: type[Exception]) -> None:
    with pytest.raises(error, match="expected"):
        unflatten(symbols, 1, 10, "first")


def test_bad_sizes_and_layouts() -> None:
    with pytest.raises(ValueError, match="first, flat; got 'delay'"):
        flatten(torch.zeros(1, 1, dtype=torch.int64), 10, "delay")
    with pytest.raises(ValueError, match="first, flat; got 'delay'"):
        unflatten([1], 1, 10, "delay")
    with pytest.raises(ValueError, match="n_q >= 1, got 0"):
        unflatten([1], 0, 10)
    with pytest.raises(ValueError, match="codebook_size >= 1, got 0"):
        unflatten([1], 1, 0)
