"""Adapters for the DAC, Mimi, X-Codec and EnCodec models of transformers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import EncodecModel, PreTrainedModel

from .base import SingleCodec, fingerprint
from .config import BaseCodecConfig
from .seanet import convert_encodec

ADAPTED: dict[str, str] = {
    "encodec": "EncodecModel",
    "dac": "DacModel",
    "mimi": "MimiModel",
    "xcodec": "XcodecModel",
}
"""Model types that are adapted, with their classes in ``transformers``."""

_SHORT_FRAMES = 8  # clips of up to 8 frames may be too short for an encoder and are then padded


class AdaptedConfig(BaseCodecConfig):
    """Configuration of an adapted codec, derived from the model's own config and never stored. ValueError: the model
    does not have residual codebooks of one size.
    """

    model_type = "audiotok_adapted"

    def __init__(self, theirs: Any = None, codec_name: str = "unnamed", **kwargs: Any) -> None:
        self.codec_name = codec_name
        self.n_q = _first(theirs, "num_quantizers", "n_codebooks") or 0
        self.codebook_size = _first(theirs, "codebook_size") or 0
        self.sampling_rate = _first(theirs, "sampling_rate", "sample_rate") or 0
        self.audio_channels = _first(theirs, "audio_channels") or 1
        # Mimi downsamples by two after its convolutions.
        self.hop_length = int(_first(theirs, "frame_size", "hop_length") or 0)
        super().__init__(**kwargs)
        if theirs is not None and not (
            self.n_q and self.codebook_size and self.sampling_rate and self.hop_length
        ):
            raise ValueError(f"expected a codec with residual codebooks of one size, got {theirs.model_type}")


def _first(config: Any, *names: str) -> Any:
    return next((value for name in names if (value := getattr(config, name, None))), None)


class AdaptedCodec(SingleCodec):
    """A codec of ``transformers`` with the :class:`~.base.Codec` interface, in float32 and without streaming.

    Items are encoded one by one, padded with zeros to whole frames. Padding to the longest item of a batch would change
    the last frames of DAC and Mimi and nearly all frames of XCodec, even with a mask.

    Args:
        model: a DacModel, MimiModel or XcodecModel.
        codec_name: name of the codec in files.
    """

    config_class = AdaptedConfig
    is_causal = False
    streams = False

    config: AdaptedConfig

    def __init__(self, model: PreTrainedModel, codec_name: str) -> None:
        super().__init__(AdaptedConfig(model.config, codec_name))
        self.model = model.float().eval()
        self.name_or_path = model.name_or_path

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle config and weights, because modules with weight norm cannot be copied or pickled."""
        model, name = self.model, self.config.codec_name
        return _revived, (type(model), model.config, model.name_or_path, name, model.state_dict())

    def _apply(self, fn: Any, recurse: bool = True) -> AdaptedCodec:
        dtype = fn(torch.zeros(1)).dtype
        if dtype != torch.float32:
            raise ValueError(
                f"{self.config.codec_name}: expected float32 for a codec of transformers, got {dtype}"
            )
        return super()._apply(fn, recurse)

    def encode_item(self, wav: Tensor, n_q: int) -> tuple[Tensor, Tensor | None]:
        """Encode wavs [B, C, N] of one length one by one: codes [B, n_q, T], and None for the scales."""
        return torch.cat([self._codes(item[None]) for item in wav])[:, :n_q], None

    def _codes(self, wav: Tensor) -> Tensor:
        """All codes [1, K, T] of one clip. Zeros are appended if the encoder leaves out frames at the end."""
        frames, hop = self.frames(wav.shape[-1]), self.config.hop_length
        model: Any = self.model
        padded = F.pad(wav, (0, frames * hop - wav.shape[-1]))
        try:
            codes = model.encode(padded).audio_codes
            missing = frames - codes.shape[-1]
        except RuntimeError as error:  # perhaps shorter than the kernel of a convolution
            if frames > _SHORT_FRAMES or isinstance(error, torch.OutOfMemoryError) or "memory" in str(error):
                raise
            missing = _SHORT_FRAMES
        if missing > 0:
            codes = model.encode(F.pad(padded, (0, missing * hop))).audio_codes
        if codes.shape[-1] < frames:
            raise RuntimeError(
                f"{self.config.codec_name}: expected {frames} frames of {wav.shape[-1]} samples, got {codes.shape[-1]}"
            )
        return codes[..., :frames].long()

    def _decode(self, codes: Tensor, lengths: list[int], scales: Tensor | None) -> Tensor:
        wav = torch.zeros(len(codes), self.config.audio_channels, max(lengths), device=codes.device)
        model: Any = self.model
        for item, place, length in zip(codes, wav, lengths, strict=True):
            if length:
                sound = model.decode(audio_codes=item[None, :, : self.frames(length)]).audio_values
                sound = sound.float().reshape(self.config.audio_channels, -1)[:, :length]
                place[:, : sound.shape[-1]] = sound
        return wav

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Save the wrapped model; :func:`~audiotok.load_codec` opens it."""
        self.model.save_pretrained(*args, **kwargs)

    @property
    def codes_fingerprint(self) -> str:
        """Hash of the configuration and of all weights except the decoder's, 16 hex digits."""
        config = self.model.config
        numbers = [getattr(config, name, None) for name in ("codebook_size", "hop_length")]
        numbers.append(_first(config, "sampling_rate", "sample_rate"))
        weights = {n: value for n, value in sorted(self.model.state_dict().items()) if "decoder" not in n}
        return fingerprint([config.model_type, *(None if n is None else int(n) for n in numbers)], weights)

    @property
    def weights_fingerprint(self) -> str:
        """Hash of all weights in float32, 16 hex digits."""
        return fingerprint({}, dict(sorted(self.model.state_dict().items())))


def _revived(
    family: type[PreTrainedModel], config: Any, path: str, codec_name: str, weights: dict[str, Tensor]
) -> AdaptedCodec:
    model = family(config)
    model.load_state_dict(weights)
    model.name_or_path = path
    return AdaptedCodec(model, codec_name).eval()


def adapt(model: nn.Module, codec_name: str | None = None) -> SingleCodec:
    """Give a codec of ``transformers`` the :class:`~.base.Codec` interface.

    Args:
        model: instance of a class in :data:`ADAPTED`.
        codec_name: name of the codec in files; None uses the name of its folder, or its model_type.

    Returns:
        The codec in evaluation mode. An EncodecModel is converted to a :class:`~.seanet.SeanetCodec`, so that a
        checkpoint always has the same ``codes_fingerprint``.

    Raises:
        ValueError: the model is of another kind.
    """
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if kind not in ADAPTED or not isinstance(model, PreTrainedModel):
        raise ValueError(f"expected a codec of {', '.join(ADAPTED)}, got {kind}")
    name = codec_name or str(model.name_or_path).rstrip("/").rpartition("/")[2] or kind
    if isinstance(model, EncodecModel):
        return convert_encodec(model, name)
    return AdaptedCodec(model, name).eval()
