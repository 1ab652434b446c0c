"""SoundStream and EnCodec behind the face of all codecs: a SEANet encoder, residual quantiser and SEANet decoder.

Knows nothing of text. Laws kept (tests/test_encodec.py, tests/test_soundstream.py): length, batch, layers; streaming
where ``streams``; what transformers' EncodecModel gives, on its weights.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init

from .base import CodecDecoderOutput, SingleCodec, fingerprint, weights_of
from .layers import no_autocast
from .quantizer import ResidualVectorQuantizer
from .seanet import SEANetDecoder, SEANetEncoder
from .seanet_config import SeanetConfig
from .segments import overlap_add, segment_starts
from .sessions import MISSING_SCALE, SeanetStreamingDecoder, WholeDecoder, WholeEncoder
from .streaming import StreamingEncoder

# What decides who may read whose codes; the decoder may be another.
_CODES_FIELDS = (
    "sampling_rate audio_channels strides filters dilations kernel_size latent_kernel_size residual_kernel_size "
    "compress shortcut lstm_layers causal pad_mode group_norm n_q codebook_size codebook_dim segment_samples overlap "
    "normalize denoises"
).split()


def build_seanet(config: SeanetConfig) -> tuple[SEANetEncoder, SEANetDecoder]:
    """The encoder and the decoder that ``config`` describes."""
    shared: dict[str, Any] = {
        "channels": config.audio_channels,
        "filters": config.filters,
        "strides": config.strides,
        "dilations": config.dilations,
        "latent_dim": config.codebook_dim,
        "kernel_size": config.kernel_size,
        "residual_kernel_size": config.residual_kernel_size,
        "compress": config.compress,
        "shortcut": config.shortcut,
        "lstm_layers": config.lstm_layers,
        "causal": config.causal,
        "pad_mode": config.pad_mode,
        "group_norm": config.group_norm,
    }
    encoder = SEANetEncoder(**shared, latent_kernel_size=config.latent_kernel_size, film=config.denoises)
    return encoder, SEANetDecoder(**shared, last_kernel_size=config.last_kernel_size)


class SeanetCodec(SingleCodec):
    """A codec of the papers; see :class:`~audiotok.codec.base.Codec` for what it declares.

    Args:
        config: its numbers; :func:`~audiotok.codec.seanet_config.seanet_preset` has those of the papers.
    """

    config_class = SeanetConfig
    base_model_prefix = "codec"
    _keep_in_fp32_modules_strict = ["encoder", "quantizer"]  # codes are defined in float32

    config: SeanetConfig

    def __init__(self, config: SeanetConfig) -> None:
        super().__init__(config)
        self.encoder, self.decoder = build_seanet(config)
        self.quantizer = ResidualVectorQuantizer(config.n_q, config.codebook_size, config.codebook_dim)
        self.is_causal = config.causal and config.segment_samples is None and not config.group_norm
        # A reflection puts the first frames' future before them; from there on nothing looks ahead.
        reflected = (config.latent_kernel_size - 1) * config.hop_length
        self.lookahead_samples = reflected if self.is_causal and config.pad_mode == "reflect" else 0
        self.segment_samples = config.segment_samples
        self.has_scale = config.normalize
        mono = config.audio_channels == 1
        self.streams = mono and self.is_causal and config.pad_mode == "zero" and not config.lstm_layers
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Start values of the tensors that a module itself holds; of ``transformers``, which keeps loaded ones."""
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            # The level of a signal stays the same; with torch's own start it vanishes in a dozen layers.
            steps = module.stride[0] if isinstance(module, nn.ConvTranspose1d) else 1
            spread = (module.in_channels * module.kernel_size[0] / steps) ** -0.5
            init.normal_(module.weight, std=spread * getattr(module, "start_gain", 1.0))
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.LSTM):
            for weight in module.parameters():
                init.uniform_(weight, -(module.hidden_size**-0.5), module.hidden_size**-0.5)
        elif isinstance(module, nn.GroupNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):  # of FiLM: a gain of 1 and an offset of 0
            init.zeros_(module.weight)
            init.copy_(module.bias, torch.arange(len(module.bias)) < len(module.bias) // 2)
        elif isinstance(module, ResidualVectorQuantizer):
            module.init_tables()

    def frames(self, num_samples: int) -> int:
        """T: each segment's samples in whole frames."""
        size, hop = self.config.segment_samples, self.config.hop_length
        starts = segment_starts(num_samples, self.config.segment_stride)
        return sum(-(-min(num_samples - start, size or num_samples) // hop) for start in starts)

    def samples(self, frames: int) -> int:
        """N, the samples that ``frames`` frames decode to."""
        if self.config.segment_stride is None or not frames:
            return frames * self.config.hop_length
        before = (frames - 1) // self._segment_frames
        return before * self.config.segment_stride + self.config.hop_length * (
            frames - before * self._segment_frames
        )

    @property
    def _segment_frames(self) -> int:
        return (self.config.segment_samples or 0) // self.config.hop_length

    def encode_segment(
        self, wav: Tensor, n_q: int, denoise: Tensor | bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Codes [B, n_q, T] and scale [B, 1] or None of one segment [B, C, N].

        Raises:
            ValueError: the codec does not denoise, and is asked to.
        """
        if denoise is not False and not self.config.denoises:
            raise ValueError(f"{self.config.codec_name} does not denoise; train one with denoises: true")
        scale = None
        if self.has_scale:
            scale = wav.mean(dim=1).square().mean(dim=-1, keepdim=True).sqrt() + 1e-8
            wav = wav / scale[:, None]
        return self.quantizer.encode(self.encoder(wav, wanted=denoise), n_q), scale

    def encode_item(
        self, wav: Tensor, n_q: int, denoise: Tensor | bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """As in the base class; ``denoise``: [B, T] bool, or one bool, leaves noise out of these frames
        where the codec ``denoises``.
        """
        starts = segment_starts(wav.shape[-1], self.config.segment_stride)
        size = self.config.segment_samples or wav.shape[-1]
        found = [self.encode_segment(wav[..., start : start + size], n_q, denoise) for start in starts]
        scales = [scale for _, scale in found if scale is not None]
        return torch.cat([codes for codes, _ in found], dim=-1), torch.cat(scales, dim=1) if scales else None

    def decode(
        self,
        audio_codes: Tensor,
        num_samples: int | None = None,
        padding_mask: Tensor | None = None,
        audio_scales: Tensor | None = None,
    ) -> CodecDecoderOutput:
        """Turn residual codes into a waveform.

        Args:
            audio_codes: [B, K, T] int64 in [0, V), the first K codebooks, 1 <= K <= config.n_q, T >= 1.
            num_samples: length of the result, from 1 to ``samples(T)``, which None gives.
            padding_mask: [B, N] as given to :meth:`encode`; samples where it is false come back as zeros.
            audio_scales: [B, segments] float32 as :meth:`encode` gave them; None of a codec that ``has_scale`` means
                an RMS of :data:`~.sessions.MISSING_SCALE`.

        Returns:
            ``audio_values`` [B, C, num_samples] float32.

        Raises:
            TypeError: audio_codes is no tensor.
            ValueError: codes of another shape, type or range, num_samples that the codes do not cover, or another
                number of scales than of segments.
        """
        codes = self._check_codes(audio_codes)
        num_samples = self._check_num_samples(num_samples, codes.shape[-1])
        pieces = codes.split(self._segment_frames or codes.shape[-1], dim=-1)
        if self.has_scale and audio_scales is None:
            audio_scales = torch.full((len(codes), len(pieces)), MISSING_SCALE, device=codes.device)
        if audio_scales is not None and audio_scales.shape != (len(codes), len(pieces)):
            raise ValueError(
                f"expected audio_scales [B, segments] = {[len(codes), len(pieces)]}, got {list(audio_scales.shape)}"
            )
        with torch.no_grad():
            sounds = [self._sound(piece) for piece in pieces]
            if audio_scales is not None:
                gains = audio_scales.to(codes.device)
                sounds = [sound * gains[:, i, None, None] for i, sound in enumerate(sounds)]
            stride = self.config.segment_stride
            wav = overlap_add(sounds, stride) if stride and len(sounds) > 1 else sounds[0]
        wav = wav[..., :num_samples]
        if padding_mask is not None:
            wav = wav * padding_mask[:, None, :num_samples].to(wav.dtype)
        return CodecDecoderOutput(audio_values=wav)

    @no_autocast
    def _sound(self, codes: Tensor) -> Tensor:
        latents = self.quantizer.decode(codes)
        return self.decoder(latents.to(self.decoder.first.conv.weight.dtype)).float()

    def streaming_encoder(
        self, n_q: int | None = None, denoise: bool = False
    ) -> StreamingEncoder | WholeEncoder:
        """A session that encodes one stream: piece by piece where the codec ``streams``, by segments where it has
        them, else at the end.
        """
        self._check_weights()
        if not self.streams:
            return WholeEncoder(self, self._check_n_q(n_q))
        encoder = functools.partial(self.encoder, wanted=denoise)
        return StreamingEncoder(encoder, self.quantizer, self.config.hop_length, self._check_n_q(n_q))

    def streaming_decoder(self) -> SeanetStreamingDecoder | WholeDecoder:
        """A session that decodes one stream: piece by piece where the codec ``streams``, else at the end."""
        self._check_weights()
        if not self.streams:
            return WholeDecoder(self)
        return SeanetStreamingDecoder(
            self.decoder, self.quantizer, self.config.hop_length, self.config.frame_rate
        )

    def set_decoder_dtype(self, dtype: torch.dtype) -> None:
        """Compute the decoder in another precision."""
        self.decoder.to(dtype)

    @property
    def algorithmic_latency_ms(self) -> float | None:
        """Delay that no computer removes: a frame and the look-ahead, or a segment; None where neither bounds it."""
        if not self.is_causal and self.segment_samples is None:
            return None
        samples = self.segment_samples or self.config.hop_length + self.lookahead_samples
        return 1000.0 * samples / self.config.sampling_rate

    @property
    def codes_fingerprint(self) -> str:
        """16 hex digits of what makes codes: encoder, quantiser and their numbers, in float32."""
        return fingerprint(
            self._numbers(), weights_of({"encoder": self.encoder, "quantizer": self.quantizer})
        )

    @property
    def weights_fingerprint(self) -> str:
        """16 hex digits of every weight, in float32."""
        return fingerprint(self._numbers(), weights_of({"codec": self}))

    def _numbers(self) -> dict[str, Any]:
        return {field: getattr(self.config, field) for field in _CODES_FIELDS}
