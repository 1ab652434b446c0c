"""Sound on pipes: wav or raw PCM in as it arrives, and out as it is made.

Knows nothing of codecs. The law it keeps: samples are given on as soon as they have come, and are those that the file
reader of audio.py gives for the same bytes in a file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from .audio import AudioError, resampled, to_mono
from .wav import MAX_CHANNELS, MAX_RATE_HZ, PCM_BYTES, info_chunk, info_comment, is_known_size, long_data_size

_READ_BYTES = 1 << 16
# Of a chunk in a wav header: what describes the samples is shorter, and the rest is read past.
_CHUNK_BYTES = 1 << 10
_WAV_KINDS = {
    (1, 8): "u8", (1, 16): "s16le", (1, 24): "s24le", (1, 32): "s32le", (3, 32): "f32le", (3, 64): "f64le",
}  # fmt: skip
_EXTENSIBLE = 0xFFFE


@dataclass(frozen=True)
class Pcm:
    """How raw samples lie in bytes.

    Attributes:
        kind: one of :data:`~audiotok.wav.PCM_BYTES`.
        sampling_rate: in Hz.
        channels: interleaved.

    Raises:
        AudioError: there are no such samples.
    """

    kind: str
    sampling_rate: int
    channels: int = 1

    def __post_init__(self) -> None:
        if (
            self.kind not in PCM_BYTES
            or not 1 <= self.sampling_rate <= MAX_RATE_HZ
            or not 1 <= self.channels <= MAX_CHANNELS
        ):
            raise AudioError(
                f"expected samples of {', '.join(PCM_BYTES)} at 1 to {MAX_RATE_HZ} Hz in 1 to {MAX_CHANNELS} channels, "
                f"got {self.kind} at {self.sampling_rate} Hz in {self.channels} channels; look at what is on the pipe"
            )


@dataclass(frozen=True)
class PipedSound:
    """Sound that is coming.

    Attributes:
        blocks: wavs [1, n] float32 in [-1, 1], channels averaged, n >= 1: what one read of the pipe brought.
        comment: of a wav, where one stands in front of the samples; behind them it would come too late.
    """

    blocks: Iterator[Tensor]
    comment: str | None


def read_sound(stream: BinaryIO, sampling_rate: int, raw: Pcm | None = None) -> PipedSound:
    """Read sound from a pipe as it comes; returns when the header has come.

    Args:
        stream: wav, of known or unknown length, or raw samples.
        sampling_rate: resample to this rate in Hz; see :func:`~audiotok.audio.resampled` for what that delays.
        raw: what raw samples are; None reads a wav header.

    Raises:
        AudioError: not a wav of PCM or float samples; from the blocks: no sample, a sample that is not finite, or an
            end before what the header promised.
    """
    pcm, num_bytes, comment = (raw, None, None) if raw is not None else _wav_format(stream)
    blocks = _mono_blocks(stream, pcm, num_bytes)
    return PipedSound(resampled(blocks, pcm.sampling_rate, sampling_rate), comment)


def wav_head(sampling_rate: int, comment: str | None = None) -> bytes:
    """The header of a 16-bit mono wav of unknown length, as ffmpeg writes it to a pipe.

    Args:
        sampling_rate: in Hz.
        comment: stands in front of the samples, where who reads the pipe finds it in time.
    """
    unknown = 0xFFFFFFFF
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, sampling_rate, 2 * sampling_rate, 2, 16)
    listed = b"" if comment is None else info_chunk(comment)
    data = struct.pack("<4sI", b"data", unknown)
    return struct.pack("<4sI4s", b"RIFF", unknown, b"WAVE") + form + listed + data


def pcm_bytes(wav: Tensor, kind: str) -> bytes:
    """Samples as bytes: "s16le", rounded as the file writer does, or "f32le".

    Args:
        wav: [1, n] float32.
        kind: "s16le" or "f32le".

    Raises:
        ValueError: another kind.
    """
    samples = wav.detach().to("cpu", torch.float32).reshape(-1).numpy()
    if kind == "f32le":
        return samples.astype("<f4").tobytes()
    if kind == "s16le":
        return np.clip(np.floor(samples * np.float32(32768)), -32768, 32767).astype("<i2").tobytes()
    raise ValueError(f"expected s16le or f32le, got {kind}")


def _wav_format(stream: BinaryIO) -> tuple[Pcm, int | None, str | None]:
    """Read a wav header up to its samples: what they are, how many bytes of them (None: not known), the comment."""
    start = _take(stream, 12)
    if start[:4] not in (b"RIFF", b"RF64") or start[8:] != b"WAVE":
        raise AudioError(
            f"stdin: expected a wav stream, got one that begins with {start!r}; convert it with "
            "'ffmpeg -i - -f wav -', or say what raw samples are with --raw, --rate and --channels"
        )
    pcm, long_size, comment = None, 0, None
    while True:
        name, size = struct.unpack("<4sI", _take(stream, 8))
        if name == b"data":
            break
        body = _take(stream, min(size + size % 2, _CHUNK_BYTES))
        if name == b"fmt ":
            pcm = _parse_format(body)
        elif name == b"ds64":
            long_size = long_data_size(body)
        elif name == b"LIST":
            comment = info_comment(body) or comment
        for start in range(len(body), size + size % 2, _READ_BYTES):
            _take(stream, min(_READ_BYTES, size + size % 2 - start))
    if pcm is None:
        raise AudioError("stdin: expected a wav header that describes its samples, got none; write it again")
    if long_size:
        return pcm, long_size, comment
    return pcm, size if is_known_size(size) else None, comment


def _parse_format(body: bytes) -> Pcm:
    tag, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", body.ljust(16, b"\0"))
    if tag == _EXTENSIBLE and len(body) >= 26:
        tag = struct.unpack_from("<H", body, 24)[0]
    kind = _WAV_KINDS.get((tag, bits))
    if kind is None or not channels or not rate:
        raise AudioError(
            f"stdin: expected a wav of 8, 16, 24 or 32 bit PCM or of floats, got format {tag} with {bits} bits, "
            f"{channels} channels at {rate} Hz; convert it with 'ffmpeg -i - -f wav -'"
        )
    return Pcm(kind, rate, channels)


def _mono_blocks(stream: BinaryIO, pcm: Pcm, num_bytes: int | None) -> Iterator[Tensor]:
    """Samples as checked blocks [1, n], channels averaged; at least one sample in all."""
    step = PCM_BYTES[pcm.kind] * pcm.channels
    rest, got, done = b"", 0, 0
    while data := stream.read1(_READ_BYTES):  # type: ignore[attr-defined]  # what has come, not all that was asked for
        if num_bytes is not None:
            data = data[
                : num_bytes - got
            ]  # what follows the samples is read too, so that the sender can finish
        got += len(data)
        data = rest + data
        whole = len(data) // step * step
        rest = data[whole:]
        if whole:
            block = _to_float(data[:whole], pcm.kind).reshape(-1, pcm.channels)
            yield to_mono(block, "stdin", done)
            done += len(block)
    if num_bytes is not None and got < num_bytes:
        raise AudioError(
            f"stdin: expected the {num_bytes // step} samples of its header, got {done}; the sound was cut off"
        )
    if rest:
        raise AudioError(f"stdin: expected whole samples of {step} bytes, got {len(rest)} bytes at the end")
    if not done:
        raise AudioError("stdin: expected at least one sample, got 0")


def _to_float(data: bytes, kind: str) -> np.ndarray:
    """Bytes -> float32 samples of full scale 1, as libsndfile scales them."""
    if kind == "u8":
        return (np.frombuffer(data, np.uint8).astype(np.float32) - 128) / 128
    if kind == "s24le":
        parts = np.frombuffer(data, np.uint8).reshape(-1, 3)
        shifted = np.zeros((len(parts), 4), np.uint8)
        shifted[:, 1:] = parts  # the upper bytes of 32 bits, so that the sign is right
        return shifted.view("<i4")[:, 0].astype(np.float32) / np.float32(2**31)
    if kind[0] == "s":
        samples = np.frombuffer(data, f"<i{PCM_BYTES[kind]}")
        return samples.astype(np.float32) / np.float32(2 ** (8 * PCM_BYTES[kind] - 1))
    return np.frombuffer(data, f"<f{PCM_BYTES[kind]}").astype(np.float32)


def _take(stream: BinaryIO, count: int) -> bytes:
    """Exactly ``count`` bytes, waiting for them."""
    data = stream.read(count)
    if len(data) < count:
        what = "nothing" if not data else "an end within the header"
        raise AudioError(f"stdin: expected a wav stream, got {what}; look at what is on the pipe")
    return data
