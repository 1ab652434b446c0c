"""The training loop and the base class of the codec trainers."""

from __future__ import annotations

import json
import math
import sys
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from torch import Tensor, nn

from ..files import write_json
from ..state import load_state, save_state
from .packed import Batch, PackedClips
from .validate import validate

STATE = "state.safetensors"


class NonFiniteError(ValueError):
    """A loss or a gradient is not finite. The run stops and keeps its last checkpoint."""


@dataclass(frozen=True)
class TrainingPlan:
    """Budget, learning rate and intervals of a run."""

    lr: float  # peak learning rate: linear warm-up, then a cosine down to floor * lr
    floor: float  # share of lr at the end of the budget
    warmup: float  # share of the budget in which the rate rises
    steps: int  # optimiser steps; 0 sets no limit
    minutes: float = 0.0  # training time without interruptions, by the clock of rank 0; 0 sets no limit
    log_every: int = 50  # steps between lines of the log
    eval_every: int = 0  # steps between evaluations; 0 evaluates with every checkpoint
    save_s: float = 180.0  # seconds between checkpoints

    def spent(self, step: int, seconds: float) -> float:
        """Share of the budget that is spent after ``step`` steps and ``seconds``."""
        shares = [step / self.steps] if self.steps else []
        shares += [seconds / (60 * self.minutes)] if self.minutes else []
        return max(shares, default=1.0)

    def rate(self, spent: float) -> float:
        """The learning rate after this share of the budget."""
        first = 1 / self.steps if self.steps else 1e-3  # so that the rate of the first step is above 0
        warm = min(1.0, (spent + first) / max(self.warmup, first))
        cosine = 0.5 * (1.0 + math.cos(math.pi * min(max(spent, 0.0), 1.0)))
        return self.lr * warm * (self.floor + (1.0 - self.floor) * cosine)


class TrainingLoop(ABC):
    """Base class of training loops, with checkpoints in one folder.

    Every rank takes the same steps. Random draws depend on the seed and the step only, and the ranks agree after each
    step on the end of the budget and on non-finite values. A resumed run takes the same steps as an uninterrupted one.

    Args:
        recipe: written to ``recipe.json``; ``recipe.seed`` is the seed.
        plan: budget, learning rate, intervals.
        out: folder of ``log.jsonl``, ``tensorboard/`` where installed, the last checkpoint and the exported model.
        device: ``cpu``, or ``auto`` for the choice of accelerate.
        dtype: ``bfloat16`` trains in mixed precision.
        find_unused: whether some parameters get no gradient in some steps.
    """

    def __init__(
        self,
        recipe: Any,
        plan: TrainingPlan,
        out: str | Path,
        device: str = "auto",
        dtype: str = "float32",
        find_unused: bool = False,
    ) -> None:
        self.recipe, self.plan, self.out = recipe, plan, Path(out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.accelerator = Accelerator(
            cpu=device == "cpu",
            mixed_precision="bf16" if dtype == "bfloat16" else "no",
            log_with="tensorboard",
            project_dir=self.out,
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=find_unused)],
        )
        set_seed(recipe.seed)
        self.optimizers: list[Any] = []
        self.step = 0
        self.seconds = 0.0
        self._saved = -1  # step of the last checkpoint

    @abstractmethod
    def train_step(self) -> dict[str, Any]:
        """Take one step; returns scalar losses by path for the log."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """Contents of a checkpoint besides step and time: nested dicts of tensors and plain values."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Restore the result of :meth:`state`."""

    @abstractmethod
    def export(self) -> None:
        """Write the model for inference; called on the main process with every checkpoint."""

    def evaluate(self) -> dict[str, float]:
        """Metrics by path for the log; called on the main process."""
        return {}

    @property
    def spent(self) -> float:
        """Share of the budget that is spent."""
        return self.plan.spent(self.step, self.seconds)

    def update(self, optimizer: Any, parameters: Iterable[Tensor], clip: float) -> float:
        """Clip the gradients, step, clear them; returns their norm before clipping."""
        norm = self.accelerator.clip_grad_norm_(parameters, clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return 0.0 if norm is None else float(norm)

    def run(self) -> None:
        """Train until the budget is spent, from the last checkpoint if there is one.

        Raises:
            NonFiniteError: a loss or a gradient became NaN or infinite, on any rank.
        """
        plan, main = self.plan, self.accelerator.is_main_process
        if main:
            write_json(self.out / "recipe.json", asdict(self.recipe))
            self.accelerator.init_trackers("tensorboard")
        sums: dict[str, list[float]] = defaultdict(list)
        first, before, began = self.step, self.seconds, time.monotonic()
        saved = lap = began
        try:
            while self.spent < 1.0:
                rate = plan.rate(self.spent)
                for optimizer in self.optimizers:
                    for group in optimizer.param_groups:
                        group["lr"] = rate
                torch.manual_seed(self.recipe.seed * 1_000_003 + self.step)
                values = {key: float(value) for key, value in self.train_step().items()}
                self.step += 1
                self._agree(values, before + time.monotonic() - began)
                for key, value in values.items():
                    sums[key].append(value)
                done = self.spent >= 1.0
                if self.step % plan.log_every == 0:
                    now, steps = time.monotonic(), min(plan.log_every, self.step - first)
                    means = {key: sum(each) / len(each) for key, each in sums.items()}
                    self._report(means | {"train/lr": rate, "train/steps_per_s": steps / (now - lap)})
                    sums, lap = defaultdict(list), now
                # Only rank 0 saves and evaluates, so its clock may decide.
                save = done or time.monotonic() - saved > plan.save_s
                if main and save:
                    self.save()
                if main and (save if not plan.eval_every else done or not self.step % plan.eval_every):
                    self._report(self.evaluate())
                if save:
                    saved = time.monotonic()
            if main and self.step == first:  # a finished run may have been killed before its export
                self.save()
        finally:
            for tracker in self.accelerator.trackers:
                tracker.finish()
        self.accelerator.wait_for_everyone()

    def save(self) -> None:
        """Write a checkpoint and the model for inference."""
        save_state(self.out / STATE, {"step": self.step, "seconds": self.seconds, **self.state()})
        self._saved = self.step
        self.export()

    def resume(self) -> None:
        """Restore the last checkpoint if there is one. Subclasses call this at the end of their constructor.

        Raises:
            ValueError: the checkpoint belongs to another model.
        """
        path = self.out / STATE
        if not path.is_file():
            return
        state = load_state(path, self.accelerator.device)
        try:
            self.restore(state)
        except (KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"{path} holds another model ({reason}); choose another --out") from None
        self.step, self.seconds, self._saved = state["step"], state["seconds"], state["step"]
        self.accelerator.print(f"{self.out}: resumed at step {self.step}", file=sys.stderr, flush=True)

    def _agree(self, values: dict[str, float], seconds: float) -> None:
        """Take the clock of rank 0, and stop all ranks if one has a non-finite value."""
        bad = [key for key, value in values.items() if not math.isfinite(value)]
        clock = seconds if self.accelerator.is_main_process else 0.0
        shared = torch.tensor([clock, float(bool(bad))], device=self.accelerator.device)
        if self.accelerator.num_processes > 1:
            torch.distributed.all_reduce(shared, torch.distributed.ReduceOp.MAX)
        self.seconds = float(shared[0])
        if shared[1]:
            what = ", ".join(f"{key} is {values[key]}" for key in bad[:3]) or "not finite on another rank"
            kept = (
                "there is no checkpoint" if self._saved < 0 else f"step {self._saved} is kept in {self.out}"
            )
            raise NonFiniteError(
                f"step {self.step}: {what}; {kept}; lower the learning rate and start it again"
            )

    def _report(self, values: dict[str, float]) -> None:
        """Write values to the log, to TensorBoard and to stderr, on the main process."""
        if not self.accelerator.is_main_process or not values:
            return
        rounded = {key: round(value, 6) for key, value in {"minutes": self.seconds / 60, **values}.items()}
        with (self.out / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": self.step, **rounded}) + "\n")
        self.accelerator.log(values, step=self.step)
        shown = " ".join(f"{key} {value:.4g}" for key, value in values.items())
        left = f", {self.seconds / 60 * (1 / self.spent - 1):.0f} min left" if self.spent < 1.0 else ""
        print(
            f"[{100 * min(self.spent, 1.0):5.1f} %{left}] step {self.step}: {shown}",
            file=sys.stderr,
            flush=True,
        )


class TrainingModel(nn.Module):
    """A codec in training, with its recipe."""

    def __init__(self, codec: Any, recipe: Any) -> None:
        super().__init__()
        self.codec, self.recipe = codec, recipe
        self.quantizing = False

    def levels(self, batch: int, step: int) -> Tensor:
        """Quantizer dropout: [B] int64, codebooks that each crop uses; a function of the seed and the step."""
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + step)
        n_q = self.codec.config.n_q
        choices = torch.tensor([k for k in self.recipe.levels if k <= n_q] or range(1, n_q + 1))
        drawn = choices[torch.randint(len(choices), (batch,), generator=generator)]
        full = torch.rand(batch, generator=generator) < self.recipe.full_levels_share
        return torch.where(full, n_q, drawn)


class Trainer(TrainingLoop):
    """Trains one codec against discriminators; a subclass builds them and defines the step.

    The codec is written into ``out/codec``. ``init`` is a codec to continue from. ``dtype="bfloat16"`` trains the
    decoder and the discriminators in mixed precision. Other arguments are those of :class:`TrainingLoop`.
    """

    def __init__(
        self,
        recipe: Any,
        train: PackedClips,
        validation: PackedClips,
        out: str | Path,
        init: Any = None,
        device: str = "auto",
        dtype: str = "float32",
    ) -> None:
        plan = TrainingPlan(
            lr=recipe.lr,
            floor=0.05,
            warmup=recipe.warmup_steps / recipe.steps,
            steps=recipe.steps,
            minutes=recipe.max_minutes,
            log_every=recipe.log_every,
            eval_every=recipe.eval_every,
            save_s=recipe.save_every_s,
        )
        super().__init__(recipe, plan, out, device, dtype, find_unused=True)
        self.train_clips, self.validation_clips = train, validation
        self.model, self.discriminator, self.optimizer, self.discriminator_optimizer = (
            self.accelerator.prepare(*self._build(init))
        )
        self.optimizers = [self.optimizer, self.discriminator_optimizer]
        self.codec.quantizer.decay = recipe.codebook_decay
        self.model.train()
        if init is not None:
            self.training_model.quantizing = True
            self._start_averages()
        self.resume()

    @abstractmethod
    def _build(
        self, init: Any
    ) -> tuple[TrainingModel, nn.Module, torch.optim.Optimizer, torch.optim.Optimizer]:
        """The codec with its losses, the discriminators, and an optimiser for each."""

    @abstractmethod
    def _train_step(self) -> dict[str, Any]:
        """Take one step; returns losses by path for the log."""

    @abstractmethod
    def _latents(self, crops: Tensor, step: int) -> Tensor:
        """Latents [B, D, T] of crops [B, 1, N] on the CPU, for k-means."""

    @property
    def training_model(self) -> Any:
        """The model without accelerate's wrapper."""
        return self.accelerator.unwrap_model(self.model)

    @property
    def codec(self) -> Any:
        """The codec as it is now."""
        return self.training_model.codec

    def train_step(self) -> dict[str, Any]:
        """Take one step; at ``quantize_from`` the codebooks are initialised first, by k-means on many crops."""
        recipe = self.recipe
        if self.step >= recipe.quantize_from and not self.training_model.quantizing:
            latents = []
            with torch.no_grad():
                for first in range(0, recipe.kmeans_crops, 32):
                    # Equal in every process.
                    crops = self.train_clips.crops(recipe.seed + 1, first, 32, self._frames, recipe)
                    encoded = self._latents(crops.wav, first)
                    latents.append(encoded.transpose(1, 2).flatten(0, 1))
                self.codec.quantizer.init_from(torch.cat(latents), seed=recipe.seed)
            self._start_averages()
            self.training_model.quantizing = True
        return self._train_step()

    def _start_averages(self) -> None:
        """Initialise the averages of the EMA codebooks with the number of frames per step and level."""
        levels = torch.cat([self.training_model.levels(64, step) for step in range(16)])
        share = float(levels.float().mean()) / self.codec.config.n_q
        frames = self.recipe.batch * self._frames * self.accelerator.num_processes
        self.codec.quantizer.start_averages(frames * share)

    @property
    def _frames(self) -> int:
        """Frames of a crop."""
        segment = getattr(self.codec, "segment_samples", None)
        return self.recipe.crop_frames if segment is None else segment // self.codec.config.hop_length

    def _crops(self, size: int, seed_offset: int = 0) -> Batch:
        """Crops of this rank and step, on the CPU."""
        seed = self.recipe.seed + seed_offset + 7919 * self.accelerator.process_index
        return self.train_clips.crops(seed, self.step, size, self._frames, self.recipe)

    def update_discriminator(self, loss: Tensor) -> Tensor:
        """Backward and step of the discriminators; returns the loss."""
        self.discriminator_optimizer.zero_grad()
        self.accelerator.backward(loss)
        self.discriminator_optimizer.step()
        return loss.detach()

    def evaluate(self) -> dict[str, float]:
        """Metrics on validation clips, once the codebooks have started."""
        if not self.training_model.quantizing:
            return {}
        self.training_model.eval()
        values = validate(self.codec, self.validation_clips, self.recipe.eval_clips)
        self.training_model.train()
        return values

    def state(self) -> dict[str, Any]:
        """Both models, both optimisers, and the averages of the codebooks."""
        return {
            "quantizing": self.training_model.quantizing,
            "model": self.training_model.state_dict(),
            "averages": self._averages(),
            "discriminator": self.accelerator.unwrap_model(self.discriminator).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "discriminator_optimizer": self.discriminator_optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint."""
        self.training_model.load_state_dict(state["model"])
        self.training_model.quantizing = state["quantizing"]
        for name, value in self._averages().items():
            value.copy_(state["averages"][name])
        self.accelerator.unwrap_model(self.discriminator).load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.discriminator_optimizer.load_state_dict(state["discriminator_optimizer"])

    def export(self) -> None:
        """Write the codec into ``out/codec``."""
        self.codec.save_pretrained(self.out / "codec")

    def _averages(self) -> dict[str, Tensor]:
        """The moving averages of the codebooks, which are not part of released weights."""
        quantizer = self.codec.quantizer
        kept = quantizer.state_dict()
        return {name: value for name, value in quantizer.named_buffers() if name not in kept}
