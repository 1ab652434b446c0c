"""Training of the default codec: losses and training step."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..codec.model import AudioCodec
from ..codec.quantizer import perplexity
from ..metrics import track_pitch
from .discriminators import MultiResolutionDiscriminator
from .losses import SpectralLoss, discriminate, discriminator_loss, generator_losses, pitch_loss
from .packed import Batch
from .perceptual import Disturbance, Unintelligibility
from .recipe import CodecRecipe
from .trainer import Trainer, TrainingModel


class SemanticProbe(nn.Module):
    """Predicts the features of a speech recogniser's encoder from codebook 0 (SpeechTokenizer, arXiv:2308.16692)."""

    def __init__(self, latent_dim: int, features: int = 128) -> None:
        super().__init__()
        self.hidden = nn.Conv1d(latent_dim, 384, 5, padding=2)
        self.out = nn.Conv1d(384, features, 3, padding=1)

    def forward(self, latents: Tensor, features: Tensor, spoken: Tensor) -> Tensor:
        """One minus the mean cosine between predictions from latents [B, D, T] and features [B, T, F], a scalar.

        ``spoken`` [B, T] bool are the frames that count.
        """
        predicted = self.out(F.gelu(self.hidden(latents))).transpose(1, 2)
        distance = 1.0 - F.cosine_similarity(predicted, features, dim=-1)
        return (distance * spoken).sum() / spoken.sum().clamp_min(1)


class CodecTrainingModel(TrainingModel):
    """The codec with the additional modules of training; arguments as in :class:`.trainer.TrainingModel`."""

    recipe: CodecRecipe

    def __init__(self, codec: AudioCodec, recipe: CodecRecipe) -> None:
        super().__init__(codec, recipe)
        if recipe.semantic > 0:
            self.semantic = SemanticProbe(codec.config.semantic_dim or codec.config.codebook_dim)
        rate = codec.config.sampling_rate
        self.spectral = SpectralLoss(rate)
        self.disturbance = Disturbance(rate) if recipe.disturbance > 0 else None
        self.unintelligibility = Unintelligibility(rate) if recipe.unintelligibility > 0 else None

    def train(self, mode: bool = True) -> CodecTrainingModel:
        """As in ``nn.Module``, but a frozen encoder and quantiser stay in evaluation mode."""
        super().train(mode)
        if self.recipe.freeze_codes:
            self.codec.encoder.eval()
            self.codec.quantizer.eval()
        return self

    def forward(self, batch: Batch, step: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Losses by path, the decoded wav [B, 1, N] and the codes [B, K, T]."""
        codec, recipe = self.codec, self.recipe
        device = batch.wav.device
        # Codes are defined in float32, so encoder and quantiser do not use mixed precision.
        with torch.autocast(device.type, enabled=False):
            latents = codec.encoder(batch.wav)
        losses: dict[str, Tensor] = {}
        if self.quantizing:
            quantized = codec.quantizer(latents, self.levels(len(batch.wav), step).to(device))
            latents, first, codes = quantized.quantized, quantized.first, quantized.codes
            losses["vq/commitment"] = quantized.commitment * recipe.commitment
        else:
            codes = latents.new_zeros(len(batch.wav), 1, latents.shape[-1], dtype=torch.int64)
            acoustic, semantic = latents.split([codec.quantizer.dim, codec.quantizer.semantic_dim], dim=1)
            latents, first = acoustic, semantic if codec.quantizer.semantic_dim else acoustic
        if recipe.semantic > 0 and not recipe.freeze_codes and batch.features is not None:
            distance = self.semantic(first, batch.features, batch.spoken)
            losses["semantic/cosine"] = distance * recipe.semantic
        decoder, config = codec.decoder, codec.config
        features = decoder.features(latents)
        # An error of half a pitch class is audible, so pitch and synthesis stay in float32.
        with torch.autocast(device.type, enabled=False):
            pitch = decoder.pitch(latents)
            f0_hz, voiced = track_pitch(
                batch.wav, config.hop_length, config.sampling_rate, config.f0_min_hz, config.f0_max_hz
            )
            f0_loss, voicing_loss = pitch_loss(
                pitch.f0_logits, pitch.voiced_logit, decoder.pitch.grid_hz, f0_hz, voiced
            )
            losses["pitch/f0"] = f0_loss * recipe.pitch
            losses["pitch/voicing"] = voicing_loss * recipe.voicing
            with torch.no_grad():
                if step >= recipe.own_pitch_from:
                    f0_hz, voiced = decoder.pitch.choose(pitch)
                pulses, noise, _ = decoder.excite(f0_hz, voiced)
            wav = decoder.render(features, pulses, noise)
            losses["spectral/log_l1"] = self.spectral(wav, batch.wav) * recipe.spectral
            if self.disturbance is not None:
                losses["perceptual/disturbance"] = self.disturbance(wav, batch.wav) * recipe.disturbance
            if self.unintelligibility is not None:
                lost = self.unintelligibility(wav, batch.wav)
                losses["perceptual/unintelligibility"] = lost * recipe.unintelligibility
        return losses, wav, codes


class CodecTrainer(Trainer):
    """Trains an :class:`~audiotok.codec.model.AudioCodec`; arguments as in :class:`.trainer.Trainer`."""

    recipe: CodecRecipe

    def _build(
        self, init: AudioCodec | None
    ) -> tuple[TrainingModel, nn.Module, torch.optim.Optimizer, torch.optim.Optimizer]:
        recipe = self.recipe
        codec = init or AudioCodec(recipe.config())
        model = CodecTrainingModel(codec, recipe)
        if recipe.freeze_codes:
            for part in (codec.encoder, codec.quantizer):
                part.requires_grad_(False)
        rate = codec.config.sampling_rate / 16_000
        windows = tuple(round(n_fft * rate) for n_fft in (1024, 512, 256))
        channels = recipe.discriminator_channels
        discriminator = MultiResolutionDiscriminator(windows, channels, log_magnitude=True)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=recipe.lr, betas=(0.8, 0.99), weight_decay=0.01, fused=True)
        against = torch.optim.AdamW(discriminator.parameters(), lr=recipe.lr, betas=(0.8, 0.99))
        return model, discriminator, optimizer, against

    def _latents(self, crops: Tensor, step: int) -> Tensor:
        return self.codec.encoder(crops.to(self.accelerator.device))

    def _train_step(self) -> dict[str, Any]:
        recipe = self.recipe
        batch = self._crops(recipe.batch).to(self.accelerator.device)
        losses, wav, codes = self.model(batch, self.step)
        opposing: Tensor | None = None
        if self.step >= recipe.adversarial_from:
            real, fake = discriminate(self.discriminator, wav, batch.wav)
            opposing = discriminator_loss(real, fake)
            if self.step >= recipe.adversarial_from + recipe.discriminator_warmup:
                terms = generator_losses(self.accelerator.unwrap_model(self.discriminator), wav, real)
                losses["adv/gen"] = terms["adv/gen"] * recipe.adversarial
                losses["adv/feature"] = terms["adv/feature"] * recipe.feature
        self.optimizer.zero_grad()
        self.accelerator.backward(torch.stack(list(losses.values())).sum())
        values: dict[str, Any] = {key: value.detach() for key, value in losses.items()}
        values["train/gradient_norm"] = self.update(self.optimizer, self.model.parameters(), 1.0)
        if opposing is not None:
            values["adv/discriminator"] = self.update_discriminator(opposing)
        if self.step % recipe.log_every == recipe.log_every - 1:
            # Measured on one batch, so the number of frames is a limit; the evaluation uses whole clips.
            for k in range(codes.shape[1]):
                values[f"vq/batch_perplexity_{k}"] = perplexity(codes[:, k], self.codec.config.codebook_size)
        return values
