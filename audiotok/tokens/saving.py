"""The files of a tokenizer, so that any program opens them: without our code, old and new.

Knows nothing of ids. The law it keeps: whatever opens the folder, typed control names are text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import write_json


def portable_config(config: dict[str, Any], added: Mapping[int, Any]) -> dict[str, Any]:
    """A tokenizer_config.json that every transformers from 4.57 on opens without our code."""
    for key in ("is_local", "local_files_only"):  # about how this one was opened, not about the tokenizer
        config.pop(key, None)
    # transformers 4 takes a list under its old name only, and would look for a class by our class's name.
    if extra := config.pop("extra_special_tokens", None):
        config["additional_special_tokens"] = extra
    fields = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    tokens = {str(i): {field: getattr(token, field) for field in fields} for i, token in added.items()}
    return config | {"tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": tokens}


def hide_control_tokens(file: Path, control_offset: int) -> None:
    """Take control tokens out of tokenizer.json's added tokens: what reads it alone would read them from text."""
    backend = json.loads(file.read_text(encoding="utf-8"))
    backend["added_tokens"] = [token for token in backend["added_tokens"] if token["id"] < control_offset]
    write_json(file, backend)
