"""Grids of codes <-> sequences of symbols: ``first``, ``flat``, ``delay`` and ``coarse``.

A symbol is ``offset + k * V + code``: it says by itself which codebook it belongs to. Pure functions over
tensors; knows nothing of text, tokenizers or models. The one law it keeps: ``unflatten(flatten(codes)) ==
codes`` for every layout (for ``first``: on codebook 0), and a sequence that no grid could have made raises
and names its first bad position.

Source: ``delay`` is the pattern of MusicGen (arXiv:2306.05284, figure 1), codebook k shifted by k frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, overload

import torch
from torch import Tensor

from .grammar import NO_FILL, Cursor, Layout, LayoutError, check_fill, check_layout, check_sizes
from .stream import FrameReader, Repaired

__all__ = ["Layout", "LayoutError", "Repaired", "flatten", "unflatten"]


def flatten(
    codes: Tensor, codebook_size: int, layout: Layout = "flat", offset: int = 0, fill: int = NO_FILL
) -> Tensor:
    """Turn a grid of codes into one sequence of symbols ``offset + k * V + code``.

    Args:
        codes: [K, T] integers in [0, V), any K >= 1 and T >= 0.
        codebook_size: V, entries per codebook.
        layout: ``first`` keeps codebook 0 only; ``flat`` keeps all, frame by frame, coarse to fine; ``delay``
            is frame by frame too, with codebook k shifted by k frames; ``coarse`` is codebook by codebook.
        offset: added to every symbol, so that the result can be ids of a larger vocabulary.
        fill: the symbol, as it stands in the result, for the corners of ``delay`` where no code is.

    Returns:
        [S] int64 on the device of ``codes``; S as :func:`~audiotok.tokens.grammar.sequence_length` says.

    Raises:
        TypeError: ``codes`` is not a tensor of integers.
        ValueError: ``codes`` is not [K, T], a code is outside [0, V), the layout is unknown, or ``fill`` is
            a code's symbol.
    """
    check_layout(layout)
    check_sizes(1, codebook_size)
    symbols = _symbols(codes, codebook_size) + offset
    n_q, frames = symbols.shape
    if layout == "first":
        return symbols[0]
    if layout == "coarse":
        return symbols.reshape(-1)
    if layout == "flat":
        return symbols.T.reshape(-1)
    check_fill(layout, n_q, codebook_size, offset, fill)
    if frames == 0:
        return symbols.reshape(-1)
    steps = symbols.new_full((frames + n_q - 1, n_q), fill)
    at, level = _delayed(n_q, frames, symbols.device)
    steps[at, level] = symbols
    return steps.reshape(-1)


@overload
def unflatten(
    symbols: Tensor | Sequence[int],
    n_q: int,
    codebook_size: int,
    layout: Layout = "flat",
    offset: int = 0,
    fill: int = NO_FILL,
    errors: Literal["strict"] = "strict",
) -> Tensor:
    """Symbols [S] -> codes [K, T], strictly."""
    ...


@overload
def unflatten(
    symbols: Tensor | Sequence[int],
    n_q: int,
    codebook_size: int,
    layout: Layout = "flat",
    offset: int = 0,
    fill: int = NO_FILL,
    *,
    errors: Literal["repair"],
) -> Repaired:
    """Symbols [S] -> codes [K, T] and what was lost."""
    ...


def unflatten(
    symbols: Tensor | Sequence[int],
    n_q: int,
    codebook_size: int,
    layout: Layout = "flat",
    offset: int = 0,
    fill: int = NO_FILL,
    errors: Literal["strict", "repair"] = "strict",
) -> Tensor | Repaired:
    """Turn a sequence of symbols back into a grid of codes: the strict inverse of :func:`flatten`.

    Args:
        symbols: [S] integers, a tensor or a list.
        n_q: K, the codebooks in the sequence; ``first`` always holds one, whatever this says.
        codebook_size: V, entries per codebook.
        layout: the layout that :func:`flatten` was given.
        offset: the offset that :func:`flatten` was given.
        fill: the fill symbol that :func:`flatten` was given.
        errors: ``strict`` raises on a malformed sequence; ``repair`` keeps the whole frames that are in it
            (see :class:`~audiotok.tokens.stream.FrameReader`) and counts what was lost.

    Returns:
        [K, T] int64 codes in [0, V); K = 1 for ``first``. On the device of ``symbols``. With
        ``errors="repair"`` a :class:`Repaired` of such codes and the count.

    Raises:
        TypeError: ``symbols`` are not integers.
        ValueError: ``symbols`` is not one sequence, a size is below 1, or layout, fill or errors are unknown.
        LayoutError: no grid has this sequence; names the first bad position, what was expected and what came.
    """
    cursor = Cursor(layout, n_q, codebook_size, offset, fill)  # checks the arguments
    if errors not in ("strict", "repair"):
        raise ValueError(f"expected errors 'strict' or 'repair', got {errors!r}")
    symbols = _as_sequence(symbols)
    grid = _grid(symbols, cursor)
    if grid is not None:
        return Repaired(grid, 0) if errors == "repair" else grid
    if errors == "repair":
        reader = FrameReader(layout, n_q, codebook_size, offset, fill, errors="repair")
        parts = [reader.push(symbol) for symbol in symbols.tolist()]
        kept = [part for part in [*parts, reader.close()] if part is not None]
        codes = torch.cat(kept, dim=1) if kept else torch.zeros(cursor.n_q, 0, dtype=torch.int64)
        return Repaired(codes.to(symbols.device), reader.lost)
    raise _first_error(symbols, cursor)


def _first_error(symbols: Tensor, cursor: Cursor) -> LayoutError:
    """What is wrong with a sequence [S] that is no grid's, found by a cursor at its beginning."""
    try:
        for symbol in symbols.tolist():
            cursor.push(symbol)
        cursor.end()
    except LayoutError as error:
        return error
    raise AssertionError("the cursor takes what the tensor code refuses")


def _grid(symbols: Tensor, cursor: Cursor) -> Tensor | None:
    """The grid [K, T] of a well-formed sequence [S]; None for any other."""
    n_q, size = cursor.n_q, cursor.codebook_size
    if symbols.shape[0] % n_q:
        return None
    if cursor.layout == "coarse":
        grid = symbols.reshape(n_q, -1)
    elif cursor.layout != "delay" or symbols.shape[0] == 0:
        grid = symbols.reshape(-1, n_q).T
    else:
        steps = symbols.reshape(-1, n_q)
        frames = steps.shape[0] - n_q + 1
        if frames < 1:
            return None
        at, level = _delayed(n_q, frames, symbols.device)
        grid = steps[at, level]
        corner = torch.ones_like(steps, dtype=torch.bool)
        corner[at, level] = False
        if bool((steps[corner] != cursor.fill).any()):
            return None
    codes = grid - _lows(n_q, size, symbols.device) - cursor.offset
    if bool(((codes < 0) | (codes >= size)).any()):
        return None
    return codes.contiguous()


def _delayed(n_q: int, frames: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Where the code of codebook k and frame t stands in the steps of ``delay``: row [K, T] and column [K, 1]."""
    level = torch.arange(n_q, device=device).unsqueeze(1)
    return torch.arange(frames, device=device) + level, level


def _lows(n_q: int, codebook_size: int, device: torch.device) -> Tensor:
    return torch.arange(n_q, device=device).unsqueeze(1) * codebook_size


def _symbols(codes: Tensor, codebook_size: int) -> Tensor:
    """Checked codes [K, T] -> symbols [K, T] without offset."""
    if not isinstance(codes, Tensor):
        raise TypeError(
            f"expected a tensor of codes [K, T], got {type(codes).__name__}; torch.as_tensor() it"
        )
    _check_integers(codes, "codes")
    if codes.ndim != 2 or codes.shape[0] < 1:
        raise ValueError(
            f"expected codes [K, T] of one clip with K >= 1, got shape {list(codes.shape)}; "
            "take one item of a batch at a time: codes[i]"
        )
    codes = codes.long()
    bad = (codes < 0) | (codes >= codebook_size)
    if bad.any():
        k, t = bad.nonzero()[0].tolist()
        raise ValueError(
            f"expected codes in [0, {codebook_size}), got {int(codes[k, t])} in codebook {k} at frame {t}; "
            "were they made by another codec, or are they padding?"
        )
    return codes + _lows(codes.shape[0], codebook_size, codes.device)


def _check_integers(values: Tensor, what: str) -> None:
    if values.dtype == torch.bool or values.is_floating_point() or values.is_complex():
        raise TypeError(f"expected {what} of an integer dtype, got {values.dtype}")


def _as_sequence(symbols: Tensor | Sequence[int]) -> Tensor:
    if not isinstance(symbols, Tensor):
        if len(symbols) == 0:
            return torch.zeros(0, dtype=torch.int64)
        try:
            symbols = torch.as_tensor(symbols)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"expected a tensor or a flat list of integers: {error}") from error
    _check_integers(symbols, "symbols")
    if symbols.ndim != 1:
        raise ValueError(f"expected one sequence [S], got shape {list(symbols.shape)}; take a row at a time")
    return symbols.long()
