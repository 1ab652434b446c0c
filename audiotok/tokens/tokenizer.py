"""One vocabulary for text and audio codes, as a Hugging Face fast tokenizer.

Ids are ``[text | 64 reserved control ids | audio]`` with ``id = audio_offset + k * V + code`` for codebook k.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import BatchEncoding, PreTrainedTokenizerFast

from ..files import write_aside, write_json
from .chat import AudioIds, Conversation, encode_conversation, has_template, is_batch, render_conversation
from .layout import Cursor, Errors, FrameReader, Layout, as_tensor, flatten, unflatten

N_CONTROL = 64
TEXT_MODEL_FILE = "tokenizer.model"
IGNORED = -100  # label that losses ignore
_ROW_MULTIPLE = 64
_FILLS = {"attention_mask": 0, "labels": IGNORED, "assistant_masks": 0}

CONTROL_TOKENS = {
    "pad": "<pad>",
    "bos": "<bos>",
    "eos": "<eos>",
    "text_start": "<text>",
    "text_end": "</text>",
    "audio_start": "<audio>",
    "audio_end": "</audio>",
    **{f"voice_{i:02}": f"<voice_{i:02}>" for i in range(16)},
    "fill": "<fill>",  # fills the corners of the layout `delay`
    **{f"reserved_{i:02}": f"<reserved_{i:02}>" for i in range(24, N_CONTROL)},
}
"""Name -> readable token of the 64 reserved ids in order. A slot in use never moves."""
_CONTROL_INDEX = {name: index for index, name in enumerate(CONTROL_TOKENS)}

# Audio and control ids have two spellings. The readable one is used with a text vocabulary of single characters. The
# hidden one contains a space. Pre-tokenizers split at spaces or replace them, so no piece of text matches it.


def audio_token(codebook: int, code: int) -> str:
    """Readable string of a code: ``<|a0_17|>`` is code 17 of codebook 0."""
    return f"<|a{codebook}_{code}|>"


def hidden_audio_token(codebook: int, code: int) -> str:
    """Hidden string of a code: ``<|a0 17|>``."""
    return f"<|a{codebook} {code}|>"


def hidden_control_token(name: str) -> str:
    """Hidden string of a control id: ``<|audiotok pad|>``."""
    return f"<|audiotok {name}|>"


class AudioTextTokenizer(PreTrainedTokenizerFast):
    """A fast tokenizer for text and audio codes.

    :func:`build_tokenizer`, :func:`extend_tokenizer` and :meth:`from_pretrained` make one. Batches, padding, pairs,
    truncation and offsets work as in :class:`transformers.PreTrainedTokenizerFast`. No text yields an audio id or a
    control id. A saved folder also opens with ``AutoTokenizer`` where audiotok is not installed.

    Attributes:
        n_q: K, codebooks that have ids.
        codebook_size: V, entries per codebook.
        codes_fingerprint: the codec that the audio ids belong to.
        control_offset: id of the first control token; also the number of text ids.
        audio_offset: id of code 0 of codebook 0.
    """

    # There is no __init__, because transformers would rebuild the backend and lose its byte fallback. The attributes
    # are stored as init arguments, which a plain PreTrainedTokenizerFast keeps too.

    # Bytes of a sentencepiece model, saved as ``tokenizer.model``. A path would not survive copies in other processes.
    text_model: bytes | None = None
    _specials: frozenset[int] | None = None

    n_q = property(lambda self: self._stored("n_q"))
    codebook_size = property(lambda self: self._stored("codebook_size"))
    codes_fingerprint = property(lambda self: self._stored("codes_fingerprint"))
    control_offset = property(lambda self: self._stored("control_offset"))
    audio_offset = property(lambda self: self._stored("audio_offset"))

    @property
    def padded_vocab_size(self) -> int:
        """Rows for a model's embedding: the vocabulary size rounded up to a multiple of 64."""
        return -(-len(self) // _ROW_MULTIPLE) * _ROW_MULTIPLE

    @property
    def pad_id(self) -> int:
        """The id of the padding token, or else the control id."""
        return self.control_id("pad") if self.pad_token_id is None else self.pad_token_id  # type: ignore[return-value]

    def control_id(self, name: str) -> int:
        """The id of a control token.

        Args:
            name: ``pad``, ``bos``, ``eos``, ``text_start``, ``text_end``, ``audio_start``, ``audio_end``,
                ``voice_00`` to ``voice_15``, ``fill``, or ``reserved_24`` to ``reserved_63``.

        Raises:
            ValueError: no control token has this name.
        """
        if name not in _CONTROL_INDEX:
            raise ValueError(f"unknown control token {name!r}; choose from {', '.join(_CONTROL_INDEX)}")
        return self.control_offset + _CONTROL_INDEX[name]

    # ---- audio

    def encode_audio(self, codes: Any, layout: Layout = "flat") -> list[int]:
        """Turn codes into ids.

        Args:
            codes: [K, T] integers in [0, V), 1 <= K <= n_q: a tensor, an array or nested lists.
            layout: ``flat``, ``delay``, ``coarse`` or ``first``; see :func:`audiotok.flatten`.

        Returns:
            Ids in [audio_offset, len(self)), with the control id ``fill`` in the corners of ``delay``.
            :func:`audiotok.sequence_length` gives their number.

        Raises:
            TypeError: ``codes`` are not integers.
            ValueError: the shape or a code is out of range, or the layout is unknown.
        """
        codes = as_tensor(codes)
        if codes.ndim == 2 and codes.shape[0] > self.n_q:
            raise ValueError(
                f"expected codes of at most {self.n_q} codebooks, got {codes.shape[0]} rows; a wav is floats"
            )
        fill = self.control_id("fill")
        return flatten(codes, self.codebook_size, layout, self.audio_offset, fill).tolist()

    def decode_audio(
        self,
        ids: Sequence[int] | Tensor,
        layout: Layout = "flat",
        n_q: int | None = None,
        errors: Errors = "strict",
    ) -> Any:
        """Turn audio ids back into codes: the inverse of :meth:`encode_audio`.

        Args:
            ids: [S] audio ids, without the markers around them.
            layout: the layout of the ids.
            n_q: K, codebooks in them; None means all of the tokenizer's. ``first`` always holds one.
            errors: ``strict``, or ``repair`` to keep whole frames and count what was lost.

        Returns:
            Codes or :class:`Repaired`, as :func:`audiotok.unflatten`, which also states the errors.
        """
        symbols = (
            self.check_n_q(n_q),
            self.codebook_size,
            layout,
            self.audio_offset,
            self.control_id("fill"),
        )
        return unflatten(ids, *symbols, errors=errors)

    def audio_reader(
        self, layout: Layout = "flat", n_q: int | None = None, errors: Errors = "strict"
    ) -> FrameReader:
        """A session that takes audio ids one at a time and returns complete frames."""
        fill = self.control_id("fill")
        return FrameReader(layout, self.check_n_q(n_q), self.codebook_size, self.audio_offset, fill, errors)

    def audio_cursor(self, layout: Layout = "flat", n_q: int | None = None) -> Cursor:
        """A cursor that gives the ids that may come next in a block of audio ids."""
        fill = self.control_id("fill")
        return Cursor(layout, self.check_n_q(n_q), self.codebook_size, self.audio_offset, fill)

    def check_n_q(self, n_q: int | None) -> int:
        """Return ``n_q``, or the tokenizer's for None. Raises ValueError if the tokenizer has fewer codebooks."""
        count: int = self.n_q if n_q is None else n_q
        if not 1 <= count <= self.n_q:
            raise ValueError(f"expected n_q in [1, {self.n_q}], got {count}")
        return count

    # ---- text and conversations

    def encode_text(self, text: str) -> list[int]:
        """Turn text into text ids. Names of special tokens are encoded as plain text.

        Returns:
            Ids in [0, control_offset), without special tokens.

        Raises:
            TypeError: ``text`` is not a string.
            ValueError: ``text`` holds a lone surrogate or a token of ``add_tokens()``.
        """
        if not isinstance(text, str):
            raise TypeError(f"expected text as a str, got {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"expected Unicode text, got a lone surrogate at character {error.start}"
            ) from None
        coded = self(
            text,
            add_special_tokens=False,
            split_special_tokens=True,
            return_offsets_mapping=True,
            verbose=False,
        )
        ids = coded["input_ids"]
        if self._specials is None:
            added = self.added_tokens_decoder.items()
            self._specials = frozenset(i for i, token in added if token.special and i != self.unk_token_id)
        forbidden = next(
            (at for at, i in enumerate(ids) if i >= self.control_offset or i in self._specials), None
        )
        if forbidden is None:
            return ids
        # Unigram matches whole strings of its vocabulary, so it would find its special tokens in plain text.
        start, stop = coded["offset_mapping"][forbidden]
        if ids[forbidden] >= self.control_offset or stop - start < 2:
            raise ValueError("the text contains a token of add_tokens(); remove it from the text")
        return self.encode_text(text[: start + 1]) + self.encode_text(text[start + 1 :])

    def apply_chat_template(  # type: ignore[override]  # the other options go through to the template
        self,
        conversation: Sequence[Mapping[str, Any]] | Sequence[Sequence[Mapping[str, Any]]],
        *,
        tokenize: bool = True,
        return_dict: bool = True,
        return_assistant_tokens_mask: bool = False,
        labels: bool | None = False,
        audio_ids: AudioIds | None = None,
        padding: bool | str = False,
        truncation: bool | str = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        tokenizer_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Turn a conversation, or a batch of them, into ids. Every string in it is encoded on its own, as text.

        Args:
            conversation: messages with ``role`` and ``content``, or a list of conversations.
            tokenize: false returns the rendered text for display. Do not tokenise it, because special tokens in
                messages are not escaped.
            return_dict: false returns the ids alone.
            return_assistant_tokens_mask: also return ``assistant_masks``, 1 for the ids in the template's
                ``{% generation %}`` blocks, or without such blocks for the assistant's content and the special token
                after it.
            labels: also return ``labels``: the ids of the assistant mask, -100 elsewhere.
            audio_ids: returns the ids of an audio part with its markers; None refuses such parts.
            padding, truncation, max_length, return_tensors: as in :meth:`batch_rows`.
            tokenizer_kwargs: more arguments of :meth:`batch_rows`.
            options: ``chat_template``, ``tools``, ``documents``, ``add_generation_prompt``,
                ``continue_final_message`` and variables of the template.

        Returns:
            A BatchEncoding of ``input_ids``, ``attention_mask`` and the requested keys, or the ids, or text.

        Raises:
            ValueError: the conversation is empty or malformed, or the template leaves its content out.
        """
        batched = is_batch(conversation)
        batch: Any = conversation if batched else [conversation]
        options.pop("sanitize_control_tokens", None)  # always so
        if not tokenize:
            if not has_template(self, options):
                raise ValueError("expected a chat template to render, got none; pass chat_template=...")
            texts = [render_conversation(self, messages, options) for messages in batch]
            return texts if batched else texts[0]
        rows = [encode_conversation(self, messages, options, audio_ids) for messages in batch]
        given = {"padding": padding, "truncation": truncation, "max_length": max_length}
        given |= {"return_tensors": return_tensors, **(tokenizer_kwargs or {})}
        features = conversation_rows(rows, bool(labels), return_assistant_tokens_mask)
        out = BatchEncoding(self.batch_rows(features, not batched, **given))
        return out if return_dict else out["input_ids"]

    def batch_rows(
        self,
        rows: Sequence[Mapping[str, Any]],
        single: bool = False,
        *,
        padding: bool | str = False,
        truncation: bool | str = False,
        max_length: int | None = None,
        padding_side: str | None = None,
        pad_to_multiple_of: int | None = None,
        return_tensors: str | None = None,
        **others: Any,
    ) -> dict[str, Any]:
        """Truncate and pad sequences to a batch.

        Args:
            rows: B dicts of ``input_ids`` and, of the same length, ``attention_mask``, ``labels`` or
                ``assistant_masks``.
            single: without tensors, return the lists of the only row instead of lists of lists.
            padding: true or ``longest``, ``max_length``, or false or ``do_not_pad``.
            truncation: cut to ``max_length`` ids on the tokenizer's ``truncation_side``.
            max_length: ids; None means the tokenizer's ``model_max_length``.
            padding_side: ``left`` or ``right``; None means the tokenizer's.
            pad_to_multiple_of: round the padded length up to a multiple of this.
            return_tensors: ``pt`` or ``np`` for [B, S] int64; None for lists.
            others: options of ``__call__`` without an effect here, such as ``add_special_tokens``.

        Returns:
            ``input_ids``, ``attention_mask``, and the other keys of the rows.

        Raises:
            ValueError: an option is unknown, or rows of different lengths cannot become tensors.
        """
        unknown = [key for key, value in others.items() if value and key not in _WITHOUT_EFFECT]
        if unknown:
            raise ValueError(f"{', '.join(unknown)}: not supported for sequences of text and audio")
        if padding not in (True, False, "longest", "max_length", "do_not_pad"):
            raise ValueError(f"expected padding True, longest, max_length or do_not_pad, got {padding!r}")
        pads = padding not in (False, "do_not_pad")
        tensors = getattr(return_tensors, "value", return_tensors)
        if tensors not in (None, "pt", "np"):
            raise ValueError(f"unknown return_tensors {return_tensors!r}; choose from pt, np, None")
        cuts = truncation not in (False, None, "do_not_truncate")
        limit = self.model_max_length if max_length is None else max_length
        if limit > 10**9 and (cuts or padding == "max_length"):  # the value of transformers for no limit
            raise ValueError("expected max_length with truncation or padding='max_length', got none")
        batch: list[dict[str, list[int]]] = []
        for row in rows:
            size = len(row["input_ids"])
            kept = min(size, limit) if cuts else size
            keep = slice(size - kept, None) if self.truncation_side == "left" else slice(kept)
            full = {"input_ids": row["input_ids"], "attention_mask": [1] * size, **row}
            batch.append({key: list(value)[keep] for key, value in full.items()})
        width = max((len(row["input_ids"]) for row in batch), default=0)
        if padding == "max_length":
            width = max(width, limit)
        width = -(-width // (pad_to_multiple_of or 1)) * (pad_to_multiple_of or 1)
        for row in batch if pads else ():
            for key, value in row.items():
                fill = [_FILLS.get(key, self.pad_id)] * (width - len(value))
                row[key] = fill + value if (padding_side or self.padding_side) == "left" else value + fill
        if tensors is None and single:
            return dict(batch[0])
        columns = {key: [row[key] for row in batch] for key in batch[0]}
        if tensors is None:
            return columns
        if len(set(map(len, columns["input_ids"]))) > 1:
            raise ValueError("rows of several lengths cannot be tensors; pass padding=True")
        arrays = {key: np.array(value, dtype=np.int64) for key, value in columns.items()}
        return arrays if tensors == "np" else {key: torch.from_numpy(array) for key, array in arrays.items()}

    # ---- files

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> AudioTextTokenizer:
        """Open a saved tokenizer as ``PreTrainedTokenizerFast.from_pretrained`` does, and check it.

        Raises:
            OSError: there is no such folder or hub id.
            ValueError: the tokenizer has no audio ids, or its ids contradict its tokenizer_config.json.
        """
        tokenizer = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        tokenizer.check()
        file = getattr(tokenizer, "vocab_file", None)
        tokenizer.text_model = Path(file).read_bytes() if file and Path(file).is_file() else None
        return tokenizer

    @classmethod
    def from_plain(cls, tokenizer: Any) -> AudioTextTokenizer:
        """Add the methods for audio to the plain class that ``AutoTokenizer`` returns.

        Raises:
            TypeError: ``tokenizer`` is not a fast tokenizer with audio ids.
        """
        if isinstance(tokenizer, cls):
            return tokenizer
        if not isinstance(tokenizer, PreTrainedTokenizerFast) or "audio_offset" not in tokenizer.init_kwargs:
            raise TypeError(
                f"expected a tokenizer with audio ids, got {type(tokenizer).__name__}; make one with "
                "extend_tokenizer(), or open a saved folder with AudioTextTokenizer.from_pretrained()"
            )
        twin: Any = copy.deepcopy(tokenizer)
        twin.__class__ = cls
        twin.backend_tokenizer.encode_special_tokens = twin.split_special_tokens
        twin.check()
        return twin

    def check(self) -> None:
        """Raise ValueError if the ids of a tokenizer contradict its tokenizer_config.json."""
        last = (self.n_q - 1, self.codebook_size - 1)
        end = self.audio_offset + self.n_q * self.codebook_size - 1
        readable = self.backend_tokenizer.token_to_id(audio_token(0, 0)) is not None
        name = audio_token if readable else hidden_audio_token
        control = CONTROL_TOKENS["pad"] if readable else hidden_control_token("pad")
        expected = {control: self.control_offset, name(0, 0): self.audio_offset, name(*last): end}
        for token, where in expected.items():
            if (got := self.backend_tokenizer.token_to_id(token)) != where:
                raise ValueError(f"damaged tokenizer: expected {token} at id {where}, got {got}")
        if readable and not self.split_special_tokens:
            raise ValueError("damaged tokenizer: expected split_special_tokens true in tokenizer_config.json")

    def _stored(self, name: str) -> Any:
        if name not in self.init_kwargs:
            raise ValueError(
                f"expected a tokenizer with audio ids, but its tokenizer_config.json has no {name!r}; "
                "make one with audiotok.build_tokenizer() or audiotok.extend_tokenizer()"
            )
        return self.init_kwargs[name]

    def _add_tokens(self, new_tokens: Any, special_tokens: bool = False) -> int:
        self._specials = None
        return super()._add_tokens(new_tokens, special_tokens)

    def _decode(self, token_ids: Any, skip_special_tokens: bool = False, **kwargs: Any) -> str:
        if skip_special_tokens:
            given = [token_ids] if isinstance(token_ids, int) else token_ids
            audio = range(self.control_offset, self.audio_offset + self.n_q * self.codebook_size)
            token_ids = [i for i in given if i not in audio]
        return super()._decode(token_ids, skip_special_tokens=skip_special_tokens, **kwargs)

    def _save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        file_names: tuple[str, ...],
        legacy_format: bool | None = None,
        filename_prefix: str | None = None,
    ) -> tuple[str, ...]:
        names = super()._save_pretrained(save_directory, file_names, legacy_format, filename_prefix)
        folder, prefix = Path(save_directory), f"{filename_prefix}-" if filename_prefix else ""
        config_file = folder / f"{prefix}tokenizer_config.json"
        config = json.loads(config_file.read_text(encoding="utf-8"))
        for key in ("is_local", "local_files_only"):  # describes how this tokenizer was opened
            config.pop(key, None)
        # transformers 4 accepts the list only under its old name, and it would look for a class with audiotok's name.
        if extra := config.pop("extra_special_tokens", None):
            config["additional_special_tokens"] = extra
        fields = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
        added = {str(i): {f: getattr(t, f) for f in fields} for i, t in self.added_tokens_decoder.items()}
        config |= {"tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": added}
        write_json(config_file, config)
        if CONTROL_TOKENS["pad"] in self.added_tokens_encoder and self.split_special_tokens:
            # Readers of tokenizer.json alone would map control tokens in text to control ids.
            backend_file = folder / f"{prefix}tokenizer.json"
            backend = json.loads(backend_file.read_text(encoding="utf-8"))
            kept = [token for token in backend["added_tokens"] if token["id"] < self.control_offset]
            write_json(backend_file, backend | {"added_tokens": kept})
        if self.text_model is None:
            return names
        model_file = folder / f"{prefix}{TEXT_MODEL_FILE}"
        with write_aside(model_file) as aside:
            aside.write_bytes(self.text_model)
        return (*names, str(model_file))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # The Rust backend loses this setting when it is pickled or copied.
        self.backend_tokenizer.encode_special_tokens = self.split_special_tokens


_WITHOUT_EFFECT = (
    "add_special_tokens verbose return_attention_mask return_token_type_ids return_mm_token_type_ids "
    "return_text_replacement_offsets split_special_tokens clean_up_tokenization_spaces sampling_rate "
    "sanitize_control_tokens"
).split()


def conversation_rows(rows: Sequence[Conversation], labels: bool, masks: bool) -> list[dict[str, list[int]]]:
    """Rows of ``input_ids``, and of ``labels`` and ``assistant_masks`` if wanted."""
    features = []
    for ids, answer in rows:
        features.append({"input_ids": ids})
        if labels:
            features[-1]["labels"] = [i if said else IGNORED for i, said in zip(ids, answer, strict=True)]
        if masks:
            features[-1]["assistant_masks"] = [int(said) for said in answer]
    return features
