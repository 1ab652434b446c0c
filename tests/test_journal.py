"""The folder of a preparation: what others put there stays there."""

from __future__ import annotations

from pathlib import Path

import pytest

from audiotok.corpus.journal import Journal
from audiotok.corpus.shards import Manifest


def plan() -> Manifest:
    return Manifest(
        codes_fingerprint="c0de",
        codec={"name": "c", "n_q": 1, "codebook_size": 2, "hop_length": 1, "sampling_rate": 1},
        source="s",
        options={},
        plan="p",
        source_rows=0,
        rows=0,
        shards=[],
    )


def test_a_folder_with_shards_of_somebody_else_is_refused(tmp_path: Path) -> None:
    precious = tmp_path / "shards" / "00000.parquet"
    precious.parent.mkdir()
    precious.write_text("mine")
    with pytest.raises(
        ValueError, match="expected an empty folder or a preparation, it holds shards/00000.parquet"
    ):
        Journal(tmp_path)
    assert precious.read_text() == "mine"


def test_only_what_bears_our_names_is_cleared_away(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.begin(plan(), 10, alone=True)
    for name in ("precious.tar", "00000.parquet", ".00001.x7.parquet"):
        (tmp_path / "shards" / name).write_text("x")
    Journal(tmp_path).begin(plan(), 10, alone=True)
    assert [path.name for path in (tmp_path / "shards").iterdir()] == ["precious.tar"]
