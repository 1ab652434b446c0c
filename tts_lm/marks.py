"""The mark on speech that no person said: what it says, and how it stands in files and on pipes.

Knows nothing of models. The law it keeps: whatever ``tts-lm`` writes says that it was generated, and by whose voice.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from audiotok import __version__, wav_head
from audiotok import read_comment as read_mark

__all__ = ["mark_of", "pcm16", "read_mark", "wav_head"]


def mark_of(text: str, voice: str, settings: object) -> str:
    """The comment that a file of generated speech carries.

    Args:
        text: what is said; only a digest of it is kept.
        voice: its name.
        settings: what else the sound depends on, printable: model, seed, sampling.
    """
    digest = hashlib.sha256(f"{text}\n{settings}".encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"Generated speech, not a recording: tts-lm {__version__}, voice {voice}, request {digest}"


def pcm16(wav: Tensor) -> bytes:
    """Samples [n] float32 in [-1, 1] as 16-bit little-endian integers."""
    whole = torch.floor(wav.float() * 32768).clamp(-32768, 32767).to(torch.int16)
    return whole.numpy().astype("<i2").tobytes()
