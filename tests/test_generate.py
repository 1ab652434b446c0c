"""Outputs of the scripts that make corpora, and no replacement of files without --overwrite."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from test_prepare import RATE, files_of, run_script

from audiotok import PreparedCorpus, load_audio, save_audio

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


@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed (apt-get install flite)")
def test_data_toy(tiny_codec_dir: Path, tmp_path: Path) -> None:
    done = run_script("toy/prepare.py", "--out", tmp_path, "--codec", tiny_codec_dir)
    assert done.returncode == 0, done.stderr
    prepared = PreparedCorpus(tmp_path / "tokens")
    assert len(prepared) == 40 and set(prepared.column("speaker")) == {"flite_slt", "flite_rms"}
    sentences = (Path(__file__).parents[1] / "data/toy/sentences.txt").read_text().splitlines()
    assert set(prepared.column("text")) == set(sentences)


@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed (apt-get install flite)")
def test_generated_corpora_are_seeded_and_skip_the_evaluation_text(tmp_path: Path) -> None:
    (tmp_path / "eval.tsv").write_text("1\tNobody may read this aloud.\n")
    lines = [
        "1\tNobody may read this ALOUD",
        "1\tIt's all that he said, you see.",
        "1\tThe owner is away today.",
    ]
    (tmp_path / "sentences.tsv").write_text("\n".join(lines) + "\n")
    for out, workers in (("a", "1"), ("b", "2")):
        arguments = ["--sentences", tmp_path / "sentences.tsv", "--out", tmp_path / out, "--workers", workers]
        arguments += ["--voices", "slt,kal", "--align", tmp_path / out / "alignments.jsonl", "--seed", "3"]
        done = run_script("generate.py", *arguments)
        assert done.returncode == 0, done.stderr
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    rows = list(csv.DictReader((tmp_path / "a/metadata.csv").read_text(encoding="utf-8").splitlines()))
    assert sorted(row["transcription"] for row in rows) == [line[2:] for line in lines[1:]]
    aligned = list(map(json.loads, (tmp_path / "a/alignments.jsonl").read_text().splitlines()))
    words = [[word for word, *_ in row["words"] if word != "<sil>"] for row in aligned]
    assert sorted(words) == [
        ["it's", "all", "that", "he", "said", "you", "see"],
        "the owner is away today".split(),
    ]
    for row in rows:
        wav, rate = load_audio(tmp_path / "a" / row["file_name"])
        edges = torch.cat([wav[0, : int(0.13 * rate)], wav[0, -int(0.13 * rate) :]])
        assert rate == RATE and edges.square().mean() < 1e-3 * wav.square().mean()


@pytest.mark.skipif(shutil.which("sox") is None, reason="sox is not installed (apt-get install sox)")
def test_varied_copies_keep_their_words_in_time(
    tmp_path: Path, make_speech: Callable[..., torch.Tensor]
) -> None:
    source, out = tmp_path / "speech", tmp_path / "varied"
    source.mkdir()
    for index, split in enumerate(("train", "train", "test")):
        save_audio(source / f"{index}.wav", make_speech(1.0, seed=index), 16_000)
        with (source / "metadata.csv").open("a", encoding="utf-8") as file:
            file.write(
                ("file_name,transcription,split\n" if not index else "") + f"{index}.wav,one two,{split}\n"
            )
    words = [["one", 10, 30, [["W", 10, 10], ["N", 20, 20]]], ["two", 60, 40, [["T", 60, 40]]]]
    entries = [json.dumps({"id": f"{index}.wav", "words": words}) for index in range(3)]
    (tmp_path / "words.jsonl").write_text("\n".join(entries) + "\n")
    arguments = [source, "--out", out, "--workers", "1", "--alignments", tmp_path / "words.jsonl"]
    done = run_script("vary.py", *arguments, "--varied-alignments", tmp_path / "varied.jsonl")
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader((out / "metadata.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["file_name"] for row in rows] == ["0_t.flac", "0_s.flac", "1_t.flac", "1_s.flac"]
    times = {
        row["id"]: row["words"]
        for row in map(json.loads, (tmp_path / "varied.jsonl").read_text().splitlines())
    }
    for row in rows:
        length = load_audio(out / row["file_name"])[0].shape[-1] / 16_000
        assert length != 1.0 and abs(length - 1.0) < 0.1
        end = times[row["file_name"]][-1][1] + times[row["file_name"]][-1][2]
        assert end == pytest.approx(100 * length, abs=1.0)
    again = run_script("vary.py", source, "--out", out)
    assert again.returncode == 1 and "exists already" in again.stderr
