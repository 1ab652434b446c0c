"""What the exact mode must compute, in plain 64-bit integers: convolutions tap by tap, distances term by term.

Shares with the product its order of layers and its choice of grids, and no arithmetic: a sum here cannot round.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from audiotok.codec.exact import RANGE_BITS, ExactAudioCodec, GridConv1d, GridQuantizer, on_grid


def rounded(x: Tensor, bits: int) -> np.ndarray:
    """x in units of 2^-bits, int64, half to even."""
    return np.rint(np.ldexp(x.detach().numpy().astype(np.float64), bits)).astype(np.int64)


class IntegerConv(nn.Module):
    """A convolution of int64 numpy arrays, group by group and tap by tap, on the grids of a GridConv1d."""

    def __init__(self, conv: nn.Conv1d, grid: GridConv1d) -> None:
        super().__init__()
        self.conv, self.grid = conv.double(), grid
        self.weight = self.conv.weight  # CausalConv1d asks for its type

    def forward(self, x: Tensor) -> Tensor:
        conv, grid = self.conv, self.grid
        limit = 2 ** (RANGE_BITS + grid.input_bits)
        inputs = rounded(x, grid.input_bits).clip(-limit, limit)
        weight = rounded(conv.weight, grid.weight_bits)
        out_channels, per_group, taps = weight.shape
        stride, dilation = conv.stride[0], conv.dilation[0]
        frames = (x.shape[-1] - dilation * (taps - 1) - 1) // stride + 1
        sums = np.zeros((x.shape[0], out_channels, frames), dtype=np.int64)
        if conv.bias is not None:
            sums += rounded(conv.bias, grid.input_bits + grid.weight_bits)[:, None]
        size = out_channels // conv.groups
        for group in range(conv.groups):
            rows = slice(group * size, (group + 1) * size)
            columns = inputs[:, group * per_group : (group + 1) * per_group]
            for tap in range(taps):
                start = tap * dilation
                sums[:, rows] += weight[rows, :, tap] @ columns[..., start : start + stride * frames : stride]
        result = np.rint(
            np.ldexp(sums.astype(np.float64), grid.output_bits - grid.input_bits - grid.weight_bits)
        )
        return torch.from_numpy(np.ldexp(result, -grid.output_bits))


def reference_codes(codec: ExactAudioCodec, wav: Tensor) -> Tensor:
    """Codes [B, K, T] of a wav [B, 1, N]."""
    encoder = on_grid(codec.encoder)
    plain = dict(codec.encoder.named_modules())
    for name, module in list(encoder.named_modules()):
        if isinstance(module, GridConv1d):
            conv = plain[name]
            assert isinstance(conv, nn.Conv1d)
            copied = nn.Conv1d(
                conv.in_channels, conv.out_channels, conv.kernel_size[0], conv.stride[0], 0, conv.dilation[0],
                conv.groups, conv.bias is not None,
            )  # fmt: skip
            copied.load_state_dict(conv.state_dict())
            encoder.set_submodule(name, IntegerConv(copied, module))
    with torch.no_grad():
        latents = encoder(F.pad(wav, (0, -wav.shape[-1] % codec.config.hop_length)))
    return torch.stack([nearest_words(codec, item) for item in latents])


def nearest_words(codec: ExactAudioCodec, latents: Tensor) -> Tensor:
    """Codes [K, T] of latents [D, T]: the whole squared distance to every codeword, in int64."""
    quantizer = GridQuantizer(codec.quantizer)
    limit = int(quantizer.limit * 2**quantizer.bits)
    residual = rounded(latents, quantizer.bits).clip(-limit, limit).T
    codes = []
    for book in rounded(codec.quantizer.codebooks, quantizer.bits):
        distances = np.stack([((residual - word) ** 2).sum(-1) for word in book], axis=-1)
        index = distances.argmin(-1)
        residual = residual - book[index]
        codes.append(torch.from_numpy(index))
    return torch.stack(codes)
