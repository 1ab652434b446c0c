"""A learnt model of codes that is exact: what the next code will be, as integer counts, from the codes before it.

Knows nothing of files or of sound. The laws it keeps: every number on the way is an integer, and every sum of products
stays below 2^24, where float32 adds exactly in any order, so BLAS, threads and batches cannot change a count (the
bounds are computed from the weights and asserted when a model is loaded); book k is predicted from books below it in
its packet and from its own earlier frames, never from a higher book or another packet.

For book k, frame t of a packet, with embeddings e_j(t) = emb[j, code_j(t)] and 0 outside the packet::

    low(t)  = e_0(t) + ... + e_{k-1}(t)          own(t) = low(t) + e_k(t)
    x(t)    = low(t), e_{k-1}(t), low(t+1), low(t+2), own(t-1), own(t-2)
    h1(t)   = clip(floor((x(t) W1 + b1) / 2^s1), 0, 127)
    h2(t)   = clip(floor(([h1(t), h1(t-tap) for tap in taps] W2 + b2) / 2^s2), 0, 127)
    q(t)    = clip(floor((h2(t) W3 + b3) / 2^s3), -127, 127)
    z(t)    = out q(t) + bias
    weight  = exp_table[min(floor((max z - z) / 2^s4), last)]      counts = spread(weight)

EnCodec (arXiv:2210.13438, section 3.3) predicts all books of a frame at once with a Transformer in float arithmetic;
its files break when a sum is taken in another order.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..files import write_aside
from .counts import LARGEST_BOOK, frequencies, spread

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
        if v > LARGEST_BOOK or min(self.taps, default=1) < 1 or not all(0 <= s < 24 for s in self.shifts):
            raise EntropyModelError(
                f"expected at most {LARGEST_BOOK} codes, taps >= 1 and shifts in [0, 24), got {v}, {self.taps}, "
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
