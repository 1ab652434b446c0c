"""The training loop, the same for both halves.

Knows nothing of text or speech. The law it keeps: killed anywhere and started again, a run goes on with the
same batches, noise and numbers as if it had not been.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from audiotok import recipe_dict, write_aside

from .batches import plan_epoch
from .clips import Clip
from .recipe import OptimRecipe, Recipe
from .state import MovingAverage, Progress, load_state, save_state


class Task(Protocol):
    """What the loop asks of a half."""

    @property
    def model(self) -> nn.Module:
        """What is trained."""
        ...

    def collate(self, clips: Sequence[Clip], rng: np.random.Generator, training: bool) -> dict[str, Tensor]:
        """Build a batch; its ``labels`` are [B, S]."""
        ...

    def loss(self, model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch and what to log, scalars all."""
        ...

    def export(self, model: Any, folder: Path) -> None:
        """Write the model as others open it."""
        ...


def train(
    task: Task,
    clips: Sequence[Clip],
    held_out: Sequence[Clip],
    recipe: Recipe,
    out: str | Path,
    device: str = "auto",
    hear: Callable[[Path], dict[str, float]] | None = None,
) -> Path:
    """Train until the budget is spent, from the last checkpoint in ``out`` if there is one.

    Args:
        task: the half to train.
        clips: to learn from.
        held_out: to report on.
        recipe: everything else.
        out: run folder: ``recipe.json``, ``log.jsonl``, ``tensorboard/`` (where tensorboard is installed),
            ``last/`` (to resume) and ``model/`` (the moving average, to use; written at every checkpoint).
        device: ``cpu``, or ``auto`` for what accelerate finds.
        hear: called with the exported model at every checkpoint; what it gives is logged.

    Returns:
        The folder of the model.

    Raises:
        ValueError: ``out`` holds a run of another model.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    accelerator = Accelerator(
        cpu=device == "cpu", mixed_precision="bf16" if recipe.dtype == "bfloat16" else "no"
    )
    optimizer = _optimizer(task.model, recipe.optim)
    objective, optimizer = accelerator.prepare(_Objective(task), optimizer)
    bare = task.model
    average = MovingAverage(bare, recipe.optim.ema)
    progress = load_state(out / "last", bare, optimizer.optimizer, average) or Progress()
    run = _Run(task, objective, optimizer, average, accelerator, recipe, out, progress, hear)
    with write_aside(out / "recipe.json") as aside:
        aside.write_text(json.dumps(recipe_dict(recipe), indent=2) + "\n", encoding="utf-8")
    with (out / "log.jsonl").open("a", encoding="utf-8") as log:
        run.go(clips, held_out, log)
    return out / "model"


class _Objective(nn.Module):
    """Model and loss in one forward pass, so that accelerate can wrap both."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.model = task.model
        self._loss = task.loss

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        return self._loss(self.model, batch)


class _Run:
    def __init__(
        self,
        task: Task,
        objective: nn.Module,
        optimizer: Any,
        average: MovingAverage,
        accelerator: Accelerator,
        recipe: Recipe,
        out: Path,
        progress: Progress,
        hear: Callable[[Path], dict[str, float]] | None,
    ) -> None:
        self.hear = hear
        self.task, self.objective, self.bare, self.optimizer = task, objective, task.model, optimizer
        self.average, self.accelerator, self.recipe = average, accelerator, recipe
        self.out, self.progress = out, progress
        self.before = progress.seconds
        self.began = time.monotonic()
        self.saved = self.began
        self.sums: dict[str, float] = {}
        self.positions, self.lap = 0, self.began

    def go(self, clips: Sequence[Clip], held_out: Sequence[Clip], log: Any) -> None:
        board = _board(self.out / "tensorboard")
        self.bare.train()
        first = self.progress.step + 2  # the very first step is slower than the others
        while self._left() > 0:
            plan = plan_epoch(clips, self.recipe.data, self.recipe.seed, self.progress.epoch)
            ranks = self.accelerator.num_processes
            rounds = -(-len(plan) // ranks)
            while self.progress.batch < rounds and self._left() > 0:
                # Every process takes a batch of its own; the last round starts over, so none is idle.
                mine = (self.progress.batch * ranks + self.accelerator.process_index) % len(plan)
                self._step([clips[i] for i in plan[mine]])
                if self.progress.step == first:
                    self._tell_pace(rounds)
                if self.progress.step % self.recipe.log_every == 0:
                    self._log(log, board, self._means(rounds))
                if time.monotonic() - self.saved > 60 * self.recipe.save_minutes:
                    self._log(log, board, self._save(held_out))
            if self.progress.batch >= rounds:
                self.progress.epoch += 1
                self.progress.batch = 0
        self._log(log, board, self._save(held_out))
        if board is not None:
            board.close()

    def _tell_pace(self, rounds: int) -> None:
        """Say at once that it runs, and for how long: the first line of the log is minutes away."""
        if not self.accelerator.is_main_process:
            return
        self._left()
        per_step = (self.progress.seconds - self.before) / 2
        recipe, left = self.recipe, []
        if recipe.max_steps:
            left.append((recipe.max_steps - self.progress.step) * per_step)
        if recipe.max_minutes:
            left.append(60 * recipe.max_minutes - self.progress.seconds)
        print(
            f"two steps took {2 * per_step:.1f} s, an epoch has {rounds}; {max(min(left), 0) / 60:.0f} min left, "
            f"a line every {recipe.log_every} steps, a checkpoint every {recipe.save_minutes:g} min",
            file=sys.stderr,
            flush=True,
        )

    def _left(self) -> float:
        """Share of the budget that is left."""
        self.progress.seconds = self.before + time.monotonic() - self.began
        shares = [0.0]
        if self.recipe.max_steps:
            shares.append(self.progress.step / self.recipe.max_steps)
        if self.recipe.max_minutes:
            shares.append(self.progress.seconds / (60 * self.recipe.max_minutes))
        return 1.0 - max(shares)

    def _step(self, clips: list[Clip]) -> None:
        progress, optim = self.progress, self.recipe.optim
        seed = [self.recipe.seed, progress.epoch, progress.batch, self.accelerator.process_index]
        batch = self.task.collate(clips, np.random.default_rng([7, *seed]), training=True)
        torch.manual_seed(int(np.random.SeedSequence([11, *seed]).generate_state(1)[0]))
        for group in self.optimizer.param_groups:
            group["lr"] = optim.lr * _schedule(1.0 - self._left(), optim)
        batch = {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}
        with self.accelerator.autocast():
            loss, metrics = self.objective(batch)
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(self.bare.parameters(), optim.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        progress.step += 1
        progress.batch += 1
        self.average.update(self.bare, progress.step)
        self.positions += batch["labels"].numel()
        for name, value in {**metrics, "optim/grad_norm": norm}.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value)

    def _means(self, rounds: int) -> dict[str, float]:
        now = time.monotonic()
        means = {name: value / self.recipe.log_every for name, value in self.sums.items()}
        means |= {
            "optim/lr": self.optimizer.param_groups[0]["lr"],
            "data/epoch": self.progress.epoch + self.progress.batch / rounds,
            "speed/positions_per_s": self.positions / max(now - self.lap, 1e-9),
        }
        self.sums, self.positions, self.lap = {}, 0, now
        return means

    @torch.no_grad()
    def _save(self, held_out: Sequence[Clip]) -> dict[str, float]:
        """Write both forms of the model, and measure the averaged one on a few held-out clips."""
        if not self.accelerator.is_main_process:
            return {}
        self._left()
        save_state(self.out / "last", self.bare, self.optimizer.optimizer, self.average, self.progress)
        self.average.swap(self.bare)
        self.bare.eval()
        self.task.export(self.bare, self.out / "model")
        totals: dict[str, float] = {}
        some = held_out[:: max(1, len(held_out) // 64)]  # of every source, as they come one after another
        groups = [some[at : at + 8] for at in range(0, len(some), 8)]
        for index, group in enumerate(groups):
            batch = self.task.collate(group, np.random.default_rng([13, index]), training=False)
            batch = {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}
            for name, value in self.task.loss(self.bare, batch)[1].items():
                totals[f"held_out/{name}"] = totals.get(f"held_out/{name}", 0.0) + float(value) / len(groups)
        self.bare.train()
        self.average.swap(self.bare)
        if self.hear is not None:
            totals |= self.hear(self.out / "model")
        self.saved = self.lap = time.monotonic()
        self.positions = 0
        return totals

    def _log(self, log: Any, board: Any, values: dict[str, float]) -> None:
        if not self.accelerator.is_main_process or not values:
            return
        step = self.progress.step
        row = {"step": step, "minutes": round(self.progress.seconds / 60, 3)} | values
        log.write(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}) + "\n")
        log.flush()
        if board is not None:
            for name, value in values.items():
                board.add_scalar(name, value, step)
        shown = " ".join(f"{name}={value:.4g}" for name, value in values.items())
        print(f"[{100 * (1 - max(self._left(), 0)):5.1f} %] step {step} {shown}", file=sys.stderr, flush=True)


def _board(folder: Path) -> Any:
    """A TensorBoard writer, or None: tensorboard comes with the extra ``train``, the log does without."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))


def _optimizer(model: nn.Module, optim: OptimRecipe) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": optim.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=1e-8, foreach=True)


def _schedule(done: float, optim: OptimRecipe) -> float:
    """Share of the peak rate when ``done`` (0..1) of the budget is spent."""
    done = min(max(done, 0.0), 1.0)
    if done < optim.warmup:
        return (done + 1e-3) / (optim.warmup + 1e-3)
    along = (done - optim.warmup) / max(1.0 - optim.warmup, 1e-9)
    return optim.min_lr + (1.0 - optim.min_lr) * 0.5 * (1.0 + math.cos(math.pi * along))
