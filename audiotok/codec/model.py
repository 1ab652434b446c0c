"""AudioCodec, the default codec family: encoder, residual quantiser and decoder as one Hugging Face audio tokenizer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .base import Codec, CodecEncoderOutput
from .config import CodecConfig
from .decoder import Decoder, PitchHead, SourceFilterHead
from .encoder import Encoder, FilterBank
from .layers import ConvNeXtBlock, StepConv1d
from .quantizer import ResidualVectorQuantizer
from .streaming import StreamingDecoder, StreamingEncoder


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
        config.decoder_dim, config.hop_length, config.n_fft, config.synthesis_hop, config.sampling_rate
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
    """A causal RVQ codec for speech (SoundStream, arXiv:2107.03312) with a source-filter decoder."""

    config_class = CodecConfig
    codes_fields = (
        "sampling_rate",
        "hop_length",
        "n_q",
        "codebook_size",
        "codebook_dim",
        "encoder_banks",
        "encoder_dim",
        "encoder_dilations",
        "leaky_slope",
    )
    # Codes and the phase, a running sum of pitch, need float32. The decoder's trunk may be cast.
    _keep_in_fp32_modules_strict = ["encoder", "quantizer", "pitch", "window"]

    config: CodecConfig
    encoder: Encoder
    quantizer: ResidualVectorQuantizer

    def __init__(self, config: CodecConfig) -> None:
        super().__init__(config)
        self.encoder = build_encoder(config)
        self.quantizer = ResidualVectorQuantizer(
            config.n_q, config.codebook_size, config.codebook_dim, semantic_dim=config.semantic_dim
        )
        self.decoder = build_decoder(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise the parameters and buffers of one module, except those that were loaded."""
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

    def _encode(self, wav: Tensor, lengths: Tensor, n_q: int) -> CodecEncoderOutput:
        hop, frames = self.config.hop_length, self.frames(wav.shape[-1])
        wav = F.pad(wav, (0, frames * hop - wav.shape[-1]))
        codes = self.quantizer.encode(self.encoder(wav), n_q)
        mask = torch.arange(frames, device=wav.device) * hop < lengths[:, None]
        return CodecEncoderOutput(audio_codes=codes * mask[:, None], audio_codes_mask=mask)

    def _decode(self, codes: Tensor, lengths: list[int], scales: Tensor | None) -> Tensor:
        return self.decoder(self.quantizer.decode(codes))

    def streaming_encoder(self, n_q: int | None = None) -> StreamingEncoder:
        """A session that encodes a batch of streams in pieces."""
        self._check_weights()
        return StreamingEncoder(self.encoder, self.quantizer, self.config.hop_length, self._check_n_q(n_q))

    def streaming_decoder(self) -> StreamingDecoder:
        """A session that decodes a batch of streams in pieces."""
        self._check_weights()
        return StreamingDecoder(
            self.decoder, self.quantizer, self.config.hop_length, self.config.sampling_rate
        )

    @property
    def algorithmic_latency_ms(self) -> float:
        """One frame, the look-ahead and the overlap of the synthesis windows."""
        overlap = self.config.n_fft - self.config.synthesis_hop
        samples = self.config.hop_length + self.lookahead_samples + overlap
        return 1000.0 * samples / self.config.sampling_rate
