"""A reader of ``.atok`` files in plain Python integers, written from FORMAT.md and sharing no code with audiotok.

Slow, and for whole files only: what the tests compare the real reader with.
"""

from __future__ import annotations

import json
import struct
from typing import Any


def crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


class Bytes:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int) -> bytes:
        self.at += count
        assert self.at <= len(self.data)
        return self.data[self.at - count : self.at]

    def varint(self) -> int:
        value, shift = 0, 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    def text(self) -> str:
        return self.take(self.varint()).decode()

    def frame(self) -> tuple[int, Bytes]:
        start = self.at
        mark = self.take(1)[0]
        body = self.take(self.varint())
        assert crc32c(self.data[start : self.at]) == int.from_bytes(self.take(4), "little")
        return mark, Bytes(body)


def read_header(body: Bytes) -> dict[str, Any]:
    flags, coding = body.take(2)
    h: dict[str, Any] = {"coding": coding, "fingerprint": body.take(8).hex()}
    h["model"] = body.take(4).hex() if coding == 2 else ""
    h["sampling_rate"], h["channels"], h["hop_length"], h["P"], h["K"] = (body.varint() for _ in range(5))
    h["V"] = [body.varint() for _ in range(h["K"])] if flags & 4 else [body.varint()] * h["K"]
    h["samples"] = int.from_bytes(body.take(5), "little")
    h["codec"] = body.text()
    h["scale_frames"] = body.varint() if flags & 1 else 0
    h["metadata"] = json.loads(body.text()) if flags & 2 else {}
    return h


def read(
    data: bytes, tensors: dict[str, Any] | None = None, taps: list[int] = (), shifts: list[int] = ()
) -> dict:  # type: ignore[assignment]
    """An undamaged file -> its header with ``codes`` (a list of K lists) and ``scales``; tensors are nested lists."""
    file = Bytes(data)
    assert file.take(5) == b"ATOK\x01"
    mark, body = file.frame()
    assert mark == 0xA7
    front = read_header(body)
    codes: list[list[int]] = [[] for _ in range(front["K"])]
    scales: list[float] = []
    sizes = []
    while True:
        begin = file.at
        mark, body = file.frame()
        if mark == 0xC9:
            break
        assert mark == 0xB3 and body.varint() == len(sizes)
        sizes.append(file.at - begin)
        frames = body.varint()
        count = -(-frames // front["scale_frames"]) if front["scale_frames"] else 0
        scales += struct.unpack(f"<{count}f", body.take(4 * count))
        lengths = [body.varint() for _ in range(front["K"] - 1)]
        layers = [body.take(n) for n in lengths]
        layers.append(body.data[body.at :])
        packet: list[list[int]] = []
        for k, layer in enumerate(layers):
            packet.append(read_layer(front, layer, k, frames, packet, tensors, taps, shifts))
        for k in range(front["K"]):
            codes[k] += packet[k]
    tail = read_header(body)
    assert body.varint() == len(codes[0]) and [body.varint() for _ in range(body.varint())] == sizes
    assert int.from_bytes(file.take(4), "little") == file.at - 4 - begin and file.at == len(data)
    return tail | {"codes": codes, "scales": scales}


def read_layer(h: dict, layer: bytes, k: int, frames: int, lower: list, *model: Any) -> list[int]:
    size = h["V"][k]
    bits = max(1, (size - 1).bit_length())
    if len(layer) == -(-frames * bits // 8):
        number = int.from_bytes(layer, "big") >> (8 * len(layer) - frames * bits)
        return [number >> bits * (frames - 1 - t) & (1 << bits) - 1 for t in range(frames)]
    digits, width = iter(layer), (1 << 64) - 1
    point = int.from_bytes(bytes(next(digits, 0) for _ in range(8)), "big")
    codes: list[int] = []
    weights = [1] * size
    hidden: list[list[int]] = []
    for t in range(frames):
        if h["coding"] == 2:
            weights = learnt(*model, k, t, frames, lower, codes, hidden)
        freqs = [256 * count for count in spread(weights)]
        part = width >> 24
        q, cum, code = point // part, 0, 0
        while cum + freqs[code] <= q:
            cum += freqs[code]
            code += 1
        point, width = point - part * cum, part * freqs[code]
        if width < 1 << 32:
            point = point << 32 | int.from_bytes(bytes(next(digits, 0) for _ in range(4)), "big")
            width <<= 32
        codes.append(code)
        if h["coding"] == 1:
            weights[code] += 64
    return codes


def spread(weights: list[int]) -> list[int]:
    total, cum, edges = sum(weights), 0, [0]
    for weight in weights:
        cum += weight
        edges.append(cum * (65536 - len(weights)) // total)
    return [1 + b - a for a, b in zip(edges, edges[1:], strict=False)]


def learnt(
    m: Any, taps: Any, shifts: Any, k: int, t: int, frames: int, lower: Any, own: list[int], hidden: Any
) -> list[int]:
    def vector(j: int, at: int) -> list[int]:
        known = lower[j] if j < k else own
        return m["emb"][j][known[at]] if 0 <= at < frames else [0] * len(m["emb"][0][0])

    def total(books: int, at: int) -> list[int]:
        parts = [vector(j, at) for j in range(books)]
        return [sum(values) for values in zip(*parts, strict=True)] if parts else [0] * len(m["emb"][0][0])

    before = vector(k - 1, t) if k else total(0, t)
    x = total(k, t) + before + total(k, t + 1) + total(k, t + 2) + total(k + 1, t - 1) + total(k + 1, t - 2)
    hidden.append(layer(x, m["w1"][k], m["b1"][k], shifts[0], 0))
    joined = [v for tap in (0, *taps) for v in (hidden[t - tap] if t >= tap else [0] * len(hidden[0]))]
    q = layer(layer(joined, m["w2"][k], m["b2"][k], shifts[1], 0), m["w3"][k], m["b3"][k], shifts[2], -127)
    words = zip(m["out"][k], m["bias"][k], strict=True)
    z = [sum(a * b for a, b in zip(row, q, strict=True)) + bias for row, bias in words]
    table = m["exp_table"]
    return [table[min((max(z) - value) >> shifts[3], len(table) - 1)] for value in z]


def layer(x: list[int], weights: Any, offsets: Any, shift: int, low: int) -> list[int]:
    sums = list(offsets)
    for value, row in zip(x, weights, strict=True):
        if value:
            sums = [s + value * w for s, w in zip(sums, row, strict=True)]
    return [max(low, min(127, s >> shift)) for s in sums]
