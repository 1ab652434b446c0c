"""Training of the NAR model: batches and loss."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.ar import character_ids
from ..models.nar import NarConfig, NarModel
from ..voices import OTHER_VOICE
from .data import Clip, Task, render
from .recipe import Recipe

_SHORTEST_PROMPT = 25
_NO_PROMPT = 0.1
_NO_VOICE = 0.15


class NarTask(Task):
    """Batches and loss of the NAR model.

    The voice prompt of a clip is cut from another of the ``clips`` of its speaker, so that the model cannot copy the
    target. ``start`` is a model to continue from. A new one gets the codewords ``codebooks`` [K, V, D], or random ones.
    """

    def __init__(
        self,
        recipe: Recipe,
        tokenizer: Any,
        clips: Sequence[Clip],
        start: NarModel | None = None,
        codebooks: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.recipe = recipe
        self.characters = character_ids(tokenizer)
        sizes = recipe.model
        self.model = start or NarModel(
            NarConfig(
                text_size=tokenizer.control_offset,
                n_q=tokenizer.n_q,
                codebook_size=tokenizer.codebook_size,
                codebook_dim=64 if codebooks is None else codebooks.shape[-1],
                hidden_size=sizes.hidden_size,
                num_hidden_layers=sizes.layers,
                num_attention_heads=sizes.heads,
                intermediate_size=sizes.intermediate_size,
                dropout=recipe.optim.dropout,
                codes_fingerprint=tokenizer.codes_fingerprint,
            )
        )
        if start is None and codebooks is not None:
            self.model.set_codebooks(codebooks)
        self.n_q = tokenizer.n_q
        self.codebook_size = tokenizer.codebook_size
        self._by_speaker: dict[str, list[Clip]] = defaultdict(list)
        for clip in clips:
            if clip.speaker:  # clips without a speaker may be of different speakers
                self._by_speaker[clip.speaker].append(clip)
        chances = np.arange(1, self.n_q) ** -recipe.data.level_power
        self._chances = chances / chances.sum()

    def collate(self, clips: Sequence[Clip], rng: np.random.Generator, training: bool) -> dict[str, Tensor]:
        """Build a batch: the arguments of ``NarModel.forward`` and ``labels`` [B, T], -100 in the padding."""
        data = self.recipe.data
        drop, spell = (data.drop_punctuation, data.spell) if training else (0.0, 0.0)
        texts = [[self.characters[c] for c in render(clip, rng, drop, spell)[0]] for clip in clips]
        prompts = [self._prompt(clip, rng, training) for clip in clips]
        level = rng.choice(np.arange(1, self.n_q), size=len(clips), p=self._chances)
        voices = [OTHER_VOICE if training and rng.random() < _NO_VOICE else clip.voice for clip in clips]
        codes, mask = _stack([clip.codes for clip in clips], self.n_q)
        prompt, prompt_mask = _stack(prompts, self.n_q)
        text, text_mask = _stack([np.asarray(ids)[None] for ids in texts], 1)
        labels = codes[np.arange(len(clips)), level].copy()
        labels[~mask] = -100
        if training and self.recipe.optim.token_noise:
            wrong = rng.random(codes.shape) < self.recipe.optim.token_noise
            codes = np.where(wrong, rng.integers(self.codebook_size, size=codes.shape), codes)
        arrays = {"text_ids": text[:, 0], "codes": codes, "level": level, "voice": np.asarray(voices)}
        arrays |= {"prompt_codes": prompt, "text_mask": text_mask, "mask": mask, "prompt_mask": prompt_mask}
        return {name: torch.from_numpy(array) for name, array in {**arrays, "labels": labels}.items()}

    def loss(self, model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch and scalars to log, by path."""
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        hidden = model(**inputs).last_hidden_state
        labels, level = batch["labels"], batch["level"]
        total = torch.zeros((), device=hidden.device)
        right = torch.zeros((), device=hidden.device)
        for index in level.unique().tolist():
            scored = (labels >= 0) & (level == index)[:, None]
            logits = model.logits(hidden[scored], index).float()
            total = total + F.cross_entropy(logits, labels[scored], reduction="sum")
            right = right + (logits.argmax(-1) == labels[scored]).sum()
        count = (labels >= 0).sum()
        loss = total / count
        return loss, {"nar/loss": loss.detach(), "nar/accuracy": right / count}

    def _prompt(self, clip: Clip, rng: np.random.Generator, training: bool) -> np.ndarray:
        others = self._by_speaker.get(clip.speaker, [])
        if len(others) < 2 or (training and rng.random() < _NO_PROMPT):
            return clip.codes[:, :0]
        other = others[int(rng.integers(len(others)))]
        if other.id == clip.id:
            return clip.codes[:, :0]
        longest = min(self.recipe.data.prompt_frames, other.frames)
        length = int(rng.integers(min(_SHORTEST_PROMPT, longest), longest + 1)) if training else longest
        start = int(rng.integers(other.frames - length + 1))
        return other.codes[:, start : start + length]


def _stack(rows: Sequence[np.ndarray], n_q: int) -> tuple[np.ndarray, np.ndarray]:
    """Pad [K, T] arrays on the right: [B, K, T] int64 and [B, T] bool."""
    longest = max(row.shape[1] for row in rows)
    out = np.zeros((len(rows), n_q, longest), dtype=np.int64)
    mask = np.zeros((len(rows), longest), dtype=bool)
    for index, row in enumerate(rows):
        out[index, :, : row.shape[1]] = row
        mask[index, : row.shape[1]] = True
    return out, mask
