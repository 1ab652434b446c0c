"""Encoding of speech to file formats, whole or streamed; speed change; decoding of uploaded clips."""

from __future__ import annotations

import io
from typing import Any, BinaryIO, Literal

import av
import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from audiotok import AudioError, audio_blocks, resample, wav_head

from ..speech import pcm16

SoundFormat = Literal["mp3", "opus", "aac", "flac", "wav", "pcm"]
PCM_RATE_HZ = 24_000
"""Rate of ``pcm``, which OpenAI's interface fixes."""
MEDIA_TYPES: dict[str, str] = {
    "mp3": "audio/mpeg",
    "opus": "audio/ogg",
    "aac": "audio/aac",
    "flac": "audio/flac",
    "wav": "audio/wav",
    "pcm": "audio/pcm",
}
MAX_CHANNELS = 8
MIN_RATE_HZ, MAX_RATE_HZ = 4_000, 192_000
_CODINGS = {  # container, codec, bits a second
    "mp3": ("mp3", "libmp3lame", 64_000),
    "opus": ("ogg", "libopus", 48_000),
    "aac": ("adts", "aac", 64_000),
    "flac": ("flac", "flac", None),
}
_MP3_RATES = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_RATES = {"mp3": _MP3_RATES, "aac": _MP3_RATES, "opus": (8_000, 12_000, 16_000, 24_000, 48_000)}
# no mp3 header that is completed at the end; Ogg pages of 0.2 s
_STREAM_OPTIONS = {"mp3": {"write_xing": "0"}, "opus": {"page_duration": "200000"}}
_MAGIC = (b"RIFF", b"fLaC", b"OggS", b"ID3")


def encode(wav: Tensor, sampling_rate: int, form: SoundFormat, tag: str) -> bytes:
    """Encode a whole speech as a file.

    Args:
        wav: [N] float32 in [-1, 1].
        sampling_rate: in Hz; the next higher rate is used if the format does not support it.
        form: the format; ``pcm`` is 16-bit little-endian mono at 24 kHz without a header.
        tag: provenance tag of :func:`tts_lm.speech.provenance_tag`.
    """
    rate = _rate_of(form, sampling_rate)
    wav = resample(wav[None], sampling_rate, rate)[0]
    if form == "pcm":
        return pcm16(wav)
    out = io.BytesIO()
    if form == "wav":
        with soundfile.SoundFile(out, "w", rate, 1, "PCM_16", format="WAV") as file:
            file.write(wav.numpy())
            file.comment = tag  # after the samples, which then begin at byte 44
    else:
        packed = _Packed(out, form, rate, tag)
        packed.write(wav)
        packed.close()
    return out.getvalue()


class StreamEncoder:
    """Encodes streamed speech. The joined pieces are a valid file.

    A wav has the plain header of 44 bytes without the tag, because many players of streams skip 44 bytes.

    Args:
        sampling_rate: in Hz.
        form: as for :func:`encode`, except ``flac``, whose header contains the length.
        tag: as for :func:`encode`.
    """

    def __init__(self, sampling_rate: int, form: SoundFormat, tag: str) -> None:
        rate = _rate_of(form, sampling_rate)
        self._resampler = soxr.ResampleStream(sampling_rate, rate, 1) if sampling_rate != rate else None
        self._sink = _Sink()
        self._file = None if form in ("wav", "pcm") else _Packed(self._sink, form, rate, tag)
        if form == "wav":
            self._sink.write(wav_head(rate))

    def push(self, wav: Tensor) -> bytes:
        """Add samples [n] float32 and return the bytes that are ready."""
        return self._write(wav)

    def close(self) -> bytes:
        """Return the rest of the file."""
        return self._write(torch.zeros(0), is_last=True)

    def _write(self, wav: Tensor, is_last: bool = False) -> bytes:
        if self._resampler is not None:
            samples = self._resampler.resample_chunk(wav.numpy(), last=is_last)
            wav = torch.from_numpy(samples).clamp_(-1.0, 1.0)
        if self._file is None:
            self._sink.write(pcm16(wav))
        else:
            self._file.write(wav)
            if is_last:
                self._file.close()
        return self._sink.take()


class _Packed:
    """A compressed file that is written to ``sink``, which is a stream unless it can seek."""

    def __init__(self, sink: Any, form: str, rate: int, tag: str) -> None:
        container, codec, bitrate = _CODINGS[form]
        options = {} if hasattr(sink, "seek") else _STREAM_OPTIONS.get(form, {})
        self._file = av.open(sink, "w", format=container, options=options)
        self._stream = self._file.add_stream(codec, rate=rate, layout="mono")
        if bitrate:
            self._stream.bit_rate = bitrate
        for metadata in (self._file.metadata, self._stream.metadata):  # Ogg has it in the stream
            metadata["comment"] = tag
        self._rate = rate

    def write(self, wav: Tensor) -> None:
        """Add samples [n] float32."""
        if len(wav):
            frame = av.AudioFrame.from_ndarray(wav[None].numpy(), format="fltp", layout="mono")
            frame.rate = self._rate
            self._file.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Write the rest."""
        self._file.mux(self._stream.encode(None))
        self._file.close()


class _Sink:
    """A write-only file whose content is taken piece by piece."""

    def __init__(self) -> None:
        self._new = bytearray()

    def write(self, data: Any) -> int:
        self._new += data
        return len(data)

    def take(self) -> bytes:
        new = bytes(self._new)
        self._new.clear()
        return new


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
    """Read an uploaded WAV, FLAC, Ogg or MP3 file; decoding stops at the limit, regardless of the header.

    Args:
        file: file at its beginning, of limited size.
        longest_s: longest clip in seconds.
        sampling_rate: rate in Hz of the result.

    Returns:
        wav [1, N] float32 in [-1, 1], the mean of the channels.

    Raises:
        AudioError: the file has another format, is damaged or too long, or has too many channels or an unusual rate.
    """
    data = file.read()
    if not data.startswith(_MAGIC) and not (len(data) > 1 and data[0] == 0xFF and data[1] & 0xE0 == 0xE0):
        raise AudioError("expected a WAV, FLAC, Ogg or MP3 file; convert it first")
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as sound:
            check_shape(sound.channels, sound.samplerate)
    except (soundfile.LibsndfileError, OverflowError):
        raise AudioError("the WAV, FLAC, Ogg or MP3 file is damaged; convert it again") from None
    try:
        blocks = audio_blocks(data, sampling_rate, longest_s)
        wav = next(blocks)
        if next(blocks, None) is not None:
            raise AudioError(f"the clip is longer than {longest_s:g} s; cut it")
        return wav
    except AudioError as error:
        raise AudioError(str(error).replace("stdin", "the clip")) from None


def check_shape(channels: int, rate_hz: int) -> None:
    """Reject audio that needs much more memory than its file.

    Raises:
        AudioError: it has too many channels, or an unusual rate.
    """
    if not 1 <= channels <= MAX_CHANNELS or not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise AudioError(
            f"expected 1 to {MAX_CHANNELS} channels at {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz, got {channels} at "
            f"{rate_hz} Hz; resample it"
        )
