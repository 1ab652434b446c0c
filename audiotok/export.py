"""Export of the default codec family to ONNX with ``torch.onnx``: wav -> codes and codes -> wav, each as one graph."""

from __future__ import annotations

import copy
import math
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .codec.base import Codec
from .codec.decoder import DecoderFeatures, PitchFeatures, PitchHead, SourceFilterHead
from .codec.layers import CausalConv1d, StreamState
from .codec.model import AudioCodec
from .files import write_json

_OPSET = 20
_REACH, _CELLS = 8, 256  # end of the table of the normal distribution, and its cells per unit


class _EncoderGraph(nn.Module):
    def __init__(self, codec: AudioCodec) -> None:
        super().__init__()
        self.encoder, self.quantizer = codec.encoder, codec.quantizer

    def forward(self, wav: Tensor) -> Tensor:
        return self.quantizer.encode(self.encoder(wav))


class _DecoderGraph(nn.Module):
    def __init__(self, codec: AudioCodec) -> None:
        super().__init__()
        self.quantizer, self.decoder = codec.quantizer, copy.deepcopy(codec.decoder)
        self.decoder.head = _MatrixHead(codec.decoder.head)  # type: ignore[assignment]
        self.decoder.pitch = _TablePitch(codec.decoder.pitch)  # type: ignore[assignment]

    def forward(self, codes: Tensor) -> Tensor:
        return self.decoder(self.quantizer.decode(codes))


class _MatrixHead(SourceFilterHead):
    """Fourier transforms as matrix products, because runtimes lack the inverse real transform."""

    analysis: Tensor
    inverse: Tensor

    def __init__(self, head: SourceFilterHead) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(copy.deepcopy(head.__dict__))
        size, bins = head.n_fft, head.bins
        window = head.window.double()
        spectra = torch.fft.rfft(torch.eye(size, dtype=torch.float64) * window)
        parts = torch.eye(2 * bins, dtype=torch.float64)
        waves = torch.fft.irfft(torch.complex(parts[:, :bins], parts[:, bins:]), n=size) * window
        self.register_buffer("analysis", torch.cat([spectra.real, spectra.imag], dim=1).float())
        self.register_buffer("inverse", waves.float())

    def synthesize(self, features: DecoderFeatures, pulses: Tensor, noise: Tensor) -> Tensor:
        real, imaginary = self._spectra(pulses)
        noise_real, noise_imaginary = self._spectra(noise)
        cos = torch.cos(features.phase) * features.harmonic
        sin = torch.sin(features.phase) * features.harmonic
        spectra = [
            real * cos - imaginary * sin + noise_real * features.noise,
            real * sin + imaginary * cos + noise_imaginary * features.noise,
        ]
        return torch.cat(spectra, dim=-1) @ self.inverse

    def _spectra(self, x: Tensor) -> tuple[Tensor, ...]:
        hops = x.unflatten(1, (-1, self.synthesis_hop))
        return (torch.cat([hops[:, :-1], hops[:, 1:]], dim=-1) @ self.analysis).chunk(2, dim=-1)


class _TablePitch(PitchHead):
    """The pitch head in float64 without float64 convolutions and erf, which runtimes lack."""

    table: Tensor

    def __init__(self, pitch: PitchHead) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(copy.deepcopy(pitch.__dict__))
        at = torch.arange(-_REACH * _CELLS, _REACH * _CELLS + 1, dtype=torch.float64) / _CELLS
        density = torch.exp(-0.5 * at**2) / math.sqrt(2 * math.pi)
        # Taylor series of the normal distribution function at the middle of each cell.
        series = (torch.special.ndtr(at), density, -at * density / 2, (at**2 - 1) * density / 6)
        self.register_buffer("table", torch.stack(series, dim=-1))

    def forward(self, latents: Tensor, state: StreamState | None = None) -> PitchFeatures:
        x = latents.double().transpose(1, 2)
        x = self._gelu(_matrix_conv(self.first, x))
        x = self._gelu(_matrix_conv(self.second, x))
        logits = _matrix_conv(self.out, x)
        return PitchFeatures(logits[..., :-1], logits[..., -1])

    def _gelu(self, x: Tensor) -> Tensor:
        held = x.clamp(-_REACH, _REACH)
        cell = torch.round(held * _CELLS)
        away = held - cell / _CELLS
        a, b, c, d = self.table[(cell + _REACH * _CELLS).long()].unbind(-1)
        return x * (a + away * (b + away * (c + away * d)))


def _matrix_conv(layer: CausalConv1d, x: Tensor) -> Tensor:
    """A causal convolution of stride 1 as a matrix product: [B, T, C] -> [B, T, C'] in the precision of ``x``."""
    weight, bias = layer.conv.weight, layer.conv.bias
    padded, taps = F.pad(x, (0, 0, layer.context, 0)), weight.shape[-1]
    shifted = [padded[:, tap : padded.shape[1] - (taps - 1 - tap)] for tap in range(taps)]
    product = torch.cat(shifted, dim=-1) @ weight.permute(2, 1, 0).flatten(0, 1).to(x.dtype)
    return product if bias is None else product + bias.to(x.dtype)


def _frexp(x: Any) -> tuple[Any, Any]:
    """Mantissa in [0.5, 1) and exponent. Next to a power of two the exponent may be off by one, which changes
    :func:`~.codec.encoder.straight_log2` by rounding only.
    """
    import onnxscript

    op: Any = onnxscript.opset20
    exponent = op.Floor(op.Div(op.Log(x), op.Constant(value_float=math.log(2)))) + 1.0
    return x * op.Pow(op.Constant(value_float=2.0), -exponent), op.Cast(exponent, to=6)


def export_onnx(codec: Codec, folder: str | Path) -> None:
    """Write ``encoder.onnx`` (wav [B, 1, T * hop_length] float32 -> codes [B, K, T] int64), ``decoder.onnx`` (codes of
    any K -> wav [B, 1, T * hop_length] float32) and ``codec.json``, the facts about the codes.

    Args:
        codec: a codec of the default family, on the CPU.
        folder: created if it does not exist; files of these names are replaced.

    Raises:
        ModuleNotFoundError: the packages of the extra ``onnx`` are missing.
        ValueError: the codec is of another family.
    """
    if not isinstance(codec, AudioCodec):
        raise ValueError(f"expected a codec of the default family, got {type(codec).__name__}")
    config, folder = codec.config, Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    batch, frames = torch.export.Dim("B", min=1), torch.export.Dim("T", min=1)
    wav = torch.zeros(2, 1, 7 * config.hop_length)
    codes = torch.zeros(2, config.n_q, 7, dtype=torch.int64)
    books = torch.export.Dim("K", min=1, max=config.n_q)
    graphs = {
        "encoder": (_EncoderGraph(codec), wav, {0: batch, 2: config.hop_length * frames}, ("wav", "codes")),
        "decoder": (_DecoderGraph(codec), codes, {0: batch, 1: books, 2: frames}, ("codes", "wav")),
    }
    for name, (graph, example, axes, (given, made)) in graphs.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's own warnings
            program = torch.onnx.export(
                graph.eval(),
                (example,),
                dynamo=True,
                dynamic_shapes=(axes,),
                input_names=[given],
                output_names=[made],
                opset_version=_OPSET,
                custom_translation_table={torch.ops.prims.frexp.default: _frexp},
                verbose=False,
            )
        assert program is not None
        program.save(folder / f"{name}.onnx")
    facts = {key: getattr(config, key) for key in ("sampling_rate", "hop_length", "n_q", "codebook_size")}
    named = {"codec": config.codec_name, "codes_fingerprint": codec.codes_fingerprint}
    write_json(folder / "codec.json", named | facts)
