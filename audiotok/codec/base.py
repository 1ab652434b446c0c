"""Base class of the codecs, with argument checks and fingerprints."""

from __future__ import annotations

import hashlib
import json
import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import PreTrainedAudioTokenizerBase
from transformers.utils.generic import ModelOutput

from ..audio import MAX_PEAK
from .layers import no_autocast


@dataclass
class CodecEncoderOutput(ModelOutput):
    """What :meth:`Codec.encode` returns.

    Attributes:
        audio_codes: [B, K, T] int64 in [0, V).
        audio_codes_mask: [B, T] bool, False where a frame is padding.
        audio_scales: [B, segments] float32, the gain of each segment if the codec ``has_scale``, otherwise None.
    """

    audio_codes: Tensor | None = None
    audio_codes_mask: Tensor | None = None
    audio_scales: Tensor | None = None


@dataclass
class CodecDecoderOutput(ModelOutput):
    """What :meth:`Codec.decode` returns.

    Attributes:
        audio_values: [B, C, N] float32.
    """

    audio_values: Tensor | None = None


@dataclass
class CodecOutput(ModelOutput):
    """What :meth:`Codec.forward` returns.

    Attributes:
        audio_codes: [B, K, T] int64.
        audio_values: [B, C, N] float32, as long as the input.
        audio_scales: [B, segments] float32, or None.
    """

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
            ``audio_codes`` [B, K, T] int64 in [0, V) with K = n_q and T = ``frames(N)``, ``audio_codes_mask`` [B, T]
            bool, and ``audio_scales`` [B, segments] float32 where the codec ``has_scale``.

        Raises:
            RuntimeError: the weights are offloaded.
            TypeError: input_values or padding_mask is not a tensor, or n_q is not an int.
            ValueError: input_values is not [B, C, N] with B, N >= 1 or not of floats, holds NaN, infinity or samples
                far beyond full scale, the mask has another shape or pads on the left, or n_q is out of range.
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

        Returns:
            ``audio_values`` [B, C, num_samples] float32.

        Raises:
            RuntimeError: the weights are offloaded.
            TypeError: audio_codes or padding_mask is not a tensor, or num_samples is not an int.
            ValueError: codes of another shape, type or range, num_samples that the codes do not cover, a mask of
                another shape, or another number of scales than of segments.
        """
        codes = self._check_codes(audio_codes)
        num_samples = self._check_num_samples(num_samples, codes.shape[-1])
        mask = None
        if padding_mask is not None:
            check_tensor("padding_mask", padding_mask)
            if (
                padding_mask.ndim != 2
                or len(padding_mask) != len(codes)
                or padding_mask.shape[1] < num_samples
            ):
                raise ValueError(
                    f"expected padding_mask [B, N] with B = {len(codes)} and N >= {num_samples}, got "
                    f"{list(padding_mask.shape)}"
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

    @abstractmethod
    def streaming_encoder(self, n_q: int | None = None) -> Any:
        """A session that encodes one stream in pieces, or at the end if the codec does not stream."""

    @abstractmethod
    def streaming_decoder(self) -> Any:
        """A session that decodes one stream in pieces, or at the end if the codec does not stream."""

    @property
    @abstractmethod
    def algorithmic_latency_ms(self) -> float | None:
        """Algorithmic delay of a stream; None for a codec that does not stream."""

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
                "whole with load_codec(device=...) instead of cpu_offload, disk_offload or a device_map that offloads"
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

    def _check_codes(self, codes: Tensor) -> Tensor:
        self._check_weights()
        return check_codes("audio_codes", codes, self.config.n_q, self.config.codebook_size).to(self.device)

    def _check_num_samples(self, num_samples: int | None, frames: int) -> int:
        available = self.samples(frames)
        if num_samples is None:
            return available
        check_count("num_samples", num_samples)
        if not 0 < num_samples <= available:
            raise ValueError(
                f"expected num_samples in [1, {available}] for {frames} frames of {self.config.hop_length} samples, "
                f"got {num_samples}"
            )
        return num_samples


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
        for length in lengths.unique().tolist():
            rows = (lengths == length).nonzero()[:, 0]
            frames = self.frames(length)
            if not frames:
                continue
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

    @abstractmethod
    def encode_segment(self, wav: Tensor, n_q: int) -> tuple[Tensor, Tensor | None]:
        """Same as :meth:`encode_item` for one segment [B, C, n] of a codec with ``segment_samples``."""


def fingerprint(numbers: Mapping[str, Any] | list[Any], tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of settings and weights of any shape, the first 16 hex digits; independent of device and dtype."""
    digest = hashlib.sha256(json.dumps(numbers, sort_keys=True).encode())
    for name, value in tensors.items():
        digest.update(f"{name}{list(value.shape)}".encode())
        digest.update(value.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def check_tensor(name: str, value: Any) -> None:
    """Check that ``value`` is a dense tensor with data.

    Raises:
        TypeError: ``value`` is not a tensor.
        ValueError: ``value`` is on the meta device, or not dense.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"expected {name} as a torch.Tensor, got {type(value).__name__}; see torch.as_tensor")
    if value.is_meta or value.layout != torch.strided:
        raise ValueError(
            f"expected {name} with its numbers, got one on {value.device}, {value.layout}; see Tensor.to_dense"
        )


def check_count(name: str, value: Any) -> None:
    """Raise TypeError unless ``value`` is an int."""
    if not hasattr(value, "__index__"):
        raise TypeError(f"expected {name} as int, got {type(value).__name__}")


def check_wav_form(name: str, wav: Tensor, least: int, channels: int = 1) -> None:
    """Check that ``wav`` is a float tensor [B, C, N] with B >= 1, C = ``channels`` and N >= ``least``.

    Raises:
        TypeError: ``wav`` is not a tensor.
        ValueError: ``wav`` has another shape or dtype.
    """
    check_tensor(name, wav)
    if wav.ndim != 3 or wav.shape[0] < 1 or wav.shape[1] != channels or wav.shape[2] < least:
        advice = "repeat the channel of a mono wav"
        if channels == 1:
            advice = "average the channels of a multi-channel wav first"
        raise ValueError(
            f"expected {name} [B, {channels}, N] with B >= 1 and N >= {least}, got {list(wav.shape)}; {advice}"
        )
    if not wav.is_floating_point():
        raise ValueError(
            f"expected float samples in [-1, 1], got {wav.dtype}; divide 16-bit samples by 32768"
        )


def check_wav_range(wav: Tensor) -> None:
    """Raise ValueError if a sample is not finite or far beyond full scale."""
    peak = float(wav.abs().max()) if wav.numel() else 0.0  # NaN if any sample is NaN
    if not math.isfinite(peak):
        raise ValueError("expected finite samples, got NaN or infinity; repair the wav first")
    if peak > MAX_PEAK:
        raise ValueError(f"expected samples in [-1, 1], got a peak of {peak:.3g}; scale the wav first")


def check_codes(name: str, codes: Tensor, n_q: int, codebook_size: int, least: int = 1) -> Tensor:
    """Check codes and convert them to int64.

    Args:
        name: name of the codes in error messages.
        codes: [B, K, T] integers in [0, codebook_size) with B >= 1, 1 <= K <= n_q and T >= ``least``.
        n_q, codebook_size: K and V of the codec.
        least: minimum number of frames.

    Returns:
        The codes as int64.

    Raises:
        TypeError: ``codes`` is not a tensor.
        ValueError: ``codes`` has another shape, dtype or range.
    """
    check_tensor(name, codes)
    if codes.ndim != 3 or codes.shape[0] < 1 or not 1 <= codes.shape[1] <= n_q or codes.shape[2] < least:
        raise ValueError(
            f"expected {name} [B, K, T] with B >= 1, 1 <= K <= {n_q} and T >= {least}, got {list(codes.shape)}"
        )
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise ValueError(f"expected integer {name}, got {codes.dtype}")
    codes = codes.to(torch.int64)
    low, high = (int(codes.min()), int(codes.max())) if codes.numel() else (0, 0)
    if low < 0 or high >= codebook_size:
        raise ValueError(f"expected {name} in [0, {codebook_size}), got values from {low} to {high}")
    return codes
