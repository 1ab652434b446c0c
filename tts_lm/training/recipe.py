"""Settings of a training run. A recipe file holds those that differ from the defaults; the texts are the manual."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from audiotok import load_recipe

RECIPES = Path(__file__).parent.parent / "recipes"
# Numbers above 0, and from 0 to 1; the others are at least 0.
_POSITIVE = {
    "hidden_size",
    "layers",
    "heads",
    "intermediate_size",
    "batch_tokens",
    "max_seconds",
    "grad_clip",
}
_POSITIVE |= {"log_every", "save_minutes"}
_SHARES = {"drop_punctuation", "spell", "prompted", "min_lr", "warmup", "betas", "ema"}
_SHARES |= {"dropout", "attention_dropout", "token_noise"}


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
    """Which rows are used, how often, and how they are varied."""

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
    """How often an epoch shows the rows of a voice (name: times); others count ``other_weight``."""
    other_weight: float = 1.0
    """How often an epoch shows the rows of voices that ``weights`` does not name."""
    prompted: float = 0.0
    """AR: share of rows that follow another clip of their speaker and its transcript, as with a cloned voice."""
    level_power: float = 0.5
    """NAR: level k is trained with chance k^-power; the lower ones carry most of the signal."""
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
    """On what each block adds; of the AR model also on the embeddings."""
    attention_dropout: float = 0.1
    """AR: on the attention weights."""
    token_noise: float = 0.0
    """Share of input codes replaced by random ones, so that the model copes with its own mistakes."""


@dataclass(frozen=True)
class AttentionRecipe:
    """Supervision of some attention heads of the AR model: they attend to the phoneme that comes next."""

    layers: tuple[int, ...] = (1, 3)
    """Blocks whose heads are supervised, counted from 0."""
    heads: int = 1
    """How many heads of such a block."""
    width: int = 0
    """Characters either side of the spoken one that count as right; 0 measured best with phonemes."""
    weight: float = 0.5
    """Of the loss; 0 turns it off."""


@dataclass(frozen=True)
class Recipe:
    """One training run."""

    kind: Literal["ar", "nar", "reranker"] = "ar"
    """Which model."""
    model: ModelRecipe = ModelRecipe()
    data: DataRecipe = DataRecipe()
    optim: OptimRecipe = OptimRecipe()
    attention: AttentionRecipe = AttentionRecipe()
    seed: int = 0
    """Of weights, order, augmentation and dropout."""
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Precision of matrix products in training (autocast); weights are float32."""
    max_steps: int = 0
    """Stop after so many steps; 0 = no limit. With ``max_minutes`` the earlier one stops."""
    max_minutes: float = 35.0
    """Stop after so much training time, interruptions not counted; 0 = no limit. The rate follows the budget."""
    log_every: int = 20
    """Steps between log lines."""
    save_minutes: float = 3.0
    """Between checkpoints, each with held-out losses."""


def load_lm_recipe(name_or_path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Read a recipe.

    Args:
        name_or_path: a YAML file, or the name of a shipped one.
        overrides: ``"optim.lr=1e-3"`` and the like; values are YAML.

    Returns:
        The recipe.

    Raises:
        FileNotFoundError: neither a file nor a shipped name.
        ValueError: an unknown key, a value of the wrong type or out of its range, or no budget.
    """
    recipe = load_recipe(Recipe, name_or_path, RECIPES, overrides)
    _check(recipe, "")
    if not recipe.max_steps and not recipe.max_minutes:
        raise ValueError("expected max_steps or max_minutes, got neither; give the run a budget")
    return recipe


def _check(settings: Any, where: str) -> None:
    """Refuse numbers that are not finite or out of their range, before an hour was trained with them."""
    for spec in fields(settings):
        value = getattr(settings, spec.name)
        if is_dataclass(value):
            _check(value, f"{where}{spec.name}.")
            continue
        numbers = (
            value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else [value]
        )
        for number in numbers:
            if isinstance(number, str):
                continue
            # A layer is counted from 0, although "layers" of a model are a number of them.
            positive = spec.name in _POSITIVE and not isinstance(value, tuple)
            share = spec.name in _SHARES
            if not math.isfinite(number) or number < 0 or (positive and not number) or (share and number > 1):
                rule = "above 0" if positive else "from 0 to 1" if share else "of at least 0"
                raise ValueError(f"recipe: expected {where}{spec.name} to be a number {rule}, got {number}")
