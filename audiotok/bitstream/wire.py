"""Numbers and frames as bytes: what header, packets and tail of a file have in common.

Knows nothing of what they mean. The law it keeps: nothing is read beyond what is there, and nothing is believed before
its checksum was right.

A frame is ``mark (1 byte), size (varint), body (size bytes), CRC-32C of all that (4 bytes, little endian)``. A varint
has 7 bits a byte, lowest first, the top bit set in all but the last; at most 8 bytes.
"""

from __future__ import annotations

import google_crc32c

CRC_BYTES = 4
_VARINT_BYTES = 8


class DamageError(ValueError):
    """Bytes that are not what they should be; the text says what was expected and what came."""


class NeedMoreError(Exception):
    """The bytes so far are the beginning of something; the rest has not come."""


def crc(data: bytes) -> bytes:
    """CRC-32C (Castagnoli, RFC 3720) of ``data``, 4 bytes, little endian."""
    return int(google_crc32c.value(data)).to_bytes(CRC_BYTES, "little")


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
    return data + crc(data)


def frame_at(data: bytes | bytearray | memoryview, at: int, mark: int, largest: int) -> tuple[bytes, int]:
    """The frame that begins at ``at``.

    Args:
        data: bytes.
        at: where the mark must stand.
        mark: of the frame.
        largest: bytes that its body has at most.

    Returns:
        its body, and where it ends.

    Raises:
        DamageError: there is no whole, undamaged frame.
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
    if end + CRC_BYTES > len(data):
        raise NeedMoreError
    if crc(bytes(data[at:end])) != bytes(data[end : end + CRC_BYTES]):
        raise DamageError("expected another checksum, these bytes are damaged")
    return bytes(data[start:end]), end + CRC_BYTES


def _varint_at(data: bytes | bytearray | memoryview, at: int) -> tuple[int, int]:
    """The number that begins at ``at``, and where it ends.

    Raises:
        DamageError: it has no end.
        NeedMoreError: ``data`` ends before it does.
    """
    value = 0
    for i in range(_VARINT_BYTES):
        if at + i >= len(data):
            raise NeedMoreError
        byte = data[at + i]
        value |= (byte & 0x7F) << 7 * i
        if not byte & 0x80:
            return value, at + i + 1
    raise DamageError("expected a number, got one without an end")


class Cursor:
    """Reads fields one after the other from a body whose checksum was right.

    Args:
        data: the body.
    """

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def left(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes; DamageError if there are fewer."""
        if count > self.left:
            raise DamageError(f"expected {count} bytes more, got {self.left}")
        self._at += count
        return self._data[self._at - count : self._at]

    def varint(self) -> int:
        """The next number; DamageError if it has no end."""
        try:
            value, self._at = _varint_at(self._data, self._at)
        except NeedMoreError:
            raise DamageError("expected a number, got its beginning") from None
        return value

    def text(self) -> str:
        """The next text: a varint with its bytes, then UTF-8; DamageError if it is none."""
        try:
            return self.take(self.varint()).decode("utf-8")
        except UnicodeDecodeError as error:
            raise DamageError(f"expected UTF-8 text ({error})") from None


def text(value: str) -> bytes:
    """A text as :meth:`Cursor.text` reads it."""
    data = value.encode("utf-8")
    return varint(len(data)) + data
