"""AudioCodec: the encoder, the quantiser and the decoder as one Hugging Face audio tokenizer.

Knows nothing of text. Laws kept (tests/test_codec.py): length, causality, streaming, batch, layers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .base import Codec, CodecDecoderOutput, CodecEncoderOutput, check_tensor, fingerprint, weights_of
from .config import CodecConfig
from .decoder import Decoder, PitchHead, SourceFilterHead
from .encoder import Encoder, FilterBank
from .layers import ConvNeXtBlock, StepConv1d
from .quantizer import ResidualVectorQuantizer

if TYPE_CHECKING:
    from .streaming import StreamingDecoder, StreamingEncoder

# What decides who may read whose codes: the numbers that shape encoder and quantiser, and their weights.
_CODES_FIELDS = (
    "sampling_rate hop_length n_q codebook_size codebook_dim encoder_banks encoder_dim encoder_dilations leaky_slope"
).split()


def build_encoder(config: CodecConfig) -> Encoder:
    """The encoder that ``config`` describes."""
    banks = [
        FilterBank(**bank, hop_length=config.hop_length, sampling_rate=config.sampling_rate)
        for bank in config.encoder_banks
    ]
    latent_dim = config.codebook_dim + config.semantic_dim
    return Encoder(banks, config.encoder_dim, config.encoder_dilations, latent_dim, config.leaky_slope)


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


class AudioCodec(Codec):
    """A causal RVQ codec for speech: wav -> codes -> wav.

    Args:
        config: its numbers.
    """

    config_class = CodecConfig
    base_model_prefix = "codec"
    # Codes are defined in float32, and phase, the running sum of pitch, needs it too. The decoder's trunk may be cast.
    _keep_in_fp32_modules_strict = ["encoder", "quantizer", "pitch", "window"]

    config: CodecConfig

    def __init__(self, config: CodecConfig) -> None:
        super().__init__(config)
        self.encoder: Encoder = build_encoder(config)
        self.quantizer = ResidualVectorQuantizer(
            config.n_q, config.codebook_size, config.codebook_dim, semantic_dim=config.semantic_dim
        )
        self.decoder = build_decoder(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Start values of the tensors that a module itself holds; of ``transformers``, which keeps loaded ones."""
        if isinstance(module, StepConv1d) and module.fixed is not None:
            init.copy_(module.weight, module.fixed())
        elif isinstance(module, nn.Linear | nn.Conv1d):
            init.trunc_normal_(module.weight, std=module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, ConvNeXtBlock):
            init.constant_(module.scale, module.layer_scale)
        elif isinstance(module, ResidualVectorQuantizer | SourceFilterHead | PitchHead):
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
            TypeError: input_values or padding_mask is no tensor, or n_q no int.
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
            codes = self.quantizer.encode(self.encoder(wav), n_q)
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
            TypeError: audio_codes or padding_mask is no tensor, or num_samples no int.
            ValueError: codes of another shape, type or range, or num_samples that the codes do not cover.
        """
        codes = self._check_codes(audio_codes)
        num_samples = self._check_num_samples(num_samples, codes.shape[-1])
        with torch.no_grad():
            wav = self.decoder(self.quantizer.decode(codes))[..., :num_samples]
        if padding_mask is not None:
            check_tensor("padding_mask", padding_mask)
            if padding_mask.ndim != 2 or len(padding_mask) != len(wav) or padding_mask.shape[1] < num_samples:
                raise ValueError(
                    f"expected padding_mask [B, N] with B = {len(wav)} and N >= {num_samples}, got "
                    f"{list(padding_mask.shape)}"
                )
            wav = wav * padding_mask[:, None, :num_samples].to(wav.dtype)
        return CodecDecoderOutput(audio_values=wav)

    def streaming_encoder(self, n_q: int | None = None) -> StreamingEncoder:
        """A session that encodes one stream piece by piece; see :class:`~audiotok.codec.streaming.StreamingEncoder`."""
        from .streaming import StreamingEncoder

        self._check_weights()
        return StreamingEncoder(self.encoder, self.quantizer, self.config.hop_length, self._check_n_q(n_q))

    def streaming_decoder(self) -> StreamingDecoder:
        """A session that decodes one stream piece by piece; see :class:`~audiotok.codec.streaming.StreamingDecoder`."""
        from .streaming import StreamingDecoder

        self._check_weights()
        return StreamingDecoder(self.decoder, self.quantizer)

    def set_decoder_dtype(self, dtype: torch.dtype) -> None:
        """Compute the decoder's trunk in another precision."""
        self.decoder.set_trunk_dtype(dtype)

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
        return fingerprint(config, weights_of({"encoder": self.encoder, "quantizer": self.quantizer}))

    @property
    def weights_fingerprint(self) -> str:
        """16 hex digits of every weight, in float32."""
        config = {field: getattr(self.config, field) for field in _CODES_FIELDS}
        return fingerprint(config, weights_of({"codec": self}))
