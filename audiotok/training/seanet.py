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
from .perceptual import Disturbance, Unintelligibility
from .recipe import SeanetRecipe
from .trainer import Trainer, TrainingModel

_VOICES = 8  # other crops, which become babble


class SeanetTrainingModel(TrainingModel):
    """The codec in training; arguments as in :class:`.trainer.TrainingModel`."""

    codec: SeanetCodec

    def forward(self, batch: NoisyBatch, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """A batch of crops [B, C, N] -> decoded [B, C, N], the commitment loss and the codes [B, K, T]."""
        codec, wav = self.codec, batch.wav
        scale = _scale(codec, wav)
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


def _scale(codec: SeanetCodec, wav: Tensor) -> Tensor:
    """Level of wavs [B, C, N], by which a codec with scales divides them: [B, 1, 1]."""
    if not codec.has_scale:
        return wav.new_ones(len(wav), 1, 1)
    return wav.mean(1, keepdim=True).square().mean(-1, keepdim=True).sqrt() + 1e-8


class SeanetLosses(nn.Module):
    """The losses of a recipe at a sampling rate in Hz."""

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
    """The batch of a step from crops [B, 1, N]: noisy for a codec that denoises, panned for a stereo codec.

    ``voices`` [M, 1, N] are other speech for babble.
    """
    config = codec.config
    if config.denoises and recipe.noise:
        rate, seed = config.sampling_rate, recipe.seed
        share = recipe.denoise_share
        return noisy_batch(crops, voices, config.hop_length, rate, seed, step, wanted_share=share)
    wanted = torch.zeros(len(crops), codec.frames(crops.shape[-1]), dtype=torch.bool)
    if config.audio_channels == 2:
        # Mono crops are placed at random positions; half of them are mixed with another crop.
        rng = np.random.default_rng((recipe.seed, step, 2))
        side = torch.from_numpy(rng.uniform(0, np.pi / 2, (2, len(crops), 1, 1))).float()
        left, right = torch.cos(side), torch.sin(side)
        placed, other = (
            torch.cat([left[i] * x, right[i] * x], 1) for i, x in enumerate((crops, crops.roll(1, 0)))
        )
        beside = torch.from_numpy(rng.random((len(crops), 1, 1)) < 0.5).float() if len(crops) > 1 else 0.0
        crops = placed + beside * other
        crops = crops / crops.abs().amax((1, 2), keepdim=True).clamp_min(1.0)
    return NoisyBatch(crops, crops, wanted)


class Balancer:
    """Scales the gradient of each loss so that its share of the decoder's gradient equals the loss weight.

    Source: EnCodec (arXiv:2210.13438), section 3.4, "balancer"; ``decay`` is its beta.

    The norm of the summed gradient is 1 for each item of the batch.

    Args:
        weights: weight of every loss, by path.
        decay: decay of the moving averages of the gradient norms, with Adam's bias correction.
        balance: False multiplies the gradients by their weights only (SoundStream's sum).
    """

    def __init__(self, weights: Mapping[str, float], decay: float = 0.999, balance: bool = True) -> None:
        self.weights, self.decay, self.balance = dict(weights), decay, balance
        self.shares: dict[str, float] = {}  # of each loss in the sum of weighted norms of the latest step
        self._lengths: dict[str, tuple[float, float]] = {}  # decayed sums of norms and of weights

    def gradient(self, losses: Mapping[str, Tensor], wav: Tensor) -> Tensor:
        """The gradient [B, C, N] of the losses of ``wav`` [B, C, N], a leaf that requires a gradient."""
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
                factor /= share * max(self._average(name, float(length)), 1e-12)
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
    ) -> tuple[TrainingModel, nn.Module, torch.optim.Optimizer, torch.optim.Optimizer]:
        recipe = self.recipe
        codec = init or SeanetCodec(recipe.config())
        model = SeanetTrainingModel(codec, recipe)
        windows, channels = recipe.discriminator_windows, recipe.discriminator_channels
        sides, rates = codec.config.audio_channels, recipe.discriminator_rates
        discriminator = MultiResolutionDiscriminator(windows, channels, sides, rates)
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

    def _latents(self, crops: Tensor, step: int) -> Tensor:
        batch = make_batch(crops, crops, self.codec, self.recipe, step)
        wav, wanted = (x.to(self.accelerator.device) for x in (batch.wav, batch.wanted))
        return self.codec.encoder(wav / _scale(self.codec, wav), wanted=wanted)

    def _train_step(self) -> dict[str, Any]:
        recipe, device = self.recipe, self.accelerator.device
        crops = self._crops(recipe.batch).wav
        voices = self._crops(_VOICES, seed_offset=1_000_003).wav if self.codec.config.denoises else crops
        batch = make_batch(crops, voices, self.codec, recipe, self.step)
        batch = NoisyBatch(batch.wav.to(device), batch.target.to(device), batch.wanted.to(device))
        decoded, commitment, _ = self.model(batch, self.step)
        leaf = decoded.detach().requires_grad_()
        plain = self.accelerator.unwrap_model(self.discriminator)
        adversarial = self.step >= recipe.adversarial_from + recipe.discriminator_warmup
        losses = self.losses(leaf, batch.target, plain if adversarial else None)
        gradient = self.balancer.gradient(losses, leaf)
        self.optimizer.zero_grad()
        if self.training_model.quantizing:
            torch.autograd.backward([decoded, commitment * recipe.commitment], [gradient, None])
        else:
            decoded.backward(gradient)
        values: dict[str, Any] = {key: value.detach() for key, value in losses.items()}
        values["train/gradient_norm"] = self.update(self.optimizer, self.model.parameters(), 1.0)
        values["vq/commitment"] = commitment.detach()
        values |= {f"share/{key}": share for key, share in self.balancer.shares.items()}
        # A function of the seed and the step, so that all ranks decide equally.
        drawn = np.random.default_rng((recipe.seed, self.step, 1)).random() < recipe.discriminator_share
        if self.step >= recipe.adversarial_from and drawn:
            loss = discriminator_loss(*discriminate(self.discriminator, decoded, batch.target))
            values["adv/discriminator"] = self.update_discriminator(loss)
        return values
