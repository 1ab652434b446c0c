"""AudioCodec: the encoder, the quantiser and the decoder as one Hugging Face audio tokenizer.

Knows nothing of text. Laws kept (tests/test_codec.py): length, causality, streaming, batch, layers.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedAudioTokenizerBase
from transformers.utils.generic import ModelOutput

from ..wav import MAX_PEAK
from .config import CodecConfig
from .decoder import Decoder, PitchHead, SourceFilterHead
from .encoder import Encoder, FilterBank
from .quantizer import ResidualVectorQuantizer

if TYPE_CHECKING:
    from .streaming import StreamingDecoder, StreamingEncoder

# What decides who may read whose codes: the numbers that shape encoder and quantiser, and their weights.
_CODES_FIELDS = (
    "sampling_rate hop_length n_q codebook_size codebook_dim encoder_banks encoder_dim encoder_dilations leaky_slope"
).split()


@dataclass
class CodecEncoderOutput(ModelOutput):
    """What :meth:`AudioCodec.encode` returns.

    Attributes:
        audio_codes: [B, K, T] int64 in [0, V).
        audio_codes_mask: [B, T] bool, False where a frame is padding.
    """

    audio_codes: Tensor | None = None
    audio_codes_mask: Tensor | None = None


@dataclass
class CodecDecoderOutput(ModelOutput):
    """What :meth:`AudioCodec.decode` returns.

    Attributes:
        audio_values: [B, 1, N] float32.
    """

    audio_values: Tensor | None = None


@dataclass
class CodecOutput(ModelOutput):
    """What :meth:`AudioCodec.forward` returns.

    Attributes:
        audio_codes: [B, K, T] int64.
        audio_values: [B, 1, N] float32, as long as the input.
    """

    audio_codes: Tensor | None = None
    audio_values: Tensor | None = None


def build_encoder(config: CodecConfig) -> Encoder:
    """The encoder that ``config`` describes."""
    banks = [
        FilterBank(**bank, hop_length=config.hop_length, sampling_rate=config.sampling_rate)
        for bank in config.encoder_banks
    ]
    return Encoder(
        banks, config.encoder_dim, config.encoder_dilations, config.codebook_dim, config.leaky_slope
    )


def build_decoder(config: CodecConfig) -> Decoder:
    """The decoder that ``config`` describes."""
    head = SourceFilterHead(
        dim=config.decoder_dim,
        hop_length=config.hop_length,
        n_fft=config.n_fft,
        synthesis_hop=config.synthesis_hop,
        sampling_rate=config.sampling_rate,
    )
    pitch = PitchHead(
        config.codebook_dim, config.pitch_dim, config.f0_min_hz, config.f0_max_hz, config.f0_bins
    )
    return Decoder(
        config.codebook_dim,
        config.decoder_dim,
        config.decoder_layers,
        config.decoder_kernel,
        config.decoder_ffn_ratio,
        pitch,
        head,
    )


class AudioCodec(PreTrainedAudioTokenizerBase):
    """A causal RVQ codec for speech: wav -> codes -> wav.

    Args:
        config: its numbers.

    Attributes:
        is_causal: codes of frame t depend on samples before ``(t + 1) * hop_length`` only.
        lookahead_samples: samples beyond that which they depend on.
        segment_samples: samples of an independently coded segment; None codes the signal as one.
        has_scale: whether a gain travels beside the codes.
        is_exact: whether codes are computed on integer grids.
    """

    config_class = CodecConfig
    base_model_prefix = "codec"
    main_input_name = "input_values"

    is_causal = True
    lookahead_samples = 0
    segment_samples = None
    has_scale = False
    is_exact = False

    config: CodecConfig

    def __init__(self, config: CodecConfig) -> None:
        super().__init__(config)
        self.encoder = build_encoder(config)
        self.quantizer = ResidualVectorQuantizer(config.n_q, config.codebook_size, config.codebook_dim)
        self.decoder = build_decoder(config)
        self.post_init()
        # Not in _init_weights: transformers skips modules that hold no tensor of their own. On the meta device the
        # checkpoint brings the filters.
        for bank in self.encoder.banks:
            if not bank.sums.weight.is_meta:
                bank.init_filters()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Conv1d):
            nn.init.trunc_normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, ResidualVectorQuantizer):
            nn.init.normal_(module.codebooks)
        elif isinstance(module, SourceFilterHead | PitchHead):
            module.init_tables()

    def encode(
        self, input_values: Tensor, padding_mask: Tensor | None = None, n_q: int | None = None
    ) -> CodecEncoderOutput:
        """Turn a waveform into residual codes.

        Args:
            input_values: wav, [B, 1, N] float, at ``config.sampling_rate`` Hz, values in [-1, 1]. Any N >= 1.
            padding_mask: [B, N] bool or int, false where a sample is padding on the right; None means no padding.
            n_q: codebooks to keep, 1 <= n_q <= config.n_q; None keeps all. Fewer = coarser, same T.

        Returns:
            ``audio_codes`` [B, K, T] int64 in [0, V) with K = n_q and T = ceil(N / hop_length), and
            ``audio_codes_mask`` [B, T] bool.

        Raises:
            TypeError: input_values is no tensor, or n_q no int.
            ValueError: input_values is not [B, 1, N] with B, N >= 1 or not of floats, holds NaN, infinity or samples
                far beyond full scale, the mask has another shape or pads on the left, or n_q is out of range.

        Source: SoundStream (arXiv:2107.03312). Our ``n_q`` is their N_q.
        """
        n_q = self._check_n_q(n_q)
        wav, lengths = self._check_wav(input_values, padding_mask)
        hop = self.config.hop_length
        frames = -(-wav.shape[-1] // hop)
        wav = F.pad(wav, (0, frames * hop - wav.shape[-1]))
        with torch.no_grad():
            encoder, quantizer = self.coders()
            codes = quantizer.encode(encoder(wav), n_q)
        mask = torch.arange(frames, device=wav.device) * hop < lengths[:, None]
        return CodecEncoderOutput(audio_codes=codes * mask[:, None], audio_codes_mask=mask)

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
            padding_mask: [B, N] as given to :meth:`encode`; samples where it is false come back as zeros.

        Returns:
            ``audio_values`` [B, 1, num_samples] float32.

        Raises:
            TypeError: audio_codes is no tensor.
            ValueError: codes of another shape, type or range, or num_samples that the codes do not cover.
        """
        codes = self._check_codes(audio_codes)
        available = codes.shape[-1] * self.config.hop_length
        if num_samples is None:
            num_samples = available
        if not 0 < num_samples <= available:
            raise ValueError(
                f"expected num_samples in [1, {available}] for {codes.shape[-1]} frames of "
                f"{self.config.hop_length} samples, got {num_samples}"
            )
        with torch.no_grad():
            latents = self.quantizer.decode(codes)
            features = self.decoder.features(latents)
            pulses, noise, _ = self.decoder.excite(*self.decoder.pitch.choose(self.decoder.pitch(latents)))
            wav = self.decoder.render(features, pulses, noise)[..., :num_samples]
        if padding_mask is not None:
            wav = wav * padding_mask[:, None, :num_samples].to(wav.dtype)
        return CodecDecoderOutput(audio_values=wav)

    def forward(
        self, input_values: Tensor, padding_mask: Tensor | None = None, n_q: int | None = None
    ) -> CodecOutput:
        """Encode and decode: [B, 1, N] -> codes [B, K, T] and wav [B, 1, N]. Arguments and errors as in encode."""
        codes = self.encode(input_values, padding_mask, n_q).audio_codes
        assert codes is not None
        wav = self.decode(codes, num_samples=input_values.shape[-1], padding_mask=padding_mask).audio_values
        return CodecOutput(audio_codes=codes, audio_values=wav)

    def streaming_encoder(self, n_q: int | None = None) -> StreamingEncoder:
        """A session that encodes one stream piece by piece; see :class:`~audiotok.codec.streaming.StreamingEncoder`."""
        from .streaming import StreamingEncoder

        return StreamingEncoder(*self.coders(), self.config.hop_length, self._check_n_q(n_q))

    def streaming_decoder(self) -> StreamingDecoder:
        """A session that decodes one stream piece by piece; see :class:`~audiotok.codec.streaming.StreamingDecoder`."""
        from .streaming import StreamingDecoder

        return StreamingDecoder(self.decoder, self.quantizer)

    def coders(self) -> tuple[Encoder, ResidualVectorQuantizer]:
        """The modules that make codes of a wav; what else the codec's weights are for does not matter to them."""
        return self.encoder, self.quantizer

    @property
    def algorithmic_latency_ms(self) -> float:
        """Delay that no computer removes: a frame, the look-ahead and the overlap of the synthesis windows."""
        overlap = self.config.n_fft - self.config.synthesis_hop
        samples = self.config.hop_length + self.lookahead_samples + overlap
        return 1000.0 * samples / self.config.sampling_rate

    @property
    def codes_fingerprint(self) -> str:
        """16 hex digits of what makes codes: encoder, quantiser and their numbers, in float32."""
        config = {field: getattr(self.config, field) for field in _CODES_FIELDS}
        return _fingerprint(config, {"encoder": self.encoder, "quantizer": self.quantizer})

    @property
    def weights_fingerprint(self) -> str:
        """16 hex digits of every weight, in float32."""
        config = {field: getattr(self.config, field) for field in _CODES_FIELDS}
        return _fingerprint(config, {"codec": self})

    def _check_n_q(self, n_q: int | None) -> int:
        if n_q is None:
            return self.config.n_q
        if not isinstance(n_q, int):
            raise TypeError(f"expected n_q as int, got {type(n_q).__name__}")
        if not 1 <= n_q <= self.config.n_q:
            raise ValueError(f"expected n_q in [1, {self.config.n_q}], got {n_q}")
        return n_q

    def _check_wav(self, wav: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Check and clean the input; returns the wav with zeros for padding, and each item's length [B] int64."""
        _check_tensor("input_values", wav)
        if wav.ndim != 3 or wav.shape[0] < 1 or wav.shape[1] != 1 or wav.shape[2] < 1:
            raise ValueError(
                f"expected input_values [B, 1, N] with B >= 1 and N >= 1, got {list(wav.shape)}; "
                "average the channels of a multi-channel wav first"
            )
        if not wav.is_floating_point():
            raise ValueError(
                f"expected float samples in [-1, 1], got {wav.dtype}; divide 16-bit samples by 32768"
            )
        wav = wav.to(self.dtype)
        lengths = torch.full((wav.shape[0],), wav.shape[-1], device=wav.device)
        if padding_mask is not None:
            if padding_mask.shape != (wav.shape[0], wav.shape[-1]):
                raise ValueError(
                    f"expected padding_mask [B, N] = {[wav.shape[0], wav.shape[-1]]}, got {list(padding_mask.shape)}"
                )
            real = padding_mask.bool()
            lengths = real.sum(dim=-1)
            if bool((real[:, 1:] & ~real[:, :-1]).any()):
                raise ValueError(
                    "expected padding on the right only, got a padding_mask with padding before sound"
                )
            wav = wav.masked_fill(~real[:, None], 0.0)
        peak = float(wav.abs().max())  # NaN where a sample is
        if not math.isfinite(peak):
            raise ValueError("expected finite samples, got NaN or infinity; repair the wav first")
        if peak > MAX_PEAK:
            raise ValueError(f"expected samples in [-1, 1], got a peak of {peak:.3g}; scale the wav first")
        return wav, lengths

    def _check_codes(self, codes: Tensor) -> Tensor:
        _check_tensor("audio_codes", codes)
        if codes.ndim != 3 or 0 in codes.shape or codes.shape[1] > self.config.n_q:
            raise ValueError(
                f"expected audio_codes [B, K, T] with B >= 1, 1 <= K <= {self.config.n_q} and T >= 1, "
                f"got {list(codes.shape)}"
            )
        if codes.is_floating_point() or codes.dtype == torch.bool:
            raise ValueError(f"expected integer audio_codes, got {codes.dtype}")
        codes = codes.to(device=self.device, dtype=torch.int64)
        low, high = int(codes.min()), int(codes.max())
        if low < 0 or high >= self.config.codebook_size:
            raise ValueError(
                f"expected audio_codes in [0, {self.config.codebook_size}), got values from {low} to {high}"
            )
        return codes


def _check_tensor(name: str, value: Any) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"expected {name} as a torch.Tensor, got {type(value).__name__}; see torch.as_tensor")


def _fingerprint(config: dict[str, Any], modules: dict[str, nn.Module]) -> str:
    """SHA-256 over numbers and weights, cut to 16 hex digits; independent of device and storage type."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for prefix, module in modules.items():
        for name, value in sorted(module.state_dict().items()):
            digest.update(f"{prefix}.{name}{list(value.shape)}".encode())
            digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
