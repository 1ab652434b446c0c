"""Grids of codes <-> sequences of symbols: ``first`` and ``flat``.

A symbol is ``k * V + code``: it says by itself which codebook it belongs to. Pure functions over tensors;
knows nothing of text, tokenizers or models. The one law it keeps: ``unflatten(flatten(codes)) == codes`` for
every layout (for ``first``: on codebook 0), and a sequence that no grid could have made raises and names its
first bad position.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

Layout = Literal["first", "flat"]


class LayoutError(ValueError):
    """A sequence that is not the image of any grid.

    Attributes:
        position: index of the first bad symbol; the sequence's length when it ends in the middle of a frame.
        expected: half-open range of symbols that the layout allows there.
        got: the symbol that stands there; None at the end of the sequence.
    """

    def __init__(self, layout: str, position: int, codebook: int, expected: range, got: int | None) -> None:
        came = "the end of the sequence" if got is None else str(got)
        super().__init__(
            f"malformed {layout!r} sequence: at position {position} expected a symbol of codebook {codebook} "
            f"in [{expected.start}, {expected.stop}), got {came}"
        )
        self.layout = layout
        self.position = position
        self.codebook = codebook
        self.expected = expected
        self.got = got

    def __reduce__(self) -> tuple[type[LayoutError], tuple[str, int, int, range, int | None]]:
        # An exception pickles its message only, and worker processes send their errors by pickle.
        return type(self), (self.layout, self.position, self.codebook, self.expected, self.got)


class _Rules(NamedTuple):
    """What tells one layout from another; everything else is shared."""

    order: Callable[[Tensor], Tensor]  # grid of symbols [K, T] -> sequence [S]
    codebooks: Callable[[Tensor, int], Tensor]  # positions [S], n_q -> codebook expected at each [S]
    frame: Callable[[int], int]  # n_q -> symbols per frame
    grid: Callable[[Tensor, int], Tensor]  # sequence of codes [S], n_q -> grid [K, T]


_RULES: dict[str, _Rules] = {
    "first": _Rules(
        order=lambda symbols: symbols[0],
        codebooks=lambda positions, n_q: torch.zeros_like(positions),
        frame=lambda n_q: 1,
        grid=lambda codes, n_q: codes.reshape(1, -1),
    ),
    "flat": _Rules(
        order=lambda symbols: symbols.T.reshape(-1),
        codebooks=lambda positions, n_q: positions % n_q,
        frame=lambda n_q: n_q,
        grid=lambda codes, n_q: codes.reshape(-1, n_q).T.contiguous(),
    ),
}


def flatten(codes: Tensor, codebook_size: int, layout: Layout = "flat", offset: int = 0) -> Tensor:
    """Turn a grid of codes into one sequence of symbols ``offset + k * V + code``.

    Args:
        codes: [K, T] integers in [0, V), any K >= 1 and T >= 0.
        codebook_size: V, entries per codebook.
        layout: ``first`` keeps codebook 0 only; ``flat`` keeps all, frame by frame, coarse to fine.
        offset: added to every symbol, so that the result can be ids of a larger vocabulary.

    Returns:
        [S] int64 on the device of ``codes``; S = T for ``first`` and K * T for ``flat``.

    Raises:
        TypeError: ``codes`` is not a tensor of integers.
        ValueError: ``codes`` is not [K, T], a code is outside [0, V), or the layout is unknown.
    """
    rules = _rules(layout)
    _check_size("codebook_size", codebook_size)
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
    levels = torch.arange(codes.shape[0], device=codes.device).unsqueeze(1)
    return rules.order(codes + levels * codebook_size + offset)


def unflatten(
    symbols: Tensor | Sequence[int], n_q: int, codebook_size: int, layout: Layout = "flat", offset: int = 0
) -> Tensor:
    """Turn a sequence of symbols back into a grid of codes: the strict inverse of :func:`flatten`.

    Args:
        symbols: [S] integers, a tensor or a list.
        n_q: K, the codebooks in the sequence; ``first`` always holds one, whatever this says.
        codebook_size: V, entries per codebook.
        layout: the layout that :func:`flatten` was given.
        offset: the offset that :func:`flatten` was given.

    Returns:
        [K, T] int64 codes in [0, V); K = 1 for ``first``. On the device of ``symbols``.

    Raises:
        TypeError: ``symbols`` are not integers.
        ValueError: ``symbols`` is not one sequence, a size is below 1, or the layout is unknown.
        LayoutError: no grid has this sequence; names the first bad position, what was expected and what came.
    """
    rules = _rules(layout)
    _check_size("codebook_size", codebook_size)
    _check_size("n_q", n_q)
    symbols = _as_sequence(symbols)
    positions = torch.arange(symbols.shape[0], device=symbols.device)
    low = rules.codebooks(positions, n_q) * codebook_size + offset
    bad = (symbols < low) | (symbols >= low + codebook_size)
    if bad.any():
        position = int(bad.nonzero()[0])
        raise _error(layout, position, n_q, codebook_size, offset, int(symbols[position]))
    if symbols.shape[0] % rules.frame(n_q):
        raise _error(layout, symbols.shape[0], n_q, codebook_size, offset, None)
    return rules.grid(symbols - low, n_q)


def _error(
    layout: str, position: int, n_q: int, codebook_size: int, offset: int, got: int | None
) -> LayoutError:
    codebook = int(_RULES[layout].codebooks(torch.tensor(position), n_q))
    low = offset + codebook * codebook_size
    return LayoutError(layout, position, codebook, range(low, low + codebook_size), got)


def _rules(layout: str) -> _Rules:
    if layout not in _RULES:
        raise ValueError(f"expected a layout of {', '.join(_RULES)}; got {layout!r}")
    return _RULES[layout]


def _check_size(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"expected {name} >= 1, got {value}")


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
