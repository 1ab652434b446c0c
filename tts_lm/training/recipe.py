"""Settings of a training run. A recipe file contains the settings that differ from the defaults."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

from audiotok import load_recipe

RECIPES = Path(__file__).parent.parent / "recipes"
# Numbers above 0, and from 0 to 1; the others are at least 0.
_POSITIVE = set(
    "hidden_size layers heads intermediate_size batch_tokens max_seconds grad_clip log_every".split()
)
_POSITIVE |= {"save_minutes"}
_SHARES = set(
    "drop_punctuation spell prompted min_lr warmup betas ema dropout attention_dropout token_noise".split()
)


@dataclass(frozen=True)
class ModelRecipe:
    """Size of the transformer."""

    hidden_size: int = 256  # D, width of the residual stream
    layers: int = 6  # transformer blocks
    heads: int = 4  # number of attention heads, which must divide D
    intermediate_size: int = 768  # width inside the feed-forward blocks


@dataclass(frozen=True)
class DataRecipe:
    """Selection, sampling and augmentation of the rows."""

    batch_tokens: int = 3072  # padded ids in a batch (text and audio together)
    max_seconds: float = 16.0  # longer clips are left out, because a cut clip has no end
    curriculum_epochs: float = 1.0  # epochs at the start in which batches run from short clips to long ones
    drop_punctuation: float = 0.3  # share of rows without punctuation, for input without punctuation
    spell: float = 0.08  # share of known words written in letters, for words that are not in the lexicon
    weights: dict[str, float] = field(default_factory=dict)  # voice -> repetitions of its rows in an epoch
    other_weight: float = 1.0  # repetitions of the rows of voices that are not in ``weights``
    prompted: float = 0.0  # AR: share of rows after another clip of their speaker, as for a cloned voice
    level_power: float = 0.5  # NAR: level k is trained with probability proportional to k^-power
    prompt_frames: int = 125  # NAR: largest number of frames of the voice prompt


@dataclass(frozen=True)
class OptimRecipe:
    """AdamW, warm-up and cosine, moving average."""

    lr: float = 2e-3  # peak learning rate
    min_lr: float = 0.02  # learning rate at the end of the budget, as a share of ``lr``
    warmup: float = 0.03  # share of the budget for the warm-up
    weight_decay: float = 0.05  # weight decay of matrices
    betas: tuple[float, float] = (0.9, 0.98)  # adamW's
    grad_clip: float = 1.0  # largest gradient norm
    ema: float = 0.998  # decay of the exported moving average
    dropout: float = 0.1  # dropout of the residual branches, and of the embeddings of the AR model
    attention_dropout: float = 0.1  # AR: dropout of the attention weights
    token_noise: float = 0.0  # share of input codes replaced by random ones


@dataclass(frozen=True)
class AttentionRecipe:
    """Supervision of attention heads of the AR model, which attend to the phoneme of the next frame."""

    layers: tuple[int, ...] = (1, 3)  # indices of the blocks whose first head is supervised
    weight: float = 0.5  # weight of the attention loss; 0 turns it off


@dataclass(frozen=True)
class Recipe:
    """One training run."""

    kind: Literal["ar", "nar", "reranker"] = "ar"  # model to train
    model: ModelRecipe = ModelRecipe()
    data: DataRecipe = DataRecipe()
    optim: OptimRecipe = OptimRecipe()
    attention: AttentionRecipe = AttentionRecipe()
    seed: int = 0  # seed of the weights, order, augmentation and dropout
    dtype: Literal["float32", "bfloat16"] = "bfloat16"  # of autocast; weights are float32
    max_steps: int = 0  # 0 = no limit. The earlier of this and ``max_minutes`` ends the run
    max_minutes: float = 35.0  # without interruptions; 0 = no limit. The learning rate follows this budget
    log_every: int = 20  # steps between log lines
    save_minutes: float = 3.0  # minutes between checkpoints, each with held-out losses


def load_lm_recipe(name_or_path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Read a recipe.

    Args:
        name_or_path: a YAML file, or the name of a shipped one.
        overrides: ``"optim.lr=1e-3"`` and the like; values are YAML.

    Raises:
        FileNotFoundError: there is no such file or shipped recipe.
        ValueError: an unknown key, a value of the wrong type or out of its range, or no budget.
    """
    recipe = load_recipe(Recipe, name_or_path, RECIPES, overrides)
    _check(recipe)
    if not recipe.max_steps and not recipe.max_minutes:
        raise ValueError("the recipe has no budget; set max_steps or max_minutes")
    return recipe


def _check(settings: Any, where: str = "") -> None:
    """Raise ValueError for numbers out of range."""
    for spec in fields(settings):
        value, name = getattr(settings, spec.name), f"{where}{spec.name}"
        if is_dataclass(value):
            _check(value, f"{name}.")
        elif spec.name in _SHARES and max(value if isinstance(value, tuple) else (value,)) > 1:
            raise ValueError(f"recipe: expected {name} from 0 to 1, got {value}")
        elif spec.name in _POSITIVE and value == 0:
            raise ValueError(f"recipe: expected {name} above 0, got {value}")
