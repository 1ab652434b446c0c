"""Causal layers. With a :class:`StreamState` they process a signal in pieces with the same result."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import Any, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Function = TypeVar("Function", bound=Callable[..., Any])


def no_autocast(function: Function) -> Function:
    """Run a function without autocast, because codes are defined in float32 and phases need float64."""

    @wraps(function)
    def plain(*args: Any, **kwargs: Any) -> Any:
        with ExitStack() as stack:
            for device in ("cpu", "cuda", "mps"):
                if torch.is_autocast_enabled(device):
                    stack.enter_context(torch.autocast(device, enabled=False))
            return function(*args, **kwargs)

    return cast(Function, plain)


class Float32Module(nn.Module):
    """A module that ``.to(bfloat16)``, ``.half()`` and the like leave in float32; devices change as usual."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Float32Module:
        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(move, recurse)


class StreamState:
    """Last inputs of every causal layer of a stream, by layer."""

    def __init__(self) -> None:
        self._tails: dict[nn.Module, Tensor] = {}

    def extend(self, layer: nn.Module, x: Tensor, context: int) -> Tensor:
        """Put the last ``context`` steps of a layer's input (zeros at first) before ``x`` [B, C, T]."""
        tail = self._tails.get(layer)
        if tail is None:
            tail = x.new_zeros(x.shape[0], x.shape[1], context)
        joined = torch.cat([tail, x], dim=-1)
        self._tails[layer] = joined[..., joined.shape[-1] - context :]
        return joined


class StepConv1d(nn.Conv1d):
    """``nn.Conv1d`` without padding. A single output step of a live stream is a matrix product, four times as fast as a
    dilated convolution. ``fixed`` returns the weight of a layer that is not trained.
    """

    fixed: Callable[[], Tensor] | None = None

    def forward(self, input: Tensor) -> Tensor:
        """[B, C, N] -> [B, C', T], as nn.Conv1d."""
        return self.convolve(input, self.weight, self.bias)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Apply the layer with other weights of the same shape, in the dtype of ``x``: [B, C, N] -> [B, C', T]."""
        dilation = self.dilation[0]
        if x.ndim != 3 or x.shape[-1] != dilation * (self.kernel_size[0] - 1) + 1:
            return F.conv1d(x, weight, bias, self.stride, 0, self.dilation, self.groups)
        taps = x[..., ::dilation]
        if self.groups == 1:
            return F.linear(taps.flatten(1), weight.flatten(1), bias)[..., None]
        # [B, groups, 1, taps of a group] * [groups, outputs of a group, taps of a group]
        products = taps.reshape(x.shape[0], self.groups, 1, -1) * weight.reshape(
            self.groups, self.out_channels // self.groups, -1
        )
        sums = products.sum(dim=-1).flatten(1)
        return (sums if bias is None else sums + bias)[..., None]


class CausalConv1d(nn.Module):
    """A convolution whose output step t depends on inputs up to the end of step t only. Arguments as of ``nn.Conv1d``.

    The left context is ``dilation * (kernel_size - 1) + 1 - stride`` steps: zeros, or a stream's past.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.conv = StepConv1d(in_channels, out_channels, kernel_size, stride, 0, dilation, groups, bias)
        self.context = dilation * (kernel_size - 1) + 1 - stride

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        """[B, C, T * stride] -> [B, C', T], in the input's precision."""
        x = F.pad(x, (self.context, 0)) if state is None else state.extend(self, x, self.context)
        weight, bias = self.conv.weight, self.conv.bias
        if x.dtype == weight.dtype or torch.is_autocast_enabled(x.device.type):
            return self.conv(x)
        return self.conv.convolve(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))


class ResidualUnit(nn.Module):
    """SoundStream's residual unit (arXiv:2107.03312, figure 3) with a leaky ReLU: [B, dim, T] -> [B, dim, T]."""

    def __init__(self, dim: int, dilation: int, slope: float) -> None:
        super().__init__()
        self.slope = slope
        self.dilated = CausalConv1d(dim, dim, 3, dilation=dilation)
        self.pointwise = StepConv1d(dim, dim, 1)

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        h = self.dilated(F.leaky_relu(x, self.slope), state)
        return x + self.pointwise(F.leaky_relu(h, self.slope))


class ConvNeXtBlock(nn.Module):
    """Vocos' block (arXiv:2306.00814) made causal: [B, dim, T] -> [B, dim, T]."""

    def __init__(self, dim: int, kernel_size: int, ffn_ratio: int, layer_scale: float) -> None:
        super().__init__()
        self.depthwise = CausalConv1d(dim, dim, kernel_size, groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, dim * ffn_ratio)
        self.project = nn.Linear(dim * ffn_ratio, dim)
        self.layer_scale = layer_scale
        self.scale = nn.Parameter(torch.full((dim,), layer_scale))

    def forward(self, x: Tensor, state: StreamState | None = None) -> Tensor:
        h = self.norm(self.depthwise(x, state).transpose(1, 2))
        h = self.project(F.gelu(self.expand(h))) * self.scale
        return x + h.transpose(1, 2)
