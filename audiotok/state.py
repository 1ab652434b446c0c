"""Training state as one safetensors file, and models stored in half precision."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from .files import write_aside, write_json


def save_state(path: str | Path, state: dict[str, Any]) -> None:
    """Write nested dicts and lists of tensors, numbers, strings, booleans and None.

    Args:
        path: file to write, replaced atomically.
        state: the values; dict keys may be strings or ints.

    Raises:
        TypeError: a value has another type; the message gives its place.
    """
    tensors: dict[str, torch.Tensor] = {}
    tree = _strip(state, "", tensors)
    with write_aside(path) as aside:
        save_file(tensors, aside, metadata={"tree": json.dumps(tree)})


def store_half(folder: str | Path) -> None:
    """Store a saved model in half precision; it is still loaded in float32, with rounded weights.

    Args:
        folder: as ``save_pretrained`` writes it, one ``model.safetensors`` and a ``config.json``.

    Raises:
        FileNotFoundError: one of the two is missing.
        ValueError: a weight is too large for half precision.
    """
    weights, config = Path(folder) / "model.safetensors", Path(folder) / "config.json"
    tensors = load_file(weights)
    for name, value in tensors.items():
        if value.is_floating_point():
            tensors[name] = value.half()
            if not bool(tensors[name].isfinite().all()):
                raise ValueError(f"{weights}: {name} holds values beyond half precision; keep it in float32")
    with write_aside(weights) as aside:
        save_file(tensors, aside, metadata={"format": "pt"})
    # Otherwise from_pretrained would use the stored dtype.
    write_json(config, json.loads(config.read_text(encoding="utf-8")) | {"dtype": "float32"})


def load_state(path: str | Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """Read a file of :func:`save_state`, with tensors on ``device``.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file was not written by :func:`save_state`.
    """
    # safetensors refuses "cpu:0", the name of the device in data-parallel training.
    place = torch.device(device)
    name = "cpu" if place.type == "cpu" else str(place)
    with safe_open(path, "pt", device=name) as file:
        metadata = file.metadata() or {}
        if "tree" not in metadata:
            raise ValueError(f"{path} is not a training state: expected metadata 'tree'")
        return _dress(json.loads(metadata["tree"]), file)


def _strip(value: Any, place: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Replace tensors by their names; tag dicts, because JSON would turn int keys into strings."""
    if isinstance(value, torch.Tensor):
        # Copied, because safetensors refuses tensors that share memory (tied weights).
        tensors[place] = value.detach().to("cpu", copy=True).contiguous()
        return {"tensor": place}
    if isinstance(value, dict):
        items = [[key, _strip(item, f"{place}/{key}", tensors)] for key, item in value.items()]
        return {"dict": items}
    if isinstance(value, list | tuple):
        return [_strip(item, f"{place}/{i}", tensors) for i, item in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"cannot save {type(value).__name__} at {place or '/'}")


def _dress(tree: Any, file: Any) -> Any:
    if isinstance(tree, dict):
        if "tensor" in tree:
            return file.get_tensor(tree["tensor"])
        return {key: _dress(item, file) for key, item in tree["dict"]}
    if isinstance(tree, list):
        return [_dress(item, file) for item in tree]
    return tree
