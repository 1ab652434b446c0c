"""Recipes: one YAML file, one frozen dataclass, one to one.

Knows nothing of models or data. The law it keeps: a key that is not understood is an error that names the nearest one,
so a misspelt setting never trains a model in silence.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

RECIPES = Path(__file__).parent.parent / "recipes"


@dataclass(frozen=True)
class ModelRecipe:
    """Size of the transformer."""

    hidden_size: int = 256
    """D, width of the residual stream."""
    layers: int = 6
    """Transformer blocks."""
    heads: int = 4
    """H, attention heads; D must be a multiple."""
    intermediate_size: int = 768
    """Width inside the feed-forward blocks."""


@dataclass(frozen=True)
class DataRecipe:
    """What is read, how often, and how it is varied."""

    batch_tokens: int = 3072
    """Padded ids in a batch (text and audio together)."""
    max_seconds: float = 16.0
    """Longer clips are left out whole: a cut clip would never show its end."""
    curriculum_epochs: float = 1.0
    """Epochs at the start in which batches run from short clips to long ones."""
    drop_punctuation: float = 0.3
    """Share of rows that lose their punctuation, so that careless typing works."""
    spell: float = 0.08
    """Share of words given as letters although the lexicon knows them, so that unknown words work."""
    weights: dict[str, float] = field(default_factory=dict)
    """How often an epoch shows the rows of a voice (name: times); a voice that is not named counts ``other_weight``."""
    other_weight: float = 1.0
    """How often an epoch shows the rows of voices that ``weights`` does not name."""
    prompt_frames: int = 125
    """NAR: most frames of the voice prompt, taken from another clip of the speaker."""


@dataclass(frozen=True)
class OptimRecipe:
    """AdamW, warm-up and cosine, moving average."""

    lr: float = 2e-3
    """Peak learning rate."""
    min_lr: float = 0.02
    """Share of ``lr`` that is left at the end of the budget."""
    warmup: float = 0.03
    """Share of the budget in which the rate rises."""
    weight_decay: float = 0.05
    """On matrices only."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's."""
    grad_clip: float = 1.0
    """Largest gradient norm."""
    ema: float = 0.998
    """Decay of the moving average that is exported."""
    dropout: float = 0.1
    """NAR: inside the blocks. AR: on the attention only (the stock model has no other)."""
    token_noise: float = 0.0
    """AR: share of input frames replaced by a random code, so that a slip in generation is survived."""


@dataclass(frozen=True)
class AttentionRecipe:
    """Teaching some heads of the AR model where in the text it is."""

    layers: tuple[int, ...] = (1, 3)
    """Blocks whose heads are taught, counted from 0."""
    heads: int = 1
    """How many heads of such a block."""
    width: int = 0
    """Characters either side of the spoken one that count as right; 0 measured best with sounds."""
    weight: float = 0.5
    """Of the loss; 0 turns it off."""


@dataclass(frozen=True)
class Recipe:
    """One training run."""

    kind: Literal["ar", "nar"] = "ar"
    """Which half."""
    model: ModelRecipe = ModelRecipe()
    data: DataRecipe = DataRecipe()
    optim: OptimRecipe = OptimRecipe()
    attention: AttentionRecipe = AttentionRecipe()
    seed: int = 0
    """Of weights, order, augmentation and dropout."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Of matrix products in training (autocast); weights are float32 always."""
    max_steps: int = 0
    """Stop after so many steps; 0 = no limit. With ``max_minutes`` the earlier one stops."""
    max_minutes: float = 35.0
    """Stop after so much training time, interruptions not counted; 0 = no limit. Drives the schedule."""
    log_every: int = 20
    """Steps between log lines."""
    save_minutes: float = 3.0
    """Between checkpoints, and held-out losses."""


def load_recipe(name_or_path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Read a recipe.

    Args:
        name_or_path: a YAML file, or the name of a shipped one.
        overrides: ``"optim.lr=1e-3"`` and the like; values are YAML.

    Returns:
        The recipe.

    Raises:
        FileNotFoundError: neither a file nor a shipped name.
        ValueError: an unknown key, a value of the wrong type, or no budget.
    """
    path = Path(name_or_path)
    if not path.is_file():
        path = RECIPES / f"{name_or_path}.yaml"
    if not path.is_file():
        shipped = ", ".join(sorted(p.stem for p in RECIPES.glob("*.yaml")))
        raise FileNotFoundError(f"no recipe {name_or_path}: expected a YAML file or one of {shipped}")
    tree = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    for override in overrides:
        dotted, equals, value = override.partition("=")
        if not equals:
            raise ValueError(f"expected --set KEY=VALUE, got {override!r}; write for example optim.lr=1e-3")
        branch = tree
        *parents, leaf = dotted.strip().split(".")
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[leaf] = yaml.safe_load(value)
    recipe = _build(Recipe, tree, "")
    if not recipe.max_steps and not recipe.max_minutes:
        raise ValueError("expected max_steps or max_minutes, got neither; give the run a budget")
    return recipe


def recipe_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values, as YAML and JSON hold them."""
    return dataclasses.asdict(recipe)


def _build(cls: type, tree: Any, where: str) -> Any:
    if not isinstance(tree, dict):
        raise ValueError(f"recipe: expected settings under {where or 'the top'}, got {tree!r}")
    hints = typing.get_type_hints(cls)
    values = {}
    for key, value in tree.items():
        if key not in hints:
            near = difflib.get_close_matches(str(key), list(hints), n=1, cutoff=0.0)
            raise ValueError(f"recipe: unknown key {where}{key}; the nearest is {where}{near[0]}")
        values[key] = _coerce(hints[key], value, f"{where}{key}")
    return cls(**values)


def _coerce(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, f"{where}.")
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value not in args:
            raise ValueError(f"recipe: expected {where} to be one of {', '.join(map(str, args))}, got {value!r}")
        return value
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_coerce(args[0], item, where) for item in value)
    if origin is dict and isinstance(value, dict):
        return {str(key): _coerce(args[1], item, where) for key, item in value.items()}
    if isinstance(hint, type) and not isinstance(hint, types.GenericAlias) and not isinstance(value, bool):
        try:
            if hint is float and isinstance(value, int | float | str):
                return float(value)  # YAML reads 1e-3 as a string
            if hint is int and isinstance(value, int):
                return value
        except ValueError:
            pass
    raise ValueError(f"recipe: expected {where} to be {getattr(hint, '__name__', hint)}, got {value!r}")
