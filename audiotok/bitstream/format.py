"""The ``.atok`` format as bytes: varints, frames, header, packets and tail, as FORMAT.md describes them.

A frame is ``mark (1 byte), size (varint), body, CRC-32C of all that (4 bytes, little endian)``.
"""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import google_crc32c

RAW, ADAPTIVE, LEARNT = 0, 1, 2
CODINGS = ("raw", "adaptive", "learnt")
"""How the layers of a file are coded where that makes them smaller. The header stores the index."""

MAGIC = b"ATOK"
VERSION = 1
HEADER_MARK, PACKET_MARK, LAST_MARK, TAIL_MARK = 0xA7, 0xB3, 0xB5, 0xC9
TAIL_SIZE_BYTES = 4
MAX_CODEBOOKS, MAX_PACKET_FRAMES, MAX_CODEBOOK_SIZE = 64, 1024, 1 << 24
MAX_HEADER_BYTES = 1 << 20
PACKET_S = 2.0
"""Default length of a packet in seconds."""

_CRC_BYTES, _VARINT_BYTES = 4, 8
_UNKNOWN = (1 << 40) - 1
_SCALES, _METADATA, _SIZES = 1, 2, 4
_MAX_NUMBER = 1 << 40
# A scan fails after this many bytes without a packet.
_PATIENCE_BYTES = 1 << 20
# Least and largest values of the numbers in a header.
_RANGES = {
    "sampling_rate": (1, (1 << 28) - 1),
    "hop_length": (1, (1 << 28) - 1),
    "channels": (1, 255),
    "packet_frames": (1, MAX_PACKET_FRAMES),
    "coding": (0, len(CODINGS) - 1),
    "scale_frames": (0, MAX_PACKET_FRAMES),
}


class AtokError(ValueError):
    """An ``.atok`` file that cannot be read or written. The message names the file, the fault and the remedy."""


class DamageError(ValueError):
    """The bytes do not follow the format."""


class NeedMoreError(Exception):
    """The bytes are valid but incomplete."""


def raw_bits(codebook_size: int) -> int:
    """Bits per code of a codebook before entropy coding, at least 1."""
    return max(1, (codebook_size - 1).bit_length())


# ---- fields and frames


def varint(value: int) -> bytes:
    """A number >= 0 and below 2^56 as a varint."""
    assert 0 <= value < 1 << 7 * _VARINT_BYTES, value
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def frame(mark: int, body: bytes) -> bytes:
    """A body as a frame."""
    data = bytes([mark]) + varint(len(body)) + body
    return data + _crc(data)


def frame_at(data: bytes | bytearray, mark: int, largest: int, at: int = 0) -> tuple[bytes, int]:
    """The body, of ``largest`` bytes at most, of the frame that begins at ``at``, and the position after the frame.

    Raises:
        DamageError: the frame is damaged or has another mark.
        NeedMoreError: ``data`` ends before the frame does.
    """
    if at >= len(data):
        raise NeedMoreError
    if data[at] != mark:
        raise DamageError(f"expected the mark {mark:#x}, got {data[at]:#x}")
    size, start = _varint_at(data, at + 1)
    if size > largest:
        raise DamageError(f"expected at most {largest} bytes, got a size of {size}")
    end = start + size
    if end + _CRC_BYTES > len(data):
        raise NeedMoreError
    if _crc(bytes(data[at:end])) != bytes(data[end : end + _CRC_BYTES]):
        raise DamageError("wrong checksum, these bytes are damaged")
    return bytes(data[start:end]), end + _CRC_BYTES


def _crc(data: bytes) -> bytes:
    return int(google_crc32c.value(data)).to_bytes(_CRC_BYTES, "little")


def _varint_at(data: bytes | bytearray, at: int) -> tuple[int, int]:
    """The number that begins at ``at``, and the position after it. Raises as :func:`frame_at`."""
    value = 0
    for i in range(_VARINT_BYTES):
        if at + i >= len(data):
            raise NeedMoreError
        value |= (data[at + i] & 0x7F) << 7 * i
        if not data[at + i] & 0x80:
            return value, at + i + 1
    raise DamageError("expected a number, got one without an end")


class Cursor:
    """Reads consecutive fields from a body with a valid checksum. Raises DamageError at the end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        """Number of bytes not read yet."""
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        if count > self.left:
            raise DamageError(f"expected {count} bytes more, got {self.left}")
        self._at += count
        return self._data[self._at - count : self._at]

    def varint(self) -> int:
        """The next varint."""
        try:
            value, self._at = _varint_at(self._data, self._at)
        except NeedMoreError:
            raise DamageError("expected a number, got its beginning") from None
        return value

    def text(self) -> str:
        """The next text: its size as a varint, then UTF-8."""
        try:
            return self.take(self.varint()).decode("utf-8")
        except UnicodeDecodeError as error:
            raise DamageError(f"expected UTF-8 text ({error})") from None


def _text(value: str) -> bytes:
    data = value.encode("utf-8")
    return varint(len(data)) + data


# ---- header, packets and tail


@dataclass(frozen=True)
class AtokHeader:
    """Header of a file.

    Attributes:
        codec: name of the codec.
        codes_fingerprint: 16 hex digits that identify its encoder and quantiser.
        sampling_rate: of the sound, in Hz.
        hop_length: samples per frame.
        codebook_sizes: V of every codebook in the file; their number is K.
        packet_frames: frames in every packet but the last.
        channels: of the sound.
        num_samples: length of the sound per channel, or None if it is not known.
        coding: RAW, ADAPTIVE or LEARNT.
        model_fingerprint: 8 hex digits of the entropy model for LEARNT, else empty.
        scale_frames: frames per scale (a float32 that multiplies the decoded sound); 0 if there are none.
        metadata: texts by name. Known names: ``transcript``, ``speaker``, ``licence``, ``generated``.

    Raises:
        AtokError: a field is out of its range.
    """

    codec: str
    codes_fingerprint: str
    sampling_rate: int
    hop_length: int
    codebook_sizes: tuple[int, ...]
    packet_frames: int
    channels: int = 1
    num_samples: int | None = None
    coding: int = 0
    model_fingerprint: str = ""
    scale_frames: int = 0
    metadata: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rules = {}
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not isinstance(value, int) or not low <= value <= high:
                rules[name] = f"a number in {low} to {high}"
        sizes = self.codebook_sizes
        if not 1 <= len(sizes) <= MAX_CODEBOOKS or not all(2 <= v <= MAX_CODEBOOK_SIZE for v in sizes):
            rules["codebook_sizes"] = f"1 to {MAX_CODEBOOKS} sizes of 2 to {MAX_CODEBOOK_SIZE}"
        if self.num_samples is not None and not 0 <= self.num_samples < _UNKNOWN:
            rules["num_samples"] = "None or 0 to 2^40 - 2"
        if not re.fullmatch("[0-9a-f]{16}", str(self.codes_fingerprint)):
            rules["codes_fingerprint"] = "16 hex digits"
        if not re.fullmatch("[0-9a-f]{8}" if self.coding == LEARNT else "", str(self.model_fingerprint)):
            rules["model_fingerprint"] = "8 hex digits, or empty without a model"
        if not all(_is_unicode(value) for pair in self.metadata.items() for value in pair):
            rules["metadata"] = "Unicode texts by name"
        if not _is_unicode(self.codec):
            rules["codec"] = "a Unicode text"
        if not rules and self.scale_frames and self.packet_frames % self.scale_frames:
            rules["packet_frames"] = f"a multiple of scale_frames = {self.scale_frames}"
        for name, rule in rules.items():
            raise AtokError(f"expected {name} of the header to be {rule}, got {getattr(self, name)!r}")

    @property
    def n_q(self) -> int:
        """Number of codebooks K."""
        return len(self.codebook_sizes)

    @property
    def frame_rate(self) -> float:
        """Frames per second, in Hz."""
        return self.sampling_rate / self.hop_length

    @property
    def bitrate_bps(self) -> float:
        """Bits per second before entropy coding."""
        return sum(map(raw_bits, self.codebook_sizes)) * self.frame_rate

    def scales_of(self, frames: int) -> int:
        """Number of scales that belong to ``frames`` frames."""
        return -(-frames // self.scale_frames) if self.scale_frames else 0

    def with_n_q(self, n_q: int) -> AtokHeader:
        """The header of the same file with its first ``n_q`` codebooks. AtokError: the file has fewer."""
        if not isinstance(n_q, int) or not 1 <= n_q <= self.n_q:
            raise AtokError(f"expected n_q in 1..{self.n_q}, which the file holds; got {n_q!r}")
        return replace(self, codebook_sizes=self.codebook_sizes[:n_q])

    def check_codec(self, path: object, codec: str, codes_fingerprint: str) -> None:
        """AtokError unless ``codes_fingerprint`` is that of the file; the message names both codecs."""
        if codes_fingerprint != self.codes_fingerprint:
            raise AtokError(
                f"{path}: expected codes of the codec {codec!r} (fingerprint {codes_fingerprint}), got codes of "
                f"{self.codec!r} (fingerprint {self.codes_fingerprint}); pass --codec and the codec that made them"
            )

    def to_bytes(self) -> bytes:
        """The body of the header's frame. AtokError: the metadata is too large."""
        uniform = len(set(self.codebook_sizes)) == 1
        flags = _SCALES * bool(self.scale_frames) | _METADATA * bool(self.metadata) | _SIZES * (not uniform)
        numbers = (self.sampling_rate, self.channels, self.hop_length, self.packet_frames, self.n_q)
        data = bytes([flags, self.coding]) + bytes.fromhex(self.codes_fingerprint + self.model_fingerprint)
        data += b"".join(map(varint, (*numbers, *self.codebook_sizes[: 1 if uniform else None])))
        data += (_UNKNOWN if self.num_samples is None else self.num_samples).to_bytes(5, "little")
        data += _text(self.codec)
        if self.scale_frames:
            data += varint(self.scale_frames)
        if self.metadata:
            data += _text(
                json.dumps(self.metadata, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
            )
        if len(data) > MAX_HEADER_BYTES:
            raise AtokError(
                f"expected a header of {MAX_HEADER_BYTES} bytes at most, got {len(data)}; cut its metadata"
            )
        return data

    @classmethod
    def from_bytes(cls, cursor: Cursor) -> AtokHeader:
        """Parse the body of the header's frame. AtokError: a field is out of range. DamageError: it is not a header."""
        flags, coding = cursor.take(2)
        if flags >= 8 or coding >= len(CODINGS):
            raise DamageError(f"expected a header of this version, got flags {flags} and coding {coding}")
        fingerprint = cursor.take(8).hex()
        model = cursor.take(4).hex() if coding == LEARNT else ""
        rate, channels, hop, packet_frames, n_q = (cursor.varint() for _ in range(5))
        if n_q > MAX_CODEBOOKS:
            raise DamageError(f"expected at most {MAX_CODEBOOKS} codebooks, got {n_q}")
        sizes = tuple(cursor.varint() for _ in range(n_q)) if flags & _SIZES else (cursor.varint(),) * n_q
        samples = int.from_bytes(cursor.take(5), "little")
        name = cursor.text()
        scale_frames = cursor.varint() if flags & _SCALES else 0
        try:
            metadata = json.loads(cursor.text()) if flags & _METADATA else {}
        except (ValueError, RecursionError) as error:
            raise DamageError(f"expected metadata as JSON ({error})") from None
        if not isinstance(metadata, dict):
            raise DamageError(f"expected metadata by name, got {type(metadata).__name__}")
        return cls(
            name, fingerprint, rate, hop, sizes, packet_frames, channels,
            None if samples == _UNKNOWN else samples, coding, model, scale_frames, metadata,
        )  # fmt: skip


def _is_unicode(value: str) -> bool:
    """Whether the value is a text that can be stored as UTF-8. Some file names cannot."""
    return isinstance(value, str) and value == value.encode("utf-8", "replace").decode("utf-8")


@dataclass(frozen=True)
class Packet:
    """A number of frames of a file that can be decoded independently.

    Attributes:
        number: its position; the first frame is ``number * header.packet_frames``.
        frames: T.
        layers: one per codebook, see :class:`~audiotok.bitstream.entropy.LayerCoder`.
        scales: one per ``header.scale_frames`` frames, rounded up.
        trim: padding samples at the end, in the last packet of a pipe, whose header cannot state the length.
    """

    number: int
    frames: int
    layers: tuple[bytes, ...]
    scales: tuple[float, ...] = ()
    trim: int = 0

    def to_bytes(self) -> bytes:
        """The packet as a frame."""
        parts = [varint(self.number), varint(self.frames), varint(self.trim) if self.trim else b""]
        parts.append(struct.pack(f"<{len(self.scales)}f", *self.scales))
        parts += [varint(len(layer)) for layer in self.layers[:-1]]
        return frame(LAST_MARK if self.trim else PACKET_MARK, b"".join([*parts, *self.layers]))


class Found(NamedTuple):
    """A packet in a stream, with its position and size in bytes."""

    at: int
    size: int
    packet: Packet


@dataclass(frozen=True)
class Tail:
    """End of a file.

    Attributes:
        header: a copy of the header, with the length.
        frames: T of the whole file.
        sizes: bytes of every packet in order of its number; 0 where one is missing.
    """

    header: AtokHeader
    frames: int
    sizes: tuple[int, ...]

    def to_bytes(self) -> bytes:
        """The tail as a frame, and the size of that frame."""
        numbers = (self.frames, len(self.sizes), *self.sizes)
        data = frame(TAIL_MARK, self.header.to_bytes() + b"".join(map(varint, numbers)))
        return data + len(data).to_bytes(TAIL_SIZE_BYTES, "little")

    @classmethod
    def from_body(cls, body: bytes) -> Tail:
        """Parse the body of a tail's frame. DamageError or AtokError: it is not one."""
        cursor = Cursor(body)
        header = AtokHeader.from_bytes(cursor)
        frames, count = cursor.varint(), cursor.varint()
        if count > cursor.left or frames > count * header.packet_frames:
            raise DamageError(
                f"expected an index of {count} packets for {frames} frames, got {cursor.left} bytes"
            )
        return cls(header, frames, tuple(cursor.varint() for _ in range(count)))


def head_bytes(header: AtokHeader) -> bytes:
    """Beginning of a file: magic, version and header."""
    return MAGIC + bytes([VERSION]) + frame(HEADER_MARK, header.to_bytes())


def read_head(data: bytes | bytearray) -> tuple[AtokHeader, int]:
    """The header at the beginning of a file, and the position after it.

    Raises:
        AtokError: this is not an ``.atok`` file, or one of another version.
        DamageError: the header is damaged.
        NeedMoreError: ``data`` ends before the header does.
    """
    start = bytes(data[: len(MAGIC)])
    if start != MAGIC[: len(start)]:
        raise AtokError(f"expected an .atok file, got one that begins with {start!r}")
    if len(data) <= len(MAGIC):
        raise NeedMoreError
    if data[len(MAGIC)] != VERSION:
        raise AtokError(f"expected version {VERSION} of the .atok format, got {data[len(MAGIC)]}")
    body, end = frame_at(data, HEADER_MARK, MAX_HEADER_BYTES, len(MAGIC) + 1)
    return AtokHeader.from_bytes(Cursor(body)), end


def read_packet(header: AtokHeader, data: bytes | bytearray) -> tuple[Packet, int]:
    """The packet whose frame ``data`` begins with, and the position after it. Raises as :func:`frame_at`."""
    # No layer is larger than a raw one.
    largest = 16 + 4 * header.scales_of(header.packet_frames)
    largest += sum(-(-header.packet_frames * raw_bits(size) // 8) + 3 for size in header.codebook_sizes)
    mark = LAST_MARK if data[:1] == bytes([LAST_MARK]) else PACKET_MARK
    body, end = frame_at(data, mark, largest)
    cursor = Cursor(body)
    number, frames = cursor.varint(), cursor.varint()
    if number >= _MAX_NUMBER or not 1 <= frames <= header.packet_frames:
        raise DamageError(f"expected 1 to {header.packet_frames} frames, got {frames} in packet {number}")
    trim = cursor.varint() if mark == LAST_MARK else 0
    if trim >= header.hop_length:
        raise DamageError(f"expected less than a frame of padding, got {trim} samples")
    count = header.scales_of(frames)
    scales = struct.unpack(f"<{count}f", cursor.take(4 * count))
    sizes = [cursor.varint() for _ in range(header.n_q - 1)]
    layers = [cursor.take(size) for size in sizes]
    return Packet(number, frames, (*layers, cursor.take(cursor.left)), scales, trim), end


class PacketScanner:
    """Finds packets in bytes that arrive in pieces, from a pipe or a file without an index.

    Args:
        header: of the file, if the bytes begin after it; None reads it.

    Attributes:
        header: None until it has been read.
        tail: None until it has been read.
        tail_end: position after the tail's frame; None until it has been read.
        damaged_bytes: bytes so far that belong to no whole packet.
        packets: whole packets so far.
    """

    def __init__(self, header: AtokHeader | None = None) -> None:
        self.header, self.tail, self.tail_end = header, None, None
        self.damaged_bytes = self.packets = 0
        self._held = bytearray()
        self._at = 0  # of the first byte held
        self._next = 0  # number after the highest so far

    def feed(self, data: bytes) -> list[Found]:
        """Parse the next bytes and return the packets that they complete.

        Raises:
            AtokError: the stream does not begin with a header, or a megabyte contained no packet.
        """
        self._held += data
        if self.header is None:
            try:
                self.header, end = read_head(self._held)
            except NeedMoreError:
                return []
            except DamageError as error:
                raise AtokError(f"the header is damaged ({error}), and a pipe has no copy") from None
            self._drop(end, damaged=False)
        return self._scan(self.header, more=True)

    def finish(self) -> list[Found]:
        """End the stream and return the remaining packets. AtokError: there was no header."""
        if self.header is None:
            raise AtokError(f"expected an .atok stream, got {len(self._held)} bytes without a header")
        return self._scan(self.header, more=False)

    def _scan(self, header: AtokHeader, more: bool) -> list[Found]:
        """Parse packets. With ``more``, bytes may follow, and an incomplete frame is kept."""
        found = []
        while self._held and self.tail is None:
            try:
                if self._held[0] == TAIL_MARK:
                    # The largest size limits the wait for damaged bytes that look like a tail.
                    largest = len(header.to_bytes()) + 32 + 4 * (self._next + 64 + self.damaged_bytes)
                    body, end = frame_at(self._held, TAIL_MARK, largest)
                    self.tail, self.tail_end = Tail.from_body(body), self._at + end
                else:
                    packet, end = read_packet(header, self._held)
                    found.append(Found(self._at, end, packet))
                    self._next = max(self._next, packet.number + 1)
                    self.packets += 1
                self._drop(end, damaged=False)
            except NeedMoreError:
                if more:
                    break
                self._to_next_mark()
            except (DamageError, AtokError):
                self._to_next_mark()
        return found

    def _to_next_mark(self) -> None:
        places = [at for mark in (PACKET_MARK, LAST_MARK, TAIL_MARK) if (at := self._held.find(mark, 1)) > 0]
        self._drop(min(places, default=len(self._held)), damaged=True)
        if not self.packets and self.damaged_bytes > _PATIENCE_BYTES:
            raise AtokError(f"expected packets, got {self.damaged_bytes} bytes without one; copy it again")

    def _drop(self, count: int, damaged: bool) -> None:
        del self._held[:count]
        self._at += count
        self.damaged_bytes += count * damaged
