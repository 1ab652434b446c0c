"""Who can speak: names, control tokens, code prompts and where they come from.

Knows nothing of models. The law it keeps: a name means the same ``<voice_k>`` token in training and in
speaking, and a voice is never without the card that says whose it is and that it may be used.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from audiotok import write_aside, write_json

from .folder import read_json

VOICES = {"kathleen": 0, "slt": 1, "bdl": 2, "lj": 3, "flite_slt": 4, "flite_rms": 5, "flite_awb": 6}
DEFAULT_VOICE = "slt"
OTHER_VOICE = 15
MAX_SPEAKERS = 16  # of a corpus without known voices
NOT_STATED = "not stated"
PROMPT_SECONDS = 2.5  # what training has seen most of
_SPEAKERS = {"arctic_slt": "slt", "arctic_bdl": "bdl", "ljspeech": "lj"}
_ARCTIC = (
    "CMU ARCTIC databases, Copyright (c) 2003 Carnegie Mellon University, all rights reserved; "
    "J. Kominek, A. Black, 'The CMU ARCTIC speech databases', SSW5, 2004. Shortened and coded by us."
)
_FLITE = (
    "Generated with CMU Flite, Copyright (c) 1999-2016 Carnegie Mellon University; no recorded person's text."
)
CARDS: dict[str, dict[str, str]] = {
    "kathleen": {
        "description": "a woman, US English, recorded",
        "license": "CC0-1.0",
        "attribution": "Rhasspy / Nabu Casa dataset Kathleen, github.com/rhasspy/dataset-voice-kathleen.",
        "consent": "the speaker recorded them for making voices and gave up all rights",
    },
    "slt": {
        "description": "a woman, US English, recorded",
        "license": "CMU ARCTIC",
        "attribution": _ARCTIC,
        "consent": "recorded for making synthetic voices",
    },
    "bdl": {
        "description": "a man, US English, recorded",
        "license": "CMU ARCTIC",
        "attribution": _ARCTIC,
        "consent": "recorded for making synthetic voices",
    },
    "lj": {
        "description": "a woman, US English, recorded",
        "license": "public domain",
        "attribution": "The LJ Speech Dataset 1.1, Keith Ito and Linda Johnson, 2017.",
        "consent": "the reader gave the recordings to the public domain (LibriVox)",
    },
    "flite_slt": {
        "description": "synthetic, a woman",
        "license": "CMU Flite (BSD-like)",
        "attribution": _FLITE,
        "consent": "a synthetic voice",
    },
    "flite_rms": {
        "description": "synthetic, a man",
        "license": "CMU Flite (BSD-like)",
        "attribution": _FLITE,
        "consent": "a synthetic voice",
    },
    "flite_awb": {
        "description": "synthetic, a man, Scottish",
        "license": "CMU Flite (BSD-like)",
        "attribution": _FLITE,
        "consent": "a synthetic voice",
    },
}


@dataclass(frozen=True)
class Voice:
    """A voice: a control token for the AR half and a code prompt for the NAR half."""

    name: str
    index: int
    """0..15, the control token."""
    codes: Tensor
    """[K, P] int64, at most 5 s."""
    card: dict[str, Any] = field(default_factory=dict)
    """Description, license, attribution, consent, clip."""
    prompt_text: str = ""
    """What the codes say, where the AR half is to go on from them: a speaker whom no control token names."""


def voice_index(speaker: str) -> int:
    """The control token 0..15 of a corpus speaker; speakers without a voice of their own share the last."""
    return VOICES.get(voice_name(speaker), OTHER_VOICE)


def voice_name(speaker: str) -> str:
    """What the voice of a corpus speaker is called: a known voice's name, or the speaker's, fit for a file name."""
    name = re.sub(r"[^a-z0-9]+", "_", speaker.lower()).strip("_") or "speaker"
    return _SPEAKERS.get(name, name)


def save_voices(voices: Iterable[Voice], folder: str | Path) -> None:
    """Write ``NAME.safetensors`` (codes) and ``NAME.json`` (card) of each voice, in place of those that are there."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.glob("*.json"):
        if {"name", "index"} <= set(read_json(path)):
            path.unlink()
            path.with_suffix(".safetensors").unlink(missing_ok=True)
    for voice in voices:
        with write_aside(folder / f"{voice.name}.safetensors") as aside:
            save_file({"codes": voice.codes.contiguous()}, aside)
        facts: dict[str, Any] = {"name": voice.name, "index": voice.index}
        if voice.prompt_text:
            facts["prompt_text"] = voice.prompt_text
        write_json(folder / f"{voice.name}.json", facts | voice.card)


def load_voices(
    folder: str | Path, n_q: int | None = None, codebook_size: int | None = None
) -> dict[str, Voice]:
    """Read all voices of a folder, by token, the first is the default one's.

    Args:
        folder: of :func:`save_voices`.
        n_q: K that the codes must have, if it is known.
        codebook_size: V that they must stay below, if it is known.

    Raises:
        FileNotFoundError: the folder holds no voice, or a card lacks its codes.
        ValueError: a card or its codes are damaged, or of another codec.
    """
    found = [_load_voice(path, n_q, codebook_size) for path in sorted(Path(folder).glob("*.json"))]
    if not found:
        raise FileNotFoundError(f"expected voices (NAME.json, NAME.safetensors) in {folder}, found none")
    found.sort(key=lambda voice: (voice.name != DEFAULT_VOICE, voice.index))
    return {voice.name: voice for voice in found}


def _load_voice(path: Path, n_q: int | None, codebook_size: int | None) -> Voice:
    card = read_json(path)
    name, index = card.pop("name", None), card.pop("index", None)
    if not isinstance(name, str) or not isinstance(index, int) or not 0 <= index <= OTHER_VOICE:
        raise ValueError(
            f"{path}: expected a voice's card with 'name' and 'index' (0 to {OTHER_VOICE}), got {name!r} and "
            f"{index!r}; bundle the model again"
        )
    weights = path.with_suffix(".safetensors")
    if not weights.is_file():
        raise FileNotFoundError(
            f"expected the codes of voice {name} in {weights}, found none; bundle it again"
        )
    try:
        codes = load_file(weights)["codes"].long()
    except (SafetensorError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"{weights}: expected codes of a voice, it is damaged ({reason}); bundle again"
        ) from None
    fits = codes.ndim == 2 and codes.shape[0] == (n_q or codes.shape[0]) and codes.numel() > 0
    if not fits or int(codes.min()) < 0 or int(codes.max()) >= (codebook_size or 1 << 31):
        raise ValueError(
            f"{weights}: expected codes [{n_q or 'K'}, P] from 0 to {(codebook_size or 1 << 31) - 1}, got "
            f"{list(codes.shape)}; they are damaged or of another codec: bundle again"
        )
    return Voice(name, index, codes, card, str(card.pop("prompt_text", "")))


def choose_voices(
    rows: Iterable[dict[str, Any]], frame_rate: float, names: Collection[str] | None = None
) -> list[Voice]:
    """Cut a code prompt for speakers of a prepared corpus.

    Args:
        rows: as ``PreparedCorpus`` gives them; only those of split ``train`` are used.
        frame_rate: in Hz.
        names: of :func:`voice_name`; None takes the known voices that occur, and where there is none every speaker,
            those with the most rows, at most 16.

    Returns:
        A voice for each, by control token: the clip whose length is nearest to ``PROMPT_SECONDS`` from above, cut to
        that length. The card of a speaker who is not known says that licence and consent are not stated.

    Raises:
        ValueError: one of the names has no row, or there is no row at all; the message lists the speakers.
    """
    wanted = int(PROMPT_SECONDS * frame_rate)
    best: dict[str, dict[str, Any]] = {}
    counts: Counter[str] = Counter()
    for row in rows:
        if row["split"] != "train":
            continue
        name = voice_name(row["speaker"])
        counts[name] += 1
        if name not in best or _fitness(row, wanted) < _fitness(best[name], wanted):
            best[name] = row
    common = [name for name, _ in counts.most_common(MAX_SPEAKERS)]
    chosen = list(names) if names is not None else [name for name in best if name in VOICES] or common
    if not chosen or set(chosen) - set(best):
        missing = ", ".join(sorted(set(chosen) - set(best))) or "any"
        raise ValueError(
            f"expected rows of split train by {missing} in the corpora; found the speakers "
            f"{', '.join(common) or 'none'}"
        )
    voices = [_cut_voice(name, best[name], wanted) for name in dict.fromkeys(chosen)]
    return sorted(voices, key=lambda voice: voice.index)


def _cut_voice(name: str, row: dict[str, Any], wanted: int) -> Voice:
    unknown = {"description": f"speaker {row['speaker'] or 'unnamed'} of the corpus"} | dict.fromkeys(
        ("license", "attribution", "consent"), NOT_STATED
    )
    card = CARDS.get(name, unknown) | {"clip": row["id"], "text": row["text"]}
    return Voice(name, VOICES.get(name, OTHER_VOICE), row["codes"][:, :wanted].clone(), card)


def _fitness(row: dict[str, Any], wanted: int) -> tuple[bool, int, str]:
    return row["frames"] < wanted, abs(row["frames"] - wanted), row["id"]
