"""Text and sound in, ids for a language model out; ids in, text and sound out.

Knows nothing of models. The laws it keeps: an item's ids do not depend on the batch it is in; whatever a text
spells, it stays text; a folder that it was saved in works wherever it is moved.

The sequence is ``<bos> <text> t... </text> <audio> a... </audio> <eos>``, text first for a task ``speak`` and
sound first for ``transcribe``; conversations follow the chat template of the base tokenizer.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoProcessor,
    BatchFeature,
    EncodecFeatureExtractor,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)
from transformers.models.auto.modeling_auto import AutoModelForAudioTokenization

from .chat import Conversation, encode_conversation, eos_id, is_batch, plain_conversation
from .codecs import Audio, codec_facts, decode_codes, read_codes
from .constrain import AudioConstraint
from .extend import extend_tokenizer
from .layout import Layout, check_layout
from .tokenizer import AudioTextTokenizer


class Part(NamedTuple):
    """A piece of a sequence: ``text``, or ``codes`` [K, T] int64; the other is None. ``lost``: ids repaired away."""

    text: str | None = None
    codes: Tensor | None = None
    lost: int = 0


def parse_sequence(
    tok: AudioTextTokenizer,
    ids: Sequence[int] | Tensor,
    layout: Layout,
    n_q: int,
    errors: Literal["strict", "repair"] = "strict",
) -> list[Part]:
    """Take a sequence apart.

    Args:
        tok: whose ids they are.
        ids: [S], whole or from anywhere after the prompt; it may begin inside an audio block.
        layout: of the audio blocks.
        n_q: K, codebooks in them.
        errors: ``strict``, or ``repair`` to keep the whole frames of malformed blocks.

    Returns:
        Texts without their special tokens, and codes, in order.

    Raises:
        LayoutError: strict, and an audio block does not hold whole frames.
    """
    start, end = tok.control_id("audio_start"), tok.control_id("audio_end")
    given = ids.tolist() if isinstance(ids, Tensor) else list(ids)
    inside = bool(given) and tok.audio_offset <= given[0] < tok.audio_offset + tok.n_q * tok.codebook_size
    parts: list[Part] = []
    piece: list[int] = []

    def close() -> None:
        if inside:
            if errors == "repair":
                repaired = tok.decode_audio(piece, layout, n_q, errors="repair")
                parts.append(Part(codes=repaired.codes, lost=repaired.lost))
            else:
                parts.append(Part(codes=tok.decode_audio(piece, layout, n_q)))
        elif text := tok.decode(piece, skip_special_tokens=True):
            parts.append(Part(text=str(text)))
        piece.clear()

    for index in given:
        if index in (start, end):
            close()
            inside = index == start
        else:
            piece.append(index)
    if piece or inside:
        close()
    return parts


def readable(conversation: Any) -> Any:
    """A conversation, or a batch, with its content as plain strings, sound as its markers."""
    if is_batch(conversation):
        return [readable(messages) for messages in conversation]
    texts = []
    for message in conversation:
        content = message.get("content") or ""
        if not isinstance(content, str):
            content = "".join(
                part if isinstance(part, str) else part.get("text", "<audio></audio>") for part in content
            )
        texts.append({**message, "content": content})
    return texts


CODEC_FOLDER = "audio_tokenizer"


class PortableProcessor(ProcessorMixin):
    """Saves and loads a processor with its codec."""

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> Any:
        """Save tokenizer, feature extractor and codec in one folder, the codec in ``audio_tokenizer/``.

        Args:
            save_directory: the folder.
            push_to_hub: upload it too, to ``repo_id`` or the folder's name.
            kwargs: of ``push_to_hub``.

        Returns:
            The files that transformers wrote.
        """
        written = super().save_pretrained(save_directory)
        self.feature_extractor.save_pretrained(save_directory)
        if self.audio_tokenizer is not None:
            self.audio_tokenizer.save_pretrained(Path(save_directory) / CODEC_FOLDER)
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).name), **kwargs)
        return written

    def to_dict(self) -> dict[str, Any]:
        """What goes into processor_config.json; the codec as the name of its folder, not as a path."""
        # transformers would copy the codec's weights here and write down where they came from.
        codec = self.__dict__.pop("audio_tokenizer", None)
        try:
            values = super().to_dict()
        finally:
            self.audio_tokenizer = codec
        return values | ({} if codec is None else {"audio_tokenizer_folder": CODEC_FOLDER})

    @classmethod
    def get_processor_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As transformers' own, with the codec loaded from the folder beside the tokenizer."""
        values, rest = super().get_processor_dict(pretrained_model_name_or_path, **kwargs)
        if folder := values.pop("audio_tokenizer_folder", None):
            where = {
                key: kwargs[key]
                for key in ("cache_dir", "local_files_only", "token", "revision")
                if key in kwargs
            }
            folder = os.path.join(kwargs.get("subfolder", ""), folder)
            config = AutoConfig.from_pretrained(pretrained_model_name_or_path, subfolder=folder, **where)
            known = type(config) in AutoModelForAudioTokenization._model_mapping
            auto: Any = AutoModelForAudioTokenization if known else AutoModel
            codec = auto.from_pretrained(
                pretrained_model_name_or_path, subfolder=folder, dtype=torch.float32, **where
            )
            values["audio_tokenizer"] = codec.eval()
        return values, rest

    @classmethod
    def _get_arguments_from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any
    ) -> list[Any]:
        # AutoTokenizer would give the plain class.
        return [
            AutoFeatureExtractor.from_pretrained(pretrained_model_name_or_path, **kwargs),
            AudioTextTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs),
        ]


IGNORED = -100  # a label that no loss looks at
Task = Literal["speak", "transcribe"]


class AudioTextProcessor(PortableProcessor):
    """Feature extractor, tokenizer and codec as one Hugging Face processor; see :meth:`from_codec`.

    Args:
        feature_extractor: what the codec wants to be fed through.
        tokenizer: of :func:`extend_tokenizer` or :func:`build_tokenizer`.
        audio_tokenizer: the codec; None when all sound comes as codes and none is decoded.
        chat_template: instead of the tokenizer's.
        layout: of the audio ids.
        n_q: K, codebooks that are written; None means all of the tokenizer's.

    Raises:
        TypeError: the tokenizer has no audio ids.
        ValueError: the tokenizer's ids are another codec's, ``n_q`` is out of range or the layout is unknown.
    """

    def __init__(
        self,
        feature_extractor: Any,
        tokenizer: AudioTextTokenizer,
        audio_tokenizer: PreTrainedModel | None = None,
        chat_template: str | None = None,
        layout: Layout = "flat",
        n_q: int | None = None,
    ) -> None:
        if not isinstance(tokenizer, AudioTextTokenizer):
            raise TypeError(
                f"expected a tokenizer with audio ids, got {type(tokenizer).__name__}; extend_tokenizer() it"
            )
        if audio_tokenizer is not None:
            fingerprint = codec_facts(audio_tokenizer).codes_fingerprint
            if fingerprint != tokenizer.codes_fingerprint:
                raise ValueError(
                    f"expected the codec {tokenizer.codes_fingerprint} that the tokenizer's ids stand for, got "
                    f"{fingerprint}; load that codec, or extend the tokenizer for this one"
                )
        check_layout(layout)
        super().__init__(feature_extractor, tokenizer, chat_template=chat_template)
        self.audio_tokenizer = audio_tokenizer  # transformers would take the classes of its own list only
        self.layout: Layout = layout
        self.n_q = tokenizer.check_n_q(n_q)

    @classmethod
    def from_codec(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        codec: PreTrainedModel,
        layout: Layout = "flat",
        n_q: int | None = None,
    ) -> AudioTextProcessor:
        """Make a processor for a codec, ours or one of transformers.

        Args:
            tokenizer: a tokenizer with this codec's ids, or any fast tokenizer, which is then extended.
            codec: an :class:`AudioCodec`, ``EncodecModel``, ``DacModel``, ``MimiModel``...
            layout: of the audio ids.
            n_q: K, codebooks that are written; None means all.

        Returns:
            The processor; its ``tokenizer`` is the extended one.

        Raises:
            ValueError: as :func:`extend_tokenizer` and the class say.
        """
        facts = codec_facts(codec)
        if not isinstance(tokenizer, AudioTextTokenizer):
            tokenizer = extend_tokenizer(tokenizer, codec)
        extractor = EncodecFeatureExtractor(feature_size=facts.channels, sampling_rate=facts.sampling_rate)
        return cls(extractor, tokenizer, codec, layout=layout, n_q=n_q)

    def encode_audio(self, audio: Audio, sampling_rate: int | None = None) -> list[int]:
        """Turn one clip into audio ids, without markers.

        Args:
            audio: a file; a wav [N] or [C, N] of floats; ``{"array": ..., "sampling_rate": ...}`` as in
                ``datasets``; or codes [K, T] of integers.
            sampling_rate: of a wav, Hz; None means the codec's. Sound of another rate is resampled.

        Returns:
            Ids in this processor's layout.

        Raises:
            ValueError: the shape is another, there are no samples, or sound comes and there is no codec.
        """
        codes = read_codes(audio, sampling_rate, self.audio_tokenizer, self.feature_extractor, self.n_q)
        return self.tokenizer.encode_audio(codes[: self.n_q], self.layout)

    def __call__(  # type: ignore[override]  # only what text and sound need
        self,
        text: str | Sequence[str] | None = None,
        audio: Audio | Sequence[Audio] | None = None,
        task: Task | None = None,
        sampling_rate: int | None = None,
        labels: bool = False,
        padding: bool = True,
        padding_side: str | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        """Turn texts, clips, or pairs of them into sequences.

        Args:
            text: one text or a list of B.
            audio: one clip or a list of B, as for :meth:`encode_audio`.
            task: ``speak`` puts the text first, ``transcribe`` the sound; None: ``transcribe`` if there is
                sound only. With one of the two the sequence ends with the marker that asks for the other.
            sampling_rate: of wavs, Hz; None means the codec's.
            labels: give ``labels`` too: the ids of the answer, -100 elsewhere.
            padding: pad rows to the longest; false gives ragged lists.
            padding_side: ``left`` or ``right``; None means the tokenizer's.
            return_tensors: ``pt`` for tensors [B, S]; None for lists, one list of ids for one item.

        Returns:
            ``input_ids``, ``attention_mask`` and, if asked for, ``labels``.

        Raises:
            ValueError: neither text nor sound is given, their numbers differ, or ``task`` is unknown.
        """
        single = isinstance(text, str) or (text is None and not _is_many(audio))
        texts = [text] if text is None or isinstance(text, str) else list(text)
        clips = list(audio) if audio is not None and _is_many(audio) else [audio]  # type: ignore[arg-type]
        texts, clips = (
            (texts * len(clips) if text is None else texts),
            (clips * len(texts) if audio is None else clips),
        )
        if (text is None and audio is None) or len(texts) != len(clips):
            raise ValueError(f"expected texts, clips or as many of both, got {len(texts)} and {len(clips)}")
        task = task or ("transcribe" if text is None else "speak")
        if task not in ("speak", "transcribe"):
            raise ValueError(f"expected task 'speak' or 'transcribe', got {task!r}")
        rows = [self._pair(one, clip, task, sampling_rate) for one, clip in zip(texts, clips, strict=True)]
        return self._batch(rows, single, labels, padding, padding_side, return_tensors)

    def apply_chat_template(  # type: ignore[override]  # the other options go through to the template
        self,
        conversation: Sequence[Mapping[str, Any]] | Sequence[Sequence[Mapping[str, Any]]],
        chat_template: str | None = None,
        *,
        tokenize: bool = True,
        sampling_rate: int | None = None,
        labels: bool = False,
        padding: bool = True,
        padding_side: str | None = None,
        return_tensors: str | None = None,
        return_dict: bool = True,
        **options: Any,
    ) -> Any:
        """Turn a conversation with audio parts, or a batch of them, into ids.

        Every string is encoded on its own, as text, and its ids, like those of the sound, are put where the
        template puts the string. Without any chat template the sequence is that of :meth:`__call__`.

        Args:
            conversation: messages with ``role`` and ``content``: a string, or parts ``{"type": "text", "text":
                ...}`` and ``{"type": "audio", "audio": ...}`` with what :meth:`encode_audio` takes (``path``
                and ``url`` name a file too).
            chat_template: instead of the processor's or the tokenizer's.
            tokenize: false gives text without the sound, for people to read; it must not be tokenised again.
            sampling_rate: of wavs, Hz; None means the codec's.
            labels: give ``labels`` too: what the assistant says and the token that ends it, -100 elsewhere.
            padding: as in :meth:`__call__`.
            padding_side: as in :meth:`__call__`.
            return_tensors: as in :meth:`__call__`.
            return_dict: false gives the ids alone.
            options: ``add_generation_prompt``, ``tools``, ``documents`` and what else the template takes;
                without a template ``answer="audio"`` or ``"text"`` says what the generation prompt asks for.

        Returns:
            ``input_ids``, ``attention_mask`` and, if asked for, ``labels``; or text.

        Raises:
            ValueError: a part is of another type, or a role spells a special token.
        """
        if template := chat_template or self.chat_template:
            options["chat_template"] = template
        if not tokenize:
            return self.tokenizer.apply_chat_template(readable(conversation), tokenize=False, **options)
        batched = is_batch(conversation)

        def audio_ids(part: Mapping[str, Any]) -> list[int]:
            clip = next((part[key] for key in ("audio", "path", "url") if part.get(key) is not None), None)
            if clip is None:
                raise ValueError(
                    f"expected an audio part with 'audio' or 'path', got the keys {sorted(part)}"
                )
            return self._block(clip, sampling_rate)

        batch = conversation if batched else [conversation]
        rows = [encode_conversation(self.tokenizer, messages, options, audio_ids) for messages in batch]  # type: ignore[arg-type]
        single = not batched
        out = self._batch(rows, single, labels, padding, padding_side, return_tensors)
        return out if return_dict else out["input_ids"]

    def pad(
        self,
        rows: Sequence[Mapping[str, Sequence[int]]],
        padding_side: str | None = None,
        pad_to_multiple_of: int = 1,
    ) -> BatchFeature:
        """Pad rows to tensors.

        Args:
            rows: with ``input_ids`` and perhaps ``labels``, lists of one length.
            padding_side: ``left`` or ``right``; None means the tokenizer's.
            pad_to_multiple_of: of the width.

        Returns:
            ``input_ids``, ``attention_mask`` and, where the rows have them, ``labels``: [B, S] int64.
        """
        left = (padding_side or self.tokenizer.padding_side) == "left"
        width = max(len(row["input_ids"]) for row in rows)
        width = -(-width // pad_to_multiple_of) * pad_to_multiple_of
        fills = {"input_ids": self.pad_id, "attention_mask": 0, "labels": IGNORED}
        out = {key: torch.full((len(rows), width), fill) for key, fill in fills.items()}
        if "labels" not in rows[0]:
            del out["labels"]
        for index, row in enumerate(rows):
            size = len(row["input_ids"])
            span = slice(width - size, width) if left else slice(0, size)
            out["attention_mask"][index, span] = torch.as_tensor(row.get("attention_mask", [1] * size))
            for key in out.keys() - {"attention_mask"}:
                out[key][index, span] = torch.as_tensor(row[key])
        return BatchFeature(out)

    @property
    def pad_id(self) -> int:
        """The id that pads: the tokenizer's padding token, or the control id."""
        own = self.tokenizer.pad_token_id
        return self.tokenizer.control_id("pad") if own is None else own

    def generation_options(
        self,
        inputs: Mapping[str, Any],
        max_new_tokens: int,
        min_frames: int = 1,
        max_frames: int | None = None,
    ) -> dict[str, Any]:
        """What ``model.generate`` needs so that its answer is one well-formed audio block.

        Args:
            inputs: the prompt, with ``input_ids`` [B, S].
            max_new_tokens: ids to generate at most; the block is closed before.
            min_frames: frames the block has at least.
            max_frames: frames the block has at most.

        Returns:
            Keyword arguments: ``model.generate(**inputs, **processor.generation_options(inputs, 2000))``.

        Raises:
            ValueError: a number is out of range.
        """
        length = inputs["input_ids"].shape[1] + max_new_tokens
        constraint = AudioConstraint(self.tokenizer, length, self.layout, self.n_q, min_frames, max_frames)
        ends = {"eos_token_id": eos_id(self.tokenizer), "pad_token_id": self.pad_id}
        return {"logits_processor": [constraint], "max_new_tokens": max_new_tokens, **ends}

    def parse(
        self, ids: Sequence[int] | Tensor, errors: Literal["strict", "repair"] = "strict"
    ) -> list[Part]:
        """Take a sequence apart into texts and codes; see :func:`~audiotok.tokens.parts.parse_sequence`.

        Args:
            ids: [S], whole or from anywhere after the prompt.
            errors: ``strict``, or ``repair`` to keep the whole frames of malformed blocks.

        Returns:
            The parts, in order.

        Raises:
            LayoutError: strict, and an audio block does not hold whole frames.
        """
        return parse_sequence(self.tokenizer, ids, self.layout, self.n_q, errors)

    def decode_audio(
        self, ids: Sequence[int] | Tensor, errors: Literal["strict", "repair"] = "strict"
    ) -> list[Tensor]:
        """The sound of every audio block of a sequence.

        Args:
            ids: [S], as for :meth:`parse`.
            errors: as for :meth:`parse`.

        Returns:
            wavs [C, N] float32 at the codec's sampling rate, N = 0 for a block without frames.

        Raises:
            LayoutError: as :meth:`parse` says.
            ValueError: there is no codec.
        """
        codec = self.audio_tokenizer
        if codec is None:
            raise ValueError("expected a processor with a codec, got one without; make it with from_codec()")
        blocks = [part.codes for part in self.parse(ids, errors) if part.codes is not None]
        return [decode_codes(codec, codes) if codes.shape[1] else torch.zeros(1, 0) for codes in blocks]

    def _block(self, audio: Any, sampling_rate: int | None) -> list[int]:
        start, end = self.tokenizer.control_id("audio_start"), self.tokenizer.control_id("audio_end")
        return [start, *self.encode_audio(audio, sampling_rate), end]

    def _pair(self, text: str | None, audio: Any, task: Task, sampling_rate: int | None) -> Conversation:
        parts: list[dict[str, Any]] = [{"type": "text", "text": text}, {"type": "audio", "audio": audio}]
        given = [part for part in parts if part[part["type"]] is not None]
        ordered = given if task == "speak" else given[::-1]
        if len(given) == 1 and given[0]["type"] != ("text" if task == "speak" else "audio"):
            raise ValueError(
                f"expected {'text' if task == 'speak' else 'sound'} for the task {task!r}, got none"
            )
        roles = ("user", "assistant")
        messages = [{"role": role, "content": [part]} for role, part in zip(roles, ordered, strict=False)]
        return plain_conversation(
            self.tokenizer, messages, lambda part: self._block(part["audio"], sampling_rate), len(given) == 1
        )

    def _batch(
        self,
        rows: Sequence[Conversation],
        single: bool,
        labels: bool,
        padding: bool,
        padding_side: str | None,
        return_tensors: str | None,
    ) -> BatchFeature:
        if return_tensors not in (None, "pt"):
            raise ValueError(f"expected return_tensors 'pt' or None, got {return_tensors!r}")
        features = []
        for row in rows:
            feature = {"input_ids": row.ids, "attention_mask": [1] * len(row.ids)}
            if labels:
                feature["labels"] = [
                    i if said else IGNORED for i, said in zip(row.ids, row.answer, strict=True)
                ]
            features.append(feature)
        if return_tensors == "pt":
            if not padding and len({len(row.ids) for row in rows}) > 1:
                raise ValueError("expected padding=True for tensors of rows of several lengths")
            return self.pad(features, padding_side)
        if single:
            return BatchFeature(features[0])
        if padding:
            return BatchFeature(
                {key: value.tolist() for key, value in self.pad(features, padding_side).items()}
            )
        return BatchFeature({key: [feature[key] for feature in features] for key in features[0]})


def _is_many(audio: Any) -> bool:
    """Whether this is a list of clips: a list of numbers is one clip."""
    return isinstance(audio, list | tuple) and bool(audio) and not isinstance(audio[0], Real)


class _ProcessorKey(PreTrainedConfig):
    """What AutoProcessor files the class under; a codec's own folder still gives its feature extractor."""

    model_type = "audiotok-processor"


AutoProcessor.register(_ProcessorKey, AudioTextProcessor, exist_ok=True)


@dataclass
class AudioTextCollator:
    """Rows -> a padded batch with labels, for ``Trainer(data_collator=...)`` or a ``DataLoader``.

    A row is what the processor gave (``input_ids`` and perhaps ``labels``), or a conversation under
    ``messages``, or ``text`` with ``codes`` [K, T] (as in prepared shards) or ``audio``.

    Attributes:
        processor: makes and pads the sequences.
        task: ``speak`` or ``transcribe``, for rows of text and sound.
        pad_to_multiple_of: of the width.
        padding_side: ``left`` or ``right``; None means the tokenizer's.
    """

    processor: AudioTextProcessor
    task: Task = "speak"
    pad_to_multiple_of: int = 1
    padding_side: str | None = None

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Make the batch: ``input_ids``, ``attention_mask`` and ``labels``, [B, S] int64."""
        features = [self._feature(row) for row in rows]
        return dict(self.processor.pad(features, self.padding_side, self.pad_to_multiple_of))

    def _feature(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        if "input_ids" in row:
            return {"input_ids": row["input_ids"], "labels": row.get("labels", row["input_ids"])}
        if "messages" in row:
            return self.processor.apply_chat_template(row["messages"], labels=True)
        audio = row["codes"] if row.get("codes") is not None else row["audio"]
        return self.processor(row["text"], audio, self.task, labels=True)
