"""A step of the default codec's training. Knows nothing of checkpoints and logs: :mod:`.trainer` keeps them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..codec.config import CodecConfig
from ..codec.model import AudioCodec
from ..codec.quantizer import perplexity
from .discriminators import MultiResolutionDiscriminator
from .packed import Batch
from .recipe import CodecRecipe
from .step import TrainingModel, adversarial_terms
from .trainer import Trainer
from .validate import validate


class CodecTrainer(Trainer):
    """Trains an :class:`~audiotok.codec.model.AudioCodec`; arguments as of :class:`.trainer.Trainer`."""

    recipe: CodecRecipe

    def _build(
        self, init: AudioCodec | None
    ) -> tuple[nn.Module, nn.Module, torch.optim.Optimizer, torch.optim.Optimizer]:
        recipe = self.recipe
        codec = init or AudioCodec(CodecConfig(**recipe.model))
        codec.quantizer.decay = recipe.codebook_decay
        model = TrainingModel(codec, recipe)
        model.quantizing = init is not None
        if recipe.freeze_codes:
            for part in (codec.encoder, codec.quantizer):
                part.requires_grad_(False)
        rate = codec.config.sampling_rate / 16_000
        judge = MultiResolutionDiscriminator(
            tuple(round(n_fft * rate) for n_fft in (1024, 512, 256)),
            recipe.discriminator_channels,
            log_magnitude=True,
        )
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=recipe.lr, betas=(0.8, 0.99), weight_decay=0.01, fused=True)
        return model, judge, optimizer, torch.optim.AdamW(judge.parameters(), lr=recipe.lr, betas=(0.8, 0.99))

    def _train_step(self) -> dict[str, float]:
        recipe, accelerator = self.recipe, self.accelerator
        batch = self._crops(self.step, recipe.batch)
        losses, wav, codes = self.model(batch, self.step)
        judge_loss: Tensor | None = None
        if self.step >= recipe.adversarial_from:
            terms, judge_loss = adversarial_terms(
                self.judge, accelerator.unwrap_model(self.judge), wav, batch.wav, recipe
            )
            if self.step >= recipe.adversarial_from + recipe.discriminator_warmup:
                losses |= terms
        self.optimizer.zero_grad()
        accelerator.backward(torch.stack(list(losses.values())).sum())
        norm = accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        values = {key: float(value.detach()) for key, value in losses.items()}
        if judge_loss is not None:
            self.judge_optimizer.zero_grad()
            accelerator.backward(judge_loss)
            self.judge_optimizer.step()
            values["adv/judge"] = float(judge_loss.detach())
        values["train/gradient_norm"] = float(norm) if norm is not None else 0.0
        for k in range(codes.shape[1]):
            if self.step % recipe.log_every == recipe.log_every - 1:
                # Of one batch: an upper bound is its number of frames. The evaluation gives the true figure.
                size = self.training_model.codec.config.codebook_size
                values[f"vq/batch_perplexity_{k}"] = float(perplexity(codes[:, k], size))
        return values

    def _crops(self, step: int, size: int, seed_offset: int = 0) -> Batch:
        rank = self.accelerator.process_index
        recipe = self.recipe
        seed = recipe.seed + seed_offset + 7919 * rank
        batch = self.train_clips.crops(seed, step, size, recipe.crop_frames, recipe.draw)
        return batch.to(self.accelerator.device)

    def _start_codebooks(self) -> None:
        codec = self.training_model.codec
        rank_batches = range(0, self.recipe.kmeans_crops, 32)
        latents = []
        for first in rank_batches:
            crops = self.train_clips.crops(
                self.recipe.seed + 1, first, 32, self.recipe.crop_frames, self.recipe.draw
            )
            encoded = codec.encoder(crops.wav.to(self.accelerator.device))
            latents.append(encoded.transpose(1, 2).reshape(-1, encoded.shape[1]))
        codec.quantizer.init_from(torch.cat(latents), seed=self.recipe.seed)

    def _start_averages(self) -> None:
        # Quantizer dropout keeps about this share of the frames from a level, averaged over levels.
        share = (1 + self.recipe.full_levels_share) / 2
        frames = self.recipe.batch * self.recipe.crop_frames * self.accelerator.num_processes
        self.training_model.codec.quantizer.start_averages(frames * share)

    def _validate(self) -> dict[str, float]:
        return validate(self.training_model.codec, self.validation_clips, self.recipe.eval_clips)
