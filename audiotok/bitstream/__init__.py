"""Codes <-> bytes: the ``.atok`` file, and the integer probability model that makes it small.

Knows nothing of sound. The law it keeps: codes survive encoding and decoding bit for bit on any machine and thread
count; a flipped bit is detected and costs at most one packet. FORMAT.md is the format on one page.
"""

from __future__ import annotations

from .entropy import EntropyModel, EntropyModelError
from .header import AtokError, AtokHeader
from .layers import LayerError
from .models import coder_of, find_model
from .packets import Packet, PacketScanner
from .reader import AtokReader, Excerpt, is_atok
from .reader import AtokReader as open
from .writer import SUFFIX, AtokWriter, save_atok, truncate

__all__ = [
    "SUFFIX",
    "AtokError",
    "AtokHeader",
    "AtokReader",
    "AtokWriter",
    "EntropyModel",
    "EntropyModelError",
    "Excerpt",
    "LayerError",
    "Packet",
    "PacketScanner",
    "coder_of",
    "find_model",
    "is_atok",
    "open",
    "save_atok",
    "truncate",
]
