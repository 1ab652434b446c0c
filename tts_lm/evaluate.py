"""How well a recogniser understands what the model says, beside recordings of the same voice.

Knows nothing of how speech is made or recognised: it takes anything that has ``say`` and anything that has
``transcribe``. The law it keeps: every line counts: one that could not be spoken is one whose words are all
missing.
"""

from __future__ import annotations

import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from audiotok import bootstrap_interval, load_audio, read_rows

from .quality import Judge
from .recognise import PocketSphinx, Recogniser, transcriber
from .text import normalise, plain

if TYPE_CHECKING:
    from audiotok import AudioCodec

    from .synthesizer import Synthesizer
    from .voices import Voice

Picks = np.ndarray[Any, Any]
MS_PER_LETTER = (40.0, 110.0)
"""What reading aloud takes; outside of it a voice gabbles, drags or got stuck."""


@dataclass(frozen=True)
class Rate:
    """An error rate over all words (or letters) of a set, with the 95 % bootstrap interval over its lines."""

    rate: float
    low: float
    high: float


@dataclass
class Outcome:
    """One row of the table: the model on some lines, or recordings."""

    name: str
    lines: int
    wer: Rate
    cer: Rate
    finish_reasons: dict[str, int] = field(default_factory=dict)
    ms_per_letter: float | None = None
    ms_per_letter_in_range: float | None = None
    times_real_time: float | None = None
    scores: dict[str, Rate] = field(default_factory=dict)
    """Mean of each judge (tts_lm/quality.py) over the clips that it could judge."""
    details: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The outcome as JSON-plain values."""
        return asdict(self)


def spoken_form(text: str) -> str:
    """The words both sides of a comparison are reduced to: lower case, numbers as words, no punctuation.

    Args:
        text: any text.

    Returns:
        Words with single spaces between them; "" if there is nothing to say.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            return plain(normalise(text))
        except ValueError:
            return ""


def careless_form(text: str) -> str:
    """The same words as a user in a hurry types them: lower case, no punctuation; digits stay digits."""
    words = re.sub(r"[^\w\s']|_", " ", text.lower().replace("’", "'"))
    return " ".join(word.strip("'") for word in words.split() if word.strip("'"))


def read_lines(path: str | Path, limit: int | None = None) -> list[str]:
    """Read sentences, one a line; of several tab-separated columns the last one.

    Args:
        path: a text or TSV file, UTF-8.
        limit: the first so many.

    Raises:
        FileNotFoundError: no such file.
        ValueError: there is no sentence in it, or the limit is below 1.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"expected a file of sentences, but {path} is not there; give a .tsv or .txt file"
        )
    if limit is not None and limit < 1:
        raise ValueError(f"expected a limit of at least 1, got {limit}")
    lines = [line.split("\t")[-1].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if spoken_form(line)][:limit]
    if not lines:
        raise ValueError(f"expected English sentences in {path}, got none; write one a line")
    return lines


def read_recordings(
    data: str | Path, source: str | None = None, split: str | None = "test", limit: int | None = None
) -> list[tuple[Path, str]]:
    """Recordings with transcripts out of an audio folder's ``metadata.csv``.

    Args:
        data: the folder; columns ``file_name``, ``transcription`` and, if there, ``source`` and ``split``.
        source: keep rows whose source begins with this.
        split: keep rows of this split; None keeps all.
        limit: the first so many.

    Returns:
        (file, transcript) pairs, at least one.

    Raises:
        FileNotFoundError: no ``metadata.csv``.
        ValueError: no row is left.
    """
    rows = read_rows(data, split, source)
    recordings = [(row.path, row.text) for row in rows if spoken_form(row.text)]
    if not recordings:
        raise ValueError(
            f"expected rows with a text in {data}, got {len(rows)} without; fill the column transcription"
        )
    return recordings[:limit]


@dataclass(frozen=True)
class PromptedLine:
    """A line of a list in the style of seed-tts-eval: a text, and a clip in whose voice to say it."""

    text: str
    prompt: Path
    prompt_text: str


def read_prompted_lines(path: str | Path, limit: int | None = None) -> list[PromptedLine]:
    """Read a list of ``name|prompt text|prompt file|text`` (and more columns, which are not read).

    Args:
        path: UTF-8; files are sought from its folder.
        limit: the first so many.

    Raises:
        FileNotFoundError: no such list, or a prompt of it is missing.
        ValueError: a line has fewer columns, or there is no line.
    """
    path = Path(path)
    out = []
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").splitlines(), start=1):
        if not line.strip():
            continue
        columns = line.split("|")
        if len(columns) < 4:
            raise ValueError(
                f"{path}, line {number}: expected name|prompt text|prompt file|text, got {len(columns)} columns"
            )
        prompt = path.parent / columns[2].strip()
        if not prompt.is_file():
            raise FileNotFoundError(f"{path}, line {number}: expected the prompt {prompt}, found none")
        out.append(PromptedLine(columns[3].strip(), prompt, columns[1].strip()))
    if not out:
        raise ValueError(f"{path}: expected lines name|prompt text|prompt file|text, the file is empty")
    return out[:limit]


def evaluate_lines(
    synthesizer: Synthesizer,
    lines: Sequence[str],
    *,
    name: str = "model",
    voice: str | Callable[[int], Voice] | None = None,
    seed: int = 0,
    recogniser: Callable[[], Recogniser] = PocketSphinx,
    judges: Mapping[str, Judge] | None = None,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Let the model read the lines, transcribe what it said, and compare.

    Args:
        synthesizer: ``say(text, voice=, seed=)`` gives ``.wav [N]``, ``.sampling_rate``, ``.finish_reason``.
        lines: sentences; each has something to say.
        name: the outcome's name in the table.
        voice: passed on; None is the default voice; a function gives line i its own.
        seed: line i is spoken with seed + i.
        recogniser: makes a recogniser; called once in every worker, so it must be picklable when workers > 0.
        judges: what else scores each clip (tts_lm/quality.py), by name.
        workers: processes that transcribe while this one speaks; 0 does both here, one after the other.
        progress: called with (lines done, lines).
    """
    spoken: list[dict[str, Any]] = []

    def clips() -> Iterator[tuple[Tensor, int]]:
        for index, line in enumerate(lines):
            start = time.perf_counter()
            try:
                whose = voice(index) if callable(voice) else voice
                speech = synthesizer.say(line, voice=whose, seed=seed + index)
            except ValueError as error:
                spoken.append(
                    {"finish_reason": "error", "error": str(error), "duration_s": 0.0, "taken_s": 0.0}
                )
                yield torch.zeros(0), PocketSphinx.SAMPLING_RATE
                continue
            spoken.append(
                {
                    "finish_reason": str(getattr(speech.finish_reason, "value", speech.finish_reason)),
                    "duration_s": speech.wav.shape[-1] / speech.sampling_rate,
                    "taken_s": time.perf_counter() - start,
                }
            )
            yield speech.wav, speech.sampling_rate

    outcome = _compare(name, lines, clips(), recogniser, workers, progress, judges)
    for detail, line, facts in zip(outcome.details, lines, spoken, strict=True):
        letters = len(re.findall("[a-z]", spoken_form(line)))
        detail.update(facts, ms_per_letter=1000 * facts["duration_s"] / letters)
    paces = [detail["ms_per_letter"] for detail in outcome.details if detail["finish_reason"] != "error"]
    taken_s = sum(facts["taken_s"] for facts in spoken)
    outcome.finish_reasons = dict(Counter(facts["finish_reason"] for facts in spoken).most_common())
    outcome.ms_per_letter = float(np.mean(paces)) if paces else None
    low, high = MS_PER_LETTER
    outcome.ms_per_letter_in_range = sum(low <= pace <= high for pace in paces) / len(lines)
    outcome.times_real_time = sum(facts["duration_s"] for facts in spoken) / taken_s if taken_s else None
    return outcome


def evaluate_recordings(
    recordings: Sequence[tuple[Path, str]],
    codec: AudioCodec | None = None,
    *,
    name: str = "recordings",
    recogniser: Callable[[], Recogniser] = PocketSphinx,
    judges: Mapping[str, Judge] | None = None,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Transcribe recordings: as they are, or after a codec (the most that a model over its codes can reach).

    Args:
        recordings: (file, transcript) pairs.
        codec: None for the recordings untouched.
        name: the outcome's name in the table.
        recogniser: as for :func:`evaluate_lines`.
        judges: as for :func:`evaluate_lines`.
        workers: as for :func:`evaluate_lines`.
        progress: called with (clips done, clips).
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

    return _compare(name, [text for _, text in recordings], clips(), recogniser, workers, progress, judges)


def difference(first: Outcome, second: Outcome, seed: int = 0) -> Rate:
    """Word error rate of the first minus the second, with its 95 % bootstrap interval.

    Args:
        first: an outcome.
        second: another one. Over the same texts both are resampled together (paired), else each on its own.
        seed: of the resampling.
    """
    tables = [
        np.array([(d["word_errors"], d["words"]) for d in outcome.details]) for outcome in (first, second)
    ]
    paired = [d["reference"] for d in first.details] == [d["reference"] for d in second.details]

    def gap(*picks: Picks) -> Picks:
        return _pooled(tables[0], picks[0]) - _pooled(tables[1], picks[-1])

    counts = [len(table) for table in tables]
    low, high = bootstrap_interval(counts[:1] if paired else counts, gap, seed)
    return Rate(first.wer.rate - second.wer.rate, low, high)


def _compare(
    name: str,
    texts: Sequence[str],
    clips: Iterable[tuple[Tensor, int]],
    recogniser: Callable[[], Recogniser],
    workers: int,
    progress: Callable[[int, int], None] | None,
    judges: Mapping[str, Judge] | None,
) -> Outcome:
    """Transcribe and judge every clip, and count its errors against its text."""
    try:
        import jiwer
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "expected the package 'jiwer', which is missing; pip install 'audiotok[eval]'", name="jiwer"
        ) from error
    details: list[dict[str, Any]] = []
    judged: list[dict[str, float]] = []

    def heard_by_judges() -> Iterator[tuple[Tensor, int]]:
        for index, (wav, rate) in enumerate(clips):
            judged.append({what: judge(index, wav, rate) for what, judge in (judges or {}).items()})
            yield wav, rate

    with transcriber(recogniser, workers) as transcribe:
        for text, heard in zip(texts, transcribe(heard_by_judges()), strict=True):
            reference, hypothesis = spoken_form(text), spoken_form(heard)
            words, letters = (
                jiwer.process_words(reference, hypothesis),
                jiwer.process_characters(reference, hypothesis),
            )
            details.append(
                {
                    "text": text,
                    "reference": reference,
                    "hypothesis": hypothesis,
                    "word_errors": words.substitutions + words.deletions + words.insertions,
                    "words": words.hits + words.substitutions + words.deletions,
                    "letter_errors": letters.substitutions + letters.deletions + letters.insertions,
                    "letters": letters.hits + letters.substitutions + letters.deletions,
                }
            )
            if progress:
                progress(len(details), len(texts))
    wer, cer = (_rate([(d[f"{unit}_errors"], d[f"{unit}s"]) for d in details]) for unit in ("word", "letter"))
    scores = {}
    for what in judges or {}:
        found = np.array([row[what] for row in judged])
        for detail, score in zip(details, found.tolist(), strict=True):
            detail[what] = None if np.isnan(score) else score
        found = found[~np.isnan(found)]
        if len(found):
            low, high = bootstrap_interval([len(found)], lambda picks, found=found: found[picks].mean(axis=1))
            scores[what] = Rate(float(found.mean()), low, high)
    return Outcome(name, len(details), wer, cer, scores=scores, details=details)


def _rate(counts: Sequence[tuple[int, int]], seed: int = 0) -> Rate:
    """Errors over units of all lines together, and the interval from resampling lines."""
    table = np.array(counts)
    low, high = bootstrap_interval([len(table)], lambda picks: _pooled(table, picks), seed)
    return Rate(float(table[:, 0].sum() / table[:, 1].sum()), low, high)


def _pooled(table: Picks, picks: Picks) -> Picks:
    """Errors over units of each resample: table [lines, 2], picks [R, lines] -> [R]."""
    sums = table[picks].sum(axis=1)
    return sums[:, 0] / sums[:, 1]
