"""Speech to bytes of a file format, whole or streamed; change of speed; and reading of uploaded clips."""

from __future__ import annotations

import io
import shutil
import tempfile
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from audiotok import AudioError, load_audio, resample, wav_head

from ..speech import pcm16

SoundFormat = Literal["mp3", "opus", "flac", "wav", "pcm"]
PCM_RATE_HZ = 24_000
"""Rate of ``pcm``, which OpenAI's interface fixes."""
MEDIA_TYPES: dict[str, str] = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
MAX_CHANNELS = 8
MIN_RATE_HZ, MAX_RATE_HZ = 4_000, 192_000
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
# The header of a stream cannot be completed afterwards. With frames of one size players find its length anyway.
_STREAMED_MP3 = {"bitrate_mode": "CONSTANT", "compression_level": 0.5}
_MAGIC = (b"RIFF", b"fLaC", b"OggS", b"ID3")


def encode(wav: Tensor, sampling_rate: int, form: SoundFormat, tag: str) -> bytes:
    """Encode a whole speech as a file.

    Args:
        wav: [N] float32 in [-1, 1].
        sampling_rate: in Hz; a format without this rate gets the next higher rate that it has.
        form: the format; ``pcm`` is 16-bit little-endian mono at 24 kHz without a header.
        tag: of :func:`tts_lm.speech.provenance_tag`.
    """
    rate = _rate_of(form, sampling_rate)
    wav = resample(wav[None], sampling_rate, rate)[0]
    if form == "pcm":
        return pcm16(wav)
    container, coding = _CODINGS[form]
    out = io.BytesIO()
    with soundfile.SoundFile(out, "w", rate, 1, coding, format=container) as file:
        if form != "wav":
            file.comment = tag
        file.write(wav.numpy())
        if form == "wav":  # behind the samples, which then begin at byte 44
            file.comment = tag
    return out.getvalue()


class StreamEncoder:
    """Encodes a speech while it is being made: its pieces, joined, are a file that plays to its end.

    A wav has the plain header of 44 bytes without the tag, because many players of streams skip 44 bytes.

    Args:
        sampling_rate: in Hz.
        form: as for :func:`encode`, except ``flac``, whose header contains the length.
        tag: as for :func:`encode`.
    """

    def __init__(self, sampling_rate: int, form: SoundFormat, tag: str) -> None:
        rate = _rate_of(form, sampling_rate)
        self._resampler = soxr.ResampleStream(sampling_rate, rate, 1) if sampling_rate != rate else None
        self._file: soundfile.SoundFile | None = None
        self._ready = wav_head(rate) if form == "wav" else b""
        self._held: bytes | None = b"" if form == "mp3" else None
        if form in ("wav", "pcm"):
            return
        self._sink = _Sink()
        sink: Any = self._sink  # the stubs of soundfile want a whole file object
        container, coding = _CODINGS[form]
        settings: dict[str, Any] = _STREAMED_MP3 if form == "mp3" else {}
        self._file = soundfile.SoundFile(sink, "w", rate, 1, coding, format=container, **settings)
        self._file.comment = tag

    def push(self, wav: Tensor) -> bytes:
        """The bytes that are ready after the samples [n] float32 were added."""
        return self._write(wav)

    def close(self) -> bytes:
        """The rest of the file."""
        return self._write(torch.zeros(0), is_last=True)

    def _write(self, wav: Tensor, is_last: bool = False) -> bytes:
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(wav.numpy(), last=is_last)
            wav = torch.from_numpy(samples).clamp_(-1.0, 1.0)
        if self._file is None:
            head, self._ready = self._ready, b""
            return head + pcm16(wav)
        self._file.write(wav.numpy())
        if is_last:
            self._file.close()
        ready = self._drain()
        return ready + (self._held or b"") if is_last else ready

    def _drain(self) -> bytes:
        """New bytes; of an mp3 without its first frame, which would have to be completed at the end."""
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


def change_speed(wav: Tensor, sampling_rate: int, speed: float) -> Tensor:
    """Make speech faster or slower at the same pitch.

    Args:
        wav: [N] float32 in [-1, 1].
        sampling_rate: in Hz.
        speed: 2 is twice as fast.

    Returns:
        [N / speed] float32 in [-1, 1]; ``wav`` itself at speed 1.

    Source: the Signalsmith Stretch library, a phase vocoder.
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


def read_clip(file: BinaryIO, longest_s: float, sampling_rate: int) -> Tensor:
    """Read an uploaded WAV, FLAC, Ogg or MP3 file, after its header was checked against the limits.

    Args:
        file: at its beginning; its size is limited already.
        longest_s: longest length that its header may state.
        sampling_rate: in Hz, to which it is resampled.

    Returns:
        wav [1, N] float32 in [-1, 1], the mean of the channels.

    Raises:
        AudioError: it is not such a file, damaged, too long, or has too many channels or an unusual rate.
    """
    head = file.read(4)
    file.seek(0)
    if not head.startswith(_MAGIC) and not (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0):
        raise AudioError("expected a WAV, FLAC, Ogg or MP3 file; convert it first")
    with tempfile.TemporaryDirectory(prefix="tts-lm-") as folder:
        path = Path(folder) / "clip"
        with path.open("wb") as copy:
            shutil.copyfileobj(file, copy)
        try:
            with soundfile.SoundFile(path) as sound:
                frames, rate, channels = sound.frames, sound.samplerate, sound.channels
        except (soundfile.LibsndfileError, ValueError, OverflowError):
            raise AudioError("the WAV, FLAC, Ogg or MP3 file is damaged; convert it again") from None
        check_shape(channels, rate)
        if not 0 < frames <= longest_s * rate:
            seconds = f"{frames / rate:.0f} s" if 0 <= frames < 1 << 50 else "an unknown length"
            raise AudioError(f"the clip may have {longest_s:g} s, its header says {seconds}; cut it")
        try:
            return load_audio(path, sampling_rate)[0]
        except AudioError as error:
            raise AudioError(str(error).replace(str(path), "the clip")) from None


def check_shape(channels: int, rate_hz: int) -> None:
    """Refuse audio that would need much more memory than its file.

    Raises:
        AudioError: it has too many channels, or an unusual rate.
    """
    if not 1 <= channels <= MAX_CHANNELS or not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise AudioError(
            f"expected 1 to {MAX_CHANNELS} channels at {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz, got {channels} at "
            f"{rate_hz} Hz; resample it"
        )


def _rate_of(form: SoundFormat, sampling_rate: int) -> int:
    if form == "pcm":
        return PCM_RATE_HZ
    rates = _RATES.get(form, (sampling_rate,))
    return next((rate for rate in rates if rate >= sampling_rate), rates[-1])


def _seven_bits(size: bytes) -> int:
    """A size in an ID3v2 header, whose bytes have seven bits each."""
    return sum(byte << shift for byte, shift in zip(size, (21, 14, 7, 0), strict=True))


class _Sink(io.RawIOBase):
    """A file in memory that drops what was drained; later writes to that part are lost."""

    def __init__(self) -> None:
        self._new, self._taken, self._at = bytearray(), 0, 0

    def drain(self) -> bytes:
        """The bytes written since the last call."""
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
