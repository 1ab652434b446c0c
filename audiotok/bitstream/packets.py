"""Packets and the tail of an ``.atok`` file as bytes, and finding them in bytes that arrive in any pieces.

Knows nothing of what the layers hold. The law it keeps: a packet comes back as it was written or not at all, and damage
costs the packets that it touches and no other. FORMAT.md has the bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from .header import MAX_HEADER_BYTES, AtokError, AtokHeader
from .layers import raw_bits
from .wire import Cursor, DamageError, NeedMoreError, frame, frame_at, varint

MAGIC = b"ATOK"
VERSION = 1
HEADER_MARK, PACKET_MARK, LAST_MARK, TAIL_MARK = 0xA7, 0xB3, 0xB5, 0xC9
TAIL_SIZE_BYTES = 4
# Beyond this much of something else there will be no packet either.
_PATIENCE_BYTES = 1 << 20
_MAX_NUMBER = 1 << 40


@dataclass(frozen=True)
class Packet:
    """Some frames of a file, independent of all others.

    Attributes:
        number: its place; the first frame is ``number * header.packet_frames``.
        frames: T.
        layers: one codebook each, lowest first; see :mod:`~audiotok.bitstream.layers`.
        scales: one for every ``header.scale_frames`` frames begun.
        trim: samples at the end that are padding, said in the last packet on a pipe, where no header could tell.
    """

    number: int
    frames: int
    layers: tuple[bytes, ...]
    scales: tuple[float, ...] = ()
    trim: int = 0

    def with_n_q(self, n_q: int) -> Packet:
        """The packet's first ``n_q`` codebooks."""
        return replace(self, layers=self.layers[:n_q])

    def to_bytes(self) -> bytes:
        """The packet as a frame."""
        parts = [varint(self.number), varint(self.frames), varint(self.trim) if self.trim else b""]
        parts.append(struct.pack(f"<{len(self.scales)}f", *self.scales))
        parts += [varint(len(layer)) for layer in self.layers[:-1]]
        return frame(LAST_MARK if self.trim else PACKET_MARK, b"".join([*parts, *self.layers]))


class Found(NamedTuple):
    """A packet among bytes: where it begins, how many bytes it takes, and what it is."""

    at: int
    size: int
    packet: Packet


@dataclass(frozen=True)
class Tail:
    """What stands behind the packets.

    Attributes:
        header: a copy of the header, with what was known at the end.
        frames: T of the whole file.
        sizes: bytes of every packet in order of its number; 0 where one is missing.
    """

    header: AtokHeader
    frames: int
    sizes: tuple[int, ...]

    def to_bytes(self) -> bytes:
        """The tail as a frame, then the size of that frame."""
        parts = [
            self.header.to_bytes(),
            varint(self.frames),
            varint(len(self.sizes)),
            *map(varint, self.sizes),
        ]
        data = frame(TAIL_MARK, b"".join(parts))
        return data + len(data).to_bytes(TAIL_SIZE_BYTES, "little")

    @classmethod
    def from_body(cls, body: bytes) -> Tail:
        """Read the body of a tail's frame; DamageError or AtokError if it is none."""
        cursor = Cursor(body)
        header = AtokHeader.from_bytes(cursor)
        frames, count = cursor.varint(), cursor.varint()
        if count > cursor.left or frames > count * header.packet_frames:
            raise DamageError(
                f"expected an index of {count} packets for {frames} frames, got {cursor.left} bytes"
            )
        return cls(header, frames, tuple(cursor.varint() for _ in range(count)))


def head_bytes(header: AtokHeader) -> bytes:
    """What a file begins with: the magic, the version and the header."""
    return MAGIC + bytes([VERSION]) + frame(HEADER_MARK, header.to_bytes())


def read_head(data: bytes | bytearray) -> tuple[AtokHeader, int]:
    """The header that a file begins with, and where it ends.

    Raises:
        AtokError: this is no ``.atok`` file, or one of another version.
        DamageError: the header is damaged.
        NeedMoreError: it has not come yet.
    """
    start = bytes(data[: len(MAGIC)])
    if start != MAGIC[: len(start)]:
        raise AtokError(
            f"expected an .atok file, got one that begins with {start!r}; make one with 'audiotok encode'"
        )
    if len(data) <= len(MAGIC):
        raise NeedMoreError
    if data[len(MAGIC)] != VERSION:
        raise AtokError(
            f"expected version {VERSION} of the .atok format, got {data[len(MAGIC)]}; read it with the version of "
            "audiotok that wrote it"
        )
    body, end = frame_at(data, len(MAGIC) + 1, HEADER_MARK, MAX_HEADER_BYTES)
    return AtokHeader.from_bytes(Cursor(body)), end


def largest_packet(header: AtokHeader) -> int:
    """Bytes that a packet's body can have: no layer is larger than a raw one."""
    raw = sum(-(-header.packet_frames * raw_bits(size) // 8) + 3 for size in header.book_sizes)
    scales = -(-header.packet_frames // header.scale_frames) if header.scale_frames else 0
    return 16 + 4 * scales + raw


def parse_packet(header: AtokHeader, body: bytes, mark: int = PACKET_MARK) -> Packet:
    """The body of a packet's frame, and the frame's mark -> the packet.

    Raises:
        DamageError: it is no packet of this file.
    """
    cursor = Cursor(body)
    number, frames = cursor.varint(), cursor.varint()
    if number >= _MAX_NUMBER or not 1 <= frames <= header.packet_frames:
        raise DamageError(
            f"expected a packet of 1 to {header.packet_frames} frames, got {frames} in number {number}"
        )
    trim = cursor.varint() if mark == LAST_MARK else 0
    if trim >= header.hop_length:
        raise DamageError(f"expected less than a frame of padding, got {trim} samples")
    count = -(-frames // header.scale_frames) if header.scale_frames else 0
    scales = struct.unpack(f"<{count}f", cursor.take(4 * count))
    sizes = [cursor.varint() for _ in range(header.n_q - 1)]
    layers = [cursor.take(size) for size in sizes]
    return Packet(number, frames, (*layers, cursor.take(cursor.left)), scales, trim)


def packet_at(header: AtokHeader, data: bytes | bytearray, at: int) -> tuple[Packet, int]:
    """The packet whose frame begins at ``at``, and where it ends; raises as ``wire.frame_at`` does."""
    mark = LAST_MARK if data[at : at + 1] == bytes([LAST_MARK]) else PACKET_MARK
    body, end = frame_at(data, at, mark, largest_packet(header))
    return parse_packet(header, body, mark), end


class PacketScanner:
    """Finds packets in bytes that arrive in any pieces: on a pipe, or in a file whose index is lost.

    Args:
        header: if it is known already and the bytes begin behind it; None waits for it.

    Attributes:
        header: None until it has come.
        tail: None until it has come.
        tail_end: bytes up to the end of its frame, counted as :class:`Found` does; None until it has come.
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
        """Take the next bytes, return the packets they complete.

        Raises:
            AtokError: no header stands at the beginning, or so much has come without a packet that there is none.
        """
        self._held += data
        if self.header is None and not self._read_head():
            return []
        return self._scan(more=True)

    def finish(self) -> list[Found]:
        """Say that no more bytes come; returns the packets that were only waited for.

        Raises:
            AtokError: there was no header.
        """
        if self.header is None:
            raise AtokError(
                f"expected an .atok stream as 'audiotok encode - -' writes it, got {len(self._held)} bytes without a "
                "header; look at what is on the pipe"
            )
        return self._scan(more=False)

    def _read_head(self) -> bool:
        try:
            self.header, end = read_head(self._held)
        except NeedMoreError:
            return False
        except DamageError as error:
            raise AtokError(
                f"the header is damaged ({error}); a file may hold a copy, a pipe cannot"
            ) from None
        self._drop(end, damaged=False)
        return True

    def _scan(self, more: bool) -> list[Found]:
        """``more``: bytes may follow, so that a frame's beginning is worth waiting for."""
        assert self.header is not None
        found = []
        while self._held and self.tail is None:
            try:
                if self._held[0] == TAIL_MARK:
                    body, end = frame_at(self._held, 0, TAIL_MARK, self._largest_tail())
                    self.tail, self.tail_end = Tail.from_body(body), self._at + end
                else:
                    packet, end = packet_at(self.header, self._held, 0)
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

    def _largest_tail(self) -> int:
        """Bytes that a tail can have here, so that damage that looks like one is not waited for long."""
        assert self.header is not None
        return len(self.header.to_bytes()) + 32 + 4 * (self._next + 64 + self.damaged_bytes)

    def _to_next_mark(self) -> None:
        places = [at for mark in (PACKET_MARK, LAST_MARK, TAIL_MARK) if (at := self._held.find(mark, 1)) > 0]
        self._drop(min(places, default=len(self._held)), damaged=True)
        if not self.packets and self.damaged_bytes > _PATIENCE_BYTES:
            raise AtokError(
                f"expected packets, got {self.damaged_bytes} bytes without a whole one; copy it again"
            )

    def _drop(self, count: int, damaged: bool) -> None:
        del self._held[:count]
        self._at += count
        self.damaged_bytes += count * damaged


def index_of(sizes: Sequence[int], start: int) -> list[int]:
    """Sizes of packets -> where each begins, the first at ``start``."""
    places, at = [], start
    for size in sizes:
        places.append(at)
        at += size
    return places
