"""One vocabulary for text and sound, as a Hugging Face fast tokenizer.

Ids: ``[text | 64 reserved control ids | audio k * V + code, level-major]``. Text ids are those of the text
vocabulary in front, audio ids are arithmetic. Knows nothing of waveforms or models. The law it keeps: no
text, however it comes in, yields an audio id or a control id.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor
from transformers import BatchEncoding, PreTrainedTokenizerFast

from ..files import write_aside, write_json
from .chat import encode_conversation, is_batch
from .layout import Cursor, FrameReader, Layout, Repaired, flatten, unflatten

N_CONTROL = 64
ROW_MULTIPLE = 64
N_VOICES = 16


def _control_tokens() -> dict[str, str]:
    """Name -> readable token for the 64 reserved ids, in the order of their ids."""
    tokens = {
        "pad": "<pad>",
        "bos": "<bos>",
        "eos": "<eos>",
        "text_start": "<text>",
        "text_end": "</text>",
        "audio_start": "<audio>",
        "audio_end": "</audio>",
    }
    tokens |= {f"voice_{i:02}": f"<voice_{i:02}>" for i in range(N_VOICES)}
    tokens |= {"fill": "<fill>"}  # the corners of the layout `delay`
    return tokens | {f"reserved_{i:02}": f"<reserved_{i:02}>" for i in range(len(tokens), N_CONTROL)}


CONTROL_TOKENS = _control_tokens()
CONTROL_INDEX = {name: index for index, name in enumerate(CONTROL_TOKENS)}


def audio_token(codebook: int, code: int) -> str:
    """The readable string of a code: ``<|a0_17|>`` is code 17 of codebook 0. Typed, it is plain text."""
    return f"<|a{codebook}_{code}|>"


def hidden_audio_token(codebook: int, code: int) -> str:
    """The hidden string of a code: ``<|a0 17|>``."""
    return f"<|a{codebook} {code}|>"


def hidden_control_token(name: str) -> str:
    """The hidden string of a control id: ``<|audiotok pad|>``."""
    return f"<|audiotok {name}|>"


def hidden_gap_token(index: int) -> str:
    """The hidden string of an id that the base vocabulary leaves out."""
    return f"<|audiotok gap {index}|>"


def portable_config(config: dict[str, Any], added: Mapping[int, Any]) -> dict[str, Any]:
    """A tokenizer_config.json that every transformers from 4.57 on opens without our code."""
    for key in ("is_local", "local_files_only"):  # about how this one was opened, not about the tokenizer
        config.pop(key, None)
    # transformers 4 takes a list under its old name only, and would look for a class by our class's name.
    if extra := config.pop("extra_special_tokens", None):
        config["additional_special_tokens"] = extra
    fields = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")
    tokens = {str(i): {field: getattr(token, field) for field in fields} for i, token in added.items()}
    return config | {"tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": tokens}


def hide_control_tokens(file: Path, control_offset: int) -> None:
    """Take control tokens out of tokenizer.json's added tokens: what reads it alone would read them from text."""
    backend = json.loads(file.read_text(encoding="utf-8"))
    backend["added_tokens"] = [token for token in backend["added_tokens"] if token["id"] < control_offset]
    write_json(file, backend)


class AudioIds:
    """What :class:`~audiotok.tokens.tokenizer.AudioTextTokenizer` knows of codes.

    Attributes:
        n_q: K, the codebooks that have ids.
        codebook_size: V, entries per codebook.
        codes_fingerprint: the codec whose codes the audio ids stand for.
        control_offset: id of the first control token, which is also the number of text ids.
        audio_offset: id of code 0 of codebook 0.
    """

    init_kwargs: dict[str, Any]  # where transformers keeps what a saved folder says

    @property
    def n_q(self) -> int:
        return self._stored("n_q")

    @property
    def codebook_size(self) -> int:
        return self._stored("codebook_size")

    @property
    def codes_fingerprint(self) -> str:
        return self._stored("codes_fingerprint")

    @property
    def control_offset(self) -> int:
        return self._stored("control_offset")

    @property
    def audio_offset(self) -> int:
        return self._stored("audio_offset")

    @property
    def padded_vocab_size(self) -> int:
        """Rows that a model's embedding should have: the vocabulary, rounded up to a multiple of 64."""
        ids: Any = self  # the tokenizer that this is part of has a length
        return -(-len(ids) // ROW_MULTIPLE) * ROW_MULTIPLE

    def control_id(self, name: str) -> int:
        """The id of a control token by its name.

        Args:
            name: ``pad``, ``bos``, ``eos``, ``text_start``, ``text_end``, ``audio_start``, ``audio_end``,
                ``voice_00`` to ``voice_15``, ``fill``, or ``reserved_24`` to ``reserved_63``.

        Returns:
            The id, in [control_offset, audio_offset).

        Raises:
            ValueError: no control token has this name; the message lists those that exist.
        """
        if name not in CONTROL_INDEX:
            raise ValueError(f"expected a control token of {', '.join(CONTROL_INDEX)}; got {name!r}")
        return self.control_offset + CONTROL_INDEX[name]

    def encode_audio(self, codes: Tensor, layout: Layout = "flat") -> list[int]:
        """Turn codes into ids.

        Args:
            codes: [K, T] integers in [0, V), 1 <= K <= n_q.
            layout: ``flat`` (all K codebooks, frame by frame), ``delay`` (so too, codebook k shifted by k
                frames), ``coarse`` (codebook by codebook) or ``first`` (codebook 0 only).

        Returns:
            Ids in [audio_offset, len(self)), with the control id ``fill`` in the corners of ``delay``; as
            many as :func:`audiotok.sequence_length` says.

        Raises:
            TypeError: ``codes`` is not a tensor of integers.
            ValueError: the shape or a code is out of range, or the layout is unknown.
        """
        if isinstance(codes, Tensor) and codes.ndim == 2 and codes.shape[0] > self.n_q:
            raise ValueError(
                f"expected at most n_q = {self.n_q} codebooks, got {codes.shape[0]}; pass codes[:n_q]"
            )
        fill = self.control_id("fill")
        return flatten(codes, self.codebook_size, layout, self.audio_offset, fill).tolist()

    @overload
    def decode_audio(
        self,
        ids: Sequence[int] | Tensor,
        layout: Layout = "flat",
        n_q: int | None = None,
        errors: Literal["strict"] = "strict",
    ) -> Tensor:
        """Ids [S] -> codes [K, T], strictly."""
        ...

    @overload
    def decode_audio(
        self,
        ids: Sequence[int] | Tensor,
        layout: Layout = "flat",
        n_q: int | None = None,
        *,
        errors: Literal["repair"],
    ) -> Repaired:
        """Ids [S] -> codes [K, T] and what was lost."""
        ...

    def decode_audio(
        self,
        ids: Sequence[int] | Tensor,
        layout: Layout = "flat",
        n_q: int | None = None,
        errors: Literal["strict", "repair"] = "strict",
    ) -> Tensor | Repaired:
        """Turn audio ids back into codes: the strict inverse of :meth:`encode_audio`.

        Args:
            ids: [S] audio ids only; cut the markers around them off first.
            layout: the layout that they were made with.
            n_q: K, the codebooks in them; None means all of the tokenizer's. ``first`` always holds one.
            errors: ``strict``, or ``repair`` to keep the whole frames and count what was lost.

        Returns:
            [K, T] int64 codes; with ``errors="repair"`` a :class:`Repaired` of codes and count.

        Raises:
            TypeError: ``ids`` are not integers.
            ValueError: ``n_q`` is out of range, or layout or errors are unknown.
            LayoutError: the ids do not form whole frames; names the first bad position, the range expected
                there and what came.
        """
        n_q, fill = self.check_n_q(n_q), self.control_id("fill")
        return unflatten(ids, n_q, self.codebook_size, layout, self.audio_offset, fill, errors=errors)  # type: ignore[call-overload]

    def audio_reader(
        self,
        layout: Layout = "flat",
        n_q: int | None = None,
        errors: Literal["strict", "repair"] = "strict",
    ) -> FrameReader:
        """A session that takes audio ids one at a time and gives frames as soon as they are whole.

        Raises:
            ValueError: ``n_q`` is out of range, or layout or errors are unknown.
        """
        fill = self.control_id("fill")
        return FrameReader(layout, self.check_n_q(n_q), self.codebook_size, self.audio_offset, fill, errors)

    def audio_cursor(self, layout: Layout = "flat", n_q: int | None = None) -> Cursor:
        """What may come next in a block of audio ids; see :class:`audiotok.tokens.grammar.Cursor`.

        Raises:
            ValueError: ``n_q`` is out of range, or the layout is unknown.
        """
        fill = self.control_id("fill")
        return Cursor(layout, self.check_n_q(n_q), self.codebook_size, self.audio_offset, fill)

    def batch_encode_audio(
        self, codes: Tensor, mask: Tensor | None = None, layout: Layout = "flat"
    ) -> list[list[int]]:
        """Turn a ragged batch of codes into ids, one list a clip.

        Args:
            codes: [B, K, T] integers, as ``codec.encode`` gives them.
            mask: [B, T] bool, true where a frame is sound, ``audio_codes_mask``; None means all.
            layout: see :meth:`encode_audio`.

        Returns:
            B lists.

        Raises:
            ValueError: a shape does not fit, or as in :meth:`encode_audio`.
        """
        if codes.ndim != 3 or (mask is not None and mask.shape != (codes.shape[0], codes.shape[2])):
            shapes = [list(codes.shape), None if mask is None else list(mask.shape)]
            raise ValueError(f"expected codes [B, K, T] and mask [B, T], got shapes {shapes}")
        rows = codes if mask is None else [row[:, keep] for row, keep in zip(codes, mask.bool(), strict=True)]
        return [self.encode_audio(row, layout) for row in rows]

    def batch_decode_audio(
        self, batch: Sequence[Sequence[int] | Tensor], layout: Layout = "flat", n_q: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """The strict inverse of :meth:`batch_encode_audio`.

        Args:
            batch: B sequences of audio ids [S], of any lengths.
            layout: see :meth:`encode_audio`.
            n_q: K, the codebooks in them; None means all.

        Returns:
            codes [B, K, T] int64, zeros where a clip is over, and mask [B, T] bool.

        Raises:
            LayoutError: ids of a clip do not form whole frames.
            ValueError: as in :meth:`decode_audio`, or the batch is empty.
        """
        if not len(batch):
            raise ValueError("expected at least one sequence of audio ids, got an empty batch")
        clips = [self.decode_audio(ids, layout, n_q) for ids in batch]
        lengths = torch.tensor([clip.shape[1] for clip in clips])
        codes = torch.zeros(len(clips), clips[0].shape[0], int(lengths.max()), dtype=torch.int64)
        for row, clip in zip(codes, clips, strict=True):
            row[:, : clip.shape[1]] = clip
        return codes, torch.arange(codes.shape[2]) < lengths[:, None]

    def check_n_q(self, n_q: int | None) -> int:
        """``n_q`` codebooks, or all for None. ValueError if there are not so many."""
        n_q = self.n_q if n_q is None else n_q
        if not 1 <= n_q <= self.n_q:
            raise ValueError(f"expected n_q in [1, {self.n_q}], got {n_q}")
        return n_q

    def _stored(self, name: str) -> Any:
        if name not in self.init_kwargs:
            raise ValueError(
                f"expected a tokenizer with audio ids, but its tokenizer_config.json has no {name!r}; "
                "make one with audiotok.build_tokenizer() or audiotok.extend_tokenizer()"
            )
        return self.init_kwargs[name]


TEXT_MODEL_FILE = "tokenizer.model"


class AudioTextTokenizer(AudioIds, PreTrainedTokenizerFast):
    """A fast tokenizer that reads text and carries codes.

    Made by :func:`build_tokenizer`, :func:`extend_tokenizer` or a saved folder. All that
    :class:`transformers.PreTrainedTokenizerFast` does works: batches, padding, pairs, truncation, offsets. A
    saved folder opens with ``AutoTokenizer`` where audiotok is not installed. What a base tokenizer reads from
    text (its own special tokens among it) it still reads, except in :meth:`encode_text` and in the messages
    of a chat, where text is text.

    Attributes:
        n_q: K, the codebooks that have ids.
        codebook_size: V, entries per codebook.
        codes_fingerprint: the codec whose codes the audio ids stand for.
        control_offset: id of the first control token, which is also the number of text ids.
        audio_offset: id of code 0 of codebook 0.
    """

    # No __init__: transformers rebuilds the backend of a subclass that has one, and loses its byte fallback.
    # The numbers are stored as init arguments instead, which a plain PreTrainedTokenizerFast keeps as well.
    _text_model: bytes | None = None
    _specials: frozenset[int] | None = None

    def encode_text(self, text: str) -> list[int]:
        """Turn text into text ids and nothing else, whatever it spells.

        Args:
            text: any string, of any length.

        Returns:
            Ids in [0, control_offset), none of a special token; :meth:`decode` gives the text back as far as
            the base vocabulary can.

        Raises:
            TypeError: ``text`` is not a string.
            ValueError: it holds half a surrogate pair, or tokens added to this tokenizer by hand.
        """
        if not isinstance(text, str):
            raise TypeError(f"expected text as a str, got {type(text).__name__}")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise ValueError(
                f"expected Unicode text, got half a surrogate pair at character {error.start}"
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
        # A model that matches whole strings of its vocabulary (Unigram) finds its special tokens in plain text.
        start, stop = coded["offset_mapping"][forbidden]
        if ids[forbidden] >= self.control_offset or stop - start < 2:
            raise ValueError(
                "the text holds a token that add_tokens() put into this tokenizer; leave that out"
            )
        return self.encode_text(text[: start + 1]) + self.encode_text(text[start + 1 :])

    def apply_chat_template(  # type: ignore[override]  # the other options go through to the template
        self,
        conversation: Sequence[Mapping[str, Any]] | Sequence[Sequence[Mapping[str, Any]]],
        *,
        tokenize: bool = True,
        padding: bool | str = False,
        truncation: bool = False,
        max_length: int | None = None,
        return_tensors: str | None = None,
        return_dict: bool = True,
        return_assistant_tokens_mask: bool = False,
        **options: Any,
    ) -> Any:
        """Turn a conversation, or a batch of them, into ids; every string in it is encoded on its own, as text.

        Args:
            conversation: messages with ``role`` and ``content``; a batch is a list of conversations.
            tokenize: false gives the rendered text, which must not be tokenised again.
            padding: as in ``pad``.
            truncation: cut to ``max_length`` on the tokenizer's ``truncation_side``.
            max_length: ids a row may have.
            return_tensors: ``"pt"`` or ``"np"`` for tensors [B, S].
            return_dict: false gives the ids alone.
            return_assistant_tokens_mask: give ``assistant_masks`` too: 1 for what an assistant said and for the
                special token that ends it. No ``{% generation %}`` is needed in the template.
            options: ``chat_template``, ``tools``, ``documents``, ``add_generation_prompt`` and what else the
                template takes.

        Returns:
            A BatchEncoding of ``input_ids`` and ``attention_mask``, or the ids, or text.

        Raises:
            ValueError: the conversation is empty, or a role in it spells a special token.
        """
        if not tokenize:
            return super().apply_chat_template(conversation, tokenize=False, **options)  # type: ignore[arg-type]
        batched = is_batch(conversation)
        batch: Any = conversation if batched else [conversation]
        rows, masks = [], []
        for messages in batch:
            ids, said = encode_conversation(self, messages, options)
            over = max(0, len(ids) - max_length) if truncation and max_length is not None else 0
            kept = slice(0, len(ids) - over) if self.truncation_side == "right" else slice(over, None)
            rows.append({"input_ids": ids[kept]})
            masks.append([int(flag) for flag in said[kept]])
        out = self.pad(rows, padding, max_length=max_length)
        if return_assistant_tokens_mask:
            left = self.padding_side == "left"
            for row, mask in zip(out["input_ids"], masks, strict=True):
                extra = [0] * (len(row) - len(mask))
                mask[:] = extra + mask if left else mask + extra
            out["assistant_masks"] = masks
        if return_tensors is not None:
            out = out.convert_to_tensors(return_tensors)
        elif not batched:
            out = BatchEncoding({key: value[0] for key, value in out.items()})
        return out if return_dict else out["input_ids"]

    def keep_text_model(self, proto: bytes | None) -> None:
        """Keep the bytes of a sentencepiece model, to be saved beside the tokenizer as ``tokenizer.model``."""
        # Bytes, so that a copy in another process or on another machine can still save itself whole.
        self._text_model = proto

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> AudioTextTokenizer:
        """Open a saved tokenizer as ``PreTrainedTokenizerFast.from_pretrained`` does, and check it.

        Raises:
            OSError: there is no such folder or hub id.
            ValueError: it holds a tokenizer without audio ids, or one whose ids do not lie where it says.
        """
        tokenizer = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        tokenizer.check()
        file = getattr(tokenizer, "vocab_file", None)
        tokenizer.keep_text_model(Path(file).read_bytes() if file and Path(file).is_file() else None)
        return tokenizer

    def check(self) -> None:
        """Refuse a tokenizer whose ids do not lie where it says. Raises ValueError."""
        last = (self.n_q - 1, self.codebook_size - 1)
        end = self.audio_offset + self.n_q * self.codebook_size - 1
        readable = self.backend_tokenizer.token_to_id(audio_token(0, 0)) is not None
        name = audio_token if readable else hidden_audio_token
        control = CONTROL_TOKENS["pad"] if readable else hidden_control_token("pad")
        expected = {control: self.control_offset, name(0, 0): self.audio_offset, name(*last): end}
        for token, where in expected.items():
            if (got := self.backend_tokenizer.token_to_id(token)) != where:
                raise ValueError(
                    f"damaged tokenizer: expected {token} at id {where}, got {got}; build it anew"
                )
        if readable and not self.split_special_tokens:
            raise ValueError(
                "damaged tokenizer: expected split_special_tokens true in tokenizer_config.json, got false; "
                "typed control tokens would become control ids; build it anew"
            )

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
        prefix = f"{filename_prefix}-" if filename_prefix else ""
        config_file = Path(save_directory) / f"{prefix}tokenizer_config.json"
        config = json.loads(config_file.read_text(encoding="utf-8"))
        write_json(config_file, portable_config(config, self.added_tokens_decoder))
        if CONTROL_TOKENS["pad"] in self.added_tokens_encoder and self.split_special_tokens:
            hide_control_tokens(Path(save_directory) / f"{prefix}tokenizer.json", self.control_offset)
        if self._text_model is None:
            return names
        model_file = Path(save_directory) / f"{prefix}{TEXT_MODEL_FILE}"
        with write_aside(model_file) as aside:
            aside.write_bytes(self._text_model)
        return (*names, str(model_file))

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        # The Rust backend forgets this switch when it is pickled or copied.
        self.backend_tokenizer.encode_special_tokens = self.split_special_tokens
