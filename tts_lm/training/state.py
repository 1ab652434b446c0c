"""What a training run needs to go on after a kill, on disk without a pickle.

Knows nothing of models. The law it keeps: a checkpoint is whole or absent, and restoring it gives the numbers
back bit for bit.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0
    epoch: int = 0
    batch: int = 0
    """Next batch of the epoch."""
    seconds: float = 0.0
    """Training time spent, interruptions not counted."""


class MovingAverage:
    """An exponential moving average of a model's parameters that follows fast at first."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {name: p.detach().clone() for name, p in model.named_parameters()}

    def update(self, model: nn.Module, step: int) -> None:
        """Move towards the model; ``step`` counts from 1."""
        weight = max(1.0 - self.decay, 1.0 / (step + 1))
        averages, fresh = list(self.values.values()), [p.detach() for p in model.parameters()]
        torch._foreach_lerp_(averages, fresh, weight)  # pyright: ignore[reportPrivateImportUsage]

    def swap(self, model: nn.Module) -> None:
        """Exchange the averages with the model's parameters; a second call takes it back."""
        for name, p in model.named_parameters():
            kept = p.detach().clone()
            p.data.copy_(self.values[name])
            self.values[name].copy_(kept)


def save_state(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: MovingAverage,
    progress: Progress,
) -> None:
    """Write a checkpoint into ``folder``, replacing the one that is there."""
    tensors: dict[str, Tensor] = {}
    for name, p in model.named_parameters():
        tensors[f"model/{name}"] = p.detach()
        tensors[f"average/{name}"] = average.values[name]
        for key, value in optimizer.state.get(p, {}).items():
            tensors[f"optimizer/{key}/{name}"] = torch.as_tensor(value)
    fresh, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    save_file(
        {name: tensor.contiguous().clone() for name, tensor in tensors.items()}, fresh / "state.safetensors"
    )
    (fresh / "progress.json").write_text(json.dumps(asdict(progress)) + "\n", encoding="utf-8")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_state(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: MovingAverage
) -> Progress | None:
    """Restore a checkpoint, or return None when there is none.

    A kill between two renames leaves the former one, which counts.

    Raises:
        ValueError: the checkpoint is of another model.
    """
    if not folder.is_dir():
        folder = folder.with_name(folder.name + ".old")
    if not folder.is_dir():
        return None
    tensors = load_file(folder / "state.safetensors")
    keys = {name.split("/")[1] for name in tensors if name.startswith("optimizer/")}
    for name, p in model.named_parameters():
        if f"model/{name}" not in tensors or tensors[f"model/{name}"].shape != p.shape:
            raise ValueError(
                f"{folder} holds another model ({name} differs); give the run a folder of its own"
            )
        p.data.copy_(tensors[f"model/{name}"])
        average.values[name].copy_(tensors[f"average/{name}"])
        found = {
            key: tensors[f"optimizer/{key}/{name}"] for key in keys if f"optimizer/{key}/{name}" in tensors
        }
        if found:
            optimizer.state[p] = {
                k: v.clone() if k == "step" else v.clone().to(p.device) for k, v in found.items()
            }
    return Progress(**json.loads((folder / "progress.json").read_text(encoding="utf-8")))
