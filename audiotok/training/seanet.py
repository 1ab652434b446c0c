"""Training of SoundStream and EnCodec: losses, balancer and training step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..codec.seanet import SeanetCodec
from .discriminators import MultiResolutionDiscriminator
from .losses import MultiScaleSpectralLoss, discriminate, discriminator_loss, generator_losses
from .noise import NoisyBatch, noisy_batch
from .packed import Draw
from .perceptual import Disturbance, Unintelligibility
from .recipe import SeanetRecipe
from .trainer import Trainer
from .validate import validate_seanet

_VOICES = 8  # step offset of other crops, which become babble


class SeanetTrainingModel(nn.Module):
    """The codec in training.

    Args:
        codec: the codec.
        recipe: the recipe.
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
        # Codes are defined in float32, so encoder and quantiser do not use mixed precision.
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
    """The losses of a recipe.

    Args:
        recipe: defines windows and weights.
        sampling_rate: Hz.
    """

    def __init__(self, recipe: SeanetRecipe, sampling_rate: int) -> None:
        super().__init__()
        self.recipe = recipe
        # EnCodec gives all scales equal weights; SoundStream has no balancer.
        self.spectral = MultiScaleSpectralLoss(sampling_rate, recipe.smallest_window, not recipe.balance)
        self.disturbance = Disturbance(sampling_rate) if recipe.disturbance > 0 else None
        self.unintelligibility = Unintelligibility(sampling_rate) if recipe.unintelligibility > 0 else None

    def forward(self, wav: Tensor, target: Tensor, discriminator: nn.Module | None) -> dict[str, Tensor]:
        """Losses by path of decoded and recorded waveforms [B, C, N]; without adversarial ones if there is no
        discriminator."""
        losses = {}
        if self.recipe.wave > 0:
            losses["wave/l1"] = F.l1_loss(wav, target)
        losses["spectral/multi_scale"] = self.spectral(wav, target)
        # The perceptual losses take one channel: the channels become items.
        ours, theirs = (x.flatten(0, 1)[:, None] for x in (wav, target))
        if self.disturbance is not None:
            losses["perceptual/disturbance"] = self.disturbance(ours, theirs)
        if self.unintelligibility is not None:
            losses["perceptual/unintelligibility"] = self.unintelligibility(ours, theirs)
        if discriminator is not None:
            with torch.no_grad():
                real = discriminator(target)
            losses |= generator_losses(discriminator, wav, real)
        return losses

    @staticmethod
    def weights(recipe: SeanetRecipe) -> dict[str, float]:
        """The weight of every loss."""
        return {
            "wave/l1": recipe.wave,
            "spectral/multi_scale": recipe.spectral,
            "perceptual/disturbance": recipe.disturbance,
            "perceptual/unintelligibility": recipe.unintelligibility,
            "adv/gen": recipe.adversarial,
            "adv/feature": recipe.feature,
        }


def make_batch(
    crops: Tensor, voices: Tensor, codec: SeanetCodec, recipe: SeanetRecipe, step: int
) -> NoisyBatch:
    """The batch of a step: noisy for a codec that denoises, panned for a stereo codec.

    Args:
        crops: [B, 1, N].
        voices: [M, 1, N], other speech, for babble.
        codec: the codec.
        recipe: the recipe.
        step: step of the run.
    """
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
    """Mono crops [B, 1, N] as stereo [B, 2, N] at random positions; half of them are mixed with another crop."""
    side = torch.from_numpy(rng.uniform(0, np.pi / 2, (2, len(crops), 1, 1))).float()
    placed = [
        torch.cat([torch.cos(a) * x, torch.sin(a) * x], 1)
        for a, x in zip(side, (crops, crops.roll(1, 0)), strict=True)
    ]
    beside = torch.from_numpy(rng.random((len(crops), 1, 1)) < 0.5).float() if len(crops) > 1 else 0.0
    mix = placed[0] + beside * placed[1]
    return mix / mix.abs().amax((1, 2), keepdim=True).clamp_min(1.0)


class Balancer:
    """Scales the gradient of each loss so that its share of the decoder's gradient equals the loss weight.

    Source: EnCodec (arXiv:2210.13438), section 3.4, "balancer"; ``total`` is its R, ``decay`` its beta.

    Args:
        weights: weight of every loss, by path.
        decay: decay of the moving averages of the gradient norms, with Adam's bias correction.
        total: norm of the summed gradient, per item of the batch.
        balance: False multiplies the gradients by their weights only (SoundStream's sum).

    Attributes:
        shares: share of each loss in the sum of the weighted gradient norms in the latest step.
    """

    def __init__(
        self, weights: Mapping[str, float], decay: float = 0.999, total: float = 1.0, balance: bool = True
    ) -> None:
        self.weights = dict(weights)
        self.decay, self.total, self.balance = decay, total, balance
        self.shares: dict[str, float] = {}
        self._lengths: dict[str, tuple[float, float]] = {}  # decayed sums of norms and of weights

    def gradient(self, losses: Mapping[str, Tensor], wav: Tensor) -> Tensor:
        """The gradient of the decoded waveform.

        Args:
            losses: scalars by path, made of ``wav``.
            wav: [B, C, N], a leaf that requires a gradient.

        Returns:
            [B, C, N].

        Raises:
            KeyError: a loss has no weight.
        """
        names = [name for name in losses if self.weights[name] > 0]
        share = sum(self.weights[name] for name in names)
        weighed, lengths = torch.zeros_like(wav), {}
        for name in names:
            (gradient,) = torch.autograd.grad(losses[name], wav, retain_graph=True)
            length = gradient.flatten(1).norm(dim=1).mean()
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                torch.distributed.all_reduce(length, torch.distributed.ReduceOp.AVG)
            factor = self.weights[name]
            if self.balance:
                factor *= self.total / share / max(self._average(name, float(length)), 1e-12)
            weighed += factor * gradient
            lengths[name] = factor * float(length)
        whole = sum(lengths.values()) or 1.0
        self.shares = {name: length / whole for name, length in lengths.items()}
        return weighed

    def _average(self, name: str, length: float) -> float:
        total, weight = self._lengths.get(name, (0.0, 0.0))
        total, weight = self.decay * total + length, self.decay * weight + 1.0
        self._lengths[name] = (total, weight)
        return total / weight

    def state_dict(self) -> dict[str, list[float]]:
        """The moving averages."""
        return {name: list(pair) for name, pair in self._lengths.items()}

    def load_state_dict(self, state: Mapping[str, list[float]]) -> None:
        """Restore the moving averages."""
        self._lengths = {name: (pair[0], pair[1]) for name, pair in state.items()}


class SeanetTrainer(Trainer):
    """Trains a SoundStream or an EnCodec; arguments as in :class:`.trainer.Trainer`."""

    recipe: SeanetRecipe

    def _build(
        self, init: SeanetCodec | None
    ) -> tuple[nn.Module, nn.Module, torch.optim.Optimizer, torch.optim.Optimizer]:
        recipe = self.recipe
        codec = init or SeanetCodec(recipe.config())
        codec.quantizer.decay = recipe.codebook_decay
        model = SeanetTrainingModel(codec, recipe)
        model.quantizing = init is not None
        discriminator = MultiResolutionDiscriminator(
            recipe.discriminator_windows,
            recipe.discriminator_channels,
            codec.config.audio_channels,
            recipe.discriminator_rates,
        )
        self.losses = SeanetLosses(recipe, codec.config.sampling_rate).to(self.accelerator.device)
        self.balancer = Balancer(SeanetLosses.weights(recipe), recipe.balancer_decay, balance=recipe.balance)
        # EnCodec's optimiser (section 4.1 of the paper); SoundStream does not name one.
        optimizer, against = (
            torch.optim.Adam(m.parameters(), lr=recipe.lr, betas=(0.5, 0.9)) for m in (model, discriminator)
        )
        return model, discriminator, optimizer, against

    def state(self) -> dict[str, Any]:
        """As in the base class, with the averages of the balancer."""
        return super().state() | {"balancer": self.balancer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint."""
        super().restore(state)
        self.balancer.load_state_dict(state["balancer"])

    @property
    def codec(self) -> SeanetCodec:
        """The codec as it is now."""
        return self.training_model.codec

    def _train_step(self) -> dict[str, Any]:
        recipe = self.recipe
        batch = self._batch(self.step)
        decoded, commitment, _ = self.model(batch, self.step)
        leaf = decoded.detach().requires_grad_()
        plain = self.accelerator.unwrap_model(self.discriminator)
        losses = self.losses(leaf, batch.target, plain if self.step >= recipe.adversarial_from else None)
        gradient = self.balancer.gradient(losses, leaf)
        self.optimizer.zero_grad()
        roots: list[tuple[Tensor, Tensor | None]] = [(decoded, gradient)]
        if self.training_model.quantizing:
            roots.append((commitment * recipe.commitment, None))
        torch.autograd.backward([root for root, _ in roots], [grad for _, grad in roots])
        values: dict[str, Any] = {key: value.detach() for key, value in losses.items()}
        values["train/gradient_norm"] = self.update(self.optimizer, self.model.parameters(), 1.0)
        values["vq/commitment"] = commitment.detach()
        values |= {f"share/{key}": share for key, share in self.balancer.shares.items()}
        # A function of the seed and the step, so that all ranks decide equally.
        drawn = np.random.default_rng((recipe.seed, self.step, 1)).random() < recipe.discriminator_share
        if self.step >= recipe.adversarial_from - recipe.discriminator_lead and drawn:
            loss = discriminator_loss(*discriminate(self.discriminator, decoded, batch.target))
            values["adv/discriminator"] = self.update_discriminator(loss)
        return values

    def _crops(self, step: int, size: int, seed_offset: int = 0) -> Tensor:
        recipe, codec = self.recipe, self.codec
        frames = recipe.crop_frames
        if codec.segment_samples is not None:
            frames = codec.segment_samples // codec.config.hop_length
        seed = recipe.seed + seed_offset + 7919 * self.accelerator.process_index
        return self.train_clips.crops(seed, step, size, frames, Draw(recipe.max_gain_db)).wav

    def _batch(self, step: int) -> NoisyBatch:
        crops = self._crops(step, self.recipe.batch)
        voices = self._crops(step, _VOICES, seed_offset=1_000_003) if self.codec.config.denoises else crops
        batch = make_batch(crops, voices, self.codec, self.recipe, step)
        device = self.accelerator.device
        return NoisyBatch(batch.wav.to(device), batch.target.to(device), batch.wanted.to(device))

    def _start_codebooks(self) -> None:
        codec, latents, size = self.codec, [], 16
        for first in range(0, self.recipe.kmeans_crops, size):
            seed = self.recipe.seed + 1
            frames = self._crops(0, 1).shape[-1] // codec.config.hop_length
            crops = self.train_clips.crops(seed, first, size, frames, Draw(self.recipe.max_gain_db)).wav
            batch = make_batch(crops, crops, codec, self.recipe, first)
            wav = batch.wav.to(self.accelerator.device)
            if codec.has_scale:
                wav = wav / (wav.mean(1, keepdim=True).square().mean(-1, keepdim=True).sqrt() + 1e-8)
            encoded = codec.encoder(wav, wanted=batch.wanted.to(wav.device))
            latents.append(encoded.transpose(1, 2).flatten(0, 1))
        codec.quantizer.init_from(torch.cat(latents), seed=self.recipe.seed)

    def _start_averages(self) -> None:
        recipe = self.recipe
        levels = [self.training_model.levels(64, step) for step in range(16)]
        share = float(torch.cat(levels).float().mean()) / self.codec.config.n_q
        frames = recipe.batch * self._crops(0, 1).shape[-1] // self.codec.config.hop_length
        self.codec.quantizer.start_averages(frames * share * self.accelerator.num_processes)

    def _validate(self) -> dict[str, float]:
        return validate_seanet(self.codec, self.validation_clips, self.recipe.eval_clips)
