"""Training loop of the AR model, the NAR model and the reranker."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel
from transformers import AutoModelForCausalLM

from audiotok import (
    PreparedCorpus,
    TrainingLoop,
    TrainingPlan,
    build_tokenizer,
    checkpoint_dir,
    load_codec,
    program,
)

from ..folder import find_checkpoint, load_part
from ..models.nar import NarConfig, NarModel
from ..models.reranker import Reranker, RerankerConfig
from .ar import ArTask
from .data import Clip, Task, join, plan_epoch, read_clips
from .nar import NarTask
from .recipe import Recipe
from .reranker import RerankerTask

_HELD_OUT = 64  # clips of an evaluation


def train_lm(
    recipe: Recipe,
    data: Sequence[str | Path],
    out: str | Path,
    alignments: Sequence[str | Path] = (),
    init: str | Path | None = None,
    device: str = "auto",
    codec: str | None = None,
) -> Path:
    """Train the model that a recipe names.

    Args:
        recipe: settings of the run.
        data: prepared corpora of one codec.
        out: folder of the run. An existing run is continued.
        alignments: phoneme times (see :func:`.alignments.read_alignments`).
        init: a shipped model or folder to start from: a whole synthesizer, or the part itself.
        device: ``cpu`` or ``auto``.
        codec: codec of the corpora, a name or folder. A new NAR model starts from its codewords.

    Returns:
        The folder of the model.

    Raises:
        FileNotFoundError: a file or folder is missing.
        ValueError: the corpora or the initial model belong to different codecs, or there is no clip to train on.
    """
    clips, held_out = read_clips(data, alignments, recipe.data.max_seconds)
    if recipe.kind == "reranker":
        clips, held_out = ([clip for clip in some if clip.aligned] for some in (clips, held_out))
        if not clips:
            raise ValueError("a reranker needs phoneme times, got none; give --alignments FILE")
    manifest = PreparedCorpus(data[0]).manifest
    facts = manifest.codec
    frame_rate = facts["sampling_rate"] / facts["hop_length"]
    tokenizer = build_tokenizer(
        checkpoint_dir("text-en") / "tokenizer.model",
        facts["n_q"],
        facts["codebook_size"],
        codes_fingerprint=manifest.codes_fingerprint,
    )
    hours = program.duration(sum(clip.frames for clip in clips) / frame_rate / 3600)
    aligned = sum(clip.aligned for clip in clips)
    counts = f"{len(clips)} clips, {hours}, {aligned} with phoneme times; {len(held_out)} held out"
    print(counts, file=sys.stderr)
    torch.manual_seed(recipe.seed)
    start = _start(init, recipe.kind, manifest.codes_fingerprint)
    task: Task
    if recipe.kind == "ar":
        task = ArTask(recipe, tokenizer, frame_rate, start)
    elif recipe.kind == "reranker":
        task = RerankerTask(recipe, tokenizer, start)
    else:
        codebooks = None
        if codec is not None:
            loaded = load_codec(codec)
            PreparedCorpus(data[0]).check(loaded)
            codebooks = loaded.quantizer.codebooks
        task = NarTask(recipe, tokenizer, clips, start, codebooks)
    trainer = TtsTrainer(task, clips, held_out, recipe, out, frame_rate, device)
    trainer.run()
    return trainer.out / "model"


class TtsTrainer(TrainingLoop):
    """Trains the model of a task on clips and exports its moving average to ``out/model``.

    Other arguments are those of :class:`audiotok.TrainingLoop`; ``frame_rate`` is the codec's, in Hz.
    """

    recipe: Recipe

    def __init__(
        self,
        task: Task,
        clips: Sequence[Clip],
        held_out: Sequence[Clip],
        recipe: Recipe,
        out: str | Path,
        frame_rate: float,
        device: str = "auto",
    ) -> None:
        optim = recipe.optim
        plan = TrainingPlan(
            lr=optim.lr,
            floor=optim.min_lr,
            warmup=optim.warmup,
            steps=recipe.max_steps,
            minutes=recipe.max_minutes,
            log_every=recipe.log_every,
            save_s=60 * recipe.save_minutes,
        )
        super().__init__(recipe, plan, out, device, recipe.dtype)
        self.task, self.bare = task, task.model
        self.clips, self.held_out, self.frame_rate = clips, held_out, frame_rate
        matrices = [p for p in self.bare.parameters() if p.ndim >= 2]
        vectors = [p for p in self.bare.parameters() if p.ndim < 2]
        groups = [
            {"params": matrices, "weight_decay": optim.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, eps=1e-8, foreach=True)
        self.objective, self.optimizer = self.accelerator.prepare(task, optimizer)
        self.optimizers = [self.optimizer]
        self.average = AveragedModel(self.bare, multi_avg_fn=self._average).eval()
        self.epoch, self.batch = 0, 0  # the next batch
        self._batches: tuple[int, list[list[tuple[int, int]]]] = (-1, [])
        self.bare.train()
        self.resume()

    def train_step(self) -> dict[str, Any]:
        """Take one step on this rank's batch."""
        clips, rounds = self._next_clips()
        accelerator = self.accelerator
        rng = np.random.default_rng([7, self.recipe.seed, self.step, accelerator.process_index])
        batch = self._on_device(self.task.collate(clips, rng, training=True))
        with accelerator.autocast():
            loss, metrics = self.objective(batch)
        accelerator.backward(loss)
        norm = self.update(self.optimizer, self.bare.parameters(), self.recipe.optim.grad_clip)
        self.average.update_parameters(self.bare)
        self.batch += 1
        progress = {"train/gradient_norm": norm, "data/epoch": self.epoch + self.batch / rounds}
        return {**metrics, "train/loss": loss.detach(), **progress}

    def evaluate(self) -> dict[str, float]:
        """Losses of the moving average on held-out clips of every source."""
        some = self.held_out[:: max(1, len(self.held_out) // _HELD_OUT)]
        groups = [some[at : at + 8] for at in range(0, len(some), 8)]
        totals: dict[str, float] = {}
        with torch.no_grad():
            for index, group in enumerate(groups):
                batch = self.task.collate(group, np.random.default_rng([13, index]), training=False)
                for name, value in self.task.loss(self.average.module, self._on_device(batch))[1].items():
                    key = f"held_out/{name}"
                    totals[key] = totals.get(key, 0.0) + float(value) / len(groups)
        return totals

    def state(self) -> dict[str, Any]:
        """State of the model, moving average, optimiser and position in the epoch."""
        return {
            "epoch": self.epoch,
            "batch": self.batch,
            "model": self.bare.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint."""
        self.bare.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.epoch, self.batch = state["epoch"], state["batch"]

    def export(self) -> None:
        """Write the moving average as a ``from_pretrained`` folder."""
        self.task.export(self.average.module, self.out / "model")

    @torch.no_grad()
    def _average(self, averages: Any, fresh: Any, count: Any) -> None:
        """Exponential moving average, with a shorter memory in the first steps."""
        weight = max(1.0 - self.recipe.optim.ema, 1.0 / (int(count) + 2))
        torch._foreach_lerp_(averages, fresh, weight)  # pyright: ignore[reportPrivateImportUsage]

    def _next_clips(self) -> tuple[list[Clip], int]:
        """The clips of the next batch of this rank, and the number of batches per rank in an epoch.

        If the batches do not divide evenly among the ranks, the last round repeats the first batches.
        """
        ranks = self.accelerator.num_processes
        while True:
            if self._batches[0] != self.epoch:
                data, seed = self.recipe.data, self.recipe.seed
                planned = plan_epoch(self.clips, data, seed, self.epoch, self.frame_rate)
                if not planned:
                    raise ValueError("the recipe's data.weights leave no clip to train on; raise one above 0")
                self._batches = (self.epoch, planned)
            plan = self._batches[1]
            rounds = -(-len(plan) // ranks)
            if self.batch < rounds:
                break
            self.epoch, self.batch = self.epoch + 1, 0
        mine = plan[(self.batch * ranks + self.accelerator.process_index) % len(plan)]
        clips = self.clips
        return [clips[i] if prompt < 0 else join(clips[prompt], clips[i]) for i, prompt in mine], rounds

    def _on_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.to(self.accelerator.device) for name, tensor in batch.items()}


def _start(init: str | Path | None, kind: str, fingerprint: str) -> Any:
    """The model to continue from; None for a new one."""
    if init is None:
        return None
    folder = find_checkpoint(init)
    folder = folder / kind if (folder / kind).is_dir() else folder
    if kind == "ar":
        model = load_part(AutoModelForCausalLM, folder, "llama")
        theirs = getattr(model.config, "audio", {}).get("codes_fingerprint")
    else:
        family, config = {"nar": (NarModel, NarConfig), "reranker": (Reranker, RerankerConfig)}[kind]
        model = load_part(family, folder, config.model_type)
        theirs = model.config.codes_fingerprint
    if theirs != fingerprint:
        raise ValueError(
            f"{folder} was trained on codes {theirs}, but the corpora have {fingerprint}; prepare them with its codec"
        )
    return model
