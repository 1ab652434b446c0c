"""A processor's folder: tokenizer and feature extractor in it, the codec in a folder inside it.

Knows nothing of sequences. The law it keeps: the folder works wherever it is moved, without a network.
transformers itself writes down the absolute path that the codec was loaded from.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel, ProcessorMixin
from transformers.models.auto.modeling_auto import AutoModelForAudioTokenization

from .tokenizer import AudioTextTokenizer

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
