"""Recipes: YAML files that become frozen dataclasses, every key and type checked.

Knows nothing of what a recipe trains. The law kept: a recipe that loads holds known keys with values of their types,
and an error names the key and its nearest known one.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

RecipeT = TypeVar("RecipeT")


def load_recipe(
    kind: type[RecipeT], name_or_path: str | Path, shipped: Path, overrides: list[str] | tuple[str, ...] = ()
) -> RecipeT:
    """Read a recipe.

    Args:
        kind: the dataclass it becomes; its fields may be dataclasses themselves.
        name_or_path: a YAML file, or the name of a shipped one.
        shipped: the folder of the shipped ones.
        overrides: ``"optim.lr=1e-3"`` and the like; values are YAML.

    Returns:
        The recipe.

    Raises:
        FileNotFoundError: neither a file nor a shipped name; the message lists the shipped ones.
        ValueError: not YAML, an unknown key, or a value of the wrong type.
    """
    path = Path(name_or_path)
    if not path.is_file():
        path = shipped / f"{name_or_path}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in shipped.glob("*.yaml")))
        raise FileNotFoundError(f"no recipe {name_or_path}: expected a YAML file or one of {names}")
    tree = _parse(path.read_text(encoding="utf-8"), path.name) or {}
    for override in overrides:
        dotted, equals, value = override.partition("=")
        if not equals:
            raise ValueError(f"expected --set KEY=VALUE, got {override!r}; write for example steps=100")
        branch = tree
        *parents, leaf = dotted.strip().split(".")
        for parent in parents:
            branch = branch.setdefault(parent, {})
            if not isinstance(branch, dict):
                raise ValueError(f"recipe: {parent} holds no settings of its own; drop {override!r}")
        branch[leaf] = _parse(value, override)
    return _build(kind, tree, "")


def recipe_dict(recipe: Any) -> dict[str, Any]:
    """A recipe as plain values, as YAML and JSON hold them."""
    return dataclasses.asdict(recipe)


def _parse(text: str, what: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{what}: expected YAML, got {' '.join(str(error).split())}") from None


def _build(kind: Any, tree: Any, where: str) -> Any:
    if not isinstance(tree, dict):
        raise ValueError(f"recipe: expected settings under {where or 'the top'}, got {tree!r}")
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in tree.items():
        if key not in hints:
            near = difflib.get_close_matches(str(key), list(hints), n=1, cutoff=0.0)
            raise ValueError(f"recipe: unknown key {where}{key}; the nearest is {where}{near[0]}")
        values[key] = _coerce(hints[key], value, f"{where}{key}")
    return kind(**values)


def _coerce(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, f"{where}.")
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in args:
            raise ValueError(
                f"recipe: expected {where} to be one of {', '.join(map(str, args))}, got {value!r}"
            )
        return value
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_coerce(args[0], item, where) for item in value)
    if origin is dict and isinstance(value, dict):
        return {
            str(key): item if args[1] is Any else _coerce(args[1], item, where) for key, item in value.items()
        }
    if isinstance(hint, type) and not isinstance(hint, types.GenericAlias):
        if isinstance(value, bool) or hint in (bool, str):
            if type(value) is hint:
                return value
        elif hint is int and isinstance(value, int):
            return value
        elif hint is float and isinstance(value, int | float | str):
            try:
                return float(value)  # YAML reads 1e-3 as a string
            except ValueError:
                pass
    raise ValueError(f"recipe: expected {where} to be {getattr(hint, '__name__', hint)}, got {value!r}")
