"""A synthesizer on disk: which folder is one, reading its parts whole, writing only where nothing of others is lost.

Knows nothing of speaking. The laws it keeps: nothing is sought on the network; a part that is damaged is named before
it is used, never replaced by random weights; a folder of something else is never written into.

The card holds a checksum (CRC-32C) of every file of the parts, so that a flipped bit in weights that load all the same
is refused by the file's name. Cards of before have none; voices are not in it, as they may be added.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import google_crc32c
import torch

from audiotok import load_tokenizer, quiet_loading, write_json

CARD = "synthesizer.json"
FORMAT_VERSION = 1
_PARTS = ("ar", "nar", "tokenizer", "voices")
_SEALED = ("ar", "nar", "reranker", "tokenizer", "codec")
_WEIGHTS = "model.safetensors"
_MISFITS = ("missing_keys", "unexpected_keys", "mismatched_keys")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds something else; the message names the file.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: expected JSON ({reason}); fetch or bundle the model again") from None
    if not isinstance(value, dict):
        raise ValueError(
            f"{path}: expected a JSON object, got {type(value).__name__}; fetch or bundle the model again"
        )
    return value


def read_card(folder: Path) -> dict[str, Any]:
    """What a synthesizer's folder says of itself.

    Raises:
        FileNotFoundError: a part is missing; transformers would look for it on the network.
        ValueError: the card is damaged, of another format, or names a codec that does not come with audiotok.
    """
    for part in (CARD, *_PARTS):
        if not (folder / part).exists():
            raise FileNotFoundError(
                f"expected a synthesizer with {CARD}, {', '.join(_PARTS[:-1])} and {_PARTS[-1]} in {folder}, "
                f"it has no {part}; write one with `tts-lm bundle`"
            )
    path = folder / CARD
    card = read_json(path)
    if card.get("format_version") != FORMAT_VERSION:
        raise ValueError(
            f"{path}: expected format_version {FORMAT_VERSION}, got {card.get('format_version')}; bundle it again"
        )
    if card.get("unfinished"):
        raise ValueError(f"{path}: writing this folder was interrupted; bundle it again")
    missing = {"codec", "codes_fingerprint"} - set(card)
    if missing:
        raise ValueError(f"{path}: expected {' and '.join(sorted(missing))} in it; bundle it again")
    codec = card["codec"]
    if codec is not None and (not isinstance(codec, str) or not codec or set("/\\.~") & set(codec)):
        raise ValueError(
            f"{path}: expected codec to be a shipped codec's name, or null for the folder's own, got {codec!r}"
        )
    if codec is None and not (folder / "codec" / "config.json").is_file():
        raise FileNotFoundError(
            f"expected the codec of {path} in {folder / 'codec'}, found none; bundle it again"
        )
    if not isinstance(card.get("sampling", {}), dict):
        raise ValueError(f"{path}: expected sampling to be an object, got {card['sampling']!r}")
    if not isinstance(card.get("crc32c", {}), dict):
        raise ValueError(f"{path}: expected crc32c to be an object, got {card['crc32c']!r}")
    return card


def seal_folder(folder: Path, card: dict[str, Any]) -> None:
    """Write a synthesizer's card, with the checksums of the files of its parts as they are now.

    Args:
        folder: of the parts.
        card: of :func:`read_card`, or a new one.
    """
    files = [path for part in _SEALED for path in sorted((folder / part).rglob("*")) if path.is_file()]
    sums = {path.relative_to(folder).as_posix(): _checksum(path) for path in files}
    write_json(folder / CARD, card | {"crc32c": sums})


def check_seal(folder: Path, card: dict[str, Any]) -> None:
    """Compare the files of a synthesizer with the checksums in its card.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is not the one that was written.
    """
    for name, expected in card.get("crc32c", {}).items():
        if name.split("/")[0] not in _SEALED or ".." in name.split("/"):
            raise ValueError(f"{folder / CARD}: expected crc32c of files of its parts, got {name!r}")
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"expected {path}, found none; fetch or bundle the model again")
        if (found := _checksum(path)) != expected:
            raise ValueError(
                f"{path}: expected a file with CRC-32C {expected}, got {found}: it is damaged or another one; "
                "fetch or bundle the model again"
            )


def _checksum(path: Path) -> str:
    return f"{int(google_crc32c.value(path.read_bytes())):08x}"


def load_part(family: Any, folder: Path, model_type: str, dtype: torch.dtype = torch.float32) -> Any:
    """Read the AR model, the NAR model or the reranker, offline and whole.

    Args:
        family: the class whose ``from_pretrained`` opens it.
        folder: ``config.json`` and ``model.safetensors``.
        model_type: what its config must say.
        dtype: of the weights.

    Raises:
        FileNotFoundError: one of the two files is missing.
        ValueError: it is of another kind, or its weights are damaged, incomplete or not finite.
    """
    for name in ("config.json", _WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"expected {name} in {folder}, found none; fetch or bundle the model again"
            )
    kind = read_json(folder / "config.json").get("model_type")
    if kind != model_type:
        raise ValueError(
            f"{folder / 'config.json'}: expected model_type {model_type!r}, got {kind!r}; fetch or bundle it again"
        )
    try:
        with quiet_loading():
            model, loading = family.from_pretrained(
                folder, dtype=dtype, local_files_only=True, output_loading_info=True
            )
    except Exception as error:  # whatever a damaged config or damaged weights raise inside transformers
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{folder}: expected a whole {model_type} model, its config.json or {_WEIGHTS} is damaged "
            f"({type(error).__name__}: {reason}); fetch or bundle it again"
        ) from error
    wrong = [f"{len(loading[key])} {key.replace('_', ' ')}" for key in _MISFITS if loading.get(key)]
    if wrong:
        raise ValueError(
            f"{folder / _WEIGHTS}: expected the weights of its config.json, got {', '.join(wrong)}; "
            "fetch or bundle it again"
        )
    if not all(bool(torch.isfinite(value).all()) for value in model.state_dict().values()):
        raise ValueError(f"{folder / _WEIGHTS}: expected finite weights, got NaN or infinity; fetch it again")
    return model


def load_text_side(folder: Path) -> Any:
    """Read the tokenizer, offline and whole.

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
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"{folder}: expected a whole tokenizer, its files are damaged ({type(error).__name__}: {reason}); "
            "fetch or bundle the model again"
        ) from error


def claim_folder(folder: str | Path) -> Path:
    """Make a folder to write a synthesizer into: new, empty, or one that holds a synthesizer already.

    Raises:
        FileExistsError: it is a file, or holds something else, of which files would be replaced.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"expected a folder to write, {folder} is a file; choose another name")
    ours = (folder / CARD).is_file() and "format_version" in read_json(folder / CARD)
    if folder.is_dir() and any(folder.iterdir()) and not ours:
        raise FileExistsError(
            f"expected a new or empty folder, or one with a {CARD} to replace; {folder} holds other files; "
            "choose another name"
        )
    folder.mkdir(parents=True, exist_ok=True)
    # Until its real card is written it is ours, and no synthesizer.
    write_json(folder / CARD, {"format_version": FORMAT_VERSION, "unfinished": True})
    return folder


def drop_part(folder: Path) -> None:
    """Remove a former part from a claimed folder; files of others beside it stay.

    Args:
        folder: the part's, which need not be there.
    """
    for name in ("config.json", _WEIGHTS):
        (folder / name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        shutil.rmtree(folder)
