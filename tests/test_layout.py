"""Round trip of every layout: codes -> symbols -> codes; malformed sequences name the first bad position."""

from __future__ import annotations

import itertools
import pickle

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from audiotok import (
    FrameReader,
    LayoutError,
    Repaired,
    flatten,
    seconds_in_context,
    sequence_length,
    unflatten,
)

LAYOUTS = ("first", "flat", "delay", "coarse")


@st.composite
def grids(draw: st.DrawFn) -> tuple[torch.Tensor, int, int]:
    """codes [K, T], V and an offset."""
    n_q, codebook_size = draw(st.integers(1, 32)), draw(st.sampled_from([1, 2, 7, 256, 1024, 4096]))
    seed, frames = draw(st.integers(0, 2**32)), draw(st.integers(0, 60))
    codes = torch.randint(codebook_size, (n_q, frames), generator=torch.Generator().manual_seed(seed))
    return codes, codebook_size, draw(st.sampled_from([0, 1, 416, 128_256]))


def test_the_four_orders() -> None:
    codes = torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert flatten(codes, 10, "flat").tolist() == [1, 14, 2, 15, 3, 16]
    assert flatten(codes, 10, "flat", offset=100).tolist() == [101, 114, 102, 115, 103, 116]
    assert flatten(codes, 10, "first", offset=100).tolist() == [101, 102, 103]
    assert flatten(codes, 10, "coarse").tolist() == [1, 2, 3, 14, 15, 16]
    assert flatten(codes, 10, "delay").tolist() == [1, -1, 2, 14, 3, 15, -1, 16]
    assert flatten(codes, 10, "delay", offset=100, fill=7).tolist() == [101, 7, 102, 114, 103, 115, 7, 116]
    assert unflatten([1, 14, 2, 15, 3, 16], 2, 10, "flat").tolist() == codes.tolist()
    assert unflatten([101, 102], 2, 10, "first", offset=100).tolist() == [[1, 2]]
    assert unflatten([1, -1, 2, 14, 3, 15, -1, 16], 2, 10, "delay").tolist() == codes.tolist()


def read(
    symbols: list[int], *arguments: object, errors: str = "strict", n_q: int = 1
) -> tuple[torch.Tensor, int]:
    """Read a whole sequence with the streaming inverse: codes and the number of lost symbols."""
    reader = FrameReader(*arguments, errors=errors)
    parts = [reader.push(symbol) for symbol in symbols]
    parts = [part for part in [*parts, reader.close()] if part is not None]
    return torch.cat(parts, dim=1) if parts else torch.zeros(n_q, 0, dtype=torch.int64), reader.lost


@settings(max_examples=25, deadline=None)
@example((torch.zeros(3, 0).long(), 4, 0), -1)
@example((torch.ones(4, 3).long(), 4, 7), -1)
@given(grids(), st.sampled_from([-1, 10**6]))
def test_codes_survive(grid: tuple[torch.Tensor, int, int], fill: int) -> None:
    codes, codebook_size, offset = grid
    n_q, frames = codes.shape
    for layout in LAYOUTS:
        symbols = flatten(codes, codebook_size, layout, offset, fill)
        assert symbols.dtype == torch.int64 and symbols.ndim == 1
        assert len(symbols) == sequence_length(frames, n_q, layout)
        expected = codes[:1] if layout == "first" else codes
        for form in (symbols, symbols.tolist(), symbols.to(torch.int32)):
            back = unflatten(form, n_q, codebook_size, layout, offset, fill)
            assert back.dtype == torch.int64 and torch.equal(back, expected)
        whole = unflatten(symbols, n_q, codebook_size, layout, offset, fill, errors="repair")
        assert isinstance(whole, Repaired) and torch.equal(whole.codes, expected) and whole.lost == 0
        for errors in ("strict", "repair"):
            got, lost = read(
                symbols.tolist(), layout, n_q, codebook_size, offset, fill, errors=errors, n_q=len(expected)
            )
            assert torch.equal(got, expected) and lost == 0


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n_q", [1, 2, 3])
def test_only_well_formed_sequences_are_accepted(layout: str, n_q: int) -> None:
    """Strict, streaming and cursor agree on all sequences up to length 5 over one code per codebook and the fill."""
    longest = 5
    zeros = torch.zeros(n_q, longest, dtype=torch.int64)
    images = {tuple(flatten(zeros[:, :frames], 1, layout).tolist()) for frames in range(longest + 1)}
    for length in range(longest + 1):
        for symbols in itertools.product(range(-1, n_q), repeat=length):
            if symbols in images:
                codes = unflatten(list(symbols), n_q, 1, layout)
                assert tuple(flatten(codes, 1, layout).tolist()) == symbols
                continue
            with pytest.raises(LayoutError) as raised:
                unflatten(list(symbols), n_q, 1, layout)
            position = raised.value.position
            assert any(image[:position] == symbols[:position] for image in images)
            assert raised.value.got == (symbols[position] if position < length else None)
            if position < length:
                assert not any(image[: position + 1] == symbols[: position + 1] for image in images)
                assert symbols[position] not in raised.value.expected
            with pytest.raises(LayoutError) as streamed:
                read(list(symbols), layout, n_q, 1)
            assert str(streamed.value) == str(raised.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_frames_are_returned_with_their_last_symbol(layout: str) -> None:
    codes = torch.arange(12).reshape(3, 4)
    symbols = flatten(codes, 12, layout).tolist()
    reader = FrameReader(layout, 3, 12)
    at = [index for index, symbol in enumerate(symbols) if reader.push(symbol) is not None]
    reader.close()
    last = {"first": [0, 1, 2, 3], "flat": [2, 5, 8, 11], "delay": [8, 11, 14, 17], "coarse": [8, 9, 10, 11]}
    assert at == last[layout]


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(LAYOUTS),
    st.integers(1, 4),
    st.integers(0, 8),
    st.lists(st.tuples(st.sampled_from("dxis"), st.integers(0, 60), st.integers(-9, 99)), max_size=6),
)
def test_repair_counts_lost_symbols(
    layout: str, n_q: int, frames: int, damage: list[tuple[str, int, int]]
) -> None:
    """The codes of a repaired frame have the distances in the input that codes of one frame have."""
    size = 16
    codes = torch.arange(frames).repeat(n_q, 1)
    symbols = flatten(codes, size, layout).tolist()
    for kind, place, value in damage:
        if symbols:
            place %= len(symbols)
            if kind == "d":
                del symbols[place]
            elif kind == "x":
                symbols[place] = value + 1000
            elif kind == "i":
                symbols.insert(place, value + 1000)
            else:
                symbols[place] = 15  # a code of codebook 0
    repaired = unflatten(symbols, n_q, size, layout, errors="repair")
    given_codes = sum(symbol != -1 or layout != "delay" for symbol in symbols)
    assert repaired.lost == given_codes - repaired.codes.numel()
    if layout == "coarse":
        return
    streamed, lost = read(symbols, layout, n_q, size, errors="repair", n_q=len(repaired.codes))
    assert torch.equal(streamed, repaired.codes) and lost == repaired.lost
    books = len(repaired.codes)
    ours = [s for s in symbols if 0 <= s < books * size or (s == -1 and layout == "delay")]
    apart = books + 1 if layout == "delay" else 1  # from a code to that of the next codebook
    runs = {tuple(ours[i::apart][:books]) for i in range(len(ours))}
    for frame in repaired.codes.T.tolist():
        assert tuple(k * size + code for k, code in enumerate(frame)) in runs


def test_repair_by_example() -> None:
    def repair(symbols: list[int], n_q: int, layout: str) -> tuple[list, int]:
        result = unflatten(symbols, n_q, 10, layout, errors="repair")
        return result.codes.tolist(), result.lost

    # 99 is foreign, 2 has no partner
    assert repair([1, 99, 14, 2, 3, 16], 2, "flat") == ([[1, 3], [4, 6]], 2)
    assert repair([1, 14, 2], 2, "flat") == ([[1], [4]], 1)
    assert repair([1, 14, 2], 1, "first") == ([[1, 2]], 1)
    # The step 3, 15 lost its 15, which affects frames 1 and 2.
    assert repair([1, -1, 2, 14, 3, 4, 16, 5, 17, -1, 18], 2, "delay") == ([[1, 4, 5], [4, 7, 8]], 3)
    assert repair([1, 2, 3, 14, 15], 2, "coarse") == ([[1, 2], [4, 5]], 1)
    # Dropping the second codebook keeps more.
    assert repair([1, 2, 3, 4, 14], 2, "coarse") == ([[1, 2, 3, 4]], 1)
    assert repair([], 2, "coarse") == ([[], []], 0)


def test_seconds_in_context() -> None:
    for layout, n_q, context in itertools.product(LAYOUTS, (1, 3, 8), (0, 1, 7, 64, 65, 1000)):
        frames = round(seconds_in_context(context, 50.0, n_q, layout) * 50)
        assert sequence_length(frames, n_q, layout) <= context < sequence_length(frames + 1, n_q, layout)


def test_errors_can_be_pickled() -> None:
    with pytest.raises(LayoutError) as raised:
        unflatten([3, 99], 1, 10, "first")
    copy = pickle.loads(pickle.dumps(raised.value))
    assert str(copy) == str(raised.value)
    assert (copy.position, copy.expected, copy.got) == (1, range(0, 10), 99)


def test_bad_codes_and_arguments() -> None:
    codes = torch.zeros(2, 3, dtype=torch.int64)
    for bad in ([[1], [2, 3]], codes.float(), codes.bool()):
        for layout in LAYOUTS:
            with pytest.raises(TypeError):
                flatten(bad, 10, layout)
    for bad in (codes[None], codes[:0], torch.tensor([[0, 1], [2, 10]]), torch.tensor([[0, -1]])):
        for layout in LAYOUTS:
            with pytest.raises(ValueError):
                flatten(bad, 10, layout)
    for symbols in ([1.5, 2.0], ["a"], [True, False], [2**70]):
        with pytest.raises(TypeError):
            unflatten(symbols, 1, 10, "first")
    for bad in (
        lambda: unflatten([[1, 2]], 1, 10),
        lambda: unflatten(torch.tensor(3), 1, 10),
        lambda: flatten(codes, 10, "steep"),
        lambda: unflatten([1], 1, 10, "steep"),
        lambda: flatten(codes, 10, "delay", fill=19),
        lambda: unflatten([1], 1, 10, errors="ignore"),
        lambda: unflatten([1], 0, 10),
        lambda: unflatten([1], 1, 0),
        lambda: sequence_length(-1, 1),
        lambda: seconds_in_context(10, 0.0, 1),
    ):
        with pytest.raises(ValueError):
            bad()
