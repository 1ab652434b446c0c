"""Speech -> bytes of a format, whole or while it is being made; and faster or slower at the same pitch.

Knows nothing of HTTP or models. The laws it keeps: whatever can carry a comment says that it was generated; and a
stream, joined, is a file that plays to its end.
"""

from __future__ import annotations

import io
from typing import Any, Literal, Protocol

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from audiotok import resample

from ..marks import pcm16, wav_head

SoundFormat = Literal["mp3", "opus", "flac", "wav", "pcm"]
PCM_RATE_HZ = 24_000  # what clients of OpenAI's interface take raw samples to be
MEDIA_TYPES: dict[str, str] = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
_CODINGS = {
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "opus": ("OGG", "OPUS"),
    "flac": ("FLAC", "PCM_16"),
    "wav": ("WAV", "PCM_16"),
}
_RATES = {
    "mp3": (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000),
    "opus": (8_000, 12_000, 16_000, 24_000, 48_000),
}
# A stream's header cannot be mended afterwards: constant frames, so that players know its length all the same.
_STREAMED_MP3 = {"bitrate_mode": "CONSTANT", "compression_level": 0.5}


class Encoder(Protocol):
    """Turns pieces of sound into bytes to send at once."""

    def push(self, wav: Tensor) -> bytes:
        """The bytes that are ready after so much more sound, [n] float32."""
        ...

    def close(self) -> bytes:
        """The rest."""
        ...


def encode(wav: Tensor, sampling_rate: int, form: SoundFormat, mark: str) -> bytes:
    """A whole sound as a file.

    Args:
        wav: [N] float32 in [-1, 1].
        sampling_rate: in Hz; a format that does not know it gets the next that it knows.
        form: the format; ``pcm`` is 16-bit little-endian mono at 24 kHz without a header.
        mark: of :func:`tts_lm.marks.mark_of`.
    """
    rate = _rate_of(form, sampling_rate)
    wav = resample(wav[None], sampling_rate, rate)[0]
    if form == "pcm":
        return pcm16(wav)
    container, coding = _CODINGS[form]
    out = io.BytesIO()
    with soundfile.SoundFile(out, "w", rate, 1, coding, format=container) as file:
        file.comment = mark
        file.write(wav.numpy())
    return out.getvalue()


def open_encoder(sampling_rate: int, form: SoundFormat, mark: str) -> Encoder:
    """What encodes a sound while it is being made. Args: as for :func:`encode`.

    Raises:
        ValueError: the format names its length in front.
    """
    if form == "flac":
        raise ValueError("expected wav, pcm, mp3 or opus for a stream, got flac; ask for the whole of it")
    rate = _rate_of(form, sampling_rate)
    if form in ("wav", "pcm"):
        return _Plain(sampling_rate, rate, b"" if form == "pcm" else wav_head(rate, mark))
    return _Packed(sampling_rate, rate, form, mark)


def change_speed(wav: Tensor, sampling_rate: int, speed: float) -> Tensor:
    """The same voice, faster or slower.

    Args:
        wav: [N] float32 in [-1, 1].
        sampling_rate: in Hz.
        speed: 2 is twice as fast; the pitch stays.

    Returns:
        [N / speed] float32 in [-1, 1]; ``wav`` itself at speed 1.

    Source: the Signalsmith Stretch library (a phase vocoder that moves spectral peaks as wholes), by python-stretch.
    """
    if speed == 1:
        return wav
    from python_stretch import Signalsmith

    stretch = Signalsmith.Stretch(0)
    stretch.preset(1, sampling_rate)
    stretch.setTimeFactor(speed)
    out = np.array(stretch.process(np.ascontiguousarray(wav[None].numpy())), dtype=np.float32)
    return torch.from_numpy(out[0]).clamp_(-1.0, 1.0)


def _rate_of(form: SoundFormat, sampling_rate: int) -> int:
    if form == "pcm":
        return PCM_RATE_HZ
    rates = _RATES.get(form, (sampling_rate,))
    return next((rate for rate in rates if rate >= sampling_rate), rates[-1])


class _Resampler:
    """Pieces of sound at another rate: joined, what the whole at that rate is."""

    def __init__(self, from_rate: int, to_rate: int) -> None:
        self._stream = soxr.ResampleStream(from_rate, to_rate, 1) if from_rate != to_rate else None

    def __call__(self, wav: Tensor, last: bool = False) -> Tensor:
        if self._stream is None:
            return wav
        return torch.from_numpy(self._stream.resample_chunk(wav.numpy(), last=last)).clamp_(-1.0, 1.0)


class _Plain:
    """Samples behind a header."""

    def __init__(self, from_rate: int, to_rate: int, head: bytes) -> None:
        self._resampler, self._head = _Resampler(from_rate, to_rate), head

    def push(self, wav: Tensor) -> bytes:
        head, self._head = self._head, b""
        return head + pcm16(self._resampler(wav))

    def close(self) -> bytes:
        return self._head + pcm16(self._resampler(torch.zeros(0), last=True))


class _Packed:
    """What libsndfile packs: its bytes as they come."""

    def __init__(self, from_rate: int, to_rate: int, form: SoundFormat, mark: str) -> None:
        self._resampler, self._sink = _Resampler(from_rate, to_rate), _Sink()
        sink: Any = self._sink  # the stubs of soundfile know other files only
        container, coding = _CODINGS[form]
        settings: dict[str, Any] = _STREAMED_MP3 if form == "mp3" else {}
        self._file = soundfile.SoundFile(sink, "w", to_rate, 1, coding, format=container, **settings)
        self._file.comment = mark
        self._held: bytes | None = b"" if form == "mp3" else None

    def push(self, wav: Tensor) -> bytes:
        self._file.write(self._resampler(wav).numpy())
        return self._drain()

    def close(self) -> bytes:
        self._file.write(self._resampler(torch.zeros(0), last=True).numpy())
        self._file.close()
        return self._drain() + (self._held or b"")

    def _drain(self) -> bytes:
        """What is new; of an mp3 without the frame of zeros that is filled in at the end, where there is an end."""
        new = self._sink.drain()
        if self._held is None:
            return new
        self._held += new
        tag = 10 + _seven_bits(self._held[6:10]) if self._held[:3] == b"ID3" else 0
        start = self._held[tag : tag + 2]
        second = self._held.find(start, tag + 2) if len(start) == 2 else -1
        if second < 0:  # not there yet
            return b""
        ready, self._held = self._held[:tag] + self._held[second:], None
        return ready


def _seven_bits(size: bytes) -> int:
    """A size in an ID3v2 header, whose bytes have seven bits each."""
    return sum(byte << shift for byte, shift in zip(size, (21, 14, 7, 0), strict=True))


class _Sink(io.RawIOBase):
    """A file in memory that forgets what was taken from it; what is written there later is lost."""

    def __init__(self) -> None:
        self._new, self._taken, self._at = bytearray(), 0, 0

    def drain(self) -> bytes:
        """What was written since the last time."""
        new, self._new = bytes(self._new), bytearray()
        self._taken += len(new)
        return new

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._taken + len(self._new)}[whence]
        self._at = base + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def write(self, data: Any) -> int:
        piece = bytes(data)
        kept = piece[max(0, self._taken - self._at) :]
        place = max(0, self._at - self._taken)
        if place > len(self._new):
            self._new.extend(bytes(place - len(self._new)))
        self._new[place : place + len(kept)] = kept
        self._at += len(piece)
        return len(piece)

    def readinto(self, buffer: Any) -> int:
        return 0
