"""One training step of a codec of the papers: sound in, what the decoder made of it out, and its losses.

Knows nothing of optimisers, files or processes. The law kept: what a step draws is a function of (seed, step).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..codec.seanet_codec import SeanetCodec
from .discriminators import MultiResolutionDiscriminator
from .losses import adversarial_loss, discriminator_loss, feature_loss
from .noise import NoisyBatch, noisy_batch
from .perceptual import Disturbance, Unintelligibility
from .seanet_losses import MultiScaleSpectralLoss
from .seanet_recipe import SeanetRecipe


class SeanetTrainingModel(nn.Module):
    """The codec on its way.

    Args:
        codec: the codec.
        recipe: how it is trained.
    """

    def __init__(self, codec: SeanetCodec, recipe: SeanetRecipe) -> None:
        super().__init__()
        self.codec, self.recipe = codec, recipe
        self.quantizing = False

    def levels(self, batch: int, step: int) -> Tensor:
        """Quantizer dropout: [B] int64, codebooks that each crop uses."""
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + step)
        n_q = self.codec.config.n_q
        choices = torch.tensor([k for k in self.recipe.levels if k <= n_q] or range(1, n_q + 1))
        drawn = choices[torch.randint(len(choices), (batch,), generator=generator)]
        full = torch.rand(batch, generator=generator) < self.recipe.full_levels_share
        return torch.where(full, n_q, drawn)

    def forward(self, batch: NoisyBatch, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """A batch of crops [B, C, N] -> decoded [B, C, N], the commitment loss and the codes [B, K, T]."""
        codec, wav = self.codec, batch.wav
        scale = wav.new_ones(len(wav), 1, 1)
        if codec.has_scale:
            scale = wav.mean(1, keepdim=True).square().mean(-1, keepdim=True).sqrt() + 1e-8
        # Codes are defined in float32: encoder and quantiser take no part in mixed precision.
        with torch.autocast(wav.device.type, enabled=False):
            latents = codec.encoder(wav / scale, wanted=batch.wanted)
            commitment = latents.new_zeros(())
            codes = torch.zeros(len(wav), 1, latents.shape[-1], dtype=torch.int64, device=wav.device)
            if self.quantizing:
                out = codec.quantizer(latents, self.levels(len(wav), step).to(wav.device))
                latents, codes, commitment = out.quantized, out.codes, out.commitment
        decoded = codec.decoder(latents)[..., : wav.shape[-1]].float() * scale
        return decoded, commitment, codes


class SeanetLosses(nn.Module):
    """The losses of a decoded sound that a recipe asks for.

    Args:
        recipe: their windows.
        sampling_rate: Hz.
    """

    def __init__(self, recipe: SeanetRecipe, sampling_rate: int) -> None:
        super().__init__()
        self.recipe = recipe
        # EnCodec weighs its scales alike; SoundStream does not balance.
        self.spectral = MultiScaleSpectralLoss(sampling_rate, recipe.smallest_window, not recipe.balance)
        self.disturbance = Disturbance(sampling_rate) if recipe.disturbance > 0 else None
        self.unintelligibility = Unintelligibility(sampling_rate) if recipe.unintelligibility > 0 else None

    def forward(self, wav: Tensor, target: Tensor, judge: nn.Module | None) -> dict[str, Tensor]:
        """Scalars by path, of a decoded and a recorded sound [B, C, N]; ``judge``: None before it joins."""
        losses = {}
        if self.recipe.wave > 0:
            losses["wave/l1"] = F.l1_loss(wav, target)
        losses["spectral/multi_scale"] = self.spectral(wav, target)
        # Judges of one channel hear each by itself.
        ours, theirs = (x.flatten(0, 1)[:, None] for x in (wav, target))
        if self.disturbance is not None:
            losses["heard/disturbance"] = self.disturbance(ours, theirs)
        if self.unintelligibility is not None:
            losses["heard/unintelligibility"] = self.unintelligibility(ours, theirs)
        if judge is not None:
            with torch.no_grad():
                real = judge(target)
            fake = judge(wav)
            losses["adv/gen"] = adversarial_loss(fake)
            losses["adv/feature"] = feature_loss(real, fake)
        return losses

    @staticmethod
    def weights(recipe: SeanetRecipe) -> dict[str, float]:
        """What the balancer is told."""
        return {
            "wave/l1": recipe.wave,
            "spectral/multi_scale": recipe.spectral,
            "heard/disturbance": recipe.disturbance,
            "heard/unintelligibility": recipe.unintelligibility,
            "adv/gen": recipe.adversarial,
            "adv/feature": recipe.feature,
        }


def build_judge(recipe: SeanetRecipe, audio_channels: int) -> MultiResolutionDiscriminator:
    """The discriminators that a recipe asks for."""
    return MultiResolutionDiscriminator(
        recipe.judge_windows, recipe.judge_channels, audio_channels, recipe.judge_rates
    )


def judge_loss(judge: nn.Module, wav: Tensor, target: Tensor) -> Tensor:
    """The discriminators' own hinge loss on decoded and recorded sound [B, C, N]; one pass for both."""
    both = [[f.chunk(2) for f in part] for part in judge(torch.cat([target, wav.detach()]))]
    real, fake = ([[pair[side] for pair in part] for part in both] for side in (0, 1))
    return discriminator_loss(real, fake)


def judge_learns(recipe: SeanetRecipe, step: int) -> bool:
    """Whether the discriminators take this step too."""
    return bool(np.random.default_rng((recipe.seed, step, 1)).random() < recipe.judge_share)


def make_batch(
    crops: Tensor, voices: Tensor, codec: SeanetCodec, recipe: SeanetRecipe, step: int
) -> NoisyBatch:
    """Crops [B, 1, N] and other voices [M, 1, N] -> what a step hears: noisy, or mixed and panned for two channels."""
    config = codec.config
    if config.denoises and recipe.noise:
        seed = recipe.seed
        return noisy_batch(
            crops,
            voices,
            config.hop_length,
            config.sampling_rate,
            seed,
            step,
            wanted_share=recipe.denoise_share,
        )
    wanted = torch.zeros(len(crops), codec.frames(crops.shape[-1]), dtype=torch.bool)
    if config.audio_channels == 2:
        crops = _panned(crops, np.random.default_rng((recipe.seed, step, 2)))
    return NoisyBatch(crops, crops, wanted)


def _panned(crops: Tensor, rng: np.random.Generator) -> Tensor:
    """Mono crops [B, 1, N] as stereo [B, 2, N]: each somewhere between the sides, half of them beside another one."""
    side = torch.from_numpy(rng.uniform(0, np.pi / 2, (2, len(crops), 1, 1))).float()
    placed = [
        torch.cat([torch.cos(a) * x, torch.sin(a) * x], 1)
        for a, x in zip(side, (crops, crops.roll(1, 0)), strict=True)
    ]
    beside = torch.from_numpy(rng.random((len(crops), 1, 1)) < 0.5).float() if len(crops) > 1 else 0.0
    mix = placed[0] + beside * placed[1]
    return mix / mix.abs().amax((1, 2), keepdim=True).clamp_min(1.0)
