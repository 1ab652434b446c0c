"""Judges of single clips: whose voice it is like, and how clean it sounds.

Knows nothing of texts or of the model. The law it keeps: a score depends on its clip, and on the recordings it is held
against, alone; a recording is never held against itself.

Whose voice: cosine between embeddings of Resemblyzer (GE2E, arXiv:1710.10467; its weights come in the package). How
clean: DNSMOS P.835 overall (arXiv:2110.01763) of speechmos. Both are extras.
"""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor

from audiotok import load_audio, resample

Judge = Callable[[int, Tensor, int], float]
"""(number of the clip in its set, wav [N] float32, its rate in Hz) -> score; NaN where there is nothing to judge."""
_RATE = 16000
_SHORTEST = _RATE // 2


class SpeakerEar:
    """Embeds voices.

    Raises:
        ModuleNotFoundError: the package ``resemblyzer`` is missing.
    """

    def __init__(self) -> None:
        try:
            with _PkgResources():
                from resemblyzer import VoiceEncoder  # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"expected the package 'resemblyzer' for speaker similarity, {error.name!r} is missing; "
                "pip install 'audiotok[judge]'",
                name=error.name,
            ) from error
        self._encoder: Any = VoiceEncoder("cpu", verbose=False)

    def embed(self, wav: Tensor, sampling_rate: int) -> np.ndarray:
        """A unit vector [256].

        Args:
            wav: [N] float32.
            sampling_rate: Hz.
        """
        samples = resample(wav.reshape(1, -1), sampling_rate, _RATE)[0].numpy()
        level = float(np.sqrt(np.mean(np.square(samples))))
        return self._encoder.embed_utterance(samples * (10 ** (-30 / 20) / max(level, 1e-9)))


class Likeness:
    """Cosine to the mean voice of recordings.

    Args:
        ear: what embeds.
        recordings: files of the voice.
        leave_out: the clips are the recordings themselves: each is held against the others.

    Raises:
        ValueError: there are too few recordings.
    """

    def __init__(self, ear: SpeakerEar, recordings: Sequence[Path], leave_out: bool = False) -> None:
        if len(recordings) < 1 + leave_out:
            raise ValueError(
                f"expected at least {1 + leave_out} recordings of the voice, got {len(recordings)}"
            )
        self._ear, self._leave_out = ear, leave_out
        self._known = np.stack([ear.embed(*_mono(path)) for path in recordings])

    def __call__(self, index: int, wav: Tensor, sampling_rate: int) -> float:
        """-1 to 1; two clips of one speaker give about 0.8 to 0.9, of different ones 0.5 to 0.6."""
        if len(wav) * _RATE < _SHORTEST * sampling_rate:
            return float("nan")
        others = np.delete(self._known, index, axis=0) if self._leave_out else self._known
        mean = others.mean(axis=0)
        return float(self._ear.embed(wav, sampling_rate) @ mean / np.linalg.norm(mean))


class PromptLikeness:
    """Cosine of each clip to a recording of its own: the prompt it was to sound like.

    Args:
        ear: what embeds.
        prompts: one a clip.
    """

    def __init__(self, ear: SpeakerEar, prompts: Sequence[Path]) -> None:
        self._ear, self._prompts = ear, list(prompts)

    def __call__(self, index: int, wav: Tensor, sampling_rate: int) -> float:
        """-1 to 1."""
        if len(wav) * _RATE < _SHORTEST * sampling_rate:
            return float("nan")
        return float(self._ear.embed(wav, sampling_rate) @ self._ear.embed(*_mono(self._prompts[index])))


class Cleanness:
    """DNSMOS P.835, overall.

    Raises:
        ModuleNotFoundError: the package ``speechmos`` is missing.
    """

    def __init__(self) -> None:
        try:
            from speechmos import dnsmos  # pyright: ignore[reportMissingImports]
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError(
                f"expected the package 'speechmos' for DNSMOS, {error.name!r} is missing; "
                "pip install 'audiotok[judge]'",
                name=error.name,
            ) from error
        self._run: Callable[[np.ndarray, int], Any] = dnsmos.run

    def __call__(self, index: int, wav: Tensor, sampling_rate: int) -> float:
        """1 (bad) to 5."""
        if len(wav) * _RATE < _SHORTEST * sampling_rate:
            return float("nan")
        samples = resample(wav.reshape(1, -1), sampling_rate, _RATE)[0].clamp(-1, 1).numpy()
        return float(self._run(samples, _RATE)["ovrl_mos"])


def _mono(path: Path) -> tuple[Tensor, int]:
    wav, rate = load_audio(path)
    return wav[0], rate


class _PkgResources:
    """``pkg_resources`` for webrtcvad 2.0.10, which asks it for its own version; setuptools 81 dropped it."""

    def __enter__(self) -> None:
        self._lent = "pkg_resources" not in sys.modules
        if self._lent:
            module: Any = ModuleType("pkg_resources")
            module.get_distribution = importlib.metadata.distribution
            sys.modules["pkg_resources"] = module

    def __exit__(self, *_: object) -> None:
        if self._lent:
            sys.modules.pop("pkg_resources", None)
