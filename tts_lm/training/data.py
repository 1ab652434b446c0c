"""Rows of prepared corpora as clips a language model can learn from.

Knows nothing of models or batches. The law it keeps: a clip is never cut, and the text a model reads in
training is built by the same functions that build it when speaking.
"""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path

import numpy as np

from audiotok import PreparedCorpus

from ..text import PUNCTUATION, SOUNDS, normalise, pronounce, write_sounds
from ..voices import OTHER_VOICE, voice_index


@dataclass(frozen=True)
class Word:
    """One word of a clip."""

    letters: str
    """Lower case."""
    sounds: str | None
    """One character a sound, None when unknown."""
    after: str
    """Punctuation behind it, often empty."""
    starts: np.ndarray | None
    """Start of every sound in frames, [len(sounds)] float32; None when the clip was not aligned."""
    ends: np.ndarray | None
    """End of every sound in frames, as ``starts``; a pause may follow the last."""


@dataclass(frozen=True)
class Clip:
    """One row: words and codes."""

    id: str
    words: tuple[Word, ...]
    speaker: str
    voice: int
    """0..15, the control token."""
    codes: np.ndarray
    """[K, T] int16."""

    @property
    def frames(self) -> int:
        """T."""
        return self.codes.shape[1]

    @property
    def aligned(self) -> bool:
        """Whether every sound has a time."""
        return all(word.starts is not None for word in self.words)


def read_clips(
    folders: Iterable[str | Path], alignments: Iterable[str | Path] = (), max_seconds: float = 16.0
) -> tuple[list[Clip], list[Clip]]:
    """Read prepared corpora.

    Args:
        folders: prepared corpora; all must come from one codec. A file ``alignments.jsonl`` in one is read
            too.
        alignments: more files with lines ``{"id", "words": [[word, start, length, [[PHONE, start,
            length]…]]…]}``, times in 10 ms; a row without one is learnt from without knowing where its words
            are.
        max_seconds: longer rows are left out.

    Returns:
        Training clips and held-out clips (split ``validation``; where there is none, one row in 100).

    Raises:
        FileNotFoundError: a folder or file is missing.
        ValueError: two folders carry different codes, or nothing is left to learn from.
    """
    folders = [Path(folder) for folder in folders]
    corpora = [PreparedCorpus(folder) for folder in folders]
    prints = {corpus.manifest.codes_fingerprint for corpus in corpora}
    if len(prints) != 1:
        raise ValueError(
            f"expected corpora of one codec, got codes {sorted(prints)}; prepare them with the same codec"
        )
    times: dict[str, list] = {}
    for path in [
        *map(Path, alignments),
        *(f / "alignments.jsonl" for f in folders if (f / "alignments.jsonl").is_file()),
    ]:
        times.update(_read_alignments(path))
    train, held_out, spare = [], [], []
    for corpus in corpora:
        codec = corpus.manifest.codec
        frame_rate = codec["sampling_rate"] / codec["hop_length"]
        for row in corpus:
            english = (row["language"] or "en").lower().startswith("en")
            if (
                row["split"] == "test"
                or not english
                or not row["text"]
                or row["frames"] > max_seconds * frame_rate
            ):
                continue
            clip = _clip(row, times.get(row["id"]), frame_rate)
            if clip is None:
                continue
            (held_out if row["split"] == "validation" else train).append(clip)
            if (
                row["split"] != "validation"
                and int(hashlib.sha256(clip.id.encode()).hexdigest(), 16) % 100 == 0
            ):
                spare.append(clip)
    if not held_out:
        chosen = {clip.id for clip in spare}
        held_out, train = spare, [clip for clip in train if clip.id not in chosen]
    if not train:
        raise ValueError(
            f"expected rows with English text and split 'train' in {', '.join(map(str, folders))}, got none"
        )
    return train, held_out


def join_clips(clips: Sequence[Clip], share: float, max_frames: int, seed: int) -> list[Clip]:
    """Two clips of one speaker as one, so that a model learns to go on in a voice over the end of a sentence: what
    cloning and long readings ask of it.

    Args:
        clips: to choose from.
        share: joined clips made, per clip.
        max_frames: longest joined clip, T.
        seed: of the choice.

    Returns:
        The joined clips alone; fewer than asked where speakers have few short clips.
    """
    rng = np.random.default_rng([seed, len(clips)])
    by_speaker: dict[str, list[Clip]] = {}
    for clip in clips:
        if clip.speaker and clip.words and clip.words[-1].after:  # else nothing says where the sentence ends
            by_speaker.setdefault(clip.speaker, []).append(clip)
    joined = []
    for speaker in sorted(by_speaker):
        own = sorted(by_speaker[speaker], key=lambda clip: (clip.frames, clip.id))
        lengths = np.asarray([clip.frames for clip in own])
        for index in rng.permutation(len(own)):
            fits = int(np.searchsorted(lengths, max_frames - lengths[index], side="right"))
            if fits and rng.random() < share:
                joined.append(_join(own[index], own[int(rng.integers(fits))]))
    return joined


def _join(first: Clip, second: Clip) -> Clip:
    def later(times: np.ndarray | None) -> np.ndarray | None:
        return None if times is None else times + np.float32(first.frames)

    moved = tuple(replace(word, starts=later(word.starts), ends=later(word.ends)) for word in second.words)
    codes = np.concatenate([first.codes, second.codes], axis=1)
    return Clip(f"{first.id} + {second.id}", first.words + moved, first.speaker, first.voice, codes)


def render(
    clip: Clip, rng: np.random.Generator, drop_punctuation: float, spell: float
) -> tuple[str, np.ndarray | None]:
    """Write a clip's text as the model reads it, varied.

    Args:
        clip: the clip.
        rng: decides about punctuation and spelling.
        drop_punctuation: chance that all of it goes.
        spell: chance of each known word to be written in letters.

    Returns:
        The text and, for an aligned clip, for each of T frames the index of the character being spoken, [T]
        int64.
    """
    bare = rng.random() < drop_punctuation
    spelt = rng.random(len(clip.words)) < spell
    out: list[str] = []
    starts: list[float] = []
    owners: list[int] = []
    at = 0
    for word, letters in zip(clip.words, spelt, strict=True):
        if out:
            out.append(" ")
            at += 1
        use_letters = word.sounds is None or bool(letters)
        written = word.letters if use_letters else word.sounds or ""
        if word.starts is not None:
            count = len(word.starts)
            starts.extend(word.starts)
            owners.extend(at + k * len(written) // count for k in range(count))
        tail = "" if bare else word.after
        out.append(written + tail)
        at += len(written) + len(tail)
    text = "".join(out)
    if not clip.aligned:
        return text, None
    middle = np.arange(clip.frames) + 0.5
    spoken = np.maximum(np.searchsorted(np.asarray(starts), middle, side="right") - 1, 0)
    return text, np.asarray(owners, dtype=np.int64)[spoken]


def _read_alignments(path: Path) -> dict[str, list]:
    if not path.is_file():
        raise FileNotFoundError(f"no alignments at {path}; leave the option out to learn without")
    with path.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    return {row["id"]: row["words"] for row in rows if row.get("words")}


def _clip(row: dict, times: list | None, frame_rate: float) -> Clip | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            text = normalise(row["text"])
    except ValueError:
        return None
    found = re.findall(rf"([a-z']+)((?:[{re.escape(PUNCTUATION)}](?![a-z])|\s-\s)*)(-?)", text)
    letters = [word for word, _, _ in found]
    after = ["".join(c for c in tail if c in PUNCTUATION) for _, tail, _ in found]
    voice = voice_index(row["speaker"])
    sounds = (
        _align(letters, times, frame_rate) if times else [(pronounce(word), None, None) for word in letters]
    )
    words = tuple(Word(w, s, a, t, e) for w, a, (s, t, e) in zip(letters, after, sounds, strict=True))
    speaker = row["speaker"] or ("" if voice == OTHER_VOICE else str(voice))
    return Clip(row["id"], words, speaker, voice, np.asarray(row["codes"], dtype=np.int16))


def _align(
    letters: list[str], times: list, frame_rate: float
) -> list[tuple[str | None, np.ndarray | None, np.ndarray | None]]:
    """Give the words of the normalised text the sounds, starts and ends of the aligner's words."""
    scale = frame_rate / 100.0
    heard = [re.sub(r"\(\d+\)$", "", entry[0]) for entry in times]
    out: list[tuple[str | None, np.ndarray | None, np.ndarray | None]] = [
        (pronounce(word), None, None) for word in letters
    ]
    for tag, a0, a1, b0, b1 in SequenceMatcher(None, letters, heard, autojunk=False).get_opcodes():
        phones = [[p for p in entry[3] if p[0] in SOUNDS] for entry in times[b0:b1]]
        if tag == "equal":
            pairs = zip(range(a0, a1), phones, strict=True)
        elif (
            tag == "replace"
        ):  # "mr" was aligned, "mister" is read: spread what was heard over what is written
            pairs = zip(range(a0, a1), _share(sum(phones, []), a1 - a0), strict=True)
        else:
            continue
        for index, chunk in pairs:
            if chunk:
                begins = np.asarray([phone[1] * scale for phone in chunk], dtype=np.float32)
                ends = np.asarray([(phone[1] + phone[2]) * scale for phone in chunk], dtype=np.float32)
                sound = write_sounds(phone[0] for phone in chunk) if tag == "equal" else out[index][0]
                out[index] = (sound, begins, ends)
    return out


def _share(phones: list, parts: int) -> list[list]:
    edges = [len(phones) * k // parts for k in range(parts + 1)]
    return [phones[low:high] for low, high in zip(edges, edges[1:], strict=False)]
