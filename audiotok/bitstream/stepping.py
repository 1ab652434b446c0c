"""The entropy model frame by frame, for a decoder: all books at once, each some frames behind the one below it.

Knows nothing of bytes. The law it keeps: the frequencies are those of :meth:`~audiotok.bitstream.EntropyModel.freqs`.

Book k at frame t needs books below it up to frame t + AHEAD, and itself before t. So one step can take book k at frame
``step - LAG k`` for all k: T + LAG (K - 1) steps instead of K T, which matters because a step costs more than its sums.
"""

from __future__ import annotations

import numpy as np

from .entropy import AHEAD, BEHIND, EntropyModel, clip

LAG = AHEAD + 1
"""Frames that a book is behind the one below it."""


class Steps:
    """Frequencies of the next codes of packets that advance together.

    Args:
        model: the model.
        packets: P.
        n_q: books K that are decoded, the lowest ones.
        frames: T of the longest packet.

    Attributes:
        count: steps that there are.
    """

    def __init__(self, model: EntropyModel, packets: int, n_q: int, frames: int) -> None:
        self.count = frames + LAG * (n_q - 1)
        self._frames, self._n_q, self._layers, self._width = frames, n_q, model.layers, model.width
        self._emb = model.emb[:n_q].reshape(-1, model.width)
        self._first_row = (model.codebook_size + 1) * np.arange(n_q)[:, None]
        # Place LAG + step holds what came at a step. Row k + 1 is book k's, row 0 the nothing below book 0.
        places = (self.count + LAG) * model.width
        self._each = np.zeros((n_q + 1, packets, places), np.float32)
        self._own = np.zeros((n_q + 1, packets, places), np.float32)
        self._x = np.empty((n_q, packets, (2 + AHEAD + BEHIND) * model.width), np.float32)
        self._w1 = self._in_order(model.layers.w1[:n_q])
        self._back = np.array([0, *model.taps])
        self._most = int(self._back.max())
        self._hidden = np.zeros((n_q, packets, self.count + self._most, self._w1.shape[-1]), np.float32)
        self._at = 0

    @property
    def books(self) -> range:
        """The books of the present step: book k is at frame ``step - LAG k``, where that is one of the T."""
        first = max(0, -(-(self._at - self._frames + 1) // LAG))
        return range(first, min(self._n_q - 1, self._at // LAG) + 1)

    def freqs(self) -> np.ndarray:
        """Of the present step: [books, P, V] float32."""
        books, e, at = self.books, self._width, self._at * self._width
        here = slice(books.start, books.stop)
        above = slice(books.start + 1, books.stop + 1)
        x = self._x[here]
        ahead, behind = (1 + AHEAD) * e, BEHIND * e
        x[..., :ahead] = self._own[here, :, at : at + ahead]
        x[..., ahead : ahead + behind] = self._own[above, :, at + LAG * e - behind : at + LAG * e]
        x[..., ahead + behind :] = self._each[here, :, at : at + e]
        sums = x @ self._w1[here]
        sums += self._layers.b1[here]
        self._hidden[here, :, self._at + self._most] = clip(sums, 0.0)
        tapped = self._hidden[here].take(self._at + self._most - self._back, axis=2)
        n, packets, taps, hidden = tapped.shape
        return self._layers.last(tapped.reshape(n, packets, taps * hidden), here)

    def see(self, codes: np.ndarray) -> None:
        """Take the codes of the present step and go to the next.

        Args:
            codes: [books, P] integers in [0, V); V marks a frame after a packet's end.
        """
        books, e, at = self.books, self._width, self._at * self._width
        above = slice(books.start + 1, books.stop + 1)
        now = slice(at + LAG * e, at + (LAG + 1) * e)
        found = self._emb.take(codes + self._first_row[books.start : books.stop], axis=0)
        self._each[above, :, now] = found
        found += self._own[books.start : books.stop, :, at : at + e]
        self._own[above, :, now] = found
        self._at += 1

    def _in_order(self, w1: np.ndarray) -> np.ndarray:
        """Rows of W1 in the order in which x lies here: low(t), low(t+1), ..., own(t-2), own(t-1), e_(k-1)(t)."""
        parts = np.split(w1, 2 + AHEAD + BEHIND, axis=1)
        return np.concatenate([parts[0], *parts[2 : 2 + AHEAD], *parts[2 + AHEAD :][::-1], parts[1]], axis=1)
