"""Texts and audio -> sequences for a language model, and back, as a Hugging Face processor."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
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
from transformers.processing_utils import AudioKwargs, TextKwargs

from ..audio import load_audio, resample
from .chat import Conversation, eos_id, plain_conversation
from .constrain import AudioConstraint
from .extend import as_codec, extend_tokenizer
from .layout import Errors, Layout, as_tensor, check_layout
from .tokenizer import AudioTextTokenizer, conversation_rows

CODEC_FOLDER = "audio_tokenizer"
Audio = str | Path | Tensor | np.ndarray | Sequence[Any] | Mapping[str, Any]
Task = Literal["speak", "transcribe"]
_PCM_SCALE = {torch.int16: 2.0**15, torch.int32: 2.0**31}
_GROUPS: dict[str, Any] = {"text_kwargs": TextKwargs, "audio_kwargs": AudioKwargs}
_OPTIONS = {*_GROUPS, "common_kwargs", *TextKwargs.__annotations__, *AudioKwargs.__annotations__}


class Part(NamedTuple):
    """A piece of a sequence: ``text``, or ``codes`` [K, T] int64. ``lost`` counts ids that repair dropped."""

    text: str | None = None
    codes: Tensor | None = None
    lost: int = 0


class AudioTextProcessor(ProcessorMixin):
    """Feature extractor, tokenizer and codec as one Hugging Face processor; :meth:`from_codec` makes one.

    A sequence is ``<bos> <text> t... </text> <audio> a... </audio> <eos>``, text first for the task ``speak`` and
    audio first for ``transcribe``. Conversations follow the chat template of the processor or its tokenizer.

    Args:
        feature_extractor: defines the sampling rate and channels of wavs.
        tokenizer: from :func:`extend_tokenizer` or :func:`build_tokenizer`.
        audio_tokenizer: the codec, of audiotok or of transformers; None if all audio is given as codes.
        chat_template: used instead of the tokenizer's.
        layout: layout of the audio ids.
        n_q: K, codebooks that are written; None means all of the tokenizer's.

    Raises:
        TypeError: the tokenizer has no audio ids.
        ValueError: the tokenizer belongs to another codec, ``n_q`` is out of range or the layout is unknown.
    """

    def __init__(
        self,
        feature_extractor: Any,
        tokenizer: Any,
        audio_tokenizer: PreTrainedModel | None = None,
        chat_template: str | None = None,
        layout: Layout = "flat",
        n_q: int | None = None,
    ) -> None:
        tokenizer = AudioTextTokenizer.from_plain(tokenizer)
        check_layout(layout)
        super().__init__(feature_extractor, tokenizer, chat_template=chat_template)
        # Not passed on, because transformers accepts only the classes of its own list.
        self.audio_tokenizer = None if audio_tokenizer is None else as_codec(audio_tokenizer)
        if self.audio_tokenizer is not None:
            self.check_fingerprint(self.audio_tokenizer.codes_fingerprint)
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
        """Make a processor for a codec.

        Args:
            tokenizer: a tokenizer with this codec's ids, or any fast tokenizer, which is then extended.
            codec: an :class:`AudioCodec`, or an EnCodec, DAC, Mimi or X-Codec model of transformers.
            layout, n_q: as for the class.

        Raises:
            ValueError: as in :func:`extend_tokenizer` and the class.
        """
        codec = as_codec(codec)
        if "audio_offset" not in getattr(tokenizer, "init_kwargs", {}):
            tokenizer = extend_tokenizer(tokenizer, codec)
        config: Any = codec.config
        extractor = EncodecFeatureExtractor(
            feature_size=config.audio_channels, sampling_rate=config.sampling_rate
        )
        return cls(extractor, tokenizer, codec, layout=layout, n_q=n_q)

    # ---- audio

    def encode_audio(self, audio: Audio, sampling_rate: int | None = None) -> list[int]:
        """Turn one clip into audio ids, without markers.

        Args:
            audio: one of

                - a file's path, or a wav [N] or [C, N]: floats in [-1, 1], or 1-D int16 or int32 samples
                - ``{"array": ..., "sampling_rate": ...}``, ``{"path": ...}`` or ``{"bytes": ...}`` as in ``datasets``
                - codes [K, T] of integers: a tensor, an array or nested lists
                - a row of a prepared shard: ``{"codes": ..., "n_q": K}`` with codes as above or as the shard's bytes;
                  its ``codes_fingerprint``, if it has one, must be the tokenizer's
            sampling_rate: sampling rate of a wav in Hz; None means the codec's. Other rates are resampled.

        Returns:
            Ids in this processor's layout, of at most ``n_q`` codebooks.

        Raises:
            TypeError: ``audio`` is none of these.
            ValueError: the shape is wrong, there are no samples or frames, the codes belong to another codec, or a wav
                is given and there is no codec.
        """
        codes = self._codes(audio, sampling_rate)
        if codes.ndim != 2 or 0 in codes.shape:
            raise ValueError(f"expected codes [K, T] or floats, got integers of shape {list(codes.shape)}")
        if codes.shape[0] <= self.tokenizer.n_q:  # codes of another codec are refused below
            codes = codes[: self.n_q]
        return self.tokenizer.encode_audio(codes, self.layout)

    def decode_audio(self, ids: Sequence[int] | Tensor, errors: Errors = "strict") -> list[Tensor]:
        """The wavs of all audio blocks of a sequence, as in :meth:`parse`.

        Returns:
            wavs [C, N] float32 at the codec's sampling rate; N = 0 for a block without frames.

        Raises:
            LayoutError: as in :meth:`parse`.
            ValueError: there is no codec.
        """
        codec, wavs = self._codec(), []
        for codes in [part.codes for part in self.parse(ids, errors) if part.codes is not None]:
            wavs.append(torch.zeros(codec.config.audio_channels, 0))
            if codes.shape[1]:
                with torch.no_grad():
                    wavs[-1] = codec.decode(codes[None].to(codec.device)).audio_values[0].float().cpu()
        return wavs

    # ---- sequences

    def __call__(  # type: ignore[override]  # only text and audio
        self,
        text: str | Sequence[str] | None = None,
        audio: Audio | Sequence[Audio] | None = None,
        task: Task | None = None,
        labels: bool | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Turn texts, clips, or pairs of them into sequences.

        Args:
            text: one text or a list of B.
            audio: one clip or a list of B, as for :meth:`encode_audio`.
            task: ``speak`` puts the text first, ``transcribe`` the audio; None: ``transcribe`` if there is only
                audio. With only one of the two the sequence ends with the marker that asks for the other.
            labels: also return ``labels``: the ids of the answer, -100 elsewhere.
            kwargs: ``sampling_rate`` of wavs, Hz (None means the codec's), and ``padding``, ``padding_side``,
                ``truncation``, ``max_length``, ``pad_to_multiple_of`` and ``return_tensors`` of
                :meth:`AudioTextTokenizer.batch_rows`. They may also be passed in ``text_kwargs``, ``audio_kwargs``
                and ``common_kwargs``. By default batches are padded on the left, as generation requires.

        Returns:
            ``input_ids``, ``attention_mask`` and, if asked for, ``labels``.

        Raises:
            TypeError: an argument is unknown.
            ValueError: neither text nor audio is given, their numbers differ, or ``task`` is unknown.
        """
        options, rate = self._options(kwargs)
        if text is None and audio is None:
            raise ValueError("expected text, audio or both, got neither")
        if text is not None and not isinstance(text, Iterable):
            raise TypeError(f"expected text as str or a list of str, got {type(text).__name__}")
        texts = [text] if text is None or isinstance(text, str) else list(text)
        clips, one_clip = _split_clips(audio)
        single = isinstance(text, str) or (text is None and one_clip)
        texts = texts * len(clips) if text is None else texts
        clips = clips * len(texts) if audio is None else clips
        if not texts or len(texts) != len(clips):
            raise ValueError(f"expected as many texts as clips, got {len(texts)} and {len(clips)}")
        task = task or ("transcribe" if text is None else "speak")
        if task not in ("speak", "transcribe"):
            raise ValueError(f"unknown task {task!r}; choose from speak, transcribe")
        rows = [self._pair(one, clip, task, rate) for one, clip in zip(texts, clips, strict=True)]
        features = conversation_rows(rows, bool(labels), False)
        return BatchFeature(self.tokenizer.batch_rows(features, single, **options))

    def apply_chat_template(  # type: ignore[override]  # the other options go through to the template
        self,
        conversation: Sequence[Mapping[str, Any]] | Sequence[Sequence[Mapping[str, Any]]],
        chat_template: str | None = None,
        *,
        tokenize: bool = True,
        labels: bool | None = None,
        return_dict: bool = True,
        return_assistant_tokens_mask: bool = False,
        processor_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Turn a conversation with audio parts, or a batch of them, into ids.

        Every string is encoded on its own, as text. Its ids, like those of the audio, are inserted where the template
        writes the string. Without a chat template the sequence is that of :meth:`__call__`.

        Args:
            conversation: messages with ``role`` and ``content``: a string, or parts ``{"type": "text", "text":
                ...}`` and ``{"type": "audio", "audio": ...}`` with what :meth:`encode_audio` takes (``path`` or
                ``url`` may name a file instead).
            chat_template: used instead of the processor's or the tokenizer's.
            tokenize, labels, return_dict, return_assistant_tokens_mask: as in
                :meth:`AudioTextTokenizer.apply_chat_template`.
            processor_kwargs: keyword arguments of :meth:`__call__`; they may also be passed directly.
            options: ``add_generation_prompt``, ``continue_final_message``, ``tools``, ``documents`` and variables of
                the template. Without a template ``answer="audio"`` or ``"text"`` selects the generation prompt.

        Returns:
            ``input_ids``, ``attention_mask`` and the requested keys, or text.

        Raises:
            ValueError: a part has an unknown type, or the template leaves content out.
        """
        given = {key: options.pop(key) for key in list(options) if key in _OPTIONS}
        batch_options, rate = self._options({**(processor_kwargs or {}), **given})
        if template := chat_template or self.chat_template:
            options["chat_template"] = template

        def audio_ids(part: Mapping[str, Any]) -> list[int]:
            clip = next((part[key] for key in ("audio", "path", "url") if part.get(key) is not None), None)
            if clip is None:
                raise ValueError(f"expected an audio part with 'audio' or 'path', got {sorted(part)}")
            return self._block(clip, rate)

        out = self.tokenizer.apply_chat_template(
            conversation,
            tokenize=tokenize,
            return_dict=return_dict,
            return_assistant_tokens_mask=return_assistant_tokens_mask,
            labels=labels,
            audio_ids=audio_ids,
            tokenizer_kwargs=batch_options,
            **options,
        )
        return BatchFeature(dict(out)) if tokenize and return_dict else out

    @property
    def model_input_names(self) -> list[str]:
        """Keys of the result of :meth:`__call__`."""
        return ["input_ids", "attention_mask"]

    def generation_options(
        self,
        inputs: Mapping[str, Any],
        max_new_tokens: int,
        min_frames: int = 1,
        max_frames: int | None = None,
    ) -> dict[str, Any]:
        """Arguments for ``model.generate`` that make its answer one well-formed audio block.

        Args:
            inputs: the prompts, with ``input_ids`` [B, S], padded on the left.
            max_new_tokens: maximum number of ids to generate; the block is closed before.
            min_frames, max_frames: limits of the block in frames.

        Returns:
            Keyword arguments: ``model.generate(**inputs, **processor.generation_options(inputs, 2000))``.

        Raises:
            ValueError: a number is out of range, or a row is padded on the right.
        """
        mask = inputs.get("attention_mask")
        if mask is not None and not bool((torch.as_tensor(mask)[:, -1] != 0).all()):
            raise ValueError("a prompt is padded on the right; make the batch with padding_side='left'")
        length = inputs["input_ids"].shape[1] + max_new_tokens
        constraint = AudioConstraint(self.tokenizer, length, self.layout, self.n_q, min_frames, max_frames)
        ends = {"eos_token_id": eos_id(self.tokenizer), "pad_token_id": self.tokenizer.pad_id}
        return {"logits_processor": [constraint], "max_new_tokens": max_new_tokens, **ends}

    def parse(self, ids: Sequence[int] | Tensor, errors: Errors = "strict") -> list[Part]:
        """Split a sequence into texts and codes.

        Args:
            ids: [S], a whole sequence or a part of it; it may begin inside an audio block.
            errors: ``strict``, or ``repair`` to keep the whole frames of malformed blocks.

        Returns:
            Texts without their special tokens, and codes, in order.

        Raises:
            LayoutError: strict, and an audio block does not hold whole frames.
        """
        tok: AudioTextTokenizer = self.tokenizer
        start, end = tok.control_id("audio_start"), tok.control_id("audio_end")
        given = ids.tolist() if isinstance(ids, Tensor | np.ndarray) else list(ids)
        audio = range(tok.audio_offset, tok.audio_offset + tok.n_q * tok.codebook_size)
        if given and given[0] in audio:
            given.insert(0, start)
        blocks: list[tuple[bool, list[int]]] = [(False, [])]
        for index in given:
            if index in (start, end):
                blocks.append((index == start, []))
            else:
                blocks[-1][1].append(index)
        parts: list[Part] = []
        for is_audio, piece in blocks:
            if is_audio:
                decoded = tok.decode_audio(piece, self.layout, self.n_q, errors)
                parts.append(Part(None, *decoded) if errors == "repair" else Part(codes=decoded))
            elif piece and (text := tok.decode(piece, skip_special_tokens=True)):
                parts.append(Part(text=str(text)))
        return parts

    # ---- files

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], push_to_hub: bool = False, **kwargs: Any
    ) -> Any:
        """Save tokenizer, feature extractor and codec in one folder, the codec in ``audio_tokenizer/``.

        The folder can be moved and opened offline. ``push_to_hub`` also uploads it, to ``repo_id`` or under its name,
        with ``kwargs``.
        """
        written = super().save_pretrained(save_directory)
        self.feature_extractor.save_pretrained(save_directory)
        if self.audio_tokenizer is not None:
            self.audio_tokenizer.save_pretrained(Path(save_directory) / CODEC_FOLDER)
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).name), **kwargs)
        return written

    def to_dict(self) -> dict[str, Any]:
        """The contents of processor_config.json, with the name of the codec's folder."""
        # transformers would store the codec's weights and their original path here.
        bare = copy.copy(self)
        del bare.audio_tokenizer
        values = super(AudioTextProcessor, bare).to_dict()
        return values | ({} if self.audio_tokenizer is None else {"audio_tokenizer_folder": CODEC_FOLDER})

    @classmethod
    def get_processor_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As in transformers; the codec is loaded from its subfolder."""
        values, rest = super().get_processor_dict(pretrained_model_name_or_path, **kwargs)
        if folder := values.pop("audio_tokenizer_folder", None):
            shared = ("cache_dir", "local_files_only", "token", "revision")
            where = {key: kwargs[key] for key in shared if key in kwargs}
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
        return [
            AutoFeatureExtractor.from_pretrained(pretrained_model_name_or_path, **kwargs),
            AudioTextTokenizer.from_pretrained(pretrained_model_name_or_path, **kwargs),
        ]

    # ---- helpers

    def check_fingerprint(self, fingerprint: str | None) -> None:
        """Refuse the ``codes_fingerprint`` of another codec than the tokenizer's. Raises ValueError."""
        if fingerprint and fingerprint != self.tokenizer.codes_fingerprint:
            raise ValueError(
                f"the tokenizer's audio ids belong to the codec {self.tokenizer.codes_fingerprint}, got codes of "
                f"{fingerprint}; use that codec's tokenizer, or encode with the tokenizer's codec"
            )

    def _codes(self, audio: Any, sampling_rate: int | None) -> Tensor:
        """Codes of one clip in any form, with all of its codebooks."""
        if isinstance(audio, Mapping):
            self.check_fingerprint(audio.get("codes_fingerprint"))
            if audio.get("codes") is not None:
                return _row_codes(audio)
            if audio.get("array") is not None:
                return self._encode(_samples(audio["array"]), audio.get("sampling_rate", sampling_rate))
            audio = audio.get("path") if audio.get("bytes") is None else audio["bytes"]
            if audio is None:
                raise ValueError("expected audio with 'array', 'bytes', 'path' or 'codes', got none of them")
        elif isinstance(audio, bytes | bytearray | memoryview):
            raise ValueError("expected bytes of codes with their number 'n_q'; pass the shard's row")
        if isinstance(audio, str | Path | bytes):
            self._codec()
            rate = self.feature_extractor.sampling_rate
            return self._encode(load_audio(audio, rate)[0], rate)
        if hasattr(audio, "get_all_samples"):  # audio that `datasets` decodes with torchcodec
            samples = audio.get_all_samples()
            return self._encode(samples.data, samples.sample_rate)
        values = as_tensor(audio)
        if values.is_floating_point():
            return self._encode(values, sampling_rate)
        channels = self.feature_extractor.feature_size
        is_pcm = values.dtype in _PCM_SCALE
        if values.ndim == 1 and is_pcm:
            return self._encode(_samples(values), sampling_rate)
        if values.ndim == 2 and is_pcm and values.shape[0] in (1, channels):
            raise ValueError(
                f"{str(values.dtype)[6:]} of shape {list(values.shape)} can be samples or codes; pass samples as "
                "floats or {'array': ..., 'sampling_rate': ...}, codes as int64"
            )
        return values

    def _encode(self, wav: Any, sampling_rate: int | None) -> Tensor:
        """Codes [K, T] int64 of a wav [N] or [C, N]."""
        codec = self._codec()
        rate, channels = self.feature_extractor.sampling_rate, self.feature_extractor.feature_size
        wav = torch.as_tensor(wav).float()
        wav = wav.unsqueeze(0) if wav.ndim == 1 else wav
        if wav.ndim != 2 or wav.shape[0] not in (1, channels) or wav.shape[1] < 1:
            raise ValueError(
                f"expected a wav [N] or [{channels}, N] with N >= 1, got shape {list(wav.shape)}"
            )
        wav = resample(wav, rate if sampling_rate is None else sampling_rate, rate).expand(channels, -1)
        # Clips are encoded one by one, so that codes do not depend on the batch.
        with torch.no_grad():
            return codec.encode(wav[None].to(codec.device)).audio_codes[0].cpu()

    def _codec(self) -> Any:
        if self.audio_tokenizer is None:
            raise ValueError("this processor has no codec; pass codes, or make it with from_codec()")
        return self.audio_tokenizer

    def _options(self, kwargs: Mapping[str, Any]) -> tuple[dict[str, Any], int | None]:
        """Options of :meth:`AudioTextTokenizer.batch_rows`, and the sampling rate of wavs."""
        flat = {key: value for key, value in kwargs.items() if not key.endswith("_kwargs")}
        groups = {key: dict(value or {}) for key, value in kwargs.items() if key.endswith("_kwargs")}
        unknown = [key for key in (*flat, *groups) if key not in _OPTIONS]
        if unknown:
            raise TypeError(f"AudioTextProcessor takes no argument {', '.join(unknown)}")
        merged = {}
        for group, kind in _GROUPS.items():
            given = groups.get(group, {})
            mine = {key: value for key, value in flat.items() if key in kind.__annotations__}
            if twice := sorted(given.keys() & mine.keys()):
                raise ValueError(f"{', '.join(twice)} was passed twice: in {group} and directly")
            merged[group] = {**groups.get("common_kwargs", {}), **given, **mine}
        init = self.tokenizer.init_kwargs
        options = {key: init[key] for key in ("padding", "truncation", "max_length") if key in init}
        options = {"padding": True, **options, **merged["text_kwargs"]}
        options["padding_side"] = options.get("padding_side") or "left"
        return options, merged["audio_kwargs"].get("sampling_rate")

    def _block(self, audio: Any, sampling_rate: int | None) -> list[int]:
        start, end = self.tokenizer.control_id("audio_start"), self.tokenizer.control_id("audio_end")
        return [start, *self.encode_audio(audio, sampling_rate), end]

    def _pair(self, text: str | None, audio: Any, task: Task, sampling_rate: int | None) -> Conversation:
        parts: list[dict[str, Any]] = [{"type": "text", "text": text}, {"type": "audio", "audio": audio}]
        question, answer = parts if task == "speak" else parts[::-1]
        if question[question["type"]] is None:
            raise ValueError(f"the task {task!r} needs {question['type']}, but a row has none")
        messages = [{"role": "user", "content": [question]}, {"role": "assistant", "content": [answer]}]
        asks = answer[answer["type"]] is None
        return plain_conversation(
            self.tokenizer,
            messages[:1] if asks else messages,
            lambda part: self._block(part["audio"], sampling_rate),
            add_generation_prompt=asks,
        )


@dataclass
class AudioTextCollator:
    """Rows -> a padded batch with labels, for ``Trainer(data_collator=...)`` or a ``DataLoader``.

    A row is an output of the processor (``input_ids`` and perhaps ``labels``), a conversation under ``messages``, or
    ``text`` with ``codes`` or ``audio`` as in :meth:`AudioTextProcessor.encode_audio`. Rows of prepared shards work
    unchanged. A row with another codec's ``codes_fingerprint`` raises ValueError.

    Attributes:
        processor: makes and pads the sequences.
        task: ``speak`` or ``transcribe``, for rows of text and audio.
        pad_to_multiple_of: round the width up to a multiple of this.
        padding_side: ``left`` or ``right``; None means left.
    """

    processor: AudioTextProcessor
    task: Task = "speak"
    pad_to_multiple_of: int = 1
    padding_side: str | None = None

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Make the batch: ``input_ids``, ``attention_mask`` and ``labels``, [B, S] int64."""
        features = [self._feature(row) for row in rows]
        return self.processor.tokenizer.batch_rows(
            features,
            padding=True,
            padding_side=self.padding_side or "left",
            pad_to_multiple_of=self.pad_to_multiple_of,
            return_tensors="pt",
        )

    def _feature(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        self.processor.check_fingerprint(row.get("codes_fingerprint"))
        if "input_ids" in row:
            kept = {key: row[key] for key in ("input_ids", "attention_mask", "labels") if key in row}
            return {"labels": row["input_ids"], **kept}
        if "messages" in row:
            return self.processor.apply_chat_template(row["messages"], labels=True)
        audio = row if row.get("codes") is not None else row.get("audio")
        if audio is None or not isinstance(row.get("text"), str):
            raise ValueError(
                f"expected a row with text and codes or audio, got the columns {', '.join(map(str, row))}"
            )
        return self.processor(row["text"], audio, self.task, labels=True)


def _row_codes(row: Mapping[str, Any]) -> Tensor:
    """Codes [K, T] from the int16 bytes of a shard's row or from any other form."""
    codes = row["codes"]
    if not isinstance(codes, bytes | bytearray | memoryview):
        return as_tensor(codes)
    n_q = row.get("n_q")
    if not isinstance(n_q, Integral) or n_q < 1 or len(codes) % (2 * int(n_q)):
        raise ValueError(f"expected int16 codes and their n_q, got {len(codes)} bytes and n_q {n_q}")
    return torch.from_numpy(np.frombuffer(codes, dtype="<i2").reshape(int(n_q), -1).astype(np.int64))


def _samples(array: Any) -> Tensor:
    """Convert int16 and int32 samples to floats in [-1, 1]; floats are unchanged."""
    values = as_tensor(array)
    if values.is_floating_point():
        return values
    if values.dtype not in _PCM_SCALE:
        raise ValueError(f"expected samples as floats, int16 or int32, got {str(values.dtype)[6:]}")
    return values.float() / _PCM_SCALE[values.dtype]


def _split_clips(audio: Any) -> tuple[list[Any], bool]:
    """A list of clips, and whether one clip was given rather than a list.

    Nested lists of integers are codes [K, T], or a batch if they are deeper. Nested lists of floats are a batch of
    wavs.
    """
    if isinstance(audio, Tensor | np.ndarray) and audio.ndim == 3:
        return list(audio), False
    if isinstance(audio, Sequence) and not isinstance(audio, str | bytes | bytearray | memoryview):
        audio = list(audio)  # a column of datasets is a sequence too
    if not isinstance(audio, list):
        return [audio], True
    depth, inner = 0, audio
    while isinstance(inner, list | tuple) and inner:
        depth, inner = depth + 1, inner[0]
    if isinstance(inner, list | tuple):
        raise ValueError("expected audio, got an empty list")
    if not isinstance(inner, Real):
        return list(audio), False
    single = depth == 1 or (depth == 2 and isinstance(inner, Integral))
    return ([audio] if single else list(audio)), single


class _ProcessorKey(PreTrainedConfig):
    """Key of the class in AutoProcessor's table."""

    model_type = "audiotok-processor"


AutoProcessor.register(_ProcessorKey, AudioTextProcessor, exist_ok=True)
