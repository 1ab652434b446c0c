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
from typing import Any

from transformers import BatchEncoding, PreTrainedTokenizerFast

from ..files import write_aside, write_json
from .audio_ids import AudioIds
from .chat import encode_conversation, is_batch
from .saving import hide_control_tokens, portable_config
from .vocabulary import CONTROL_TOKENS, audio_token, hidden_audio_token, hidden_control_token

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
