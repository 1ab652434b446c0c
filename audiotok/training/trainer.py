"""What every codec's training shares: accelerate, a warm-up and a cosine, a log, checkpoints that resume.

Knows nothing of what a loss means, nor of which codec it trains. The law kept: a run that was killed and resumed takes
the same steps as one that was not, because what a step draws is a function of (seed, step) and everything else is in
the checkpoint.
"""

from __future__ import annotations

import json
import math
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from torch import nn

from ..files import write_json
from ..recipes import recipe_dict
from ..state import load_state, save_state
from .packed import PackedClips


class Recipe(Protocol):
    """What the loop asks of a recipe."""

    seed: int
    steps: int
    lr: float
    warmup_steps: int
    quantize_from: int
    log_every: int
    eval_every: int
    save_every_s: float


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


class Trainer(ABC):
    """Trains one codec in one folder; a subclass says what a step is.

    Args:
        recipe: how.
        train: clips to learn from.
        validation: clips to judge by; never learnt from.
        out: the run's folder; an existing run in it is resumed.
        init: a codec to continue from; None starts a new one from the recipe.
        device: ``cpu`` keeps off an accelerator that is there; anything else leaves the choice to accelerate.
        dtype: ``bfloat16`` computes the decoder and the discriminators in mixed precision.
    """

    recipe: Any

    def __init__(
        self,
        recipe: Recipe,
        train: PackedClips,
        validation: PackedClips,
        out: str | Path,
        init: Any = None,
        device: str = "auto",
        dtype: str = "float32",
    ) -> None:
        self.recipe, self.train_clips, self.validation_clips = recipe, train, validation
        self.out = Path(out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.accelerator = Accelerator(
            cpu=device == "cpu",
            mixed_precision="bf16" if dtype == "bfloat16" else "no",
            # What a stage does not use yet, such as the phone classifier without labels, has no gradient to wait for.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        set_seed(recipe.seed)
        self.model, self.judge, self.optimizer, self.judge_optimizer = self.accelerator.prepare(
            *self._build(init)
        )
        self.step = 0
        self.log = Log(self.out, self.accelerator.is_main_process)
        if self.accelerator.is_main_process:
            write_json(self.out / "recipe.json", recipe_dict(recipe))
        if init is not None:
            self._start_averages()
        self._resume()

    @abstractmethod
    def _build(self, init: Any) -> tuple[nn.Module, nn.Module, torch.optim.Optimizer, torch.optim.Optimizer]:
        """The codec with its losses, the discriminators, and an optimiser for each."""

    @abstractmethod
    def _train_step(self) -> dict[str, float]:
        """Take one step; losses to log, by path."""

    @abstractmethod
    def _start_codebooks(self) -> None:
        """k-means on the latents of many crops; every process computes the same."""

    @abstractmethod
    def _start_averages(self) -> None:
        """Tell the EMA codebooks how many frames of a step a level sees."""

    @abstractmethod
    def _validate(self) -> dict[str, float]:
        """Metrics of the codec on held-out clips, by path."""

    def _stateful(self) -> dict[str, Any]:
        """What else a checkpoint must hold, each with ``state_dict`` and ``load_state_dict``."""
        return {}

    @property
    def training_model(self) -> Any:
        """The model without what accelerate wraps around it: ``codec`` and ``quantizing`` are its own."""
        return self.accelerator.unwrap_model(self.model)

    def run(self) -> None:
        """Train until ``recipe.steps``; write the codec into ``out/codec`` at every checkpoint."""
        recipe = self.recipe
        sums: dict[str, list[float]] = defaultdict(list)
        saved = started = time.monotonic()
        first_step = self.step
        self.model.train()
        while self.step < recipe.steps:
            if self.step >= recipe.quantize_from and not self.training_model.quantizing:
                with torch.no_grad():
                    self._start_codebooks()
                self._start_averages()
                self.training_model.quantizing = True
            self._set_lr()
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

    def _set_lr(self) -> None:
        recipe = self.recipe
        warm = min(1.0, (self.step + 1) / recipe.warmup_steps)
        cosine = 0.5 * (1 + math.cos(math.pi * self.step / recipe.steps))
        for optimizer in (self.optimizer, self.judge_optimizer):
            for group in optimizer.param_groups:
                group["lr"] = recipe.lr * warm * (0.05 + 0.95 * cosine)

    def _report(self, values: dict[str, float]) -> None:
        self.log.write(self.step, values)
        shown = " ".join(f"{k} {v:.3f}" for k, v in values.items() if not k.startswith("vq/batch"))
        self.accelerator.print(f"{self.step}/{self.recipe.steps} {shown}", flush=True)

    def _evaluate(self) -> None:
        if self.training_model.quantizing and self.accelerator.is_main_process:
            self.training_model.eval()
            self._report(self._validate())
            self.training_model.train()

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
            "semantic_sums": model.codec.quantizer.semantic_sums,
            "judge": self.accelerator.unwrap_model(self.judge).state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "judge_optimizer": self.judge_optimizer.state_dict(),
            "rng": torch.get_rng_state(),
        }
        state |= {name: part.state_dict() for name, part in self._stateful().items()}
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
        model.codec.quantizer.semantic_sums.copy_(state["semantic_sums"])
        self.accelerator.unwrap_model(self.judge).load_state_dict(state["judge"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.judge_optimizer.load_state_dict(state["judge_optimizer"])
        for name, part in self._stateful().items():
            part.load_state_dict(state[name])
        torch.set_rng_state(state["rng"].cpu())
        self.step = state["step"]
        self.accelerator.print(f"resumed {self.out} at step {self.step}", flush=True)
