"""The ``.atok`` file format, specified in FORMAT.md, and its entropy coder."""

from __future__ import annotations

from .entropy import EntropyModel, EntropyModelError, LayerError, coder_of, find_model
from .format import AtokError, AtokHeader, Packet, PacketScanner
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
