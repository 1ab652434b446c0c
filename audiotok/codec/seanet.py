"""SEANet: the convolutional encoder and decoder of SoundStream and EnCodec, one class a box of the papers' figures.

Knows nothing of codes or of presets. The law kept: with causal convolutions that start from zeros, a signal fed in
pieces with a :class:`~.layers.StreamState` gives what feeding it whole gives.

Source: SoundStream (arXiv:2107.03312), figures 2 and 3; EnCodec (arXiv:2210.13438), section 3.1, which halves the
residual branch, adds an LSTM, and for 48 kHz looks both ways and normalises over time. Weight norm is no part of the
architecture: it folds into the weights (convert.py), and is not computed at every pass.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Float32Module, StreamState, no_autocast


class _Conv1d(nn.Conv1d):
    start_gain: float = 1.0  # factor of the initial weights


class SEANetConv(nn.Module):
    """A convolution with ceil(T / stride) output steps, whatever T.

    Args:
        in_channels, out_channels, kernel_size, stride, dilation: as in ``nn.Conv1d``.
        causal: look back only; else both ways.
        pad_mode: what stands before (and behind) the signal: ``zero`` or ``reflect``.
        group_norm: normalise over channels and time (EnCodec's ``time_group_norm``).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        causal: bool = True,
        pad_mode: str = "zero",
        group_norm: bool = False,
    ) -> None:
        super().__init__()
        self.conv = _Conv1d(in_channels, out_channels, kernel_size, stride, dilation=dilation)
        self.norm = nn.GroupNorm(1, out_channels) if group_norm else nn.Identity()
        self.context = (kernel_size - 1) * dilation + 1 - stride
        self.reflects = pad_mode == "reflect"
        self.right = 0 if causal else self.context // 2

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """[B, C, T] -> [B, C', ceil(T / stride)]."""
        if state is None:
            more = -x.shape[-1] % self.conv.stride[0]  # so that the last, incomplete step is one
            x = _pad(x, self.context - self.right, self.right + more, self.reflects)
        else:
            x = state.extend(self, x, self.context)
        return self.norm(self.conv(x))


def _pad(x: Tensor, left: int, right: int, reflects: bool) -> Tensor:
    if not left and not right:
        return x
    if not reflects:
        return F.pad(x, (left, right))
    # What is shorter than its reflection is made longer by zeros first, and cut again (as EnCodec does).
    short = max(0, max(left, right) + 1 - x.shape[-1])
    padded = F.pad(F.pad(x, (0, short)) if short else x, (left, right), mode="reflect")
    return padded[..., : padded.shape[-1] - short]


class SEANetUpsample(nn.Module):
    """A transposed convolution of two strides' length: T steps in, T * stride out.

    Args:
        in_channels, out_channels, stride: as in ``nn.ConvTranspose1d``.
        causal: a step sounds from its place on; else around it.
        group_norm: as in :class:`SEANetConv`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, stride: int, causal: bool = True, group_norm: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose1d(in_channels, out_channels, 2 * stride, stride)
        self.norm = nn.GroupNorm(1, out_channels) if group_norm else nn.Identity()
        self.left = 0 if causal else stride - stride // 2
        self.stride = stride

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """[B, C, T] -> [B, C', T * stride]."""
        size = x.shape[-1] * self.stride
        if state is not None:
            # A step overlaps the next one only: with the step before in front, its share is the second stretch.
            x, start = state.extend(self, x, 1), self.stride
        else:
            start = self.left
        # The norm sees what hangs over too, as EnCodec's does.
        return self.norm(self.conv(x))[..., start : start + size]


class SEANetUnit(nn.Module):
    """ELU, a dilated convolution, ELU, a pointwise one; added to the input.

    Args:
        dim: channels.
        kernel_size, dilation: of the first convolution.
        compress: the branch is this many times narrower between the two.
        shortcut: a pointwise convolution on the way around, too.
        options: ``causal``, ``pad_mode``, ``group_norm`` of :class:`SEANetConv`.
    """

    def __init__(
        self, dim: int, kernel_size: int, dilation: int, compress: int, shortcut: bool, **options: bool | str
    ) -> None:
        super().__init__()
        self.dilated = SEANetConv(dim, dim // compress, kernel_size, dilation=dilation, **options)  # type: ignore[arg-type]
        self.pointwise = SEANetConv(dim // compress, dim, 1, **options)  # type: ignore[arg-type]
        self.pointwise.conv.start_gain = 0.3
        self.shortcut = SEANetConv(dim, dim, 1, **options) if shortcut else nn.Identity()  # type: ignore[arg-type]

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """[B, dim, T] -> [B, dim, T]."""
        h = self.pointwise(_elu(self.dilated(F.elu(x), state)), state)
        around = self.shortcut(x, state) if isinstance(self.shortcut, SEANetConv) else x
        return around + h


def _elu(x: Tensor) -> Tensor:
    """ELU of what nothing else reads: in place where no gradient needs it."""
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
    """A gain and an offset per channel from what a frame is wanted to be (SoundStream, section III-F).

    Args:
        dim: channels.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2 * dim)

    def forward(self, x: Tensor, wanted: Tensor) -> Tensor:
        """x [B, dim, T], wanted [B, T] bool -> [B, dim, T]."""
        one_hot = torch.stack([~wanted, wanted], dim=-1).to(x.dtype)
        gain, offset = self.linear(one_hot).transpose(1, 2).chunk(2, dim=1)
        return gain * x + offset


class SEANetEncoder(Float32Module):
    """wav -> latents.

    Args:
        channels: of the wav.
        filters: channels after the first convolution (the papers' C); every stride doubles them.
        strides: of the stages, in the order of the sound.
        dilations: of the residual units of every stage.
        latent_dim: channels of the result (D).
        kernel_size: of the first convolution.
        latent_kernel_size: of the last.
        residual_kernel_size, compress, shortcut: of the residual units.
        lstm_layers: LSTMs before the last convolution.
        film: whether a frame can be wanted otherwise, as :class:`FiLM` has it.
        options: ``causal``, ``pad_mode``, ``group_norm`` of :class:`SEANetConv`.
    """

    def __init__(
        self,
        channels: int,
        filters: int,
        strides: Sequence[int],
        dilations: Sequence[int],
        latent_dim: int,
        kernel_size: int,
        latent_kernel_size: int,
        residual_kernel_size: int,
        compress: int,
        shortcut: bool,
        lstm_layers: int,
        film: bool,
        **options: bool | str,
    ) -> None:
        super().__init__()
        self.first = SEANetConv(channels, filters, kernel_size, **options)  # type: ignore[arg-type]
        self.stages = nn.ModuleList()
        for level, stride in enumerate(strides):
            dim = filters * 2**level
            units = [
                SEANetUnit(dim, residual_kernel_size, dilation, compress, shortcut, **options)
                for dilation in dilations
            ]
            down = SEANetConv(dim, 2 * dim, 2 * stride, stride, **options)  # type: ignore[arg-type]
            self.stages.append(nn.ModuleList([*units, down]))
        dim = filters * 2 ** len(strides)
        self.lstm = SEANetLSTM(dim, lstm_layers) if lstm_layers else nn.Identity()
        self.film = FiLM(dim) if film else None
        self.last = SEANetConv(dim, latent_dim, latent_kernel_size, **options)  # type: ignore[arg-type]

    @no_autocast
    def forward(self, x: Tensor, state: StreamState | None = None, wanted: Tensor | bool = False) -> Tensor:
        """[B, C, N] -> [B, D, ceil(N / product of the strides)]; wanted: [B, T] bool, or one bool for all frames."""
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
    """latents -> wav: the encoder's mirror.

    Args:
        channels, filters, dilations, latent_dim, residual_kernel_size, compress, shortcut, lstm_layers, options: as of
            :class:`SEANetEncoder`.
        strides: in the order of the sound, as the encoder's; used from the last to the first.
        kernel_size: of the first convolution.
        last_kernel_size: of the last.
    """

    def __init__(
        self,
        channels: int,
        filters: int,
        strides: Sequence[int],
        dilations: Sequence[int],
        latent_dim: int,
        kernel_size: int,
        last_kernel_size: int,
        residual_kernel_size: int,
        compress: int,
        shortcut: bool,
        lstm_layers: int,
        **options: bool | str,
    ) -> None:
        super().__init__()
        dim = filters * 2 ** len(strides)
        around = {key: value for key, value in options.items() if key != "pad_mode"}
        self.first = SEANetConv(latent_dim, dim, kernel_size, **options)  # type: ignore[arg-type]
        self.lstm = SEANetLSTM(dim, lstm_layers) if lstm_layers else nn.Identity()
        self.stages = nn.ModuleList()
        for stride in reversed(strides):
            up = SEANetUpsample(dim, dim // 2, stride, **around)  # type: ignore[arg-type]
            dim //= 2
            units = [
                SEANetUnit(dim, residual_kernel_size, dilation, compress, shortcut, **options)
                for dilation in dilations
            ]
            self.stages.append(nn.ModuleList([up, *units]))
        self.last = SEANetConv(dim, channels, last_kernel_size, **options)  # type: ignore[arg-type]
        self.last.conv.start_gain = 0.3  # training starts with quiet audio

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """[B, D, T] -> [B, C, T * product of the strides]."""
        x = self.lstm(self.first(x, state))
        for stage in self.stages:
            up, *units = stage  # type: ignore[misc]
            x = up(_elu(x), state)
            for unit in units:
                x = unit(x, state)
        return self.last(_elu(x), state)
