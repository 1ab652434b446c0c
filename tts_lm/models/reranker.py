"""The reranker: a phoneme classifier over codebook 0, and a score of how well codes follow a text.

Each frame is classified as silence or a phoneme. The score of a candidate aligns the text's phonemes with the frames
(Viterbi over a left-to-right hidden Markov model, Rabiner 1989, section III B) and measures how much less likely they
are than the best phoneme of each frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel

from ..text import LETTERS, SOUNDS

SILENCE = 0
CLASSES = {character: index for index, character in enumerate(SOUNDS.values(), start=1)}
"""Class of every phoneme, by its character. Class 0 is silence."""
_KERNEL = 5
_DILATIONS = (1, 2, 4)
_NEVER = -1e9
_USUAL_FRAMES = 4.0  # of a phoneme, at 50 Hz
_WORD_LIMIT = 3.0  # largest cost of a word, because a word error counts once
_LETTER_PHONEMES = "AE B K D EH F G HH IH JH K L M N AA P K R S T AH V W K Y Z".split()
# The most frequent phoneme of each letter of a word without a pronunciation. Errors are the same for all candidates.
_CLASS_OF = CLASSES | {c: CLASSES[SOUNDS[s]] for c, s in zip(LETTERS[:26], _LETTER_PHONEMES, strict=True)}


class RerankerConfig(PreTrainedConfig):
    """Configuration of a :class:`Reranker`.

    Args:
        codebook_size: codebook size V.
        hidden_size: width D.
        num_hidden_layers: number of convolutions over 5 frames, with dilations 1, 2, 4, 1, 2, 4...
        dropout: dropout of the embedded codes.
        codes_fingerprint: fingerprint of the codec.
    """

    model_type = "audiotok_reranker"

    def __init__(
        self,
        codebook_size: int = 1024,
        hidden_size: int = 128,
        num_hidden_layers: int = 5,
        dropout: float = 0.1,
        codes_fingerprint: str = "",
        **kwargs: Any,
    ) -> None:
        self.codebook_size = codebook_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.dropout = dropout
        self.codes_fingerprint = codes_fingerprint
        super().__init__(**kwargs)


class _Block(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv1d(width, width, _KERNEL, padding=dilation * (_KERNEL // 2), dilation=dilation)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        around = (self.norm(x) * mask).transpose(1, 2)
        return x + F.gelu(self.conv(around)).transpose(1, 2)


class Reranker(PreTrainedModel):
    """Phoneme classifier over codebook 0 that scores candidates of a sentence."""

    config_class = RerankerConfig
    base_model_prefix = "reranker"
    main_input_name = "codes"
    _no_split_modules = ["_Block"]

    def __init__(self, config: RerankerConfig) -> None:
        super().__init__(config)
        width = config.hidden_size
        self.embedding = nn.Embedding(config.codebook_size, width)
        self.blocks = nn.ModuleList(
            _Block(width, _DILATIONS[index % len(_DILATIONS)]) for index in range(config.num_hidden_layers)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(CLASSES) + 1)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5)
        elif isinstance(module, nn.Conv1d | nn.Linear | nn.LayerNorm):
            module.reset_parameters()

    def forward(self, codes: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits of silence and the phonemes.

        Args:
            codes: [B, T] int64, codebook 0.
            mask: [B, T] bool, True where there is a frame; None = everywhere.

        Returns:
            [B, T, 40] logits, silence first, then :data:`CLASSES`.
        """
        x = F.dropout(self.embedding(codes), self.config.dropout, self.training)
        there = torch.ones_like(x[..., :1]) if mask is None else mask[..., None].to(x.dtype)
        for block in self.blocks:
            x = block(x, there)
        return self.head(self.norm(x))

    @torch.inference_mode()
    def score(self, codes: Tensor, phonemes: str) -> float:
        """Score how well codes follow a text. The best candidate has the highest score.

        Args:
            codes: [T] int64, codebook 0, T >= 0.
            phonemes: output of :func:`~tts_lm.text.pronounce_text` for the text.

        Returns:
            Minus the mean cost of a word, -3 to 0 nats; ``-inf`` for codes with fewer frames than phonemes.
        """
        words = word_classes(phonemes)
        if not words or len(codes) < sum(map(len, words)):
            return -math.inf
        logits = self(codes[None].to(self.device))[0]
        return -float(word_costs(logits.float().log_softmax(-1).cpu().numpy(), words).sum()) / len(words)


def word_classes(phonemes: str) -> list[list[int]]:
    """Classes of the phonemes of a text, one list per word. Words without a pronunciation are in letters."""
    words = [[_CLASS_OF[c] for c in word if c in _CLASS_OF] for word in phonemes.split()]
    return [word for word in words if word]


def word_costs(log_probabilities: np.ndarray, words: Sequence[Sequence[int]]) -> np.ndarray:
    """Cost of each word and gap on the best path.

    The cost of a frame is the log-probability of its likeliest class minus that of its class on the path. The cost of a
    word is the mean over its phonemes of their mean costs per frame or, if larger, the sum over its frames divided by
    the usual length of its phonemes, which detects drawn-out words and insertions. A gap, where silence is expected,
    counts as a word of four phonemes. No cost exceeds 3.

    Args:
        log_probabilities: [T, classes] float, of silence and the phonemes.
        words: output of :func:`word_classes`, at least one word, with at most T phonemes.

    Returns:
        [2 W + 1] float64, nats per phoneme: gap, word, gap, word... gap.
    """
    states = np.array([SILENCE, *(s for word in words for s in (*word, SILENCE))])
    path = best_path(log_probabilities[:, states], states == SILENCE)
    cost = log_probabilities.max(axis=1) - log_probabilities[np.arange(len(path)), states[path]]
    frames = np.bincount(path, minlength=len(states))
    sums = np.bincount(path, weights=cost, minlength=len(states))
    means = sums / np.maximum(frames, 1)
    out = [sums[0] / (4 * _USUAL_FRAMES)]
    at = 1
    for word in words:
        own = slice(at, at := at + len(word))
        out.append(max(means[own].mean(), sums[own].mean() / _USUAL_FRAMES))
        out.append(sums[at] / (4 * _USUAL_FRAMES))
        at += 1
    return np.minimum(out, _WORD_LIMIT)


def best_path(scores: np.ndarray, silent: np.ndarray) -> np.ndarray:
    """Viterbi path through a left-to-right row of states. Each takes one frame or more; silent states may be skipped.

    Args:
        scores: [T, S] float, log-probability of each state at each frame; T is at least the number of phonemes.
        silent: [S] bool. The first and the last state are silent, and no two adjacent states are.

    Returns:
        [T] int64, the state at each frame.
    """
    skips = np.append([False, False], silent[1:-1])  # states that are also reached by skipping a silent state
    best = np.full(len(silent), _NEVER)
    best[:2] = scores[0, :2]
    steps = np.zeros(scores.shape, dtype=np.int64)
    for index, frame in enumerate(scores[1:], start=1):
        jumped = np.where(skips, np.append([_NEVER, _NEVER], best[:-2]), _NEVER)
        paths = np.stack([best, np.append(_NEVER, best[:-1]), jumped])
        steps[index] = paths.argmax(axis=0)
        best = paths.max(axis=0) + frame
    path = [len(silent) - 1 - int(best[-2] > best[-1])]
    for step in steps[:0:-1]:
        path.append(path[-1] - int(step[path[-1]]))
    return np.array(path[::-1])
