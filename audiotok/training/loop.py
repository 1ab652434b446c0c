"""The training loop of the codec: accelerate, two stages, a log, checkpoints that resume to the same losses.

Knows nothing of what a loss means. The law kept: a run that was killed and resumed takes the same steps as one that
was not, because crops and dropout are functions of (seed, step) and everything else is in the checkpoint.
"""

from __future__ import annotations

import json
import math
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import Tensor

from ..codec.config import CodecConfig
from ..codec.model import AudioCodec
from ..codec.quantizer import perplexity
from ..files import write_json
from ..recipes import recipe_dict
from ..state import load_state, save_state
from .discriminators import MultiResolutionDiscriminator
from .packed import Batch, PackedClips
from .recipe import CodecRecipe
from .step import TrainingModel, adversarial_terms
from .validate import validate


class Log:
    """JSON lines in ``log.jsonl``, and TensorBoard beside it where that is installed."""

    def __init__(self, out: Path, active: bool) -> None:
        self._path = out / "log.jsonl" if active else None
        self._board: Any = None
        if active:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                return
            self._board = SummaryWriter(str(out / "tensorboard"))

    def write(self, step: int, values: dict[str, float]) -> None:
        """Append one line of losses or metrics, keyed by path."""
        if self._path is None:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **{k: round(v, 5) for k, v in values.items()}}) + "\n")
        if self._board is not None:
            for key, value in values.items():
                self._board.add_scalar(key, value, step)
            self._board.flush()


class CodecTrainer:
    """Trains one codec in one folder.

    Args:
        recipe: how.
        train: clips to learn from.
        validation: clips to judge by; never learnt from.
        out: the run's folder; an existing run in it is resumed.
        init: a codec to continue from; None starts a new one from ``recipe.model``.
        device: ``cpu`` keeps off an accelerator that is there; anything else leaves the choice to accelerate.
        dtype: ``bfloat16`` computes the decoder and the discriminators in mixed precision.
    """

    def __init__(
        self,
        recipe: CodecRecipe,
        train: PackedClips,
        validation: PackedClips,
        out: str | Path,
        init: AudioCodec | None = None,
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
        codec = init or AudioCodec(CodecConfig(**recipe.model))
        codec.quantizer.decay = recipe.codebook_decay
        model = TrainingModel(codec, recipe)
        model.quantizing = init is not None
        if recipe.freeze_codes:
            for part in (codec.encoder, codec.quantizer, model.probe):
                part.requires_grad_(False)
        judge = MultiResolutionDiscriminator(channels=recipe.discriminator_channels)
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=recipe.lr, betas=(0.8, 0.99), weight_decay=0.01, fused=True)
        judge_optimizer = torch.optim.AdamW(judge.parameters(), lr=recipe.lr, betas=(0.8, 0.99))
        self.model, self.judge, self.optimizer, self.judge_optimizer = self.accelerator.prepare(
            model, judge, optimizer, judge_optimizer
        )
        self.step = 0
        self.log = Log(self.out, self.accelerator.is_main_process)
        if self.accelerator.is_main_process:
            write_json(self.out / "recipe.json", recipe_dict(recipe))
        if init is not None:
            self._start_averages()
        self._resume()

    @property
    def training_model(self) -> TrainingModel:
        """The model without what accelerate wraps around it."""
        return self.accelerator.unwrap_model(self.model)

    def run(self) -> None:
        """Train until ``recipe.steps``; write the codec into ``out/codec`` at every checkpoint."""
        recipe = self.recipe
        sums: dict[str, list[float]] = defaultdict(list)
        saved = started = time.monotonic()
        first_step = self.step
        self.model.train()
        while self.step < recipe.steps:
            if self.step == recipe.quantize_from and not self.training_model.quantizing:
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
        batch = self._crops(self.step, recipe.batch)
        self._set_lr()
        losses, wav, codes = self.model(batch, self.step)
        judge_loss: Tensor | None = None
        if self.step >= recipe.adversarial_from:
            terms, judge_loss = adversarial_terms(
                self.judge, accelerator.unwrap_model(self.judge), wav, batch.wav, recipe
            )
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
        batch = self.train_clips.crops(
            self.recipe.seed + seed_offset + 7919 * rank,
            step,
            size,
            self.recipe.crop_frames,
            self.recipe.max_gain_db,
        )
        return Batch(batch.wav.to(self.accelerator.device), batch.phones.to(self.accelerator.device))

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
        codec = self.training_model.codec
        rank_batches = range(0, self.recipe.kmeans_crops, 32)
        latents = []
        for first in rank_batches:
            crops = self.train_clips.crops(
                self.recipe.seed + 1, first, 32, self.recipe.crop_frames, self.recipe.max_gain_db
            )
            encoded = codec.encoder(crops.wav.to(self.accelerator.device))
            latents.append(encoded.transpose(1, 2).reshape(-1, encoded.shape[1]))
        codec.quantizer.init_from(torch.cat(latents), seed=self.recipe.seed)
        self._start_averages()
        self.training_model.quantizing = True

    def _start_averages(self) -> None:
        # Quantizer dropout keeps about this share of the frames from a level, averaged over levels.
        share = (1 + self.recipe.full_levels_share) / 2
        frames = self.recipe.batch * self.recipe.crop_frames * self.accelerator.num_processes
        self.training_model.codec.quantizer.start_averages(frames * share)

    def _report(self, values: dict[str, float]) -> None:
        self.log.write(self.step, values)
        if self.accelerator.is_main_process:
            shown = " ".join(f"{k} {v:.3f}" for k, v in values.items() if not k.startswith("vq/batch"))
            self.accelerator.print(f"{self.step}/{self.recipe.steps} {shown}", flush=True)

    def _evaluate(self) -> None:
        if not self.training_model.quantizing or not self.accelerator.is_main_process:
            return
        codec = self.training_model.codec.eval()
        values = validate(codec, self.validation_clips, self.recipe.eval_clips)
        self.training_model.train()
        self.log.write(self.step, values)
        self.accelerator.print(
            f"{self.step}/{self.recipe.steps} " + " ".join(f"{k} {v:.3f}" for k, v in values.items()),
            flush=True,
        )

    def save(self) -> None:
        """Write the codec as people load it, and the state from which the run resumes."""
        if not self.accelerator.is_main_process:
            return
        model = self.training_model
        state = {
            "step": self.step,
            "quantizing": model.quantizing,
            "model": model.state_dict(),
            "usage": model.codec.quantizer.usage,
            "sums": model.codec.quantizer.sums,
            "judge": self.accelerator.unwrap_model(self.judge).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "judge_optimizer": self.judge_optimizer.state_dict(),
            "rng": torch.get_rng_state(),
        }
        save_state(self.out / "state.safetensors", state)
        model.codec.save_pretrained(self.out / "codec")

    def _resume(self) -> None:
        path = self.out / "state.safetensors"
        if not path.is_file():
            return
        state = load_state(path, self.accelerator.device)
        model = self.training_model
        model.load_state_dict(state["model"])
        model.quantizing = state["quantizing"]
        model.codec.quantizer.usage.copy_(state["usage"])
        model.codec.quantizer.sums.copy_(state["sums"])
        self.accelerator.unwrap_model(self.judge).load_state_dict(state["judge"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.judge_optimizer.load_state_dict(state["judge_optimizer"])
        torch.set_rng_state(state["rng"].cpu())
        self.step = state["step"]
        self.accelerator.print(f"resumed {self.out} at step {self.step}", flush=True)
