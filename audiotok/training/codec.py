"""One training step of the codec: wav in, named losses out. Knows nothing of optimisers, files or processes."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..codec.decoder import DecoderFeatures, PitchFeatures
from ..codec.model import AudioCodec
from .losses import (
    SpectralLoss,
    adversarial_loss,
    discriminator_loss,
    feature_loss,
    pitch_loss,
)
from .packed import PHONES, Batch
from .perceptual import Disturbance, Unintelligibility
from .pitch import track_pitch
from .recipe import CodecRecipe


class PhoneProbe(nn.Module):
    """Reads phones off codebook 0, so that the tokens an AR model predicts carry what is said.

    Args:
        latent_dim: width of the latents.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__()
        self.hidden = nn.Conv1d(latent_dim, 128, 5, padding=2)
        self.out = nn.Conv1d(128, len(PHONES), 1)

    def forward(self, latents: Tensor) -> Tensor:
        """[B, D, T] -> logits [B, phones, T]."""
        return self.out(F.gelu(self.hidden(latents)))


class SemanticProbe(nn.Module):
    """Predicts the features of a speech recogniser's encoder from codebook 0 (SpeechTokenizer, arXiv:2308.16692).

    Args:
        latent_dim: channels of what codebook 0 quantises.
        features: channels of the features.
    """

    def __init__(self, latent_dim: int, features: int = 128) -> None:
        super().__init__()
        self.hidden = nn.Conv1d(latent_dim, 384, 5, padding=2)
        self.out = nn.Conv1d(384, features, 3, padding=1)

    def forward(self, latents: Tensor, features: Tensor, spoken: Tensor) -> Tensor:
        """One minus the mean cosine between prediction and features.

        Args:
            latents: [B, D, T].
            features: [B, T, F].
            spoken: [B, T] bool, frames that count.

        Returns:
            scalar.
        """
        predicted = self.out(F.gelu(self.hidden(latents))).transpose(1, 2)
        distance = 1.0 - F.cosine_similarity(predicted, features, dim=-1)
        return (distance * spoken).sum() / spoken.sum().clamp_min(1)


class TrainingModel(nn.Module):
    """The codec with what hangs on it during training.

    Args:
        codec: the codec.
        recipe: weights of the losses and the stages.
    """

    def __init__(self, codec: AudioCodec, recipe: CodecRecipe) -> None:
        super().__init__()
        self.codec = codec
        self.recipe = recipe
        if recipe.phone > 0:
            self.probe = PhoneProbe(codec.config.semantic_dim or codec.config.codebook_dim)
        if recipe.semantic > 0:
            self.semantic = SemanticProbe(codec.config.semantic_dim or codec.config.codebook_dim)
        self.spectral = SpectralLoss(codec.config.sampling_rate)
        rate = codec.config.sampling_rate
        self.disturbance = Disturbance(rate) if recipe.disturbance > 0 else None
        self.unintelligibility = Unintelligibility(rate) if recipe.unintelligibility > 0 else None
        self.quantizing = False

    def train(self, mode: bool = True) -> TrainingModel:
        """As in ``nn.Module``, but frozen codes stay in evaluation mode: their codebooks must not follow."""
        super().train(mode)
        if self.recipe.freeze_codes:
            self.codec.encoder.eval()
            self.codec.quantizer.eval()
        return self

    def levels(self, batch: int, step: int, device: torch.device) -> Tensor:
        """Quantizer dropout: [B] int64, levels that each crop uses; a function of (seed, step)."""
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + step)
        n_q = self.codec.config.n_q
        some = torch.randint(1, n_q + 1, (batch,), generator=generator)
        full = torch.rand(batch, generator=generator) < self.recipe.full_levels_share
        return torch.where(full, n_q, some).to(device)

    def forward(self, batch: Batch, step: int) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Losses by path, the decoded wav [B, 1, N] and the codes [B, K, T]."""
        codec, recipe = self.codec, self.recipe
        # Codes are defined in float32: encoder and quantiser take no part in mixed precision.
        with torch.autocast(batch.wav.device.type, enabled=False):
            latents = codec.encoder(batch.wav)
        losses: dict[str, Tensor] = {}
        if self.quantizing:
            quantized = codec.quantizer(latents, self.levels(len(batch.wav), step, latents.device))
            latents, first, codes = quantized.quantized, quantized.first, quantized.codes
            losses["vq/commitment"] = quantized.commitment * recipe.commitment
        else:
            codes = latents.new_zeros(len(batch.wav), 1, latents.shape[-1], dtype=torch.int64)
            acoustic, semantic = latents.split([codec.quantizer.dim, codec.quantizer.semantic_dim], dim=1)
            latents, first = acoustic, semantic if codec.quantizer.semantic_dim else acoustic
        if recipe.semantic > 0 and not recipe.freeze_codes and batch.features is not None:
            distance = self.semantic(first, batch.features, batch.spoken)
            losses["semantic/cosine"] = distance * recipe.semantic
        if recipe.phone > 0 and not recipe.freeze_codes:
            logits = self.probe(first)
            phone = F.cross_entropy(
                logits, batch.phones, ignore_index=-1, label_smoothing=0.05, reduction="sum"
            )
            labelled = (batch.phones >= 0).sum().clamp_min(1)
            losses["phone/cross_entropy"] = phone / labelled * recipe.phone
        decoder = codec.decoder
        features = decoder.features(latents)
        # Half a pitch class is audible: pitch is read in float32, and so is everything after the networks.
        with torch.autocast(batch.wav.device.type, enabled=False):
            pitch = decoder.pitch(latents)
            wav = self._render(features, pitch, batch.wav, step, losses)
            losses["spectral/log_l1"] = self.spectral(wav, batch.wav) * recipe.spectral
            if self.disturbance is not None:
                losses["heard/disturbance"] = self.disturbance(wav, batch.wav) * recipe.disturbance
            if self.unintelligibility is not None:
                lost = self.unintelligibility(wav, batch.wav)
                losses["heard/unintelligibility"] = lost * recipe.unintelligibility
        return losses, wav, codes

    def _render(
        self,
        features: DecoderFeatures,
        pitch: PitchFeatures,
        target: Tensor,
        step: int,
        losses: dict[str, Tensor],
    ) -> Tensor:
        """Sound from what the networks said, excited by the target's pitch or the decoder's own."""
        decoder, config = self.codec.decoder, self.codec.config
        f0_hz, voiced = track_pitch(
            target, config.hop_length, config.sampling_rate, config.f0_min_hz, config.f0_max_hz
        )
        f0_loss, voicing_loss = pitch_loss(
            pitch.f0_logits, pitch.voiced_logit, decoder.pitch.grid_hz, f0_hz, voiced
        )
        losses["pitch/f0"] = f0_loss * self.recipe.pitch
        losses["pitch/voicing"] = voicing_loss * self.recipe.voicing
        with torch.no_grad():
            if step >= self.recipe.own_pitch_from:
                f0_hz, voiced = decoder.pitch.choose(pitch)
            pulses, noise, _ = decoder.excite(f0_hz, voiced)
        return decoder.render(features, pulses, noise)


def adversarial_terms(
    discriminator: nn.Module, plain: nn.Module, wav: Tensor, target: Tensor, recipe: CodecRecipe
) -> tuple[dict[str, Tensor], Tensor]:
    """The generator's adversarial losses, and the discriminator's own loss on the same sounds.

    Args:
        discriminator: as accelerate wraps it; called once, as data-parallel training demands.
        plain: the same without the wrapper, for the generator's pass.
        wav: decoded, [B, 1, N].
        target: recorded, [B, 1, N].
        recipe: weights.
    """
    both = [[f.chunk(2) for f in part] for part in discriminator(torch.cat([target, wav.detach()]))]
    real, ours = ([[pair[side] for pair in part] for part in both] for side in (0, 1))
    judge = discriminator_loss(real, ours)
    for parameter in plain.parameters():
        parameter.requires_grad_(False)
    fake = plain(wav)
    for parameter in plain.parameters():
        parameter.requires_grad_(True)
    losses = {
        "adv/gen": adversarial_loss(fake) * recipe.adversarial,
        "adv/feature": feature_loss(real, fake) * recipe.feature,
    }
    return losses, judge
