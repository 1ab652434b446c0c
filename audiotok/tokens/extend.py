"""Somebody else's vocabulary, with a codec's ids behind it; and somebody else's model, with rows for them.

Knows nothing of waveforms. The laws it keeps: every text has the ids that it had; no text has an audio or a
control id; audio ids are contiguous and level-major. The new strings stand in the vocabulary of the base's
own model, which loads fast, and none of them can be matched by text: BPE without ``ignore_merges`` reaches no
string without a merge that leads to it, and the other models match whole pre-tokens, none of which holds the
space that each of the new strings holds (which is checked, not assumed).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from .codecs import codec_facts
from .tokenizer import AudioTextTokenizer
from .vocabulary import (
    CONTROL_TOKENS,
    N_CONTROL,
    hidden_audio_token,
    hidden_control_token,
    hidden_gap_token,
)

_KEPT = (
    "model_max_length padding_side truncation_side model_input_names clean_up_tokenization_spaces "
    "split_special_tokens chat_template"
).split()
_SPACES = "a b| a  b |\ta\u00a0b\u3000c|<|a0 0|> x|x<|audiotok pad|>|\u2003a \n b".split("|")
_PROBES = [
    "Hello there, 123 x\u00e9!",
    "  \u4f60\u597d \U0001f600\n\tdef f(x):\r\n",
    "",
    "\u0000\u2581 <|a0 0|>",
]


def extend_tokenizer(
    base: PreTrainedTokenizerBase | str | Path,
    codec: PreTrainedModel | None = None,
    *,
    n_q: int | None = None,
    codebook_size: int | None = None,
    codes_fingerprint: str | None = None,
) -> AudioTextTokenizer:
    """Put 64 control ids and a codec's audio ids behind any fast tokenizer.

    Args:
        base: a fast tokenizer, or a folder or hub id of one. It is not changed.
        codec: the codec whose codes get ids: ours, or an audio tokenizer of transformers.
        n_q: K, codebooks that get ids; None means all of the codec's.
        codebook_size: V; None means the codec's.
        codes_fingerprint: what the ids are bound to; None means the codec's.

    Returns:
        A tokenizer that reads every text as the base does, its special tokens, template, padding side and chat
        template among it. Where the base has no padding token, its end of sequence pads.

    Raises:
        TypeError: ``base`` is a slow tokenizer.
        ValueError: neither ``codec`` nor all three of the others are given, ``base`` has audio ids already,
            or it matches whole strings and leaves spaces in them, so that text could spell an audio id.
    """
    if isinstance(base, str | Path):
        base = AutoTokenizer.from_pretrained(base)
    if not isinstance(base, PreTrainedTokenizerBase) or not base.is_fast:
        raise TypeError(
            f"expected a fast tokenizer, got {type(base).__name__}; pass use_fast=True when loading it"
        )
    if "audio_offset" in base.init_kwargs:
        raise ValueError("this tokenizer has audio ids already; extend the one that it was made from")
    if codec is not None:
        facts = codec_facts(codec)
        n_q, codebook_size = n_q or facts.n_q, codebook_size or facts.codebook_size
        codes_fingerprint = codes_fingerprint or facts.codes_fingerprint
    if not (n_q and codebook_size and codes_fingerprint) or n_q < 1 or codebook_size < 1:
        raise ValueError(
            "expected a codec, or n_q >= 1, codebook_size >= 1 and codes_fingerprint, got "
            f"{n_q}, {codebook_size} and {codes_fingerprint!r}"
        )
    fast: Any = base
    source: Tokenizer = fast.backend_tokenizer
    backend, size = _extended(source, n_q, codebook_size)
    specials = {token.content: token for token in base.added_tokens_decoder.values()}
    named = {name: specials.get(str(token), token) for name, token in base.special_tokens_map.items()}
    named = {name: token for name, token in named.items() if name.endswith("_token")}
    if "pad_token" not in named and "eos_token" in named:
        named["pad_token"] = named["eos_token"]
    kept = {key: value for key in _KEPT if (value := getattr(base, key, None)) is not None}
    tokenizer = AudioTextTokenizer(
        tokenizer_object=backend,
        **named,
        **kept,
        n_q=n_q,
        codebook_size=codebook_size,
        codes_fingerprint=codes_fingerprint,
        control_offset=size,
        audio_offset=size + N_CONTROL,
    )
    # transformers writes a template of its own where it thinks there is none.
    tokenizer.backend_tokenizer.post_processor = source.post_processor
    tokenizer.check()
    for probe in _PROBES:
        if (got := tokenizer(probe)["input_ids"]) != (expected := base(probe)["input_ids"]):
            raise ValueError(
                f"this tokenizer cannot be extended: {probe!r} had ids {expected} and would have {got}"
            )
    return tokenizer


def _extended(source: Tokenizer, n_q: int, codebook_size: int) -> tuple[Tokenizer, int]:
    """The Rust tokenizer with more strings in its model, and the number of ids it had."""
    known = source.get_vocab(with_added_tokens=True)
    names = {index: token for token, index in known.items()}
    size = max(names) + 1
    # Tokens beside the model's vocabulary go into it: their ids are given out by its size when a file is read.
    strings = [names.get(index) or hidden_gap_token(index) for index in range(size)]
    strings += map(hidden_control_token, CONTROL_TOKENS)
    strings += (hidden_audio_token(k, code) for k in range(n_q) for code in range(codebook_size))
    content = json.loads(source.to_str())
    model = content["model"]
    if isinstance(
        model["vocab"], list
    ):  # Unigram: ids are places, and the score of an unknown is the lowest one's
        lowest = min(score for _, score in model["vocab"])
        model["vocab"] += [[string, lowest] for string in strings[len(model["vocab"]) :]]
    else:
        model["vocab"] = {string: index for index, string in enumerate(strings)}
    content["truncation"] = content["padding"] = None
    backend = Tokenizer.from_str(json.dumps(content))
    if backend.get_vocab_size(with_added_tokens=True) != len(strings):
        raise ValueError(
            "this tokenizer has two strings for one id, or ours among its own; it cannot be extended"
        )
    if model.get("type", "BPE") != "BPE" or model.get("ignore_merges"):
        _check_no_spaces(backend)
    return backend, size


def _check_no_spaces(backend: Tokenizer) -> None:
    """Refuse a tokenizer whose model is given text with a space in it: our strings hold one."""
    for probe in _SPACES:
        text = backend.normalizer.normalize_str(probe) if backend.normalizer else probe
        pieces = backend.pre_tokenizer.pre_tokenize_str(text) if backend.pre_tokenizer else [(text, ())]
        if any(" " in piece for piece, _ in pieces):
            raise ValueError(
                f"this tokenizer matches whole strings and leaves spaces in them ({probe!r} becomes "
                f"{[piece for piece, _ in pieces]}), so text could spell an audio id; give it a pre-tokenizer "
                "that splits at spaces or replaces them"
            )


def resize_embeddings(model: PreTrainedModel, tokenizer: AudioTextTokenizer, seed: int = 0) -> None:
    """Give a model rows for the control and audio ids of an extended tokenizer, in place.

    A row of the input starts as a draw from the normal distribution, width by width, of the rows that the
    text has; a row of the output at the mean of the text's rows and a tenth of that spread beside it, so that
    the new ids are neither impossible nor in the way. No two rows are equal.

    Args:
        model: any model with token embeddings; its text rows are not touched.
        tokenizer: from :func:`extend_tokenizer`; decides the rows.
        seed: of the draw.

    Raises:
        ValueError: the model has fewer rows than the base vocabulary had ids.
    """
    text_ids = tokenizer.control_offset
    given: Any = model.get_input_embeddings()
    old = given.weight.shape[0]
    if old < text_ids:
        raise ValueError(
            f"expected a model with rows for {text_ids} text ids, got {old}; is it another model's tokenizer?"
        )
    rows = max(old, tokenizer.padded_vocab_size)
    model.resize_token_embeddings(rows, mean_resizing=False)
    given = model.get_input_embeddings()
    output: Any = model.get_output_embeddings()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        _start_rows(given.weight, text_ids, 1.0, generator)
        if isinstance(output, nn.Linear) and output.weight is not given.weight:
            _start_rows(output.weight, text_ids, 0.1, generator)
        bias = getattr(output, "bias", None)
        if bias is not None:
            bias[text_ids:] = bias[:text_ids].mean()


def _start_rows(weight: Tensor, text_ids: int, spread: float, generator: torch.Generator) -> None:
    text = weight[:text_ids].float()
    new = torch.randn(weight.shape[0] - text_ids, weight.shape[1], generator=generator).to(weight.device)
    weight[text_ids:] = (text.mean(0) + spread * text.std(0) * new).to(weight.dtype)
