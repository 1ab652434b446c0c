"""The training loop of the papers' codecs: accelerate, balanced or summed losses, a log, checkpoints that resume.

Knows nothing of what a loss means. The law kept: a run that was killed and resumed takes the same steps as one that was
not, because what a step draws is a function of (seed, step) and everything else is in the checkpoint.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor, nn

from ..codec.seanet_codec import SeanetCodec
from ..files import write_json
from ..recipes import recipe_dict
from ..state import load_state, save_state
from .balancer import Balancer
from .loop import Log
from .noise import NoisyBatch
from .packed import PackedClips
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

_VOICES = 8  # other crops, of which babble is made


class SeanetTrainer:
    """Trains one SoundStream or EnCodec in one folder.

    Args:
        recipe: how.
        train: clips to learn from.
        validation: clips to judge by.
        out: the run's folder; an existing run in it is resumed.
        init: a codec to continue from; None starts a new one from the recipe.
        device: ``cpu`` keeps off an accelerator that is there; anything else leaves the choice to accelerate.
        dtype: ``bfloat16`` computes the decoder in mixed precision, and the discriminators where they learn.
    """

    def __init__(
        self,
        recipe: SeanetRecipe,
        train: PackedClips,
        validation: PackedClips,
        out: str | Path,
        init: SeanetCodec | None = None,
        device: str = "auto",
        dtype: str = "float32",
    ) -> None:
        self.recipe, self.train_clips, self.validation_clips = recipe, train, validation
        self.out = Path(out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.accelerator = Accelerator(
            cpu=device == "cpu", mixed_precision="bf16" if dtype == "bfloat16" else "no"
        )
        set_seed(recipe.seed)
        codec = init or SeanetCodec(recipe.config())
        codec.quantizer.decay = recipe.codebook_decay
        model = SeanetTrainingModel(codec, recipe)
        model.quantizing = init is not None
        judge = build_judge(recipe, codec.config.audio_channels)
        # EnCodec's optimiser (section 4.1 of the paper); SoundStream's is not told.
        optimizers = [
            torch.optim.Adam(m.parameters(), lr=recipe.lr, betas=(0.5, 0.9)) for m in (model, judge)
        ]
        self.model, self.judge, self.optimizer, self.judge_optimizer = self.accelerator.prepare(
            model, judge, *optimizers
        )
        self.losses = SeanetLosses(recipe, codec.config.sampling_rate).to(self.accelerator.device)
        self.balancer = Balancer(SeanetLosses.weights(recipe), recipe.balancer_decay, balance=recipe.balance)
        self.step = 0
        self.log = Log(self.out, self.accelerator.is_main_process)
        if self.accelerator.is_main_process:
            write_json(self.out / "recipe.json", recipe_dict(recipe))
        if init is not None:
            self._start_averages()
        self._resume()

    @property
    def codec(self) -> SeanetCodec:
        """The codec as it is now."""
        return self._plain.codec

    @property
    def _plain(self) -> SeanetTrainingModel:
        return self.accelerator.unwrap_model(self.model)

    def run(self) -> None:
        """Train until ``recipe.steps``; write the codec into ``out/codec`` at every checkpoint."""
        recipe = self.recipe
        sums: dict[str, list[float]] = defaultdict(list)
        saved = started = time.monotonic()
        first_step = self.step
        self.model.train()
        while self.step < recipe.steps:
            if self.step >= recipe.quantize_from and not self._plain.quantizing:
                self._start_codebooks()
            for key, value in self._train_step().items():
                sums[key].append(value)
            self.step += 1
            if self.step % recipe.log_every == 0:
                speed = (self.step - first_step) / (time.monotonic() - started)
                means = {key: sum(values) / len(values) for key, values in sums.items()}
                self._report(means | {"train/steps_per_s": speed})
                sums.clear()
            if self.step % recipe.eval_every == 0 or self.step == recipe.steps:
                self._evaluate()
            if time.monotonic() - saved > recipe.save_every_s or self.step == recipe.steps:
                self.save()
                saved = time.monotonic()

    def _train_step(self) -> dict[str, float]:
        recipe, accelerator = self.recipe, self.accelerator
        self._set_lr()
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
        if self._plain.quantizing:
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
        return self.train_clips.crops(seed, step, size, frames, recipe.max_gain_db).wav

    def _batch(self, step: int) -> NoisyBatch:
        crops = self._crops(step, self.recipe.batch)
        voices = self._crops(step, _VOICES, seed_offset=1_000_003) if self.codec.config.denoises else crops
        batch = make_batch(crops, voices, self.codec, self.recipe, step)
        device = self.accelerator.device
        return NoisyBatch(batch.wav.to(device), batch.target.to(device), batch.wanted.to(device))

    def _set_lr(self) -> None:
        recipe = self.recipe
        warm = min(1.0, (self.step + 1) / recipe.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * self.step / recipe.steps))
        for optimizer in (self.optimizer, self.judge_optimizer):
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * warm * (0.05 + 0.95 * cosine)

    @torch.no_grad()
    def _start_codebooks(self) -> None:
        """k-means on the latents of many crops; every process computes the same."""
        codec, latents, size = self.codec, [], 16
        for first in range(0, self.recipe.kmeans_crops, size):
            seed = self.recipe.seed + 1
            frames = self._crops(0, 1).shape[-1] // codec.config.hop_length
            crops = self.train_clips.crops(seed, first, size, frames, self.recipe.max_gain_db).wav
            batch = make_batch(crops, crops, codec, self.recipe, first)
            wav = batch.wav.to(self.accelerator.device)
            if codec.has_scale:
                wav = wav / (wav.mean(1, keepdim=True).square().mean(-1, keepdim=True).sqrt() + 1e-8)
            encoded = codec.encoder(wav, wanted=batch.wanted.to(wav.device))
            latents.append(encoded.transpose(1, 2).flatten(0, 1))
        codec.quantizer.init_from(torch.cat(latents), seed=self.recipe.seed)
        self._start_averages()
        self._plain.quantizing = True

    def _start_averages(self) -> None:
        recipe = self.recipe
        levels = [self._plain.levels(64, step) for step in range(16)]
        share = float(torch.cat(levels).float().mean()) / self.codec.config.n_q
        frames = recipe.batch * self._crops(0, 1).shape[-1] // self.codec.config.hop_length
        self.codec.quantizer.start_averages(frames * share * self.accelerator.num_processes)

    def _report(self, values: dict[str, float]) -> None:
        self.log.write(self.step, values)
        if self.accelerator.is_main_process:
            shown = " ".join(f"{k} {v:.3f}" for k, v in values.items() if not k.startswith("eval/perplexity"))
            self.accelerator.print(f"{self.step}/{self.recipe.steps} {shown}", flush=True)

    def _evaluate(self) -> None:
        if self._plain.quantizing and self.accelerator.is_main_process:
            codec = self.codec.eval()
            self._report(validate_seanet(codec, self.validation_clips, self.recipe.eval_clips))
            self._plain.train()

    def save(self) -> None:
        """Write the codec as people load it, and the state from which the run resumes."""
        if not self.accelerator.is_main_process:
            return
        model = self._plain
        state: dict[str, Any] = {
            "step": self.step,
            "quantizing": model.quantizing,
            "model": model.state_dict(),
            "usage": model.codec.quantizer.usage,
            "sums": model.codec.quantizer.sums,
            "judge": self.accelerator.unwrap_model(self.judge).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "judge_optimizer": self.judge_optimizer.state_dict(),
            "balancer": self.balancer.state_dict(),
            "rng": torch.get_rng_state(),
        }
        save_state(self.out / "state.safetensors", state)
        model.codec.save_pretrained(self.out / "codec")

    def _resume(self) -> None:
        path = self.out / "state.safetensors"
        if not path.is_file():
            return
        state = load_state(path, self.accelerator.device)
        model = self._plain
        model.load_state_dict(state["model"])
        model.quantizing = state["quantizing"]
        model.codec.quantizer.usage.copy_(state["usage"])
        model.codec.quantizer.sums.copy_(state["sums"])
        self.accelerator.unwrap_model(self.judge).load_state_dict(state["judge"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.judge_optimizer.load_state_dict(state["judge_optimizer"])
        self.balancer.load_state_dict(state["balancer"])
        torch.set_rng_state(state["rng"].cpu())
        self.step = state["step"]
        self.accelerator.print(f"resumed {self.out} at step {self.step}", flush=True)


@contextlib.contextmanager
def _frozen(judge: nn.Module) -> Iterator[None]:
    """The discriminators judge the decoder: what they would learn from that is not computed."""
    judge.requires_grad_(False)
    try:
        yield
    finally:
        judge.requires_grad_(True)
