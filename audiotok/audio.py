"""Audio files and pipes: read, resample and write. Every file is read to its real end, in bounded memory."""

from __future__ import annotations

import io
import os
import re
import struct
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np

from .files import write_aside

if TYPE_CHECKING:
    from torch import Tensor

MAX_PEAK = 4.0
"""Samples may exceed full scale slightly. Beyond this peak they are in another unit."""

MAX_RATE_HZ, MAX_CHANNELS = 1_000_000, 65_535
PCM_BYTES = {"u8": 1, "s16le": 2, "s24le": 3, "s32le": 4, "f32le": 4, "f64le": 8}
"""Raw sample formats by ffmpeg's names, with their size in bytes."""

_FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "OPUS"),
    ".opus": ("OGG", "OPUS"),
}
SOUND_SUFFIXES = tuple(_FORMATS)
"""Suffixes of the files that :func:`save_audio` writes."""

_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
_LARGEST_WAV_BYTES = (1 << 32) - 1024  # the size fields have 32 bits
_READ_BYTES = 1 << 16
_BLOCK_SAMPLES = 1 << 16
_KEPT_IN_MEMORY = 1 << 24
# Audio containers that ffmpeg may open. Playlists and the like are left out, because they make it open other files.
_DEMUXERS = ",".join(
    "aac ac3 aiff amr ape asf au eac3 flac matroska webm mov mp4 m4a 3gp mp3 mpc mpc8 nistsphere ogg tta voc w64 wav "
    "wv".split()
)
# Formats without a length of their own, for which ffmpeg estimates one from the bitrate.
_NO_LENGTH = ("aac", "ac3", "amr", "eac3", "mpc", "wav")
_TOLERANCE_S = 0.1
_RIFF = {b"RIFF": "<", b"RF64": "<", b"RIFX": ">"}
_W64_ID = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\x00\x00"
_WAV_KINDS = {(1, 8): "u8", (1, 16): "s16", (1, 24): "s24", (1, 32): "s32", (3, 32): "f32", (3, 64): "f64"}
_EXTENSIBLE = 0xFFFE
# Writers that do not know the length store 0, 0xFFFFFFFF (ffmpeg), 0x7FFFF000 (sox) or 0x7FFFFFFF and 0x80000000
# (arecord), some of them less the size of the header.
_UNKNOWN_SIZES = (range(1), range(0x7FFF_0000, 0x8000_0001), range(0xFFFF_0000, 0x1_0000_0000))
_MAX_CHUNKS = 1000
_MAX_CHUNK_BYTES = 1 << 12  # kept of a chunk; the rest is skipped
_SPARE_BYTES = 64  # by which a size may exceed the file: some writers count the header too
_MAGIC = {b"fLaC": "FLAC", b"OggS": "Ogg", b"FORM": "AIFF", b".snd": "AU", b"ftyp": "MP4"}
_MP3_PADDING = 3 * 1152  # samples, which the header counts and the decoder leaves out
_OGG_EOS, _OGG_BOS = 4, 2
_REVERSED_BITS = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


class AudioError(ValueError):
    """Audio that cannot be read or written. The message names it, what is wrong, and what to do."""


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


def load_audio(source: str | Path | bytes | BinaryIO, sampling_rate: int | None = None) -> tuple[Tensor, int]:
    """Read a whole sound as one channel.

    Args:
        source: a path, the bytes of a file, or a binary stream. WAV, FLAC, Ogg, Opus, MP3, M4A, WebM and most other
            audio formats; channels are averaged.
        sampling_rate: resample to this rate in Hz; None keeps the file's own.

    Returns:
        wav [1, N] float32 in [-1, 1] with N >= 1, and its sampling rate in Hz.

    Raises:
        FileNotFoundError: there is no such file.
        AudioError: the file is not audio, is damaged or cut off, has no samples, or has samples that are not finite.
    """
    import torch

    with open_audio(source) as sound:
        rate = sound.sampling_rate if sampling_rate is None else sampling_rate
        return torch.cat(list(sound.blocks(rate)), dim=-1), rate


def audio_blocks(
    source: str | Path | bytes | BinaryIO, sampling_rate: int | None = None, block_s: float = 30.0
) -> Iterator[Tensor]:
    """Read a sound of any length in constant memory.

    Args:
        source: as for :func:`load_audio`.
        sampling_rate: resample to this rate in Hz; None keeps the file's own.
        block_s: length of a block in seconds; the last one is shorter.

    Yields:
        wav [1, n] float32 in [-1, 1]. Concatenated, the blocks equal ``load_audio(source, sampling_rate)[0]``.

    Raises:
        FileNotFoundError: there is no such file.
        AudioError: as for :func:`load_audio`; a bad sample is found when its block is reached.
        ValueError: ``block_s`` is not a finite number above 0.
    """
    import torch

    if not 0 < block_s < float("inf"):
        raise ValueError(f"expected block_s to be a finite number of seconds above 0, got {block_s}")
    with open_audio(source) as sound:
        rate = sound.sampling_rate if sampling_rate is None else sampling_rate
        size = max(1, round(block_s * rate))
        held: list[Tensor] = []
        count = 0
        for piece in sound.blocks(rate):
            held.append(piece)
            count += piece.shape[-1]
            if count >= size:
                joined = torch.cat(held, dim=-1)
                whole = count - count % size
                yield from joined[:, :whole].split(size, dim=-1)
                held, count = [joined[:, whole:]], count - whole
        if count:
            yield torch.cat(held, dim=-1)


def audio_facts(path: str | Path) -> dict[str, Any]:
    """Length, rate, channels and format of a sound file. The whole file is decoded, since a header can be wrong.

    Returns:
        duration_s, sampling_rate, num_samples, channels, format, and comment where there is one.

    Raises:
        FileNotFoundError: there is no such file.
        AudioError: as for :func:`load_audio`.
    """
    with open_audio(path) as sound:
        count = sum(len(block) for block in sound.samples())
        if not count:
            raise AudioError(f"{path}: expected at least one sample, got 0")
        return {
            "duration_s": count / sound.sampling_rate,
            "sampling_rate": sound.sampling_rate,
            "num_samples": count,
            "channels": sound.channels,
            "format": sound.format,
            **({"comment": sound.comment} if sound.comment else {}),
        }


def read_comment(path: str | Path) -> str | None:
    """The comment that :func:`save_audio` stored in a sound file; None if there is none or the file is not audio."""
    with suppress(AudioError, OSError), open_audio(path) as sound:
        return sound.comment
    return None


def open_audio(
    source: str | Path | bytes | BinaryIO, name: str = "stdin", pcm: Pcm | None = None
) -> AudioReader:
    """Open a sound for reading from front to back.

    Args:
        source: a path, the bytes of a file, or a binary stream. A wav on a pipe is read as it arrives; other formats
            on a pipe are read when the pipe has ended.
        name: what errors call bytes and streams.
        pcm: layout of raw samples without a header; None reads the header.

    Raises:
        FileNotFoundError: there is no such file.
        AudioError: this is not audio.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path.is_dir():
            raise AudioError(f"{path}: expected an audio file, got a folder; name the files in it")
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file")
        return AudioReader(path.open("rb"), str(path), pcm, owned=True)
    if isinstance(source, bytes | bytearray | memoryview):
        return AudioReader(io.BytesIO(source), name, pcm, owned=True)
    return AudioReader(source, name, pcm)


class AudioReader:
    """A sound that is read once, from front to back. Make one with :func:`open_audio` and close it after use.

    Attributes:
        name: what errors call it.
        sampling_rate: in Hz.
        channels: of its beginning.
        format: container and coding, for people.
        comment: the comment in its header, or None.
        header_s: length in seconds that the header states, or None. It can be wrong; use it only as an estimate.
    """

    def __init__(self, stream: BinaryIO, name: str, pcm: Pcm | None = None, owned: bool = False) -> None:
        self.name, self._stream, self._input = name, stream, _Input(stream)
        self._to_close: list[Any] = [stream] if owned else []
        self.comment: str | None = None
        self.header_s: float | None = None
        self._container: Any = None
        try:
            self._open(pcm)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close what was opened; a stream of the caller stays open."""
        while self._to_close:
            self._to_close.pop().close()

    def blocks(self, sampling_rate: int | None = None) -> Iterator[Tensor]:
        """The sound as checked wavs [1, n] float32 in [-1, 1], channels averaged.

        Args:
            sampling_rate: resample to this rate in Hz; None keeps the file's own.

        Raises:
            AudioError: the sound is damaged, cut off or empty, or a sample is not finite or in another unit.
        """
        rate = self.sampling_rate if sampling_rate is None else sampling_rate
        return resampled(self._checked(), self.sampling_rate, rate)

    def samples(
        self, start_s: float = 0.0, stop_s: float | None = None, channel: int | None = None
    ) -> Iterator[np.ndarray]:
        """Samples [n] float32 at :attr:`sampling_rate`, without a check of their values.

        Args:
            start_s, stop_s: the part to read, in seconds; None reads to the end.
            channel: the channel to take, counted from 0; None averages the channels.

        Raises:
            AudioError: the sound is damaged or cut off, or has no such channel.
        """
        start = round(start_s * self.sampling_rate)
        left = None if stop_s is None else max(0, round(stop_s * self.sampling_rate) - start)
        for block in self._frames(start):
            if channel is not None and not 0 <= channel < block.shape[1]:
                raise AudioError(f"{self.name}: expected a channel below {block.shape[1]}, got {channel}")
            with np.errstate(invalid="ignore", over="ignore"):  # inf - inf
                mono = block.mean(axis=1, dtype=np.float32) if channel is None else block[:, channel]
            yield mono if left is None else mono[:left]
            if left is not None and (left := left - len(mono)) <= 0:
                return

    def _checked(self) -> Iterator[Tensor]:
        import torch

        done = 0
        for block in self._frames(0):
            _check_samples(block, self.name, done)
            done += len(block)
            yield torch.from_numpy(block.mean(axis=1, dtype=np.float32)).clamp_(-1, 1).unsqueeze(0)
        if not done:
            raise AudioError(f"{self.name}: expected at least one sample, got 0")

    def _frames(self, start: int) -> Iterator[np.ndarray]:
        """[n, C] from sample ``start`` on. Files that were joined may change C, and their rate is adapted."""
        parts = self._pcm_parts(start) if self._container is None else self._decoded_parts(start)
        for rate, run in groupby(parts, key=lambda part: part[0]):
            blocks = (block for _, block in run)
            yield from blocks if rate == self.sampling_rate else _at_rate(blocks, rate, self.sampling_rate)

    def _open(self, pcm: Pcm | None) -> None:
        head = self._input.peek(40)
        if not head:
            raise AudioError(f"{self.name}: expected audio, got an empty file or stream")
        if pcm is not None:
            self._wav = _Wav(pcm, is_raw=True)
        elif _is_wav(head):
            self._wav = self._wav_header()
        else:
            self._wav = None
        if self._wav is None or self._wav.pcm is None:
            return self._open_container(head)
        layout = self._wav.pcm
        self._input.forget()
        self.sampling_rate, self.channels = layout.sampling_rate, layout.channels
        self.format, self.comment = f"wav/{layout.kind}", self._wav.comment
        if self._wav.size is not None:
            size = self._wav.size
            if self._input.can_seek:
                size = min(size, self._input.left())
            self.header_s = size / layout.frame_bytes / layout.sampling_rate

    def _wav_header(self) -> _Wav:
        try:
            return _read_wav_header(self._input)
        except ValueError as error:
            raise AudioError(f"{self.name}: {error}") from None

    def _pcm_parts(self, start: int) -> Iterator[tuple[int, np.ndarray]]:
        """(rate, [n, C]) of the wav file, and of the files that were appended to it."""
        while True:
            wav, source = self._wav, self._input
            assert wav is not None
            if wav.pcm is None:
                raise AudioError(
                    f"{self.name}: two wav files of different coding were joined; split them again"
                )
            step, got, rest = wav.pcm.frame_bytes, 0, b""
            if start:
                most = start if wav.size is None else min(start, wav.size // step)
                got = source.skip(most * step)
                start -= most
            while data := source.read(_READ_BYTES if wav.size is None else min(_READ_BYTES, wav.size - got)):
                got += len(data)
                data = rest + data
                whole = len(data) // step * step
                rest = data[whole:]
                if whole:
                    yield wav.pcm.sampling_rate, wav.pcm.decode(data[:whole])
            if rest and wav.is_raw:
                raise AudioError(
                    f"{self.name}: expected whole samples of {step} bytes, got {len(rest)} at the end"
                )
            if wav.is_cut(got, source.at):
                raise AudioError(
                    f"{self.name}: expected {wav.size} bytes of samples by its header, got {got}; the file is cut "
                    "off, copy it again"
                )
            if not self._at_next_wav(wav, got):
                return
            self._wav = self._wav_header()

    def _at_next_wav(self, wav: _Wav, got: int) -> bool:
        """Skip what follows the samples. Whether another wav file was appended."""
        source = self._input
        if got % 2 and source.peek(1) == b"\0":
            source.read(1)
        for _ in range(_MAX_CHUNKS):
            head = source.peek(40)
            if not head or wav.is_wide or wav.size is None:
                break
            if _is_wav(head):
                return True
            if re.match(rb"[ -~]{4}", head):
                size = int.from_bytes(head[4:8], "little" if wav.order == "<" else "big")
                source.skip(8 + size + size % 2)
                continue
            start = source.at
            if any(any(data) for data in iter(lambda: source.read(_READ_BYTES), b"")):
                raise AudioError(
                    f"{self.name}: expected the end or another chunk after the {got} bytes of samples that the "
                    f"header states, got other data at byte {start}; correct the header, for example with ffmpeg"
                )
        source.skip(None)  # so that the sender of a pipe can finish
        return False

    def _open_container(self, head: bytes) -> None:
        import av
        from av.error import FFmpegError

        stream: Any = self._stream
        if not self._input.can_seek:
            stream = self._input.spooled()
            self._to_close.append(stream)
        stream.seek(0)
        samples = None
        try:
            if head[:4] == b"OggS":
                samples = _check_ogg(stream)
            elif self._wav is not None:
                size = stream.seek(0, os.SEEK_END)
                if self._wav.is_cut(size - self._wav.start, size):
                    raise ValueError("the file is cut off, copy it again")
            else:
                samples = _mp3_samples(stream)
        except ValueError as error:
            raise AudioError(f"{self.name}: {error}") from None
        stream.seek(0)
        try:
            self._container = av.open(
                stream, "r", options={"format_whitelist": _DEMUXERS}, metadata_errors="ignore"
            )
            self._to_close.append(self._container)
            audio = self._container.streams.audio
            if not audio:
                raise AudioError(
                    f"{self.name}: expected sound, got a {self._container.format.name} file without any"
                )
            self._track = audio[0]
            self._demuxer = self._container.format.name.split(",")[0]
            self._track.codec_context.options = {"err_detect": "crccheck+explode"}
            self._decoded_frames = self._decode()
            first = next(self._decoded_frames, None)
        except FFmpegError as error:
            kind = _MAGIC.get(head[:4]) or _MAGIC.get(head[4:8])
            what = "something else" if kind is None else f"{kind} with a damaged or missing header"
            raise AudioError(
                f"{self.name}: expected an audio file (wav, flac, ogg, opus, mp3, m4a...), got {what} "
                f"({error.strerror}); convert it first"
            ) from None
        if first is None:
            raise AudioError(f"{self.name}: expected at least one sample, got 0")
        self._decoded_frames = chain([first], self._decoded_frames)
        self.sampling_rate, self.channels = first.sample_rate, first.layout.nb_channels
        self.format = f"{self._demuxer}/{self._track.codec_context.name}"
        tags = {
            key.lower(): value for key, value in {**self._container.metadata, **self._track.metadata}.items()
        }
        self.comment = tags.get("comment") or None
        if self._demuxer in ("mp3", "ogg"):
            self.header_s = None if samples is None else samples / self.sampling_rate
        elif self._demuxer not in _NO_LENGTH and self._track.duration:
            self.header_s = float(self._track.duration * self._track.time_base)
        elif self._demuxer == "matroska" and len(self._container.streams) == 1 and self._container.duration:
            self.header_s = self._container.duration / 1e6

    def _decode(self) -> Iterator[Any]:
        """Decoded frames of the file, up to its end."""
        import av
        from av.error import FFmpegError

        done_s = 0.0
        try:
            for packet in self._container.demux(self._track):
                try:
                    frames = packet.decode()
                except FFmpegError:
                    rest = _without_tag(bytes(packet))
                    if rest is None:
                        raise
                    frames = self._track.codec_context.decode(av.Packet(rest)) if rest else []
                for frame in frames:
                    done_s += frame.samples / frame.sample_rate
                    yield frame
        except FFmpegError as error:
            raise AudioError(
                f"{self.name}: damaged, cut off, or joined from files of different formats after {done_s:.2f} s "
                f"({error.strerror}); copy or convert it again"
            ) from None

    def _decoded_parts(self, start: int) -> Iterator[tuple[int, np.ndarray]]:
        """(rate, [n, C]) from sample ``start`` on, in blocks of a useful size."""
        jumped = start > 0 and self._demuxer == "flac"
        if jumped:
            self._container.seek(start, stream=self._track)
            self._decoded_frames = self._decode()
        held: list[np.ndarray] = []
        count, rate, total_s, at, next_pts = 0, self.sampling_rate, 0.0, -1 if jumped else 0, 1 << 62
        for frame in self._decoded_frames:
            if self._demuxer == "flac" and frame.pts is not None:  # other formats may have gaps
                if frame.pts > next_pts:
                    raise AudioError(f"{self.name}: damaged after {total_s:.2f} s; copy it again")
                next_pts = frame.pts + frame.samples
            total_s += frame.samples / frame.sample_rate
            values = _frame_samples(frame)
            at = int(frame.pts or 0) if at < 0 else at
            if at < start:
                at, values = at + len(values), values[max(0, start - at) :]
            if held and (
                count >= _BLOCK_SAMPLES or frame.sample_rate != rate or held[0].shape[1] != values.shape[1]
            ):
                yield rate, np.concatenate(held)
                held, count = [], 0
            if len(values):
                held.append(values)
            count, rate = count + len(values), frame.sample_rate
        if held:
            yield rate, np.concatenate(held)
        # The position of an Ogg stream may begin anywhere, and its pages were checked.
        if jumped or self.header_s is None or self._demuxer == "ogg":
            return
        spare_s = {"mp3": _TOLERANCE_S + _MP3_PADDING / rate, "flac": 0.01}.get(self._demuxer, _TOLERANCE_S)
        if total_s < self.header_s - spare_s:
            raise AudioError(
                f"{self.name}: expected {self.header_s:.2f} s by its header, got {total_s:.2f} s; the file is cut off, "
                "copy it again"
            )


@dataclass(frozen=True)
class _Wav:
    """What the header of a wav states.

    Attributes:
        pcm: layout of the samples; None if they are not PCM.
        size: bytes of samples, None if unknown.
        end: where the file ends, None if unknown.
        comment: or None.
        start: where the samples begin.
        order: of bytes, as struct has it.
        is_wide: Wave64.
        is_raw: there is no header.
    """

    pcm: Pcm | None
    size: int | None = None
    end: int | None = None
    comment: str | None = None
    start: int = 0
    order: str = "<"
    is_wide: bool = False
    is_raw: bool = False

    def is_cut(self, got: int, at: int) -> bool:
        """Whether samples are missing: more than a few bytes, and the file is shorter than its header states."""
        missing = 0 if self.size is None else self.size - got
        return missing > _SPARE_BYTES and (self.end is None or self.end > at)


class _Input:
    """A binary stream that is read from front to back; the next bytes can be looked at."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._held, self.at = stream, b"", 0
        self._header: bytearray | None = bytearray()  # what was read, as long as another reader may need it
        self._read: Any = getattr(stream, "read1", stream.read)
        self.can_seek = stream.seekable()

    def peek(self, count: int) -> bytes:
        """The next ``count`` bytes, fewer at the end; waits for them."""
        while len(self._held) < count and (data := self._read(count - len(self._held))):
            self._held += data
        return self._held[:count]

    def read(self, count: int) -> bytes:
        """Bytes that have arrived, ``count`` at most; none at the end."""
        data = self._held[:count] or (self._read(count) if count else b"")
        self._held = self._held[len(data) :]
        self.at += len(data)
        if self._header is not None:
            self._header += data
        return data

    def forget(self) -> None:
        """Keep no more of what is read."""
        self._header = None

    def take(self, count: int) -> bytes:
        """Exactly ``count`` bytes; ValueError at the end."""
        data = self.peek(count)
        if len(data) < count:
            raise ValueError("expected a wav header, got its beginning; copy the file again")
        return self.read(count)

    def skip(self, count: int | None) -> int:
        """Skip ``count`` bytes, None: to the end. Returns how many there were."""
        left = (1 << 62) if count is None else count
        while left and (data := self.read(min(left, _READ_BYTES))):
            left -= len(data)
        return (1 << 62 if count is None else count) - left

    def left(self) -> int:
        """Bytes that a stream that can seek still has."""
        at = self._stream.tell()
        left = self._stream.seek(0, os.SEEK_END) - at + len(self._held)
        self._stream.seek(at)
        return left

    def spooled(self) -> Any:
        """The stream from its beginning as a temporary file, on disk where it is large."""
        file = tempfile.SpooledTemporaryFile(_KEPT_IN_MEMORY)  # noqa: SIM115  # closed by the reader
        file.write(self._header or b"")
        self.forget()
        while data := self.read(_READ_BYTES):
            file.write(data)
        return file


def _is_wav(head: bytes) -> bool:
    return (head[:4] in _RIFF and head[8:12] == b"WAVE") or (head[:16] == _W64_ID and head[24:28] == b"wave")


def _read_wav_header(source: _Input) -> _Wav:
    """Read a RIFF, RIFX, RF64 or Wave64 header up to the samples. ValueError: it is not one."""
    begin, head = source.at, source.take(12)
    wide, order = head[:4] == b"riff", _RIFF.get(head[:4], "<")
    if wide:
        head += source.take(28)
    (end,) = struct.unpack_from("<Q", head, 16) if wide else struct.unpack_from(f"{order}I", head, 4)
    end = None if not wide and _is_unknown(end) else begin + end + (0 if wide else 8)
    pcm, is_described, long_size, comment = None, False, 0, None
    for _ in range(_MAX_CHUNKS):
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
    return _Wav(pcm, None if unknown else size, end, comment, source.at, order, wide)


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


def _check_ogg(file: BinaryIO) -> int:
    """Check every page of an Ogg file (RFC 3533).

    Returns:
        the sum of the final positions of its streams, in samples.

    Raises:
        ValueError: a page is damaged or missing, or a stream has no end.
    """
    at = total = 0
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
            total += streams.pop(serial)[1]
        at += 27 + len(lacing) + len(body)
    if streams:
        raise ValueError("the file is cut off (its Ogg stream has no last page); copy it again")
    return total


def _ogg_crc(data: bytes) -> int:
    """CRC-32 as in RFC 3533: that of zlib on reversed bits, without its inversions."""
    value = zlib.crc32(data.translate(_REVERSED_BITS), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(value.to_bytes(4, "big").translate(_REVERSED_BITS), "little")


def _mp3_samples(file: BinaryIO) -> int | None:
    """Samples that the first frame of an MP3 file counts, padding included; None without such a count."""
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


def _without_tag(data: bytes) -> bytes | None:
    """What follows the tags that a packet of an MP3 stream begins with; None if it begins with something else."""
    if not any(data) or data.startswith((b"APETAGEX", b"LYRICSBEGIN")):
        return b""
    if data.startswith(b"ID3"):
        rest = data[_tag_bytes(data) :]
    elif data.startswith(b"TAG"):
        rest = data[128:]
    else:
        return None
    return _without_tag(rest) if rest.startswith((b"ID3", b"TAG", b"APETAGEX")) else rest


def _frame_samples(frame: Any) -> np.ndarray:
    """A decoded frame -> [n, C] float32 with full scale 1."""
    values = frame.to_ndarray()
    values = values.T if frame.format.is_planar else values.reshape(-1, frame.layout.nb_channels)
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - 128) / 128
    if values.dtype.kind == "i":
        return values.astype(np.float32) / np.float32(2 ** (8 * values.dtype.itemsize - 1))
    return values.astype(np.float32, copy=False)


def _check_samples(block: np.ndarray, name: str, start: int) -> None:
    """Refuse samples [n, C] that are not finite or in another unit; the first is sample ``start``."""
    peak = np.abs(block).max(initial=0)  # NaN and inf are kept by max
    if peak <= MAX_PEAK:
        return
    bad = ~np.isfinite(block).all(axis=1)
    if bad.any():
        raise AudioError(
            f"{name}: expected finite samples, got NaN or inf at sample {start + int(bad.argmax())}; repair the "
            "recording"
        )
    raise AudioError(f"{name}: expected samples in [-1, 1], got a peak of {peak:g}; divide by the full scale")


def resample(wav: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Change the sampling rate of a signal (soxr, high quality).

    Args:
        wav: [..., N] float32, N >= 1; each row is resampled on its own.
        from_rate: its rate in Hz.
        to_rate: the wanted rate in Hz.

    Returns:
        [..., N * to_rate / from_rate] float32 in [-1, 1] on the device of ``wav``; ``wav`` itself if the rates agree.

    Raises:
        TypeError: ``wav`` is not a tensor.
        ValueError: ``wav`` has no samples or is not floating point, or a rate is out of range.
    """
    import torch

    _check_floats(wav)
    if not wav.ndim or not wav.numel():
        raise ValueError(f"expected at least one sample to resample, got {list(wav.shape)}")
    if from_rate == to_rate:
        return wav
    rows = wav.detach().to("cpu", torch.float32).reshape(-1, 1, wav.shape[-1])
    done = [torch.cat(list(resampled([row], from_rate, to_rate)), dim=-1) for row in rows]
    return torch.cat(done).reshape(*wav.shape[:-1], -1).to(wav.device)


def resampled(blocks: Iterable[Tensor], from_rate: int, to_rate: int) -> Iterator[Tensor]:
    """Resample sound that arrives in blocks. The result does not depend on how it is cut.

    Args:
        blocks: wavs [1, n] float32.
        from_rate: their rate in Hz.
        to_rate: the wanted rate in Hz.

    Yields:
        wav [1, n] float32 in [-1, 1], n >= 1, as soon as the filter has what it needs (some 10 ms after its input).

    Raises:
        AudioError: a rate is out of range.
    """
    import torch

    for rate in (from_rate, to_rate):
        if not isinstance(rate, int | float | np.number) or not 0 < rate <= MAX_RATE_HZ:
            raise AudioError(
                f"expected sampling rates of 1 to {MAX_RATE_HZ} Hz, got {from_rate!r} and {to_rate!r} Hz"
            )
    if from_rate == to_rate:
        yield from blocks
        return
    for out in _at_rate((block.numpy().T for block in blocks), from_rate, to_rate):
        yield torch.from_numpy(out.T).clamp_(-1, 1)


def _at_rate(blocks: Iterable[np.ndarray], from_rate: int, to_rate: int) -> Iterator[np.ndarray]:
    """[n, C] float32 at ``from_rate`` -> [n, C] at ``to_rate``, without empty blocks."""
    import soxr

    stream, first, count = None, None, 0
    for block in blocks:
        if stream is None:
            stream, first = (
                soxr.ResampleStream(from_rate, to_rate, block.shape[1], dtype="float32"),
                block[:1],
            )
        out = stream.resample_chunk(block, last=False)
        if len(out):
            count += len(out)
            yield out
    if stream is None or first is None:
        return
    out = stream.resample_chunk(first[:0], last=True)
    if len(out) or not count:
        # Of a sound shorter than half a new sample, one sample is kept.
        yield out if len(out) else first


def save_audio(path: str | Path, wav: Tensor, sampling_rate: int, comment: str | None = None) -> None:
    """Write one channel to a sound file. The file is whole or absent.

    Args:
        path: its suffix decides the format: .wav and .flac are 16-bit PCM, .ogg and .opus are Opus.
        wav: [1, N] or [N] float, N >= 1; values beyond [-1, 1] are clipped.
        sampling_rate: in Hz.
        comment: stored in the file: RIFF INFO in a wav, a Vorbis comment in the others.

    Raises:
        TypeError: ``wav`` is not a tensor.
        AudioError: the suffix, the rate, the shape or a sample cannot be written.
        OSError: the folder does not exist or cannot be written.
    """
    _check_floats(wav)
    peak = float(wav.abs().max()) if wav.numel() else 0.0
    if MAX_PEAK < peak < float("inf"):
        raise AudioError(
            f"{path}: expected samples in [-1, 1], got a peak of {peak:g}; divide by the full scale"
        )
    save_audio_blocks(path, [wav], sampling_rate, comment)


def save_audio_blocks(
    path: str | Path, blocks: Iterable[Tensor], sampling_rate: int, comment: str | None = None
) -> int:
    """Write sound that arrives in blocks, in constant memory. The file is whole or absent.

    Args:
        path: as for :func:`save_audio`.
        blocks: wavs [1, n] or [n], written one after the other.
        sampling_rate: in Hz.
        comment: as for :func:`save_audio`.

    Returns:
        the number of samples written.

    Raises:
        AudioError: as for :func:`save_audio`; also if there is no sample in any block.
        OSError: the folder does not exist or cannot be written.
    """
    import soundfile

    path = Path(path)
    container, coding = _format_of(path, sampling_rate)
    written = 0
    with write_aside(path) as aside:
        name: Any = os.fsencode(aside) if os.name == "posix" else str(aside)  # any bytes are a name on POSIX
        try:
            with soundfile.SoundFile(name, "w", sampling_rate, 1, coding, format=container) as file:
                if comment is not None:
                    file.comment = comment
                for block in blocks:
                    samples = _one_channel(block, path, written)
                    written += len(samples)
                    if container == "WAV" and written * 2 > _LARGEST_WAV_BYTES:
                        raise AudioError(
                            f"{path}: a .wav file holds less than 4 GiB; write a .flac file instead"
                        )
                    file.write(samples)
        except soundfile.LibsndfileError as error:
            raise AudioError(
                f"{path}: cannot write it as {container}/{coding} ({error.error_string}); is there room on the disk?"
            ) from None
        if not written:
            raise AudioError(f"{path}: expected at least one sample to write, got 0")
    return written


def wav_head(sampling_rate: int, comment: str | None = None) -> bytes:
    """The header of a 16-bit mono wav of unknown length, as ffmpeg writes it to a pipe.

    Args:
        sampling_rate: in Hz.
        comment: stored before the samples, so that a reader of the pipe gets it first.
    """
    unknown = 0xFFFFFFFF
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, sampling_rate, 2 * sampling_rate, 2, 16)
    listed = b""
    if comment is not None:
        text = comment.encode("utf-8", "replace") + b"\0"
        text += b"\0" * (len(text) % 2)
        listed = struct.pack("<4sI4s4sI", b"LIST", 12 + len(text), b"INFO", b"ICMT", len(text)) + text
    data = struct.pack("<4sI", b"data", unknown)
    return struct.pack("<4sI4s", b"RIFF", unknown, b"WAVE") + form + listed + data


def pcm_bytes(wav: Tensor, kind: str) -> bytes:
    """Samples as bytes, rounded as in a file.

    Args:
        wav: [1, n] float32.
        kind: "s16le" or "f32le".

    Raises:
        ValueError: another kind.
    """
    samples = wav.detach().cpu().float().reshape(-1).numpy()
    if kind == "f32le":
        return samples.astype("<f4").tobytes()
    if kind == "s16le":
        return np.clip(np.floor(samples * np.float32(32768)), -32768, 32767).astype("<i2").tobytes()
    raise ValueError(f"expected s16le or f32le, got {kind}")


def _check_floats(wav: Tensor) -> None:
    from torch import Tensor

    if not isinstance(wav, Tensor):
        raise TypeError(f"expected wav as a torch.Tensor, got {type(wav).__name__}; see torch.as_tensor")
    if not wav.is_floating_point():
        raise AudioError(
            f"expected float samples in [-1, 1], got {wav.dtype}; divide 16-bit samples by 32768"
        )


def _format_of(path: Path, sampling_rate: int) -> tuple[str, str]:
    if path.suffix.lower() not in _FORMATS:
        raise AudioError(
            f"{path}: expected a name ending in {', '.join(_FORMATS)}, got {path.suffix or 'no suffix'}"
        )
    if not isinstance(sampling_rate, int | np.integer) or not 0 < sampling_rate <= MAX_RATE_HZ:
        raise AudioError(
            f"{path}: expected a whole sampling rate of 1 to {MAX_RATE_HZ} Hz, got {sampling_rate!r}"
        )
    container, coding = _FORMATS[path.suffix.lower()]
    if coding == "OPUS" and sampling_rate not in _OPUS_RATES:
        rates = ", ".join(map(str, _OPUS_RATES))
        raise AudioError(
            f"{path}: Opus takes {rates} Hz, got {sampling_rate}; write .wav or .flac, or resample()"
        )
    return container, coding


def _one_channel(block: Tensor, path: Path, start: int) -> np.ndarray:
    """[1, n] or [n] -> checked numpy [n] in [-1, 1]."""
    _check_floats(block)
    if block.ndim not in (1, 2) or (block.ndim == 2 and block.shape[0] != 1):
        raise AudioError(
            f"{path}: expected wav [1, N] or [N], got {list(block.shape)}; save one channel at a time"
        )
    samples = block.detach().cpu().float().reshape(-1).numpy()
    if len(samples) and not np.isfinite(samples).all():
        bad = ~np.isfinite(samples)
        raise AudioError(
            f"{path}: expected finite samples, got NaN or inf at sample {start + int(bad.argmax())} "
            f"({int(bad.sum())} of {len(samples)})"
        )
    return np.clip(samples, -1, 1)
