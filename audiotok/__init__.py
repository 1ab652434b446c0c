"""Discrete audio tokens for language models: neural codecs, one vocabulary for text and audio, data preparation.

Names are imported on first use (PEP 562), so ``import audiotok`` imports neither torch nor transformers. It registers
audiotok's codecs and processors with the Auto classes of transformers.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .hub import register_auto_classes, watch_auto_classes

if TYPE_CHECKING:
    from . import pictures, program
    from .audio import (
        SOUND_SUFFIXES,
        AudioError,
        audio_blocks,
        load_audio,
        pcm_bytes,
        read_comment,
        resample,
        save_audio,
        wav_head,
    )
    from .bitstream import AtokError, AtokHeader, AtokReader, AtokWriter, open, save_atok
    from .codec.config import CodecConfig
    from .codec.model import AudioCodec
    from .codec.pretrained import checkpoint_dir, load_codec
    from .corpus import PreparedCorpus, prepare
    from .evaluate import bootstrap_interval, read_rows
    from .export import export_onnx
    from .files import write_aside, write_json
    from .hub import quiet_loading
    from .machine import threads
    from .metrics import MetricError, pesq
    from .recipes import load_recipe
    from .search import SearchingEncoder, search_codes
    from .state import store_half
    from .tokens.constrain import AudioConstraint
    from .tokens.extend import build_tokenizer, extend_tokenizer, load_tokenizer, resize_embeddings
    from .tokens.layout import (
        FrameReader,
        LayoutError,
        Repaired,
        flatten,
        seconds_in_context,
        sequence_length,
        unflatten,
    )
    from .tokens.processor import AudioTextCollator, AudioTextProcessor
    from .tokens.tokenizer import AudioTextTokenizer
    from .training.trainer import TrainingLoop, TrainingPlan

__version__ = "0.1.0"

# Module -> public names in it.
_PUBLIC = {
    "audio": "audio_blocks AudioError load_audio pcm_bytes read_comment resample save_audio SOUND_SUFFIXES wav_head",
    "bitstream": "AtokError AtokHeader AtokReader AtokWriter open save_atok",
    "codec.config": "CodecConfig",
    "codec.model": "AudioCodec",
    "codec.pretrained": "checkpoint_dir load_codec",
    "corpus": "prepare PreparedCorpus",
    "evaluate": "bootstrap_interval read_rows",
    "export": "export_onnx",
    "files": "write_aside write_json",
    "hub": "quiet_loading",
    "machine": "threads",
    "metrics": "MetricError pesq",
    "recipes": "load_recipe",
    "search": "search_codes SearchingEncoder",
    "state": "store_half",
    "tokens.constrain": "AudioConstraint",
    "tokens.extend": "build_tokenizer extend_tokenizer load_tokenizer resize_embeddings",
    "tokens.layout": "flatten FrameReader LayoutError Repaired seconds_in_context sequence_length unflatten",
    "tokens.processor": "AudioTextCollator AudioTextProcessor",
    "tokens.tokenizer": "AudioTextTokenizer",
    "training.trainer": "TrainingLoop TrainingPlan",
}
_HOME = {name: module for module, names in _PUBLIC.items() for name in names.split()}
_MODULES = ("pictures", "program")  # public modules

__all__ = [
    "SOUND_SUFFIXES", "AtokError", "AtokHeader", "AtokReader", "AtokWriter", "AudioCodec",
    "AudioConstraint", "AudioError", "AudioTextCollator", "AudioTextProcessor", "AudioTextTokenizer",
    "CodecConfig", "FrameReader", "LayoutError", "MetricError", "PreparedCorpus", "Repaired",
    "SearchingEncoder", "TrainingLoop", "TrainingPlan", "__version__", "audio_blocks",
    "bootstrap_interval", "build_tokenizer", "checkpoint_dir", "export_onnx", "extend_tokenizer",
    "flatten", "load_audio", "load_codec", "load_recipe", "load_tokenizer", "open", "pcm_bytes", "pesq", "pictures",
    "prepare", "program", "quiet_loading", "read_comment", "read_rows", "resample",
    "resize_embeddings", "save_atok", "save_audio", "search_codes", "seconds_in_context",
    "sequence_length", "store_half", "threads", "unflatten", "wav_head", "write_aside", "write_json",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first used."""
    if name in _MODULES:
        return import_module(f".{name}", __name__)
    home = _HOME.get(name)
    if home is None:
        raise AttributeError(f"module 'audiotok' has no attribute {name!r}")
    value = getattr(import_module(f".{home}", __name__), name)
    register_auto_classes()
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(_HOME) | set(_MODULES))


watch_auto_classes()
