"""Evaluation of generated speech: word or character error rate by Whisper, DNSMOS, speaker similarity, speed.

Recordings are scored in the same way, unchanged and after the codec, as upper bounds.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from audiotok import bootstrap_interval, load_audio, read_rows, resample

if TYPE_CHECKING:
    from audiotok import AudioCodec

    from .synthesizer import Synthesizer
    from .voices import Voice

Recogniser = Callable[[Tensor, int], str]
"""wav [N] float32 and its sampling rate in Hz -> transcript."""
Metric = Callable[[int, Tensor, int], float]
"""Index of the clip, wav [N] float32 and its sampling rate in Hz -> score, or NaN for a clip that is too short."""
Progress = Callable[[int, int], None] | None
_RATE = 16_000
_SHORTEST = _RATE // 2  # samples that DNSMOS and the speaker encoder need
_PROMPTS = {"zh": "以下是普通话的句子。"}  # makes Whisper write simplified characters with punctuation


@dataclass(frozen=True)
class Rate:
    """A mean or an error rate over all clips with its 95 % bootstrap interval."""

    rate: float
    low: float
    high: float


@dataclass
class Outcome:
    """One row of the report: generated lines or recordings."""

    name: str
    lines: int
    error_rate: Rate | None = None
    """Word error rate, or character error rate for Chinese; None without a recogniser."""
    finish_reasons: dict[str, int] = field(default_factory=dict)
    """Number of lines by finish reason."""
    times_real_time: float | None = None
    """Seconds of speech per second of computing."""
    scores: dict[str, Rate] = field(default_factory=dict)
    """Mean of each metric over the clips that have a score."""
    details: list[dict[str, Any]] = field(default_factory=list)
    """One entry per line."""


def _optional(module: str) -> Any:
    """Import a module of the extra ``eval``."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"{error}; pip install 'audiotok[eval]'", name=error.name) from None


class Whisper:
    """Speech recognition with faster-whisper on one CPU thread.

    Args:
        name_or_path: a folder with a CTranslate2 model, or the name of one to download.
        language: ISO 639-1 code of the speech.

    Raises ValueError if the model cannot be opened.
    """

    def __init__(self, name_or_path: str | Path, language: str = "en") -> None:
        model = _optional("faster_whisper").WhisperModel
        try:
            self._model: Any = model(str(name_or_path), device="cpu", compute_type="int8", cpu_threads=1)
        except (RuntimeError, OSError, ValueError) as error:
            raise ValueError(
                f"cannot open the Whisper model {str(name_or_path)!r} ({error}); give a folder with a CTranslate2 "
                "model, or a name such as base"
            ) from error
        self._language = language

    def __call__(self, wav: Tensor, sampling_rate: int) -> str:
        """wav [N] float32 -> transcript."""
        segments, _ = self._model.transcribe(
            _samples(wav, sampling_rate),
            language=self._language,
            beam_size=5,
            condition_on_previous_text=False,
            initial_prompt=_PROMPTS.get(self._language),
        )
        return " ".join(segment.text.strip() for segment in segments)


@cache
def _english_normalizer() -> Callable[[str], str]:
    return _optional("whisper_normalizer.english").EnglishTextNormalizer()


def comparable_form(text: str, language: str) -> str:
    """Normalise a reference or transcript for comparison.

    English uses the normaliser of Whisper. Chinese becomes simplified characters with numbers written out. Other
    languages lose case and punctuation.
    """
    if language == "en":
        return _english_normalizer()(text)
    if language == "zh":
        text = _optional("zhconv").convert(text, "zh-cn")
        try:
            text = _optional("cn2an").transform(text, "an2cn")
        except (ValueError, KeyError, IndexError):
            pass  # a number that cn2an cannot write out stays as it is, and its digits are dropped
        return re.sub(r"[^\u4e00-\u9fffa-z]", "", text.lower())
    return " ".join(re.findall(r"[^\W_]+", text.lower()))


def read_lines(path: str | Path, limit: int | None = None) -> list[str]:
    """Read sentences from a file in UTF-8, one per line, from the last tab-separated column.

    Raises ValueError if the file has no sentence, or the limit is below 1.
    """
    path = Path(path)
    if limit is not None and limit < 1:
        raise ValueError(f"expected a limit of at least 1, got {limit}")
    lines = [line.split("\t")[-1].strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    lines = [line for line in lines if re.search(r"\w", line)][:limit]
    if not lines:
        raise ValueError(f"{path}: no sentences; write one a line")
    return lines


def read_recordings(data: str | Path, source: str | None = None) -> list[tuple[Path, str]]:
    """Files and transcripts from the ``metadata.csv`` of an audio folder, at least one.

    Only rows of the split ``test`` are read, and only sources that begin with ``source``.
    """
    rows = read_rows(data, "test", source)
    recordings = [(row.path, row.text) for row in rows if re.search(r"\w", row.text)]
    if not recordings:
        raise ValueError(f"{data}: {len(rows)} rows without a transcript; fill the column transcription")
    return recordings


def read_prompted_lines(path: str | Path, limit: int | None = None) -> list[tuple[str, Path, str]]:
    """Read a list of ``name|prompt text|prompt file|text`` (seed-tts-eval); further columns are ignored.

    Returns:
        Text, clip of the voice for it (relative to the list), and transcript of the clip.

    Raises:
        FileNotFoundError: the list or a prompt is missing.
        ValueError: a line has fewer columns, or there is no line.
    """
    path = Path(path)
    out = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        columns = [column.strip() for column in line.split("|")]
        if len(columns) < 4:
            raise ValueError(
                f"{path}, line {number}: expected name|prompt text|prompt file|text, got {len(columns)} columns"
            )
        prompt = path.parent / columns[2]
        if not prompt.is_file():
            raise FileNotFoundError(f"{path}, line {number}: no prompt {prompt}")
        out.append((columns[3], prompt, columns[1]))
    if not out:
        raise ValueError(f"{path}: no lines of name|prompt text|prompt file|text")
    return out[:limit]


def _samples(wav: Tensor, sampling_rate: int) -> np.ndarray:
    """wav [N] -> [M] float32 at 16 kHz."""
    return resample(wav.reshape(1, -1), sampling_rate, _RATE)[0].numpy()


class DNSMOS:
    """DNSMOS P.808 (naturalness) of speechmos (arXiv:2010.15258), from 1 (bad) to 5."""

    def __init__(self) -> None:
        self._run: Callable[[np.ndarray, int], Any] = _optional("speechmos.dnsmos").run

    def __call__(self, index: int, wav: Tensor, sampling_rate: int) -> float:
        """Score of wav [N], scaled to a peak of 0.7."""
        samples = _samples(wav, sampling_rate)
        if len(samples) < _SHORTEST or not samples.any():
            return float("nan")
        return float(self._run(samples / np.abs(samples).max() * 0.7, _RATE)["p808_mos"])


class SpeakerEncoder:
    """Speaker embeddings of Resemblyzer (GE2E, arXiv:1710.10467)."""

    def __init__(self) -> None:
        # webrtcvad 2.0.10 asks pkg_resources for its own version, and setuptools 81 dropped that module.
        lent = "pkg_resources" not in sys.modules
        if lent:
            module: Any = ModuleType("pkg_resources")
            module.get_distribution = importlib.metadata.distribution
            sys.modules["pkg_resources"] = module
        try:
            self._encoder: Any = _optional("resemblyzer").VoiceEncoder("cpu", verbose=False)
        finally:
            if lent:
                sys.modules.pop("pkg_resources", None)

    def __call__(self, wav: Tensor, sampling_rate: int) -> np.ndarray:
        """wav [N] float32 -> unit vector [256]."""
        samples = _samples(wav, sampling_rate)
        level = float(np.sqrt(np.mean(np.square(samples))))
        return self._encoder.embed_utterance(samples * (10 ** (-30 / 20) / max(level, 1e-9)))


class SpeakerSimilarity:
    """Cosine between the embedding of a clip and those of its references, -1 to 1.

    Two clips of one speaker have about 0.8 to 0.9, of different speakers 0.5 to 0.6. Clip i is compared with the mean
    of the references, with reference i (``one_each``), or, if the clips are the references, with the mean of the others
    (``leave_out``). ``encoder`` maps wav [N] and rate to a unit vector.
    """

    def __init__(
        self,
        encoder: Callable[[Tensor, int], np.ndarray],
        references: Sequence[Path],
        one_each: bool = False,
        leave_out: bool = False,
    ) -> None:
        if len(references) < 1 + leave_out:
            raise ValueError(
                f"expected at least {1 + leave_out} recordings of the voice, got {len(references)}"
            )
        self._encoder, self._one_each, self._leave_out = encoder, one_each, leave_out
        self._known = np.stack([encoder(wav[0], rate) for wav, rate in map(load_audio, references)])

    def __call__(self, index: int, wav: Tensor, sampling_rate: int) -> float:
        """Similarity of clip ``index``."""
        if len(wav) * _RATE < _SHORTEST * sampling_rate:
            return float("nan")
        known = self._known[index : index + 1] if self._one_each else self._known
        if self._leave_out:
            known = np.delete(self._known, index, axis=0)
        mean = known.mean(axis=0)
        return float(self._encoder(wav, sampling_rate) @ mean / np.linalg.norm(mean))


def evaluate_lines(
    synthesizer: Synthesizer,
    lines: Sequence[str],
    *,
    name: str = "model",
    voice: str | Callable[[int], Voice] | None = None,
    language: str = "en",
    seed: int = 0,
    recogniser: Recogniser | None = None,
    metrics: Mapping[str, Metric] | None = None,
    progress: Progress = None,
) -> Outcome:
    """Generate speech for lines and score it. A line that cannot be spoken counts as a line with all words missing.

    Args:
        synthesizer: the pipeline.
        lines: sentences.
        name: name of the row.
        voice: a voice for all lines, or a function from the index of a line to its voice; None is the default.
        language: language of the lines.
        seed: seed of the first line; line i uses ``seed + i``.
        recogniser: speech recogniser; None reports no error rate.
        metrics: further scores of each clip, by name.
        progress: called with (lines done, lines).
    """
    facts: list[dict[str, Any]] = []

    def clips() -> Iterator[tuple[Tensor, int]]:
        for index, line in enumerate(lines):
            fact: dict[str, Any] = {"finish_reason": "error", "duration_s": 0.0, "taken_s": 0.0}
            facts.append(fact)
            start = time.perf_counter()
            try:
                speaker = voice(index) if callable(voice) else voice
                speech = synthesizer.say(line, voice=speaker, seed=seed + index)
            except ValueError as error:
                fact["error"] = str(error)
                yield torch.zeros(0), _RATE
                continue
            fact["taken_s"] = time.perf_counter() - start
            fact |= {"finish_reason": str(speech.finish_reason), "duration_s": speech.seconds}
            yield speech.wav, speech.sampling_rate

    outcome = _score(name, lines, clips(), language, recogniser, metrics, progress)
    for detail, fact in zip(outcome.details, facts, strict=True):
        detail.update(fact)
    taken_s = sum(fact["taken_s"] for fact in facts)
    outcome.finish_reasons = dict(Counter(fact["finish_reason"] for fact in facts).most_common())
    outcome.times_real_time = sum(fact["duration_s"] for fact in facts) / taken_s if taken_s else None
    return outcome


def evaluate_recordings(
    recordings: Sequence[tuple[Path, str]],
    codec: AudioCodec | None = None,
    *,
    name: str = "recordings",
    language: str = "en",
    recogniser: Recogniser | None = None,
    metrics: Mapping[str, Metric] | None = None,
    progress: Progress = None,
) -> Outcome:
    """Score recordings, unchanged or after a codec. The other arguments are those of :func:`evaluate_lines`.

    Args:
        recordings: (file, transcript) pairs.
        codec: None leaves the recordings as they are.
    """

    def clips() -> Iterator[tuple[Tensor, int]]:
        for path, _ in recordings:
            if codec is None:
                wav, sampling_rate = load_audio(path)
            else:
                wav, sampling_rate = load_audio(path, codec.config.sampling_rate)
                with torch.inference_mode():
                    wav = codec(wav[None].to(codec.device)).audio_values[0].float().cpu()
            yield wav[0], sampling_rate

    texts = [text for _, text in recordings]
    return _score(name, texts, clips(), language, recogniser, metrics, progress)


def _score(
    name: str,
    texts: Sequence[str],
    clips: Iterable[tuple[Tensor, int]],
    language: str,
    recogniser: Recogniser | None,
    metrics: Mapping[str, Metric] | None,
    progress: Progress,
) -> Outcome:
    details: list[dict[str, Any]] = []
    for index, (text, (wav, rate)) in enumerate(zip(texts, clips, strict=True)):
        detail: dict[str, Any] = {"text": text}
        if recogniser is not None:
            detail |= _errors(text, recogniser(wav, rate) if len(wav) else "", language)
        for what, metric in (metrics or {}).items():
            score = metric(index, wav, rate)
            detail[what] = None if np.isnan(score) else score
        details.append(detail)
        if progress:
            progress(len(details), len(texts))
    outcome = Outcome(name, len(details), details=details)

    def mean_of(table: np.ndarray) -> Rate:
        """Ratio of the sums of the two columns of [lines, 2]."""

        def ratio(rows: np.ndarray) -> np.ndarray:
            return rows[..., 0].sum(-1) / rows[..., 1].sum(-1).clip(1)

        low, high = bootstrap_interval(len(table), lambda picks: ratio(table[picks]))
        return Rate(float(ratio(table)), low, high)

    if recogniser is not None:
        outcome.error_rate = mean_of(np.array([(d["errors"], d["length"]) for d in details]))
    for what in metrics or {}:
        found = [(detail[what], 1) for detail in details if detail[what] is not None]
        if found:
            outcome.scores[what] = mean_of(np.array(found))
    return outcome


def _errors(text: str, transcript: str, language: str) -> dict[str, Any]:
    jiwer = _optional("jiwer")
    reference, hypothesis = comparable_form(text, language), comparable_form(transcript, language)
    if not reference:
        raise ValueError(f"{text!r} has nothing to compare in language {language!r}; check --language")
    count = jiwer.process_characters if language == "zh" else jiwer.process_words
    counted = count(reference, hypothesis)
    return {
        "reference": reference,
        "hypothesis": hypothesis,
        "errors": counted.substitutions + counted.deletions + counted.insertions,
        "length": counted.hits + counted.substitutions + counted.deletions,
    }
