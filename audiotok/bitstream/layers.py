"""Coding of layers. A layer holds the codes of one codebook in one packet.

A layer depends only on its own and the lower codebooks of its packet, so layers can be cut off and packets lost.
A layer that coding would not make smaller is stored raw; its size shows this.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np

from .entropy import (
    FILE_NAME,
    LAG,
    LARGEST_CODEBOOK,
    Adaptive,
    Decoder,
    EntropyModel,
    Steps,
    encode,
    frequencies,
)
from .format import ADAPTIVE as ADAPTIVE
from .format import CODINGS as CODINGS
from .format import LEARNT, RAW, AtokError, AtokHeader, raw_bits

# Packets coded together. More are faster per packet and take more memory: V x T x 12 bytes each.
_TOGETHER = 16
# Up to this many are decoded one by one with a learned model: a product with one row is faster than with two.
_FEW = 3


class LayerError(ValueError):
    """The bytes are not a layer."""


class LayerCoder:
    """Converts codes of packets to layers and back.

    Args:
        codebook_sizes: V of every codebook.
        coding: RAW, ADAPTIVE or LEARNT.
        model: for LEARNT.

    Raises:
        ValueError: LEARNT, and the model is missing or has other codebooks.
    """

    def __init__(self, codebook_sizes: Sequence[int], coding: int, model: EntropyModel | None = None) -> None:
        self.codebook_sizes, self.coding, self.model = tuple(codebook_sizes), coding, model
        if coding == LEARNT and (
            model is None or len(codebook_sizes) > model.n_q or set(codebook_sizes) != {model.codebook_size}
        ):
            got = "none" if model is None else f"one for {model.n_q} x {model.codebook_size}"
            raise ValueError(
                f"expected a model for the codebooks {list(codebook_sizes)}, got {got}; use adaptive coding"
            )

    def raw_bytes(self, k: int, frames: int) -> int:
        """Size of a raw layer."""
        return -(-frames * raw_bits(self.codebook_sizes[k]) // 8)

    def encode(self, packets: Sequence[np.ndarray]) -> list[list[bytes]]:
        """Packets of codes [K', T] (the same K', any T) -> K' layers each."""
        done: list[list[bytes]] = []
        for group in _groups(packets, _TOGETHER):
            done += self._encode_group(group)
        return done

    def decode(
        self, packets: Sequence[tuple[int, Sequence[bytes]]], wanted: Sequence[int] | None = None
    ) -> list[np.ndarray | LayerError]:
        """Layers -> codes.

        Args:
            packets: (T, K' layers) each, with the same K'.
            wanted: how many frames of each to decode, from its first on; None: all.

        Returns:
            codes [K', wanted] int64 of each, or an error where layers are damaged.
        """
        wanted = [frames for frames, _ in packets] if wanted is None else wanted
        size = 1 if self.coding == LEARNT and len(packets) <= _FEW else _TOGETHER
        done: list[np.ndarray | LayerError] = []
        for group, ends in zip(_groups(packets, size), _groups(wanted, size), strict=True):
            done += self._decode_group(group, ends)
        return done

    def _encode_group(self, group: Sequence[np.ndarray]) -> list[list[bytes]]:
        layers: list[list[bytes]] = [[] for _ in group]
        padded = _pad(group, self.codebook_sizes)
        for k in range(padded.shape[1]):
            freqs = self._all_freqs(k, padded)
            for p, codes in enumerate(group):
                raw = _pack(codes[k], raw_bits(self.codebook_sizes[k]))
                coded = raw if freqs is None else encode(codes[k], freqs[p][: codes.shape[1]])
                layers[p].append(coded if len(coded) < len(raw) else raw)
        return layers

    def _all_freqs(self, k: int, padded: np.ndarray) -> Sequence[np.ndarray] | None:
        """Frequencies [T, V] of codebook k in every packet; None where only raw layers are made."""
        size = self.codebook_sizes[k]
        if self.coding == LEARNT and self.model is not None:
            return self.model.freqs(k, padded)  # type: ignore[return-value]  # an array is a sequence of its rows
        if self.coding == RAW or size > LARGEST_CODEBOOK:
            return None
        steps = Adaptive(len(padded), size)
        freqs = np.empty((len(padded), padded.shape[2], size), np.float32)
        for t in range(padded.shape[2]):
            freqs[:, t] = frequencies(steps.counts())
            steps.see(np.minimum(padded[:, k, t], size - 1))
        return list(freqs)

    def _decode_group(
        self, group: Sequence[tuple[int, Sequence[bytes]]], wanted: Sequence[int]
    ) -> list[np.ndarray | LayerError]:
        lengths = [frames for frames, _ in group]
        n_q = len(group[0][1])
        codes = np.empty((len(group), n_q, max(lengths)), np.int64)
        codes[:] = np.array(self.codebook_sizes[:n_q])[:, None]
        errors: dict[int, LayerError] = {}
        coded: dict[tuple[int, int], Decoder] = {}
        for p, (frames, layers) in enumerate(group):
            for k, layer in enumerate(layers):
                try:
                    if len(layer) >= self.raw_bytes(k, frames):
                        codes[p, k, :frames] = self._unpack(k, layer, frames)
                    else:
                        coded[k, p] = self._open(k, layer)
                except ValueError as error:
                    errors.setdefault(p, LayerError(f"codebook {k}: {error}"))
                    codes[p, k, :frames] = 0
        if self.coding == LEARNT and coded:
            self._decode_learnt(codes, lengths, wanted, coded)
        for k in range(n_q if self.coding != LEARNT else 0):
            self._decode_adaptive(
                k, codes, wanted, {p: coded[k, p] for p in range(len(group)) if (k, p) in coded}
            )
        for (k, p), decoder in coded.items():
            if decoder.is_damaged:
                errors.setdefault(
                    p, LayerError(f"codebook {k}: expected coded codes, got bytes that do not decode")
                )
        return [errors.get(p, codes[p, :, :frames]) for p, frames in enumerate(wanted)]

    def _open(self, k: int, data: bytes) -> Decoder:
        if self.coding == RAW or self.codebook_sizes[k] > LARGEST_CODEBOOK:
            raise LayerError(f"expected a raw layer, got {len(data)} bytes")
        return Decoder(data)

    def _unpack(self, k: int, data: bytes, frames: int) -> np.ndarray:
        if len(data) > self.raw_bytes(k, frames):
            raise LayerError(f"expected at most {self.raw_bytes(k, frames)} bytes, got {len(data)}")
        codes = _unpack_bits(data, raw_bits(self.codebook_sizes[k]), frames)
        if codes.size and codes.max() >= self.codebook_sizes[k]:
            raise LayerError(f"expected codes below {self.codebook_sizes[k]}, got {codes.max()}")
        return codes

    def _decode_learnt(
        self,
        codes: np.ndarray,
        lengths: Sequence[int],
        wanted: Sequence[int],
        coded: dict[tuple[int, int], Decoder],
    ) -> None:
        """Decode the layers in ``coded`` by (codebook, packet), step by step for all codebooks and packets."""
        assert self.model is not None
        n_q = codes.shape[1]
        steps = Steps(self.model, len(codes), n_q, max(lengths))
        for step in range(min(steps.count, max(wanted) + LAG * (n_q - 1))):
            codebooks, freqs = steps.codebooks, steps.freqs()
            now = np.empty((len(codebooks), len(codes)), np.int64)
            for i, k in enumerate(codebooks):
                t = step - LAG * k
                for p, frames in enumerate(lengths):
                    if t < frames and (decoder := coded.get((k, p))) is not None:
                        codes[p, k, t] = decoder.next(freqs[i, p : p + 1])
                now[i] = codes[:, k, t]
            steps.see(now)

    def _decode_adaptive(
        self, k: int, codes: np.ndarray, wanted: Sequence[int], coded: dict[int, Decoder]
    ) -> None:
        """Decode codebook k of the packets in ``coded``, frame by frame, all of them together."""
        rows = np.array(sorted(coded, key=lambda p: -wanted[p]), dtype=np.int64)
        counts = Adaptive(len(rows), self.codebook_sizes[k])
        for t in range(wanted[rows[0]] if len(rows) else 0):
            freqs = frequencies(counts.counts())
            for i, p in enumerate(rows):
                if t >= wanted[p]:
                    break  # sorted by how many frames are wanted
                codes[p, k, t] = coded[p].next(freqs[i : i + 1])
            counts.see(np.minimum(codes[rows, k, t], self.codebook_sizes[k] - 1))


def _pack(codes: np.ndarray, bits: int) -> bytes:
    """Codes [T] -> bytes, highest bit first, padded with zeros."""
    return np.packbits(((codes[:, None] >> np.arange(bits)[::-1]) & 1).astype(np.uint8)).tobytes()


def _unpack_bits(data: bytes, bits: int, frames: int) -> np.ndarray:
    flags = np.unpackbits(np.frombuffer(data, dtype=np.uint8), count=frames * bits)
    return flags.reshape(frames, bits).astype(np.int64) @ (1 << np.arange(bits)[::-1])


def _pad(group: Sequence[np.ndarray], codebook_sizes: Sequence[int]) -> np.ndarray:
    """Codes [K', T] of several packets -> [P, K', longest T], padded with V."""
    n_q, frames = len(group[0]), max(codes.shape[1] for codes in group)
    padded = np.empty((len(group), n_q, frames), np.int64)
    padded[:] = np.array(codebook_sizes[:n_q])[:, None]
    for p, codes in enumerate(group):
        padded[p, :, : codes.shape[1]] = codes
    return padded


def _groups(items: Sequence, size: int) -> Iterator[Sequence]:
    return (items[start : start + size] for start in range(0, len(items), size))


def find_model(codes_fingerprint: str, folder: str | Path | None = None) -> EntropyModel | None:
    """The entropy model for a codec's codes, or None.

    Args:
        codes_fingerprint: of the codec.
        folder: a codec's folder, which is searched before the shipped ones.

    Raises:
        EntropyModelError: a model file is damaged.
    """
    shipped = Path(str(files("audiotok") / "checkpoints"))
    places = [Path(folder)] if folder is not None else []
    places += sorted(path for path in shipped.glob("*") if path.is_dir()) if shipped.is_dir() else []
    for place in places:
        path = place / FILE_NAME
        if path.is_file():
            model = _load(str(path), path.stat().st_mtime_ns)
            if model.codes_fingerprint == codes_fingerprint:
                return model
    return None


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
    have = "none" if model is None else f"{model.fingerprint} of codes {model.codes_fingerprint}"
    if model is None or (model.fingerprint, model.codes_fingerprint) != (
        header.model_fingerprint, header.codes_fingerprint,
    ):  # fmt: skip
        raise AtokError(
            f"{path}: coded with the entropy model {header.model_fingerprint} of the codec {header.codec!r} (codes "
            f"{header.codes_fingerprint}), got {have}; pass --codec and the folder of that codec"
        )
    try:
        return LayerCoder(header.codebook_sizes, LEARNT, model)
    except ValueError as error:
        raise AtokError(f"{path}: {error}") from None


@lru_cache(maxsize=4)
def _load(path: str, changed: int) -> EntropyModel:
    """A model file, cached until it changes."""
    return EntropyModel.load(path)
