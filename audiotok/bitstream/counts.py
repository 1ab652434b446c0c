"""Probabilities as integer counts over 65,536, and symbols <-> bytes under them.

Knows nothing of codecs, networks or files. The law it keeps: everything is integer-valued, so equal inputs give equal
counts and equal bytes on every machine; every symbol has a count of at least 1, so whatever comes can be coded.

The coder is the range coder of ``constriction`` (R. Bamler, arXiv:2201.01741; G. Martin, 1979): 64 bits of state, words
of 32, frequencies over 2^24. It takes floats; ``256 * count - 1`` makes it use exactly the frequencies ``256 * count``
(its rounding multiplies by 2^24 - V over the sum, which is 1, and adds one per symbol).
"""

from __future__ import annotations

import numpy as np
from constriction import stream  # type: ignore[attr-defined]  # compiled, without stubs

TOTAL = 1 << 16
"""What the counts of a distribution sum to."""

LARGEST_BOOK = 1 << 14
"""Codebooks with more entries are stored raw: too little of TOTAL would be left to share out."""

_queue = stream.queue
_FAMILY = stream.model.Categorical(perfect=False)
_STATE_BITS, _WORD_BYTES = 64, 4
_NEWS = 64.0


def spread(weights: np.ndarray) -> np.ndarray:
    """Share TOTAL out in proportion to weights, at least 1 to each.

    Args:
        weights: [..., V] int64, or float64 integers, >= 0 with a sum in [1, 2^36]; V <= LARGEST_BOOK.

    Returns:
        [..., V] float32 integers >= 1 that sum to TOTAL: the steps of floor(cumulative * (TOTAL - V) / sum), plus 1.
        Exact: numerators are below 2^53, and a rounded quotient cannot cross an integer that is at least 1 / sum away.
    """
    sums = np.add.accumulate(weights, axis=-1)
    shares = sums * float(TOTAL - weights.shape[-1])
    shares /= sums[..., -1:]
    edges = np.floor(shares, out=shares).astype(np.float32)
    counts = np.empty_like(edges)
    counts[..., 0] = edges[..., 0]
    np.subtract(edges[..., 1:], edges[..., :-1], out=counts[..., 1:])
    counts += 1.0
    return counts


def frequencies(counts: np.ndarray) -> np.ndarray:
    """Counts [..., V] float32 -> what the coder takes, [..., V] float32, exact."""
    freqs = counts * np.float32(256.0)
    freqs -= 1.0
    return freqs


def encode(symbols: np.ndarray, freqs: np.ndarray) -> bytes:
    """Symbols -> the fewest bytes that mean them.

    Args:
        symbols: [T] integers in [0, V).
        freqs: [T, V] float32, of :func:`frequencies`.

    Returns:
        the digits, base 256, of a fraction in the interval that the symbols make; zeros at the end are left out.
    """
    coder = _queue.RangeEncoder()
    coder.encode(symbols.astype(np.int32), _FAMILY, freqs)
    # The coder would end with whole words. Its interval is known: the lower end modulo 2^64, the width, and a number
    # inside, which together give the lower end as a whole.
    words, (lower, width) = coder.pos()
    size = _WORD_BYTES * words + _STATE_BITS // 8
    inside = int.from_bytes(coder.get_compressed().astype(">u4").tobytes().ljust(size, b"\0"), "big")
    low = inside - (inside - lower) % (1 << _STATE_BITS)
    # Each byte fewer that may be kept makes the grid of possible ends 256 times as coarse.
    kept = max(0, size - (width.bit_length() - 1) // 8 - 1)
    while True:
        digit = 1 << 8 * (size - kept)
        end = -(-low // digit)
        if end * digit < low + width:
            return end.to_bytes(kept, "big").rstrip(b"\0")
        kept += 1


class Decoder:
    """Reads symbols one after the other; each under the frequencies that the ones before lead to.

    Args:
        data: as :func:`encode` made it, or damaged.

    Attributes:
        is_damaged: whether the bytes turned out to be what no encoder writes. Most damage shows as wrong symbols only.

    Raises:
        ValueError: ``data`` ends in a zero byte, as :func:`encode` never does.
    """

    def __init__(self, data: bytes) -> None:
        if data.endswith(b"\0"):
            raise ValueError(
                "expected coded bytes that do not end in zero, got some that do; they are damaged"
            )
        words = np.frombuffer(data + bytes(-len(data) % _WORD_BYTES), dtype=">u4").astype(np.uint32)
        self._coder = _queue.RangeDecoder(words)
        self.is_damaged = False

    def next(self, freqs: np.ndarray) -> int:
        """The next symbol, under frequencies [1, V] float32; 0 after damage."""
        if self.is_damaged:
            return 0
        try:
            return int(self._coder.decode(_FAMILY, freqs)[0])
        except AssertionError:  # what constriction raises for bytes beyond the last frequency
            self.is_damaged = True
            return 0


class Adaptive:
    """Counts that follow the symbols seen so far in a packet, for P packets that advance together.

    Every symbol starts with weight 1; each one seen gets 64 more.

    Args:
        packets: P.
        codebook_size: V <= LARGEST_BOOK.
    """

    def __init__(self, packets: int, codebook_size: int) -> None:
        self._weights = np.ones((packets, codebook_size))
        self._rows = np.arange(packets)

    def counts(self) -> np.ndarray:
        """Of the next symbols: [P, V] as :func:`spread` returns them."""
        return spread(self._weights)

    def see(self, symbols: np.ndarray) -> None:
        """Take the symbols [P] that came."""
        self._weights[self._rows, symbols] += _NEWS
