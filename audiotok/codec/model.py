"""AudioCodec, the default codec family: encoder, residual quantiser and decoder as one Hugging Face audio tokenizer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .base import Codec, CodecEncoderOutput
from .config import CodecConfig
from .decoder import Decoder, PitchHead, SourceFilterHead
from .encoder import Encoder
from .layers import ConvNeXtBlock, StepConv1d
from .quantizer import ResidualVectorQuantizer


class AudioCodec(Codec):
    """A causal RVQ codec for speech (SoundStream, arXiv:2107.03312) with a source-filter decoder."""

    config_class = CodecConfig
    codes_fields = tuple(
        "sampling_rate hop_length n_q codebook_size codebook_dim encoder_banks encoder_dim encoder_dilations "
        "leaky_slope".split()
    )
    # Codes and the phase, a running sum of pitch, need float32. The decoder's trunk may be cast.
    _keep_in_fp32_modules_strict = ["encoder", "quantizer", "pitch", "window"]

    config: CodecConfig
    encoder: Encoder
    quantizer: ResidualVectorQuantizer

    def __init__(self, config: CodecConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config)
        self.quantizer = ResidualVectorQuantizer(
            config.n_q, config.codebook_size, config.codebook_dim, semantic_dim=config.semantic_dim
        )
        self.decoder = Decoder(config)
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

    @property
    def algorithmic_latency_ms(self) -> float:
        """One frame, the look-ahead and the overlap of the synthesis windows."""
        overlap = self.config.n_fft - self.config.synthesis_hop
        samples = self.config.hop_length + self.lookahead_samples + overlap
        return 1000.0 * samples / self.config.sampling_rate
