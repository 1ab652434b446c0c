"""The numbers of a SEANet codec, and the presets of the papers. Knows nothing of tensors; derived figures are never
stored.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from typing import Any

from .grid import GridConfig


class SeanetConfig(GridConfig):
    """Configuration of :class:`~audiotok.codec.seanet_codec.SeanetCodec`.

    Args:
        sampling_rate: Hz of the wav.
        audio_channels: channels of the wav.
        strides: of the encoder's stages, in the order of the sound; their product is ``hop_length``.
        filters: channels at the sampling rate (the papers' C).
        dilations: of the residual units of a stage.
        kernel_size: of the first convolution of encoder and decoder.
        latent_kernel_size: of the encoder's last convolution.
        last_kernel_size: of the decoder's last convolution.
        residual_kernel_size: of a residual unit's dilated convolution.
        compress: how many times narrower a residual branch is inside.
        shortcut: whether a residual unit's way around has a pointwise convolution.
        lstm_layers: LSTMs in the encoder and in the decoder.
        causal: whether convolutions look back only.
        pad_mode: ``zero`` or ``reflect``, what stands before a signal.
        group_norm: whether convolutions are normalised over channels and time.
        n_q: codebooks.
        codebook_size: entries of each (V).
        codebook_dim: width of the latents (D).
        segment_samples: samples of an independently coded segment; None codes a signal as one.
        overlap: share of a segment that the next one covers too.
        normalize: whether a segment is divided by its RMS, which travels as its scale.
        denoises: whether the encoder can be told to leave noise out.
        codec_name: the name under which the codes were released.

    Raises:
        ValueError: a value breaks a rule above; the message names field, value and rule.
    """

    model_type = "audiotok_seanet"

    def __init__(
        self,
        sampling_rate: int = 24_000,
        audio_channels: int = 1,
        strides: Sequence[int] = (2, 4, 5, 8),
        filters: int = 32,
        dilations: Sequence[int] = (1, 3, 9),
        kernel_size: int = 7,
        latent_kernel_size: int = 3,
        last_kernel_size: int = 7,
        residual_kernel_size: int = 7,
        compress: int = 1,
        shortcut: bool = False,
        lstm_layers: int = 0,
        causal: bool = True,
        pad_mode: str = "zero",
        group_norm: bool = False,
        n_q: int = 8,
        codebook_size: int = 1024,
        codebook_dim: int = 128,
        segment_samples: int | None = None,
        overlap: float = 0.0,
        normalize: bool = False,
        denoises: bool = False,
        codec_name: str = "unnamed",
        **kwargs: Any,
    ) -> None:
        self.sampling_rate = sampling_rate
        self.audio_channels = audio_channels
        self.strides = list(strides)
        self.filters = filters
        self.dilations = list(dilations)
        self.kernel_size = kernel_size
        self.latent_kernel_size = latent_kernel_size
        self.last_kernel_size = last_kernel_size
        self.residual_kernel_size = residual_kernel_size
        self.compress = compress
        self.shortcut = shortcut
        self.lstm_layers = lstm_layers
        self.causal = causal
        self.pad_mode = pad_mode
        self.group_norm = group_norm
        self.n_q = n_q
        self.codebook_size = codebook_size
        self.codebook_dim = codebook_dim
        self.segment_samples = segment_samples
        self.overlap = overlap
        self.normalize = normalize
        self.denoises = denoises
        self.codec_name = codec_name
        super().__init__(**kwargs)
        self._check()

    def _check(self) -> None:
        segment = self.segment_samples
        rules = [
            ("sampling_rate", self.sampling_rate >= 1, "must be at least 1"),
            ("audio_channels", self.audio_channels in (1, 2), "must be 1 or 2"),
            (
                "strides",
                bool(self.strides) and min(self.strides) >= 1,
                "must be one or more, each at least 1",
            ),
            (
                "dilations",
                bool(self.dilations) and min(self.dilations) >= 1,
                "must be one or more, of 1 or more",
            ),
            ("compress", self.filters % self.compress == 0, "must divide filters"),
            ("pad_mode", self.pad_mode in ("zero", "reflect"), "must be zero or reflect"),
            ("n_q", self.n_q >= 1, "must be at least 1"),
            ("codebook_size", self.codebook_size >= 2, "must be at least 2"),
            ("overlap", 0 <= self.overlap < 0.5, "must be in [0, 0.5)"),
            (
                "segment_samples",
                segment is None or (segment >= self.hop_length and segment % self.hop_length == 0),
                "must be whole frames",
            ),
            ("normalize", segment is not None or not self.normalize, "needs segment_samples"),
            ("denoises", segment is None or not self.denoises, "needs a codec without segments"),
        ]
        for field, holds, rule in rules:
            if not holds:
                raise ValueError(f"SeanetConfig.{field}={getattr(self, field)!r} {rule}")

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return math.prod(self.strides)

    @property
    def segment_stride(self) -> int | None:
        """Samples from the start of a segment to that of the next."""
        if self.segment_samples is None:
            return None
        return max(1, int((1.0 - self.overlap) * self.segment_samples))

    @property
    def scale_frames(self) -> int:
        """Frames that one scale is for; 0 without scales."""
        return (self.segment_samples or 0) // self.hop_length if self.normalize else 0


_ENCODEC: dict[str, Any] = {
    "dilations": [1],
    "latent_kernel_size": 7,
    "residual_kernel_size": 3,
    "compress": 2,
    "shortcut": True,
    "lstm_layers": 2,
    "pad_mode": "reflect",
    "strides": [2, 4, 5, 8],
}

PRESETS: dict[str, dict[str, Any]] = {
    # SoundStream, sections III-A to III-C and III-F: C = 32, 75 Hz, 8 x 1024 = 6 kbit/s.
    "soundstream": {"denoises": True, "codec_name": "soundstream"},
    # EnCodec, sections 3.1 and 4: up to 24 kbit/s.
    "encodec-24k": _ENCODEC | {"n_q": 32, "codec_name": "encodec-24k"},
    "encodec-48k": _ENCODEC
    | {
        "sampling_rate": 48_000,
        "audio_channels": 2,
        "causal": False,
        "group_norm": True,
        "n_q": 16,
        "segment_samples": 48_000,
        "overlap": 0.01,
        "normalize": True,
        "codec_name": "encodec-48k",
    },
}


def seanet_preset(name: str, **changes: Any) -> SeanetConfig:
    """The configuration of a paper's codec.

    Args:
        name: one of :data:`PRESETS`.
        changes: arguments of :class:`SeanetConfig` that differ.

    Returns:
        The configuration.

    Raises:
        ValueError: there is no such preset or argument, or a value breaks a rule.
    """
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}; there are {', '.join(PRESETS)}")
    known = [key for key in SeanetConfig.__init__.__annotations__ if key not in ("kwargs", "return")]
    for key in changes:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)[0]
            raise ValueError(f"preset {name}: unknown argument {key}; the nearest is {near}")
    return SeanetConfig(**PRESETS[name] | changes)
