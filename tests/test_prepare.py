"""Every row is in a shard or dropped with its reason, for any workers, parts and kills."""

from __future__ import annotations

import csv
import json
import os
import random
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

from audiotok import AudioCodec, PreparedCorpus, load_audio, load_codec, prepare
from audiotok.cli.main import main
from audiotok.corpus import Limits, Manifest, Progress, Shaping, dry_run, merge, open_source, report, verify
from audiotok.corpus.checks import REASONS
from audiotok.corpus.shards import unpack_codes
from audiotok.corpus.sources import StreamSource

RATE = 16_000
# Scripts must import audiotok of this checkout.
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
LENGTHS_S = (0.31, 1.2, 0.5, 0.9, 0.305, 0.7, 1.1)
ROWS = 17
OPTIONS: dict[str, Any] = {"rows_per_shard": 3, "batch_s": 1.5}


def write_folder(folder: Path, rows: list[tuple[str, str]], header: str = "file_name,transcription") -> Path:
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        file.write(f"{header},speaker_id,split\n")
        table = csv.writer(file)
        for index, row in enumerate(rows):
            table.writerow((*row, f"s{index % 2}", "train" if index % 3 else "test"))
    return folder


@pytest.fixture
def corpus(tmp_path: Path, make_speech: Callable[..., torch.Tensor]) -> Path:
    """Seven good clips of several lengths; the first, fourth and seventh are of the split test."""
    folder = tmp_path / "speech"
    folder.mkdir()
    for index, seconds in enumerate(LENGTHS_S):
        soundfile.write(folder / f"{index}.flac", make_speech(seconds, seed=index)[0].numpy(), RATE)
    return write_folder(
        folder, [(f"{index}.flac", f"Sentence number {index}.") for index in range(len(LENGTHS_S))]
    )


@pytest.fixture
def mixed(tmp_path: Path, make_speech: Callable[..., torch.Tensor]) -> Path:
    """Seventeen rows: two broken, one silent, one repeated; one shard has no good row at all."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    rng = random.Random(0)
    rows = [(f"{index}.flac", f"Sentence {index}.") for index in range(ROWS - 1)]
    for index in range(ROWS - 1):
        sound = make_speech(rng.uniform(0.3, 1.0), seed=index)[0].numpy()
        soundfile.write(folder / f"{index}.flac", 0 * sound if index == 6 else sound, RATE)
    for index in (3, 9):
        (folder / f"{index}.flac").write_bytes(b"broken")
    (folder / "0.flac").write_bytes(b"broken too")
    return write_folder(folder, [*rows, rows[1]])


@pytest.fixture
def whole(mixed: Path, tiny_codec: AudioCodec, tmp_path: Path) -> dict[str, bytes]:
    """The files of an undisturbed preparation of ``mixed``."""
    manifest = prepare(mixed, tmp_path / "whole", tiny_codec, **OPTIONS)
    assert manifest.dropped == {"duplicate": 1, "silent": 1, "unreadable": 3}
    assert manifest.rows == ROWS - 5 and manifest.splits == {"test": 6, "train": 11}
    rows = {shard["file"]: shard["rows"] for shard in manifest.shards}
    assert rows["test-00000.parquet"] == 0 and list(rows)[-1] == "train-00003.parquet"
    return files_of(tmp_path / "whole")


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def dropped_of(folder: Path) -> dict[str, str]:
    lines = (folder / "dropped.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["id"]: row["reason"] for row in map(json.loads, lines)}


# ---- contents of a preparation


def test_every_row_is_there_with_its_fields(corpus: Path, tiny_codec: AudioCodec, tmp_path: Path) -> None:
    manifest = prepare(corpus, tmp_path / "out", tiny_codec, rows_per_shard=3)
    prepared = PreparedCorpus(tmp_path / "out")
    assert manifest.rows == len(prepared) == len(LENGTHS_S)
    assert {shard["file"]: shard["rows"] for shard in manifest.shards} == {
        "test-00000.parquet": 3,
        "train-00000.parquet": 3,
        "train-00001.parquet": 1,
    }
    assert prepared.column("id") == [f"{index}.flac" for index in (0, 3, 6, 1, 2, 4, 5)]
    assert prepared.column("row") == [0, 3, 6, 1, 2, 4, 5]
    assert manifest.hours == pytest.approx(sum(LENGTHS_S) / 3600)
    row = prepared.row(5)
    assert (row["text"], row["speaker"], row["split"]) == ("Sentence number 4.", "s0", "train")
    assert row["codes"].shape == (4, row["frames"]) == (4, -(-round(0.305 * RATE) // 320))
    assert report(tmp_path / "out")["splits"].keys() == {"test", "train"}
    for row in prepared:
        wav, _ = load_audio(corpus / row["id"], RATE)
        assert torch.equal(row["codes"], tiny_codec.encode(wav[None]).audio_codes[0])


def test_datasets_finds_the_splits(
    mixed: Path,
    whole: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_network: list[object],
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    opened: Any = datasets.load_dataset(str(tmp_path / "whole"))
    corpus = PreparedCorpus(tmp_path / "whole")
    for split in ("train", "test"):
        ours = PreparedCorpus(tmp_path / "whole", split)
        assert set(opened[split]["codes_fingerprint"]) == {corpus.manifest.codes_fingerprint}
        assert opened[split]["id"][:] == ours.column("id") and set(opened[split]["split"][:]) == {split}
        row = opened[split][1]
        assert torch.equal(unpack_codes(row["codes"], row["n_q"]), ours.row(1)["codes"])
        assert ours.dataset()["id"][:] == ours.column("id")
    assert len(corpus) == sum(map(len, opened.values())) and no_network == []


def test_splits(corpus: Path, tiny_codec: AudioCodec, tmp_path: Path) -> None:
    prepare(corpus, tmp_path / "out", tiny_codec)
    test = PreparedCorpus(tmp_path / "out", split="test")
    assert test.column("id") == ["0.flac", "3.flac", "6.flac"] and test.row(-1)["id"] == "6.flac"
    assert prepare(corpus, tmp_path / "part", tiny_codec, split="test").source_rows == 3
    with pytest.raises(ValueError, match="dev"):
        open_source(corpus, split="dev")
    with pytest.raises(ValueError, match="dev"):
        PreparedCorpus(tmp_path / "out", split="dev")


def test_fewer_codebooks_are_the_first_ones(corpus: Path, tiny_codec: AudioCodec, tmp_path: Path) -> None:
    prepare(corpus, tmp_path / "all", tiny_codec)
    manifest = prepare(corpus, tmp_path / "two", tiny_codec, n_q=2)
    assert manifest.codec["n_q"] == 2
    for one, other in zip(PreparedCorpus(tmp_path / "all"), PreparedCorpus(tmp_path / "two"), strict=True):
        assert torch.equal(one["codes"][:2], other["codes"])
    with pytest.raises(ValueError, match="n_q"):
        prepare(corpus, tmp_path / "five", tiny_codec, n_q=5)


def test_other_rates_and_channels(
    tiny_codec: AudioCodec, tmp_path: Path, make_speech: Callable[..., torch.Tensor]
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    sound = make_speech(0.8, 44_100)[0].numpy()
    soundfile.write(source / "a.wav", np.stack([sound, 0.5 * sound], axis=1), 44_100)
    opus = make_speech(0.8, 48_000)[0].numpy()
    soundfile.write(source / "b.ogg", opus, 48_000, format="OGG", subtype="OPUS")
    write_folder(source, [("a.wav", "A."), ("b.ogg", "B.")])
    prepare(source, out, tiny_codec)
    assert [row["frames"] for row in PreparedCorpus(out)] == [40, 40]
    wav, _ = load_audio(source / "a.wav", RATE)
    assert torch.equal(PreparedCorpus(out).row(0)["codes"], tiny_codec.encode(wav[None]).audio_codes[0])


def test_a_trimmed_clip_has_the_codes_of_the_clip_cut_by_hand(
    tiny_codec: AudioCodec, tmp_path: Path, make_speech: Callable[..., torch.Tensor]
) -> None:
    (tmp_path / "a").mkdir()
    speech = make_speech(1.0)[0].numpy() + 0.05 * np.sin(np.arange(RATE) * 0.3)
    soundfile.write(tmp_path / "a/x.wav", np.concatenate([np.zeros(RATE), speech]), RATE, subtype="FLOAT")
    write_folder(tmp_path / "a", [("x.wav", "A word.")])
    prepare(tmp_path / "a", tmp_path / "out", tiny_codec, shaping=Shaping(trim=True))
    row = PreparedCorpus(tmp_path / "out").row(0)
    assert row["start_s"] == pytest.approx(0.9)
    cut = np.concatenate([np.zeros(RATE // 10), speech])[None, None].astype(np.float32)
    assert torch.equal(row["codes"], tiny_codec.encode(torch.from_numpy(cut)).audio_codes[0])


def break_things(folder: Path, sound: np.ndarray) -> dict[str, str]:
    """Write files that are no clips; the reason that each must get."""
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("This is no sound at all. " * 50)
    (folder / "folder.wav").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.wav")
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
    reasons |= {"folder.wav": "missing_file", "absent.wav": "missing_file", "pipe.wav": "missing_file"}
    reasons |= {f"{'x' * 5000}.wav": "missing_file"}
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
    counts = dry_run(corpus, tmp_path / "out")
    manifest = prepare(corpus, tmp_path / "out", tiny_codec, rows_per_shard=4)
    dropped = dropped_of(tmp_path / "out")
    assert dropped.pop(f"{len(mixed):08d}") == "missing_file"
    # The id of a row with an absolute path is its number, because that path belongs to one machine.
    reasons = {
        f"{2 * index:08d}" if name.startswith("/") else name: reason
        for index, (name, reason) in enumerate(reasons.items())
    }
    assert {name: dropped.get(name) for name in reasons} == reasons
    # The good clips stand there more than once: all but the first are duplicates.
    assert set(dropped) - set(reasons) == {f"{index}.flac" for index in range(len(LENGTHS_S))}
    assert manifest.dropped["duplicate"] == len(mixed) - len(bad) - len(LENGTHS_S)
    assert manifest.rows + sum(manifest.dropped.values()) == manifest.source_rows == len(mixed) + 1
    assert set(manifest.dropped) <= set(REASONS) and manifest.rows == len(LENGTHS_S)
    rows = [json.loads(line)["row"] for line in (tmp_path / "out/dropped.jsonl").read_text().splitlines()]
    assert rows == sorted(rows)
    assert counts["dropped"] == manifest.dropped and counts["rows"] == manifest.rows
    assert (tmp_path / "out/dry-run/dropped.jsonl").read_bytes() == (
        tmp_path / "out/dropped.jsonl"
    ).read_bytes()


# ---- kills, workers, parts


class _Stop(BaseException):
    """Simulates a kill, since nothing handles it."""


def stop_at(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise before the ``count``-th file is renamed."""
    import audiotok.files as files

    real, seen = files.os.replace, [0]

    def replace(source: Any, target: Any) -> None:
        seen[0] += 1
        if seen[0] == count:
            # A kill leaves the temporary file behind; the handler of an exception would remove it.
            shutil.copy(source, f"{source}x{Path(source).suffix}")
            raise _Stop
        real(source, target)

    monkeypatch.setattr(files.os, "replace", replace)


@pytest.mark.parametrize("count", [1, 2, 4, 7, 8, 9, 10, 11, 12, 13])
def test_stopped_at_any_write_and_resumed(
    count: int, mixed: Path, whole: dict[str, bytes], tiny_codec: AudioCodec, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with monkeypatch.context() as patch:
        stop_at(count, patch)
        with pytest.raises(_Stop):
            prepare(mixed, tmp_path / "out", tiny_codec, **OPTIONS)
    assert not (tmp_path / "out/manifest.json").exists()
    prepare(mixed, tmp_path / "out", tiny_codec, **OPTIONS)
    assert files_of(tmp_path / "out") == whole


_KILLED = """
import os, signal, sys
from audiotok import load_codec, prepare
def watch(progress):
    if progress.stage == "encode" and progress.rows >= 6:
        os.kill(os.getpid(), signal.SIGKILL)
source, out, codec, workers = sys.argv[1:]
options = {"rows_per_shard": 3, "batch_s": 1.5, "workers": int(workers), "progress": watch}
prepare(source, out, load_codec(codec), **options)
"""


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_and_resumed(
    workers: int, mixed: Path, whole: dict[str, bytes], tiny_codec_dir: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    command = [sys.executable, "-c", _KILLED, str(mixed), str(out), str(tiny_codec_dir), str(workers)]
    killed = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not (out / "manifest.json").exists()
    (out / "shards/.train-00002.x.parquet").write_bytes(b"left by a kill in the middle of a write")
    finished = {path: path.stat().st_mtime_ns for path in out.glob("shards/t*.parquet")}
    assert finished
    prepare(mixed, out, load_codec(tiny_codec_dir), **OPTIONS)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert files_of(out) == whole
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    seen: list[Progress] = []
    prepare(mixed, out, load_codec(tiny_codec_dir), progress=seen.append, **OPTIONS)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before and not seen


_FROM_STDIN = """
import multiprocessing
import torch
from audiotok import load_codec, prepare

killed = []
def kill(progress):
    if not killed and not {spawn}:
        killed.append(multiprocessing.active_children()[0])
        killed[0].kill()

torch.cuda.is_initialized = lambda: {spawn}
prepare({corpus!r}, {out!r}, load_codec({codec!r}), rows_per_shard=3, batch_s=1.5, workers=2, progress=kill)
assert killed or {spawn}
"""


@pytest.mark.parametrize("spawn", [False, True])
def test_workers_change_nothing_even_if_one_is_killed(
    spawn: bool, mixed: Path, whole: dict[str, bytes], tiny_codec_dir: Path, tmp_path: Path
) -> None:
    names = {"corpus": str(mixed), "out": str(tmp_path / "out"), "codec": str(tiny_codec_dir)}
    script = _FROM_STDIN.format(spawn=spawn, **names)
    done = subprocess.run(
        [sys.executable, "-"], input=script, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert files_of(tmp_path / "out") == whole


@pytest.mark.parametrize("parts", [1, 4, 9])
def test_split_and_merged(
    parts: int, mixed: Path, whole: dict[str, bytes], tiny_codec_dir: Path, tmp_path: Path
) -> None:
    folders = [tmp_path / f"part{number}" for number in range(1, parts + 1)]
    given = [
        "prepare",
        str(mixed),
        "--codec",
        str(tiny_codec_dir),
        "--device",
        "cpu",
        "--rows-per-shard",
        "3",
    ]
    for number, folder in enumerate(folders, 1):
        shard = ["--out", str(folder), "--shard", f"{number}/{parts}", "--batch-s", "1.5"]
        assert main([*given, *shard]) == 0
    if parts > 1:
        assert not any((folder / "manifest.json").exists() for folder in folders)
        with pytest.raises(ValueError, match="test-00000"):
            merge(folders[1:], tmp_path / "less")
    assert main(["merge", *map(str, reversed(folders)), "--out", str(tmp_path / "merged")]) == 0
    assert files_of(tmp_path / "merged") == whole
    merge(folders, tmp_path / "merged")
    assert files_of(tmp_path / "merged") == whole


def test_merging_spares_the_parts_and_refuses_others(
    mixed: Path, tiny_codec: AudioCodec, tmp_path: Path
) -> None:
    parts = [tmp_path / "1", tmp_path / "2"]
    for number, part in enumerate(parts, 1):
        prepare(mixed, part, tiny_codec, part=(number, 2), **OPTIONS)
    before = [files_of(part) for part in parts]
    for wrong in (parts[0], parts[1] / "deep", tmp_path):
        with pytest.raises(ValueError, match="apart"):
            merge(parts, wrong)
    assert [files_of(part) for part in parts] == before
    with pytest.raises(FileNotFoundError):
        merge([mixed], tmp_path / "merged")
    with pytest.raises(ValueError, match="at least one part"):
        merge([], tmp_path / "merged")
    prepare(mixed, tmp_path / "3", tiny_codec, part=(2, 2), n_q=2, **OPTIONS)
    with pytest.raises(ValueError, match="codec n_q was 4, is 2 now"):
        merge([parts[0], tmp_path / "3"], tmp_path / "merged")
    shard = parts[1] / "shards/train-00001.parquet"
    data = bytearray(shard.read_bytes())
    data[99] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match="train-00001.parquet: damaged"):
        merge(parts, tmp_path / "merged")


def test_parts_in_one_folder_need_no_merging(
    mixed: Path, whole: dict[str, bytes], tiny_codec: AudioCodec, tmp_path: Path
) -> None:
    for number in (2, 3, 1):
        assert not (tmp_path / "out/manifest.json").exists()
        manifest = prepare(mixed, tmp_path / "out", tiny_codec, part=(number, 3), **OPTIONS)
    assert files_of(tmp_path / "out") == whole and manifest.rows == ROWS - 5
    with pytest.raises(ValueError, match="part i of n"):
        prepare(mixed, tmp_path / "3", tiny_codec, part=(0, 2), **OPTIONS)


def test_processes_of_a_launcher_are_parts_and_a_left_over_variable_is_not(
    mixed: Path,
    whole: dict[str, bytes],
    tiny_codec: AudioCodec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    prepare(mixed, tmp_path / "alone", tiny_codec, **OPTIONS)
    assert files_of(tmp_path / "alone") == whole
    for rank in ("1", "0"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("LOCAL_RANK", rank)
        prepare(mixed, tmp_path / "out", tiny_codec, **OPTIONS)
        assert (tmp_path / "out/manifest.json").exists() == (rank == "0")
    assert files_of(tmp_path / "out") == whole


def test_a_stream_gives_the_rows_of_the_list(
    mixed: Path, tiny_codec: AudioCodec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = list(open_source(mixed))
    table = {
        "audio": [{"bytes": (mixed / row.id).read_bytes(), "path": None} for row in rows],
        **{name: [getattr(row, name) for row in rows] for name in ("text", "id", "speaker", "split")},
    }
    listed = datasets.Dataset.from_dict(table)

    def stream() -> StreamSource:
        return StreamSource({"train": listed.to_iterable_dataset()}, {}, "", "a dataset in memory")

    expected = prepare(listed, tmp_path / "whole", tiny_codec, **OPTIONS)
    assert expected.rows == ROWS - 5
    with monkeypatch.context() as patch:
        stop_at(6, patch)
        with pytest.raises(_Stop):
            prepare(stream(), tmp_path / "out", tiny_codec, **OPTIONS)
    manifest = prepare(stream(), tmp_path / "out", tiny_codec, **OPTIONS)
    assert [s["rows"] for s in manifest.shards] == [s["rows"] for s in expected.shards]
    assert manifest.dropped == expected.dropped and manifest.splits == expected.splits
    for one, other in zip(PreparedCorpus(tmp_path / "whole"), PreparedCorpus(tmp_path / "out"), strict=True):
        assert torch.equal(one.pop("codes"), other.pop("codes")) and one == other
    assert not (tmp_path / "out/.spool").exists()
    for number in (1, 2):
        prepare(stream(), tmp_path / str(number), tiny_codec, part=(number, 2), workers=2, **OPTIONS)
    assert merge([tmp_path / "1", tmp_path / "2"], tmp_path / "merged") == manifest
    counts = dry_run(stream(), **OPTIONS)
    assert counts["rows"] == manifest.rows and counts["dropped"] == manifest.dropped


# ---- folders


@pytest.mark.parametrize(
    "damage",
    [
        lambda out: (out / "dropped.jsonl").unlink(),
        lambda out: (out / "index.arrow").unlink(),
        lambda out: (out / "README.md").unlink(),
        lambda out: (out / "shards/test-00001.parquet").unlink(),
        lambda out: (out / "shards/train-00001.parquet").write_bytes(b"PAR1 and nothing else"),
    ],
)
def test_a_rerun_restores_what_is_missing(
    mixed: Path,
    whole: dict[str, bytes],
    tmp_path: Path,
    tiny_codec: AudioCodec,
    damage: Callable[[Path], object],
) -> None:
    (tmp_path / "whole/alignments.jsonl").write_text("{}\n")  # other files may lie beside a preparation
    damage(tmp_path / "whole")
    prepare(mixed, tmp_path / "whole", tiny_codec, **OPTIONS)
    assert files_of(tmp_path / "whole") == whole | {"alignments.jsonl": b"{}\n"}


def test_other_preparations_are_refused(corpus: Path, tiny_codec: AudioCodec, tmp_path: Path) -> None:
    prepare(corpus, tmp_path / "out", tiny_codec)
    before = files_of(tmp_path / "out")
    other: dict[str, Any] = {"limits": Limits(min_s=0.4), "columns": {"text": "file_name"}, "n_q": 2}
    with pytest.raises(ValueError) as refused:
        prepare(corpus, tmp_path / "out", tiny_codec, **other)
    for said in ("min_s was 0.1, is 0.4", 'is {"text": "file_name"}', "codec n_q was 4, is 2"):
        assert said in str(refused.value)
    assert "max_s" not in str(refused.value) and files_of(tmp_path / "out") == before
    with (corpus / "metadata.csv").open("a") as table:
        table.write("0.flac,Once more.,s0,train\n")
    with pytest.raises(ValueError, match="other rows"):
        prepare(corpus, tmp_path / "out", tiny_codec)


def test_folders_of_others_are_refused(
    corpus: Path, tmp_path: Path, tiny_codec: AudioCodec, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/00000.parquet").write_text("mine")
    (tmp_path / "manifested/manifest.json").mkdir(parents=True)
    for link, target in (("astray", "nowhere"), ("round", "round")):
        (tmp_path / link).symlink_to(tmp_path / target)
    for name in ("", "file", "astray", "round", "full", "manifested", "speech", "speech/deep/tokens"):
        out = tmp_path / name if name else ""
        with pytest.raises((ValueError, OSError)):
            prepare(corpus, out, tiny_codec)
        assert main(["prepare", str(corpus), "--out", str(out), "--dry-run"]) == 1
        assert capsys.readouterr().err.count("\n") == 1
    assert (tmp_path / "file").read_text() == "mine" and not (corpus / "deep").exists()
    assert files_of(tmp_path / "full") == {"00000.parquet": b"mine"}


def test_a_licence_can_be_stated_afterwards(corpus: Path, tiny_codec: AudioCodec, tmp_path: Path) -> None:
    for stated, expected in (("", ""), ("CC0 \udce9", "CC0 \\udce9"), ("", "CC0 \\udce9")):
        manifest = prepare(corpus, tmp_path / "late", tiny_codec, licence=stated)
        assert manifest.licence == report(tmp_path / "late")["licence"] == expected
    prepare(corpus, tmp_path / "first", tiny_codec, licence="CC0 \udce9")
    assert files_of(tmp_path / "late") == files_of(tmp_path / "first")


def test_another_codec_is_refused(corpus: Path, tiny_codec: AudioCodec, tmp_path: Path) -> None:
    prepare(corpus, tmp_path / "out", tiny_codec)
    prepared = PreparedCorpus(tmp_path / "out")
    prepared.check(tiny_codec)
    with torch.no_grad():
        tiny_codec.quantizer.codebooks.add_(1.0)
    with pytest.raises(ValueError, match="codec"):
        prepared.check(tiny_codec)
    # The shards are bound by themselves: another manifest does not make them its own.
    manifest = Manifest.load(tmp_path / "out")
    manifest.codes_fingerprint = "0" * 16
    manifest.save(tmp_path / "out")
    with pytest.raises(ValueError, match="another corpus"):
        PreparedCorpus(tmp_path / "out")


# ---- programs


def test_command_line(
    corpus: Path, tiny_codec_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--codec", str(tiny_codec_dir), "--device", "cpu"]
    given = ["prepare", str(corpus), "--out", str(tmp_path / "out"), "--min-s", "0.4", "--json", *common]
    assert main(given) == 0
    captured = capsys.readouterr()
    counts = json.loads(captured.out)
    assert counts["rows"] == 5 and counts["dropped"] == {"too_short": 2}
    assert "encode: 7 of 7 rows" in captured.err
    assert main(["verify", str(tmp_path / "out"), *common]) == 0
    assert main(["prepare", str(corpus), "--out", str(tmp_path / "none"), "--min-s", "9", *common]) == 1
    captured = capsys.readouterr()
    assert "too_short" in captured.out and "every row was dropped" in captured.err
    assert verify(tmp_path / "none").faults == []
    for bad in (
        ["--split", "dev"],
        ["--column", "text=words"],
        ["--codec", "none"],
        ["--workers", "0"],
        ["--n-q", "9"],
    ):
        assert main(["prepare", str(corpus), "--out", str(tmp_path / "bad"), *common, *bad]) == 1
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("audiotok: error: ") == 1


def run_script(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a script of ``data/`` from the command line."""
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
