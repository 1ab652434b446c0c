"""Whatever holds speech -> packed clips: a pack, a folder of audio, a metadata file, or a data set."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from ..audio import AudioError, load_audio, resample
from ..corpus.sources import SourceRow, open_source
from ..files import write_json
from .packed import PackedClips, write_packed

_SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3"}


def is_pack(path: str | Path) -> bool:
    """Whether ``path`` names packed clips."""
    return Path(path).with_suffix(".safetensors").is_file() and Path(path).with_suffix(".jsonl").is_file()


def gather(
    source: str, stem: Path, sampling_rate: int, hop_length: int, split: str | None, alignments: Path | None
) -> PackedClips:
    """Open packed clips, or pack the source first.

    Args:
        source: a pack; a folder of audio with or without metadata; a metadata file; a ``datasets`` name.
        stem: where to pack what is no pack yet; a pack of the same source that stands there is used.
        sampling_rate: Hz of the clips.
        hop_length: samples per frame.
        split: rows to take; None takes all. Rows that name no split are of the split train.
        alignments: JSON lines with ``id`` and ``words``, as :mod:`audiotok.training.align` writes them.

    Raises:
        FileNotFoundError: no such source.
        ValueError: the source holds no readable audio, or the pack is of another source.
    """
    if is_pack(source):
        return PackedClips(source, hop_length)
    origin = {
        "source": source,
        "split": split,
        "alignments": str(alignments or ""),
        "sampling_rate": sampling_rate,
    }
    said = stem.with_suffix(".origin.json")
    if not is_pack(stem):
        words = read_alignments(alignments) if alignments else None
        write_json(said, origin)
        if not write_packed(stem, _clips(source, sampling_rate, split), words, hop_length, sampling_rate):
            of = f" of the split {split}; give --split or --validation" if split else ""
            raise ValueError(f"{source}: expected readable audio{of}, found none")
    elif said.is_file() and (packed := json.loads(said.read_text(encoding="utf-8"))) != origin:
        raise ValueError(
            f"{stem} was packed from {packed}, now {origin} is asked for; choose another --out, or remove {stem.parent}"
        )
    return PackedClips(stem, hop_length)


def check_apart(train: PackedClips, validation: PackedClips) -> None:
    """Make sure that no clip is both learnt from and judged by.

    Raises:
        ValueError: one is.
    """
    learnt = {row["id"]: index for index, row in enumerate(train.rows)}
    # Two folders may use the same names: the sound decides.
    both = [
        row["id"]
        for index, row in enumerate(validation.rows)
        if row["id"] in learnt and torch.equal(train.clip(learnt[row["id"]]), validation.clip(index))
    ]
    if both:
        raise ValueError(
            f"expected clips to judge by that are not trained on, got {len(both)} in both, {min(both)} among them; "
            "choose another --split or --validation"
        )


def read_alignments(path: Path) -> dict[str, list[Any]]:
    """Words by clip id; clips that could not be aligned are left out."""
    rows = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    return {row["id"]: row["words"] for row in rows if "words" in row}


def _clips(source: str, sampling_rate: int, split: str | None) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    for row in _rows(source, split):
        try:
            wav = _decode(row, sampling_rate)
        except (AudioError, OSError, soundfile.SoundFileError) as error:
            print(f"left out: {row.id}: {error}", file=sys.stderr)
            continue
        fields = {"id": row.id, "text": row.text, "speaker": row.speaker, "language": row.language}
        yield fields, wav.numpy()


def _rows(source: str, split: str | None) -> Iterator[SourceRow]:
    folder = Path(source)
    plain = folder.is_dir() and not any(folder.glob("metadata.*")) and not any(folder.rglob("*.parquet"))
    if not plain:
        yield from open_source(source, split=split)
        return
    if split not in (None, "train"):
        return
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    for index, path in enumerate(files):
        yield SourceRow(index, str(path.relative_to(folder)), "", "", "", "train", path)


def _decode(row: SourceRow, sampling_rate: int) -> torch.Tensor:
    """[N] float32 of one row."""
    if isinstance(row.audio, Path):
        return load_audio(row.audio, sampling_rate)[0][0]
    if row.audio is None:
        raise AudioError(f"{row.id}: expected audio, got none")
    samples, rate = soundfile.read(io.BytesIO(row.audio), dtype="float32", always_2d=True)
    wav = torch.from_numpy(samples.mean(axis=1))[None]
    return resample(wav, rate, sampling_rate)[0]
