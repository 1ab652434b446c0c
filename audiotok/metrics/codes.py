"""How well codebooks are used: histograms of codes, their entropy and perplexity.

Knows nothing of sound or of codecs: it takes code grids. The law it keeps: every code given is counted once.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class CodeUsage:
    """Counts the codes of every codebook over a set of clips and tells how evenly they are used.

    Args:
        n_q: codebooks, K.
        codebook_size: V.
    """

    def __init__(self, n_q: int, codebook_size: int) -> None:
        self.codebook_size = codebook_size
        self.counts = torch.zeros(n_q, codebook_size, dtype=torch.int64)

    def add(self, codes: Tensor) -> None:
        """Count one clip.

        Args:
            codes: [K, T] int64 in [0, V).

        Raises:
            ValueError: another number of codebooks, or a code outside [0, V).
        """
        n_q = len(self.counts)
        if codes.dim() != 2 or len(codes) != n_q:
            raise ValueError(f"expected codes [K = {n_q}, T], got {list(codes.shape)}; pass one clip's grid")
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.codebook_size:
            raise ValueError(
                f"expected codes in [0, {self.codebook_size}), got {int(codes.min())}..{int(codes.max())}"
            )
        for row, counts in zip(codes.cpu(), self.counts, strict=True):
            counts += torch.bincount(row, minlength=self.codebook_size)

    @property
    def frames(self) -> int:
        """Frames counted, T summed over the clips."""
        return int(self.counts[0].sum()) if len(self.counts) else 0

    @property
    def entropy_bits(self) -> list[float]:
        """Entropy of each codebook's histogram in bits per frame, 0 to log2 V."""
        share = self.counts.double() / max(1, self.frames)
        return (torch.special.entr(share).sum(dim=1) / math.log(2)).tolist()

    @property
    def perplexity(self) -> list[float]:
        """2 ** entropy of each codebook: how many equally likely codes would carry as much, 1 to V."""
        return [2.0**bits for bits in self.entropy_bits]

    @property
    def book_efficiency(self) -> list[float]:
        """Of each codebook, the bits its codes carry (order-0 entropy) over the bits they are stored in, 0 to 1."""
        return [bits / math.log2(self.codebook_size) for bits in self.entropy_bits]

    @property
    def efficiency(self) -> float:
        """The same of all codebooks together: the mean over them."""
        return sum(self.book_efficiency) / len(self.counts)


def perplexity(codes: Tensor, codebook_size: int) -> list[float]:
    """Perplexity of every codebook of one grid.

    Args:
        codes: [K, T] int64 in [0, V).
        codebook_size: V.

    Returns:
        K numbers from 1 (collapsed) to V (uniform).

    Raises:
        ValueError: a code outside [0, V), or not a [K, T] grid.
    """
    usage = CodeUsage(len(codes), codebook_size)
    usage.add(codes)
    return usage.perplexity
