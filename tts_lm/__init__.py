"""Text-to-speech with a language model over audiotok codes.

Names are imported on first use (PEP 562), so that ``tts-lm --help`` does not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .models.ar import build_ar
    from .models.nar import NarConfig, NarModel
    from .synthesizer import Speech, Synthesizer
    from .text import normalise, split_sentences

_HOME = {
    "Speech": "synthesizer",
    "Synthesizer": "synthesizer",
    "NarConfig": "models.nar",
    "NarModel": "models.nar",
    "build_ar": "models.ar",
    "normalise": "text",
    "split_sentences": "text",
}

__all__ = [
    "NarConfig",
    "NarModel",
    "Speech",
    "Synthesizer",
    "build_ar",
    "normalise",
    "split_sentences",
]


def __getattr__(name: str) -> Any:
    """Import a public name from the module it lives in, once."""
    if name not in _HOME:
        raise AttributeError(f"module 'tts_lm' has no attribute {name!r}")
    value = getattr(import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOME))
