"""Integer probability models of codes, and the range coder that uses them. Results are equal on every machine.

The learned model predicts codebook k at frame t of a packet, with embeddings e_j(t) = emb[j, code_j(t)], 0 outside::

    low(t)  = e_0(t) + ... + e_{k-1}(t)          own(t) = low(t) + e_k(t)
    x(t)    = low(t), e_{k-1}(t), low(t+1), low(t+2), own(t-1), own(t-2)
    h1(t)   = clip(floor((x(t) W1 + b1) / 2^s1), 0, 127)
    h2(t)   = clip(floor(([h1(t), h1(t-tap) for tap in taps] W2 + b2) / 2^s2), 0, 127)
    q(t)    = clip(floor((h2(t) W3 + b3) / 2^s3), -127, 127)
    z(t)    = out q(t) + bias
    weight  = exp_table[min(floor((max z - z) / 2^s4), last)]      counts = spread(weight)

Every sum of products stays below 2^24, where float32 is exact in any order of addition, so neither BLAS nor threads
can change a count. EnCodec (arXiv:2210.13438, section 3.3) predicts all codebooks of a frame with a float Transformer,
whose files cannot be read where sums are added in another order.

The coder is the range coder of ``constriction`` (R. Bamler, arXiv:2201.01741; G. Martin, 1979) with frequencies over
2^24. It takes floats: ``256 * count - 1`` makes it use exactly ``256 * count``.
"""

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
"""Sum of the counts of a distribution."""

LARGEST_CODEBOOK = 1 << 14
"""Larger codebooks are stored raw, because too little of TOTAL would be left to distribute."""

_queue = stream.queue
_FAMILY = stream.model.Categorical(perfect=False)
_STATE_BITS, _WORD_BYTES = 64, 4
_NEWS = 64.0


def spread(weights: np.ndarray) -> np.ndarray:
    """Distribute TOTAL in proportion to weights, at least 1 to each.

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
    """Counts [..., V] float32 -> the frequencies that the coder takes, [..., V] float32, exact."""
    freqs = counts * np.float32(256.0)
    freqs -= 1.0
    return freqs


def encode(symbols: np.ndarray, freqs: np.ndarray) -> bytes:
    """Symbols -> the fewest bytes that decode to them.

    Args:
        symbols: [T] integers in [0, V).
        freqs: [T, V] float32, of :func:`frequencies`.

    Returns:
        the digits, base 256, of a fraction in the interval of the symbols, without zeros at the end.
    """
    coder = _queue.RangeEncoder()
    coder.encode(symbols.astype(np.int32), _FAMILY, freqs)
    # The coder would write whole words. The lower end of its interval follows from that end modulo 2^64, the width,
    # and a number inside.
    words, (lower, width) = coder.pos()
    size = _WORD_BYTES * words + _STATE_BITS // 8
    inside = int.from_bytes(coder.get_compressed().astype(">u4").tobytes().ljust(size, b"\0"), "big")
    low = inside - (inside - lower) % (1 << _STATE_BITS)
    # Each byte less makes the spacing of possible ends 256 times as large.
    kept = max(0, size - (width.bit_length() - 1) // 8 - 1)
    while True:
        digit = 1 << 8 * (size - kept)
        end = -(-low // digit)
        if end * digit < low + width:
            return end.to_bytes(kept, "big").rstrip(b"\0")
        kept += 1


class Decoder:
    """Decodes symbols in sequence.

    Args:
        data: output of :func:`encode`, possibly damaged.

    Attributes:
        is_damaged: whether the bytes are known to be damaged. Most damage shows only as wrong symbols.

    Raises:
        ValueError: ``data`` ends in a zero byte, which :func:`encode` never writes.
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
        except AssertionError:  # from constriction, for bytes beyond the last frequency
            self.is_damaged = True
            return 0


class Adaptive:
    """Counts that adapt to the symbols of a packet: weight 1 for each at first, 64 more when it is seen.

    Args:
        packets: P, which advance together.
        codebook_size: V <= LARGEST_CODEBOOK.
    """

    def __init__(self, packets: int, codebook_size: int) -> None:
        self._weights = np.ones((packets, codebook_size))
        self._rows = np.arange(packets)

    def counts(self) -> np.ndarray:
        """Of the next symbols: [P, V] as :func:`spread` returns them."""
        return spread(self._weights)

    def see(self, symbols: np.ndarray) -> None:
        """Update the counts with the next symbols [P]."""
        self._weights[self._rows, symbols] += _NEWS


FILE_NAME = "entropy.safetensors"
"""Name of the model in a codec's folder."""

AHEAD, BEHIND = 2, 2
"""Frames of context: of lower codebooks after the present frame, and of codebooks up to this one before it."""

_LIMIT = 1 << 24
_TABLE_LIMIT = 1 << 16
_LARGEST = np.float32(127.0)
_TENSORS = ("emb", "w1", "b1", "w2", "b2", "w3", "b3", "out", "bias", "exp_table")


class EntropyModelError(ValueError):
    """A model file that cannot be used. The message names the fault and the remedy."""


class EntropyModel:
    """The learned model: integer weights. E is the embedding width; H1, H2, O are the widths of the layers.

    Args:
        tensors: emb [K, V, E] int8; w1 [K, 6 E, H1] int8; w2 [K, (1 + taps) H1, H2] int8; w3 [K, H2, O] int8;
            out [K, V, O] int8; b1 [K, H1], b2 [K, H2], b3 [K, O], bias [K, V] int32; exp_table [L] int32, falling.
        taps: distances of earlier frames whose h1 is used.
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
        # An additional row of zeros for frames outside the packet.
        self.emb = np.pad(self.tensors["emb"].astype(np.float32), ((0, 0), (0, 1), (0, 0)))
        self.layers = Layers(self.tensors, shifts)
        self._codebooks: dict[int, _Codebook] = {}

    def freqs(self, k: int, codes: np.ndarray) -> np.ndarray:
        """Frequencies of every code of codebook k in all frames.

        Args:
            k: the codebook.
            codes: [P, K', T] integers in [0, V), K' > k, of P packets; V marks frames after a packet's end.

        Returns:
            [P, T, V] float32, as :func:`~audiotok.bitstream.entropy.frequencies` makes them.
        """
        if k not in self._codebooks:
            self._codebooks[k] = _Codebook(self, k)
        codebook = self._codebooks[k]
        first = codebook.outside(codes[:, :k])
        own = codebook.of_own[codes[:, k]]  # [P, T, BEHIND, H1]
        for back in range(1, BEHIND + 1):
            first[:, back:] += own[:, : own.shape[1] - back, back - 1]
        hidden = clip(first, 0.0)
        taps = [_earlier(hidden, tap) for tap in (0, *self.taps)]
        return self.layers.last(np.concatenate(taps, axis=-1), k)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file atomically."""
        facts = {"taps": self.taps, "shifts": self.shifts, "codes_fingerprint": self.codes_fingerprint}
        with write_aside(path) as aside:
            save_file(
                self.tensors, aside, {"entropy_model": json.dumps(facts), "fingerprint": self.fingerprint}
            )

    @classmethod
    def load(cls, path: str | Path) -> EntropyModel:
        """Read a file of :meth:`save`. EntropyModelError: the file is not a model, or is damaged."""
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
                # Twice the bound, because differences of logits are computed.
                "out": 2 * (np.abs(t["bias"][k]) + 127 * np.abs(t["out"][k]).sum(1)),
            }
            for name, bound in sums.items():
                if bound.max() >= _LIMIT:
                    raise EntropyModelError(
                        f"expected sums below 2^24 in {name} of codebook {k}, got up to {bound.max()}; export the "
                        "model with smaller weights"
                    )


class Layers:
    """The layers of all codebooks as float32, shifts included: a power of two is exact.

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

    def last(self, hidden: np.ndarray, codebooks: int | slice) -> np.ndarray:
        """h1 of this and the tapped frames -> frequencies.

        Args:
            hidden: [..., (1 + taps) H1] of one codebook, or [codebooks, P, (1 + taps) H1].
            codebooks: an index or a slice.

        Returns:
            [..., V] or [codebooks, P, V] float32.
        """
        h2 = hidden @ self.w2[codebooks]
        h2 += self.b2[codebooks]
        q = clip(h2, 0.0) @ self.w3[codebooks]
        q += self.b3[codebooks]
        z = clip(q, -127.0) @ self.out[codebooks]
        z += self.bias[codebooks]
        np.subtract(np.maximum.reduce(z, axis=-1, keepdims=True), z, out=z)
        # The cast cuts the fraction off, which is the floor: z is not negative. Beyond the table its last entry counts.
        return frequencies(spread(self.exp_table.take(z.astype(np.intp), mode="clip")))


def clip(sums: np.ndarray, low: float) -> np.ndarray:
    """clip(floor(sums), low, 127), in place."""
    np.floor(sums, out=sums)
    np.maximum(sums, np.float32(low), out=sums)
    return np.minimum(sums, _LARGEST, out=sums)


class _Codebook:
    """The model of one codebook on all frames at once."""

    def __init__(self, model: EntropyModel, k: int) -> None:
        self._model, self._k = model, k
        self._w1, self._b1 = model.layers.w1[k], model.layers.b1[k]
        e = model.width
        # Contribution of the codebook's own code to the sums of later frames: [V + 1, BEHIND, H1].
        parts = self._w1[(2 + AHEAD) * e :].reshape(BEHIND, e, -1)
        self.of_own = np.stack([model.emb[k] @ part for part in parts], axis=1)

    def outside(self, lower: np.ndarray) -> np.ndarray:
        """b1 and the lower codebooks' part of x W1, [P, k, T] -> [P, T, H1]."""
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
    """x [P, T, D] delayed by ``frames`` (negative: advanced), 0 outside the packet."""
    if frames == 0:
        return x
    shifted = np.zeros_like(x)
    if frames > 0:
        shifted[:, frames:] = x[:, :-frames]
    else:
        shifted[:, :frames] = x[:, -frames:]
    return shifted


LAG = AHEAD + 1
"""Delay in frames of each codebook relative to the next lower one.

Codebook k at frame t needs lower codebooks up to frame t + AHEAD, and itself before t. So one step decodes codebook k
at frame ``step - LAG k`` for all k: T + LAG (K - 1) steps instead of K T, and a step costs more than its sums."""


class Steps:
    """Frequencies of the next codes of packets that advance together.

    Args:
        model: the model.
        packets: P.
        n_q: codebooks K that are decoded, the lowest ones.
        frames: T of the longest packet.

    Attributes:
        count: number of steps.
    """

    def __init__(self, model: EntropyModel, packets: int, n_q: int, frames: int) -> None:
        self.count = frames + LAG * (n_q - 1)
        self._frames, self._n_q, self._layers, self._width = frames, n_q, model.layers, model.width
        self._emb = model.emb[:n_q].reshape(-1, model.width)
        self._first_row = (model.codebook_size + 1) * np.arange(n_q)[:, None]
        # Position LAG + step holds the codes of a step. Row k + 1 belongs to codebook k. Row 0 is zero.
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
    def codebooks(self) -> range:
        """The codebooks of the present step: codebook k is at frame ``step - LAG k``, where that is one of the T."""
        first = max(0, -(-(self._at - self._frames + 1) // LAG))
        return range(first, min(self._n_q - 1, self._at // LAG) + 1)

    def freqs(self) -> np.ndarray:
        """Frequencies of the present step: [codebooks, P, V] float32."""
        codebooks, e, at = self.codebooks, self._width, self._at * self._width
        here = slice(codebooks.start, codebooks.stop)
        above = slice(codebooks.start + 1, codebooks.stop + 1)
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
        """Set the codes of the present step and advance to the next.

        Args:
            codes: [codebooks, P] integers in [0, V); V marks a frame after a packet's end.
        """
        codebooks, e, at = self.codebooks, self._width, self._at * self._width
        above = slice(codebooks.start + 1, codebooks.stop + 1)
        now = slice(at + LAG * e, at + (LAG + 1) * e)
        found = self._emb.take(codes + self._first_row[codebooks.start : codebooks.stop], axis=0)
        self._each[above, :, now] = found
        found += self._own[codebooks.start : codebooks.stop, :, at : at + e]
        self._own[above, :, now] = found
        self._at += 1

    def _in_order(self, w1: np.ndarray) -> np.ndarray:
        """Rows of W1 in the order of x here: low(t), low(t+1), ..., own(t-2), own(t-1), e_(k-1)(t)."""
        parts = np.split(w1, 2 + AHEAD + BEHIND, axis=1)
        return np.concatenate([parts[0], *parts[2 : 2 + AHEAD], *parts[2 + AHEAD :][::-1], parts[1]], axis=1)
