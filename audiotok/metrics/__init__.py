"""How far one recording is from another, and how well a codebook is used.

Knows nothing of codecs, files or data sets. The law it keeps: every metric of a clip is either a score or a
failure with its reason, never one in place of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from .codes import CodeUsage, perplexity
from .pitch import f0_error, voicing_error, yin
from .quality import MetricError, import_library, mel_distance, pesq, si_sdr, stoi, visqol

__all__ = [
    "METRICS",
    "NEEDS",
    "CodeUsage",
    "MetricError",
    "check_libraries",
    "f0_error",
    "mel_distance",
    "perplexity",
    "pesq",
    "score",
    "si_sdr",
    "stoi",
    "visqol",
    "voicing_error",
    "yin",
]

METRICS: dict[str, Callable[[Tensor, Tensor, int], float]] = {
    "pesq_wb": pesq,
    "pesq_nb": partial(pesq, band="nb"),
    "stoi": stoi,
    "visqol": visqol,
    "si_sdr_db": lambda reference, estimate, sampling_rate: si_sdr(reference, estimate),
    "mel_distance_db": mel_distance,
    "f0_error_cents": f0_error,
    "voicing_error": voicing_error,
}
"""What a clip is scored by: name -> f(reference, estimate, sampling_rate)."""

NEEDS = {
    "pesq_wb": (("pesq", "eval"),),
    "pesq_nb": (("pesq", "eval"),),
    "stoi": (("pystoi", "eval"),),
    "visqol": (("visqol", "visqol"), ("ai_edge_litert", "visqol")),
}
"""Metric -> the optional modules it imports, each with the extra that installs it."""


def check_libraries(metrics: Sequence[str]) -> None:
    """Import what the metrics need, so that a missing package is known before the work and not after it.

    Args:
        metrics: names out of :data:`METRICS`.

    Raises:
        ModuleNotFoundError: a package is missing; the text names the extra that installs it.
    """
    for name in metrics:
        for module, extra in NEEDS.get(name, ()):
            import_library(module, extra)


def score(
    reference: Tensor, estimate: Tensor, sampling_rate: int, metrics: Sequence[str]
) -> tuple[dict[str, float], dict[str, str]]:
    """Compute several metrics; one that is not defined on the clip lands in the second dictionary.

    Args:
        reference: wav, [N] or [1, N] float32.
        estimate: wav of the same shape.
        sampling_rate: of both, in Hz.
        metrics: names out of :data:`METRICS`.

    Returns:
        (scores by name, reasons of failure by name); every name is in exactly one of the two.
    """
    scores: dict[str, float] = {}
    failed: dict[str, str] = {}
    for name in metrics:
        try:
            scores[name] = METRICS[name](reference, estimate, sampling_rate)
        except MetricError as error:
            failed[name] = str(error)
    return scores, failed
