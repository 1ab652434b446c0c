"""Encoding of speech to file formats, whole or streamed; speed change; decoding of uploaded clips."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from audiotok import AudioError, audio_blocks, pcm_bytes, wav_head

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
_RATES = {
    "mp3": _MP3_RATES,
    "aac": _MP3_RATES,
    "opus": (8_000, 12_000, 16_000, 24_000, 48_000),
    "pcm": (PCM_RATE_HZ,),
}
# no mp3 header that is completed at the end; Ogg pages of 0.2 s
_STREAM_OPTIONS = {"mp3": {"write_xing": "0"}, "opus": {"page_duration": "200000"}}


def encode(wav: Tensor, sampling_rate: int, form: SoundFormat, tag: str) -> bytes:
    """Encode a whole speech, [N] float32 in [-1, 1], as a file with a provenance tag.

    If the format does not support the rate in Hz, the next higher one is used. ``pcm`` is 16-bit little-endian mono at
    24 kHz without a header.
    """
    out = io.BytesIO()
    if form == "wav":
        with soundfile.SoundFile(out, "w", sampling_rate, 1, "PCM_16", format="WAV") as file:
            file.write(wav.numpy())
            file.comment = tag  # after the samples, which then begin at byte 44
    else:
        encoder = StreamEncoder(sampling_rate, form, tag, out)
        encoder.push(wav)
        encoder.close()
    return out.getvalue()


class StreamEncoder:
    """Encodes streamed speech like :func:`encode`. The joined pieces are a valid file, except for ``flac``, whose
    header contains the length. A wav has no tag, because many players of streams skip 44 bytes.

    ``sink`` is a seekable file for the bytes; None returns them piece by piece.
    """

    def __init__(
        self, sampling_rate: int, form: SoundFormat, tag: str, sink: io.BytesIO | None = None
    ) -> None:
        rates = _RATES.get(form, (sampling_rate,))
        self._rate = next((rate for rate in rates if rate >= sampling_rate), rates[-1])
        self._resampler = soxr.ResampleStream(sampling_rate, self._rate, 1)
        self._sink: Any = sink or _Sink()
        self._file: Any = None
        if form == "wav":
            self._sink.write(wav_head(self._rate))
        elif form != "pcm":
            container, codec, bitrate = _CODINGS[form]
            options = _STREAM_OPTIONS.get(form, {}) if sink is None else {}
            self._file = av.open(self._sink, "w", format=container, options=options)
            self._stream: Any = self._file.add_stream(codec, rate=self._rate, layout="mono")
            if bitrate:
                self._stream.bit_rate = bitrate
            for metadata in (self._file.metadata, self._stream.metadata):  # Ogg has it in the stream
                metadata["comment"] = tag

    def push(self, wav: Tensor, is_last: bool = False) -> bytes:
        """Add samples [n] float32 and return the bytes that are ready."""
        samples = self._resampler.resample_chunk(wav.numpy(), last=is_last).clip(-1.0, 1.0)
        if self._file is None:
            self._sink.write(pcm_bytes(torch.from_numpy(samples)))
        elif len(samples):
            frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
            frame.rate = self._rate
            self._file.mux(self._stream.encode(frame))
        return self._sink.take() if isinstance(self._sink, _Sink) else b""

    def close(self) -> bytes:
        """Return the rest of the file."""
        rest = self.push(torch.zeros(0), is_last=True)
        if self._file is not None:
            self._file.mux(self._stream.encode(None))
            self._file.close()
        return rest + self._sink.take() if isinstance(self._sink, _Sink) else b""


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
    """Make speech [N] float32 in [-1, 1] faster at the same pitch: [N / speed], with a phase vocoder (Signalsmith)."""
    if speed == 1:
        return wav
    from python_stretch import Signalsmith

    stretch = Signalsmith.Stretch(0)
    stretch.preset(1, sampling_rate)
    stretch.setTimeFactor(speed)
    out = np.array(stretch.process(np.ascontiguousarray(wav[None].numpy())), dtype=np.float32)
    return torch.from_numpy(out[0]).clamp_(-1.0, 1.0)


def read_clip(source: str | bytes, longest_s: float, sampling_rate: int, cut: bool = False) -> Tensor:
    """Read an uploaded clip, a path or bytes: wav [1, N] float32 in [-1, 1], the mean of the channels.

    Decoding stops after ``longest_s`` seconds, regardless of the header. ``cut`` returns the start of a longer clip.
    AudioError: the file is no sound, damaged or too long, or has too many channels or an unusual rate.
    """
    stored, name = "stdin", "the clip"
    if isinstance(source, str):
        stored, name = source, Path(source).name
    with suppress(soundfile.LibsndfileError, OverflowError):
        file = source if isinstance(source, str) else io.BytesIO(source)
        with soundfile.SoundFile(file) as sound:
            channels, rate_hz = sound.channels, sound.samplerate
        if channels > MAX_CHANNELS or not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
            raise AudioError(
                f"{name}: expected 1 to {MAX_CHANNELS} channels at {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz, got "
                f"{channels} at {rate_hz} Hz; resample it"
            )
    try:
        blocks = audio_blocks(source, sampling_rate, longest_s)
        wav = next(blocks)
        if not cut and next(blocks, None) is not None:
            raise AudioError(f"the clip is longer than {longest_s:g} s; cut it")
    except AudioError as error:
        raise AudioError(str(error).replace(stored, name)) from None
    return wav
