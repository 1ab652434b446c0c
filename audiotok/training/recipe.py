"""What a recipe for training a codec says."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..codec.config import CodecConfig
from ..recipes import coerce_arguments, load_recipe
from .packed import Draw

# What a run cannot go without; other numbers may be 0.
_POSITIVE = (
    "steps", "batch", "crop_frames", "lr", "kmeans_crops", "discriminator_channels", "log_every", "eval_every"
)  # fmt: skip


@dataclass(frozen=True)
class CodecRecipe:
    """How a codec is trained. The attribute texts are the manual."""

    model: dict[str, Any] = field(default_factory=dict)
    """Arguments of CodecConfig that differ from its defaults."""
    seed: int = 0
    """Of weights, crops and dropout."""
    steps: int = 20_000
    """Optimiser steps."""
    batch: int = 16
    """Crops per step and process."""
    crop_frames: int = 50
    """Frames per crop."""
    max_gain_db: float = 6.0
    """Crops are made louder or quieter by up to this."""
    lowpass_share: float = 0.0
    """Share of crops that are low-passed at a random frequency from 4 kHz to half the sampling rate."""
    noise_share: float = 0.0
    """Share of crops that get white or low-passed noise, 15 to 45 dB below the speech."""
    speaker_power: float = 0.0
    """0 draws clips by their length; 0.5 draws a speaker by the root of how long they speak in all."""
    draw_weights: dict[str, Any] = field(default_factory=dict)
    """Clips whose id begins with a key are drawn this many times as often."""
    lr: float = 6e-4
    """Peak learning rate; linear warm-up, then cosine down to a twentieth."""
    warmup_steps: int = 300
    """Steps of the warm-up."""
    quantize_from: int = 1500
    """Step at which k-means starts the codebooks; before it the latents pass unquantised."""
    kmeans_crops: int = 2400
    """Crops whose latents start the codebooks."""
    codebook_decay: float = 0.99
    """Of the EMA codebooks."""
    full_levels_share: float = 0.5
    """Share of crops that use all levels; the others use a random number (quantizer dropout)."""
    own_pitch_from: int = 6000
    """Step from which the decoder is excited by its own pitch instead of the teacher's."""
    adversarial_from: int = 1_000_000_000
    """Step at which the discriminators join; beyond `steps` they never do."""
    discriminator_warmup: int = 0
    """Steps that the discriminators train alone before their losses reach the codec."""
    freeze_codes: bool = False
    """Train the decoder only: codes stay what they are."""
    spectral: float = 1.0
    """Weight of the log-spectral loss."""
    disturbance: float = 0.0
    """Weight of what PESQ would subtract."""
    unintelligibility: float = 0.0
    """Weight of 1 - STOI."""
    commitment: float = 0.25
    """Weight of the commitment loss."""
    pitch: float = 0.1
    """Weight of the pitch classes' cross-entropy."""
    voicing: float = 0.2
    """Weight of the voicing decision's cross-entropy."""
    semantic: float = 0.0
    """Weight of the distance between codebook 0 and the features of a speech recogniser's encoder, 0 drops it. Needs
    packed clips with features."""
    phone: float = 0.3
    """Weight of the phone classifier on codebook 0; 0 drops it. Needs packed clips with phone labels."""
    adversarial: float = 0.1
    """Weight of the hinge loss."""
    feature: float = 0.5
    """Weight of feature matching."""
    discriminator_channels: int = 16
    """Width of the discriminators."""
    log_every: int = 50
    """Steps between lines of the log."""
    eval_every: int = 2000
    """Steps between evaluations on validation clips."""
    eval_clips: int = 12
    """Validation clips per evaluation."""
    save_every_s: float = 180.0
    """Seconds between checkpoints."""

    @property
    def draw(self) -> Draw:
        """How crops are drawn."""
        return Draw(
            self.max_gain_db, self.lowpass_share, self.noise_share, self.speaker_power, self.draw_weights
        )

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise ValueError(f"recipe: expected {name} above 0, got {getattr(self, name)}")


def load_codec_recipe(name_or_path: str, overrides: list[str] | None = None) -> CodecRecipe:
    """Read a codec's recipe, shipped or a file; arguments and errors as :func:`audiotok.recipes.load_recipe`."""
    recipe = load_recipe(CodecRecipe, name_or_path, Path(__file__).parent / "recipes", overrides or [])
    return replace(recipe, model=coerce_arguments(CodecConfig, recipe.model, "model."))
