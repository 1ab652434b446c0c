"""The mark on speech that no person said: what it says, and how it stands in files and on pipes.

Knows nothing of models. The law it keeps: whatever ``tts-lm`` writes says that it was generated, and by whose voice.
"""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import soundfile
import torch
from torch import Tensor

from audiotok import __version__

_UNKNOWN_BYTES = 0xFFFFFFFF


def mark_of(text: str, voice: str, settings: object) -> str:
    """The comment that a file of generated speech carries.

    Args:
        text: what is said; only a digest of it is kept.
        voice: its name.
        settings: what else the sound depends on, printable: model, seed, sampling.
    """
    digest = hashlib.sha256(f"{text}\n{settings}".encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"Generated speech, not a recording: tts-lm {__version__}, voice {voice}, request {digest}"


def read_mark(path: str | Path) -> str | None:
    """The comment of a sound file, or None if it has none or is no sound file."""
    try:
        with soundfile.SoundFile(path) as file:
            return file.comment or None
    except (soundfile.LibsndfileError, OSError):
        return None


def wav_head(sampling_rate: int, mark: str) -> bytes:
    """The header of a 16-bit mono wav of unknown length, for a pipe, with the mark in front of the samples.

    Args:
        sampling_rate: in Hz.
        mark: of :func:`mark_of`.
    """
    comment = mark.encode("ascii", "replace") + b"\0"
    comment += b"\0" * (len(comment) % 2)
    info = b"INFO" + struct.pack("<4sI", b"ICMT", len(comment)) + comment
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, sampling_rate, 2 * sampling_rate, 2, 16)
    listed = struct.pack("<4sI", b"LIST", len(info)) + info
    data = struct.pack("<4sI", b"data", _UNKNOWN_BYTES)
    return struct.pack("<4sI4s", b"RIFF", _UNKNOWN_BYTES, b"WAVE") + form + listed + data


def pcm16(wav: Tensor) -> bytes:
    """Samples [n] float32 in [-1, 1] as 16-bit little-endian integers."""
    whole = torch.floor(wav.float() * 32768).clamp(-32768, 32767).to(torch.int16)
    return whole.numpy().astype("<i2").tobytes()
