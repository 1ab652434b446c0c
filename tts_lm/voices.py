"""Who can speak: names, control tokens, code prompts and where they come from.

Knows nothing of models. The law it keeps: a name means the same ``<voice_k>`` token in training and in
speaking, and a voice is never without the card that says whose it is and that it may be used.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

VOICES = {"kathleen": 0, "slt": 1, "bdl": 2, "lj": 3, "flite_slt": 4, "flite_rms": 5, "flite_awb": 6}
DEFAULT_VOICE = "slt"
OTHER_VOICE = 15
MAX_PROMPT_SECONDS = 5.0
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
    },
    "slt": {"description": "a woman, US English, recorded", "license": "CMU ARCTIC", "attribution": _ARCTIC},
    "bdl": {"description": "a man, US English, recorded", "license": "CMU ARCTIC", "attribution": _ARCTIC},
    "lj": {
        "description": "a woman, US English, recorded",
        "license": "public domain",
        "attribution": "The LJ Speech Dataset 1.1, Keith Ito and Linda Johnson, 2017.",
    },
    "flite_slt": {
        "description": "synthetic, a woman",
        "license": "CMU Flite (BSD-like)",
        "attribution": _FLITE,
    },
    "flite_rms": {
        "description": "synthetic, a man",
        "license": "CMU Flite (BSD-like)",
        "attribution": _FLITE,
    },
    "flite_awb": {
        "description": "synthetic, a man, Scottish",
        "license": "CMU Flite (BSD-like)",
        "attribution": _FLITE,
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
    """Description, license, attribution, clip."""


def voice_index(speaker: str) -> int:
    """The control token 0..15 of a corpus speaker; speakers without a voice of their own share the last."""
    name = speaker.lower().replace("-", "_")
    return VOICES.get(_SPEAKERS.get(name, name), OTHER_VOICE)


def save_voice(voice: Voice, folder: str | Path) -> None:
    """Write ``NAME.safetensors`` (codes) and ``NAME.json`` (card) into a folder that exists."""
    folder = Path(folder)
    save_file({"codes": voice.codes.contiguous()}, folder / f"{voice.name}.safetensors")
    card = {key: value for key, value in asdict(voice).items() if key not in ("codes", "card")} | voice.card
    (folder / f"{voice.name}.json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")


def load_voices(folder: str | Path) -> dict[str, Voice]:
    """Read all voices of a folder, by token, the first is the default one's.

    Raises:
        FileNotFoundError: the folder holds no voice.
        ValueError: a card lacks its name or token.
    """
    found = []
    for path in sorted(Path(folder).glob("*.json")):
        card = json.loads(path.read_text(encoding="utf-8"))
        if "name" not in card or "index" not in card:
            raise ValueError(f"{path}: expected a voice's card with 'name' and 'index'")
        codes = load_file(path.with_suffix(".safetensors"))["codes"].long()
        rest = {key: value for key, value in card.items() if key not in ("name", "index")}
        found.append(Voice(card["name"], card["index"], codes, rest))
    if not found:
        raise FileNotFoundError(f"expected voices (NAME.json, NAME.safetensors) in {folder}, found none")
    found.sort(key=lambda voice: (voice.name != DEFAULT_VOICE, voice.index))
    return {voice.name: voice for voice in found}


def choose_voices(rows: Iterable[dict[str, Any]], frame_rate: float) -> list[Voice]:
    """Cut a code prompt for every named voice that occurs in rows of a prepared corpus.

    Args:
        rows: as ``PreparedCorpus`` gives them; only those of split ``train`` are used.
        frame_rate: in Hz.

    Returns:
        A voice for each name of ``VOICES`` that occurs: the clip whose length is nearest to
        ``PROMPT_SECONDS`` from above, cut to that length.
    """
    wanted = int(PROMPT_SECONDS * frame_rate)
    best: dict[str, dict[str, Any]] = {}
    names = {index: name for name, index in VOICES.items()}
    for row in rows:
        name = names.get(voice_index(row["speaker"]))
        if name is None or row["split"] != "train":
            continue
        former = best.get(name)
        if former is None or _fitness(row, wanted) < _fitness(former, wanted):
            best[name] = row
    return [
        Voice(
            name,
            VOICES[name],
            row["codes"][:, :wanted].clone(),
            CARDS[name] | {"clip": row["id"], "text": row["text"]},
        )
        for name, row in best.items()
    ]


def _fitness(row: dict[str, Any], wanted: int) -> tuple[bool, int, str]:
    return row["frames"] < wanted, abs(row["frames"] - wanted), row["id"]
