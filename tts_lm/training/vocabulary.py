"""The small part of the unified vocabulary that the AR model meets in training.

Knows nothing of speech. The law it keeps: the small model with :meth:`SmallVocabulary.unused_logit` added to
its last logit has exactly the softmax of the full model, so training on a seventh of the rows loses nothing.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor


class SmallVocabulary:
    """Maps used ids to small ids and a model of the one to a model of the other.

    All ids that never occur (levels 1..K-1, bytes) share the last small row: training pushes it down once,
    and the full model gets it as the row of each.

    Args:
        used: the ids that occur.
        full_size: rows of the full embedding.
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
        """What the last small logit gains because it stands for many: log of how many."""
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
        # Small ids mean other tokens, and transformers would freeze the row of a padding id.
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
