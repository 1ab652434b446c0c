"""Preparation keeps two laws, whatever happens.

Accounting: every row is in a shard or dropped with a reason. Binding: codes of another codec are refused.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile
import torch

from audiotok import AudioCodec, PreparedCorpus, load_audio, prepare, save_audio
from audiotok.cli.main import main
from audiotok.corpus import open_source, report
from audiotok.corpus.checks import REASONS, Limits
from audiotok.corpus.shards import unpack_codes

RATE = 16_000
# Scripts must find this checkout's audiotok, whatever is installed.
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
LENGTHS_S = (0.31, 1.2, 0.5, 0.9, 0.305, 0.7, 1.1)


def write_folder(folder: Path, rows: list[tuple[str, str]], header: str = "file_name,transcription") -> Path:
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        file.write(f"{header},speaker_id,split\n")
        table = csv.writer(file)
        for index, row in enumerate(rows):
            table.writerow((*row, f"s{index % 2}", "train" if index % 3 else "test"))
    return folder


@pytest.fixture
def corpus(tmp_path: Path, make_speech: Callable[..., torch.Tensor]) -> Path:
    """Seven good clips of several lengths."""
    folder = tmp_path / "speech"
    folder.mkdir()
    rows = []
    for index, seconds in enumerate(LENGTHS_S):
        soundfile.write(folder / f"{index}.flac", make_speech(seconds, seed=index)[0].numpy(), RATE)
        rows.append((f"{index}.flac", f"Sentence number {index}."))
    return write_folder(folder, rows)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def dropped_of(folder: Path) -> dict[str, str]:
    lines = (folder / "dropped.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["id"]: row["reason"] for row in map(json.loads, lines)}


def test_every_row_is_there_with_its_fields(corpus: Path, tiny_codec: AudioCodec, tmp_path: Path) -> None:
    manifest = prepare(corpus, tmp_path / "out", tiny_codec, rows_per_shard=3)
    prepared = PreparedCorpus(tmp_path / "out")
    assert manifest.rows == len(prepared) == len(LENGTHS_S)
    assert [shard["rows"] for shard in manifest.shards] == [3, 3, 1]
    assert prepared.column("id") == [f"{index}.flac" for index in range(len(LENGTHS_S))]
    assert manifest.hours == pytest.approx(sum(LENGTHS_S) / 3600)
    row = prepared.row(4)
    assert (row["text"], row["speaker"], row["split"]) == ("Sentence number 4.", "s0", "train")
    assert row["codes"].shape == (4, row["frames"]) == (4, -(-round(0.305 * RATE) // 320))
    assert report(tmp_path / "out")["splits"].keys() == {"test", "train"}


def test_codes_are_those_of_the_clip_alone(corpus: Path, tiny_codec: AudioCodec, tmp_path: Path) -> None:
    prepare(corpus, tmp_path / "out", tiny_codec, batch_s=3.0)
    for row in PreparedCorpus(tmp_path / "out"):
        wav, _ = load_audio(corpus / row["id"], RATE)
        assert torch.equal(row["codes"], tiny_codec.encode(wav[None]).audio_codes[0])


def test_fewer_codebooks_are_the_first_ones(corpus: Path, tiny_codec: AudioCodec, tmp_path: Path) -> None:
    prepare(corpus, tmp_path / "all", tiny_codec)
    manifest = prepare(corpus, tmp_path / "two", tiny_codec, n_q=2)
    assert manifest.codec["n_q"] == 2
    for whole, part in zip(PreparedCorpus(tmp_path / "all"), PreparedCorpus(tmp_path / "two"), strict=True):
        assert torch.equal(whole["codes"][:2], part["codes"])
    with pytest.raises(ValueError, match="n_q from 1 to 4, got 5"):
        prepare(corpus, tmp_path / "five", tiny_codec, n_q=5)


def test_other_rates_and_channels(
    tiny_codec: AudioCodec, tmp_path: Path, make_speech: Callable[..., torch.Tensor]
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    sound = make_speech(0.8, 44_100)[0].numpy()
    soundfile.write(source / "a.wav", np.stack([sound, 0.5 * sound], axis=1), 44_100)
    soundfile.write(
        source / "b.ogg", make_speech(0.8, 48_000)[0].numpy(), 48_000, format="OGG", subtype="OPUS"
    )
    write_folder(source, [("a.wav", "A."), ("b.ogg", "B.")])
    prepare(source, out, tiny_codec)
    assert [row["frames"] for row in PreparedCorpus(out)] == [40, 40]
    wav, _ = load_audio(source / "a.wav", RATE)
    alone = tiny_codec.encode(wav[None]).audio_codes[0]
    assert torch.equal(PreparedCorpus(out).row(0)["codes"], alone)


def break_things(folder: Path, sound: np.ndarray) -> dict[str, str]:
    """Write files that are no clips; the reason that each must get."""
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("This is no sound at all. " * 50)
    (folder / "folder.wav").mkdir()
    for name, value in (("nan.wav", np.nan), ("inf.wav", -np.inf)):
        holes = sound.copy()
        holes[1000] = value
        soundfile.write(folder / name, holes, RATE, subtype="FLOAT")
    soundfile.write(folder / "loud.wav", sound * 30_000, RATE, subtype="FLOAT")
    soundfile.write(folder / "zero.wav", sound[:0], RATE)
    soundfile.write(folder / "one.wav", sound[:1], RATE)
    soundfile.write(folder / "silent.flac", np.zeros(RATE), RATE)
    soundfile.write(folder / "long.flac", np.zeros(31 * RATE), RATE)
    soundfile.write(folder / "cut.flac", sound, RATE)
    (folder / "cut.flac").write_bytes((folder / "cut.flac").read_bytes()[:6000])
    soundfile.write(folder / "mute.flac", sound, RATE)
    soundfile.write(folder.parent / "outside.flac", sound, RATE)
    reasons = {"empty.wav": "unreadable", "text.wav": "unreadable", "cut.flac": "unreadable"}
    reasons |= {"folder.wav": "missing_file", "absent.wav": "missing_file"}
    reasons |= {"nan.wav": "not_finite", "inf.wav": "not_finite", "loud.wav": "bad_scale"}
    reasons |= {"zero.wav": "too_short", "one.wav": "too_short", "long.flac": "too_long"}
    reasons |= {"silent.flac": "silent", "mute.flac": "no_text"}
    outside = ("../outside.flac", "x/../../outside.flac", str(folder.parent / "outside.flac"))
    return reasons | dict.fromkeys(outside, "outside_folder")


def test_broken_rows_are_dropped_with_the_right_reason(
    corpus: Path, tiny_codec: AudioCodec, tmp_path: Path, make_speech: Callable[..., torch.Tensor]
) -> None:
    reasons = break_things(corpus, make_speech(1.0)[0].numpy())
    good = [(f"{index}.flac", "Good.") for index in range(len(LENGTHS_S))]
    bad = [(name, "" if name == "mute.flac" else "Bad.") for name in reasons]
    mixed = [row for pair in zip(bad, good * 3, strict=False) for row in pair]
    write_folder(corpus, [*mixed, ("", "A row without a file.")])
    manifest = prepare(corpus, tmp_path / "out", tiny_codec, rows_per_shard=4)
    dropped = dropped_of(tmp_path / "out")
    assert dropped.pop(f"{len(mixed):08d}") == "missing_file"
    assert {name: dropped.get(name) for name in reasons} == reasons
    # The good clips stand there more than once: all but the first are duplicates.
    assert set(dropped) - set(reasons) == {f"{index}.flac" for index in range(len(LENGTHS_S))}
    assert manifest.dropped["duplicate"] == len(mixed) - len(bad) - len(LENGTHS_S)
    assert manifest.rows == len(LENGTHS_S)
    assert manifest.rows + sum(manifest.dropped.values()) == manifest.source_rows == len(mixed) + 1
    assert set(manifest.dropped) <= set(REASONS)
    rows = [json.loads(line)["row"] for line in (tmp_path / "out/dropped.jsonl").read_text().splitlines()]
    assert rows == sorted(rows)


def test_jsonl_and_lj_layouts(
    tiny_codec: AudioCodec, tmp_path: Path, make_speech: Callable[..., torch.Tensor]
) -> None:
    (tmp_path / "wavs").mkdir()
    for name in ("LJ001-0001", "LJ001-0002"):
        soundfile.write(tmp_path / "wavs" / f"{name}.wav", make_speech(0.5)[0].numpy(), RATE)
    (tmp_path / "metadata.csv").write_text(
        'LJ001-0001|"Dr. X|"Doctor X\nLJ001-0002|Two.|\n', encoding="utf-8"
    )
    rows = list(open_source(tmp_path))
    assert [(row.id, row.text) for row in rows] == [("LJ001-0001", '"Doctor X'), ("LJ001-0002", "Two.")]
    lines = [{"file_name": "wavs/LJ001-0001.wav", "sentence": "One.", "id": 7}, {"file_name": "a\0b.flac"}]
    (tmp_path / "metadata.csv").unlink()
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    first, second = open_source(tmp_path)
    assert (first.id, first.text, first.problem) == ("7", "One.", None)
    assert second.problem is not None and second.problem[0] == "outside_folder"
    out = tmp_path.with_name(f"{tmp_path.name}-tokens")
    prepare(tmp_path, out, tiny_codec)
    assert PreparedCorpus(out).column("text") == ["One."]


def test_datasets_as_source_and_as_reader(
    corpus: Path,
    tiny_codec: AudioCodec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_network: list[object],
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    audio = [{"bytes": path.read_bytes(), "path": "x.flac"} for path in sorted(corpus.glob("*.flac"))]
    table = datasets.Dataset.from_dict(
        {"audio": audio, "sentence": [f"Text {i}." for i in range(len(audio))]}
    )
    (tmp_path / "hub").mkdir()
    table.to_parquet(tmp_path / "hub/train.parquet")
    prepare(corpus, tmp_path / "plain", tiny_codec)
    prepare(tmp_path / "hub", tmp_path / "parquet", tiny_codec)
    table.save_to_disk(tmp_path / "saved")
    prepare(tmp_path / "saved", tmp_path / "disk", tiny_codec)
    for name in ("parquet", "disk"):
        prepared = PreparedCorpus(tmp_path / name)
        assert prepared.column("id")[0] == "train/00000000" and prepared.column("text")[2] == "Text 2."
        for row, other in zip(prepared, PreparedCorpus(tmp_path / "plain"), strict=True):
            assert torch.equal(row["codes"], other["codes"])
    assert no_network == []
    back = PreparedCorpus(tmp_path / "parquet").dataset()
    assert isinstance(back, datasets.Dataset)
    assert torch.equal(
        unpack_codes(back[3]["codes"], back[3]["n_q"]), PreparedCorpus(tmp_path / "parquet").row(3)["codes"]
    )


def test_splits(corpus: Path, tiny_codec: AudioCodec, tmp_path: Path) -> None:
    prepare(corpus, tmp_path / "out", tiny_codec)
    test = PreparedCorpus(tmp_path / "out", split="test")
    assert test.column("id") == ["0.flac", "3.flac", "6.flac"] and test.row(-1)["id"] == "6.flac"
    assert prepare(corpus, tmp_path / "part", tiny_codec, split="test").source_rows == 3
    with pytest.raises(ValueError, match="split dev, it has test, train"):
        open_source(corpus, split="dev")
    with pytest.raises(ValueError, match="'dev', it has test, train"):
        PreparedCorpus(tmp_path / "out", split="dev")


_KILLED = """
import os, signal, sys
from audiotok import load_codec, prepare
def watch(progress):
    if progress.stage == "encode" and progress.rows >= int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
prepare(sys.argv[1], sys.argv[2], load_codec(sys.argv[3]), rows_per_shard=2, batch_s=0.5, progress=watch)
"""


def test_killed_and_resumed(corpus: Path, tiny_codec_dir: Path, tmp_path: Path) -> None:
    from audiotok import load_codec

    (corpus / "0.flac").write_bytes(b"broken")
    soundfile.write(corpus / "1.flac", np.zeros(RATE), RATE)
    out = tmp_path / "killed"
    command = [sys.executable, "-c", _KILLED, str(corpus), str(out), str(tiny_codec_dir), "5"]
    killed = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (out / "manifest.json").exists()
    (out / "shards/.00002.x.parquet").write_bytes(b"what a kill in the middle of a write leaves")
    finished = {path: path.stat().st_mtime_ns for path in out.glob("shards/0*.parquet")}
    assert finished
    codec = load_codec(tiny_codec_dir)
    options = {"rows_per_shard": 2, "batch_s": 0.5}
    prepare(corpus, out, codec, **options)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    prepare(corpus, tmp_path / "whole", codec, **options)
    assert files_of(out) == files_of(tmp_path / "whole")


def run_script(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a script of ``data/`` as people do."""
    root = Path(__file__).parents[1]
    command = [sys.executable, root / "data" / name, *arguments]
    return subprocess.run(command, cwd=root, env=ENVIRONMENT, capture_output=True, text=True)


def test_data_folder(corpus: Path, tiny_codec_dir: Path, tmp_path: Path) -> None:
    (corpus / "anna").mkdir()
    (corpus / "0.flac").rename(corpus / "anna/0.flac")
    (corpus / "anna/0.txt").write_text("First.\n", encoding="utf-8")
    (corpus / "1.txt").write_text("Second.", encoding="utf-8")
    arguments = (corpus, "--out", tmp_path / "out", "--codec", tiny_codec_dir, "--language", "en")
    done = run_script("folder/prepare.py", *arguments)
    assert done.returncode == 0, done.stderr
    prepared = PreparedCorpus(tmp_path / "out")
    assert prepared.column("id") == ["1.flac", "anna/0.flac"]
    assert prepared.column("text") == ["Second.", "First."]
    assert prepared.column("speaker") == ["speech", "anna"]
    assert prepared.manifest.dropped == {"no_text": len(LENGTHS_S) - 2}


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


def test_a_damaged_shard_is_made_again(corpus: Path, tiny_codec: AudioCodec, tmp_path: Path) -> None:
    soundfile.write(corpus / "2.flac", np.zeros(RATE), RATE)
    out = tmp_path / "out"
    prepare(corpus, out, tiny_codec, rows_per_shard=2)
    (out / "alignments.jsonl").write_text("{}\n")  # what others keep beside a preparation stays
    whole = files_of(out)
    shard = out / "shards/00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-9] + b"\0" * 9)
    with pytest.raises(ValueError, match="not a Parquet file"):
        PreparedCorpus(out)
    prepare(corpus, out, tiny_codec, rows_per_shard=2)
    assert files_of(out) == whole
    (out / "shards/00000.parquet").unlink()
    with pytest.raises(FileNotFoundError, match="shard is missing"):
        PreparedCorpus(out)


def test_other_preparations_are_refused(corpus: Path, tiny_codec: AudioCodec, tmp_path: Path) -> None:
    prepare(corpus, tmp_path / "out", tiny_codec)
    before = files_of(tmp_path / "out")
    other: dict[str, Any] = {"limits": Limits(min_s=0.4), "columns": {"text": "file_name"}, "n_q": 2}
    with pytest.raises(ValueError, match="another source, codec or options") as refused:
        prepare(corpus, tmp_path / "out", tiny_codec, **other)
    for said in (
        "min_s was 0.1, is 0.4 now",
        'columns was not given, is {"text": "file_name"} now',
        "codec n_q was 4, is 2 now",
    ):
        assert said in str(refused.value)
    assert "max_s" not in str(refused.value) and files_of(tmp_path / "out") == before
    with (corpus / "metadata.csv").open("a") as table:
        table.write("0.flac,Once more.,s0,train\n")
    with pytest.raises(ValueError, match="the source lists other rows or sizes of files"):
        prepare(corpus, tmp_path / "out", tiny_codec)
    with pytest.raises(ValueError, match="choose another"):
        prepare(corpus, corpus, tiny_codec)


def test_a_licence_can_be_stated_afterwards(corpus: Path, tiny_codec: AudioCodec, tmp_path: Path) -> None:
    for stated, expected in (("", ""), ("CC0 1.0", "CC0 1.0"), ("", "CC0 1.0")):
        manifest = prepare(corpus, tmp_path / "late", tiny_codec, licence=stated)
        assert manifest.licence == report(tmp_path / "late")["licence"] == expected
    prepare(corpus, tmp_path / "first", tiny_codec, licence="CC0 1.0")
    assert files_of(tmp_path / "late") == files_of(tmp_path / "first")


def test_another_codec_is_refused(corpus: Path, tiny_codec: AudioCodec, tmp_path: Path) -> None:
    prepare(corpus, tmp_path / "out", tiny_codec)
    prepared = PreparedCorpus(tmp_path / "out")
    prepared.check(tiny_codec)
    with torch.no_grad():
        tiny_codec.quantizer.codebooks.add_(1.0)
    with pytest.raises(ValueError, match="holds codes of codec"):
        prepared.check(tiny_codec)
    # The shards are bound by themselves: another manifest does not make them its own.
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    manifest["codes_fingerprint"] = "0" * 16
    (tmp_path / "out/manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="another corpus"):
        PreparedCorpus(tmp_path / "out")


def test_command_line(
    corpus: Path, tiny_codec_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--codec", str(tiny_codec_dir), "--device", "cpu"]
    assert (
        main(["prepare", str(corpus), "--out", str(tmp_path / "out"), "--min-s", "0.4", "--json", *common])
        == 0
    )
    captured = capsys.readouterr()
    counts = json.loads(captured.out)
    assert counts["rows"] == 5 and counts["dropped"] == {"too_short": 2}
    assert "encode: 7 of 7 rows" in captured.err
    assert main(["prepare", str(corpus), "--out", str(tmp_path / "none"), "--min-s", "9", *common]) == 1
    captured = capsys.readouterr()
    assert "too_short" in captured.out and "every row was dropped" in captured.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/absent"], "no such folder"),
        (["{tmp}"], "expected metadata.csv or metadata.jsonl"),
        (["{corpus}", "--split", "dev"], "expected split dev"),
        (["{corpus}", "--column", "text=words"], "expected a column 'words'"),
        (["{corpus}", "--codec", "no-such-codec"], "no checkpoint 'no-such-codec'"),
        (["{corpus}", "--workers", "0"], "at least one worker"),
        (["{corpus}", "--n-q", "9"], "n_q from 1 to 4"),
        (["{corpus}", "--out", "{corpus}/0.flac"], "0.flac"),
        (["{corpus}/0.flac"], "expected a folder, or a .csv"),
    ],
)
def test_bad_command_lines(
    arguments: list[str],
    message: str,
    corpus: Path,
    tiny_codec_dir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    given = [
        word.format(tmp=tmp_path / "empty" if word == "{tmp}" else tmp_path, corpus=corpus)
        for word in arguments
    ]
    for option, value in (("--out", str(tmp_path / "out")), ("--codec", str(tiny_codec_dir))):
        given += [] if option in given else [option, value]
    capsys.readouterr()
    assert main(["prepare", *given, "--device", "cpu"]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    error = captured.err.strip().splitlines()[-1]
    assert error.startswith("audiotok: error: ") and message in error
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("content", ["", "file_name,transcription\n", "name,words\na.wav,x\n", "\xff\xfe\0"])
def test_bad_metadata(content: str, tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match="metadata.csv: expected"):
        open_source(tmp_path)


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
    assert again.returncode == 1 and "there already" in again.stderr
