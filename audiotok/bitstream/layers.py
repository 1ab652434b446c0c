"""Layers: one codebook's codes of one packet <-> bytes, in the smallest way there is.

Knows nothing of files. The laws it keeps: a layer's bytes depend on the codes of its own and lower books in its packet
only, so that layers can be cut off and packets lost; codes come back as they were, or damage is found.

A layer that would not become smaller is stored raw, and only then has it the size of a raw one: no flag is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .counts import LARGEST_BOOK, Adaptive, Decoder, encode, frequencies
from .entropy import EntropyModel

RAW, ADAPTIVE, LEARNT = 0, 1, 2
CODINGS = ("raw", "adaptive", "learnt")
"""How the layers of a file are coded where that makes them smaller: the header's number is the place in this tuple."""

# Packets that are worked on together. More are faster per packet and take more memory: V x T x 12 bytes each.
_TOGETHER = 16


def raw_bits(codebook_size: int) -> int:
    """Bits of a code of a codebook with so many entries, before entropy coding: at least 1."""
    return max(1, (codebook_size - 1).bit_length())


class LayerError(ValueError):
    """Bytes that are no layer; the text says what was expected and what came."""


class LayerCoder:
    """Turns packets' codes into layers and back.

    Args:
        book_sizes: V of every codebook.
        coding: RAW, ADAPTIVE or LEARNT.
        model: for LEARNT; for at least as many codebooks, all of its size.

    Raises:
        ValueError: LEARNT, and the model is missing or of other codebooks.
    """

    def __init__(self, book_sizes: Sequence[int], coding: int, model: EntropyModel | None = None) -> None:
        self.book_sizes, self.coding, self.model = tuple(book_sizes), coding, model
        if coding == LEARNT and (
            model is None or len(book_sizes) > model.n_q or set(book_sizes) != {model.codebook_size}
        ):
            got = "none" if model is None else f"one for {model.n_q} x {model.codebook_size}"
            raise ValueError(
                f"expected a model for the codebooks {list(book_sizes)}, got {got}; use adaptive coding"
            )

    def raw_bytes(self, k: int, frames: int) -> int:
        """Size of a raw layer."""
        return -(-frames * raw_bits(self.book_sizes[k]) // 8)

    def encode(self, packets: Sequence[np.ndarray]) -> list[list[bytes]]:
        """Packets of codes [K', T] (K' the same, T may differ) -> K' layers each."""
        done: list[list[bytes]] = []
        for group in _groups(packets):
            done += self._encode_group(group)
        return done

    def decode(self, packets: Sequence[tuple[int, Sequence[bytes]]]) -> list[np.ndarray | LayerError]:
        """Packets of (T, layers) -> codes [K', T] int64 each, K' being the number of layers, the same in all.

        A packet whose layers are damaged gives the error in place of its codes.
        """
        done: list[np.ndarray | LayerError] = []
        for group in _groups(packets):
            done += self._decode_group(group)
        return done

    def _encode_group(self, group: Sequence[np.ndarray]) -> list[list[bytes]]:
        layers: list[list[bytes]] = [[] for _ in group]
        padded = _pad(group, self.book_sizes)
        for k in range(padded.shape[1]):
            freqs = self._all_freqs(k, padded)
            for p, codes in enumerate(group):
                raw = _pack(codes[k], raw_bits(self.book_sizes[k]))
                coded = raw if freqs is None else encode(codes[k], freqs[p][: codes.shape[1]])
                layers[p].append(coded if len(coded) < len(raw) else raw)
        return layers

    def _all_freqs(self, k: int, padded: np.ndarray) -> Sequence[np.ndarray] | None:
        """Frequencies [T, V] of every packet's book k; None where only raw layers are made."""
        size = self.book_sizes[k]
        if self.coding == LEARNT and self.model is not None:
            return self.model.freqs(k, padded)  # type: ignore[return-value]  # an array is a sequence of its rows
        if self.coding == RAW or size > LARGEST_BOOK:
            return None
        steps = Adaptive(len(padded), size)
        freqs = np.empty((len(padded), padded.shape[2], size), np.float32)
        for t in range(padded.shape[2]):
            freqs[:, t] = frequencies(steps.counts())
            steps.see(np.minimum(padded[:, k, t], size - 1))
        return list(freqs)

    def _decode_group(self, group: Sequence[tuple[int, Sequence[bytes]]]) -> list[np.ndarray | LayerError]:
        lengths = [frames for frames, _ in group]
        n_q = len(group[0][1])
        codes = np.empty((len(group), n_q, max(lengths)), np.int64)
        codes[:] = np.array(self.book_sizes[:n_q])[:, None]
        errors: dict[int, LayerError] = {}
        for k in range(n_q):
            coded: dict[int, Decoder] = {}
            for p, (frames, layers) in enumerate(group):
                try:
                    if len(layers[k]) >= self.raw_bytes(k, frames):
                        codes[p, k, :frames] = self._unpack(k, layers[k], frames)
                    else:
                        coded[p] = self._open(k, layers[k])
                except ValueError as error:
                    errors.setdefault(p, LayerError(f"codebook {k}: {error}"))
                    codes[p, k, :frames] = 0
            if coded:
                self._decode_book(k, codes, lengths, coded)
            for p, decoder in coded.items():
                if decoder.is_damaged:
                    errors.setdefault(
                        p, LayerError(f"codebook {k}: expected coded codes, got bytes that mean none")
                    )
        return [errors.get(p, codes[p, :, :frames]) for p, frames in enumerate(lengths)]

    def _open(self, k: int, data: bytes) -> Decoder:
        if self.coding == RAW or self.book_sizes[k] > LARGEST_BOOK:
            raise LayerError(f"expected a raw layer, got {len(data)} bytes")
        return Decoder(data)

    def _unpack(self, k: int, data: bytes, frames: int) -> np.ndarray:
        if len(data) > self.raw_bytes(k, frames):
            raise LayerError(f"expected at most {self.raw_bytes(k, frames)} bytes, got {len(data)}")
        codes = _unpack_bits(data, raw_bits(self.book_sizes[k]), frames)
        if codes.size and codes.max() >= self.book_sizes[k]:
            raise LayerError(f"expected codes below {self.book_sizes[k]}, got {codes.max()}")
        return codes

    def _decode_book(
        self, k: int, codes: np.ndarray, lengths: Sequence[int], coded: dict[int, Decoder]
    ) -> None:
        """Fill in book k of the packets in ``coded``, frame by frame, all of them together."""
        rows = np.array(sorted(coded, key=lambda p: -lengths[p]))
        learnt = self.coding == LEARNT and self.model is not None
        steps = self.model.steps(k, codes[rows, :k]) if learnt else None  # type: ignore[union-attr]
        counts = None if learnt else Adaptive(len(rows), self.book_sizes[k])
        for t in range(lengths[rows[0]]):
            freqs = steps.freqs() if steps else frequencies(counts.counts())  # type: ignore[union-attr]
            for i, p in enumerate(rows):
                if t >= lengths[p]:
                    break  # the longest come first
                codes[p, k, t] = coded[p].next(freqs[i : i + 1])
            (steps or counts).see(  # type: ignore[union-attr]
                codes[rows, k, t] if steps else np.minimum(codes[rows, k, t], self.book_sizes[k] - 1)
            )


def _pack(codes: np.ndarray, bits: int) -> bytes:
    """Codes [T] -> bytes, each highest bit first, filled up with zeros."""
    return np.packbits(((codes[:, None] >> np.arange(bits)[::-1]) & 1).astype(np.uint8)).tobytes()


def _unpack_bits(data: bytes, bits: int, frames: int) -> np.ndarray:
    flags = np.unpackbits(np.frombuffer(data, dtype=np.uint8), count=frames * bits)
    return flags.reshape(frames, bits).astype(np.int64) @ (1 << np.arange(bits)[::-1])


def _pad(group: Sequence[np.ndarray], book_sizes: Sequence[int]) -> np.ndarray:
    """Codes [K', T] of several packets -> [P, K', longest T]; a book's size marks what is not there."""
    n_q, frames = len(group[0]), max(codes.shape[1] for codes in group)
    padded = np.empty((len(group), n_q, frames), np.int64)
    padded[:] = np.array(book_sizes[:n_q])[:, None]
    for p, codes in enumerate(group):
        padded[p, :, : codes.shape[1]] = codes
    return padded


def _groups(items: Sequence) -> Iterator[Sequence]:
    return (items[start : start + _TOGETHER] for start in range(0, len(items), _TOGETHER))
