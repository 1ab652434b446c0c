"""Configuration of the default codec family and the base class of all codec configurations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import PreTrainedConfig


class BaseCodecConfig(PreTrainedConfig):
    """Base class of codec configurations. Derived values are properties and are not stored.

    Attributes:
        sampling_rate: Hz.
        hop_length: samples per frame.
        n_q: codebooks.
        codebook_size: entries of each (V).
    """

    attribute_map = {"num_codebooks": "n_q", "num_quantizers": "n_q"}

    if TYPE_CHECKING:  # transformers would treat the properties as arguments
        sampling_rate: int
        hop_length: int
        n_q: int
        codebook_size: int

    def _check_rules(self, *rules: tuple[str, bool, str]) -> None:
        """Raise ValueError for the first (field, holds, rule) that does not hold."""
        for field, holds, rule in rules:
            if not holds:
                raise ValueError(f"{type(self).__name__}.{field}={getattr(self, field)!r} {rule}")

    @property
    def frame_rate(self) -> float:
        """Frames per second, Hz, not rounded. Overlapping segments add frames to a file."""
        return self.sampling_rate / self.hop_length

    @property
    def bits_per_frame(self) -> float:
        """Bits of one frame with all codebooks, before entropy coding."""
        return self.n_q * (self.codebook_size - 1).bit_length()

    @property
    def bitrate_bps(self) -> float:
        """Bits per second with all codebooks, before entropy coding; scales not counted."""
        return self.bits_per_frame * self.frame_rate


# Short windows for onsets, medium ones for the spectral envelope, long ones for the harmonics of a low voice.
DEFAULT_BANKS: list[dict[str, Any]] = [
    {"window": 256, "low_hz": 0.0, "high_hz": 8000.0, "bands": 48, "snapshots": 4},
    {"window": 512, "low_hz": 0.0, "high_hz": 8000.0, "bands": 80, "snapshots": 1},
    {"window": 1024, "low_hz": 50.0, "high_hz": 1330.0, "bands": None, "snapshots": 1},
]


class CodecConfig(BaseCodecConfig):
    """Configuration of :class:`~audiotok.codec.model.AudioCodec`.

    Args:
        sampling_rate: Hz of the wav.
        audio_channels: channels of the wav; this family is mono.
        hop_length: samples per frame; a multiple of ``synthesis_hop``.
        n_q: codebooks of the residual quantiser.
        codebook_size: entries per codebook (V).
        codebook_dim: width of the latent that is quantised (D).
        semantic_dim: width of the semantic latent, whose nearest codeword is the code of codebook 0; 0 quantises
            codebook 0 like the others.
        encoder_banks: filter banks of the wav, each a dict of ``window`` (samples), ``low_hz``, ``high_hz``, ``bands``
            (equally wide in mel; None: every bin of the transform) and ``snapshots`` (windows per frame).
        encoder_dim: width of the encoder's residual blocks, at frame rate.
        encoder_dilations: dilation of each residual block of the encoder, in frames.
        leaky_slope: negative slope of the encoder's leaky ReLU.
        decoder_dim: width of the decoder's ConvNeXt trunk.
        decoder_layers: ConvNeXt blocks.
        decoder_kernel: frames of a block's depthwise convolution, none of them in the future.
        decoder_ffn_ratio: width of a block's pointwise layers over ``decoder_dim``.
        n_fft: samples of a synthesis window; twice ``synthesis_hop``.
        synthesis_hop: samples between synthesis windows.
        pitch_dim: width of the pitch head.
        f0_min_hz, f0_max_hz, f0_bins: lowest and highest pitch, and log-spaced pitch classes between the two.
        codec_name: name of the released codes.

    Raises:
        ValueError: a value breaks a rule; the message names field, value and rule.
    """

    model_type = "audiotok_codec"

    def __init__(
        self,
        sampling_rate: int = 16_000,
        audio_channels: int = 1,
        hop_length: int = 320,
        n_q: int = 8,
        codebook_size: int = 1024,
        codebook_dim: int = 64,
        semantic_dim: int = 0,
        encoder_banks: list[dict[str, Any]] | None = None,
        encoder_dim: int = 320,
        encoder_dilations: list[int] | None = None,
        leaky_slope: float = 0.125,
        decoder_dim: int = 320,
        decoder_layers: int = 6,
        decoder_kernel: int = 7,
        decoder_ffn_ratio: int = 3,
        n_fft: int = 320,
        synthesis_hop: int = 160,
        pitch_dim: int = 128,
        f0_min_hz: float = 55.0,
        f0_max_hz: float = 440.0,
        f0_bins: int = 96,
        codec_name: str = "unnamed",
        **kwargs: Any,
    ) -> None:
        self.sampling_rate = sampling_rate
        self.audio_channels = audio_channels
        self.hop_length = hop_length
        self.n_q = n_q
        self.codebook_size = codebook_size
        self.codebook_dim = codebook_dim
        self.semantic_dim = semantic_dim
        self.encoder_banks = DEFAULT_BANKS if encoder_banks is None else encoder_banks
        self.encoder_dim = encoder_dim
        self.encoder_dilations = [1, 2, 4] if encoder_dilations is None else list(encoder_dilations)
        self.leaky_slope = leaky_slope
        self.decoder_dim = decoder_dim
        self.decoder_layers = decoder_layers
        self.decoder_kernel = decoder_kernel
        self.decoder_ffn_ratio = decoder_ffn_ratio
        self.n_fft = n_fft
        self.synthesis_hop = synthesis_hop
        self.pitch_dim = pitch_dim
        self.f0_min_hz = f0_min_hz
        self.f0_max_hz = f0_max_hz
        self.f0_bins = f0_bins
        self.codec_name = codec_name
        super().__init__(**kwargs)
        self._check()

    def _check(self) -> None:
        counts = (
            "sampling_rate hop_length synthesis_hop n_q codebook_dim encoder_dim decoder_dim decoder_layers "
            "decoder_kernel decoder_ffn_ratio pitch_dim f0_bins"
        ).split()
        for field in (*counts, "semantic_dim"):
            value, least = getattr(self, field), int(field != "semantic_dim")
            if not isinstance(value, int) or value < least:
                raise ValueError(f"CodecConfig.{field}={value!r} must be a whole number, {least} or more")
        self._check_rules(
            (
                "encoder_banks",
                bool(self.encoder_banks) and all(map(self._fits, self.encoder_banks)),
                "must be dicts with snapshots that divide hop_length, and windows without gaps between them",
            ),
            ("audio_channels", self.audio_channels == 1, "must be 1: this family is mono"),
            ("hop_length", self.hop_length % self.synthesis_hop == 0, "must be a multiple of synthesis_hop"),
            ("n_fft", self.n_fft == 2 * self.synthesis_hop, "must be twice synthesis_hop"),
            ("codebook_size", self.codebook_size >= 2, "must be at least 2"),
            ("f0_max_hz", self.f0_min_hz < self.f0_max_hz, "must exceed f0_min_hz"),
        )

    def _fits(self, bank: Any) -> bool:
        window, snapshots = (
            bank.get(key) if isinstance(bank, dict) else 0 for key in ("window", "snapshots")
        )
        if not isinstance(window, int) or not isinstance(snapshots, int) or snapshots < 1:
            return False
        return self.hop_length % snapshots == 0 and window >= self.hop_length // snapshots
