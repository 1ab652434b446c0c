"""Tokenizers with audio ids: extend any fast tokenizer and its model, or build one over a character vocabulary."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import sentencepiece
import torch
from tokenizers import Tokenizer, decoders, models, normalizers
from torch import Tensor, nn
from transformers import AddedToken, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..codec.base import Codec
from ..codec.pretrained import checkpoint_dir, load_codec
from .tokenizer import (
    CONTROL_TOKENS,
    N_CONTROL,
    TEXT_MODEL_FILE,
    AudioTextTokenizer,
    audio_token,
    hidden_audio_token,
    hidden_control_token,
)

SPACE = "\u2581"  # sentencepiece's sign for a space
_KEPT = (
    "model_max_length padding_side truncation_side model_input_names clean_up_tokenization_spaces "
    "split_special_tokens chat_template"
).split()
# Texts that show whether a text model and the tokenizer built from it have the same settings.
_TEXT_PROBES = "a| a|a  b |\tA\r\n|\u2460\ufb01|e\u0301\u00e9|\u0000|<0x41><s></s><unk>|\u2581".split("|")
_SPACE_PROBES = "a b| a  b |\ta\u00a0b\u3000c|<|a0 0|> x|x<|audiotok pad|>|\u2003a \n b".split("|")
_BASE_PROBES = [
    "Hello there, 123 x\u00e9!",
    "  \u4f60\u597d \U0001f600\n\tdef f(x):\r\n",
    "",
    "\u0000\u2581 <|a0 0|>",
]


def as_codec(codec: Any) -> Any:
    """Adapt a codec of transformers; a codec of audiotok is returned as it is.

    Raises:
        ValueError: the codec cannot be adapted, or it has a scale per segment, which ids cannot represent.
    """
    if not isinstance(codec, Codec):
        from ..codec.adapters import adapt  # imports the modelling code, which only such a codec needs

        codec = adapt(codec)
    if codec.has_scale:
        raise ValueError(
            f"{codec.config.codec_name} has scales, which ids cannot represent; use another codec"
        )
    return codec


def extend_tokenizer(
    base: PreTrainedTokenizerBase | str | Path,
    codec: PreTrainedModel | None = None,
    *,
    n_q: int | None = None,
    codebook_size: int | None = None,
    codes_fingerprint: str | None = None,
) -> AudioTextTokenizer:
    """Add 64 control ids and the audio ids of a codec to any fast tokenizer.

    The new strings are added to the vocabulary of the tokenizer's own model such that no text matches them: BPE without
    ``ignore_merges`` only produces strings that merges lead to, and in other models no pre-token contains a space, as
    every new string does.

    Args:
        base: a fast tokenizer, or a folder or hub id of one. It is not changed.
        codec: the codec whose codes get ids, of audiotok or of transformers.
        n_q: K, codebooks that get ids; None means all of the codec's.
        codebook_size: V; None means the codec's.
        codes_fingerprint: identity of the codec; None means the codec's.

    Returns:
        A tokenizer that encodes every text to the same ids as ``base``. It keeps the special tokens, chat template and
        padding side of ``base``. If ``base`` has no padding token, its EOS token is used for padding.

    Raises:
        TypeError: ``base`` is a slow tokenizer.
        ValueError: neither ``codec`` nor all three other arguments are given, ``base`` has audio ids already, or it
            matches whole strings with spaces, so that text could spell an audio id.
    """
    if isinstance(base, str | Path):
        base = AutoTokenizer.from_pretrained(base)
    if not isinstance(base, PreTrainedTokenizerBase) or not base.is_fast:
        raise TypeError(f"expected a fast tokenizer, got {type(base).__name__}; pass use_fast=True")
    if "audio_offset" in base.init_kwargs:
        raise ValueError("this tokenizer has audio ids already; use AudioTextTokenizer.from_pretrained()")
    if codec is not None:
        ours = as_codec(codec)
        n_q, codebook_size = n_q or ours.config.n_q, codebook_size or ours.config.codebook_size
        codes_fingerprint = codes_fingerprint or ours.codes_fingerprint
    source: Tokenizer = base.backend_tokenizer  # type: ignore[attr-defined]
    size = max(source.get_vocab(with_added_tokens=True).values()) + 1
    facts = _facts(n_q, codebook_size, codes_fingerprint, size)
    specials = {token.content: token for token in base.added_tokens_decoder.values()}  # type: ignore[attr-defined]
    named = {name: specials.get(str(token), token) for name, token in base.special_tokens_map.items()}
    named = {name: token for name, token in named.items() if name.endswith("_token")}
    if "pad_token" not in named and "eos_token" in named:
        named["pad_token"] = named["eos_token"]
    kept = {key: value for key in _KEPT if (value := getattr(base, key, None)) is not None}
    backend = _extended(source, size, facts["n_q"], facts["codebook_size"])
    tokenizer = AudioTextTokenizer(tokenizer_object=backend, **named, **kept, **facts)
    # transformers writes its own post-processor if there is none.
    tokenizer.backend_tokenizer.post_processor = source.post_processor
    tokenizer.check()
    for probe in _BASE_PROBES:
        if (got := tokenizer(probe)["input_ids"]) != (expected := base(probe)["input_ids"]):
            raise ValueError(f"cannot extend: {probe!r} had ids {expected} and would have {got}")
    return tokenizer


def _facts(
    n_q: int | None, codebook_size: int | None, codes_fingerprint: str | None, size: int
) -> dict[str, Any]:
    """The attributes of a tokenizer over ``size`` text ids."""
    if not (n_q and codebook_size and codes_fingerprint) or n_q < 1 or codebook_size < 1:
        raise ValueError(
            "expected a codec, or n_q >= 1, codebook_size >= 1 and codes_fingerprint, got "
            f"{n_q}, {codebook_size} and {codes_fingerprint!r}"
        )
    facts = {"n_q": n_q, "codebook_size": codebook_size, "codes_fingerprint": codes_fingerprint}
    return facts | {"control_offset": size, "audio_offset": size + N_CONTROL}


def _extended(source: Tokenizer, size: int, n_q: int, codebook_size: int) -> Tokenizer:
    """The Rust tokenizer with more strings in its model, from id ``size`` on."""
    names = {index: token for token, index in source.get_vocab(with_added_tokens=True).items()}
    # Added tokens move into the model's vocabulary, because a saved file numbers them by the vocabulary size. Gaps
    # between ids get a string too.
    strings = [names.get(index) or f"<|audiotok gap {index}|>" for index in range(size)]
    strings += map(hidden_control_token, CONTROL_TOKENS)
    strings += (hidden_audio_token(k, code) for k in range(n_q) for code in range(codebook_size))
    content = json.loads(source.to_str())
    model = content["model"]
    if isinstance(model["vocab"], list):  # Unigram: the id is the position in the list
        lowest = min(score for _, score in model["vocab"])
        model["vocab"] += [[string, lowest] for string in strings[len(model["vocab"]) :]]
    else:
        model["vocab"] = {string: index for index, string in enumerate(strings)}
    content["truncation"] = content["padding"] = None
    backend = Tokenizer.from_str(json.dumps(content))
    if backend.get_vocab_size(with_added_tokens=True) != len(strings):
        raise ValueError("cannot extend: the tokenizer has two strings for an id, or audiotok's strings")
    if model.get("type", "BPE") == "BPE" and not model.get("ignore_merges"):
        return backend
    # Other models match whole pre-tokens, which must not contain the space of audiotok's strings.
    for probe in _SPACE_PROBES:
        text = backend.normalizer.normalize_str(probe) if backend.normalizer else probe
        pieces = backend.pre_tokenizer.pre_tokenize_str(text) if backend.pre_tokenizer else [(text, ())]
        if any(" " in piece for piece, _ in pieces):
            raise ValueError(
                f"this tokenizer matches whole strings and leaves spaces in them ({probe!r}), so text could spell an "
                "audio id; give it a pre-tokenizer that splits at spaces or replaces them"
            )
    return backend


def resize_embeddings(model: PreTrainedModel, tokenizer: AudioTextTokenizer, seed: int = 0) -> None:
    """Add embedding rows for the control and audio ids of an extended tokenizer to a model, in place.

    New input rows are drawn from a normal distribution with the mean and deviation of the text rows in every
    dimension. New output rows are drawn around the mean of the text rows with a tenth of their deviation, so that
    the new ids start with average logits. No two rows are equal.

    Args:
        model: any model with token embeddings; its text rows stay as they are.
        tokenizer: from :func:`extend_tokenizer`.
        seed: seed of the draw.

    Raises:
        ValueError: the model has fewer rows than the base vocabulary has ids.
    """
    text_ids = tokenizer.control_offset
    given: Any = model.get_input_embeddings()
    old = given.weight.shape[0]
    if old < text_ids:
        raise ValueError(f"expected a model with {text_ids} rows or more for the text ids, got {old}")
    model.resize_token_embeddings(max(old, tokenizer.padded_vocab_size), mean_resizing=False)
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


# ---- tokenizers over a character vocabulary


def build_tokenizer(
    text_model: str | Path, n_q: int = 8, codebook_size: int = 1024, *, codes_fingerprint: str
) -> AudioTextTokenizer:
    """Add control and audio ids to a character vocabulary.

    Args:
        text_model: a sentencepiece ``.model`` of single characters with byte fallback, identity normalisation, no
            dummy prefix and all spaces, as the shipped ``text-en``.
        n_q: K, codebooks that get ids.
        codebook_size: V, entries per codebook.
        codes_fingerprint: ``codec.codes_fingerprint`` of the codec whose codes get ids.

    Returns:
        A tokenizer whose text ids are those of the text model.

    Raises:
        FileNotFoundError: ``text_model`` does not exist.
        ValueError: ``text_model`` is not such a model, a size is below 1, or the fingerprint is empty.
    """
    proto = Path(text_model).read_bytes()
    try:
        text = sentencepiece.SentencePieceProcessor(model_proto=proto)
    except RuntimeError as error:
        raise ValueError(f"{text_model} is not a sentencepiece model: {error}") from error
    size = text.get_piece_size()
    facts = _facts(n_q, codebook_size, codes_fingerprint, size)
    pieces = [text.id_to_piece(i) for i in range(size)]
    for i, piece in enumerate(pieces):
        if len(piece) > 1 and not (text.is_byte(i) or text.is_control(i) or text.is_unknown(i)):
            raise ValueError(f"{text_model}: expected a model of single characters, got the piece {piece!r}")
    new = [audio_token(k, code) for k in range(n_q) for code in range(codebook_size)]
    vocab = {string: i for i, string in enumerate([*pieces, *CONTROL_TOKENS.values(), *new])}
    if len(vocab) != facts["audio_offset"] + len(new):
        raise ValueError(f"{text_model}: expected no piece named like a control or audio token")
    # BPE without merges matches single characters only, so text cannot yield control and audio tokens. The control
    # tokens are special tokens in transformers too, where split_special_tokens prevents that text yields them.
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", SPACE)
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence(steps)
    backend.encode_special_tokens = True
    for probe in _TEXT_PROBES:
        if text.encode(probe) != backend.encode(probe).ids:
            raise ValueError(
                f"{text_model}: expected a text model with byte fallback, identity normalisation, no dummy prefix and "
                f"all spaces; this one encodes {probe!r} differently"
            )
    tokenizer = AudioTextTokenizer(
        tokenizer_object=backend,
        pad_token=CONTROL_TOKENS["pad"],
        bos_token=CONTROL_TOKENS["bos"],
        eos_token=CONTROL_TOKENS["eos"],
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
        **facts,
    )
    # Saved in tokenizer_config.json only, because readers of tokenizer.json alone would map typed control names to
    # control ids.
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in CONTROL_TOKENS.values()])
    tokenizer.text_model = proto
    tokenizer.check()
    return tokenizer


def load_tokenizer(name_or_path: str | Path | None = None) -> AudioTextTokenizer:
    """Load a tokenizer.

    Args:
        name_or_path: the name of a shipped codec (None: the default one) gives the shipped English character
            vocabulary with that codec's ids; a folder or a hub id ``owner/name`` gives the tokenizer saved there.

    Raises:
        FileNotFoundError: there is no such shipped codec, or no tokenizer in the folder.
        OSError: the hub has no such tokenizer either.
        ValueError: the saved tokenizer has no audio ids.
    """
    name = None if name_or_path is None else str(name_or_path)
    if name is None or ("/" not in name and not name.startswith((".", "~"))):
        codec = load_codec(name)
        return build_tokenizer(
            checkpoint_dir("text-en") / TEXT_MODEL_FILE,
            codec.config.n_q,
            codec.config.codebook_size,
            codes_fingerprint=codec.codes_fingerprint,
        )
    folder = Path(name).expanduser()
    if name.startswith((".", "/", "~")) or folder.is_dir():
        if not (folder / "tokenizer.json").is_file():
            raise FileNotFoundError(f"no saved tokenizer in {folder}: it has no tokenizer.json")
        name = str(folder)
    return AudioTextTokenizer.from_pretrained(name)
