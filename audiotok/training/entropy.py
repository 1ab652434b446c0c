"""Training of the entropy model of :mod:`audiotok.bitstream` on a prepared corpus."""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..bitstream.entropy import FILE_NAME, EntropyModel
from ..bitstream.format import LEARNT, AtokHeader, raw_bits
from ..bitstream.writer import AtokWriter
from ..corpus import PreparedCorpus
from ..files import write_json
from .entropy_net import EntropyNet
from .recipe import EntropyRecipe
from .trainer import TrainingLoop, TrainingPlan

_CLIP_S = 10.0


class EntropyTrainer(TrainingLoop):
    """Trains an entropy model on the split ``train`` of a prepared corpus.

    The model is written to ``OUT/entropy.safetensors``, its metrics on the split ``validation`` to
    ``OUT/metrics.json``. Every rank trains the same model.

    Args:
        recipe: the recipe.
        data: a folder written by ``audiotok prepare``.
        out: the run's folder.
        codebooks: [K, V, D] float32 codebooks of the codec that initialise the model; None initialises it randomly.
        device: as in :class:`.trainer.TrainingLoop`.
    """

    recipe: EntropyRecipe

    def __init__(
        self,
        recipe: EntropyRecipe,
        data: str | Path,
        out: str | Path,
        codebooks: Tensor | None,
        device: str = "cpu",
    ) -> None:
        plan = TrainingPlan(
            lr=recipe.lr,
            floor=0.02,
            warmup=recipe.warmup_steps / recipe.steps,
            steps=recipe.steps,
            log_every=recipe.log_every,
            eval_every=recipe.steps,
            save_s=recipe.save_every_s,
        )
        super().__init__(recipe, plan, out, device)
        self.corpus = PreparedCorpus(data, "train")
        self.validation = PreparedCorpus(data, "validation")
        self.facts = self.corpus.manifest.codec
        self._rows = [row["codes"].to(torch.int16) for row in self.corpus]
        self._weights = speaker_weights(
            self.corpus.frames, self.corpus.column("speaker"), recipe.speaker_balance
        )
        self.net = EntropyNet(
            self.facts["n_q"],
            self.facts["codebook_size"],
            recipe.width,
            recipe.hidden,
            recipe.out_width,
            recipe.taps,
        )
        if codebooks is not None:
            size = self.facts["codebook_size"]
            counts = [torch.bincount(torch.cat([row[k] for row in self._rows]).int(), minlength=size)
                      for k in range(self.facts["n_q"])]  # fmt: skip
            self.net.start_from(codebooks.float().cpu(), torch.stack(counts).float())
        self.net.to(self.accelerator.device)
        decayed = [p for name, p in self.net.named_parameters() if name.startswith("w")]
        others = [p for name, p in self.net.named_parameters() if not name.startswith("w")]
        groups = [
            {"params": decayed, "weight_decay": recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98))
        self.optimizers = [self.optimizer]
        self.resume()

    def train_step(self) -> dict[str, float]:
        """One step; bits per code of every codebook, and their mean."""
        codes = self._batch().to(self.accelerator.device)
        bits = []
        for k in range(self.net.n_q):
            # One codebook at a time, because the logits of all codebooks would need 250 MB instead of 30 MB.
            scores = self.net(k, codes).flatten(0, 1)
            loss = F.cross_entropy(scores, codes[:, k].flatten(), ignore_index=self.net.codebook_size)
            loss.backward()
            bits.append(loss.item() / math.log(2))
        norm = self.update(self.optimizer, self.net.parameters(), float(self.recipe.batch))
        values = {f"bits/codebook_{k}": value for k, value in enumerate(bits)}
        return values | {"bits/mean": sum(bits) / len(bits), "train/gradient_norm": norm}

    def state(self) -> dict[str, Any]:
        """Network and optimiser."""
        return {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}

    def restore(self, state: dict[str, Any]) -> None:
        """Restore a checkpoint."""
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])

    def export(self) -> None:
        """Write the integer model."""
        self._model().save(self.out / FILE_NAME)

    def evaluate(self) -> dict[str, float]:
        """Code the validation clips as files and count every byte."""
        metrics = measure(self._model(), self.facts, self._clips()) | {"steps": self.step}
        write_json(self.out / "metrics.json", metrics)
        return {"eval/saved_percent": metrics["saved_percent"]}

    def _model(self) -> EntropyModel:
        return self.net.export(self.corpus.manifest.codes_fingerprint)

    def _batch(self) -> Tensor:
        """Packets [P, K, T] int64 of this step, a function of the seed and the step."""
        size = self.recipe.packet_frames
        generator = torch.Generator().manual_seed(self.recipe.seed * 1_000_003 + self.step)
        rows = torch.multinomial(self._weights, self.recipe.batch, replacement=True, generator=generator)
        packets = torch.full((self.recipe.batch, self.net.n_q, size), self.net.codebook_size)
        for p, index in enumerate(rows.tolist()):
            row = self._rows[index]
            start = int(torch.randint(max(1, row.shape[1] - size + 1), (1,), generator=generator))
            piece = row[:, start : start + size]
            packets[p, :, : piece.shape[1]] = piece
        return packets

    def _clips(self) -> list[Tensor]:
        """Codes [K, T] of up to ``eval_clips`` validation clips, at most 10 s of each."""
        frames = round(_CLIP_S * self.facts["sampling_rate"] / self.facts["hop_length"])
        lengths = np.array(self.validation.column("frames"))
        index = np.flatnonzero(lengths >= frames)
        index = index if len(index) else np.arange(len(lengths))
        chosen = index[np.linspace(0, len(index) - 1, min(len(index), self.recipe.eval_clips)).astype(int)]
        return [self.validation.row(int(i))["codes"][:, :frames] for i in chosen]


def speaker_weights(frames: np.ndarray, speakers: list[str | None], balance: float) -> Tensor:
    """Sampling weight of each row: its length, reduced if its speaker has much data.

    Args:
        frames: [R], frames of each row.
        speakers: speaker of each row; all None count as one speaker.
        balance: 0 leaves lengths as they are, 1 gives every speaker the same share.

    Returns:
        [R] float64, not normalised.
    """
    names = np.array(["" if speaker is None else speaker for speaker in speakers])
    _, which = np.unique(names, return_inverse=True)
    shares = np.bincount(which, weights=frames) / frames.sum()
    return torch.from_numpy(frames / shares[which] ** balance)


def measure(model: EntropyModel, facts: dict[str, Any], clips: list[Tensor]) -> dict[str, Any]:
    """Code clips as files and count every byte.

    Args:
        model: the entropy model.
        facts: name, sampling_rate, hop_length, n_q and codebook_size of the codec.
        clips: codes [K, T].

    Returns:
        saved_percent, the reduction against raw codes; coded_over_model_percent, the overhead of the coded layers over
        the cross-entropy of the model; framing_percent, the share of the framing; bits per code of each codebook.
    """
    header = AtokHeader(
        facts["name"], model.codes_fingerprint, facts["sampling_rate"], facts["hop_length"],
        (facts["codebook_size"],) * facts["n_q"], round(2.0 * facts["sampling_rate"] / facts["hop_length"]),
        coding=LEARNT, model_fingerprint=model.fingerprint,
    )  # fmt: skip
    size = header.packet_frames
    bits, codes_count, file_bytes, raw_bytes, layer_bytes = np.zeros(facts["n_q"]), 0, 0, 0.0, 0
    for clip in clips:
        file = BytesIO()
        writer = AtokWriter(file, header, model)
        writer.write(clip)
        writer.close(clip.shape[1] * facts["hop_length"])
        file_bytes += len(file.getvalue())
        layer_bytes += writer.layer_bytes
        raw_bytes += clip.numel() * raw_bits(facts["codebook_size"]) / 8
        codes_count += clip.shape[1]
        for start in range(0, clip.shape[1], size):
            bits += model_bits(model, clip[:, start : start + size])
    ideal = bits.sum() / 8
    return {
        "clips": len(clips),
        "saved_percent": round(100 * (1 - file_bytes / raw_bytes), 2),
        "coded_over_model_percent": round(100 * (layer_bytes / ideal - 1), 3),
        "framing_percent": round(100 * (1 - ideal / file_bytes), 2),
        "bits_by_codebook": [round(float(b), 3) for b in bits / codes_count],
        "model_fingerprint": model.fingerprint,
        "codes_fingerprint": model.codes_fingerprint,
    }


def model_bits(model: EntropyModel, codes: Tensor) -> np.ndarray:
    """Cross-entropy of a packet's codes [K, T] under the model, in bits: [K] float64."""
    values = codes.numpy()[None]
    frames = np.arange(codes.shape[1])
    # A frequency is 256 times a count over 65,536.
    return np.array(
        [
            -np.log2((model.freqs(k, values)[0, frames, values[0, k]] + 1.0) / (1 << 24)).sum()
            for k in range(values.shape[1])
        ]
    )
