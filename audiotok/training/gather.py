"""Packed clips from a pack, a folder of audio, a metadata file or a dataset."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..audio import resample
from ..corpus import SourceRow, open_source, read_row
from ..files import write_json
from .packed import PackedClips, write_packed

_SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3"}


def is_pack(path: str | Path) -> bool:
    """Whether ``path`` is a pack of clips."""
    return Path(path).with_suffix(".safetensors").is_file() and Path(path).with_suffix(".jsonl").is_file()


def gather(source: str, stem: Path, sampling_rate: int, hop_length: int, split: str | None) -> PackedClips:
    """Open packed clips, or pack the source first.

    Args:
        source: a pack; a folder of audio with or without metadata; a metadata file; a ``datasets`` name.
        stem: path of the new pack; an existing pack of the same source is reused.
        sampling_rate: Hz of the clips.
        hop_length: samples per frame.
        split: rows to take; None takes all. Rows without a split belong to the split train.

    Raises:
        FileNotFoundError: the source does not exist.
        ValueError: the source holds no readable audio, or an existing pack has another source.
    """
    if is_pack(source):
        return PackedClips(source, hop_length)
    origin = {"source": source, "split": split, "sampling_rate": sampling_rate}
    record = stem.with_suffix(".origin.json")
    if not is_pack(stem):
        write_json(record, origin)
        if not write_packed(stem, _clips(source, sampling_rate, split)):
            of = f" of the split {split}; give --split or --validation" if split else ""
            raise ValueError(f"{source}: expected readable audio{of}, found none")
    elif record.is_file() and _origin(record) != origin:
        raise ValueError(
            f"{stem} was packed from {_origin(record)}, not from {origin}; choose another --out, or remove it"
        )
    return PackedClips(stem, hop_length)


def check_apart(train: PackedClips, validation: PackedClips) -> None:
    """Check that no clip is in both packs.

    Raises:
        ValueError: a clip is in both packs.
    """
    trained = {row["id"]: index for index, row in enumerate(train.rows)}
    # Different clips may have the same name, so the samples are compared too.
    both = [
        row["id"]
        for index, row in enumerate(validation.rows)
        if row["id"] in trained and torch.equal(train.clip(trained[row["id"]]), validation.clip(index))
    ]
    if both:
        raise ValueError(
            f"{len(both)} validation clips are also training clips, {min(both)} among them; choose another --split or "
            "--validation"
        )


def _origin(record: Path) -> dict[str, Any]:
    """The source of a pack; packs of earlier versions also name their alignments."""
    found = json.loads(record.read_text(encoding="utf-8"))
    return {key: value for key, value in found.items() if key != "alignments"}


def _clips(source: str, sampling_rate: int, split: str | None) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    for row in _rows(source, split):
        try:
            wav = resample(*read_row(row), sampling_rate)[0]
        except (ValueError, OSError) as error:
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
        yield SourceRow(str(path.relative_to(folder)), str(path), split="train", index=index)
