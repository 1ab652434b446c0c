"""Recipes of codecs and entropy models."""

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
class BaseRecipe(Draw):
    """Settings that all codecs have, with those of crops."""

    model: dict[str, Any] = field(default_factory=dict)  # arguments of the codec's configuration
    seed: int = 0  # seed of weights, crops, noise and dropout
    steps: int = 20_000  # optimiser steps
    max_minutes: float = 0.0  # maximum training time, not counting interruptions; 0 sets no limit
    batch: int = 16  # crops per step and process
    crop_frames: int = 50  # frames per crop; ignored by a codec with segments, whose crops are one segment
    max_gain_db: float = 6.0
    lr: float = 6e-4  # peak learning rate; linear warm-up, then cosine down to a twentieth
    warmup_steps: int = 300  # steps of the warm-up
    quantize_from: int = 1500  # step at which k-means initialises the codebooks; no quantisation before it
    kmeans_crops: int = 2400  # crops whose latents initialise the codebooks
    codebook_decay: float = 0.99  # decay of the EMA codebooks
    levels: tuple[int, ...] = ()  # numbers of codebooks of a crop (quantizer dropout); empty means any
    full_levels_share: float = 0.5  # share of crops that always use all levels
    adversarial_from: int = 1_000_000_000  # step at which the discriminators start
    discriminator_warmup: int = 0  # steps of the discriminators before the codec uses their losses
    discriminator_channels: int = 16  # width of the discriminators
    spectral: float = 1.0  # weight of the spectral loss
    disturbance: float = 0.0  # weight of the PESQ disturbance
    unintelligibility: float = 0.0  # weight of 1 - STOI
    commitment: float = 0.25  # weight of the commitment loss
    adversarial: float = 0.1  # weight of the hinge loss
    feature: float = 0.5  # weight of feature matching
    log_every: int = 50  # steps between lines of the log
    eval_every: int = 2000  # steps between evaluations on validation clips
    eval_clips: int = 12  # validation clips per evaluation
    save_every_s: float = 180.0  # seconds between checkpoints

    def __post_init__(self) -> None:
        for name in _POSITIVE:
            if not getattr(self, name) > 0:
                raise ValueError(f"recipe: expected {name} above 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class CodecRecipe(BaseRecipe):
    """Recipe of the default codec."""

    own_pitch_from: int = 6000  # step at which the decoder's own pitch replaces the tracked one
    freeze_codes: bool = False  # train only the decoder; codes do not change
    pitch: float = 0.1  # weight of the pitch classes' cross-entropy
    voicing: float = 0.2  # weight of the voicing decision's cross-entropy
    semantic: float = 0.0  # weight of the distance to the pack's features, which codebook 0 predicts

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "model", coerce_arguments(CodecConfig, self.model, "model."))

    def config(self) -> CodecConfig:
        """The codec's configuration."""
        return CodecConfig(**self.model)


@dataclass(frozen=True)
class SeanetRecipe(BaseRecipe):
    """Recipe of a SoundStream or EnCodec."""

    preset: str = "soundstream"  # preset of the codec: soundstream, encodec-24k or encodec-48k
    full_levels_share: float = 0.0
    discriminator_share: float = 1.0  # share of the steps in which the discriminators train (2/3 for EnCodec)
    discriminator_windows: tuple[int, ...] = (1024,)  # windows of the STFT discriminators, in samples
    discriminator_rates: tuple[int, ...] = (1, 2, 4)  # downsampling of the waveform discriminators
    balance: bool = False  # weigh the losses' gradients (EnCodec's balancer) instead of the losses
    balancer_decay: float = 0.9  # the paper's 0.999 reacts to changed gradients after a thousand steps
    wave: float = 0.0  # weight of the L1 distance of the waveforms
    smallest_window: int = 64  # samples, of the spectral loss; each next one is twice as long, up to 2048
    noise: bool = True  # add noise to the input; a codec that denoises learns to remove it in flagged frames
    denoise_share: float = 0.4  # of crops, at most 0.8; in a fifth of them the flag changes within the crop

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.denoise_share <= 0.8:
            raise ValueError(f"recipe: expected denoise_share in [0, 0.8], got {self.denoise_share}")
        self.config()

    def config(self) -> SeanetConfig:
        """The codec's configuration."""
        return seanet_preset(self.preset, **self.model)


@dataclass(frozen=True)
class EntropyRecipe:
    """Recipe of the entropy model of a codec."""

    task: Literal["entropy"] = "entropy"  # distinguishes the recipe from those of codecs
    seed: int = 0  # seed of weights and packets
    steps: int = 5000  # optimiser steps
    batch: int = 16  # packets per step
    packet_frames: int = 100  # frames of a packet, as in files
    speaker_balance: float = 0.5  # 0 draws packets by the length of the rows, 1 every speaker equally often
    width: int = 32  # width of the code embeddings
    hidden: int = 64  # width of the two hidden layers
    out_width: int = 48  # width of the output vectors, which are compared with those of the codes
    taps: tuple[int, ...] = field(default=(1, 2, 4, 8))  # past frames at which the first hidden layer is read
    lr: float = 3e-3  # peak learning rate; linear warm-up, then cosine down to a fiftieth
    warmup_steps: int = 50  # steps of the warm-up
    weight_decay: float = 0.01  # of AdamW
    log_every: int = 50  # steps between lines of the log
    save_every_s: float = 60.0  # seconds between checkpoints
    eval_clips: int = 60  # clips of 10 s of the validation split that are coded at the end


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
