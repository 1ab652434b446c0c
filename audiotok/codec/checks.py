"""Checks of wavs, codes and counts that users pass to a codec."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..audio import MAX_PEAK


def check_tensor(name: str, value: Any) -> None:
    """Raise TypeError unless ``value`` is a tensor, and ValueError unless it is dense and has data."""
    if not isinstance(value, Tensor):
        raise TypeError(f"expected {name} as a torch.Tensor, got {type(value).__name__}; see torch.as_tensor")
    if value.is_meta or value.layout != torch.strided:
        raise ValueError(
            f"expected {name} with its numbers, got one on {value.device}, {value.layout}; see Tensor.to_dense"
        )


def check_count(name: str, value: Any) -> None:
    """Raise TypeError unless ``value`` is an int."""
    if not hasattr(value, "__index__"):
        raise TypeError(f"expected {name} as int, got {type(value).__name__}")


def check_wav_form(name: str, wav: Tensor, least: int, channels: int = 1) -> None:
    """Check that ``wav`` is a float tensor [B, C, N] with B >= 1, C = ``channels`` and N >= ``least``."""
    check_tensor(name, wav)
    if wav.ndim != 3 or wav.shape[0] < 1 or wav.shape[1] != channels or wav.shape[2] < least:
        raise ValueError(
            f"expected {name} [B, {channels}, N] with B >= 1 and N >= {least}, got {list(wav.shape)}; average the "
            "channels of a wav, or repeat them"
        )
    if not wav.is_floating_point():
        raise ValueError(
            f"expected float samples in [-1, 1], got {wav.dtype}; divide 16-bit samples by 32768"
        )


def check_wav_range(wav: Tensor) -> None:
    """Raise ValueError if a sample is not finite or far beyond full scale."""
    peak = float(wav.abs().max()) if wav.numel() else 0.0  # NaN if any sample is NaN
    if not math.isfinite(peak):
        raise ValueError("expected finite samples, got NaN or infinity; repair the wav first")
    if peak > MAX_PEAK:
        raise ValueError(f"expected samples in [-1, 1], got a peak of {peak:.3g}; scale the wav first")


def check_codes(name: str, codes: Tensor, n_q: int, codebook_size: int, least: int = 1) -> Tensor:
    """Check that ``codes`` are [B, K, T] integers in [0, codebook_size) with B >= 1, 1 <= K <= n_q and T >= ``least``,
    and convert them to int64.
    """
    check_tensor(name, codes)
    if codes.ndim != 3 or codes.shape[0] < 1 or not 1 <= codes.shape[1] <= n_q or codes.shape[2] < least:
        raise ValueError(
            f"expected {name} [B, K, T] with B >= 1, 1 <= K <= {n_q} and T >= {least}, got {list(codes.shape)}"
        )
    if codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool:
        raise ValueError(f"expected integer {name}, got {codes.dtype}")
    codes = codes.to(torch.int64)
    low, high = (int(codes.min()), int(codes.max())) if codes.numel() else (0, 0)
    if low < 0 or high >= codebook_size:
        raise ValueError(f"expected {name} in [0, {codebook_size}), got values from {low} to {high}")
    return codes
