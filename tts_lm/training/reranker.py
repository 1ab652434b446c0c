"""Training of the reranker, which predicts the phoneme of every frame from codebook 0: batches and loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.reranker import CLASSES, SILENCE, Reranker, RerankerConfig
from .data import Clip, Task
from .recipe import Recipe

UNKNOWN = -100


def frame_labels(clip: Clip) -> np.ndarray:
    """The class of every frame of an aligned clip, [T] int64, of :data:`~tts_lm.models.reranker.CLASSES`.

    It is silence between words, and ``UNKNOWN`` where the phoneme is unknown.
    """
    labels = np.full(clip.frames, SILENCE, dtype=np.int64)
    for word in clip.words:
        if word.times is None:
            continue
        phonemes = word.times.phonemes or "?" * len(word.times.starts)
        # A frame has the phoneme at its middle.
        edges = np.ceil(np.stack([word.times.starts, word.times.ends]) - 0.5).astype(np.int64)
        for phoneme, start, end in zip(phonemes, *edges, strict=True):
            labels[start:end] = CLASSES.get(phoneme, UNKNOWN)
    return labels


class RerankerTask(Task):
    """Batches and loss of the reranker. The loss covers frames with a known phoneme."""

    def __init__(self, recipe: Recipe, tokenizer: Any, start: Reranker | None = None) -> None:
        super().__init__()
        self.recipe = recipe
        self.codebook_size = tokenizer.codebook_size
        self.model = start or Reranker(
            RerankerConfig(
                codebook_size=tokenizer.codebook_size,
                hidden_size=recipe.model.hidden_size,
                num_hidden_layers=recipe.model.layers,
                dropout=recipe.optim.dropout,
                codes_fingerprint=tokenizer.codes_fingerprint,
            )
        )

    def collate(self, clips: Sequence[Clip], rng: np.random.Generator, training: bool) -> dict[str, Tensor]:
        """Build a batch: ``codes``, ``mask`` and ``labels``, all [B, T]; labels are ``UNKNOWN`` in the padding."""
        shape = (len(clips), max(clip.frames for clip in clips))
        codes, labels = np.zeros(shape, dtype=np.int64), np.full(shape, UNKNOWN, dtype=np.int64)
        mask = np.zeros(shape, dtype=bool)
        for index, clip in enumerate(clips):
            codes[index, : clip.frames] = clip.codes[0]
            labels[index, : clip.frames] = frame_labels(clip)
            mask[index, : clip.frames] = True
        if training and self.recipe.optim.token_noise:
            wrong = rng.random(shape) < self.recipe.optim.token_noise
            codes[wrong] = rng.integers(self.codebook_size, size=wrong.sum())
        arrays = {"codes": codes, "mask": mask, "labels": labels}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def loss(self, model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch and scalars to log, by path."""
        scored = batch["labels"] >= 0
        logits, wanted = model(batch["codes"], batch["mask"])[scored].float(), batch["labels"][scored]
        loss = F.cross_entropy(logits, wanted)
        accuracy = (logits.argmax(-1) == wanted).float().mean()
        return loss, {"reranker/loss": loss.detach(), "reranker/accuracy": accuracy}
