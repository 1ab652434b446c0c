"""Codecs of ``transformers`` behind the face of ours: DAC, Mimi, XCodec; EnCodec becomes ours altogether.

Knows nothing of where weights are. The laws kept: T == ceil(N / hop_length), ``decode`` gives the samples that are
asked for, and an item's codes do not depend on its neighbours or its padding. The last is not so in what is wrapped
(padding changes the last frames of DAC and Mimi and nearly all of XCodec's, and no mask cures it), so items go through
it one by one, each at its own length, with zeros to the end of its last frame.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import EncodecModel, PreTrainedModel

from .base import CodecDecoderOutput, SingleCodec, fingerprint
from .config import GridConfig
from .seanet import convert_encodec
from .streaming import WholeDecoder, WholeEncoder

ADAPTED: dict[str, str] = {
    "encodec": "EncodecModel",
    "dac": "DacModel",
    "mimi": "MimiModel",
    "xcodec": "XcodecModel",
}
"""What is adapted: the model_type of its config, and its class in ``transformers``."""

_FEATURES = "its encoder wants filter banks beside the wav, which only its own processor makes"
_CONTINUOUS = "it gives latents and no codes"
NOT_ADAPTED: dict[str, str] = {
    "higgs_audio_v2_tokenizer": "its code needs torchaudio, which nothing here uses or tests with",
    "xcodec2": _FEATURES,
    "neucodec": _FEATURES,
    "pocket_tts_audio_tokenizer": _CONTINUOUS,
    "vibevoice_acoustic_tokenizer": _CONTINUOUS,
}
"""What is registered for audio tokenization and cannot be adapted, and why."""

_SHORT_FRAMES = (
    8  # a clip of so many may be too short for an encoder, and is tried again with zeros behind it
)


class AdaptedConfig(GridConfig):
    """The facts of an adapted codec in our words; never stored, for they are read off its own config.

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
        self.hop_length = _hop_length(theirs)
        super().__init__(**kwargs)
        if theirs is not None and not (
            self.n_q and self.codebook_size and self.sampling_rate and self.hop_length
        ):
            raise ValueError(f"expected a codec with residual codebooks of one size, got {theirs.model_type}")


def _first(config: Any, *names: str) -> Any:
    return next((value for name in names if (value := getattr(config, name, None))), None)


def _hop_length(config: Any) -> int:
    # Mimi's frames are longer than its convolutions' hop: it halves their rate once more.
    return int(_first(config, "frame_size", "hop_length") or 0)


class AdaptedCodec(SingleCodec):
    """A codec of ``transformers`` that encodes and decodes as ours do. Non-streaming, in float32.

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
        """Copies and other processes get config and weights: modules with weight norm travel in no other way."""
        model = self.model
        return _revived, (
            type(model),
            model.config,
            model.name_or_path,
            self.config.codec_name,
            model.state_dict(),
        )

    def encode_item(self, wav: Tensor, n_q: int) -> tuple[Tensor, Tensor | None]:
        """Codes [B, n_q, T] of wavs [B, C, N] of one length, each of them alone; and None, there are no scales."""
        return torch.cat([self._codes(item[None]) for item in wav])[:, :n_q], None

    def _codes(self, wav: Tensor) -> Tensor:
        """All codes [1, K, T] of one sound: what an encoder leaves out at the end it gives when zeros follow."""
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

    def decode(
        self,
        audio_codes: Tensor,
        num_samples: int | None = None,
        padding_mask: Tensor | None = None,
    ) -> CodecDecoderOutput:
        """Turn residual codes into a waveform.

        Args:
            audio_codes: [B, K, T] int64 in [0, V), the first K codebooks, 1 <= K <= config.n_q, T >= 1.
            num_samples: length of the result, 1 <= num_samples <= T * hop_length; None gives T * hop_length.
            padding_mask: [B, N] as given to :meth:`encode`: frames behind an item's end are not decoded, and its
                samples come back as zeros.

        Returns:
            ``audio_values`` [B, C, num_samples] float32.

        Raises:
            TypeError: audio_codes is no tensor.
            ValueError: codes of another shape, type or range, or num_samples that the codes do not cover.
        """
        codes = self._check_codes(audio_codes)
        num_samples = self._check_num_samples(num_samples, codes.shape[-1])
        lengths = [num_samples] * len(codes)
        if padding_mask is not None:
            lengths = padding_mask[:, :num_samples].sum(dim=-1).tolist()
        wav = torch.zeros(len(codes), self.config.audio_channels, num_samples, device=codes.device)
        model: Any = self.model
        for item, place, length in zip(codes, wav, lengths, strict=True):
            if length:
                with torch.no_grad():
                    sound = model.decode(audio_codes=item[None, :, : self.frames(length)]).audio_values
                sound = sound.float().reshape(self.config.audio_channels, -1)[:, :length]
                place[:, : sound.shape[-1]] = sound
        return CodecDecoderOutput(audio_values=wav)

    def streaming_encoder(self, n_q: int | None = None) -> WholeEncoder:
        """A session that encodes one stream, at the end."""
        return WholeEncoder(self, self._check_n_q(n_q))

    def streaming_decoder(self) -> WholeDecoder:
        """A session that decodes one stream, at the end."""
        return WholeDecoder(self)

    def set_decoder_dtype(self, dtype: torch.dtype) -> None:
        """Refuse all but float32.

        Raises:
            ValueError: the dtype is another.
        """
        if dtype != torch.float32:
            raise ValueError(
                f"{self.config.codec_name}: expected float32 for a codec of transformers, got {dtype}"
            )

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Save what is wrapped, as ``transformers`` does; :func:`~audiotok.load_codec` opens it."""
        self.model.save_pretrained(*args, **kwargs)

    @property
    def algorithmic_latency_ms(self) -> None:
        """None: such a codec is given all of a sound."""

    @property
    def codes_fingerprint(self) -> str:
        """16 hex digits over its numbers and all weights but the decoder's."""
        return foreign_fingerprint(self.model)

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


def foreign_fingerprint(model: nn.Module) -> str:
    """16 hex digits of what makes the codes of a codec of ``transformers``."""
    config: Any = model.config
    numbers = [config.model_type, *(getattr(config, name, None) for name in ("codebook_size", "hop_length"))]
    numbers.append(_first(config, "sampling_rate", "sample_rate"))
    weights = {name: value for name, value in sorted(model.state_dict().items()) if "decoder" not in name}
    return fingerprint([None if n is None else n if isinstance(n, str) else int(n) for n in numbers], weights)


def adapt(model: PreTrainedModel, codec_name: str | None = None) -> SingleCodec:
    """Put a codec of ``transformers`` behind the face of ours.

    Args:
        model: of a class in :data:`ADAPTED`.
        codec_name: what files call the codec; None takes its folder's name, or its kind.

    Returns:
        The codec in evaluation mode; of an EncodecModel our own with its weights.

    Raises:
        ValueError: the model is of another kind.
    """
    kind = model.config.model_type
    name = codec_name or str(model.name_or_path).rstrip("/").rpartition("/")[2] or kind
    if isinstance(model, EncodecModel):
        return convert_encodec(model, name)
    if kind not in ADAPTED:
        reason = f": {NOT_ADAPTED[kind]}" if kind in NOT_ADAPTED else ""
        raise ValueError(f"expected a codec of {', '.join(ADAPTED)}, got {kind}{reason}")
    return AdaptedCodec(model, name).eval()
