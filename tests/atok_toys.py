"""Shared by the tests of ``.atok`` files: a small integer model, codes that it fits, headers, files."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from audiotok.bitstream import AtokHeader, AtokWriter, EntropyModel
from audiotok.bitstream.entropy import Steps
from audiotok.bitstream.format import LEARNT

FINGERPRINT = "0123456789abcdef"


def toy_model(
    n_q: int = 3,
    codebook_size: int = 32,
    width: int = 8,
    hidden: int = 12,
    seed: int = 0,
    fingerprint: str = FINGERPRINT,
) -> EntropyModel:
    """A model with random integers that is sure enough of itself to code well what :func:`toy_codes` draws from it."""
    rng = np.random.default_rng(seed)
    taps, out_width = (1, 2, 4), 8

    def small(*shape: int, most: int = 40) -> np.ndarray:
        return rng.integers(-most, most + 1, shape).astype(np.int8)

    def offsets(*shape: int, most: int = 400) -> np.ndarray:
        return rng.integers(-most, most + 1, shape).astype(np.int32)

    tensors = {
        "emb": small(n_q, codebook_size, width, most=90),
        "w1": small(n_q, 6 * width, hidden), "b1": offsets(n_q, hidden),
        "w2": small(n_q, (1 + len(taps)) * hidden, hidden), "b2": offsets(n_q, hidden),
        "w3": small(n_q, hidden, out_width, most=90), "b3": offsets(n_q, out_width),
        "out": small(n_q, codebook_size, out_width, most=127), "bias": offsets(n_q, codebook_size),
        "exp_table": np.rint(65536 * np.exp(-np.arange(512) / 32)).astype(np.int32),
    }  # fmt: skip
    return EntropyModel(tensors, taps, (8, 7, 7, 5), fingerprint)


def toy_codes(model: EntropyModel, frames: int, packet_frames: int, seed: int = 0) -> Tensor:
    """Codes [K, T] int64 drawn from the model, packet by packet: what it predicts best."""
    rng = np.random.default_rng(seed)
    codes = np.zeros((model.n_q, frames), np.int64)
    for start in range(0, frames, packet_frames):
        steps = Steps(model, 1, model.n_q, min(packet_frames, frames - start))
        for _ in range(steps.count):
            chances = (steps.freqs()[:, 0].astype(np.float64) + 1) / (1 << 24)
            drawn = np.array([rng.choice(model.codebook_size, p=chance) for chance in chances])
            for k, code in zip(steps.codebooks, drawn, strict=True):
                codes[k, start + steps.frame(k)] = code
            steps.see(drawn[:, None])
    return torch.from_numpy(codes)


def toy_header(
    model: EntropyModel | None = None, n_q: int = 3, codebook_size: int = 32, **changes: object
) -> AtokHeader:
    """A header at 16 kHz and 50 Hz, packets of 20 frames; learnt coding where a model is given."""
    facts: dict = {
        "codec": "toy", "codes_fingerprint": FINGERPRINT, "sampling_rate": 16_000, "hop_length": 320,
        "codebook_sizes": (codebook_size,) * n_q, "packet_frames": 20,
    }  # fmt: skip
    if model is not None:
        facts |= {"coding": LEARNT, "model_fingerprint": model.fingerprint}
    return AtokHeader(**(facts | changes))


def written(
    codes: Tensor,
    header: AtokHeader,
    model: EntropyModel | None = None,
    pieces: Sequence[int] | None = None,
    num_samples: int | None = None,
) -> bytes:
    """The bytes of a file whose codes came in ``pieces`` (lengths; None: at once)."""
    file = io.BytesIO()
    writer = AtokWriter(file, header, model)
    for piece in codes.split(pieces or [codes.shape[1]], dim=1):
        writer.write(piece)
    writer.close(num_samples)
    return file.getvalue()
