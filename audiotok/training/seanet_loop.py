"""A step of the papers' codecs' training, its losses balanced or summed. Knows nothing of checkpoints and logs:
:mod:`.trainer` keeps them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..codec.seanet_codec import SeanetCodec
from .balancer import Balancer
from .noise import NoisyBatch
from .packed import Draw
from .seanet_recipe import SeanetRecipe
from .seanet_step import (
    SeanetLosses,
    SeanetTrainingModel,
    build_judge,
    judge_learns,
    judge_loss,
    make_batch,
)
from .seanet_validate import validate_seanet
from .trainer import Trainer

_VOICES = 8  # other crops, of which babble is made


class SeanetTrainer(Trainer):
    """Trains a SoundStream or an EnCodec; arguments as of :class:`.trainer.Trainer`."""

    recipe: SeanetRecipe

    def _build(
        self, init: SeanetCodec | None
    ) -> tuple[nn.Module, nn.Module, torch.optim.Optimizer, torch.optim.Optimizer]:
        recipe = self.recipe
        codec = init or SeanetCodec(recipe.config())
        codec.quantizer.decay = recipe.codebook_decay
        model = SeanetTrainingModel(codec, recipe)
        model.quantizing = init is not None
        judge = build_judge(recipe, codec.config.audio_channels)
        self.losses = SeanetLosses(recipe, codec.config.sampling_rate).to(self.accelerator.device)
        self.balancer = Balancer(SeanetLosses.weights(recipe), recipe.balancer_decay, balance=recipe.balance)
        # EnCodec's optimiser (section 4.1 of the paper); SoundStream's is not told.
        optimizer, judge_optimizer = (
            torch.optim.Adam(m.parameters(), lr=recipe.lr, betas=(0.5, 0.9)) for m in (model, judge)
        )
        return model, judge, optimizer, judge_optimizer

    def state(self) -> dict[str, Any]:
        """As of every codec, and the averages of the balancer."""
        return super().state() | {"balancer": self.balancer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over a checkpoint."""
        super().restore(state)
        self.balancer.load_state_dict(state["balancer"])

    @property
    def codec(self) -> SeanetCodec:
        """The codec as it is now."""
        return self.training_model.codec

    def _train_step(self) -> dict[str, float]:
        recipe, accelerator = self.recipe, self.accelerator
        batch = self._batch(self.step)
        decoded, commitment, _ = self.model(batch, self.step)
        judged = self.step >= recipe.adversarial_from
        leaf = decoded.detach().requires_grad_()
        plain_judge = accelerator.unwrap_model(self.judge)
        with _frozen(plain_judge):
            losses = self.losses(leaf, batch.target, plain_judge if judged else None)
            gradient = self.balancer.gradient(losses, leaf)
        self.optimizer.zero_grad()
        roots: list[tuple[Tensor, Tensor | None]] = [(decoded, gradient)]
        if self.training_model.quantizing:
            roots.append((commitment * recipe.commitment, None))
        torch.autograd.backward([root for root, _ in roots], [grad for _, grad in roots])
        norm = accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        values = {key: float(value.detach()) for key, value in losses.items()}
        values["vq/commitment"] = float(commitment.detach())
        values |= {f"share/{key}": share for key, share in self.balancer.shares.items()}
        if self.step >= recipe.adversarial_from - recipe.judge_lead and judge_learns(recipe, self.step):
            loss = judge_loss(self.judge, decoded, batch.target)
            self.judge_optimizer.zero_grad()
            accelerator.backward(loss)
            self.judge_optimizer.step()
            values["adv/judge"] = float(loss.detach())
        values["train/gradient_norm"] = float(norm) if norm is not None else 0.0
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


@contextlib.contextmanager
def _frozen(judge: nn.Module) -> Iterator[None]:
    """The discriminators judge the decoder: what they would learn from that is not computed."""
    judge.requires_grad_(False)
    try:
        yield
    finally:
        judge.requires_grad_(True)
