"""Headers of audio containers: WAV variants, Ogg pages and the MP3 frame count."""

from __future__ import annotations

import os
import re
import struct
import tempfile
import zlib
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

MAX_RATE_HZ, MAX_CHANNELS = 1_000_000, 65_535
PCM_BYTES = {"u8": 1, "s16le": 2, "s24le": 3, "s32le": 4, "f32le": 4, "f64le": 8}
"""Raw sample formats by ffmpeg's names, with their size in bytes."""

READ_BYTES = 1 << 16
MAX_CHUNKS = 1000
_MAX_CHUNK_BYTES = 1 << 12  # bytes kept of a chunk; the rest is skipped
_KEPT_IN_MEMORY = 1 << 24
_SPARE_BYTES = 64  # tolerated excess of a stated size: some writers count the header
_RIFF = {b"RIFF": "<", b"RF64": "<", b"RIFX": ">"}
_W64_ID = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_WAV_KINDS = {(1, 8): "u8", (1, 16): "s16", (1, 24): "s24", (1, 32): "s32", (3, 32): "f32", (3, 64): "f64"}
_EXTENSIBLE = 0xFFFE
# Writers without a known length store 0, 0xFFFFFFFF (ffmpeg), 0x7FFFF000 (sox) or 0x7FFFFFFF and 0x80000000
# (arecord), some of them less the size of the header.
_UNKNOWN_SIZES = (range(1), range(0x7FFF_0000, 0x8000_0001), range(0xFFFF_0000, 0x1_0000_0000))
_OGG_EOS, _OGG_BOS = 4, 2
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class AudioError(ValueError):
    """Audio that cannot be read or written. The message names the file, the fault and the remedy."""


@dataclass(frozen=True)
class Pcm:
    """Layout of raw samples.

    Attributes:
        kind: one of :data:`PCM_BYTES`.
        sampling_rate: in Hz.
        channels: interleaved channels.

    Raises:
        AudioError: a value is out of range.
    """

    kind: str
    sampling_rate: int
    channels: int = 1

    def __post_init__(self) -> None:
        known = self.kind in PCM_BYTES or self.kind.replace("be", "le") in PCM_BYTES
        if not known or not 1 <= self.sampling_rate <= MAX_RATE_HZ or not 1 <= self.channels <= MAX_CHANNELS:
            raise AudioError(
                f"expected {', '.join(PCM_BYTES)} at 1 to {MAX_RATE_HZ} Hz with 1 to {MAX_CHANNELS} channels, "
                f"got {self.kind} at {self.sampling_rate} Hz with {self.channels} channels"
            )

    @property
    def frame_bytes(self) -> int:
        """Bytes of one sample of all channels."""
        return PCM_BYTES[self.kind.replace("be", "le")] * self.channels

    def decode(self, data: bytes) -> np.ndarray:
        """Bytes of whole frames -> [n, C] float32 with full scale 1."""
        order = ">" if self.kind.endswith("be") else "<"
        if self.kind == "u8":
            values = (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
        elif self.kind[:3] == "s24":
            wide = np.zeros((len(data) // 3, 4), np.uint8)
            wide[:, slice(1, 4) if order == "<" else slice(0, 3)] = np.frombuffer(data, np.uint8).reshape(
                -1, 3
            )
            values = wide.view(f"{order}i4")[:, 0].astype(np.float32) / np.float32(2**31)
        elif self.kind[0] == "s":
            size = int(self.kind[1:3]) // 8
            values = np.frombuffer(data, f"{order}i{size}").astype(np.float32) / np.float32(
                2 ** (8 * size - 1)
            )
        else:
            values = np.frombuffer(data, f"{order}f{int(self.kind[1:3]) // 8}").astype(np.float32)
        return values.reshape(-1, self.channels)


@dataclass(frozen=True)
class WavHeader:
    """Contents of a wav header.

    Attributes:
        pcm: layout of the samples; None if they are not PCM.
        size: bytes of samples, None if unknown.
        end: where the file ends, None if unknown.
        comment: or None.
        start: where the samples begin.
        order: of bytes, as struct has it.
        is_wide: Wave64.
    """

    pcm: Pcm | None
    size: int | None = None
    end: int | None = None
    comment: str | None = None
    start: int = 0
    order: str = "<"
    is_wide: bool = False

    def is_cut(self, got: int, at: int) -> bool:
        """Whether more than a few bytes of samples are missing and the file is shorter than its header states."""
        missing = 0 if self.size is None else self.size - got
        return missing > _SPARE_BYTES and (self.end is None or self.end > at)


class ByteSource:
    """A binary stream that is read sequentially, with look-ahead."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._held, self.at = stream, b"", 0
        self._header: bytearray | None = bytearray()  # bytes read, while another reader may need them
        self._read: Any = getattr(stream, "read1", stream.read)
        self.can_seek = stream.seekable()

    def peek(self, count: int) -> bytes:
        """The next ``count`` bytes without consuming them, fewer at the end. Blocks until they arrive."""
        while len(self._held) < count and (data := self._read(count - len(self._held))):
            self._held += data
        return self._held[:count]

    def read(self, count: int) -> bytes:
        """At most ``count`` bytes that have arrived; none at the end."""
        data = self._held[:count] or (self._read(count) if count else b"")
        self._held = self._held[len(data) :]
        self.at += len(data)
        if self._header is not None:
            self._header += data
        return data

    def forget(self) -> None:
        """Stop keeping the bytes that are read."""
        self._header = None

    def take(self, count: int) -> bytes:
        """Exactly ``count`` bytes; ValueError at the end."""
        data = self.peek(count)
        if len(data) < count:
            raise ValueError("expected a wav header, got its beginning; copy the file again")
        return self.read(count)

    def skip(self, count: int | None) -> int:
        """Skip ``count`` bytes, or to the end for None. Returns the number of bytes skipped."""
        left = (1 << 62) if count is None else count
        while left and (data := self.read(min(left, READ_BYTES))):
            left -= len(data)
        return (1 << 62 if count is None else count) - left

    def left(self) -> int:
        """Number of remaining bytes of a seekable stream."""
        at = self._stream.tell()
        left = self._stream.seek(0, os.SEEK_END) - at + len(self._held)
        self._stream.seek(at)
        return left

    def tail(self, count: int) -> bytes:
        """The last ``count`` remaining bytes of a seekable stream, without consuming them."""
        at = self._stream.tell()
        self._stream.seek(max(at - len(self._held), self._stream.seek(0, os.SEEK_END) - count))
        data = self._stream.read()
        self._stream.seek(at)
        return data

    def spooled(self) -> Any:
        """Copy the stream from its beginning to a temporary file, which is on disk if it is large."""
        file = tempfile.SpooledTemporaryFile(_KEPT_IN_MEMORY)  # noqa: SIM115  # closed by the reader
        file.write(self._header or b"")
        self.forget()
        while data := self.read(READ_BYTES):
            file.write(data)
        return file


def is_wav(head: bytes) -> bool:
    return (head[:4] in _RIFF and head[8:12] == b"WAVE") or (head[:16] == _W64_ID and head[24:28] == b"wave")


def read_wav_header(source: ByteSource) -> WavHeader:
    """Read a RIFF, RIFX, RF64 or Wave64 header up to the samples. ValueError: it is not one."""
    begin, head = source.at, source.take(12)
    wide, order = head[:4] == b"riff", _RIFF.get(head[:4], "<")
    if wide:
        head += source.take(28)
    (end,) = struct.unpack_from("<Q", head, 16) if wide else struct.unpack_from(f"{order}I", head, 4)
    end = None if not wide and _is_unknown(end) else begin + end + (0 if wide else 8)
    pcm, is_described, long_size, comment = None, False, 0, None
    for _ in range(MAX_CHUNKS):
        if wide:
            chunk, size = source.take(16)[:4], struct.unpack("<Q", source.take(8))[0] - 24
            padding = -size % 8
        else:
            chunk, size = struct.unpack(f"{order}4sI", source.take(8))
            padding = size % 2
        if chunk == b"data":
            break
        if size < 0:
            raise ValueError(f"expected a chunk of at least 24 bytes, got {size + 24}; copy the file again")
        body = source.take(min(size, _MAX_CHUNK_BYTES))
        source.skip(size + padding - len(body))
        if chunk == b"fmt ":
            pcm, is_described = _wav_layout(body, order), True
        elif chunk == b"ds64":
            total, long_size = struct.unpack_from("<QQ", body.ljust(16, b"\0"))
            end = begin + total + 8 if total else None
        elif chunk == b"LIST":
            comment = _info_comment(body, order) or comment
    else:
        raise ValueError(
            "expected samples in the wav file, got chunks of other kinds only; copy the file again"
        )
    if not is_described:
        raise ValueError("expected a wav header that describes its samples, got none; write it again")
    unknown = not 0 < size < 1 << 62 if wide else _is_unknown(size)
    if long_size and long_size < 1 << 62:
        size, unknown = long_size, False
    if size == 0 and source.peek(4) in (b"", b"LIST", b"id3 ", b"bext"):
        unknown = False
    elif unknown and source.can_seek:
        tail = source.tail(READ_BYTES)
        for found in re.finditer(rb"LIST(....)(?:INFO|adtl)", tail, re.DOTALL):
            if len(tail) - found.start() - 8 == int.from_bytes(found[1], "little" if order == "<" else "big"):
                size, unknown = source.left() - len(tail) + found.start(), False
    return WavHeader(pcm, None if unknown else size, end, comment, source.at, order, wide)


def _is_unknown(size: int) -> bool:
    return any(size in sizes for sizes in _UNKNOWN_SIZES)


def _wav_layout(body: bytes, order: str) -> Pcm | None:
    tag, channels, rate, _, _, bits = struct.unpack_from(f"{order}HHIIHH", body.ljust(16, b"\0"))
    if tag == _EXTENSIBLE and len(body) >= 26:
        (tag,) = struct.unpack_from(f"{order}H", body, 24)
    kind = _WAV_KINDS.get((tag, bits))
    if kind is None:
        return None
    return Pcm(kind if kind == "u8" else kind + ("le" if order == "<" else "be"), rate, channels)


def _info_comment(body: bytes, order: str = "<") -> str | None:
    """The comment in the body of a ``LIST`` chunk, or None."""
    at = 4
    while body[:4] == b"INFO" and at + 8 <= len(body):
        name, size = struct.unpack_from(f"{order}4sI", body, at)
        if name == b"ICMT":
            return body[at + 8 : at + 8 + size].split(b"\0")[0].decode("utf-8", "replace") or None
        at += 8 + size + size % 2
    return None


def check_ogg(file: BinaryIO) -> list[int]:
    """Check every page of an Ogg file (RFC 3533).

    Returns:
        the final position of each of its streams, in samples.

    Raises:
        ValueError: a page is damaged or missing, or a stream has no end.
    """
    at, ends = 0, []
    streams: dict[int, tuple[int, int]] = {}  # serial number -> number of the last page, position
    while any(head := file.read(27)):  # zeros may follow the last page
        lacing = file.read(head[26]) if len(head) == 27 else b""
        body = file.read(sum(lacing))
        if head[:4] != b"OggS" or len(head) < 27 or len(lacing) < head[26] or len(body) < sum(lacing):
            raise ValueError(f"damaged or cut off at byte {at} (expected a whole Ogg page); copy it again")
        granule, serial, number, crc = struct.unpack_from("<qIII", head, 6)
        if _ogg_crc(head[:22] + bytes(4) + head[26:] + lacing + body) != crc:
            raise ValueError(f"damaged at byte {at} (wrong checksum of an Ogg page); copy it again")
        before, position = streams.get(serial, (-1, 0))
        if bool(head[5] & _OGG_BOS) != (serial not in streams) or (
            serial in streams and number != before + 1
        ):
            raise ValueError(f"damaged at byte {at} (pages of the Ogg stream are missing); copy it again")
        streams[serial] = number, max(granule, position)
        if head[5] & _OGG_EOS:
            ends.append(streams.pop(serial)[1])
        at += 27 + len(lacing) + len(body)
    if streams:
        raise ValueError("the file is cut off (its Ogg stream has no last page); copy it again")
    return ends


def _ogg_crc(data: bytes) -> int:
    """CRC-32 of RFC 3533, computed by zlib on bit-reversed bytes without its inversions."""
    value = zlib.crc32(data.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(value.to_bytes(4, "big").translate(_REVERSED_BITS), "little")


def mp3_samples(file: BinaryIO) -> int | None:
    """Number of samples stated by the first frame of an MP3 file, padding included, or None."""
    at = 0
    while (head := file.read(10))[:3] == b"ID3" and len(head) == 10:
        at += _tag_bytes(head)
        file.seek(at)
    # Flag 1 of the four bytes after Xing or Info: the count follows.
    count = rb"(?:(?:Xing|Info)...[\x01\x03\x05\x07\x09\x0b\x0d\x0f]|VBRI.{10})(.{4})"
    found = re.search(rb"\xff([\xe2-\xff]).{2,40}" + count, head + file.read(2048), re.DOTALL)
    if found is None:
        return None
    per_frame = 1152 if found[1][0] & 0x08 else 576
    return per_frame * int.from_bytes(found[2], "big")


def _tag_bytes(head: bytes) -> int:
    """Size of the ID3v2 tag that begins with these 10 bytes."""
    return 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=False))


def without_tag(data: bytes) -> bytes | None:
    """The bytes after the tags at the start of an MP3 packet; None if it does not start with a tag."""
    if not any(data) or data.startswith((b"APETAGEX", b"LYRICSBEGIN")):
        return b""
    if data.startswith(b"ID3"):
        rest = data[_tag_bytes(data) :]
    elif data.startswith(b"TAG"):
        rest = data[128:]
    else:
        return None
    return without_tag(rest) if rest.startswith((b"ID3", b"TAG", b"APETAGEX")) else rest
