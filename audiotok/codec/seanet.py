"""SoundStream (arXiv:2107.03312) and EnCodec (arXiv:2210.13438): configuration, networks, codec, and the conversion of
transformers' EncodecModel. Weight norm is folded into the weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .base import SingleCodec
from .config import BaseCodecConfig
from .layers import Float32Module, StreamState, no_autocast
from .quantizer import ResidualVectorQuantizer

if TYPE_CHECKING:
    from transformers import EncodecConfig, EncodecModel


class SeanetConfig(BaseCodecConfig):
    """Configuration of :class:`SeanetCodec`.

    Args:
        sampling_rate: Hz of the wav.
        audio_channels: channels of the wav.
        strides: strides of the encoder's stages, first to last; their product is ``hop_length``.
        filters: channels at the sampling rate (the papers' C).
        dilations: of the residual units of a stage.
        kernel_size: of the first convolution of encoder and decoder.
        latent_kernel_size: of the encoder's last convolution.
        last_kernel_size: of the decoder's last convolution.
        residual_kernel_size: of a residual unit's dilated convolution.
        compress: factor by which a residual branch is narrower inside.
        shortcut: whether a residual unit's skip connection has a pointwise convolution.
        lstm_layers: LSTMs in the encoder and in the decoder.
        causal: whether convolutions use the past only.
        pad_mode: padding before a signal, ``zero`` or ``reflect``.
        group_norm: whether convolutions are normalised over channels and time.
        n_q: codebooks.
        codebook_size: entries of each (V).
        codebook_dim: width of the latents (D).
        segment_samples: samples of an independently coded segment; None codes a signal as one.
        overlap: share of a segment that the next one covers too.
        normalize: whether a segment is divided by its RMS, which is returned as its scale.
        denoises: whether the encoder can remove noise.
        codec_name: name of the released codes.

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
        segment, hop = self.segment_samples, self.hop_length
        strides, dilations = bool(self.strides) and min(self.strides) >= 1, bool(self.dilations)
        self._check_rules(
            ("sampling_rate", self.sampling_rate >= 1, "must be at least 1"),
            ("audio_channels", self.audio_channels in (1, 2), "must be 1 or 2"),
            ("strides", strides, "must be one or more, each at least 1"),
            ("dilations", dilations and min(self.dilations) >= 1, "must be one or more, of 1 or more"),
            ("compress", self.filters % self.compress == 0, "must divide filters"),
            ("pad_mode", self.pad_mode in ("zero", "reflect"), "must be zero or reflect"),
            ("n_q", self.n_q >= 1, "must be at least 1"),
            ("codebook_size", self.codebook_size >= 2, "must be at least 2"),
            ("overlap", 0 <= self.overlap < 0.5, "must be in [0, 0.5)"),
            (
                "segment_samples",
                segment is None or (segment >= hop and segment % hop == 0),
                "must be whole frames",
            ),
            ("normalize", segment is not None or not self.normalize, "needs segment_samples"),
            ("denoises", segment is None or not self.denoises, "needs a codec without segments"),
        )

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

MISSING_SCALE = 0.1
"""Scale that is assumed if none is given: the RMS of speech at a typical level."""

PRESETS: dict[str, dict[str, Any]] = {
    # SoundStream, sections III-A to III-C and III-F: 75 Hz, 8 x 1024 = 6 kbit/s.
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
    """The configuration of a paper's codec, one of :data:`PRESETS`, with other arguments of :class:`SeanetConfig`.

    Raises:
        ValueError: the preset or an argument is unknown, or a value breaks a rule.
    """
    if name not in PRESETS:
        raise ValueError(f"no preset {name!r}; choose from {', '.join(PRESETS)}")
    known = [key for key in SeanetConfig.__init__.__annotations__ if key not in ("kwargs", "return")]
    for key in changes:
        if key not in known:
            raise ValueError(f"preset {name}: unknown argument {key}; expected one of {', '.join(known)}")
    return SeanetConfig(**PRESETS[name] | changes)


class _Conv1d(nn.Conv1d):
    start_gain: float = 1.0  # factor of the initial weights


class SEANetConv(nn.Module):
    """A convolution with ceil(T / stride) output steps. ``group_norm`` is EnCodec's ``time_group_norm``."""

    def __init__(
        self,
        config: SeanetConfig,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        self.conv = _Conv1d(in_channels, out_channels, kernel_size, stride, dilation=dilation)
        self.norm = nn.GroupNorm(1, out_channels) if config.group_norm else nn.Identity()
        self.context = (kernel_size - 1) * dilation + 1 - stride
        self.reflects = config.pad_mode == "reflect"
        self.right = 0 if config.causal else self.context // 2

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """[B, C, T] -> [B, C', ceil(T / stride)]."""
        if state is None:
            more = -x.shape[-1] % self.conv.stride[0]  # pads to whole steps
            x = self._pad(x, self.context - self.right, self.right + more)
        else:
            x = state.extend(self, x, self.context)
        return self.norm(self.conv(x))

    def _pad(self, x: Tensor, left: int, right: int) -> Tensor:
        if not self.reflects or not (left or right):
            return F.pad(x, (left, right))
        # As in EnCodec, a signal shorter than its reflection is extended with zeros, which are cut off afterwards.
        short = max(0, max(left, right) + 1 - x.shape[-1])
        padded = F.pad(F.pad(x, (0, short)), (left, right), mode="reflect")
        return padded[..., : padded.shape[-1] - short]


class SEANetUpsample(nn.Module):
    """A transposed convolution over two strides: T steps in, T * stride out."""

    def __init__(self, config: SeanetConfig, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(in_channels, out_channels, 2 * stride, stride)
        self.norm = nn.GroupNorm(1, out_channels) if config.group_norm else nn.Identity()
        self.left = 0 if config.causal else stride - stride // 2
        self.stride = stride

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """[B, C, T] -> [B, C', T * stride]."""
        size, start = x.shape[-1] * self.stride, self.left
        if state is not None:
            # A step overlaps only the next one, so the output after the previous step is the second part.
            x, start = state.extend(self, x, 1), self.stride
        # As in EnCodec, the norm includes the overhang.
        return self.norm(self.conv(x))[..., start : start + size]


class SEANetUnit(nn.Module):
    """Residual unit: ELU, a dilated convolution, ELU, a pointwise one."""

    def __init__(self, config: SeanetConfig, dim: int, dilation: int) -> None:
        super().__init__()
        inner = dim // config.compress
        self.dilated = SEANetConv(config, dim, inner, config.residual_kernel_size, dilation=dilation)
        self.pointwise = SEANetConv(config, inner, dim, 1)
        self.pointwise.conv.start_gain = 0.3
        self.shortcut = SEANetConv(config, dim, dim, 1) if config.shortcut else nn.Identity()

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """[B, dim, T] -> [B, dim, T]."""
        h = self.pointwise(_elu(self.dilated(F.elu(x), state)), state)
        around = self.shortcut(x, state) if isinstance(self.shortcut, SEANetConv) else x
        return around + h


def _elu(x: Tensor) -> Tensor:
    """ELU, in place if no gradient is needed. The input must not be used again."""
    return F.elu(x, inplace=not torch.is_grad_enabled())


class SEANetLSTM(nn.Module):
    """A stack of LSTMs over time, added to its input."""

    def __init__(self, dim: int, layers: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(dim, dim, layers)

    def forward(self, x: Tensor) -> Tensor:
        """[B, dim, T] -> [B, dim, T]."""
        steps = x.permute(2, 0, 1)
        return (self.lstm(steps)[0] + steps).permute(1, 2, 0)


class FiLM(nn.Module):
    """Gain and offset per channel that depend on the denoising flag of a frame (SoundStream, section III-F)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2 * dim)

    def forward(self, x: Tensor, wanted: Tensor) -> Tensor:
        """x [B, dim, T], wanted [B, T] bool -> [B, dim, T]."""
        one_hot = torch.stack([~wanted, wanted], dim=-1).to(x.dtype)
        gain, offset = self.linear(one_hot).transpose(1, 2).chunk(2, dim=1)
        return gain * x + offset


class SEANetEncoder(Float32Module):
    """wav -> latents in float32; every stage doubles the channels."""

    def __init__(self, config: SeanetConfig) -> None:
        super().__init__()
        dim = config.filters
        self.first = SEANetConv(config, config.audio_channels, dim, config.kernel_size)
        self.stages = nn.ModuleList()
        for stride in config.strides:
            units = [SEANetUnit(config, dim, dilation) for dilation in config.dilations]
            self.stages.append(nn.ModuleList([*units, SEANetConv(config, dim, 2 * dim, 2 * stride, stride)]))
            dim *= 2
        self.lstm = SEANetLSTM(dim, config.lstm_layers) if config.lstm_layers else nn.Identity()
        self.film = FiLM(dim) if config.denoises else None
        self.last = SEANetConv(config, dim, config.codebook_dim, config.latent_kernel_size)

    @no_autocast
    def forward(self, x: Tensor, state: StreamState | None = None, wanted: Tensor | bool = False) -> Tensor:
        """[B, C, N] -> [B, D, ceil(N / hop_length)]; ``wanted``, [B, T] bool or one bool: whether to remove noise."""
        x = self.first(x, state)
        for stage in self.stages:
            *units, down = stage  # type: ignore[misc]  # a ModuleList is a sequence
            for unit in units:
                x = unit(x, state)
            x = down(_elu(x), state)
        x = self.lstm(x)
        if self.film is not None:
            frames = torch.as_tensor(wanted, device=x.device).expand(x.shape[0], x.shape[-1])
            x = self.film(x, frames)
        return self.last(_elu(x), state)


class SEANetDecoder(nn.Module):
    """latents -> wav: the encoder's mirror."""

    gain_hop = 1

    def __init__(self, config: SeanetConfig) -> None:
        super().__init__()
        dim = config.filters * 2 ** len(config.strides)
        self.first = SEANetConv(config, config.codebook_dim, dim, config.kernel_size)
        self.lstm = SEANetLSTM(dim, config.lstm_layers) if config.lstm_layers else nn.Identity()
        self.stages = nn.ModuleList()
        for stride in reversed(config.strides):
            up = SEANetUpsample(config, dim, dim // 2, stride)
            dim //= 2
            units = [SEANetUnit(config, dim, dilation) for dilation in config.dilations]
            self.stages.append(nn.ModuleList([up, *units]))
        self.last = SEANetConv(config, dim, config.audio_channels, config.last_kernel_size)
        self.last.conv.start_gain = 0.3  # quiet output at the start of training

    def new_state(self) -> StreamState:
        """State of a stream at its start."""
        return StreamState()

    def forward(
        self, latents: Tensor, state: StreamState | None = None, gains: Tensor | None = None
    ) -> Tensor:
        """[B, D, T] -> [B, C, T * hop_length] float32; ``gains`` [T * hop_length] scale the samples of lost frames."""
        x = self.lstm(self.first(latents.to(self.first.conv.weight.dtype), state))
        for stage in self.stages:
            up, *units = stage  # type: ignore[misc]
            x = up(_elu(x), state)
            for unit in units:
                x = unit(x, state)
        wav = self.last(_elu(x), state).float()
        return wav if gains is None else wav * gains


def segment_starts(num_samples: int, stride: int | None) -> list[int]:
    """Samples at which segments begin; one segment if ``stride`` is None."""
    return list(range(0, num_samples, stride)) if stride else [0]


def overlap_add(segments: Sequence[Tensor], stride: int) -> Tensor:
    """Join segments [B, C, n], the first the longest, with a cross-fade where they overlap (EnCodec, arXiv:2210.13438,
    section 3.1): [B, C, N]. ``stride`` is the number of samples from the start of one to that of the next.
    """
    first, last = segments[0], segments[-1]
    total = stride * (len(segments) - 1) + last.shape[-1]
    ramp = torch.linspace(0, 1, first.shape[-1] + 2, device=first.device)[1:-1]
    weights = 0.5 - (ramp - 0.5).abs()
    sound, weight = first.new_zeros(*first.shape[:-1], total), first.new_zeros(total)
    for number, segment in enumerate(segments):
        at = number * stride
        size = min(segment.shape[-1], total - at)
        sound[..., at : at + size] += weights[:size] * segment[..., :size]
        weight[at : at + size] += weights[:size]
    return sound / weight


class SeanetCodec(SingleCodec):
    """SoundStream or EnCodec; :func:`seanet_preset` returns the configurations of the papers."""

    config_class = SeanetConfig
    codes_fields = tuple(
        "sampling_rate audio_channels strides filters dilations kernel_size latent_kernel_size residual_kernel_size "
        "compress shortcut lstm_layers causal pad_mode group_norm n_q codebook_size codebook_dim segment_samples "
        "overlap normalize denoises".split()
    )
    _keep_in_fp32_modules_strict = ["encoder", "quantizer"]  # codes are defined in float32

    config: SeanetConfig
    encoder: SEANetEncoder
    quantizer: ResidualVectorQuantizer

    def __init__(self, config: SeanetConfig) -> None:
        super().__init__(config)
        self.encoder, self.decoder = SEANetEncoder(config), SEANetDecoder(config)
        self.quantizer = ResidualVectorQuantizer(config.n_q, config.codebook_size, config.codebook_dim)
        self.is_causal = config.causal and config.segment_samples is None and not config.group_norm
        # Reflection puts future samples before the first frames.
        reflected = (config.latent_kernel_size - 1) * config.hop_length
        self.lookahead_samples = reflected if self.is_causal and config.pad_mode == "reflect" else 0
        self.segment_samples = config.segment_samples
        self.has_scale = config.normalize
        mono = config.audio_channels == 1
        self.streams = mono and self.is_causal and config.pad_mode == "zero" and not config.lstm_layers
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Initialise the parameters and buffers of one module, except those that were loaded."""
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            # Keeps the signal level, which torch's default initialisation reduces to almost 0 after a dozen layers.
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
        elif isinstance(module, nn.Linear):  # FiLM with gain 1 and offset 0
            init.zeros_(module.weight)
            init.copy_(module.bias, torch.arange(len(module.bias)) < len(module.bias) // 2)
        elif isinstance(module, ResidualVectorQuantizer):
            module.init_tables()

    def frames(self, num_samples: int) -> int:
        """T, the sum of the frames of all segments."""
        size, hop = self.config.segment_samples, self.config.hop_length
        starts = segment_starts(num_samples, self.config.segment_stride)
        return sum(-(-min(num_samples - start, size or num_samples) // hop) for start in starts)

    def samples(self, frames: int) -> int:
        """N, the samples that ``frames`` frames decode to."""
        size = (self.config.segment_samples or 0) // self.config.hop_length
        before = (frames - 1) // size if size and frames else 0
        return before * (self.config.segment_stride or 0) + self.config.hop_length * (frames - before * size)

    def encode_item(self, wav: Tensor, n_q: int, denoise: Any = False) -> tuple[Tensor, Tensor | None]:
        """As in the base class; ``denoise``, [B, T] bool or one bool, removes noise from these frames. ValueError: the
        codec cannot denoise.
        """
        if denoise is not False and not self.config.denoises:
            raise ValueError(f"{self.config.codec_name} does not denoise; train one with denoises: true")
        if self.streams:  # pad the last frame as a session does
            wav = F.pad(wav, (0, -wav.shape[-1] % self.config.hop_length))
        size, codes, scales = self.segment_samples or wav.shape[-1], [], []
        for start in segment_starts(wav.shape[-1], self.config.segment_stride):
            piece = wav[..., start : start + size]
            if self.has_scale:
                scales.append(piece.mean(dim=1).square().mean(dim=-1, keepdim=True).sqrt() + 1e-8)
                piece = piece / scales[-1][:, None]
            codes.append(self.quantizer.encode(self.encoder(piece, wanted=denoise), n_q))
        return torch.cat(codes, dim=-1), torch.cat(scales, dim=1) if scales else None

    def _decode(self, codes: Tensor, lengths: list[int], scales: Tensor | None) -> Tensor:
        size = (self.segment_samples or 0) // self.config.hop_length
        pieces = codes.split(size or codes.shape[-1], dim=-1)
        if scales is None:
            scales = torch.full((len(codes), len(pieces)), MISSING_SCALE)
        elif scales.shape != (len(codes), len(pieces)):
            raise ValueError(
                f"expected audio_scales [B, segments] = {[len(codes), len(pieces)]}, got {list(scales.shape)}"
            )
        sounds = [self.decoder(self.quantizer.decode(piece)) for piece in pieces]
        if self.has_scale:
            gains = scales.to(codes.device)
            sounds = [sound * gains[:, i, None, None] for i, sound in enumerate(sounds)]
        stride = self.config.segment_stride
        return overlap_add(sounds, stride) if stride and len(sounds) > 1 else sounds[0]

    def streaming_encoder(self, n_q: int | None = None, denoise: bool = False) -> Any:
        """As in the base class; ``denoise`` removes noise."""
        return super().streaming_encoder(n_q, wanted=denoise)


def convert_config(config: EncodecConfig, name: str = "encodec") -> SeanetConfig:
    """The configuration of an EncodecModel as a :class:`SeanetConfig` with this ``codec_name``. ValueError: it has a
    feature that is not in the paper.
    """
    rules = [
        ("trim_right_ratio", config.trim_right_ratio == 1.0, "1.0"),
        ("codebook_dim", config.codebook_dim == config.hidden_size, f"hidden_size={config.hidden_size}"),
        ("pad_mode", config.pad_mode in ("reflect", "constant"), "reflect or constant"),
    ]
    for field, holds, rule in rules:
        if not holds:
            raise ValueError(f"EncodecConfig.{field}: expected {rule}, got {getattr(config, field)!r}")
    return SeanetConfig(
        sampling_rate=config.sampling_rate,
        audio_channels=config.audio_channels,
        strides=list(reversed(config.upsampling_ratios)),
        filters=config.num_filters,
        dilations=[config.dilation_growth_rate**level for level in range(config.num_residual_layers)],
        kernel_size=config.kernel_size,
        latent_kernel_size=config.last_kernel_size,
        last_kernel_size=config.last_kernel_size,
        residual_kernel_size=config.residual_kernel_size,
        compress=config.compress,
        shortcut=config.use_conv_shortcut,
        lstm_layers=config.num_lstm_layers,
        causal=config.use_causal_conv,
        pad_mode="reflect" if config.pad_mode == "reflect" else "zero",
        group_norm=config.norm_type == "time_group_norm",
        n_q=config.num_quantizers,
        codebook_size=config.codebook_size,
        codebook_dim=config.hidden_size,
        segment_samples=config.chunk_length,
        overlap=config.overlap or 0.0,
        normalize=config.normalize,
        codec_name=name,
    )


@torch.no_grad()
def convert_encodec(model: EncodecModel, name: str = "encodec") -> SeanetCodec:
    """A :class:`SeanetCodec` with the weights of an EncodecModel, in evaluation mode: the same codes (but for ties),
    audio within 1e-4. ValueError: as of :func:`convert_config`.
    """
    codec = SeanetCodec(convert_config(model.config, name))
    for theirs, ours in ((model.encoder, codec.encoder), (model.decoder, codec.decoder)):
        for source, target in zip(_boxes(theirs), _boxes(ours), strict=True):
            if isinstance(target, SEANetLSTM):
                target.lstm.load_state_dict(source.lstm.state_dict())
                continue
            target.conv.weight.copy_(folded_weight(source.conv))
            target.conv.bias.copy_(source.conv.bias)
            target.norm.load_state_dict(source.norm.state_dict() if codec.config.group_norm else {})
    layers: Any = model.quantizer.layers
    codec.quantizer.codebooks.copy_(torch.stack([layer.codebook.embed for layer in layers]))
    return codec.eval()


def _boxes(network: nn.Module) -> list[Any]:
    """Modules with weights in the order of the signal, which is the same in both models."""
    theirs = ("EncodecConv1d", "EncodecConvTranspose1d", "EncodecLSTM")
    ours = (SEANetConv, SEANetUpsample, SEANetLSTM)
    return [m for m in network.modules() if isinstance(m, ours) or type(m).__name__ in theirs]


def folded_weight(conv: Any) -> Tensor:
    """The weight of a convolution, g * v / |v| under weight norm: float32, bit for bit the same on any machine."""
    if not hasattr(conv, "parametrizations"):
        return conv.weight
    gain, direction = (p.detach().cpu().double() for p in conv.parametrizations.weight.parameters())
    squares = direction.square().flatten(1)
    while squares.shape[1] > 1:  # pairwise sums in a fixed order
        if squares.shape[1] % 2:
            squares = torch.cat([squares, squares.new_zeros(len(squares), 1)], dim=1)
        half = squares.shape[1] // 2
        squares = squares[:, :half] + squares[:, half:]
    norm = squares.sqrt().view(gain.shape)
    return (gain * direction / norm).float()
