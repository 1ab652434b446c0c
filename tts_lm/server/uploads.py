"""A sound that a stranger sent -> samples, within bounds.

Knows nothing of HTTP or models. The law it keeps: what the header promises is checked before a sample is read, nothing
is read beyond it, and no name that a client chose touches the disk.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO

import soundfile
from torch import Tensor

from audiotok import AudioError, load_audio

from .limits import MAX_CHANNELS, MAX_FIELD_LETTERS, MAX_NAME_LETTERS, MAX_RATE_HZ, MIN_RATE_HZ

_MAGIC = (b"RIFF", b"fLaC", b"OggS", b"ID3")
_NAME = re.compile(rf"[a-z0-9][a-z0-9_-]{{0,{MAX_NAME_LETTERS - 1}}}")
_TAG = re.compile(r"</?[A-Za-z!][^<>]*>")


def read_clip(file: BinaryIO, longest_s: float, sampling_rate: int) -> Tensor:
    """Read a WAV, FLAC, Ogg or MP3 file.

    Args:
        file: at its beginning; its size is bounded already.
        longest_s: seconds that its header may promise.
        sampling_rate: in Hz, to which it is resampled.

    Returns:
        wav [1, N] float32 in [-1, 1], channels averaged; no more than that is ever held.

    Raises:
        AudioError: it is something else, damaged, too long, of too many channels or of a strange rate.
    """
    head = file.read(4)
    file.seek(0)
    if not head.startswith(_MAGIC) and not (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0):
        raise AudioError("expected a WAV, FLAC, Ogg or MP3 file, got something else; convert it first")
    with tempfile.TemporaryDirectory(prefix="tts-lm-") as folder:
        path = Path(folder) / "clip"
        with path.open("wb") as copy:
            shutil.copyfileobj(file, copy)
        try:
            _check_header(path, longest_s)
            return load_audio(path, sampling_rate)[0]
        except AudioError as error:
            raise AudioError(str(error).replace(str(path), "the sound")) from None


def _check_header(path: Path, longest_s: float) -> None:
    try:
        with soundfile.SoundFile(path) as sound:
            frames, rate, channels = sound.frames, sound.samplerate, sound.channels
    except (soundfile.LibsndfileError, ValueError, OverflowError):
        raise AudioError(
            "expected a WAV, FLAC, Ogg or MP3 file, got a damaged one; convert it again"
        ) from None
    check_shape(channels, rate)
    if not 0 < frames <= longest_s * rate:
        seconds = f"{frames / rate:.0f} s" if 0 <= frames < 1 << 50 else "an unknown length"
        raise AudioError(f"expected a sound of up to {longest_s:g} s, got {seconds} by its header; cut it")


def check_shape(channels: int, rate_hz: int) -> None:
    """Refuse a sound that would take much more room than its file: a second of it, or a second at another rate.

    Raises:
        AudioError: it has too many channels, or a strange rate.
    """
    if not 1 <= channels <= MAX_CHANNELS or not MIN_RATE_HZ <= rate_hz <= MAX_RATE_HZ:
        raise AudioError(
            f"expected 1 to {MAX_CHANNELS} channels at {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz, got {channels} at "
            f"{rate_hz} Hz; resample it"
        )


def check_name(name: str) -> str:
    """A voice's name as it may stand in addresses and file names.

    Raises:
        ValueError: it is anything else.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(
            f"expected a name of up to {MAX_NAME_LETTERS} of the characters a-z, 0-9, _ and -, beginning with a letter "
            "or digit"
        )
    return name


def check_plain(text: str) -> str:
    """A text without markup.

    Raises:
        ValueError: there are tags in it, or characters that no one types.
    """
    if tag := _TAG.search(text):
        raise ValueError(
            f"expected plain text, got markup at character {tag.start()}; take the tags out, they would be read aloud"
        )
    if any(ord(c) < 32 and c not in "\t\n\r\f\v" or 0xD800 <= ord(c) < 0xE000 or ord(c) == 127 for c in text):
        raise ValueError("expected plain text, got control characters; take them out")
    return text


def check_field(text: str) -> str:
    """A line of a voice's card.

    Raises:
        ValueError: it is empty, too long, or as for :func:`check_plain`.
    """
    kept = " ".join(check_plain(text).split())
    if not re.search(r"\w", kept) or len(kept) > MAX_FIELD_LETTERS:
        raise ValueError(f"expected 1 to {MAX_FIELD_LETTERS} characters with a word in them, got {len(kept)}")
    return kept
