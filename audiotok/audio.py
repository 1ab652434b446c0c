"""Sound files in and out: load, save, resample, and blocks of a file that does not fit in memory.

Knows nothing of codecs. The one law it keeps: a file read in blocks gives the samples of the file read
whole, because both are the same streaming pass; and what comes out is finite, mono and in [-1, 1], or an
:class:`AudioError` says why not.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from torch import Tensor

from .files import write_aside
from .wav import MAX_PEAK, MAX_RATE_HZ, missing_bytes

# Frames of one read: enough to be fast, few enough that 8 channels at 192 kHz stay small.
_READ_FRAMES = 1 << 16
# A frame count from here on is libsndfile's way to say "unknown" (a stream without a length in its header).
UNKNOWN_FRAMES = 1 << 60
_FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "OPUS"),
    ".opus": ("OGG", "OPUS"),
}
SOUND_SUFFIXES = tuple(_FORMATS)  # of the files that save_audio writes
_OPUS_RATES = (8000, 12000, 16000, 24000, 48000)
# The size fields of a WAV header have 32 bits; some bytes are left for the header itself.
_LARGEST_WAV_BYTES = (1 << 32) - 1024


class AudioError(ValueError):
    """Something is wrong with a sound: the text names it, says what was expected, and what to do."""


def load_audio(path: str | Path, sampling_rate: int | None = None) -> tuple[Tensor, int]:
    """Read a sound file as one channel.

    Args:
        path: any format that libsndfile reads (WAV, FLAC, Ogg Opus and Vorbis, MP3...), any channel count
            (averaged).
        sampling_rate: resample to this rate in Hz; None keeps the file's own.

    Returns:
        wav [1, N] float32 in [-1, 1] with N >= 1, and its sampling rate in Hz.

    Raises:
        FileNotFoundError: there is no such file.
        AudioError: the file is not audio, is damaged, has no samples, or has samples that are not finite.
    """
    with _open(path) as file:
        rate = file.samplerate if sampling_rate is None else sampling_rate
        wav = torch.cat(list(resampled(_mono_blocks(file, path), file.samplerate, rate)), dim=-1)
    return wav, rate


def audio_blocks(
    path: str | Path, sampling_rate: int | None = None, block_s: float = 30.0
) -> Iterator[Tensor]:
    """Read a sound file of any length in constant memory.

    Args:
        path: as for :func:`load_audio`.
        sampling_rate: resample to this rate in Hz; None keeps the file's own.
        block_s: length of a block in seconds; the last one is shorter.

    Yields:
        wav [1, n] float32 in [-1, 1]; joined, the blocks equal ``load_audio(path, sampling_rate)[0]``.

    Raises:
        FileNotFoundError: there is no such file.
        AudioError: as for :func:`load_audio`; a bad sample is found when its block is reached.
        ValueError: ``block_s`` is not above 0, or not finite.
    """
    if not 0 < block_s < float("inf"):
        raise ValueError(f"expected blocks of a finite number of seconds above 0, got {block_s}")
    with _open(path) as file:
        rate = file.samplerate if sampling_rate is None else sampling_rate
        size = max(1, round(block_s * rate))
        held: list[Tensor] = []
        count = 0
        for piece in resampled(_mono_blocks(file, path), file.samplerate, rate):
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
    """What the header of a sound file says; no sample is read.

    Returns:
        num_samples, sampling_rate, duration_s, channels, format.

    Raises:
        FileNotFoundError: there is no such file.
        AudioError: the file is not audio, or has no samples.
    """
    with _open(path) as file:
        if not 0 < file.frames < UNKNOWN_FRAMES:
            raise AudioError(f"{path}: expected at least one sample, got a header that names none")
        return {
            "duration_s": file.frames / file.samplerate,
            "sampling_rate": file.samplerate,
            "num_samples": file.frames,
            "channels": file.channels,
            "format": f"{file.format}/{file.subtype}",
        }


def read_comment(path: str | Path) -> str | None:
    """The comment of a sound file, as :func:`save_audio` writes it; None if it has none, or is no sound file."""
    try:
        with soundfile.SoundFile(system_name(path)) as file:
            return file.comment or None
    except (soundfile.LibsndfileError, OSError):
        return None


def resample(wav: Tensor, from_rate: int, to_rate: int) -> Tensor:
    """Change the sampling rate of a signal (soxr, high quality).

    Args:
        wav: [..., N] float32, N >= 1; each row is resampled on its own.
        from_rate: its rate in Hz.
        to_rate: the wanted rate in Hz.

    Returns:
        [..., N * to_rate / from_rate] float32 in [-1, 1] on the device of ``wav``; ``wav`` itself if the
        rates agree.

    Raises:
        TypeError: ``wav`` is no tensor.
        ValueError: ``wav`` has no samples or none of floats, or a rate is out of range.
    """
    _check_floats(wav)
    if not wav.ndim or not wav.numel():
        raise ValueError(f"expected at least one sample to resample, got {list(wav.shape)}")
    if from_rate == to_rate:
        return wav
    rows = wav.detach().to("cpu", torch.float32).reshape(-1, 1, wav.shape[-1])
    done = [torch.cat(list(resampled([row], from_rate, to_rate)), dim=-1) for row in rows]
    return torch.cat(done).reshape(*wav.shape[:-1], -1).to(wav.device)


def save_audio(path: str | Path, wav: Tensor, sampling_rate: int, comment: str | None = None) -> None:
    """Write one channel of sound to a file that is whole or absent.

    Args:
        path: its suffix decides the format: .wav and .flac are 16-bit PCM, .ogg and .opus are Opus.
        wav: [1, N] or [N] float, N >= 1; values beyond [-1, 1] are clipped.
        sampling_rate: in Hz.
        comment: kept with the sound: RIFF INFO in a wav, a Vorbis comment in the others.

    Raises:
        TypeError: ``wav`` is no tensor.
        AudioError: the suffix, the rate, the shape or a sample is not one that can be written.
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
    """Write sound that arrives in blocks, in constant memory, to a file that is whole or absent.

    Args:
        path: as for :func:`save_audio`.
        blocks: wavs [1, n] or [n], joined in their order.
        sampling_rate: in Hz.
        comment: as for :func:`save_audio`.

    Returns:
        The number of samples written.

    Raises:
        AudioError: as for :func:`save_audio`; also if there is no sample in any block.
        OSError: the folder does not exist or cannot be written.
    """
    path = Path(path)
    container, coding = _format_of(path, sampling_rate)
    written = 0
    with write_aside(path) as aside:
        try:
            with soundfile.SoundFile(
                system_name(aside),
                "w",
                samplerate=sampling_rate,
                channels=1,
                format=container,
                subtype=coding,
            ) as file:
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


def _open(path: str | Path) -> soundfile.SoundFile:
    path = Path(path)
    if path.is_dir():
        raise AudioError(f"{path}: expected an audio file, got a folder; name the files in it")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.stat().st_size == 0:
        raise AudioError(f"{path}: expected an audio file, got an empty file")
    with path.open("rb") as file:
        missing = missing_bytes(file)
    if missing:
        # libsndfile would shrink the sound to what is there, and say nothing.
        raise AudioError(
            f"{path}: expected {missing} bytes more of sound by its header; the file is cut off, copy it again"
        )
    try:
        return soundfile.SoundFile(system_name(path))
    except soundfile.LibsndfileError as error:
        what = error.error_string.rstrip(".")
        raise AudioError(
            f"{path}: expected an audio file (wav, flac, ogg, opus, mp3), got something else ({what}); "
            f"convert it first"
        ) from None


def _mono_blocks(file: soundfile.SoundFile, path: str | Path) -> Iterator[Tensor]:
    """The file's samples as checked blocks [1, n], channels averaged; at least one sample in all."""
    done = 0
    while True:
        try:
            block = file.read(_READ_FRAMES, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            raise AudioError(f"{path}: damaged after sample {done}: {error.error_string}") from None
        if not len(block):
            break
        yield to_mono(block, path, done)
        done += len(block)
    if done == 0:
        raise AudioError(f"{path}: expected at least one sample, got an audio file with 0 samples")
    if done < file.frames < UNKNOWN_FRAMES:
        raise AudioError(
            f"{path}: expected the {file.frames} samples of its header, got {done}; the file is cut off, "
            f"copy it again"
        )


def to_mono(block: np.ndarray, name: str | Path, start: int) -> Tensor:
    """Check a block of samples and average its channels.

    Args:
        block: [n, C] float32, n >= 1.
        name: what errors call the sound.
        start: number of its first sample in that sound.

    Returns:
        wav [1, n] float32 in [-1, 1].

    Raises:
        AudioError: a sample is not finite, or in another unit.
    """
    _check_samples(block, name, start)
    return torch.from_numpy(block.mean(axis=1, dtype=np.float32)).clamp_(-1, 1).unsqueeze(0)


def _check_samples(block: np.ndarray, path: str | Path, start: int) -> None:
    """Refuse samples [n, C] that are not finite or in another unit; the first is sample ``start``."""
    # One pass decides: NaN and inf both make the largest magnitude not finite.
    peak = np.abs(block).max()
    if peak <= MAX_PEAK:
        return
    bad = ~np.isfinite(block).all(axis=1)
    if bad.any():
        raise AudioError(
            f"{path}: expected finite samples, got NaN or inf at sample {start + int(bad.argmax())} "
            f"({int(bad.sum())} in that block of {len(block)}); repair the recording"
        )
    raise AudioError(f"{path}: expected samples in [-1, 1], got a peak of {peak:g}; divide by the full scale")


def resampled(blocks: Iterable[Tensor], from_rate: int, to_rate: int) -> Iterator[Tensor]:
    """Blocks of sound through one soxr stream: the same samples however they are cut.

    Args:
        blocks: wavs [1, n] float32.
        from_rate: their rate in Hz.
        to_rate: the wanted rate in Hz.

    Yields:
        wav [1, n] float32 in [-1, 1], n >= 1, as soon as the filter has what it needs (some 10 ms after its input).

    Raises:
        AudioError: a rate is not positive, or higher than any sound has.
    """
    for rate in (from_rate, to_rate):
        if not isinstance(rate, int | float | np.number) or not 0 < rate <= MAX_RATE_HZ:
            raise AudioError(
                f"expected sampling rates of 1 to {MAX_RATE_HZ} Hz, got {from_rate!r} and {to_rate!r} Hz"
            )
    if from_rate == to_rate:
        yield from blocks
        return
    stream = soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32")
    first: Tensor | None = None
    count = 0
    for block in blocks:
        first = block if first is None else first
        out = stream.resample_chunk(block[0].numpy(), last=False)
        if len(out):
            count += len(out)
            yield torch.from_numpy(out).clamp_(-1, 1).unsqueeze(0)
    out = stream.resample_chunk(np.zeros(0, dtype=np.float32), last=True)
    if len(out):
        yield torch.from_numpy(out).clamp_(-1, 1).unsqueeze(0)
    elif count == 0 and first is not None:
        # A sound shorter than half a new sample rounds to none; sound that was there must not vanish.
        yield first[:, :1]


def system_name(path: str | Path) -> Any:
    """A path as libsndfile takes it, whatever bytes its name is made of; the stubs of soundfile know texts only."""
    return os.fsencode(path) if os.name == "posix" else str(path)


def _check_floats(wav: Tensor) -> None:
    """Refuse what is no tensor of float samples."""
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
    samples = block.detach().to("cpu", torch.float32).reshape(-1).numpy()
    if len(samples) and not np.isfinite(samples).all():
        bad = ~np.isfinite(samples)
        raise AudioError(
            f"{path}: expected finite samples, got NaN or inf at sample {start + int(bad.argmax())} "
            f"({int(bad.sum())} of {len(samples)})"
        )
    return np.clip(samples, -1, 1)
