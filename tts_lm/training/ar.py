"""What training the AR half means: batches and loss.

Knows nothing of the loop. The law it keeps: only what the model must say (codes, ``</audio>``, ``<eos>``) is
scored, by a softmax over the whole vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..models.ar import build_ar, save_ar
from ..text import TEXT_START, build_prompt, character_ids
from .attention import AttentionTeacher
from .clips import Clip, render
from .recipe import Recipe
from .vocabulary import SmallVocabulary


class ArTask:
    """The AR half as the loop sees it.

    Args:
        recipe: sizes, augmentation, supervision.
        tokenizer: an ``audiotok`` tokenizer.
        frame_rate: of the codec, in Hz.
        start: a full ``LlamaForCausalLM`` to continue from, None for a new one.
    """

    def __init__(self, recipe: Recipe, tokenizer: Any, frame_rate: float, start: Any = None) -> None:
        self.recipe = recipe
        self.characters = character_ids(tokenizer)
        controls_and_codes = range(tokenizer.control_offset, tokenizer.audio_offset + tokenizer.codebook_size)
        used = [*self.characters.values(), *controls_and_codes]
        self.vocabulary = SmallVocabulary(used, tokenizer.padded_vocab_size)
        self.tokenizer = tokenizer
        model = recipe.model
        if start is None:
            sizes = (model.hidden_size, model.layers, model.heads, model.intermediate_size)
            start = build_ar(tokenizer, frame_rate, *sizes)
        self.model = self.vocabulary.shrink_model(start)
        self.teacher = None
        if recipe.attention.weight > 0:
            taught = recipe.attention
            self.teacher = AttentionTeacher(self.model, taught.layers, taught.heads, taught.width)

    def collate(self, clips: Sequence[Clip], rng: np.random.Generator, training: bool) -> dict[str, Tensor]:
        """Build a batch.

        Args:
            clips: B of them.
            rng: of this batch alone.
            training: vary the text and slip wrong codes into the input.

        Returns:
            ``ids`` and ``labels`` [B, S] small ids (labels -100 where nothing is scored; already shifted:
            ``labels[:, s]`` follows ``ids[:, s]``) and ``targets`` [B, S], where in the text position s
            should look, -1 for nowhere.
        """
        data = self.recipe.data
        rows, labels, targets = [], [], []
        for clip in clips:
            drop, spell = (data.drop_punctuation, data.spell) if training else (0.0, 0.0)
            text, spoken = render(clip, rng, drop, spell)
            prefix = build_prompt(self.tokenizer, [self.characters[c] for c in text], clip.voice)
            codes = clip.codes[0].astype(np.int64) + self.tokenizer.audio_offset
            answer = [*codes, self.tokenizer.control_id("audio_end"), self.tokenizer.control_id("eos")]
            heard = codes.copy()
            if training and self.recipe.optim.token_noise:
                wrong = rng.random(len(codes)) < self.recipe.optim.token_noise
                heard[wrong] = self.tokenizer.audio_offset + rng.integers(
                    self.tokenizer.codebook_size, size=wrong.sum()
                )
            rows.append([*prefix, *heard, answer[-2]])
            labels.append([-100] * (len(prefix) - 1) + answer)
            look = np.full(len(rows[-1]), -1, dtype=np.int64)
            if spoken is not None:
                at = len(prefix) - 1  # <audio> predicts the first frame
                look[at : at + len(spoken)] = TEXT_START + spoken
                look[at + len(spoken)] = (
                    len(prefix) - 2
                )  # the last frame looks at </text> to know that it is the last
            targets.append(look)
        length = max(map(len, rows))
        pad = self.tokenizer.control_id("pad")
        ids = torch.tensor([[*row, *[pad] * (length - len(row))] for row in rows])
        wanted = torch.tensor([[*row, *[-100] * (length - len(row))] for row in labels])
        small = torch.where(wanted >= 0, self.vocabulary.shrink(wanted.clamp(min=0)), -100)
        looks = torch.tensor(
            np.stack([np.pad(row, (0, length - len(row)), constant_values=-1) for row in targets])
        )
        return {"ids": self.vocabulary.shrink(ids), "labels": small, "targets": looks}

    def loss(self, model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch and what to log of it, keyed by path; scalars all."""
        hidden = model.model(input_ids=batch["ids"], use_cache=False).last_hidden_state
        scored = batch["labels"] >= 0
        logits = model.lm_head(hidden[scored]).float()
        gain = torch.zeros(logits.shape[-1], device=logits.device)
        gain[-1] = self.vocabulary.unused_logit
        wanted = batch["labels"][scored]
        loss = F.cross_entropy(logits + gain, wanted)
        metrics = {"ar/loss": loss.detach(), "ar/accuracy": (logits.argmax(-1) == wanted).float().mean()}
        if self.teacher is not None and model.training:
            look, mass = self.teacher.loss(batch["targets"])
            loss = loss + self.recipe.attention.weight * look
            metrics |= {"ar/look_loss": look.detach(), "ar/look_mass": mass}
        return loss, metrics

    def export(self, model: Any, folder: Path) -> None:
        """Write the full model as a stock Llama folder."""
        full = self.vocabulary.grow_model(model)
        attention = self.recipe.attention
        taught = attention.layers if attention.weight > 0 else ()
        full.config.audio["look"] = [[layer, head] for layer in taught for head in range(attention.heads)]
        save_ar(full, folder)
