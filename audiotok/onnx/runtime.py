"""A codec from its ONNX bundle: wav -> codes -> wav with onnxruntime and numpy, and no torch.

Knows nothing of how the files were made. The law it keeps: the codes and the sound of the codec that was exported,
ties aside, audio within 1e-4; what goes in is checked as the codec checks it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..wav import MAX_PEAK
from .bundle import Bundle, open_bundle
from .synthesis import Array, pulse_train, render


class OnnxCodec:
    """wav -> codes -> wav. Make one with :func:`load_onnx`.

    Args:
        bundle: with the sessions ``encoder`` and ``decoder``.

    Attributes:
        facts: what the bundle's card says, ``license`` among it.
        codes_fingerprint: of the codec: who has another must not read these codes.
        sampling_rate: Hz.
        hop_length: samples per frame.
        n_q: codebooks.
        codebook_size: entries of each (V).
        frame_rate: Hz.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.facts = bundle.facts
        self.codes_fingerprint: str = self.facts["codes_fingerprint"]
        self.sampling_rate: int = self.facts["sampling_rate"]
        self.hop_length: int = self.facts["hop_length"]
        self.n_q: int = self.facts["n_q"]
        self.codebook_size: int = self.facts["codebook_size"]
        self.frame_rate = self.sampling_rate / self.hop_length
        self._encoder, self._decoder = bundle.sessions["encoder"], bundle.sessions["decoder"]

    def encode(self, wav: Array, n_q: int | None = None) -> Array:
        """Turn a waveform into residual codes.

        Args:
            wav: [B, 1, N] float, at ``sampling_rate`` Hz, values in [-1, 1]. Any N >= 1; shorter items are filled up
                with zeros on the right, which changes none of their own frames.
            n_q: codebooks to keep; None keeps all.

        Returns:
            codes [B, n_q, T] int64 in [0, V), T = ceil(N / hop_length).

        Raises:
            ValueError: wav is of another shape or no float, holds NaN, infinity or samples far beyond full scale, or
                n_q is out of range.
        """
        wav = np.asarray(wav)
        if wav.ndim != 3 or wav.shape[1] != 1 or not wav.size or wav.dtype.kind != "f":
            raise ValueError(
                f"expected wav [B, 1, N] of floats with B, N >= 1, got {list(wav.shape)} of {wav.dtype}; "
                "average the channels, divide 16-bit samples by 32768"
            )
        peak = float(np.abs(wav).max())
        if not peak <= MAX_PEAK:  # NaN too
            raise ValueError(f"expected samples in [-1, 1], got a peak of {peak:.3g}; scale the wav first")
        if n_q is not None and not 1 <= n_q <= self.n_q:
            raise ValueError(f"expected n_q in [1, {self.n_q}], got {n_q}")
        wav = np.pad(wav.astype(np.float32), ((0, 0), (0, 0), (0, -wav.shape[2] % self.hop_length)))
        (codes,) = self._encoder.run(["codes"], {"wav": wav})
        return codes[:, :n_q]

    def decode(self, codes: Array, num_samples: int | None = None) -> Array:
        """Turn residual codes into a waveform.

        Args:
            codes: [B, K, T] int in [0, V), the first K codebooks, 1 <= K <= ``n_q``, T >= 1.
            num_samples: length of the result; None gives T * hop_length.

        Returns:
            wav [B, 1, num_samples] float32.

        Raises:
            ValueError: codes of another shape, type or range, or num_samples that they do not cover.
        """
        codes = np.asarray(codes)
        if codes.ndim != 3 or not codes.size or codes.shape[1] > self.n_q or codes.dtype.kind not in "iu":
            raise ValueError(
                f"expected integer codes [B, K, T] with B, T >= 1 and 1 <= K <= {self.n_q}, got "
                f"{list(codes.shape)} of {codes.dtype}"
            )
        if codes.min() < 0 or codes.max() >= self.codebook_size:
            raise ValueError(
                f"expected codes in [0, {self.codebook_size}), got values from {codes.min()} to {codes.max()}"
            )
        available = codes.shape[2] * self.hop_length
        if num_samples is not None and not 1 <= num_samples <= available:
            raise ValueError(
                f"expected num_samples in [1, {available}] for {codes.shape[2]} frames, got {num_samples}"
            )
        names = ["f0_hz", "voiced", "real", "imaginary", "noise", "window"]
        f0_hz, voiced, *filters = self._decoder.run(names, {"codes": codes.astype(np.int64)})
        # What frames before the first voice hold is of no matter as long as it is the same everywhere.
        first_hz = 2 * self.facts["f0_min_hz"]
        pulses = pulse_train(f0_hz, voiced, first_hz, self.hop_length, self.sampling_rate)
        return render(pulses, *filters)[:, None, :num_samples]


def load_onnx(folder: str | Path, threads: int | None = None) -> OnnxCodec:
    """Open a codec that ``audiotok export`` wrote, to run without torch.

    Args:
        folder: the bundle.
        threads: of onnxruntime; None takes as many as there are cores.

    Raises:
        FileNotFoundError: there is no bundle, or it is not whole.
        ModuleNotFoundError: the package ``onnxruntime`` is missing.
        ValueError: it is of another kind or format, or damaged.
    """
    return OnnxCodec(open_bundle(folder, "codec", threads))
