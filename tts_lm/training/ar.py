"""Training of the AR model: batches, loss, dropout, attention supervision and a reduced vocabulary."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..decoding.engine import TEXT_START, build_prompt
from ..models.ar import build_ar, character_ids, save_ar
from .data import Clip, Task, render
from .recipe import Recipe


class ArTask(Task):
    """Batches and loss of the AR model.

    The model is trained with the ids that occur and exported with the full vocabulary. The loss covers codes,
    ``</audio>`` and ``<eos>``, with a softmax over the whole vocabulary. ``start`` is a full ``LlamaForCausalLM`` to
    continue from.
    """

    def __init__(self, recipe: Recipe, tokenizer: Any, frame_rate: float, start: Any = None) -> None:
        super().__init__()
        self.recipe = recipe
        self.characters = character_ids(tokenizer)
        controls_and_codes = range(tokenizer.control_offset, tokenizer.audio_offset + tokenizer.codebook_size)
        used = [*self.characters.values(), *controls_and_codes]
        self.vocabulary = SmallVocabulary(used, tokenizer.padded_vocab_size)
        self.tokenizer = tokenizer
        if start is None:
            model = recipe.model
            sizes = (model.hidden_size, model.layers, model.heads, model.intermediate_size)
            start = build_ar(tokenizer, frame_rate, *sizes)
        start.config.attention_dropout = recipe.optim.attention_dropout
        self.model = self.vocabulary.shrink_model(start)
        add_dropout(self.model, recipe.optim.dropout)
        self.supervision = None
        if recipe.attention.weight > 0:
            self.supervision = AttentionSupervision(self.model, recipe.attention.layers)

    def collate(self, clips: Sequence[Clip], rng: np.random.Generator, training: bool) -> dict[str, Tensor]:
        """Build a batch of B clips.

        ``ids`` and ``labels`` [B, S] are in the reduced vocabulary. Labels are shifted (``labels[:, s]`` follows
        ``ids[:, s]``) and -100 where there is no loss. ``targets`` [B, S] is the text position that position s should
        attend to, -1 for none.
        """
        data, tokenizer = self.recipe.data, self.tokenizer
        rows, labels, targets = [], [], []
        for clip in clips:
            drop, spell = (data.drop_punctuation, data.spell) if training else (0.0, 0.0)
            text, spoken = render(clip, rng, drop, spell)
            prefix = build_prompt(tokenizer, [self.characters[c] for c in text], clip.voice)
            codes = clip.codes[0].astype(np.int64) + tokenizer.audio_offset
            answer = [*codes, tokenizer.control_id("audio_end"), tokenizer.control_id("eos")]
            inputs = codes.copy()
            if training and self.recipe.optim.token_noise:
                wrong = rng.random(len(codes)) < self.recipe.optim.token_noise
                random = rng.integers(tokenizer.codebook_size, size=wrong.sum())
                inputs[wrong] = tokenizer.audio_offset + random
            rows.append([*prefix, *inputs, answer[-2]])
            labels.append([-100] * (len(prefix) - 1) + answer)
            target = np.full(len(rows[-1]), -1, dtype=np.int64)
            if spoken is not None:
                at = len(prefix) - 1  # <audio> predicts the first frame
                target[at : at + len(spoken)] = TEXT_START + spoken
                target[at + len(spoken)] = len(prefix) - 2  # the end is predicted from </text>
            targets.append(target)
        ids = torch.from_numpy(_padded(rows, tokenizer.control_id("pad")))
        wanted = torch.from_numpy(_padded(labels, -100))
        small = torch.where(wanted >= 0, self.vocabulary.shrink(wanted.clamp(min=0)), -100)
        aims = torch.from_numpy(_padded(targets, -1))
        return {"ids": self.vocabulary.shrink(ids), "labels": small, "targets": aims}

    def loss(self, model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch and scalars to log, by path."""
        hidden = model.model(input_ids=batch["ids"], use_cache=False).last_hidden_state
        scored = batch["labels"] >= 0
        logits = model.lm_head(hidden[scored]).float()
        gain = torch.zeros(logits.shape[-1], device=logits.device)
        gain[-1] = self.vocabulary.unused_logit
        wanted = batch["labels"][scored]
        loss = F.cross_entropy(logits + gain, wanted)
        metrics = {"ar/loss": loss.detach(), "ar/accuracy": (logits.argmax(-1) == wanted).float().mean()}
        if self.supervision is not None and model.training:
            attention, mass = self.supervision.loss(batch["targets"])
            loss = loss + self.recipe.attention.weight * attention
            metrics |= {"ar/attention_loss": attention.detach(), "ar/attention_mass": mass}
        return loss, metrics

    def export(self, model: Any, folder: Path) -> None:
        """Write the full model as a stock Llama folder."""
        save_ar(self.vocabulary.grow_model(model), folder)


def _padded(rows: Sequence[Any], value: int) -> np.ndarray:
    length = max(map(len, rows))
    return np.asarray([[*row, *[value] * (length - len(row))] for row in rows], dtype=np.int64)


def add_dropout(model: Any, share: float) -> None:
    """Add dropout to the embeddings and residual branches of a model.

    A stock Llama has dropout of attention weights only. Hooks do not change its class, parameters or saved files.
    """

    def drop(module: nn.Module, _: Any, output: Tensor) -> Tensor:
        return F.dropout(output, share, module.training)

    if share:
        model.model.embed_tokens.register_forward_hook(drop)
        for layer in model.model.layers:
            layer.self_attn.o_proj.register_forward_hook(drop)
            layer.mlp.down_proj.register_forward_hook(drop)


class AttentionSupervision:
    """Supervises the first attention head of some blocks of a ``LlamaForCausalLM``.

    With known phoneme times, the head is trained to attend to the phoneme of the next frame. Without supervision, a
    decoder-only TTS model needs hundreds of hours to learn the alignment.

    Raises:
        ValueError: the model has no such block.
    """

    def __init__(self, model: Any, layers: Sequence[int]) -> None:
        blocks = model.config.num_hidden_layers
        if not layers or max(layers) >= blocks:
            raise ValueError(
                f"expected attention.layers below {blocks}, got {list(layers)}; set them, or attention.weight=0"
            )
        self.size = model.config.head_dim
        self._inputs: list[tuple[Any, Tensor, tuple[Tensor, Tensor]]] = []
        for index in layers:
            model.model.layers[index].self_attn.register_forward_pre_hook(self._keep, with_kwargs=True)

    def loss(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of -log(attention to the target) in the latest forward pass, and the mean attention there.

        ``targets`` [B, S] int64 is the position that each position should attend to, -1 for none. Both are 0 if no
        position has a target.
        """
        inputs, self._inputs = self._inputs, []
        rows, queries = torch.nonzero(targets >= 0, as_tuple=True)
        if not len(rows):
            zero = torch.zeros((), device=targets.device)
            return zero, zero
        logs = []
        for attention, hidden, (cos, sin) in inputs:
            query, key = (
                _rotate(F.linear(hidden, part.weight[: self.size]), cos, sin)
                for part in (attention.q_proj, attention.k_proj)
            )
            scores = (query @ key.transpose(-1, -2)).float() * self.size**-0.5  # [B, S, S]
            future = torch.ones_like(scores[0], dtype=torch.bool).triu(1)
            scores = scores.masked_fill(future, torch.finfo(torch.float32).min)[rows, queries]
            logs.append(scores.gather(1, targets[rows, queries][:, None])[:, 0] - scores.logsumexp(-1))
        found = torch.stack(logs)
        return -found.mean(), found.detach().exp().mean()

    def _keep(self, module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if module.training:
            hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
            where = kwargs["position_embeddings"] if "position_embeddings" in kwargs else args[1]
            self._inputs.append((module, hidden, where))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin


class SmallVocabulary:
    """Reduced vocabulary of the ids that occur in training.

    The other ids of ``full_size`` share one more row. With :attr:`unused_logit` added to its logit, the softmax equals
    that of the full model.
    """

    def __init__(self, used: list[int], full_size: int) -> None:
        self.used = torch.tensor(sorted(set(used)), dtype=torch.int64)
        self.full_size = full_size
        self._small = torch.full((full_size,), len(self.used), dtype=torch.int64)
        self._small[self.used] = torch.arange(len(self.used))
        self.unused = full_size - len(self.used)
        self._pad: int | None = None

    def __len__(self) -> int:
        return len(self.used) + 1

    @property
    def unused_logit(self) -> float:
        """Logarithm of the number of ids that share the last row."""
        return math.log(max(self.unused, 1))

    def shrink(self, ids: Tensor) -> Tensor:
        """Full ids to small ids, any shape, int64."""
        return self._small[ids]

    def shrink_model(self, model: Any) -> Any:
        """A copy of a full ``LlamaForCausalLM`` with only the used rows."""
        weight = model.model.embed_tokens.weight.detach()
        rest = self._small == len(self.used)
        last = weight[rest].mean(0, keepdim=True) if self.unused else weight[:1]
        self._pad = model.config.pad_token_id
        # The padding id is another token in the reduced vocabulary, and transformers would freeze its row.
        return _with_rows(model, torch.cat((weight[self.used], last)), None)

    def grow_model(self, model: Any) -> Any:
        """A copy of a small ``LlamaForCausalLM`` with all rows."""
        return _with_rows(model, model.model.embed_tokens.weight.detach()[self._small], self._pad)


def _with_rows(model: Any, rows: Tensor, pad: int | None) -> Any:
    config = copy.deepcopy(model.config)
    config.vocab_size = len(rows)
    config.pad_token_id = pad
    other = type(model)(config)
    state = {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    state["model.embed_tokens.weight"] = rows.clone()
    other.load_state_dict(state, strict=False)
    other.tie_weights()
    return other
