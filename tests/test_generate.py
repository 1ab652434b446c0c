"""data/generate.py replaces nothing unasked; test_prepare.py has what it makes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "data" / "generate.py"


def generate(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("there", "words", "said"),
    [
        ("out/notes.txt", ["--out", "out"], "out: exists already and is not empty; pass --overwrite"),
        ("out", ["--out", "out"], "out: expected a folder, got a file; choose another --out"),
        (
            "words.jsonl",
            ["--out", "out", "--align", "words.jsonl"],
            "words.jsonl: exists already; pass --overwrite",
        ),
    ],
)
def test_nothing_is_replaced_unasked(tmp_path, monkeypatch, there, words, said):
    monkeypatch.chdir(tmp_path)
    Path(there).parent.mkdir(exist_ok=True)
    Path(there).write_text("precious")
    done = generate(*words)
    assert (done.returncode, done.stdout) == (1, "") and done.stderr.startswith(f"generate.py: error: {said}")
    assert [path for path in sorted(tmp_path.rglob("*")) if path.is_file()] == [tmp_path / there]
    assert Path(there).read_text() == "precious"


@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed (apt-get install flite)")
def test_asked_to_it_replaces(tmp_path):
    (tmp_path / "lines.txt").write_text("The owner is away today.\n")
    command = ["--sentences", tmp_path / "lines.txt", "--out", tmp_path / "out", "--workers", "1"]
    assert generate(*command).returncode == 0
    before = (tmp_path / "out/metadata.csv").read_bytes()
    (tmp_path / "out/metadata.csv").write_text("changed")
    assert generate(*command).returncode == 1 and (tmp_path / "out/metadata.csv").read_text() == "changed"
    assert generate(*command, "--overwrite").returncode == 0
    assert (tmp_path / "out/metadata.csv").read_bytes() == before
