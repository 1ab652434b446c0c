"""Folders of TTS models: finding one by name, checking and loading its parts offline, and writing one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from audiotok import load_tokenizer, quiet_loading, write_json

CARD = "synthesizer.json"
CHECKPOINTS = Path(__file__).parent / "checkpoints"
DEFAULT_NAME = "default"
FORMAT_VERSION = 1
_PARTS = ("ar", "nar", "voices")
_WEIGHTS = "model.safetensors"
_AGAIN = "fetch or bundle the model again"


def find_checkpoint(name_or_path: str | Path | None = None) -> Path:
    """Find the folder of a TTS model, without network access.

    Args:
        name_or_path: None for the shipped default, a shipped name, or a folder.

    Raises:
        FileNotFoundError: there is no such shipped model or folder.
    """
    name = DEFAULT_NAME if name_or_path is None else str(name_or_path)
    shipped = {path.name: path for path in CHECKPOINTS.glob("*") if path.is_dir()}
    folder = shipped.get(name, Path(name).expanduser())
    if not folder.is_dir():
        raise FileNotFoundError(
            f"no TTS model {name!r}; expected a folder or a shipped name ({', '.join(sorted(shipped))})"
        )
    return folder


def find_part(name_or_path: str | Path, part: str) -> Path:
    """The folder of one part of a TTS model.

    Args:
        name_or_path: the part's own folder, or a whole model by shipped name or folder.
        part: ``ar``, ``nar`` or ``reranker``.

    Raises:
        FileNotFoundError: there is no such folder, or neither it nor its part holds a ``config.json``.
    """
    folder = find_checkpoint(name_or_path)
    for place in (folder / part, folder):
        if (place / "config.json").is_file():
            return place
    raise FileNotFoundError(f"no trained {part} model in {folder}: it has no config.json")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: expected JSON ({_reason(error)}); {_AGAIN}") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(value).__name__}; {_AGAIN}")
    return value


def read_card(folder: Path) -> dict[str, Any]:
    """Read the ``synthesizer.json`` of a TTS model.

    Raises:
        FileNotFoundError: a part of the model is missing.
        ValueError: the card is damaged, has another format, or names a codec that is not shipped with audiotok.
    """
    for part in (CARD, *_PARTS):
        if not (folder / part).exists():
            raise FileNotFoundError(
                f"{folder} is no TTS model: it has no {part}; write one with `tts-lm bundle`"
            )
    path = folder / CARD
    card = read_json(path)
    codec = card.get("codec")
    if card.get("format_version") != FORMAT_VERSION:
        wrong = f"expected format_version {FORMAT_VERSION}, got {card.get('format_version')}"
    elif card.get("unfinished"):
        wrong = "writing this folder was interrupted"
    elif missing := {"codec", "codes_fingerprint"} - set(card):
        wrong = f"expected {' and '.join(sorted(missing))} in it"
    elif codec is not None and (not isinstance(codec, str) or not codec or set("/\\.~") & set(codec)):
        wrong = f"expected codec to be a shipped codec's name, or null for the folder's own, got {codec!r}"
    elif codec is None and not (folder / "codec" / "config.json").is_file():
        wrong = f"expected its codec in {folder / 'codec'}, found none"
    elif not isinstance(card.get("sampling", {}), dict):
        wrong = f"expected sampling to be an object, got {card['sampling']!r}"
    else:
        return card
    raise ValueError(f"{path}: {wrong}; bundle the model again")


def load_part(family: Any, folder: Path, model_type: str, dtype: torch.dtype = torch.float32) -> Any:
    """Load one part of a TTS model without network access, and check that its weights are complete.

    Args:
        family: the class whose ``from_pretrained`` opens it.
        folder: folder with ``config.json`` and ``model.safetensors``.
        model_type: expected ``model_type`` of the config.
        dtype: dtype of the weights.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: the model has another type, or its weights are damaged, incomplete or not finite.
    """
    for name in ("config.json", _WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"expected {name} in {folder}, found none; {_AGAIN}")
    kind = read_json(folder / "config.json").get("model_type")
    if kind != model_type:
        raise ValueError(f"{folder}: expected model_type {model_type!r}, got {kind!r}; {_AGAIN}")
    try:
        with quiet_loading():
            model, loading = family.from_pretrained(
                folder, dtype=dtype, local_files_only=True, output_loading_info=True
            )
    except Exception as error:  # whatever a damaged config or damaged weights raise inside transformers
        raise ValueError(
            f"{folder}: cannot load the {model_type} model, it is damaged ({_reason(error)}); {_AGAIN}"
        ) from error
    wrong = [
        f"{len(loading[key])} {key}" for key in sorted(loading) if key.endswith("_keys") and loading[key]
    ]
    if not all(bool(torch.isfinite(value).all()) for value in model.state_dict().values()):
        wrong.append("NaN or infinity")
    if wrong:
        raise ValueError(
            f"{folder / _WEIGHTS}: expected the weights of its config.json, got {', '.join(wrong)}; {_AGAIN}"
        )
    return model


def load_tokenizer_part(folder: Path) -> Any:
    """Load the tokenizer of a TTS model without network access.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: its files are damaged.
    """
    try:
        with quiet_loading():
            return load_tokenizer(folder.absolute())
    except (FileNotFoundError, ImportError):
        raise
    except Exception as error:  # whatever damaged files raise inside transformers and tokenizers
        raise ValueError(f"{folder}: the tokenizer is damaged ({_reason(error)}); {_AGAIN}") from error


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def claim_folder(folder: str | Path) -> Path:
    """Create a folder for a TTS model. It may exist if it is empty or holds a TTS model.

    Raises:
        FileExistsError: it is a file or a folder with other files.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"expected a folder to write, {folder} is a file; choose another name")
    ours = (folder / CARD).is_file() and "format_version" in read_json(folder / CARD)
    if folder.is_dir() and any(folder.iterdir()) and not ours:
        raise FileExistsError(
            f"expected a new or empty folder, or one with a {CARD} to replace; {folder} holds other files"
        )
    folder.mkdir(parents=True, exist_ok=True)
    # Until the real card is written, the folder may be written again but not read.
    write_json(folder / CARD, {"format_version": FORMAT_VERSION, "unfinished": True})
    return folder


def drop_part(folder: Path) -> None:
    """Remove the model of a part from a claimed folder. Other files in it are kept."""
    for name in ("config.json", _WEIGHTS):
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
