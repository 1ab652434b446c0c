"""Audio files and pipes: read, resample and write. Files are read to their actual end, in bounded memory."""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

import numpy as np

from .containers import (
    MAX_CHUNKS,
    MAX_RATE_HZ,
    READ_BYTES,
    AudioError,
    ByteSource,
    WavHeader,
    check_ogg,
    is_wav,
    mp3_samples,
    read_wav_header,
    without_tag,
)
from .files import write_aside

if TYPE_CHECKING:
    from torch import Tensor

MAX_PEAK = 4.0
"""Largest accepted sample. Samples beyond it are assumed to be in another unit."""

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
_BLOCK_SAMPLES = 1 << 16
# Audio containers that ffmpeg may open. Playlists and the like are left out, because they make it open other files.
_DEMUXERS = ",".join(
    "aac ac3 aiff amr ape asf au caf eac3 flac matroska webm mov mp4 m4a 3gp mp3 mpc mpc8 nistsphere ogg tta voc w64 "
    "wav wv".split()
)
# Formats that do not store a length. ffmpeg estimates one from the bitrate.
_NO_LENGTH = ("aac", "ac3", "amr", "eac3", "mpc", "wav")
_TOLERANCE_S = 0.1
_MP3_PADDING = 3 * 1152  # samples that the header counts and the decoder removes
_MAGIC = {b"fLaC": "FLAC", b"OggS": "Ogg", b"FORM": "AIFF", b".snd": "AU", b"ftyp": "MP4"}


def load_audio(source: str | Path | bytes | BinaryIO, sampling_rate: int | None = None) -> tuple[Tensor, int]:
    """Read a complete audio file as one channel.

    Args:
        source: a path, the bytes of a file, or a binary stream. WAV, FLAC, Ogg, Opus, MP3, M4A, WebM and most other
            audio formats; channels are averaged.
        sampling_rate: resample to this rate in Hz; None keeps the file's rate.

    Returns:
        wav [1, N] float32 in [-1, 1] with N >= 1, and its sampling rate in Hz.

    Raises:
        FileNotFoundError: the file does not exist.
        AudioError: the file is not audio, is damaged or cut off, has no samples, or has samples that are not finite.
    """
    import torch

    with open_audio(source) as sound:
        return torch.cat(list(sound.blocks(sampling_rate)), dim=-1), sampling_rate or sound.sampling_rate


def audio_blocks(
    source: str | Path | bytes | BinaryIO, sampling_rate: int | None = None, block_s: float = 30.0
) -> Iterator[Tensor]:
    """Read a sound of any length in constant memory. Arguments and errors as for :func:`load_audio`.

    Yields:
        wav [1, n] float32 in [-1, 1] of ``block_s`` seconds; the last one is shorter. Concatenated, they equal
        ``load_audio(source, sampling_rate)[0]``.

    Raises:
        ValueError: ``block_s`` is not a finite number above 0.
    """
    import torch

    if not 0 < block_s < float("inf"):
        raise ValueError(f"expected block_s to be a finite number of seconds above 0, got {block_s}")
    with open_audio(source) as sound:
        size = max(1, round(block_s * (sampling_rate or sound.sampling_rate)))
        held: list[Tensor] = []
        count = 0
        for piece in sound.blocks(sampling_rate):
            held.append(piece)
            count += piece.shape[-1]
            if count >= size:
                *whole, rest = torch.cat(held, dim=-1).split(size, dim=-1)
                if rest.shape[-1] == size:
                    whole, rest = [*whole, rest], rest[:, :0]
                yield from whole
                held, count = [rest], rest.shape[-1]
        if count:
            yield torch.cat(held, dim=-1)


def read_comment(path: str | Path) -> str | None:
    """The comment that :func:`save_audio` stored in a sound file; None if there is none or the file is not audio."""
    with suppress(AudioError, OSError), open_audio(path) as sound:
        return sound.comment
    return None


def open_audio(source: str | Path | bytes | BinaryIO, name: str = "stdin") -> AudioReader:
    """Open a path, the bytes of a file or a binary stream for reading from front to back; ``name`` is that of bytes and
    streams in errors. A wav on a pipe is read as it arrives, other formats when the pipe has ended.

    Raises:
        FileNotFoundError: the file does not exist.
        AudioError: the input is not audio.
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if path.is_dir():
            raise AudioError(f"{path}: expected an audio file, got a folder; name the files in it")
        if not path.exists():
            raise FileNotFoundError(f"{path}: no such file")
        return AudioReader(path.open("rb"), str(path), owned=True)
    if isinstance(source, bytes | bytearray | memoryview):
        source = io.BytesIO(source)
    return AudioReader(source, name)


class AudioReader:
    """Sequential reader of a sound. Create it with :func:`open_audio` and close it after use.

    Attributes:
        sampling_rate, channels: in Hz; of the first block.
        name, format, comment: for display; the comment may be None.
        header_s: length in seconds that the header states, or None. It can be wrong; use it only as an estimate.
    """

    def __init__(self, stream: BinaryIO, name: str, owned: bool = False) -> None:
        self.name, self._stream, self._input = name, stream, ByteSource(stream)
        self._to_close: list[Any] = [stream] if owned else []
        self.comment: str | None = None
        self.header_s: float | None = None
        self._container: Any = None
        self._samples: int | None = None  # of a file with one Ogg stream
        try:
            self._open()
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
        """The sound as checked wavs [1, n] float32 in [-1, 1], channels averaged, at this rate in Hz or the file's.
        AudioError: the sound is damaged, cut off or empty, or a sample is not finite or in another unit.
        """
        rate = self.sampling_rate if sampling_rate is None else sampling_rate
        return resampled(self._checked(), self.sampling_rate, rate)

    def samples(
        self, start_s: float = 0.0, stop_s: float | None = None, channel: int | None = None
    ) -> Iterator[np.ndarray]:
        """Samples [n] float32 at :attr:`sampling_rate` from ``start_s`` to ``stop_s`` seconds, of one channel, counted
        from 0, or averaged. Their values are not checked. AudioError: the sound is damaged, or has no such channel.
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
            peak = np.abs(block).max(initial=0)  # max propagates NaN and inf
            if not peak <= MAX_PEAK:
                _check_finite(block, self.name, done)
                raise AudioError(
                    f"{self.name}: expected samples in [-1, 1], got a peak of {peak:g}; divide by the full scale"
                )
            done += len(block)
            yield torch.from_numpy(block.mean(axis=1, dtype=np.float32)).clamp_(-1, 1).unsqueeze(0)
        if not done:
            raise AudioError(f"{self.name}: expected at least one sample, got 0")

    def _frames(self, start: int) -> Iterator[np.ndarray]:
        """[n, C] from sample ``start`` on. Files that were joined may change C, and their rate is adapted."""
        parts = self._pcm_parts(start) if self._container is None else self._decoded_parts(start)
        for (rate, _), run in groupby(parts, key=lambda part: (part[0], part[1].shape[1])):
            blocks = (block for _, block in run)
            yield from blocks if rate == self.sampling_rate else _at_rate(blocks, rate, self.sampling_rate)

    def _open(self) -> None:
        head = self._input.peek(40)
        if not head:
            raise AudioError(f"{self.name}: expected audio, got an empty file or stream")
        self._wav = self._wav_header() if is_wav(head) else None
        if self._wav is None or self._wav.pcm is None:
            return self._open_container(head)
        layout, size = self._wav.pcm, self._wav.size
        self._input.forget()
        self.sampling_rate, self.channels = layout.sampling_rate, layout.channels
        self.format, self.comment = f"wav/{layout.kind}", self._wav.comment
        if size is not None:
            size = min(size, self._input.left()) if self._input.can_seek else size
            self.header_s = size / layout.frame_bytes / layout.sampling_rate

    def _wav_header(self) -> WavHeader:
        try:
            return read_wav_header(self._input)
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
            while data := source.read(READ_BYTES if wav.size is None else min(READ_BYTES, wav.size - got)):
                got += len(data)
                data = rest + data
                whole = len(data) // step * step
                rest = data[whole:]
                if whole:
                    yield wav.pcm.sampling_rate, wav.pcm.decode(data[:whole])
            if wav.is_cut(got, source.at):
                raise AudioError(
                    f"{self.name}: expected {wav.size} bytes of samples by its header, got {got}; the file is cut "
                    "off, copy it again"
                )
            if not self._at_next_wav(wav, got):
                return
            self._wav = self._wav_header()

    def _at_next_wav(self, wav: WavHeader, got: int) -> bool:
        """Skip the data after the samples. Return whether another wav file was appended."""
        source = self._input
        if got % 2 and source.peek(1) == b"\0":
            source.read(1)
        for _ in range(MAX_CHUNKS):
            head = source.peek(40)
            if not head or wav.is_wide or wav.size is None:
                break
            if is_wav(head):
                return True
            if head[:4] == b"data" and head[4:8] != bytes(4):
                raise AudioError(
                    f"{self.name}: expected one chunk of samples, got another at byte {source.at}; convert it, for "
                    "example with sox"
                )
            if re.match(rb"[ -~]{4}", head):
                size = int.from_bytes(head[4:8], "little" if wav.order == "<" else "big")
                source.skip(8 + size + size % 2)
                continue
            start = source.at
            if any(any(data) for data in iter(lambda: source.read(READ_BYTES), b"")):
                raise AudioError(
                    f"{self.name}: expected the end or another chunk after the {got} bytes of samples that the "
                    f"header states, got other data at byte {start}; correct the header, for example with ffmpeg"
                )
        source.skip(None)  # lets the writer of a pipe finish
        return False

    def _open_container(self, head: bytes) -> None:
        import av
        from av.error import FFmpegError

        stream: Any = self._stream
        if not self._input.can_seek:
            stream = self._input.spooled()
            self._to_close.append(stream)
        stream.seek(0)
        stated = None
        try:
            if head[:4] == b"OggS":
                ends = check_ogg(stream)
                stated, self._samples = sum(ends), ends[0] if len(ends) == 1 else None
            elif self._wav is not None:
                size = stream.seek(0, os.SEEK_END)
                if self._wav.is_cut(size - self._wav.start, size):
                    raise ValueError("the file is cut off, copy it again")
            else:
                stated = mp3_samples(stream)
        except ValueError as error:
            raise AudioError(f"{self.name}: {error}") from None
        stream.seek(0)
        try:
            self._container = av.open(
                stream, "r", options={"format_whitelist": _DEMUXERS}, metadata_errors="ignore"
            )
            self._to_close.append(self._container)
            self._demuxer = self._container.format.name.split(",")[0]
            audio = self._container.streams.audio
            if not audio:
                raise AudioError(f"{self.name}: expected sound, got a {self._demuxer} file without any")
            self._track = audio[0]
            self._track.codec_context.options = {"err_detect": "crccheck+explode"}
            self._decoded_frames = self._decode()
            first = next(self._decoded_frames, None)
        except FFmpegError as error:
            kind = _MAGIC.get(head[:4]) or _MAGIC.get(head[4:8])
            what = "something else" if kind is None else f"{kind} that is damaged or cut off"
            raise AudioError(
                f"{self.name}: expected an audio file (wav, flac, ogg, opus, mp3, m4a...), got {what} "
                f"({error.strerror}); {'convert it first' if kind is None else 'copy it again'}"
            ) from None
        if first is None:
            raise AudioError(f"{self.name}: expected at least one sample, got 0")
        self._decoded_frames = chain([first], self._decoded_frames)
        self.sampling_rate, self.channels = first.sample_rate, first.layout.nb_channels
        self.format = f"{self._demuxer}/{self._track.codec_context.name}"
        tags = {**self._container.metadata, **self._track.metadata}
        self.comment = {key.lower(): value for key, value in tags.items()}.get("comment") or None
        if self._demuxer in ("mp3", "ogg"):
            self.header_s = None if stated is None else stated / self.sampling_rate
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
                    rest = without_tag(bytes(packet))
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
        """(rate, [n, C]) from sample ``start`` on, in blocks of at least :data:`_BLOCK_SAMPLES` where possible."""
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
            if self._track.codec_context.name == "vorbis" and self._samples is not None:
                values = values[: max(0, self._samples - at)]  # the last packet has samples behind the end
            before, at = max(0, start - at), at + len(values)
            values = values[before:]
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
        # An Ogg stream may start at any position, and its pages have been checked.
        if jumped or self.header_s is None or self._demuxer == "ogg":
            return
        spare_s = {"mp3": _TOLERANCE_S + _MP3_PADDING / rate, "flac": 0.01}.get(self._demuxer, _TOLERANCE_S)
        if total_s < self.header_s - spare_s:
            raise AudioError(
                f"{self.name}: expected {self.header_s:.2f} s by its header, got {total_s:.2f} s; the file is cut off, "
                "copy it again"
            )


def _frame_samples(frame: Any) -> np.ndarray:
    """A decoded frame -> [n, C] float32 with full scale 1."""
    values = frame.to_ndarray()
    values = values.T if frame.format.is_planar else values.reshape(-1, frame.layout.nb_channels)
    if values.dtype == np.uint8:
        return (values.astype(np.float32) - 128) / 128
    if values.dtype.kind == "i":
        return values.astype(np.float32) / np.float32(2 ** (8 * values.dtype.itemsize - 1))
    return values.astype(np.float32, copy=False)


def _check_finite(samples: np.ndarray, name: object, start: int) -> None:
    """Refuse samples [n, ...] that are not finite; the first one is sample ``start`` of the sound."""
    if not np.isfinite(samples).all():
        bad = np.argwhere(~np.isfinite(samples))[0, 0]
        raise AudioError(
            f"{name}: expected finite samples, got NaN or inf at sample {start + bad}; repair it"
        )


def resample(wav: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Change the sampling rate of a signal (soxr, high quality).

    Args:
        wav: [..., N] float32, N >= 1; each row is resampled on its own.
        from_rate, to_rate: in Hz.

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
    """Resample sound in blocks [1, n] float32; the result does not depend on their boundaries. The output comes about
    10 ms after the input because of the filter. AudioError: a rate is out of range.
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

    stream, first, count = None, np.zeros((0, 1), np.float32), 0
    for block in blocks:
        if stream is None:
            stream = soxr.ResampleStream(from_rate, to_rate, block.shape[1], dtype="float32")
            first = block[:1]
        out = stream.resample_chunk(block, last=False)
        if len(out):
            count += len(out)
            yield out
    if stream is None:
        return
    out = stream.resample_chunk(first[:0], last=True)
    if len(out) or not count:
        # A very short sound can resample to nothing. Keep one sample.
        yield out if len(out) else first


def save_audio(path: str | Path, wav: Tensor, sampling_rate: int, comment: str | None = None) -> None:
    """Write one channel to a sound file. The write is atomic.

    Args:
        path: the suffix selects the format: .wav and .flac are 16-bit PCM, .ogg and .opus are Opus.
        wav: [1, N] or [N] float, N >= 1; values beyond [-1, 1] are clipped.
        sampling_rate: in Hz.
        comment: stored in the file: RIFF INFO in a wav, a Vorbis comment in the others.

    Raises:
        TypeError: ``wav`` is not a tensor.
        AudioError: the suffix, rate, shape or samples are not supported.
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
    """Write blocks [1, n] or [n] as :func:`save_audio` does, in constant memory; returns the number of samples."""
    import soundfile

    path = Path(path)
    container, coding = _FORMATS.get(path.suffix.lower(), ("", ""))
    if not container:
        raise AudioError(
            f"{path}: expected a name ending in {', '.join(_FORMATS)}, got {path.suffix or 'no suffix'}"
        )
    if not isinstance(sampling_rate, int | np.integer) or not 0 < sampling_rate <= MAX_RATE_HZ:
        raise AudioError(
            f"{path}: expected a whole sampling rate of 1 to {MAX_RATE_HZ} Hz, got {sampling_rate!r}"
        )
    if coding == "OPUS" and sampling_rate not in _OPUS_RATES:
        rates = ", ".join(map(str, _OPUS_RATES))
        raise AudioError(
            f"{path}: Opus takes {rates} Hz, got {sampling_rate}; write .wav or .flac, or resample()"
        )
    written = 0
    with write_aside(path) as aside:
        # POSIX file names may be arbitrary bytes.
        name: Any = os.fsencode(aside) if os.name == "posix" else str(aside)
        try:
            with soundfile.SoundFile(name, "w", sampling_rate, 1, coding, format=container) as file:
                if comment is not None:
                    file.comment = comment
                for block in blocks:
                    _check_floats(block)
                    if block.ndim not in (1, 2) or (block.ndim == 2 and block.shape[0] != 1):
                        raise AudioError(
                            f"{path}: expected wav [1, N] or [N], got {list(block.shape)}; save one channel at a time"
                        )
                    samples = block.detach().cpu().float().reshape(-1).numpy()
                    _check_finite(samples, path, written)
                    written += len(samples)
                    if container == "WAV" and written * 2 > _LARGEST_WAV_BYTES:
                        raise AudioError(f"{path}: a .wav file holds less than 4 GiB; write a .flac file")
                    file.write(np.clip(samples, -1, 1))
        except soundfile.LibsndfileError as error:
            raise AudioError(
                f"{path}: cannot write it as {container}/{coding} ({error.error_string}); check the free disk space"
            ) from None
        if not written:
            raise AudioError(f"{path}: expected at least one sample to write, got 0")
    return written


def wav_head(sampling_rate: int, comment: str | None = None) -> bytes:
    """The header of a 16-bit mono wav of unknown length, as ffmpeg writes it to a pipe, with a comment."""
    unknown = 0xFFFFFFFF
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, sampling_rate, 2 * sampling_rate, 2, 16)
    listed = b""
    if comment is not None:
        text = comment.encode("utf-8", "replace") + b"\0"
        text += b"\0" * (len(text) % 2)
        listed = struct.pack("<4sI4s4sI", b"LIST", 12 + len(text), b"INFO", b"ICMT", len(text)) + text
    data = struct.pack("<4sI", b"data", unknown)
    return struct.pack("<4sI4s", b"RIFF", unknown, b"WAVE") + form + listed + data


def pcm_bytes(wav: Tensor) -> bytes:
    """Samples [1, n] float32 as 16-bit little-endian PCM, rounded as in a file."""
    samples = wav.detach().cpu().float().reshape(-1).numpy()
    return np.clip(np.floor(samples * np.float32(32768)), -32768, 32767).astype("<i2").tobytes()


def _check_floats(wav: Tensor) -> None:
    from torch import Tensor

    if not isinstance(wav, Tensor):
        raise TypeError(f"expected wav as a torch.Tensor, got {type(wav).__name__}; see torch.as_tensor")
    if not wav.is_floating_point():
        raise AudioError(
            f"expected float samples in [-1, 1], got {wav.dtype}; divide 16-bit samples by 32768"
        )
