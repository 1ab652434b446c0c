"""Entropy coding of codes: integer probability models, a range coder, and the layers of a packet.

Results are equal on every machine. FORMAT.md defines the learned model. Every sum of products stays below 2^24, where
float32 is exact in any order of addition, so neither BLAS nor threads can change a count. EnCodec (arXiv:2210.13438,
section 3.3) predicts all codebooks of a frame with a float Transformer, whose files cannot be read where sums are
added in another order. The coder is the range coder of ``constriction`` (R. Bamler, arXiv:2201.01741; G. Martin, 1979)
with frequencies over 2^24. It takes floats: ``256 * count - 1`` makes it use exactly ``256 * count``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
from constriction import stream  # type: ignore[attr-defined]  # compiled, without stubs
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..files import write_aside
from .format import LEARNT, RAW, AtokError, AtokHeader, raw_bits

TOTAL = 1 << 16
"""Sum of the counts of a distribution."""

LARGEST_CODEBOOK = 1 << 14
"""Larger codebooks are stored raw, because too little of TOTAL would be left to distribute."""

FILE_NAME = "entropy.safetensors"
"""Name of the model in a codec's folder."""

AHEAD, BEHIND = 2, 2
"""Frames of context: of lower codebooks after the present frame, and of codebooks up to this one before it."""

LAG = AHEAD + 1
"""Delay in frames of each codebook relative to the next lower one.

Codebook k at frame t needs lower codebooks up to frame t + AHEAD, and itself before t. So one step decodes codebook k
at frame ``step - LAG k`` for all k: T + LAG (K - 1) steps instead of K T, and a step costs more than its sums."""

_FAMILY = stream.model.Categorical(perfect=False)
_STATE_BITS, _WORD_BYTES = 64, 4
_NEWS = 64.0
_LIMIT = 1 << 24
_TENSORS = ("emb", "w1", "b1", "w2", "b2", "w3", "b3", "out", "bias", "exp_table")
# Packets coded together. More are faster per packet and take more memory: V x T x 12 bytes each.
_TOGETHER = 16


class EntropyModelError(ValueError):
    """A model file that cannot be used. The message names the fault and the remedy."""


class LayerError(ValueError):
    """The bytes are not a layer."""


# ---- range coder


def frequencies(weights: np.ndarray) -> np.ndarray:
    """Distribute TOTAL in proportion to weights, at least 1 to each, and scale the counts for the coder.

    Args:
        weights: [..., V] int64, or float64 integers, >= 0 with a sum in [1, 2^36]; V <= LARGEST_CODEBOOK.

    Returns:
        [..., V] float32, 256 * count - 1. The counts are the steps of floor(cumulative * (TOTAL - V) / sum), plus 1.
        Exact: numerators are below 2^53, and a rounded quotient cannot cross an integer that is at least 1 / sum away.
    """
    sums = np.add.accumulate(weights, axis=-1)
    shares = sums * float(TOTAL - weights.shape[-1])
    shares /= sums[..., -1:]
    edges = np.floor(shares, out=shares).astype(np.float32)
    freqs = np.empty_like(edges)
    freqs[..., 0] = edges[..., 0]
    np.subtract(edges[..., 1:], edges[..., :-1], out=freqs[..., 1:])
    freqs *= np.float32(256.0)
    freqs += np.float32(255.0)  # 256 * (steps + 1) - 1
    return freqs


def encode(symbols: np.ndarray, freqs: np.ndarray) -> bytes:
    """Symbols -> the fewest bytes that decode to them.

    Args:
        symbols: [T] integers in [0, V).
        freqs: [T, V] float32, of :func:`frequencies`.

    Returns:
        the digits, base 256, of a fraction in the interval of the symbols, without zeros at the end.
    """
    coder = stream.queue.RangeEncoder()
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
        LayerError: ``data`` ends in a zero byte, which :func:`encode` never writes.
    """

    def __init__(self, data: bytes) -> None:
        if data.endswith(b"\0"):
            raise LayerError("expected coded bytes that do not end in zero, got some that do")
        words = np.frombuffer(data + bytes(-len(data) % _WORD_BYTES), dtype=">u4").astype(np.uint32)
        self._coder = stream.queue.RangeDecoder(words)
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


# ---- probability models


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
        EntropyModelError: a sum could reach 2^24.
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
        self._check_bounds()
        digest = hashlib.sha256(json.dumps([self.taps, self.shifts, codes_fingerprint]).encode())
        for name in _TENSORS:
            digest.update(self.tensors[name].astype("<i4").tobytes())
        self.fingerprint = digest.hexdigest()[:8]

        def scaled(name: str, shift: int) -> np.ndarray:
            return np.ldexp(self.tensors[name].astype(np.float32), -shift)  # a power of two is exact

        s1, s2, s3, s4 = shifts
        self.w1, self.b1 = scaled("w1", s1), scaled("b1", s1)[:, None]
        self._w2, self._b2 = scaled("w2", s2), scaled("b2", s2)[:, None]
        self._w3, self._b3 = scaled("w3", s3), scaled("b3", s3)[:, None]
        self._out = np.ascontiguousarray(scaled("out", s4).transpose(0, 2, 1))
        self._bias = scaled("bias", s4)[:, None]
        self._exp_table = self.tensors["exp_table"].astype(np.int64)
        # An additional row of zeros for frames outside the packet.
        self.emb = np.pad(self.tensors["emb"].astype(np.float32), ((0, 0), (0, 1), (0, 0)))

    def freqs(self, k: int, codes: np.ndarray) -> np.ndarray:
        """Frequencies [P, T, V] float32 of every code of codebook k in all frames.

        Args:
            k: the codebook.
            codes: [P, K', T] integers in [0, V), K' > k, of P packets; V marks frames after a packet's end.
        """
        each = [self.emb[j][codes[:, j]] for j in range(k + 1)]
        low = np.sum(each[:k], axis=0) if k else np.zeros_like(each[0])
        own = low + each[k]
        views = [low, each[k - 1] if k else low, *(_earlier(low, -i) for i in range(1, AHEAD + 1))]
        views += [_earlier(own, i) for i in range(1, BEHIND + 1)]
        hidden = clip(np.concatenate(views, axis=-1) @ self.w1[k] + self.b1[k], 0.0)
        return self.last(np.concatenate([_earlier(hidden, tap) for tap in (0, *self.taps)], axis=-1), k)

    def last(self, hidden: np.ndarray, codebooks: int | slice) -> np.ndarray:
        """h1 of this and the tapped frames -> frequencies [..., V] float32.

        Args:
            hidden: [..., (1 + taps) H1] of one codebook, or [codebooks, P, (1 + taps) H1].
            codebooks: an index or a slice.
        """
        h2 = clip(hidden @ self._w2[codebooks] + self._b2[codebooks], 0.0)
        q = clip(h2 @ self._w3[codebooks] + self._b3[codebooks], -127.0)
        z = q @ self._out[codebooks]
        z += self._bias[codebooks]
        np.subtract(np.maximum.reduce(z, axis=-1, keepdims=True), z, out=z)
        # The cast cuts the fraction off, which is the floor: z is not negative. Beyond the table its last entry counts.
        return frequencies(self._exp_table.take(z.astype(np.intp), mode="clip"))

    def save(self, path: str | Path) -> None:
        """Write a safetensors file atomically."""
        facts = {"taps": self.taps, "shifts": self.shifts, "codes_fingerprint": self.codes_fingerprint}
        metadata = {"entropy_model": json.dumps(facts), "fingerprint": self.fingerprint}
        with write_aside(path) as aside:
            save_file(self.tensors, aside, metadata)

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
            raise EntropyModelError(f"{path}: not an entropy model ({error}); copy it again") from None
        model = cls(tensors, tuple(facts["taps"]), tuple(facts["shifts"]), facts["codes_fingerprint"])
        if model.fingerprint != metadata.get("fingerprint"):
            raise EntropyModelError(f"{path}: its weights do not have its fingerprint; copy it again")
        return model

    def _check_bounds(self) -> None:
        """Every sum of products, in any order, below 2^24: sums of |weight| x the largest |input|, plus |bias|."""
        t = {name: np.abs(value.astype(np.int64)) for name, value in self.tensors.items()}
        below = np.zeros(self.width, np.int64)
        for k in range(self.n_q):
            before = t["emb"][k - 1].max(0) if k else below
            own = below + t["emb"][k].max(initial=0)
            x = np.concatenate([below, before, *[below] * AHEAD, *[own] * BEHIND])
            sums = {
                "w1": t["b1"][k] + x @ t["w1"][k],
                "w2": t["b2"][k] + 127 * t["w2"][k].sum(0),
                "w3": t["b3"][k] + 127 * t["w3"][k].sum(0),
                # Twice the bound, because differences of logits are computed.
                "out": 2 * (t["bias"][k] + 127 * t["out"][k].sum(1)),
            }
            for name, bound in sums.items():
                if bound.max() >= _LIMIT:
                    raise EntropyModelError(
                        f"expected sums below 2^24 in {name} of codebook {k}, got up to {bound.max()}"
                    )
            below = below + t["emb"][k].max(0)


def clip(sums: np.ndarray, low: float) -> np.ndarray:
    """clip(floor(sums), low, 127), in place."""
    np.floor(sums, out=sums)
    return np.clip(sums, np.float32(low), np.float32(127.0), out=sums)


def _earlier(x: np.ndarray, frames: int) -> np.ndarray:
    """x [P, T, D] delayed by ``frames`` (negative: advanced), 0 outside the packet."""
    shifted = np.zeros_like(x)
    if frames >= 0:
        shifted[:, frames:] = x[:, : max(0, x.shape[1] - frames)]
    else:
        shifted[:, :frames] = x[:, -frames:]
    return shifted


class Steps:
    """Frequencies of the next codes of packets that advance together, by a learned model.

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
        self._frames, self._n_q, self._model, self._width = frames, n_q, model, model.width
        self._emb = model.emb[:n_q].reshape(-1, model.width)
        self._first_row = (model.codebook_size + 1) * np.arange(n_q)[:, None]
        # Position LAG + step holds the codes of a step. Row k + 1 belongs to codebook k. Row 0 is zero.
        places = (self.count + LAG) * model.width
        self._each = np.zeros((n_q + 1, packets, places), np.float32)
        self._own = np.zeros((n_q + 1, packets, places), np.float32)
        self._x = np.empty((n_q, packets, (2 + AHEAD + BEHIND) * model.width), np.float32)
        # Rows of W1 in the order of x here: low(t), low(t+1), ..., own(t-2), own(t-1), e_(k-1)(t).
        parts = np.split(model.w1[:n_q], 2 + AHEAD + BEHIND, axis=1)
        order = [parts[0], *parts[2 : 2 + AHEAD], *parts[2 + AHEAD :][::-1], parts[1]]
        self._w1 = np.concatenate(order, axis=1)
        self._back = np.array([0, *model.taps])
        self._most = int(self._back.max())
        self._hidden = np.zeros((n_q, packets, self.count + self._most, self._w1.shape[-1]), np.float32)
        self._at = 0

    @property
    def codebooks(self) -> range:
        """The codebooks of the present step."""
        first = max(0, -(-(self._at - self._frames + 1) // LAG))
        return range(first, min(self._n_q - 1, self._at // LAG) + 1)

    def frame(self, k: int) -> int:
        """The frame of codebook k in the present step."""
        return self._at - LAG * k

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
        sums += self._model.b1[here]
        self._hidden[here, :, self._at + self._most] = clip(sums, 0.0)
        tapped = self._hidden[here].take(self._at + self._most - self._back, axis=2)
        n, packets, taps, hidden = tapped.shape
        return self._model.last(tapped.reshape(n, packets, taps * hidden), here)

    def see(self, codes: np.ndarray) -> None:
        """Set the codes [codebooks, P] of the present step, V after a packet's end, and advance to the next."""
        codebooks, e, at = self.codebooks, self._width, self._at * self._width
        above = slice(codebooks.start + 1, codebooks.stop + 1)
        now = slice(at + LAG * e, at + (LAG + 1) * e)
        found = self._emb.take(codes + self._first_row[codebooks.start : codebooks.stop], axis=0)
        self._each[above, :, now] = found
        found += self._own[codebooks.start : codebooks.stop, :, at : at + e]
        self._own[above, :, now] = found
        self._at += 1


class AdaptiveSteps:
    """Counts that adapt to the codes of one codebook; the interface of :class:`Steps`.

    A code has weight 1 at first, and 64 more each time it is seen.
    """

    def __init__(self, k: int, packets: int, codebook_size: int, frames: int) -> None:
        self.count, self.codebooks = frames, range(k, k + 1)
        self._weights = np.ones((packets, codebook_size))
        self._at = 0

    def frame(self, k: int) -> int:
        return self._at

    def freqs(self) -> np.ndarray:
        return frequencies(self._weights)[None]

    def see(self, codes: np.ndarray) -> None:
        last = self._weights.shape[1] - 1
        self._weights[np.arange(len(self._weights)), np.minimum(codes[0], last)] += _NEWS
        self._at += 1


# ---- layers


class LayerCoder:
    """Converts codes of packets to layers and back. A layer holds the codes of one codebook in one packet.

    A layer depends only on its own and the lower codebooks of its packet, so layers can be cut off and packets lost.
    A layer that coding would not make smaller is stored raw, which its size shows.

    Args:
        codebook_sizes: V of every codebook.
        coding: RAW, ADAPTIVE or LEARNT.
        model: for LEARNT.

    Raises:
        ValueError: LEARNT, and the model is missing or has other codebooks.
    """

    def __init__(self, codebook_sizes: Sequence[int], coding: int, model: EntropyModel | None = None) -> None:
        self.codebook_sizes, self.coding = tuple(codebook_sizes), coding
        self.model = model if coding == LEARNT else None
        if coding == LEARNT and (
            model is None or len(codebook_sizes) > model.n_q or set(codebook_sizes) != {model.codebook_size}
        ):
            got = "none" if model is None else f"one for {model.n_q} x {model.codebook_size}"
            raise ValueError(f"expected a model for the codebooks {list(codebook_sizes)}, got {got}")

    def raw_bytes(self, k: int, frames: int) -> int:
        """Size of a raw layer."""
        return -(-frames * raw_bits(self.codebook_sizes[k]) // 8)

    def encode(self, packets: Sequence[np.ndarray]) -> list[list[bytes]]:
        """Packets of codes [K', T] (the same K', any T) -> K' layers each."""
        done: list[list[bytes]] = []
        for start in range(0, len(packets), _TOGETHER):
            group = packets[start : start + _TOGETHER]
            layers: list[list[bytes]] = [[] for _ in group]
            padded = self._padded(len(group), len(group[0]), max(codes.shape[1] for codes in group))
            for p, codes in enumerate(group):
                padded[p, :, : codes.shape[1]] = codes
            for k in range(len(group[0])):
                freqs = self._all_freqs(k, padded)
                for p, codes in enumerate(group):
                    best = _pack(codes[k], raw_bits(self.codebook_sizes[k]))
                    if freqs is not None:
                        best = min(best, encode(codes[k], freqs[p, : codes.shape[1]]), key=len)
                    layers[p].append(best)
            done += layers
        return done

    def decode(self, packets: Sequence[tuple[int, Sequence[bytes]]]) -> list[np.ndarray | LayerError]:
        """Packets of (T, K' layers), with the same K' -> codes [K', T] int64, or an error where layers are damaged."""
        done: list[np.ndarray | LayerError] = []
        for start in range(0, len(packets), _TOGETHER):
            done += self._decode_group(packets[start : start + _TOGETHER])
        return done

    def _padded(self, packets: int, n_q: int, frames: int) -> np.ndarray:
        """[P, K', T] int64 filled with V."""
        padded = np.empty((packets, n_q, frames), np.int64)
        padded[:] = np.array(self.codebook_sizes[:n_q])[:, None]
        return padded

    def _all_freqs(self, k: int, padded: np.ndarray) -> np.ndarray | None:
        """Frequencies [P, T, V] of codebook k; None where only raw layers are made."""
        if self.model is not None:
            return self.model.freqs(k, padded)
        packets, _, frames = padded.shape
        if self.coding == RAW or self.codebook_sizes[k] > LARGEST_CODEBOOK:
            return None
        steps = AdaptiveSteps(k, packets, self.codebook_sizes[k], frames)
        freqs = np.empty((packets, frames, self.codebook_sizes[k]), np.float32)
        for t in range(frames):
            freqs[:, t] = steps.freqs()[0]
            steps.see(padded[None, :, k, t])
        return freqs

    def _decode_group(self, group: Sequence[tuple[int, Sequence[bytes]]]) -> list[np.ndarray | LayerError]:
        lengths = [frames for frames, _ in group]
        n_q = len(group[0][1])
        codes = self._padded(len(group), n_q, max(lengths))
        errors: dict[int, LayerError] = {}
        coded: dict[tuple[int, int], Decoder] = {}
        for p, (frames, layers) in enumerate(group):
            for k, layer in enumerate(layers):
                try:
                    if len(layer) >= self.raw_bytes(k, frames):
                        codes[p, k, :frames] = self._unpack(k, layer, frames)
                    elif self.coding == RAW or self.codebook_sizes[k] > LARGEST_CODEBOOK:
                        raise LayerError(f"expected a raw layer, got {len(layer)} bytes")
                    else:
                        coded[k, p] = Decoder(layer)
                except LayerError as error:
                    errors.setdefault(p, LayerError(f"codebook {k}: {error}"))
                    codes[p, k, :frames] = 0
        runs: list[Steps] | list[AdaptiveSteps] = []
        if self.model is not None and coded:
            runs = [Steps(self.model, len(group), n_q, max(lengths))]
        elif coded:
            books = sorted({k for k, _ in coded})
            runs = [AdaptiveSteps(k, len(group), self.codebook_sizes[k], max(lengths)) for k in books]
        for steps in runs:
            for _ in range(steps.count):
                codebooks, freqs = steps.codebooks, steps.freqs()
                now = np.empty((len(codebooks), len(group)), np.int64)
                for i, k in enumerate(codebooks):
                    t = steps.frame(k)
                    for p, frames in enumerate(lengths):
                        if t < frames and (decoder := coded.get((k, p))) is not None:
                            codes[p, k, t] = decoder.next(freqs[i, p : p + 1])
                    now[i] = codes[:, k, t]
                steps.see(now)
        for (k, p), decoder in coded.items():
            if decoder.is_damaged:
                errors.setdefault(p, LayerError(f"codebook {k}: its bytes do not decode"))
        return [errors.get(p, codes[p, :, :frames]) for p, frames in enumerate(lengths)]

    def _unpack(self, k: int, data: bytes, frames: int) -> np.ndarray:
        if len(data) > self.raw_bytes(k, frames):
            raise LayerError(f"expected at most {self.raw_bytes(k, frames)} bytes, got {len(data)}")
        bits = raw_bits(self.codebook_sizes[k])
        flags = np.unpackbits(np.frombuffer(data, dtype=np.uint8), count=frames * bits)
        codes = flags.reshape(frames, bits).astype(np.int64) @ (1 << np.arange(bits)[::-1])
        if codes.max(initial=0) >= self.codebook_sizes[k]:
            raise LayerError(f"expected codes below {self.codebook_sizes[k]}, got {codes.max()}")
        return codes


def _pack(codes: np.ndarray, bits: int) -> bytes:
    """Codes [T] -> bytes, highest bit first, padded with zeros."""
    return np.packbits(((codes[:, None] >> np.arange(bits)[::-1]) & 1).astype(np.uint8)).tobytes()


def find_model(codes_fingerprint: str, folder: str | Path | None = None) -> EntropyModel | None:
    """The entropy model for a codec's codes, or None.

    Args:
        codes_fingerprint: of the codec.
        folder: a codec's folder, which is searched before the shipped ones.

    Raises:
        EntropyModelError: a model file is damaged.
    """
    shipped = sorted(Path(str(files("audiotok") / "checkpoints")).glob(f"*/{FILE_NAME}"))
    for path in shipped if folder is None else [Path(folder) / FILE_NAME, *shipped]:
        if path.is_file():
            model = _load(str(path), path.stat().st_mtime_ns)
            if model.codes_fingerprint == codes_fingerprint:
                return model
    return None


@lru_cache(maxsize=4)
def _load(path: str, changed: int) -> EntropyModel:
    """A model file, cached until it changes."""
    return EntropyModel.load(path)


def coder_of(header: AtokHeader, model: EntropyModel | None = None, path: str = "atok") -> LayerCoder:
    """The coder for the layers of a file.

    Args:
        header: of the file.
        model: for learned coding; None searches the shipped ones.
        path: name of the file for errors.

    Raises:
        AtokError: the model that the header names is missing.
    """
    if header.coding != LEARNT:
        return LayerCoder(header.codebook_sizes, header.coding)
    model = find_model(header.codes_fingerprint) if model is None else model
    have = (None, None) if model is None else (model.fingerprint, model.codes_fingerprint)
    if have != (header.model_fingerprint, header.codes_fingerprint):
        raise AtokError(
            f"{path}: coded with the entropy model {header.model_fingerprint} of the codec {header.codec!r} (codes "
            f"{header.codes_fingerprint}), got {have[0]} of codes {have[1]}; pass --codec and the folder of that codec"
        )
    try:
        return LayerCoder(header.codebook_sizes, LEARNT, model)
    except ValueError as error:
        raise AtokError(f"{path}: {error}") from None
