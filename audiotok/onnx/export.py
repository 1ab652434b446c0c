"""A codec -> its encoder and decoder as ONNX graphs.

Knows the codec's modules and writes down what each of them does; the law it keeps is that of tests/test_onnx.py: same
codes but for ties, audio within 1e-4.

What makes audio depend on rounding stays as exact here as there: codewords are added level by level in float32, and
pitch is computed in float64, because phase is its running sum.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..codec.encoder import FLOOR
from ..codec.model import AudioCodec
from .bundle import NOT_STATED, check_target, save_bundle
from .graph import Graph

if TYPE_CHECKING:
    from torch import nn

    from ..codec.decoder import Decoder, PitchHead, SourceFilterHead
    from ..codec.encoder import FilterBank
    from ..codec.layers import CausalConv1d, ConvNeXtBlock, ResidualUnit

KIND = "codec"
_POWERS = range(-40, 41)  # of two, that the power of a band may reach
# The normal distribution's integral by cubics on cells so small that float64 hardly tells the difference (2e-15).
_NORMAL_REACH, _NORMAL_CELLS = 9, 1024


def export_onnx(codec: Any, folder: str | Path, license: str | None = None, overwrite: bool = False) -> None:
    """Write a codec as a bundle that :func:`audiotok.load_onnx` opens.

    Args:
        codec: an :class:`~audiotok.codec.model.AudioCodec`, of :func:`~audiotok.load_codec`.
        folder: new or empty.
        license: of the weights; None says what the codec's card says, which is copied, or that it is not stated.
        overwrite: replace a bundle that is there.

    Raises:
        FileExistsError: something is there that may not be replaced.
        ModuleNotFoundError: the package ``onnx`` is missing.
        OSError: it cannot be written.
        TypeError: it is a codec of another family.
    """
    check_target(folder, overwrite)
    if not isinstance(codec, AudioCodec):
        raise TypeError(
            f"expected a codec of our own family (AudioCodec) to export, got {type(codec).__name__}; "
            "codecs of transformers have exporters of their own"
        )
    config = codec.config
    name = str(codec.name_or_path)  # empty of a codec that was not loaded
    card = Path(name) / "README.md" if name else None
    stated = "see README.md of this folder" if card is not None and card.is_file() else NOT_STATED
    facts = {
        "kind": KIND,
        "codec": config.codec_name,
        "codes_fingerprint": codec.codes_fingerprint,
        "weights_fingerprint": codec.weights_fingerprint,
        "license": license or stated,
        **{
            key: getattr(config, key)
            for key in ("sampling_rate", "hop_length", "n_q", "codebook_size", "f0_min_hz")
        },
    }
    graphs = {"encoder": encoder_graph(codec), "decoder": decoder_graph(codec)}
    save_bundle(folder, graphs, facts, card, overwrite)


def encoder_graph(codec: AudioCodec) -> Graph:
    """``wav`` [B, 1, T * hop_length] float32 -> ``codes`` [B, K, T] int64, all codebooks.

    Args:
        codec: whose.

    Raises:
        ModuleNotFoundError: the package ``onnx`` is missing.
    """
    graph = Graph("encoder")
    wav = graph.input("wav", np.float32, ("B", 1, "N"))
    encoder = codec.encoder
    bands = [_bank(graph, bank, wav) for bank in encoder.banks]  # pyright: ignore[reportArgumentType]
    x = _convolution(graph, encoder.mix, graph("Concat", *bands, axis=1))
    for unit in encoder.units:
        x = _residual_unit(graph, unit, x)  # pyright: ignore[reportArgumentType]
    x = _convolution(graph, encoder.latent, x)
    left = graph("Transpose", x, perm=(0, 2, 1))
    codes = []
    for book in _numpy(codec.quantizer.codebooks):
        words = graph.constant(book)
        # |x - c|^2 without |x|^2, which is the same for every c; -2 is a power of two, so it may stand anywhere.
        products = graph("MatMul", left, graph.constant(np.ascontiguousarray(-2.0 * book.T)))
        index = graph(
            "ArgMin", graph("Add", products, graph.constant(np.square(book).sum(-1))), axis=2, keepdims=0
        )
        left = graph("Sub", left, graph("Gather", words, index))
        codes.append(graph("Unsqueeze", index, graph.constant([1], np.int64)))
    graph.output(graph("Concat", *codes, axis=1), "codes", np.int64, ("B", codec.config.n_q, "T"))
    return graph


def decoder_graph(codec: AudioCodec) -> Graph:
    """``codes`` [B, K, T] int64 of any K -> what audiotok/onnx/synthesis.py makes sound of.

    ``f0_hz`` [B, T] float32, ``voiced`` [B, T] bool, ``real``, ``imaginary`` and ``noise`` [B, W, F] float32: filters
    of pulses and of hiss for each of the W windows; ``window`` [2 * F - 2] float32.

    Args:
        codec: whose.

    Raises:
        ModuleNotFoundError: the package ``onnx`` is missing.
    """
    graph = Graph("decoder")
    codes = graph.input("codes", np.int64, ("B", "K", "T"))
    latents = _latents(graph, _numpy(codec.quantizer.codebooks), codes)  # [B, T, D]
    decoder = codec.decoder
    f0_hz, voiced = _pitch(graph, decoder.pitch, latents)
    real, imaginary, noise = _filters(graph, decoder.head, _trunk(graph, decoder, latents))
    bins = decoder.head.bins
    graph.output(f0_hz, "f0_hz", np.float32, ("B", "T"))
    graph.output(voiced, "voiced", np.bool_, ("B", "T"))
    for name, value in (("real", real), ("imaginary", imaginary), ("noise", noise)):
        graph.output(value, name, np.float32, ("B", "W", bins))
    window = _numpy(decoder.head.window)  # as released, that is rounded, and not as a formula would have it
    graph.output(graph.constant(window), "window", np.float32, (len(window),))
    return graph


def _numpy(tensor: Any, dtype: type = np.float32) -> np.ndarray[Any, Any]:
    return tensor.detach().float().cpu().numpy().astype(dtype)


def _convolution(graph: Graph, conv: nn.Conv1d, x: str, context: int = 0) -> str:
    """[B, C, N] -> [B, C', T], with zeros before."""
    inputs = [x, graph.constant(_numpy(conv.weight))]
    if conv.bias is not None:
        inputs.append(graph.constant(_numpy(conv.bias)))
    return graph(
        "Conv",
        *inputs,
        kernel_shape=list(conv.kernel_size),
        strides=list(conv.stride),
        dilations=list(conv.dilation),
        group=conv.groups,
        pads=[context, 0],
    )


def _bank(graph: Graph, bank: FilterBank, wav: str) -> str:
    waves = _convolution(graph, bank.analysis.conv, wav, bank.analysis.context)
    power = _convolution(graph, bank.sums, graph("Mul", waves, waves))
    x = _straight_log2(graph, graph("Add", power, graph.constant(FLOOR, np.float32)))
    x = graph("Mul", graph("Add", x, graph.constant(8.0, np.float32)), graph.constant(0.5, np.float32))
    width = bank.features // bank.snapshots
    x = graph("Transpose", graph.reshape(x, 0, width, -1, bank.snapshots), perm=(0, 3, 1, 2))
    return graph.reshape(x, 0, bank.features, -1)


def _straight_log2(graph: Graph, x: str) -> str:
    """Exponent plus mantissa. ONNX has no frexp; a floor(log2) that is one off beside a power of two gives the same
    number but for rounding, for the lines meet there."""
    exponent = graph("Floor", graph("Mul", graph("Log", x), graph.constant(1 / math.log(2), np.float32)))
    low, high = (graph.constant(float(bound), np.float32) for bound in (_POWERS[0], _POWERS[-1]))
    exponent = graph("Clip", exponent, low, high)
    scales = graph.constant([2.0**-power for power in _POWERS], np.float32)
    row = graph.cast(graph("Sub", exponent, low), np.int64)
    mantissa = graph("Mul", x, graph("Gather", scales, row))
    return graph("Add", mantissa, graph("Sub", exponent, graph.constant(1.0, np.float32)))


def _residual_unit(graph: Graph, unit: ResidualUnit, x: str) -> str:
    h = graph("LeakyRelu", x, alpha=unit.slope)
    h = _convolution(graph, unit.dilated.conv, h, unit.dilated.context)
    h = graph("LeakyRelu", h, alpha=unit.slope)
    return graph("Add", x, _convolution(graph, unit.pointwise, h))


def _latents(graph: Graph, books: np.ndarray[Any, Any], codes: str) -> str:
    """Codewords summed, the first level first: [B, K, T] -> [B, T, D]. A level that is not there adds a zero word."""
    n_q, size, dim = books.shape
    table = np.concatenate([books, np.zeros((n_q, 1, dim), np.float32)], axis=1).reshape(-1, dim)
    one, zero, axis = (graph.constant([number], np.int64) for number in (1, 0, 1))
    held = graph("Slice", graph("Shape", codes), one, graph.constant([2], np.int64), zero)
    missing = graph("Sub", graph.constant([n_q], np.int64), held)
    rows = graph("Pad", codes, graph("Concat", zero, missing, axis=0), graph.constant(size, np.int64), axis)
    rows = graph("Add", rows, graph.constant(np.arange(n_q)[:, None] * (size + 1), np.int64))
    words = graph("Gather", graph.constant(table), rows)
    levels = [graph("Gather", words, graph.constant(level, np.int64), axis=1) for level in range(n_q)]
    total = levels[0]
    for level in levels[1:]:
        total = graph("Add", total, level)
    return total


def _trunk(graph: Graph, decoder: Decoder, latents: str) -> str:
    """[B, T, D] -> [B, T, dim]."""
    x = graph("Transpose", latents, perm=(0, 2, 1))
    x = graph("Transpose", _convolution(graph, decoder.embed.conv, x, decoder.embed.context), perm=(0, 2, 1))
    x = _layer_norm(graph, decoder.norm, x)
    for block in decoder.blocks:
        x = _block(graph, block, x)  # pyright: ignore[reportArgumentType]
    return x


def _block(graph: Graph, block: ConvNeXtBlock, x: str) -> str:
    h = _depthwise(graph, block.depthwise, x)
    h = graph("Gelu", _linear(graph, block.expand, _layer_norm(graph, block.norm, h)))
    scale = _numpy(block.scale)
    # LayerScale is a factor of each output: it goes into the weights.
    weight, bias = _numpy(block.project.weight) * scale[:, None], _numpy(block.project.bias) * scale
    return graph("Add", x, graph.affine(h, weight, bias))


def _depthwise(graph: Graph, layer: CausalConv1d, x: str) -> str:
    """[B, T, C] -> [B, T, C] as sums of shifted rows, which needs no turning of axes before and after."""
    taps = _numpy(layer.conv.weight)[:, 0].T
    padded = graph.pad_before(x, layer.context, 1)
    total = ""
    for tap, weight in enumerate(taps):
        after = len(taps) - 1 - tap
        shifted = x if after == 0 else graph.slice(padded, tap, -after, 1)
        product = graph("Mul", shifted, graph.constant(weight))
        total = graph("Add", total, product) if total else product
    return graph("Add", total, graph.constant(_numpy(layer.conv.bias)))


def _filters(graph: Graph, head: SourceFilterHead, h: str) -> tuple[str, str, str]:
    """Trunk [B, T, dim] -> real and imaginary part of the pulses' filter, magnitude of the hiss's: [B, W, F] each."""
    h = _linear(graph, head.filters, _layer_norm(graph, head.norm, h))
    h = graph.reshape(h, 0, -1, 3, head.bins)
    harmonic, noise, phase = (graph("Gather", h, graph.constant(part, np.int64), axis=2) for part in range(3))
    top = graph.constant(3.0, np.float32)

    def magnitude(x: str, less: float) -> str:
        return graph("Exp", graph("Sub", graph("Min", x, top), graph.constant(less, np.float32)))

    harmonic = magnitude(harmonic, 3.0)
    real, imaginary = (graph("Mul", harmonic, graph(part, phase)) for part in ("Cos", "Sin"))
    return real, imaginary, magnitude(noise, 4.0)


def _pitch(graph: Graph, pitch: PitchHead, latents: str) -> tuple[str, str]:
    """Latents [B, T, D] -> pitch in Hz [B, T] float32 and voiced [B, T] bool, all of it in float64."""
    gelu = _exact_gelu(graph)
    x = graph.cast(latents, np.float64)
    x = gelu(_taps(graph, pitch.first, x))
    x = gelu(_taps(graph, pitch.second, x))
    logits = _taps(graph, pitch.out, x)
    bins = len(pitch.grid_hz)
    classes, voice = graph.slice(logits, 0, bins, 2), graph.slice(logits, bins, None, 2)
    best = graph("ArgMax", classes, axis=2, keepdims=1)
    away = graph("Abs", graph("Sub", graph.constant(np.arange(bins), np.int64), best))
    near = graph("LessOrEqual", away, graph.constant(3, np.int64))
    weights = graph("Softmax", graph("Where", near, classes, graph.constant(-np.inf, np.float64)), axis=2)
    grid = graph.constant(np.log(_numpy(pitch.grid_hz, np.float64))[:, None])
    f0_hz = graph.cast(graph("Exp", graph("MatMul", weights, grid)), np.float32)
    voiced = graph("Greater", voice, graph.constant(0.0, np.float64))
    axis = graph.constant([2], np.int64)
    return graph("Squeeze", f0_hz, axis), graph("Squeeze", voiced, axis)


def _taps(graph: Graph, layer: CausalConv1d, x: str) -> str:
    """A causal convolution in float64 as a product of matrices, [B, T, C] -> [B, T, C']: ONNX's own has no float64."""
    conv = layer.conv
    weight = _numpy(conv.weight, np.float64).transpose(0, 2, 1)  # [C', taps, C]
    size = weight.shape[1]
    if size > 1:
        padded = graph.pad_before(x, layer.context, 1)
        shifted = [graph.slice(padded, tap, tap + 1 - size or None, 1) for tap in range(size)]
        x = graph("Concat", *shifted, axis=2)
    return graph.affine(x, weight.reshape(len(weight), -1), _numpy(conv.bias, np.float64))


def _exact_gelu(graph: Graph) -> Callable[[str], str]:
    """x times the normal distribution's integral, in float64, for which runtimes have no Erf: cubics from a table."""
    reach, cells = _NORMAL_REACH, _NORMAL_CELLS
    at = np.arange(-reach * cells, reach * cells + 1) / cells
    integral = np.array([0.5 * math.erfc(-x / math.sqrt(2)) for x in at])
    density = np.exp(-0.5 * at**2) / math.sqrt(2 * math.pi)
    # Taylor's series around the middle of each cell.
    series = (integral, density, -at * density / 2, (at**2 - 1) * density / 6)
    tables = [graph.constant(table, np.float64) for table in series]
    low, high = (graph.constant(float(bound), np.float64) for bound in (-reach, reach))
    fine, first = graph.constant(float(cells), np.float64), graph.constant(reach * cells, np.int64)

    def gelu(x: str) -> str:
        held = graph("Clip", x, low, high)
        cell = graph("Round", graph("Mul", held, fine))
        row = graph("Add", graph.cast(cell, np.int64), first)
        away = graph("Sub", held, graph("Div", cell, fine))
        total = graph("Gather", tables[-1], row)
        for table in reversed(tables[:-1]):
            total = graph("Add", graph("Gather", table, row), graph("Mul", total, away))
        return graph("Mul", x, total)

    return gelu


def _linear(graph: Graph, layer: nn.Linear, x: str) -> str:
    return graph.affine(x, _numpy(layer.weight), _numpy(layer.bias))


def _layer_norm(graph: Graph, norm: nn.LayerNorm, x: str) -> str:
    weights = (graph.constant(_numpy(value)) for value in (norm.weight, norm.bias))
    return graph("LayerNormalization", x, *weights, axis=-1, epsilon=norm.eps)
