"""Base class of the codecs, with argument checks and fingerprints."""

from __future__ import annotations

import hashlib
import json
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedAudioTokenizerBase
from transformers.utils.generic import ModelOutput

from .checks import check_codes, check_count, check_tensor, check_wav_form, check_wav_range
from .layers import no_autocast
from .streaming import StreamingDecoder, StreamingEncoder, WholeDecoder, WholeEncoder


@dataclass
class CodecEncoderOutput(ModelOutput):
    """What :meth:`Codec.encode` returns: codes [B, K, T] int64 in [0, V), a mask [B, T] that is False where a frame is
    padding, and the gain of each segment [B, segments] float32 if the codec ``has_scale``.
    """

    audio_codes: Tensor | None = None
    audio_codes_mask: Tensor | None = None
    audio_scales: Tensor | None = None


@dataclass
class CodecDecoderOutput(ModelOutput):
    """What :meth:`Codec.decode` returns: ``audio_values`` [B, C, N] float32."""

    audio_values: Tensor | None = None


@dataclass
class CodecOutput(ModelOutput):
    """What :meth:`Codec.forward` returns: codes and scales as of ``encode``, audio as of ``decode``."""

    audio_codes: Tensor | None = None
    audio_values: Tensor | None = None
    audio_scales: Tensor | None = None


class Codec(PreTrainedAudioTokenizerBase):
    """wav -> codes -> wav. Its ``config`` has ``n_q``, ``codebook_size``, ``hop_length``, ``frame_rate``,
    ``sampling_rate``, ``audio_channels``, ``bitrate_bps`` and ``codec_name``.

    Attributes:
        is_causal: codes of frame t depend on samples before ``(t + 1) * hop_length + lookahead_samples`` only.
        lookahead_samples: samples beyond its end on which a frame depends.
        segment_samples: samples of an independently coded segment; None codes the signal as one.
        has_scale: whether codes come with a gain for each segment.
        streams: whether audio and codes may come in pieces with the result of one pass, in bounded memory.
    """

    main_input_name = "input_values"
    base_model_prefix = "codec"

    is_causal = True
    lookahead_samples = 0
    segment_samples: int | None = None
    has_scale = False
    streams = True

    codes_fields: tuple[str, ...] = ()  # config fields that define encoder and quantiser
    config: Any
    encoder: Any
    decoder: Any
    quantizer: Any

    def frames(self, num_samples: int) -> int:
        """T, the frames of ``num_samples`` samples."""
        return -(-num_samples // self.config.hop_length)

    def samples(self, frames: int) -> int:
        """N, the samples that ``frames`` frames decode to."""
        return frames * self.config.hop_length

    @property
    def scale_frames(self) -> int:
        """Frames per scale; 0 for a codec without scales."""
        return getattr(self.config, "scale_frames", 0)

    def spread(self, wav: Tensor) -> Tensor:
        """Repeat a mono wav [B, 1, N] to the channels of this codec, [B, C, N], on its device."""
        return wav.expand(-1, self.config.audio_channels, -1).to(self.device)

    def encode(
        self,
        input_values: Tensor,
        padding_mask: Tensor | None = None,
        n_q: int | None = None,
        **options: Any,
    ) -> CodecEncoderOutput:
        """Turn a waveform into residual codes.

        Args:
            input_values: wav, [B, C, N] float, at ``config.sampling_rate`` Hz, values in [-1, 1]. Any N >= 1.
            padding_mask: [B, N] bool or int, false where a sample is padding on the right; None means no padding.
            n_q: codebooks to keep, 1 <= n_q <= config.n_q; None keeps all. Fewer = coarser, same T.
            options: further options of the codec family.

        Returns:
            K = n_q codebooks of T = ``frames(N)`` frames.

        Raises:
            RuntimeError: the weights are offloaded.
            TypeError: input_values or padding_mask is not a tensor, or n_q is not an int.
            ValueError: another shape, dtype or range, samples that are not finite, or padding on the left.
        """
        n_q = self._check_n_q(n_q)
        wav, lengths = self._check_wav(input_values, padding_mask)
        with torch.no_grad():
            return no_autocast(self._encode)(wav, lengths, n_q, **options)

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
            audio_scales: [B, segments] float32 as :meth:`encode` gave them, of a codec that ``has_scale``; None assumes
                a typical level of speech.

        Raises:
            RuntimeError: the weights are offloaded.
            TypeError: audio_codes or padding_mask is not a tensor, or num_samples is not an int.
            ValueError: another shape, dtype or range, or num_samples that the codes do not cover.
        """
        self._check_weights()
        config = self.config
        codes = check_codes("audio_codes", audio_codes, config.n_q, config.codebook_size).to(self.device)
        available = self.samples(codes.shape[-1])
        if num_samples is None:
            num_samples = available
        check_count("num_samples", num_samples)
        if not 0 < num_samples <= available:
            raise ValueError(
                f"expected num_samples in [1, {available}] for {codes.shape[-1]} frames of {config.hop_length} "
                f"samples, got {num_samples}"
            )
        mask = None
        if padding_mask is not None:
            check_tensor("padding_mask", padding_mask)
            shape = tuple(padding_mask.shape)
            if len(shape) != 2 or shape[0] != len(codes) or shape[1] < num_samples:
                raise ValueError(
                    f"expected padding_mask [B, N] with B = {len(codes)} and N >= {num_samples}, got {list(shape)}"
                )
            mask = padding_mask[:, :num_samples].to(self.device).bool()
        if audio_scales is not None and not self.has_scale:
            raise ValueError(f"{self.config.codec_name} has no scales; leave audio_scales out")
        lengths = [num_samples] * len(codes) if mask is None else mask.sum(-1).tolist()
        with torch.no_grad():
            wav = no_autocast(self._decode)(codes, lengths, audio_scales)[..., :num_samples]
        return CodecDecoderOutput(wav if mask is None else wav * mask[:, None])

    @abstractmethod
    def _encode(self, wav: Tensor, lengths: Tensor, n_q: int, **options: Any) -> CodecEncoderOutput:
        """Encode checked input: wav [B, C, N] with zeros for padding, and the samples of each item [B]."""

    @abstractmethod
    def _decode(self, codes: Tensor, lengths: list[int], scales: Tensor | None) -> Tensor:
        """Decode checked codes [B, K, T] into a wav [B, C, at least max(lengths)]."""

    def forward(
        self, input_values: Tensor, padding_mask: Tensor | None = None, n_q: int | None = None
    ) -> CodecOutput:
        """Encode and decode: [B, C, N] -> codes [B, K, T] and wav [B, C, N]. Arguments and errors as in encode."""
        out = self.encode(input_values, padding_mask, n_q)
        assert out.audio_codes is not None
        wav = self.decode(out.audio_codes, input_values.shape[-1], padding_mask, out.audio_scales)
        return CodecOutput(out.audio_codes, wav.audio_values, out.audio_scales)

    def streaming_encoder(self, n_q: int | None = None, **options: Any) -> Any:
        """A session that encodes a batch of streams in pieces, or one stream at its end if the codec cannot stream."""
        self._check_weights()
        n_q = self._check_n_q(n_q)
        return StreamingEncoder(self, n_q, **options) if self.streams else WholeEncoder(self, n_q)

    def streaming_decoder(self) -> Any:
        """A session that decodes a batch of streams in pieces, or one stream at its end if the codec cannot stream."""
        self._check_weights()
        return StreamingDecoder(self) if self.streams else WholeDecoder(self)

    @property
    def algorithmic_latency_ms(self) -> float | None:
        """Algorithmic delay of a stream; None for a codec that does not stream."""
        samples = self.config.hop_length + self.lookahead_samples
        return 1000.0 * samples / self.config.sampling_rate if self.streams else None

    @property
    def codes_fingerprint(self) -> str:
        """Hash of encoder, quantiser and their configuration, 16 hex digits. It identifies compatible codes."""
        return self._fingerprint({"encoder": self.encoder, "quantizer": self.quantizer})

    @property
    def weights_fingerprint(self) -> str:
        """Hash of all weights in float32, 16 hex digits."""
        return self._fingerprint({"codec": self})

    def _fingerprint(self, modules: Mapping[str, nn.Module]) -> str:
        weights = {
            f"{prefix}.{name}": value
            for prefix, module in modules.items()
            for name, value in sorted(module.state_dict().items())
        }
        return fingerprint({field: getattr(self.config, field) for field in self.codes_fields}, weights)

    def _check_weights(self) -> None:
        """Raise RuntimeError if weights are offloaded, because accelerate's hooks load them for ``forward`` only."""
        if any(value.is_meta for value in self.parameters()):
            raise RuntimeError(
                "this codec's weights are offloaded (device meta), and encode and decode cannot fetch them; load it "
                "whole with load_codec(device=...)"
            )

    def _check_n_q(self, n_q: int | None) -> int:
        if n_q is None:
            return self.config.n_q
        check_count("n_q", n_q)
        if not 1 <= n_q <= self.config.n_q:
            raise ValueError(f"expected n_q in [1, {self.config.n_q}], got {n_q}")
        return n_q

    def _check_wav(self, wav: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """The wav in float32 with zeros for padding, and the samples of each item [B] int64."""
        self._check_weights()
        check_wav_form("input_values", wav, 1, self.config.audio_channels)
        wav = wav.to(self.device, torch.float32)
        lengths = torch.full((wav.shape[0],), wav.shape[-1], device=wav.device)
        if padding_mask is not None:
            check_tensor("padding_mask", padding_mask)
            if padding_mask.shape != (wav.shape[0], wav.shape[-1]):
                raise ValueError(
                    f"expected padding_mask [B, N] = {[wav.shape[0], wav.shape[-1]]}, got {list(padding_mask.shape)}"
                )
            real = padding_mask.to(wav.device).bool()
            lengths = real.sum(dim=-1)
            if bool((real[:, 1:] & ~real[:, :-1]).any()):
                raise ValueError(
                    "expected padding on the right only, got a padding_mask with padding before audio"
                )
            wav = wav.masked_fill(~real[:, None], 0.0)
        check_wav_range(wav)
        return wav, lengths


class SingleCodec(Codec):
    """A codec whose codes depend on where the audio ends. Items of different lengths are coded one by one, so that
    padding does not change them.
    """

    def _encode(self, wav: Tensor, lengths: Tensor, n_q: int, **options: Any) -> CodecEncoderOutput:
        total = self.frames(wav.shape[-1])
        codes = torch.zeros(len(wav), n_q, total, dtype=torch.int64, device=wav.device)
        mask = torch.zeros(len(wav), total, dtype=torch.bool, device=wav.device)
        segments = -(-total // self.scale_frames) if self.has_scale else 0
        scales = torch.ones(len(wav), segments, device=wav.device)
        for length in lengths[lengths > 0].unique().tolist():
            rows = (lengths == length).nonzero()[:, 0]
            frames = self.frames(length)
            # Tensor options are [B, T].
            chosen = {
                key: value[rows, :frames] if isinstance(value, Tensor) else value
                for key, value in options.items()
            }
            found, gains = self.encode_item(wav[rows, :, :length], n_q, **chosen)
            codes[rows, :, :frames] = found
            mask[rows, :frames] = True
            if gains is not None:
                scales[rows, : gains.shape[1]] = gains
        return CodecEncoderOutput(codes, mask, scales if self.has_scale else None)

    @abstractmethod
    def encode_item(self, wav: Tensor, n_q: int) -> tuple[Tensor, Tensor | None]:
        """Codes [B, n_q, T] and scales [B, segments] or None of wavs [B, C, N] of one length."""


def fingerprint(numbers: Mapping[str, Any] | list[Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of settings and weights of any shape, the first 16 hex digits; independent of device and dtype."""
    digest = hashlib.sha256(json.dumps(numbers, sort_keys=True).encode())
    for name, value in tensors.items():
        digest.update(f"{name}{list(value.shape)}".encode())
        digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
