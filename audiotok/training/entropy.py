"""Training of the entropy model of :mod:`audiotok.bitstream` on a prepared corpus.

The network rounds its float weights in the forward pass like the exported integers, so that both give the same
probabilities. Gradients pass the rounding unchanged (straight-through estimator, Bengio et al., arXiv:1308.3432).
"""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..bitstream.entropy import AHEAD, BEHIND, FILE_NAME, EntropyModel
from ..bitstream.format import LEARNT, AtokHeader, raw_bits
from ..bitstream.writer import AtokWriter
from ..corpus import PreparedCorpus
from ..files import write_json
from .packed import speaker_weights
from .recipe import EntropyRecipe
from .trainer import TrainingLoop, TrainingPlan

# Steps per unit of every kind of value; powers of two, so that rescaling is a shift.
_EMB, _WEIGHT, _ACT, _OUT, _EXP = 32, 128, 16, 32, 64
_SHIFTS = (8, 7, 7, 3)
assert _EMB * _WEIGHT == _ACT << _SHIFTS[0] and _ACT * _WEIGHT == _ACT << _SHIFTS[1]
assert _ACT * _OUT == _EXP << _SHIFTS[3]
_TABLE = 1024


class EntropyNet(nn.Module):
    """Predicts the codes of packets, codebook by codebook. Arguments are those of :class:`.recipe.EntropyRecipe`."""

    def __init__(
        self, n_q: int, codebook_size: int, width: int, hidden: int, out_width: int, taps: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.n_q, self.codebook_size, self.taps = n_q, codebook_size, tuple(taps)
        self.emb = nn.Parameter(0.3 * torch.randn(n_q, codebook_size, width))
        inputs = (2 + AHEAD + BEHIND) * width
        self.w1 = nn.Parameter(torch.randn(n_q, inputs, hidden) / inputs**0.5)
        self.b1 = nn.Parameter(torch.zeros(n_q, hidden))
        joined = (1 + len(taps)) * hidden
        self.w2 = nn.Parameter(torch.randn(n_q, joined, hidden) / joined**0.5)
        self.b2 = nn.Parameter(torch.zeros(n_q, hidden))
        self.w3 = nn.Parameter(0.3 * torch.randn(n_q, hidden, out_width) / hidden**0.5)
        self.b3 = nn.Parameter(torch.zeros(n_q, out_width))
        self.out = nn.Parameter(0.3 * torch.randn(n_q, codebook_size, out_width))
        self.bias = nn.Parameter(torch.zeros(n_q, codebook_size))

    @torch.no_grad()
    def start_from(self, codebooks: Tensor, usage: Tensor) -> None:
        """Initialise embeddings and outputs with the codewords and the bias with the frequencies of the codes.

        Args:
            codebooks: [K, V, D] float32 of the codec.
            usage: [K, V] counts of the codes in the training data.
        """
        self.bias.copy_(((usage + 0.5) / (usage + 0.5).sum(1, keepdim=True)).log())
        self.bias.sub_(self.bias.mean(1, keepdim=True))
        share = usage / usage.sum(1, keepdim=True)
        centred = codebooks - (share[..., None] * codebooks).sum(1, keepdim=True)
        spread = torch.einsum("kv,kvd,kve->de", share, centred, centred)
        main = torch.linalg.eigh(spread).eigenvectors.flip(1)
        width = min(self.emb.shape[-1], centred.shape[-1])
        words = centred @ main[:, :width]
        self.emb.zero_()
        self.emb[..., :width] = words / (words[0].std() + 1e-9)
        for k in range(self.n_q):
            own = torch.linalg.eigh(centred[k].t() @ (share[k][:, None] * centred[k])).eigenvectors.flip(1)
            size = min(self.out.shape[-1], own.shape[-1])
            words = centred[k] @ own[:, :size]
            self.out[k].zero_()
            self.out[k, :, :size] = words / (words.std() + 1e-9)

    def forward(self, k: int, codes: Tensor) -> Tensor:
        """Logits [P, T, V] of codebook k from codes [P, K, T] int64 in [0, V]; V marks frames after a packet's end."""
        table = F.pad(_rounded(self.emb[: k + 1], _EMB), (0, 0, 0, 1))
        each = [F.embedding(codes[:, j], table[j]) for j in range(k + 1)]
        low = torch.stack(each[:k]).sum(0) if k else torch.zeros_like(each[0])
        own = low + each[k]
        parts = [low, each[k - 1] if k else low]
        parts += [_earlier(low, -i) for i in range(1, AHEAD + 1)] + [
            _earlier(own, i) for i in range(1, BEHIND + 1)
        ]
        h1 = _active(
            torch.cat(parts, -1) @ _rounded(self.w1[k], _WEIGHT) + _bias(self.b1[k], _EMB * _WEIGHT), 0
        )
        joined = torch.cat([_earlier(h1, tap) for tap in (0, *self.taps)], -1)
        h2 = _active(joined @ _rounded(self.w2[k], _WEIGHT) + _bias(self.b2[k], _ACT * _WEIGHT), 0)
        q = _active(h2 @ _rounded(self.w3[k], _WEIGHT) + _bias(self.b3[k], _ACT * _WEIGHT), -127)
        return q @ _rounded(self.out[k], _OUT).t() + _bias(self.bias[k], _ACT * _OUT)

    @torch.no_grad()
    def export(self, codes_fingerprint: str) -> EntropyModel:
        """Convert this network to integers.

        Raises:
            EntropyModelError: the weights are too large for exact sums.
        """
        tensors = {
            "emb": _int8(self.emb, _EMB), "w1": _int8(self.w1, _WEIGHT), "w2": _int8(self.w2, _WEIGHT),
            "w3": _int8(self.w3, _WEIGHT), "out": _int8(self.out, _OUT), "bias": _int32(self.bias, _ACT * _OUT),
            "b1": _int32(self.b1, _EMB * _WEIGHT), "b2": _int32(self.b2, _ACT * _WEIGHT),
            "b3": _int32(self.b3, _ACT * _WEIGHT),
        }  # fmt: skip
        for name, shift in zip(("b1", "b2", "b3"), _SHIFTS, strict=False):
            tensors[name] += 1 << shift - 1  # half a step, to round instead of truncating
        tensors["exp_table"] = np.rint(65536 * np.exp(-np.arange(_TABLE) / _EXP)).astype(np.int32)
        return EntropyModel(tensors, self.taps, _SHIFTS, codes_fingerprint)


def _through(x: Tensor, rounded: Tensor) -> Tensor:
    """Return ``rounded`` with the gradient of ``x``."""
    return x + (rounded - x).detach()


def _bias(x: Tensor, steps: int) -> Tensor:
    """Round biases like the exported int32."""
    return _through(x, torch.round(x * steps) / steps)


def _rounded(x: Tensor, steps: int) -> Tensor:
    """Round weights like the exported int8."""
    return _bias(x.clamp(-127 / steps, 127 / steps), steps)


def _active(x: Tensor, low: int) -> Tensor:
    """Round activations like the exported integers: half up, within [low, 127] steps."""
    x = x.clamp(low / _ACT, 127 / _ACT)
    return _through(x, torch.floor(x * _ACT + 0.5).clamp(low, 127) / _ACT)


def _int8(x: Tensor, steps: int) -> np.ndarray:
    return torch.round(x.clamp(-127 / steps, 127 / steps) * steps).to("cpu", torch.int8).numpy()


def _int32(x: Tensor, steps: int) -> np.ndarray:
    return torch.round(x * steps).to("cpu", torch.int32).numpy()


def _earlier(x: Tensor, frames: int) -> Tensor:
    """Shift x [P, T, D] by ``frames`` (negative: to earlier frames), with 0 outside the packet."""
    if frames == 0:
        return x
    size = x.shape[1]
    return F.pad(x, (0, 0, frames, 0))[:, :size] if frames > 0 else F.pad(x, (0, 0, 0, -frames))[:, -frames:]


class EntropyTrainer(TrainingLoop):
    """Trains an entropy model on the split ``train`` of a prepared corpus.

    The model is written to ``out/entropy.safetensors``, its metrics on the split ``validation`` to
    ``out/metrics.json``. Every rank trains the same model. The codebooks [K, V, D] of the codec initialise it.
    """

    recipe: EntropyRecipe

    def __init__(
        self,
        recipe: EntropyRecipe,
        data: str | Path,
        out: str | Path,
        codebooks: Tensor,
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
        speakers = self.corpus.column("speaker")
        self._weights = torch.from_numpy(
            speaker_weights(self.corpus.frames, speakers, recipe.speaker_balance)
        )
        n_q, size = self.facts["n_q"], self.facts["codebook_size"]
        self.net = EntropyNet(n_q, size, recipe.width, recipe.hidden, recipe.out_width, recipe.taps)
        counts = [torch.bincount(level.int(), minlength=size) for level in torch.cat(self._rows, dim=1)]
        self.net.start_from(codebooks.float().cpu(), torch.stack(counts).float())
        self.net.to(self.accelerator.device)
        decayed = [p for name, p in self.net.named_parameters() if name.startswith("w")]
        others = [p for name, p in self.net.named_parameters() if not name.startswith("w")]
        groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": others}]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98), weight_decay=0.0)
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
        self.net.export(self.corpus.manifest.codes_fingerprint).save(self.out / FILE_NAME)

    def evaluate(self) -> dict[str, float]:
        """Code the validation clips as files, at most 10 s of each, and count every byte."""
        facts, model = self.facts, self.net.export(self.corpus.manifest.codes_fingerprint)
        frame_rate = facts["sampling_rate"] / facts["hop_length"]
        header = AtokHeader(
            facts["name"], model.codes_fingerprint, facts["sampling_rate"], facts["hop_length"],
            (facts["codebook_size"],) * facts["n_q"], round(2.0 * frame_rate), coding=LEARNT,
            model_fingerprint=model.fingerprint,
        )  # fmt: skip
        frames, lengths = round(10.0 * frame_rate), np.array(self.validation.column("frames"))
        long = np.flatnonzero(lengths >= frames) if max(lengths) >= frames else np.arange(len(lengths))
        chosen = long[np.linspace(0, len(long) - 1, min(len(long), self.recipe.eval_clips)).astype(int)]
        file_bytes, raw_bytes, layer_bytes = 0, 0.0, 0
        for index in chosen.tolist():
            clip = self.validation.row(index)["codes"][:, :frames]
            file = BytesIO()
            writer = AtokWriter(file, header, model)
            writer.write(clip)
            writer.close(clip.shape[1] * facts["hop_length"])
            file_bytes += len(file.getvalue())
            layer_bytes += writer.layer_bytes
            raw_bytes += clip.numel() * raw_bits(facts["codebook_size"]) / 8
        metrics = {
            "clips": len(chosen),
            "saved_percent": round(100 * (1 - file_bytes / raw_bytes), 2),  # against raw codes
            "framing_percent": round(100 * (1 - layer_bytes / file_bytes), 2),  # of the files, not codes
            "model_fingerprint": model.fingerprint,
            "codes_fingerprint": model.codes_fingerprint,
            "steps": self.step,
        }
        write_json(self.out / "metrics.json", metrics)
        return {"eval/saved_percent": metrics["saved_percent"]}

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
