"""What an ``.atok`` file says of itself: its codec, its sound, its packets. FORMAT.md has the bytes.

Knows nothing of the codes. The law it keeps: a header that is read was written so, every field is in its range, and no
codec is handed another's codes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

from .layers import CODINGS, LEARNT, raw_bits
from .wire import Cursor, DamageError, text, varint

MAX_BOOKS, MAX_PACKET_FRAMES, MAX_CODEBOOK_SIZE = 64, 1024, 1 << 24
MAX_HEADER_BYTES = 1 << 20
PACKET_S = 2.0
"""Seconds in a packet where nothing else is asked for."""

_UNKNOWN = (1 << 40) - 1
_SCALES, _METADATA, _SIZES = 1, 2, 4


class AtokError(ValueError):
    """A file that cannot be read or written as asked; the text says what was expected, what came, and what to do."""


@dataclass(frozen=True)
class AtokHeader:
    """The facts of a file.

    Attributes:
        codec: name of the codec, as released.
        codes_fingerprint: 16 hex digits, identity of its encoder and quantiser; who has another must not read them.
        sampling_rate: of the sound, in Hz.
        hop_length: samples per frame.
        book_sizes: V of every codebook in the file; their number is K.
        packet_frames: frames in every packet but the last.
        channels: of the sound.
        num_samples: length of the sound per channel, or None: not known yet, or never.
        coding: RAW, ADAPTIVE or LEARNT of :mod:`~audiotok.bitstream.layers`.
        model_fingerprint: 8 hex digits of the entropy model, for LEARNT; else empty.
        scale_frames: frames that one scale (a float32 that multiplies the decoded sound) is for; 0: there are none.
        metadata: texts by name. ``transcript``, ``speaker``, ``licence``, and ``generated`` for speech that no one
            spoke, are names with a meaning.

    Raises:
        AtokError: a field is out of its range.
    """

    codec: str
    codes_fingerprint: str
    sampling_rate: int
    hop_length: int
    book_sizes: tuple[int, ...]
    packet_frames: int
    channels: int = 1
    num_samples: int | None = None
    coding: int = 0
    model_fingerprint: str = ""
    scale_frames: int = 0
    metadata: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("sampling_rate", "hop_length", "packet_frames", "channels", "coding", "scale_frames"):
            if not isinstance(value := getattr(self, name), int):
                raise AtokError(f"expected {name} of the header to be int, got {value!r}")
        whole = all(_is_unicode(v) for pair in self.metadata.items() for v in pair)
        rules = [
            ("codes_fingerprint", _is_hex(self.codes_fingerprint, 16), "16 hex digits"),
            ("sampling_rate", 1 <= self.sampling_rate < 1 << 28, "1 to 2^28"),
            ("hop_length", 1 <= self.hop_length < 1 << 28, "1 to 2^28"),
            ("channels", 1 <= self.channels <= 255, "1 to 255"),
            ("book_sizes", 1 <= len(self.book_sizes) <= MAX_BOOKS, f"1 to {MAX_BOOKS} codebooks"),
            ("book_sizes", all(2 <= v <= MAX_CODEBOOK_SIZE for v in self.book_sizes), "sizes of 2 to 2^24"),
            ("packet_frames", 1 <= self.packet_frames <= MAX_PACKET_FRAMES, f"1 to {MAX_PACKET_FRAMES}"),
            ("num_samples", self.num_samples is None or 0 <= self.num_samples < _UNKNOWN, "0 to 2^40 - 2"),
            ("coding", 0 <= self.coding < len(CODINGS), f"one of {list(range(len(CODINGS)))}"),
            (
                "model_fingerprint",
                _is_hex(self.model_fingerprint, 8 * (self.coding == LEARNT)),
                "8 hex digits or none",
            ),
            ("scale_frames", 0 <= self.scale_frames <= MAX_PACKET_FRAMES, f"0 to {MAX_PACKET_FRAMES}"),
            ("metadata", whole, "texts by name, in Unicode"),
            ("codec", _is_unicode(self.codec), "a text in Unicode"),
        ]
        for name, holds, rule in rules:
            if not holds:
                raise AtokError(f"expected {name} of the header to be {rule}, got {getattr(self, name)!r}")
        if self.scale_frames and self.packet_frames % self.scale_frames:
            raise AtokError(
                f"expected packets of whole scales of {self.scale_frames} frames, got {self.packet_frames} frames"
            )

    @property
    def n_q(self) -> int:
        """Codebooks K in the file."""
        return len(self.book_sizes)

    @property
    def frame_rate(self) -> float:
        """Frames per second, in Hz."""
        return self.sampling_rate / self.hop_length

    @property
    def bitrate_bps(self) -> float:
        """Bits per second before entropy coding."""
        return sum(map(raw_bits, self.book_sizes)) * self.frame_rate

    def with_n_q(self, n_q: int) -> AtokHeader:
        """The header of the same file with its first ``n_q`` codebooks only.

        Raises:
            AtokError: the file has fewer.
        """
        if not isinstance(n_q, int) or not 1 <= n_q <= self.n_q:
            raise AtokError(f"expected n_q in 1..{self.n_q}, which the file holds; got {n_q!r}")
        return replace(self, book_sizes=self.book_sizes[:n_q])

    def check_codec(self, path: object, codec: str, codes_fingerprint: str) -> None:
        """Refuse to hand these codes to another codec than the one that made them.

        Raises:
            AtokError: ``codes_fingerprint`` is another; the text names both codecs.
        """
        if codes_fingerprint != self.codes_fingerprint:
            raise AtokError(
                f"{path}: expected codes of the codec {codec!r} (fingerprint {codes_fingerprint}), got codes of "
                f"{self.codec!r} (fingerprint {self.codes_fingerprint}); pass --codec and the codec that made them"
            )

    def to_bytes(self) -> bytes:
        """The header's body, as :meth:`from_bytes` reads it; AtokError if its metadata is too large."""
        uniform = len(set(self.book_sizes)) == 1
        flags = _SCALES * bool(self.scale_frames) | _METADATA * bool(self.metadata) | _SIZES * (not uniform)
        parts = [bytes([flags, self.coding]), bytes.fromhex(self.codes_fingerprint + self.model_fingerprint)]
        parts += map(
            varint, (self.sampling_rate, self.channels, self.hop_length, self.packet_frames, self.n_q)
        )
        parts += map(varint, self.book_sizes[: 1 if uniform else None])
        parts.append((_UNKNOWN if self.num_samples is None else self.num_samples).to_bytes(5, "little"))
        parts.append(text(self.codec))
        if self.scale_frames:
            parts.append(varint(self.scale_frames))
        if self.metadata:
            parts.append(
                text(json.dumps(self.metadata, ensure_ascii=False, sort_keys=True, separators=(",", ":")))
            )
        data = b"".join(parts)
        if len(data) > MAX_HEADER_BYTES:
            raise AtokError(
                f"expected a header of at most {MAX_HEADER_BYTES} bytes, got {len(data)}; cut its metadata"
            )
        return data

    @classmethod
    def from_bytes(cls, cursor: Cursor) -> AtokHeader:
        """Read a header's body.

        Raises:
            AtokError: a field is out of its range.
            DamageError: the body ends too early, or is no header.
        """
        flags, coding = cursor.take(2)
        if flags >= 8 or coding >= len(CODINGS):
            raise DamageError(f"expected a header of this version, got flags {flags} and coding {coding}")
        fingerprint = cursor.take(8).hex()
        model = cursor.take(4).hex() if coding == LEARNT else ""
        rate, channels, hop, packet_frames, n_q = (cursor.varint() for _ in range(5))
        if n_q > MAX_BOOKS:
            raise DamageError(f"expected at most {MAX_BOOKS} codebooks, got {n_q}")
        sizes = tuple(cursor.varint() for _ in range(n_q)) if flags & _SIZES else (cursor.varint(),) * n_q
        samples = int.from_bytes(cursor.take(5), "little")
        name = cursor.text()
        scale_frames = cursor.varint() if flags & _SCALES else 0
        metadata = _metadata(cursor.text()) if flags & _METADATA else {}
        return cls(
            name, fingerprint, rate, hop, sizes, packet_frames, channels,
            None if samples == _UNKNOWN else samples, coding, model, scale_frames, metadata,
        )  # fmt: skip


def _metadata(value: str) -> dict[str, str]:
    try:
        metadata = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise DamageError(f"expected metadata as JSON ({error})") from None
    if not isinstance(metadata, dict):
        raise DamageError(f"expected metadata by name, got {type(metadata).__name__}")
    return metadata


def _is_unicode(value: str) -> bool:
    """Whether it is a text that can be stored as UTF-8; one made of a file's name need not be."""
    return isinstance(value, str) and value == value.encode("utf-8", "replace").decode("utf-8")


def _is_hex(value: str, digits: int) -> bool:
    return isinstance(value, str) and len(value) == digits and set(value) <= set("0123456789abcdef")
