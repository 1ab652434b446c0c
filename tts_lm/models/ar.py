"""The AR model (VALL-E, arXiv:2301.02111): a stock Llama over text and audio ids that predicts codebook 0."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from ..text.phonemes import PHONEMES

MAX_POSITIONS = 2048


def build_ar(
    tokenizer: Any, frame_rate: float, hidden_size: int, layers: int, heads: int, intermediate_size: int
) -> LlamaForCausalLM:
    """Build a new, untrained model.

    Args:
        tokenizer: an ``audiotok`` tokenizer; its layout and fingerprint are written into the config.
        frame_rate: frame rate of the codec in Hz.
        hidden_size: width D.
        layers: number of blocks.
        heads: number of attention heads, which must divide D.
        intermediate_size: width inside the feed-forward blocks.

    Raises:
        ValueError: hidden_size is not a multiple of heads.
    """
    if hidden_size % heads:
        raise ValueError(f"expected hidden_size to be a multiple of heads, got {hidden_size} and {heads}")
    config = LlamaConfig(
        vocab_size=tokenizer.padded_vocab_size,
        hidden_size=hidden_size,
        intermediate_size=intermediate_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        rms_norm_eps=1e-5,
        bos_token_id=tokenizer.control_id("bos"),
        eos_token_id=tokenizer.control_id("audio_end"),
        pad_token_id=tokenizer.control_id("pad"),
    )
    config.audio = {
        "codes_fingerprint": tokenizer.codes_fingerprint,
        "n_q": tokenizer.n_q,
        "codebook_size": tokenizer.codebook_size,
        "frame_rate": frame_rate,
        "audio_offset": tokenizer.audio_offset,
    }
    return LlamaForCausalLM(config)


def save_ar(model: LlamaForCausalLM, folder: str | Path, tokenizer: Any = None) -> None:
    """Write a stock Llama folder whose generation ends at ``</audio>``.

    Args:
        model: a model of :func:`build_ar`.
        folder: folder for the safetensors, config and generation config.
        tokenizer: saved with the model, for other engines and converters, with ``</audio>`` as its end of
            sequence.
    """
    config = model.config
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=config.eos_token_id,
        pad_token_id=config.pad_token_id,
        do_sample=True,
        temperature=1.0,
        top_p=0.9,
        top_k=0,
        max_new_tokens=1024,
    )
    model.save_pretrained(folder)
    if tokenizer is not None:
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.eos_token = tokenizer.convert_ids_to_tokens(config.eos_token_id)
        tokenizer.save_pretrained(str(folder))


def character_ids(tokenizer: Any) -> dict[str, int]:
    """Map the text symbols of a model to ids.

    Args:
        tokenizer: tokenizer of the model. If it has an id for every symbol of ``PHONEMES``, the symbols are English and
            Mandarin phonemes; otherwise they are printable ASCII characters.

    Raises:
        ValueError: the tokenizer splits or merges some of them.
    """
    for symbols in (PHONEMES, [chr(code) for code in range(32, 127)]):
        ids = {symbol: tokenizer.encode_text(symbol) for symbol in symbols}
        if all(len(found) == 1 for found in ids.values()):
            return {symbol: found[0] for symbol, found in ids.items()}
    raise ValueError("expected a tokenizer with one id for each printable character; use load_tokenizer()")
