"""Rows of prepared corpora as training clips, and the batches of an epoch.

The text of a clip is built by the same functions as in :mod:`tts_lm.synthesizer`. Phoneme times come from
:mod:`.alignments`.
"""

from __future__ import annotations

import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from audiotok import PreparedCorpus

from ..text import PUNCTUATION, normalise, pronounce_text
from ..voices import OTHER_VOICE, VOICES, voice_index
from .alignments import Word, match_times, read_alignments
from .recipe import DataRecipe

PROMPT_S = (1.0, 8.0)
"""Length of a prompt in training, equal to that of a clip for cloning."""


@dataclass(frozen=True)
class Clip:
    """One training clip: words and codes."""

    id: str
    words: tuple[Word, ...]
    speaker: str
    voice: int  # 0..15, the control token
    codes: np.ndarray  # [K, T] int16

    @property
    def frames(self) -> int:
        """T."""
        return self.codes.shape[1]

    @property
    def aligned(self) -> bool:
        """Whether every word has times."""
        return all(word.times is not None for word in self.words)

    @property
    def positions(self) -> int:
        """Largest number of ids of the clip in the AR sequence."""
        longest = (1 + max(len(word.letters), len(word.text)) + len(word.after) for word in self.words)
        return self.frames + 7 + sum(longest)


class Task(nn.Module, ABC):
    """A model with its batches and its loss, in one module that accelerate can wrap."""

    model: Any

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """:meth:`loss` of the model."""
        return self.loss(self.model, batch)

    @abstractmethod
    def collate(self, clips: Sequence[Clip], rng: np.random.Generator, training: bool) -> dict[str, Tensor]:
        """Build a batch; ``training`` turns on augmentation."""

    @abstractmethod
    def loss(self, model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch and scalars to log, by path."""

    def export(self, model: Any, folder: Path) -> None:
        """Write the model as a ``from_pretrained`` folder."""
        model.save_pretrained(folder)


def read_clips(
    folders: Iterable[str | Path], alignments: Iterable[str | Path] = (), max_seconds: float = 16.0
) -> tuple[list[Clip], list[Clip]]:
    """Read prepared corpora.

    Args:
        folders: prepared corpora of one codec. A file ``alignments.jsonl`` in a folder is read too.
        alignments: more files of :func:`~.alignments.read_alignments`. A row without times is used without them.
        max_seconds: longer rows are left out, because a cut clip has no end.

    Returns:
        Training clips, and held-out clips: the split ``validation``, or one row in 100 where there is none.

    Raises:
        FileNotFoundError: a folder or file is missing.
        ValueError: the folders have different codes, or no row is left.
    """
    folders = [Path(folder) for folder in folders]
    corpora = [PreparedCorpus(folder) for folder in folders]
    prints = {corpus.manifest.codes_fingerprint for corpus in corpora}
    if len(prints) != 1:
        raise ValueError(
            f"expected corpora of one codec, got codes {sorted(prints)}; prepare them with the same codec"
        )
    own = [folder / "alignments.jsonl" for folder in folders]
    times = read_alignments([*map(Path, alignments), *(path for path in own if path.is_file())])
    train: list[Clip] = []
    held_out: list[Clip] = []
    for corpus in corpora:
        codec = corpus.manifest.codec
        frame_rate = codec["sampling_rate"] / codec["hop_length"]
        for row in corpus:
            english = (row["language"] or "en").lower().startswith("en")
            wanted = row["split"] != "test" and english and row["text"]
            if not wanted or row["frames"] > max_seconds * frame_rate:
                continue
            words = read_words(row["text"])
            if words is None:
                continue
            if row["id"] in times:
                found = match_times(times[row["id"]], words, frame_rate)
                words = [replace(word, times=one) for word, one in zip(words, found, strict=True)]
            voice = voice_index(row["speaker"])
            speaker = row["speaker"] or ("" if voice == OTHER_VOICE else str(voice))
            codes = np.asarray(row["codes"], dtype=np.int16)
            clip = Clip(row["id"], tuple(words), speaker, voice, codes)
            (held_out if row["split"] == "validation" else train).append(clip)
    if not held_out:
        spare = [int(hashlib.sha256(clip.id.encode()).hexdigest(), 16) % 100 == 0 for clip in train]
        held_out = [clip for clip, out in zip(train, spare, strict=True) if out]
        train = [clip for clip, out in zip(train, spare, strict=True) if not out]
    if not train:
        raise ValueError(
            f"expected rows with English text and split 'train' in {', '.join(map(str, folders))}, got none"
        )
    return train, held_out


def read_words(text: str) -> list[Word] | None:
    """The words of a transcript; None if nothing of it can be spoken.

    :func:`render` joins them to the string that inference builds for the same text.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            letters = normalise(text)
    except ValueError:
        return None
    written = pronounce_text(letters).split(" ")
    spelled = letters.split(" ")
    if len(spelled) != len(written):
        spelled = written
    words: list[Word] = []
    for text, spelling in zip(written, spelled, strict=True):
        core = text.rstrip(PUNCTUATION)
        if core or not words:
            words.append(Word(core, spelling.rstrip(PUNCTUATION), text[len(core) :]))
        else:  # a mark that stands alone
            words[-1] = replace(words[-1], after=f"{words[-1].after} {text}")
    return words


def join(first: Clip, second: Clip) -> Clip:
    """Prepend the first clip to the second as its prompt, with the control token of cloned voices."""

    def later(word: Word) -> Word:
        return word if word.times is None else replace(word, times=word.times.shifted(first.frames))

    codes = np.concatenate([first.codes, second.codes], axis=1)
    words = first.words + tuple(map(later, second.words))
    return Clip(f"{first.id} + {second.id}", words, second.speaker, OTHER_VOICE, codes)


def render(
    clip: Clip, rng: np.random.Generator, drop_punctuation: float, spell: float
) -> tuple[str, np.ndarray | None]:
    """The text of a clip as model input and, if it is aligned, the index of the character of each frame, [T] int64.

    ``drop_punctuation`` is the probability that punctuation is removed, ``spell`` that a word is written in letters.
    """
    bare = rng.random() < drop_punctuation
    spelt = rng.random(len(clip.words)) < spell
    text, starts, owners = "", [], []
    for word, letters in zip(clip.words, spelt, strict=True):
        text += " " if text else ""
        written = word.letters if letters else word.text
        if word.times is not None and written:
            count = len(word.times.starts)
            starts.extend(word.times.starts)
            owners.extend(len(text) + k * len(written) // count for k in range(count))
        text += written + ("" if bare else word.after)
    if not clip.aligned or not starts:
        return text, None
    middle = np.arange(clip.frames) + 0.5
    spoken = np.maximum(np.searchsorted(np.asarray(starts), middle, side="right") - 1, 0)
    return text, np.asarray(owners, dtype=np.int64)[spoken]


def plan_epoch(
    clips: Sequence[Clip], data: DataRecipe, seed: int, epoch: int, frame_rate: float
) -> list[list[tuple[int, int]]]:
    """Choose the clips and prompts of one epoch and group them into batches.

    The result depends on the arguments only. Epochs count from 0.

    Returns:
        Batches of (clip, prompt), two indices into ``clips``; a prompt of -1 means none. A padded batch has at most
        ``batch_tokens`` ids or a single row.
    """
    rng = np.random.default_rng([seed, epoch])
    names = {index: name for name, index in VOICES.items()}
    chosen: list[int] = []
    for index, clip in enumerate(clips):
        weight = data.weights.get(names.get(clip.voice, ""), data.other_weight)
        chosen += [index] * (int(weight) + int(rng.random() < weight % 1))
    order = np.asarray(chosen, dtype=np.int64)
    rng.shuffle(order)
    prompts = _draw_prompts(clips, order, data, rng, frame_rate)
    sizes = np.asarray([clip.positions for clip in clips])
    lengths = sizes[order] + np.where(prompts >= 0, sizes[prompts], 0)
    # Lengths are varied by a few per cent, so that the neighbours of a row differ from epoch to epoch.
    ranks = np.argsort(lengths * rng.uniform(0.95, 1.05, len(order)), kind="stable")
    batches: list[list[tuple[int, int]]] = []
    longest = 0
    for at in ranks:
        longest = max(longest, int(lengths[at]))
        if not batches or longest * (len(batches[-1]) + 1) > data.batch_tokens:
            batches.append([])
            longest = int(lengths[at])
        batches[-1].append((int(order[at]), int(prompts[at])))
    # Curriculum epochs are sorted from short to long. In a fractional one, only the first part stays sorted.
    kept = int(len(batches) * min(max(data.curriculum_epochs - epoch, 0.0), 1.0))
    rest = batches[kept:]
    rng.shuffle(rest)
    return batches[:kept] + rest


def _draw_prompts(
    clips: Sequence[Clip], order: np.ndarray, data: DataRecipe, rng: np.random.Generator, frame_rate: float
) -> np.ndarray:
    """Draw another clip of the speaker for each row of an epoch; -1 if none is drawn or short enough."""
    prompts = np.full(len(order), -1, dtype=np.int64)
    if not data.prompted:
        return prompts
    shortest, longest = (seconds * frame_rate for seconds in PROMPT_S)
    own: dict[str, list[int]] = {}
    for index in sorted(range(len(clips)), key=lambda index: clips[index].frames):
        if clips[index].speaker and clips[index].frames >= shortest:
            own.setdefault(clips[index].speaker, []).append(index)
    frames = {speaker: [clips[index].frames for index in each] for speaker, each in own.items()}
    for row, index in enumerate(order):
        clip = clips[index]
        if clip.speaker not in own or rng.random() >= data.prompted:
            continue
        most = min(longest, data.max_seconds * frame_rate - clip.frames)
        fits = own[clip.speaker][: int(np.searchsorted(frames[clip.speaker], most, side="right"))]
        others = len(fits) - int(index in fits)
        if others:
            drawn = fits[int(rng.integers(others))]
            prompts[row] = fits[-1] if drawn == index else drawn
    return prompts
