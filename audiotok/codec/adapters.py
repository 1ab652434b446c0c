"""Codecs of transformers with the interface of ours: DAC, Mimi and XCodec wrapped, EnCodec converted."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import EncodecModel, PreTrainedModel

from .base import SingleCodec, fingerprint
from .config import BaseCodecConfig
from .seanet import convert_encodec
from .streaming import WholeDecoder, WholeEncoder

ADAPTED: dict[str, str] = {
    "encodec": "EncodecModel",
    "dac": "DacModel",
    "mimi": "MimiModel",
    "xcodec": "XcodecModel",
}
"""The model_type of a config that is adapted, and its class in ``transformers``."""

_FEATURES = "its encoder needs filter banks beside the wav, which only its own processor makes"
_CONTINUOUS = "it gives latents and no codes"
NOT_ADAPTED: dict[str, str] = {
    "higgs_audio_v2_tokenizer": "its code needs torchaudio, which nothing here uses or tests with",
    "xcodec2": _FEATURES,
    "neucodec": _FEATURES,
    "pocket_tts_audio_tokenizer": _CONTINUOUS,
    "vibevoice_acoustic_tokenizer": _CONTINUOUS,
}
"""Audio tokenizers of transformers that cannot be adapted, and why."""

_SHORT_FRAMES = (
    8  # a clip of so many may be too short for an encoder, and is tried again with zeros behind it
)


class AdaptedConfig(BaseCodecConfig):
    """The numbers of an adapted codec, read off its own config and never stored.

    Args:
        theirs: the config of the model.
        codec_name: what files call the codec.

    Raises:
        ValueError: it has no residual codebooks of one size.
    """

    model_type = "audiotok_adapted"

    def __init__(self, theirs: Any = None, codec_name: str = "unnamed", **kwargs: Any) -> None:
        self.codec_name = codec_name
        self.n_q = _first(theirs, "num_quantizers", "n_codebooks") or 0
        self.codebook_size = _first(theirs, "codebook_size") or 0
        self.sampling_rate = _first(theirs, "sampling_rate", "sample_rate") or 0
        self.audio_channels = _first(theirs, "audio_channels") or 1
        # Mimi's frames are longer than its convolutions' hop: it halves their rate once more.
        self.hop_length = int(_first(theirs, "frame_size", "hop_length") or 0)
        super().__init__(**kwargs)
        if theirs is not None and not (
            self.n_q and self.codebook_size and self.sampling_rate and self.hop_length
        ):
            raise ValueError(f"expected a codec with residual codebooks of one size, got {theirs.model_type}")


def _first(config: Any, *names: str) -> Any:
    return next((value for name in names if (value := getattr(config, name, None))), None)


class AdaptedCodec(SingleCodec):
    """A codec of ``transformers`` that encodes and decodes as ours do, in float32, and does not stream.

    Items go through it one by one, each at its own length with zeros to the end of its last frame: padding changes the
    last frames of DAC and Mimi and nearly all of XCodec's, and masks do not help.

    Args:
        model: a DacModel, MimiModel or XcodecModel.
        codec_name: what files call the codec.
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
        """Config and weights: modules with weight norm cannot be copied or pickled otherwise."""
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
        """Codes [B, n_q, T] of wavs [B, C, N] of one length, each of them alone; no scales."""
        return torch.cat([self._codes(item[None]) for item in wav])[:, :n_q], None

    def encode_segment(self, wav: Tensor, n_q: int) -> tuple[Tensor, Tensor | None]:
        """As :meth:`encode_item`: there are no segments."""
        return self.encode_item(wav, n_q)

    def _codes(self, wav: Tensor) -> Tensor:
        """All codes [1, K, T] of one clip; frames that an encoder leaves out at the end come when zeros follow."""
        frames, hop = self.frames(wav.shape[-1]), self.config.hop_length
        model: Any = self.model
        padded = F.pad(wav, (0, frames * hop - wav.shape[-1]))
        try:
            codes = model.encode(padded).audio_codes
            missing = frames - codes.shape[-1]
        except RuntimeError as error:  # shorter than a convolution inside, perhaps
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

    def streaming_encoder(self, n_q: int | None = None) -> WholeEncoder:
        """A session that encodes one stream, at the end."""
        self._check_weights()
        return WholeEncoder(self, self._check_n_q(n_q))

    def streaming_decoder(self) -> WholeDecoder:
        """A session that decodes one stream, at the end."""
        self._check_weights()
        return WholeDecoder(self)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Save the wrapped model; :func:`~audiotok.load_codec` opens it."""
        self.model.save_pretrained(*args, **kwargs)

    @property
    def algorithmic_latency_ms(self) -> None:
        """None: the codec does not stream."""

    @property
    def codes_fingerprint(self) -> str:
        """16 hex digits over its numbers and all weights but the decoder's."""
        config = self.model.config
        numbers = [getattr(config, name, None) for name in ("codebook_size", "hop_length")]
        numbers.append(_first(config, "sampling_rate", "sample_rate"))
        weights = {n: value for n, value in sorted(self.model.state_dict().items()) if "decoder" not in n}
        return fingerprint([config.model_type, *(None if n is None else int(n) for n in numbers)], weights)

    @property
    def weights_fingerprint(self) -> str:
        """16 hex digits of every weight, in float32."""
        return fingerprint({}, dict(sorted(self.model.state_dict().items())))


def _revived(
    family: type[PreTrainedModel], config: Any, path: str, codec_name: str, weights: dict[str, Tensor]
) -> AdaptedCodec:
    model = family(config)
    model.load_state_dict(weights)
    model.name_or_path = path
    return AdaptedCodec(model, codec_name).eval()


def adapt(model: nn.Module, codec_name: str | None = None) -> SingleCodec:
    """Give a codec of ``transformers`` the interface of ours.

    Args:
        model: of a class in :data:`ADAPTED`.
        codec_name: what files call the codec; None takes its folder's name, or its model_type.

    Returns:
        The codec in evaluation mode: an EncodecModel as a :class:`~.seanet.SeanetCodec` with its weights, so that a
        checkpoint has one ``codes_fingerprint`` however it was opened.

    Raises:
        ValueError: the model is of another kind.
    """
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if kind not in ADAPTED or not isinstance(model, PreTrainedModel):
        reason = f": {NOT_ADAPTED[kind]}" if kind in NOT_ADAPTED else ""
        raise ValueError(f"expected a codec of {', '.join(ADAPTED)}, got {kind}{reason}")
    name = codec_name or str(model.name_or_path).rstrip("/").rpartition("/")[2] or kind
    if isinstance(model, EncodecModel):
        return convert_encodec(model, name)
    return AdaptedCodec(model, name).eval()
