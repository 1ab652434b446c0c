"""Recipes of codecs and entropy models, with a docstring for every setting."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from ..codec.config import CodecConfig
from ..codec.seanet import SeanetConfig, seanet_preset
from ..recipes import coerce_arguments, load_recipe
from .packed import Draw

RECIPES = Path(__file__).parent / "recipes"
# Values of a codec's recipe that must be above 0; others may be 0.
_POSITIVE = (
    "steps", "batch", "crop_frames", "lr", "kmeans_crops", "discriminator_channels", "log_every", "eval_every"
)  # fmt: skip


@dataclass(frozen=True)
class CodecRecipe:
    """Recipe of the default codec."""

    model: dict[str, Any] = field(default_factory=dict)
    """Arguments of CodecConfig that differ from its defaults."""
    seed: int = 0
    """Seed of weights, crops and dropout."""
    steps: int = 20_000
    """Optimiser steps."""
    max_minutes: float = 0.0
    """Maximum training time, not counting interruptions; 0 sets no limit."""
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
    """0 draws clips by their length; 0.5 draws speakers by the square root of their total length."""
    draw_weights: dict[str, Any] = field(default_factory=dict)
    """Clips whose id begins with a key are drawn this many times as often."""
    lr: float = 6e-4
    """Peak learning rate; linear warm-up, then cosine down to a twentieth."""
    warmup_steps: int = 300
    """Steps of the warm-up."""
    quantize_from: int = 1500
    """Step at which k-means initialises the codebooks; before it the latents are not quantised."""
    kmeans_crops: int = 2400
    """Crops whose latents initialise the codebooks."""
    codebook_decay: float = 0.99
    """Decay of the EMA codebooks."""
    full_levels_share: float = 0.5
    """Share of crops that use all levels; the others use a random number (quantizer dropout)."""
    own_pitch_from: int = 6000
    """Step from which the decoder is excited by its own pitch instead of the tracked one."""
    adversarial_from: int = 1_000_000_000
    """Step at which the discriminators start; a value beyond `steps` disables them."""
    discriminator_warmup: int = 0
    """Steps of the discriminators before the codec uses their losses."""
    freeze_codes: bool = False
    """Train only the decoder; codes do not change."""
    spectral: float = 1.0
    """Weight of the log-spectral loss."""
    disturbance: float = 0.0
    """Weight of the PESQ disturbance."""
    unintelligibility: float = 0.0
    """Weight of 1 - STOI."""
    commitment: float = 0.25
    """Weight of the commitment loss."""
    pitch: float = 0.1
    """Weight of the pitch classes' cross-entropy."""
    voicing: float = 0.2
    """Weight of the voicing decision's cross-entropy."""
    semantic: float = 0.0
    """Weight of the distance between codebook 0 and the features of a speech recogniser's encoder; 0 disables it. It
    requires packed clips with features."""
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
        object.__setattr__(self, "model", coerce_arguments(CodecConfig, self.model, "model."))


@dataclass(frozen=True)
class SeanetRecipe:
    """Recipe of a SoundStream or EnCodec."""

    preset: str = "soundstream"
    """Preset of the codec: soundstream, encodec-24k or encodec-48k."""
    model: dict[str, Any] = field(default_factory=dict)
    """Arguments of SeanetConfig that differ from the preset's."""
    seed: int = 0
    """Seed of weights, crops, noise and dropout."""
    steps: int = 100_000
    """Optimiser steps."""
    max_minutes: float = 0.0
    """Maximum training time, not counting interruptions; 0 sets no limit."""
    batch: int = 16
    """Crops per step and process."""
    crop_frames: int = 75
    """Frames per crop; ignored by a codec with segments, whose crops are one segment."""
    max_gain_db: float = 6.0
    """Crops are made louder or quieter by up to this."""
    lr: float = 3e-4
    """Peak learning rate; linear warm-up, then cosine down to a twentieth."""
    warmup_steps: int = 100
    """Steps of the warm-up."""
    quantize_from: int = 0
    """Step at which k-means initialises the codebooks; before it the latents are not quantised."""
    kmeans_crops: int = 512
    """Crops whose latents initialise the codebooks."""
    codebook_decay: float = 0.99
    """Decay of the EMA codebooks."""
    levels: tuple[int, ...] = ()
    """Numbers of codebooks to draw from for each crop (quantizer dropout); empty means any number."""
    full_levels_share: float = 0.0
    """Share of crops that always use all levels."""
    adversarial_from: int = 0
    """Step from which the decoder is trained against the discriminators."""
    discriminator_lead: int = 300
    """Steps of the discriminators before that."""
    discriminator_share: float = 1.0
    """Share of the steps in which the discriminators train (2/3 for EnCodec)."""
    discriminator_windows: tuple[int, ...] = (1024,)
    """Windows of the STFT discriminators, in samples."""
    discriminator_rates: tuple[int, ...] = (1, 2, 4)
    """Downsampling factors of the waveform discriminators; none for EnCodec."""
    discriminator_channels: int = 16
    """Width of the discriminators."""
    balance: bool = False
    """Weigh the losses' gradients (EnCodec's balancer) instead of the losses."""
    balancer_decay: float = 0.9
    """Decay of the balancer's moving averages. The paper's 0.999 reacts to changed gradients after a thousand steps."""
    wave: float = 0.0
    """Weight of the L1 distance of the waveforms."""
    spectral: float = 1.0
    """Weight of the multi-scale spectral loss."""
    smallest_window: int = 64
    """Shortest window in samples; each next one is twice as long, up to 2048."""
    disturbance: float = 0.0
    """Weight of the PESQ disturbance."""
    unintelligibility: float = 0.0
    """Weight of 1 - STOI."""
    adversarial: float = 1.0
    """Weight of the hinge loss."""
    feature: float = 100.0
    """Weight of feature matching."""
    commitment: float = 1.0
    """Weight of the commitment loss, which is not balanced."""
    noise: bool = True
    """Add noise to the input; a codec that denoises learns to remove it in flagged frames."""
    denoise_share: float = 0.4
    """Share of crops to denoise as a whole, at most 0.8; in a fifth of the crops the flag changes within the crop."""
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
        self.config()

    def config(self) -> SeanetConfig:
        """The codec's configuration."""
        return seanet_preset(self.preset, **self.model)


@dataclass(frozen=True)
class EntropyRecipe:
    """Recipe of the entropy model of a codec."""

    task: Literal["entropy"] = "entropy"
    """Distinguishes the recipe from those of codecs."""
    seed: int = 0
    """Seed of weights and packets."""
    steps: int = 5000
    """Optimiser steps."""
    batch: int = 16
    """Packets per step."""
    packet_frames: int = 100
    """Frames of a packet, as in files."""
    speaker_balance: float = 0.5
    """0 draws packets by the length of the rows, 1 draws every speaker equally often."""
    width: int = 32
    """Width of the code embeddings."""
    hidden: int = 64
    """Width of the two hidden layers."""
    out_width: int = 48
    """Width of the output vectors, which are compared with those of the codes."""
    taps: tuple[int, ...] = field(default=(1, 2, 4, 8))
    """Past frames at which the first hidden layer is read."""
    lr: float = 3e-3
    """Peak learning rate; linear warm-up, then cosine down to a fiftieth."""
    warmup_steps: int = 50
    """Steps of the warm-up."""
    weight_decay: float = 0.01
    """Of AdamW."""
    log_every: int = 50
    """Steps between lines of the log."""
    save_every_s: float = 60.0
    """Seconds between checkpoints."""
    eval_clips: int = 60
    """Clips of 10 s of the validation split that are coded at the end."""


def load_training_recipe(
    name_or_path: str, overrides: list[str] | None = None
) -> CodecRecipe | SeanetRecipe | EntropyRecipe:
    """Read a shipped recipe or a file. The keys ``task`` and ``preset`` determine the kind of recipe.

    Arguments and errors are those of :func:`audiotok.recipes.load_recipe`.
    """
    path = Path(name_or_path)
    path = path if path.is_file() else RECIPES / f"{name_or_path}.yaml"
    try:
        keys = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        keys = None  # load_recipe reports the error
    keys = keys if isinstance(keys, dict) else {}
    kind = (
        EntropyRecipe if keys.get("task") == "entropy" else SeanetRecipe if "preset" in keys else CodecRecipe
    )
    return load_recipe(kind, name_or_path, RECIPES, overrides or [])
