"""Packets of a live stream: codes on a pipe, every piece readable on its own.

An interim format (the ``.atok`` container will take it over). Knows nothing of sound or networks. The law it keeps: a
packet comes back bit for bit or not at all, and damage costs the packets that it touches and no other.

A packet, little endian::

    4 bytes   b"aPk1"
    8         the codec's codes_fingerprint
    4         number of the first frame, counted from 0; where it jumps, frames are missing
    2         frames T
    2         samples at the end of the last frame that are padding, in the last packet
    1         n_q, the codebooks K
    1         bits of a code, the least that hold codebook_size - 1
    1         1 in the last packet of a stream, which may have no frame, else 0
    1         0
    4         CRC-32 of the 24 bytes before
    ...       the codes, frame by frame, codebook 0 first, highest bit first, filled up to whole bytes
    4         CRC-32 of the codes' bytes
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

MAGIC = b"aPk1"
_HEAD = struct.Struct("<4s8sIHHBBBB")
_CRC = struct.Struct("<I")
_LARGEST_BITS = 16
# Beyond this much of something else there will be no packet either.
_PATIENCE_BYTES = 1 << 20


class PacketError(ValueError):
    """A stream of packets that cannot be read; the text says what was expected, what came, and what to do."""


@dataclass(frozen=True)
class Packet:
    """Some frames of a stream.

    Attributes:
        codes_fingerprint: 16 hex digits of the codec that can read them.
        first_frame: number of the first frame in the stream.
        codes: [K, T] int64 in [0, V), T >= 0.
        codebook_size: V; when read, the power of two that the bits of a code can hold.
        trim: samples at the end that are padding.
        is_last: whether the stream ends here.
    """

    codes_fingerprint: str
    first_frame: int
    codes: Tensor
    codebook_size: int
    trim: int = 0
    is_last: bool = False


def pack(packet: Packet) -> bytes:
    """A packet as bytes.

    Raises:
        PacketError: a number does not fit the format.
    """
    n_q, frames = packet.codes.shape
    bits = max(1, (packet.codebook_size - 1).bit_length())
    try:
        head = _HEAD.pack(
            MAGIC, bytes.fromhex(packet.codes_fingerprint), packet.first_frame, frames, packet.trim,
            n_q, bits, packet.is_last, 0,
        )  # fmt: skip
    except struct.error as error:
        raise PacketError(
            f"expected a packet within the format's limits, got {frames} frames x {n_q} from frame "
            f"{packet.first_frame} ({error}); send smaller packets"
        ) from None
    codes = packet.codes.to("cpu", torch.int64).t().reshape(-1, 1).numpy()
    payload = np.packbits(((codes >> np.arange(bits)[::-1]) & 1).astype(np.uint8)).tobytes()
    return head + _CRC.pack(zlib.crc32(head)) + payload + _CRC.pack(zlib.crc32(payload))


class PacketReader:
    """Finds packets in bytes that arrive in any pieces.

    Attributes:
        damaged_bytes: bytes so far that belong to no whole packet.
        packets: whole packets so far.
    """

    def __init__(self) -> None:
        self._held = bytearray()
        self.damaged_bytes = 0
        self.packets = 0

    def feed(self, data: bytes) -> list[Packet]:
        """Take the next bytes, return the packets they complete.

        Raises:
            PacketError: so much has come without a packet in it that this is something else.
        """
        self._held += data
        found = []
        while self._to_magic() and (size := self._size()):
            payload = bytes(self._held[_HEAD.size + _CRC.size : size - _CRC.size])
            if _CRC.unpack_from(self._held, size - _CRC.size)[0] == zlib.crc32(payload):
                found.append(_unpack(self._held, payload))
                self.packets += 1
                del self._held[:size]
            else:
                self._drop(len(MAGIC))
        if not self.packets and self.damaged_bytes > _PATIENCE_BYTES:
            raise self.nothing()
        return found

    def nothing(self) -> PacketError:
        """The error for a stream without a packet."""
        got = self.damaged_bytes + len(self._held)
        return PacketError(
            f"expected packets as 'audiotok encode - -' writes them, got {got} bytes without a whole one; "
            "look at what is on the pipe"
        )

    def _to_magic(self) -> bool:
        """Drop what stands before the next packet's beginning; whether a whole head follows it."""
        at = self._held.find(MAGIC)
        # The last bytes may be the beginning of the magic.
        self._drop(at if at >= 0 else max(0, len(self._held) - len(MAGIC) + 1))
        return len(self._held) >= _HEAD.size + _CRC.size and at >= 0

    def _size(self) -> int:
        """Bytes of the packet that begins here, or 0 if they have not all come; drops what only looked like one."""
        while len(self._held) >= _HEAD.size + _CRC.size:
            head = bytes(self._held[: _HEAD.size])
            _, _, _, frames, _, n_q, bits, _, _ = _HEAD.unpack(head)
            if _CRC.unpack_from(self._held, _HEAD.size)[0] == zlib.crc32(head) and bits <= _LARGEST_BITS:
                size = _HEAD.size + 2 * _CRC.size + -(-frames * n_q * bits // 8)
                return size if len(self._held) >= size else 0
            self._drop(len(MAGIC))
            if not self._to_magic():
                break
        return 0

    def _drop(self, count: int) -> None:
        del self._held[:count]
        self.damaged_bytes += count


def _unpack(packet: bytes | bytearray, payload: bytes) -> Packet:
    """A packet whose checksums were right."""
    _, fingerprint, first_frame, frames, trim, n_q, bits, is_last, _ = _HEAD.unpack_from(packet)
    flags = np.unpackbits(np.frombuffer(payload, dtype=np.uint8), count=frames * n_q * bits)
    codes = flags.reshape(frames, n_q, bits).astype(np.int64) @ (1 << np.arange(bits)[::-1])
    return Packet(fingerprint.hex(), first_frame, torch.from_numpy(codes).t(), 1 << bits, trim, bool(is_last))
