"""Codes that are a function of the audio alone: the encoder and the quantiser on integer grids.

Knows no shapes: it takes whatever encoder is built of convolutions and of steps that binary numbers do exactly (leaky
ReLU with a power-of-two slope, squares, sums, :func:`~audiotok.codec.encoder.straight_log2`). The law it keeps: every
sum is a sum of integers that stays below 2^53 whatever the input, so float64 computes it without rounding in any order,
and codes are equal on every machine, batch, padding, thread count and chunking, with no ties.

Each convolution rounds its input to a grid 2^-a, holds weights on a grid 2^-w, and rounds its exact result once more,
so that what stands between two convolutions (a sum, a filter's output squared, a logarithm) fits float64 without
rounding too. Samples are rounded to multiples of 2^-15, those of 16-bit PCM.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from .config import CodecConfig
from .encoder import Encoder
from .model import AudioCodec
from .quantizer import ResidualVectorQuantizer

RANGE_BITS = 8  # what enters a convolution is held within +-2^8; speech stays within +-2^6
PCM_BITS = 15  # grid of the samples
_SUM_BITS = 52  # one bit of room below the 53 of float64, for weights that round up
_WEIGHT_BITS = 24
_INPUT_BITS = 36  # fine enough for the power of silence
_FILTER_BITS = 23  # of what a filter of the wav gives: its square needs twice as many
_COARSEST_BITS = 14


def _to_grid(x: Tensor, bits: int, limit: float) -> Tensor:
    """x in units of 2^-bits: integers in float64, rounded half to even, x held within +-limit."""
    bound = limit * 2.0**bits
    return x.to(torch.float64).mul(2.0**bits).round_().clamp_(-bound, bound)


def _exponent(x: Tensor) -> int:
    """The least e with max |x| < 2^e."""
    return int(torch.frexp(x.abs().max()).exponent)


def _bits_in(x: Tensor) -> int:
    """Bits after the point that x needs, at most _WEIGHT_BITS."""
    for bits in range(_WEIGHT_BITS):
        scaled = x * 2.0**bits
        if torch.equal(scaled, scaled.round()):
            return bits
    return _WEIGHT_BITS


class GridConv1d(nn.Module):
    """A convolution of integers with integers: any order of summation gives the same bits.

    Takes a convolution's place. Input and output are float64 on grids; the sums between are exact because
    ``2^(RANGE_BITS + a) * sum |weights| + |bias|``, in units of 2^-(a + w), stays below 2^53.

    Args:
        conv: the convolution to imitate, without padding; its weights are rounded, not changed.

    Attributes:
        input_bits: a, bits after the point of the input.
        weight_bits: w, bits after the point of the weights.
        output_bits: bits after the point of what it gives.

    Raises:
        ValueError: it pads by itself, or its weights are too large for exact sums.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__()
        if conv.padding != (0,):
            raise ValueError(
                f"expected a convolution without padding, got padding={conv.padding}; pad before"
            )
        self.groups = conv.groups
        self.stride, self.dilation = conv.stride[0], conv.dilation[0]
        self.span = self.dilation * (conv.kernel_size[0] - 1) + 1
        weight = conv.weight.detach().to("cpu", torch.float64)
        bias = torch.zeros(conv.out_channels, dtype=torch.float64)
        if conv.bias is not None:
            bias = conv.bias.detach().to("cpu", torch.float64)
        # Summed as integers, or another machine might sum to the other side of a power of two and choose other grids.
        sums = _to_grid(weight, _WEIGHT_BITS, 2.0**16).abs().flatten(1).sum(1) * 2.0**-_WEIGHT_BITS
        reach = RANGE_BITS + _exponent(sums + bias.abs() * 2.0**-RANGE_BITS)
        budget = _SUM_BITS - reach
        # Errors of input and weights weigh the same when the finer grid is where the numbers are smaller.
        balanced = (budget - _exponent(weight) + 2) // 2
        self.weight_bits = min(balanced, _bits_in(weight))
        self.input_bits = min(budget - self.weight_bits, _INPUT_BITS)
        if min(balanced, self.input_bits) < _COARSEST_BITS:
            raise ValueError(
                f"expected weights whose sums fit exact arithmetic, got rows of up to {float(sums.max()):.3g}; "
                "this codec has no exact mode"
            )
        self.output_bits = _FILTER_BITS if conv.in_channels == 1 else min(_INPUT_BITS, budget - 2)
        weight = weight.mul(2.0**self.weight_bits).round_()
        bias = bias.mul(2.0 ** (self.input_bits + self.weight_bits)).round_()
        largest_sums = weight.abs().flatten(1).sum(1) * 2.0 ** (RANGE_BITS + self.input_bits) + bias.abs()
        assert float(largest_sums.max()) < 2.0**53
        self.register_buffer("weight", weight.reshape(self.groups, -1, weight[0].numel()))
        self.register_buffer("bias", bias[:, None])

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, T * stride + context] float64 -> [B, C', T] float64 on the grid 2^-output_bits."""
        x = _to_grid(x, self.input_bits, 2.0**RANGE_BITS)
        batch = x.shape[0]
        if self.span > 1 or self.stride > 1:
            # [B, C, T, taps] -> [B, C, taps, T]; not cuDNN, which may transform before it sums.
            x = x.unfold(-1, self.span, self.stride)[..., :: self.dilation].transpose(-1, -2)
        frames = x.shape[-1]
        if self.groups == 1:
            sums = self.weight[0] @ x.reshape(batch, -1, frames)
        else:
            sums = (self.weight @ x.reshape(batch, self.groups, -1, frames)).reshape(batch, -1, frames)
        sums += self.bias
        coarser = self.output_bits - self.input_bits - self.weight_bits
        return sums.mul_(2.0**coarser).round_().mul_(2.0**-self.output_bits)


class GridQuantizer(ResidualVectorQuantizer):
    """Nearest codewords by integer distances; of equally near ones the first.

    Args:
        quantizer: the one to imitate; its codebooks are rounded, not changed.

    Attributes:
        bits: bits after the point of latents and codewords.
        limit: latents are held within +-limit, four times the largest number of the first codebook or more.

    Raises:
        ValueError: its codewords are too large for exact distances.
    """

    squares: Tensor

    def __init__(self, quantizer: ResidualVectorQuantizer) -> None:
        books = quantizer.codebooks.detach().to("cpu", torch.float64)
        super().__init__(quantizer.n_q, quantizer.codebook_size, books.shape[-1])
        self.limit = 2.0 ** (_exponent(books[0]) + 2)
        # Distances are |c|^2 - 2 x.c, where x is the latent less a codeword of each level before.
        reach, largest = self.limit, 0.0
        for book in _to_grid(books, 16, 2.0**10) * 2.0**-16:
            largest = max(largest, float(2.0 * reach * book.abs().sum(1).max() + book.square().sum(1).max()))
            reach += float(book.abs().max())
        self.bits = min(_WEIGHT_BITS, (_SUM_BITS - math.frexp(largest)[1]) // 2)
        if self.bits < _COARSEST_BITS:
            raise ValueError(
                "expected codewords whose distances fit exact arithmetic, got values up to "
                f"{float(books.abs().max()):.3g}; this codec has no exact mode"
            )
        self.codebooks = books.mul(2.0**self.bits).round_()
        self.register_buffer("squares", self.codebooks.square().sum(-1))

    @torch.no_grad()
    def encode(self, latents: Tensor, n_q: int | None = None) -> Tensor:
        """Latents -> codes, [B, D, T] float64 -> [B, n_q, T] int64 in [0, V); None uses all levels."""
        batch, dim, frames = latents.shape
        residual = _to_grid(latents, self.bits, self.limit).transpose(1, 2).reshape(batch * frames, dim)
        codes = []
        for k in range(n_q or self.n_q):
            book = self.codebooks[k]
            index = torch.addmm(self.squares[k], residual, book.t(), alpha=-2.0).argmin(dim=1)
            residual = residual - book[index]
            codes.append(index.view(batch, frames))
        return torch.stack(codes, dim=1)


def _read_as_pcm(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Before the encoder: samples to multiples of 2^-15, half to even; beyond full scale they are kept."""
    wav, *rest = args
    return (_to_grid(wav, PCM_BITS, 2.0**RANGE_BITS).mul_(2.0**-PCM_BITS), *rest)


@torch.no_grad()
def on_grid(encoder: Encoder) -> Encoder:
    """A copy of an encoder that computes on integer grids, on the CPU.

    Args:
        encoder: its convolutions are ``nn.Conv1d`` modules, and nothing else in it has weights.

    Returns:
        The copy; it takes wav [B, 1, T * hop_length] of any float type and gives latents [B, D, T] float64.

    Raises:
        TypeError: a module that is no convolution has weights.
        ValueError: a convolution cannot be put on a grid.
    """
    twin = copy.deepcopy(encoder).cpu()
    for name, module in list(twin.named_modules()):
        for child_name, child in list(module.named_children()):
            if isinstance(child, nn.Conv1d):
                setattr(module, child_name, GridConv1d(child))
        own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
        if own and not isinstance(module, nn.Conv1d):
            raise TypeError(
                f"expected weights in convolutions only, got {type(module).__name__} at encoder.{name}; "
                "this codec has no exact mode"
            )
    twin.register_forward_pre_hook(_read_as_pcm)
    return twin.eval()


class ExactAudioCodec(AudioCodec):
    """An :class:`~audiotok.codec.model.AudioCodec` whose codes do not depend on how or where they are computed.

    Weights, files, fingerprints and decoding are those of the codec it is made of: the codes mean the same sounds to
    every reader, so ``codes_fingerprint`` is the same in both modes, though a few codes differ (nearly equal distances
    fall the other way). The grids are laid at the first encode on a device; weights must not change after it.

    Args:
        config: its numbers.

    Attributes:
        is_exact: True.
    """

    is_exact = True

    def __init__(self, config: CodecConfig) -> None:
        super().__init__(config)
        # In a tuple, where nn.Module does not look: the grids are no part of the weights.
        self._grids: tuple[torch.device, Encoder, ResidualVectorQuantizer] | None = None

    def coders(self) -> tuple[Encoder, ResidualVectorQuantizer]:
        """The encoder and the quantiser on integer grids, on the codec's device.

        Raises:
            RuntimeError: the device does not compute float64 sums of integers exactly.
            TypeError: the encoder holds weights outside convolutions, or the device has no float64.
            ValueError: weights too large for exact sums.
        """
        if self._grids is None or self._grids[0] != self.device:
            with torch.inference_mode(False):
                encoder, quantizer = on_grid(self.encoder), GridQuantizer(self.quantizer)
                probe = torch.rand(
                    1, 1, 50 * self.config.hop_length, generator=torch.Generator().manual_seed(0)
                )
                expected = quantizer.encode(encoder(probe - 0.5))
                encoder.to(self.device)
                quantizer.to(self.device)
                codes = quantizer.encode(encoder((probe - 0.5).to(self.device)))
            if not torch.equal(codes.cpu(), expected):
                raise RuntimeError(
                    f"expected exact float64 sums, got other codes on {self.device} than on the CPU; "
                    "encode on the CPU, or load the codec without exact=True"
                )
            self._grids = (self.device, encoder, quantizer)
        return self._grids[1:]
