"""Recipes: YAML files that become frozen dataclasses. Keys and types are checked; numbers are finite and >= 0."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import types
import typing
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

RecipeT = TypeVar("RecipeT")


def load_recipe(
    kind: type[RecipeT], name_or_path: str | Path, shipped: Path, overrides: list[str] | tuple[str, ...] = ()
) -> RecipeT:
    """Read a recipe.

    Args:
        kind: the dataclass; its fields may be dataclasses.
        name_or_path: a YAML file, or the name of a shipped one.
        shipped: the folder of shipped recipes.
        overrides: ``"optim.lr=1e-3"`` and the like; values are YAML.

    Raises:
        FileNotFoundError: neither a file nor a shipped name; the message lists the shipped ones.
        ValueError: the file is not YAML, a key is unknown, or a value has the wrong type or is out of range.
    """
    path = Path(name_or_path)
    if not path.is_file():
        path = shipped / f"{name_or_path}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(p.stem for p in shipped.glob("*.yaml")))
        raise FileNotFoundError(f"no recipe {name_or_path}: expected a YAML file or one of {names}")
    tree = _parse(path.read_bytes(), path.name)
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise ValueError(f"{path.name}: expected settings by name, got {str(tree)[:40]!r}")
    for override in overrides:
        dotted, equals, value = override.partition("=")
        if not equals:
            raise ValueError(f"expected --set KEY=VALUE, got {override!r}; write for example steps=100")
        branch = tree
        *parents, leaf = dotted.strip().split(".")
        for parent in parents:
            branch = branch.setdefault(parent, {})
            if not isinstance(branch, dict):
                raise ValueError(f"recipe: {parent} is not a group of settings; remove {override!r}")
        branch[leaf] = _parse(value, override)
    return kind(**coerce_arguments(kind, tree, ""))


def _parse(text: str | bytes, what: str) -> Any:
    try:
        return yaml.safe_load(text)
    except RecursionError:
        raise ValueError(f"{what}: expected YAML, got values nested too deeply") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{what}: expected YAML, got {' '.join(str(error).split())}") from None


def coerce_arguments(function: Callable[..., Any], values: dict[str, Any], where: str) -> dict[str, Any]:
    """Check keyword arguments of a function or a class, and convert numbers to the annotated types.

    ``where`` is a prefix of the names in errors, such as ``"model."``.

    Raises:
        ValueError: a name is unknown, or a value has the wrong type.
    """
    hints = typing.get_type_hints(function.__init__ if isinstance(function, type) else function)
    known = [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is not inspect.Parameter.VAR_KEYWORD
    ]
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.0)
            raise ValueError(f"recipe: unknown key {where}{key}; the nearest is {where}{near[0]}")
    return {key: _coerce(hints.get(key, Any), value, f"{where}{key}") for key, value in values.items()}


def _coerce(hint: Any, value: Any, where: str) -> Any:
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        if not isinstance(value, dict):
            raise ValueError(f"recipe: expected settings under {where}, got {value!r}")
        return hint(**coerce_arguments(hint, value, f"{where}."))
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal and value not in args:
        raise ValueError(f"recipe: expected {where} to be one of {', '.join(map(str, args))}, got {value!r}")
    if hint is Any or origin is Literal or (value is None and hint is type(None)):
        return value
    if origin in (typing.Union, types.UnionType):
        for each in args:
            with suppress(ValueError):
                return _coerce(each, value, where)
    if origin in (tuple, list) and isinstance(value, list | tuple):
        return origin(_coerce(args[0], item, where) for item in value)
    if origin is dict and isinstance(value, dict):
        return {str(key): _coerce(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint in (bool, str, dict, list) and type(value) is hint:
        return value
    if hint in (int, float) and not isinstance(value, bool):
        number: float | None = None
        # YAML reads 1e-3 as a string.
        if isinstance(value, int) or (hint is float and isinstance(value, float | str)):
            with suppress(ValueError, OverflowError):
                number = hint(value)
        if number is not None and 0 <= number < math.inf:
            return number
        if number is not None:
            raise ValueError(f"recipe: expected {where} to be a number of at least 0, got {value!r}")
    raise ValueError(f"recipe: expected {where} to be {getattr(hint, '__name__', hint)}, got {value!r}")
