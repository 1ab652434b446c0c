"""What a recipe for training a codec of the papers says."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ..codec.seanet_config import SeanetConfig, seanet_preset
from ..recipes import load_recipe

_SHIPPED = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class SeanetRecipe:
    """How a SoundStream or an EnCodec is trained. The attribute texts are the manual."""

    preset: str = "soundstream"
    """Of the codec: soundstream, encodec-24k or encodec-48k."""
    model: dict[str, Any] = field(default_factory=dict)
    """Arguments of SeanetConfig that differ from the preset's."""
    seed: int = 0
    """Of weights, crops, noise and dropout."""
    steps: int = 100_000
    """Optimiser steps."""
    max_minutes: float = 0.0
    """Stop after so much training time, interruptions not counted, if that is earlier; 0 sets no limit."""
    batch: int = 16
    """Crops per step and process."""
    crop_frames: int = 75
    """Frames per crop; a codec of segments takes one segment, whatever stands here."""
    max_gain_db: float = 6.0
    """Crops are made louder or quieter by up to this."""
    lr: float = 3e-4
    """Peak learning rate; linear warm-up, then cosine down to a twentieth."""
    warmup_steps: int = 100
    """Steps of the warm-up."""
    quantize_from: int = 0
    """Step at which k-means starts the codebooks; before it the latents pass unquantised."""
    kmeans_crops: int = 512
    """Crops whose latents start the codebooks."""
    codebook_decay: float = 0.99
    """Of the EMA codebooks."""
    levels: tuple[int, ...] = ()
    """Numbers of codebooks of which one is drawn per crop (quantizer dropout); none means any number."""
    full_levels_share: float = 0.0
    """Share of crops that use all levels whatever is drawn."""
    adversarial_from: int = 0
    """Step at which the decoder begins to listen to the discriminators."""
    judge_lead: int = 300
    """Steps that the discriminators learn before that: what one that knows nothing says is noise."""
    judge_share: float = 1.0
    """Share of the steps in which the discriminators learn (EnCodec: two in three)."""
    judge_windows: tuple[int, ...] = (1024,)
    """Windows of the STFT discriminators, in samples."""
    judge_rates: tuple[int, ...] = (1, 2, 4)
    """By how much the sound is slowed down for the discriminators of the wave; none for EnCodec."""
    judge_channels: int = 16
    """Width of the discriminators."""
    balance: bool = False
    """Weigh the losses' gradients (EnCodec's balancer) instead of the losses."""
    balancer_decay: float = 0.9
    """Of the balancer's moving averages. The paper's 0.999 lags a thousand steps behind gradients that grow or fade."""
    wave: float = 0.0
    """Weight of the L1 distance of the waves."""
    spectral: float = 1.0
    """Weight of the multi-scale spectral loss."""
    smallest_window: int = 64
    """The shortest of its windows, in samples; each next one is twice as long, to 2048."""
    disturbance: float = 0.0
    """Weight of what PESQ would subtract (16 kHz only)."""
    unintelligibility: float = 0.0
    """Weight of 1 - STOI."""
    adversarial: float = 1.0
    """Weight of the hinge loss."""
    feature: float = 100.0
    """Weight of feature matching."""
    commitment: float = 1.0
    """Weight of the commitment loss; never balanced, for it is not of the sound."""
    noise: bool = True
    """Add noise to what is heard; a codec that denoises learns to leave it out where it is told to."""
    denoise_share: float = 0.4
    """Share of crops that are wanted clean from end to end, at most 0.8; in a fifth that changes on the way."""
    log_every: int = 20
    """Steps between lines of the log."""
    eval_every: int = 500
    """Steps between evaluations on validation clips."""
    eval_clips: int = 8
    """Validation clips per evaluation."""
    save_every_s: float = 120.0
    """Seconds between checkpoints."""

    def __post_init__(self) -> None:
        if not 0 <= self.denoise_share <= 0.8:
            raise ValueError(f"recipe: expected denoise_share in [0, 0.8], got {self.denoise_share}")

    def config(self) -> SeanetConfig:
        """The codec's configuration."""
        return seanet_preset(self.preset, **self.model)


def is_seanet_recipe(name_or_path: str) -> bool:
    """Whether a recipe, shipped or a file, trains a codec of the papers: it says which preset."""
    path = Path(name_or_path)
    path = path if path.is_file() else _SHIPPED / f"{name_or_path}.yaml"
    if not path.is_file():
        return False
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError:
        return False
    return isinstance(settings, dict) and "preset" in settings


def load_seanet_recipe(name_or_path: str, overrides: list[str] | None = None) -> SeanetRecipe:
    """Read a recipe; arguments and errors as :func:`audiotok.recipes.load_recipe`.

    Raises:
        ValueError: its preset or an argument of its model does not exist.
    """
    recipe = load_recipe(SeanetRecipe, name_or_path, _SHIPPED, overrides or [])
    recipe.config()
    return recipe
