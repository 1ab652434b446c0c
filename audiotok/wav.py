"""What counts as a wav, for all who take one: readers of files and pipes, preparation, the codec.

Imports no library of sound or numbers, so that the codec and its training run where there is none.
"""

from __future__ import annotations

import struct
from typing import BinaryIO

MAX_PEAK = 4.0
"""Samples may overshoot full scale a little; this far beyond it they are in another unit."""

MAX_RATE_HZ, MAX_CHANNELS = 1_000_000, 65_535
"""No sound has a higher sampling rate; no wav header can name more channels."""

PCM_BYTES = {"u8": 1, "s16le": 2, "s24le": 3, "s32le": 4, "f32le": 4, "f64le": 8}
"""Sample formats by their names in ffmpeg, and their bytes."""

_RIFF = {b"RIFF": "<", b"RF64": "<", b"RIFX": ">"}  # and the order of their bytes
# Programs that cannot know the length write 0 or about the most that fits: 0xFFFFFFFF (ffmpeg), 0x7FFFF000 (sox),
# 0x7FFFFFFF and 0x80000000 (arecord), less a header at times.
_UNKNOWN = (range(1), range(0x7FFF_0000, 0x8000_0001), range(0xFFFF_0000, 0x1_0000_0000))
# No wav has more chunks before its samples; zeros would go on for ever.
_MOST_CHUNKS = 1000


def is_known_size(size: int) -> bool:
    """Whether a 32-bit size in a wav header says something; one written to a pipe does not."""
    return not any(size in sizes for sizes in _UNKNOWN)


def long_data_size(ds64: bytes) -> int:
    """The size of the samples by the ds64 chunk of an RF64 file; 0 if it does not say, or is cut off itself."""
    size = int.from_bytes(ds64[8:16], "little") if len(ds64) >= 16 else 0
    return size if size < 1 << 62 else 0


def info_chunk(comment: str) -> bytes:
    """A RIFF ``LIST`` chunk of kind ``INFO`` that holds a comment, as it stands in front of the samples."""
    text = comment.encode("utf-8", "replace") + b"\0"
    text += b"\0" * (len(text) % 2)
    body = b"INFO" + struct.pack("<4sI", b"ICMT", len(text)) + text
    return struct.pack("<4sI", b"LIST", len(body)) + body


def info_comment(body: bytes) -> str | None:
    """The comment in the body of a ``LIST`` chunk; None if it holds none, or the list is of another kind."""
    if body[:4] != b"INFO":
        return None
    at = 4
    while at + 8 <= len(body):
        name, size = struct.unpack_from("<4sI", body, at)
        if name == b"ICMT":
            return body[at + 8 : at + 8 + size].split(b"\0")[0].decode("utf-8", "replace") or None
        at += 8 + size + size % 2
    return None


def missing_bytes(file: BinaryIO) -> int:
    """How many bytes of samples a wav promises in its header and does not have.

    Args:
        file: at its beginning, and able to seek; of any format.

    Returns:
        0 if nothing is missing: less than one sample does not count, nor does a length that its writer did not know,
        nor anything that is no wav.
    """
    order = _RIFF.get(file.read(4))
    if order is None or file.read(8)[4:] != b"WAVE":
        return 0
    long_size, step = 0, 2
    for _ in range(_MOST_CHUNKS):
        head = file.read(8)
        if len(head) < 8:
            return 0
        name, size = struct.unpack(f"{order}4sI", head)
        if name == b"data":
            size = long_size or size
            at = file.tell()
            missing = at + size - file.seek(0, 2)
            return missing if missing >= step and (long_size or is_known_size(size)) else 0
        body = file.read(min(size, 64))
        if name == b"ds64":
            long_size = long_data_size(body)
        elif name == b"fmt " and len(body) >= 14:
            step = max(2, struct.unpack_from(f"{order}H", body, 12)[0])
        file.seek(size + size % 2 - len(body), 1)
    return 0
