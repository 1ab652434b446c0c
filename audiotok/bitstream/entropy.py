"""Integer probability models of codes, and the range coder that uses them. Results are equal on every machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from constriction import stream  # type: ignore[attr-defined]  # compiled, without stubs
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..files import write_aside

TOTAL = 1 << 16
"""What the counts of a distribution sum to."""

LARGEST_CODEBOOK = 1 << 14
"""Codebooks with more entries are stored raw: too little of TOTAL would be left to share out."""

_queue = stream.queue
_FAMILY = stream.model.Categorical(perfect=False)
_STATE_BITS, _WORD_BYTES = 64, 4
_NEWS = 64.0


def spread(weights: np.ndarray) -> np.ndarray:
    """Share TOTAL out in proportion to weights, at least 1 to each.

    Args:
        weights: [..., V] int64, or float64 integers, >= 0 with a sum in [1, 2^36]; V <= LARGEST_CODEBOOK.

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
        codebook_size: V <= LARGEST_CODEBOOK.
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


FILE_NAME = "entropy.safetensors"
"""The file of a codec's folder that holds its model."""

AHEAD, BEHIND = 2, 2
"""Frames of lower books that are seen after the present one, and of all books up to this one before it."""

_LIMIT = 1 << 24
_TABLE_LIMIT = 1 << 16
_LARGEST = np.float32(127.0)
_TENSORS = ("emb", "w1", "b1", "w2", "b2", "w3", "b3", "out", "bias", "exp_table")


class EntropyModelError(ValueError):
    """A model file that cannot be used; the text says what was expected, what came, and what to do."""


class EntropyModel:
    """Integer weights, and the arithmetic on them. E: embedding, H1, H2, O: widths of the layers.

    Args:
        tensors: emb [K, V, E] int8; w1 [K, 6 E, H1] int8; w2 [K, (1 + taps) H1, H2] int8; w3 [K, H2, O] int8;
            out [K, V, O] int8; b1 [K, H1], b2 [K, H2], b3 [K, O], bias [K, V] int32; exp_table [L] int32, falling.
        taps: how many frames back h1 is looked at.
        shifts: s1, s2, s3, s4.
        codes_fingerprint: of the codec whose codes it predicts.

    Attributes:
        n_q: codebooks K.
        codebook_size: V.
        fingerprint: 8 hex digits of all of the above.

    Raises:
        EntropyModelError: shapes do not fit each other, or a sum could reach 2^24.
    """

    def __init__(
        self,
        tensors: Mapping[str, np.ndarray],
        taps: tuple[int, ...],
        shifts: tuple[int, int, int, int],
        codes_fingerprint: str,
    ) -> None:
        self.tensors = {name: np.ascontiguousarray(tensors[name]) for name in _TENSORS}
        self.taps, self.shifts, self.codes_fingerprint = tuple(taps), tuple(shifts), codes_fingerprint
        self.n_q, self.codebook_size, self.width = self.tensors["emb"].shape
        self._check_shapes()
        self._check_bounds()
        digest = hashlib.sha256(json.dumps([self.taps, self.shifts, codes_fingerprint]).encode())
        for name in _TENSORS:
            digest.update(self.tensors[name].astype("<i4").tobytes())
        self.fingerprint = digest.hexdigest()[:8]
        # One row more, of zeros, for frames outside the packet.
        self.emb = np.pad(self.tensors["emb"].astype(np.float32), ((0, 0), (0, 1), (0, 0)))
        self.layers = Layers(self.tensors, shifts)
        self._books: dict[int, _Book] = {}

    def freqs(self, k: int, codes: np.ndarray) -> np.ndarray:
        """Frequencies of every code of book k, all frames in one go.

        Args:
            k: the book.
            codes: [P, K', T] integers in [0, V), K' > k: P packets; V itself marks frames after a packet's end.

        Returns:
            [P, T, V] float32, as :func:`~audiotok.bitstream.counts.frequencies` makes them.
        """
        if k not in self._books:
            self._books[k] = _Book(self, k)
        book = self._books[k]
        first = book.outside(codes[:, :k])
        own = book.of_own[codes[:, k]]  # [P, T, BEHIND, H1]
        for back in range(1, BEHIND + 1):
            first[:, back:] += own[:, : own.shape[1] - back, back - 1]
        hidden = clip(first, 0.0)
        taps = [_earlier(hidden, tap) for tap in (0, *self.taps)]
        return self.layers.last(np.concatenate(taps, axis=-1), k)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whole or not at all; OSError where that is not possible."""
        facts = {"taps": self.taps, "shifts": self.shifts, "codes_fingerprint": self.codes_fingerprint}
        with write_aside(path) as aside:
            save_file(
                self.tensors, aside, {"entropy_model": json.dumps(facts), "fingerprint": self.fingerprint}
            )

    @classmethod
    def load(cls, path: str | Path) -> EntropyModel:
        """Read what :meth:`save` wrote.

        Raises:
            FileNotFoundError: no such file.
            EntropyModelError: it is no model, or a damaged one.
        """
        if not Path(path).is_file():
            raise FileNotFoundError(f"{path}: no such file; expected an entropy model")
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                facts = json.loads(metadata["entropy_model"])
                tensors = {name: file.get_tensor(name) for name in _TENSORS}
        except (SafetensorError, KeyError, ValueError) as error:
            raise EntropyModelError(
                f"{path}: expected an entropy model, got {error}; copy it again"
            ) from None
        model = cls(tensors, tuple(facts["taps"]), tuple(facts["shifts"]), facts["codes_fingerprint"])
        if model.fingerprint != metadata.get("fingerprint"):
            raise EntropyModelError(
                f"{path}: expected weights with fingerprint {metadata.get('fingerprint')}, got {model.fingerprint}; "
                "copy it again"
            )
        return model

    def _check_shapes(self) -> None:
        k, v, e = self.n_q, self.codebook_size, self.width
        t = self.tensors
        h1, h2, o = t["b1"].shape[-1], t["b2"].shape[-1], t["b3"].shape[-1]
        inputs = (2 + AHEAD + BEHIND) * e
        expected = {
            "emb": (k, v, e), "w1": (k, inputs, h1), "b1": (k, h1), "w2": (k, (1 + len(self.taps)) * h1, h2),
            "b2": (k, h2), "w3": (k, h2, o), "b3": (k, o), "out": (k, v, o), "bias": (k, v),
        }  # fmt: skip
        for name, shape in expected.items():
            kind = np.int32 if name.startswith("b") else np.int8
            if t[name].shape != shape or t[name].dtype != kind:
                raise EntropyModelError(
                    f"expected {name} {list(shape)} {np.dtype(kind)}, got {list(t[name].shape)} {t[name].dtype}; "
                    "export the model again"
                )
        table = t["exp_table"]
        if (
            table.ndim != 1
            or not 1 <= len(table) <= _TABLE_LIMIT
            or table.min() < 0
            or not 1 <= table[0] <= 1 << 20
        ):
            raise EntropyModelError(
                "expected a table of exponentials of 1 to 2^20, falling; export the model again"
            )
        if v > LARGEST_CODEBOOK or min(self.taps, default=1) < 1 or not all(0 <= s < 24 for s in self.shifts):
            raise EntropyModelError(
                f"expected at most {LARGEST_CODEBOOK} codes, taps >= 1 and shifts in [0, 24), got {v}, {self.taps}, "
                f"{self.shifts}; export the model again"
            )

    def _check_bounds(self) -> None:
        """Every sum of products, in any order, below 2^24: sums of |weight| x the largest |input|, plus |bias|."""
        t = {name: value.astype(np.int64) for name, value in self.tensors.items()}
        for k in range(self.n_q):
            one = np.abs(t["emb"][k]).max(initial=0)
            below = sum((np.abs(t["emb"][j]).max(0) for j in range(k)), np.zeros(self.width, np.int64))
            before = np.abs(t["emb"][k - 1]).max(0) if k else below
            own = below + one
            x = np.concatenate([below, before, *[below] * AHEAD, *[own] * BEHIND])
            sums = {
                "w1": np.abs(t["b1"][k]) + x @ np.abs(t["w1"][k]),
                "w2": np.abs(t["b2"][k]) + 127 * np.abs(t["w2"][k]).sum(0),
                "w3": np.abs(t["b3"][k]) + 127 * np.abs(t["w3"][k]).sum(0),
                # Twice: the largest minus the smallest is taken too.
                "out": 2 * (np.abs(t["bias"][k]) + 127 * np.abs(t["out"][k]).sum(1)),
            }
            for name, bound in sums.items():
                if bound.max() >= _LIMIT:
                    raise EntropyModelError(
                        f"expected sums below 2^24 in {name} of book {k}, got up to {bound.max()}; export the model "
                        "with smaller weights"
                    )


class Layers:
    """The layers of all books as float32, which have the shifts in them: a power of two only moves the point.

    Args:
        tensors, shifts: of :class:`EntropyModel`.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], shifts: tuple[int, int, int, int]) -> None:
        def scaled(name: str, shift: int) -> np.ndarray:
            return np.ldexp(tensors[name].astype(np.float32), -shift)

        s1, s2, s3, s4 = shifts
        self.w1, self.b1 = scaled("w1", s1), scaled("b1", s1)[:, None]
        self.w2, self.b2 = scaled("w2", s2), scaled("b2", s2)[:, None]
        self.w3, self.b3 = scaled("w3", s3), scaled("b3", s3)[:, None]
        self.out = np.ascontiguousarray(scaled("out", s4).transpose(0, 2, 1))
        self.bias = scaled("bias", s4)[:, None]
        self.exp_table = tensors["exp_table"].astype(np.int64)

    def last(self, hidden: np.ndarray, books: int | slice) -> np.ndarray:
        """h1 of this and the tapped frames -> frequencies.

        Args:
            hidden: [..., (1 + taps) H1] of one book, or [books, P, (1 + taps) H1].
            books: which.

        Returns:
            [..., V] or [books, P, V] float32.
        """
        h2 = hidden @ self.w2[books]
        h2 += self.b2[books]
        q = clip(h2, 0.0) @ self.w3[books]
        q += self.b3[books]
        z = clip(q, -127.0) @ self.out[books]
        z += self.bias[books]
        np.subtract(np.maximum.reduce(z, axis=-1, keepdims=True), z, out=z)
        # The cast cuts the fraction off, which is the floor: z is not negative. Beyond the table its last entry counts.
        return frequencies(spread(self.exp_table.take(z.astype(np.intp), mode="clip")))


def clip(sums: np.ndarray, low: float) -> np.ndarray:
    """clip(floor(sums), low, 127), in place."""
    np.floor(sums, out=sums)
    np.maximum(sums, np.float32(low), out=sums)
    return np.minimum(sums, _LARGEST, out=sums)


class _Book:
    """One book's arithmetic on all frames at once."""

    def __init__(self, model: EntropyModel, k: int) -> None:
        self._model, self._k = model, k
        self._w1, self._b1 = model.layers.w1[k], model.layers.b1[k]
        e = model.width
        # What the book's own code adds to the sums of later frames, as a table: [V + 1, BEHIND, H1].
        parts = self._w1[(2 + AHEAD) * e :].reshape(BEHIND, e, -1)
        self.of_own = np.stack([model.emb[k] @ part for part in parts], axis=1)

    def outside(self, lower: np.ndarray) -> np.ndarray:
        """What does not depend on the book itself: b1 and the lower books' part of x W1, [P, k, T] -> [P, T, H1]."""
        packets, k, frames = lower.shape
        first = np.broadcast_to(self._b1, (packets, frames, self._b1.shape[-1])).copy()
        if k:
            each = [self._model.emb[j][lower[:, j]] for j in range(k)]
            low = np.add.reduce(each)
            views = [low, each[-1], *(_earlier(low, -i) for i in range(1, AHEAD + 1))]
            views += [_earlier(low, i) for i in range(1, BEHIND + 1)]
            first += np.concatenate(views, axis=-1) @ self._w1
        return first


def _earlier(x: np.ndarray, frames: int) -> np.ndarray:
    """x [P, T, D] as it was ``frames`` before (negative: after), 0 outside the packet."""
    if frames == 0:
        return x
    shifted = np.zeros_like(x)
    if frames > 0:
        shifted[:, frames:] = x[:, :-frames]
    else:
        shifted[:, :frames] = x[:, -frames:]
    return shifted


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
