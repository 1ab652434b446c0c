"""What training the verifier means: batches and loss of a listener that names the sound of every frame.

Knows nothing of the loop, of the text around a clip or of the other halves. The law it keeps: only frames whose
sound is known from an alignment are scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.reranker import CLASSES, SILENCE, Reranker, RerankerConfig
from .clips import Clip
from .recipe import Recipe

UNKNOWN = -100


def frame_sounds(clip: Clip) -> np.ndarray:
    """The class of every frame.

    Args:
        clip: an aligned one.

    Returns:
        [T] int64, of :data:`~tts_lm.models.reranker.CLASSES`; silence between words, ``UNKNOWN`` in a word whose
        times are those of another spelling.
    """
    labels = np.full(clip.frames, SILENCE, dtype=np.int64)
    for word in clip.words:
        if word.starts is None or word.ends is None:
            continue
        known = word.sounds is not None and len(word.sounds) == len(word.starts)
        sounds = [CLASSES[c] for c in word.sounds or ""] if known else [UNKNOWN] * len(word.starts)
        # A frame is of the sound at its middle.
        edges = np.ceil(np.stack([word.starts, word.ends]) - 0.5).astype(np.int64)
        for sound, start, end in zip(sounds, *edges, strict=True):
            labels[start:end] = sound
    return labels


class VerifierTask:
    """The verifier as the loop sees it.

    Args:
        recipe: width, layers, dropout and noise; attention heads, text and voices play no part.
        tokenizer: an ``audiotok`` tokenizer; the codec's facts come from it.
        start: a listener to continue from, None for a new one.
    """

    def __init__(self, recipe: Recipe, tokenizer: Any, start: Reranker | None = None) -> None:
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
            labels[index, : clip.frames] = frame_sounds(clip)
            mask[index, : clip.frames] = True
        if training and self.recipe.optim.token_noise:
            wrong = rng.random(shape) < self.recipe.optim.token_noise
            codes[wrong] = rng.integers(self.codebook_size, size=wrong.sum())
        arrays = {"codes": codes, "mask": mask, "labels": labels}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def loss(self, model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch and what to log of it, keyed by path; scalars all."""
        scored = batch["labels"] >= 0
        logits, wanted = model(batch["codes"], batch["mask"])[scored].float(), batch["labels"][scored]
        loss = F.cross_entropy(logits, wanted)
        accuracy = (logits.argmax(-1) == wanted).float().mean()
        return loss, {"verifier/loss": loss.detach(), "verifier/accuracy": accuracy}

    def export(self, model: Any, folder: Path) -> None:
        """Write the model as a ``from_pretrained`` folder."""
        model.save_pretrained(folder)
