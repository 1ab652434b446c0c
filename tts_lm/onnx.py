"""The NAR half as an ONNX graph, and filling codes with it: numpy and onnxruntime, no torch.

Knows nothing of text or of sound: :class:`~tts_lm.nar.NarModel` says what is computed, this file writes it down. The
law it keeps: the codes of :meth:`~tts_lm.nar.NarModel.fill`, ties aside (tests/test_onnx.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from audiotok import onnx

if TYPE_CHECKING:
    from .nar import NarModel

KIND = "nar"
Array = np.ndarray[Any, Any]


class OnnxNar:
    """Fills codebooks 1..K-1. Make one with :func:`load_onnx`.

    Args:
        bundle: with the session ``nar``.

    Attributes:
        facts: what the bundle's card says, ``license`` among it.
        codes_fingerprint: of the codec whose codes these are.
        n_q: codebooks.
        codebook_size: entries of each (V).
        characters: a character of normalised text -> its text id.
    """

    def __init__(self, bundle: onnx.Bundle) -> None:
        self.facts = bundle.facts
        self.codes_fingerprint: str = self.facts["codes_fingerprint"]
        self.n_q: int = self.facts["n_q"]
        self.codebook_size: int = self.facts["codebook_size"]
        self.characters: dict[str, int] = self.facts["characters"]
        self._session = bundle.sessions["nar"]

    def fill(
        self,
        first: Array,
        text_ids: Array,
        voice: Array,
        prompt_codes: Array,
        text_mask: Array | None = None,
        mask: Array | None = None,
        prompt_mask: Array | None = None,
        n_q: int | None = None,
    ) -> Array:
        """Predict levels 1..K-1, one pass a level, as :meth:`tts_lm.nar.NarModel.fill`.

        Args:
            first: [B, T] int64 in [0, V), codebook 0.
            text_ids: [B, S] int64.
            voice: [B] int64, 0..15.
            prompt_codes: [B, K, P] int64 in [0, V), P >= 0, the voice prompt at all levels.
            text_mask: [B, S] bool, True where there is text; None = everywhere. Masks fill from the left.
            mask: [B, T] bool.
            prompt_mask: [B, P] bool.
            n_q: codebooks to return, the first among them; None = all K.

        Returns:
            [B, n_q, T] int64; what lies in the padding means nothing.

        Raises:
            ValueError: codes of another range, or prompt_codes of another number of codebooks.
        """
        first, prompt_codes = np.asarray(first, np.int64), np.asarray(prompt_codes, np.int64)
        for name, codes in (("first", first), ("prompt_codes", prompt_codes)):
            if codes.size and not 0 <= codes.min() <= codes.max() < self.codebook_size:
                raise ValueError(
                    f"expected {name} in [0, {self.codebook_size}), got values from {codes.min()} to {codes.max()}"
                )
        if prompt_codes.ndim != 3 or prompt_codes.shape[1] != self.n_q:
            raise ValueError(
                f"expected prompt_codes [B, {self.n_q}, P], got {list(prompt_codes.shape)}; give all levels"
            )
        batch, frames = first.shape
        likeliest = np.zeros((batch, self.n_q, frames), np.int64)
        likeliest[:, 0] = first
        codes = likeliest.copy()
        left = np.zeros((batch, frames, self.facts["codebook_dim"]), np.float32)
        text_ids = np.asarray(text_ids, np.int64)
        feeds = {
            "text_ids": text_ids,
            "text_mask": _whole(text_mask, text_ids.shape),
            "prompt_codes": prompt_codes,
            "prompt_mask": _whole(prompt_mask, prompt_codes[:, 0].shape),
            "mask": _whole(mask, first.shape),
            "voice": np.asarray(voice, np.int64),
        }
        filled = min(n_q or self.n_q, self.n_q)
        for index in range(1, filled):
            feeds |= {"codes": likeliest, "level": np.array(index), "left": left}
            guess, chosen, left = self._session.run(["likeliest", "chosen", "left_over"], feeds)
            likeliest[:, index], codes[:, index] = guess, chosen
        return codes[:, :filled]


def load_onnx(folder: str | Path, threads: int | None = None) -> OnnxNar:
    """Open a NAR half that ``tts-lm export`` wrote, to run without torch.

    Args:
        folder: the bundle.
        threads: of onnxruntime; None takes as many as there are cores.

    Raises:
        FileNotFoundError: there is no bundle, or it is not whole.
        ModuleNotFoundError: the package ``onnxruntime`` is missing.
        ValueError: it is of another kind or format, or damaged.
    """
    return OnnxNar(onnx.open_bundle(folder, KIND, threads))


def export_onnx(
    nar: NarModel,
    characters: Mapping[str, int],
    folder: str | Path,
    license: str | None = None,
    card: Path | None = None,
    overwrite: bool = False,
) -> None:
    """Write a NAR half as a bundle that :func:`load_onnx` opens.

    Args:
        nar: the NAR half.
        characters: text ids of its characters, of :func:`tts_lm.text.character_ids`.
        folder: new or empty.
        license: of the weights; None says what the card says, or that it is not stated.
        card: a README.md to copy beside the graph.
        overwrite: replace a bundle that is there.

    Raises:
        FileExistsError: something is there that may not be replaced.
        ModuleNotFoundError: the package ``onnx`` is missing.
        OSError: it cannot be written.
    """
    onnx.check_target(folder, overwrite)
    stated = "see README.md of this folder" if card is not None and card.is_file() else onnx.NOT_STATED
    facts = {
        "kind": KIND,
        "codes_fingerprint": nar.config.codes_fingerprint,
        "license": license or stated,
        **{key: getattr(nar.config, key) for key in ("n_q", "codebook_size", "codebook_dim", "text_size")},
        "characters": dict(characters),
    }
    onnx.save_bundle(folder, {"nar": nar_graph(nar)}, facts, card, overwrite)


def nar_graph(nar: NarModel) -> onnx.Graph:
    """One level: text, voice, prompt, codes below -> the likeliest codes, the chosen ones, what those leave over.

    Args:
        nar: whose.

    Raises:
        ModuleNotFoundError: the package ``onnx`` is missing.
    """
    graph = onnx.Graph("nar")
    config = nar.config
    text = graph.input("text_ids", np.int64, ("B", "S"))
    prompt = graph.input("prompt_codes", np.int64, ("B", config.n_q, "P"))
    codes = graph.input("codes", np.int64, ("B", config.n_q, "T"))
    masks = [graph.input(f"{name}mask", np.bool_, ("B", axis)) for name, axis in _PARTS]
    voice, level = graph.input("voice", np.int64, ("B",)), graph.input("level", np.int64, ())
    left = graph.input("left", np.float32, ("B", "T", config.codebook_dim))

    rows = graph.constant(np.arange(config.n_q)[:, None, None], np.int64)
    below = graph.cast(graph("Less", rows, level), np.float32)
    frames = _Frames(graph, nar)
    table = graph.constant(_numpy(nar.text_embedding.weight))
    parts = [graph("Gather", table, text), frames(prompt), frames(codes, below)]
    segments = _numpy(nar.segment_embedding.weight)
    parts = [graph("Add", part, graph.constant(segments[index])) for index, part in enumerate(parts)]
    x = graph("Concat", *parts, axis=1)
    speaker = graph("Gather", graph.constant(_numpy(nar.voice_embedding.weight)), voice)
    one = graph.constant([1], np.int64)
    x = graph("Add", x, graph("Unsqueeze", speaker, one))
    allowed = graph("Concat", *masks, axis=1)
    turns = _angles(graph, allowed, config.hidden_size // config.num_attention_heads)
    allowed = graph("Unsqueeze", allowed, graph.constant([1, 2], np.int64))
    for block in nar.blocks:
        x = _block(graph, block, x, level, allowed, turns)
    length = graph(
        "Slice", graph("Shape", codes), graph.constant([2], np.int64), graph.constant([3], np.int64)
    )
    end = graph.constant([np.iinfo(np.int64).max], np.int64)
    x = _level_norm(graph, nar.norm, graph("Slice", x, graph("Neg", length), end, one), level)
    _choose(graph, nar, x, level, left)
    return graph


_PARTS = (("text_", "S"), ("prompt_", "P"), ("", "T"))


def _whole(mask: Array | None, shape: tuple[int, ...]) -> Array:
    return np.ones(shape, bool) if mask is None else np.asarray(mask, bool)


def _numpy(tensor: Any) -> Array:
    return tensor.detach().float().cpu().numpy()


class _Frames:
    """Codes [B, K, T] -> [B, T, W], of all levels or of those that ``below`` [K, 1, 1] marks by 1."""

    def __init__(self, graph: onnx.Graph, nar: NarModel) -> None:
        books = _numpy(nar.codebooks)
        n_q, size, dim = books.shape
        self._graph, self._nar = graph, nar
        self._starts = graph.constant(np.arange(n_q)[:, None] * size, np.int64)
        self._words = graph.constant(books.reshape(-1, dim))
        self._firsts = graph.constant(_numpy(nar.first_embedding.weight))

    def __call__(self, codes: str, below: str | None = None) -> str:
        graph = self._graph
        words = graph("Gather", self._words, graph("Add", codes, self._starts))  # [B, K, T, D]
        if below is not None:
            words = graph("Mul", words, below)
        latents = graph("ReduceSum", words, graph.constant([1], np.int64), keepdims=0)
        first = graph("Gather", codes, graph.constant(0, np.int64), axis=1)
        return graph(
            "Add",
            graph.affine(latents, _numpy(self._nar.latent_in.weight)),
            graph("Gather", self._firsts, first),
        )


def _angles(graph: onnx.Graph, allowed: str, width: int) -> tuple[str, str]:
    """Cosines and sines [B, 1, L, width / 2] of positions that count a row's real ids only."""
    half = width // 2
    rates = (10000.0 ** (-np.arange(half, dtype=np.float32) / np.float32(half))).astype(np.float32)
    counts = graph("CumSum", graph.cast(allowed, np.int64), graph.constant(1, np.int64))
    position = graph.cast(graph("Sub", counts, graph.constant(1, np.int64)), np.float32)
    axes = graph.constant([1, 3], np.int64)
    angles = graph("Mul", graph("Unsqueeze", position, axes), graph.constant(rates))
    return graph("Cos", angles), graph("Sin", angles)


def _level_norm(graph: onnx.Graph, norm: Any, x: str, level: str) -> str:
    square = graph("ReduceMean", graph("Mul", x, x), graph.constant([-1], np.int64))
    length = graph("Sqrt", graph("Add", square, graph.constant(1e-5, np.float32)))
    scales = graph.constant(1.0 + _numpy(norm.scale.weight))
    shifts = graph.constant(_numpy(norm.shift.weight))
    scaled = graph("Mul", graph("Div", x, length), graph("Gather", scales, level))
    return graph("Add", scaled, graph("Gather", shifts, level))


def _block(graph: onnx.Graph, block: Any, x: str, level: str, allowed: str, turns: tuple[str, str]) -> str:
    width = block.qkv.in_features
    each = width // block.heads
    qkv = graph.affine(_level_norm(graph, block.attention_norm, x, level), _numpy(block.qkv.weight))
    qkv = graph("Transpose", graph.reshape(qkv, 0, 0, 3, block.heads, each), perm=(2, 0, 3, 1, 4))
    query, key, value = (graph("Gather", qkv, graph.constant(part, np.int64), axis=0) for part in range(3))
    query, key = _rotate(graph, query, each // 2, turns), _rotate(graph, key, each // 2, turns)
    scores = graph("MatMul", query, graph("Transpose", key, perm=(0, 1, 3, 2)))
    scores = graph("Mul", scores, graph.constant(each**-0.5, np.float32))
    scores = graph("Where", allowed, scores, graph.constant(-np.inf, np.float32))
    mixed = graph("Transpose", graph("MatMul", graph("Softmax", scores, axis=-1), value), perm=(0, 2, 1, 3))
    x = graph("Add", x, graph.affine(graph.reshape(mixed, 0, 0, width), _numpy(block.out.weight)))
    both = graph.affine(_level_norm(graph, block.feed_norm, x, level), _numpy(block.gate_up.weight))
    inside = block.down.in_features
    gate, up = graph.slice(both, 0, inside, 2), graph.slice(both, inside, None, 2)
    gate = graph("Mul", gate, graph("Sigmoid", gate))
    return graph("Add", x, graph.affine(graph("Mul", gate, up), _numpy(block.down.weight)))


def _rotate(graph: onnx.Graph, x: str, half: int, turns: tuple[str, str]) -> str:
    cos, sin = turns
    left, right = graph.slice(x, 0, half, 3), graph.slice(x, half, None, 3)
    first = graph("Sub", graph("Mul", left, cos), graph("Mul", right, sin))
    second = graph("Add", graph("Mul", left, sin), graph("Mul", right, cos))
    return graph("Concat", first, second, axis=3)


def _choose(graph: onnx.Graph, nar: NarModel, hidden: str, level: str, left: str) -> None:
    """The outputs: the likeliest code, and the code nearest to the expected word and what earlier ones left over."""
    books = _numpy(nar.codebooks)
    dim = books.shape[2]
    words = graph("Gather", graph.constant(books), level)
    across = graph("Transpose", words, perm=(1, 0))
    squares = graph("Gather", graph.constant(np.square(books).sum(-1)), level)
    two = graph.constant(2.0, np.float32)
    expected = graph.affine(hidden, _numpy(nar.latent_out.weight), _numpy(nar.latent_out.bias))
    near = graph("Sub", graph("MatMul", graph("Mul", expected, two), across), squares)
    precision = graph("Gather", graph.constant(np.exp(_numpy(nar.log_precision))), level)
    bias = graph("Gather", graph.constant(_numpy(nar.code_bias)), level)
    scores = graph("Add", graph("Mul", near, precision), bias)
    frames = ("B", "T")
    graph.output(graph("ArgMax", scores, axis=2, keepdims=0), "likeliest", np.int64, frames)
    left = graph("Add", left, graph("MatMul", graph("Softmax", scores, axis=2), words))
    distance = graph("Sub", squares, graph("MatMul", graph("Mul", left, two), across))
    code = graph("ArgMin", distance, axis=2, keepdims=0)
    graph.output(code, "chosen", np.int64, frames)
    graph.output(graph("Sub", left, graph("Gather", words, code)), "left_over", np.float32, (*frames, dim))
