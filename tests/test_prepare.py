"""Every row is in a shard or dropped with its reason, for any workers, parts and kills."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import soundfile
import torch
from conftest import build_tiny_codec, speech_like

from audiotok import AudioCodec, PreparedCorpus, load_audio, prepare
from audiotok.cli.main import main
from audiotok.corpus import Limits, Manifest, Progress, Shaping, dry_run, open_source, report, verify
from audiotok.corpus.checks import REASONS
from audiotok.corpus.shards import unpack_codes

RATE = 16_000
# Scripts must import audiotok of this checkout.
ENVIRONMENT = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
LENGTHS_S = (0.31, 1.2, 0.5, 0.9, 0.305, 0.7, 1.1)
ROWS = 17
OPTIONS: dict[str, Any] = {"rows_per_shard": 3, "batch_s": 1.5}


def write_folder(folder: Path, rows: list[tuple[str, str]]) -> Path:
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("file_name", "transcription", "speaker_id", "split"))
        for index, row in enumerate(rows):
            table.writerow((*row, f"s{index % 2}", "train" if index % 3 else "test"))
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Seven good clips of several lengths; the first, fourth and seventh are of the split test."""
    folder = tmp_path / "speech"
    folder.mkdir()
    for index, seconds in enumerate(LENGTHS_S):
        soundfile.write(folder / f"{index}.flac", speech_like(seconds, seed=index)[0].numpy(), RATE)
    return write_folder(
        folder, [(f"{index}.flac", f"Sentence number {index}.") for index in range(len(LENGTHS_S))]
    )


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seventeen rows: two broken, one silent, one repeated; one shard has no good row at all. Not to be changed."""
    folder = tmp_path_factory.mktemp("mixed")
    rng = random.Random(0)
    rows = [(f"{index}.flac", f"Sentence {index}.") for index in range(ROWS - 1)]
    for index in range(ROWS - 1):
        sound = speech_like(rng.uniform(0.3, 1.0), seed=index)[0].numpy()
        soundfile.write(folder / f"{index}.flac", 0 * sound if index == 6 else sound, RATE)
    for index in (0, 3, 9):
        (folder / f"{index}.flac").write_bytes(b"broken")
    return write_folder(folder, [*rows, rows[1]])


@pytest.fixture(scope="module")
def prepared(mixed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed preparation of ``mixed``. Not to be changed."""
    out = tmp_path_factory.mktemp("prepared") / "whole"
    manifest = prepare(mixed, out, build_tiny_codec(), **OPTIONS)
    assert manifest.dropped == {"duplicate": 1, "silent": 1, "unreadable": 3}
    assert manifest.rows == ROWS - 5 and manifest.splits == {"test": 6, "train": 11}
    rows = {shard["file"]: shard["rows"] for shard in manifest.shards}
    assert rows["test-00000.parquet"] == 0 and list(rows)[-1] == "train-00003.parquet"
    return out


@pytest.fixture
def whole(prepared: Path) -> dict[str, bytes]:
    return files_of(prepared)


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
    rows = {"test-00000.parquet": 3, "train-00000.parquet": 3, "train-00001.parquet": 1}
    assert {shard["file"]: shard["rows"] for shard in manifest.shards} == rows
    assert prepared.column("row") == [0, 3, 6, 1, 2, 4, 5]
    assert manifest.hours == pytest.approx(sum(LENGTHS_S) / 3600)
    row = prepared.row(5)
    fields = [row[name] for name in ("id", "text", "speaker", "split")]
    assert fields == ["4.flac", "Sentence number 4.", "s0", "train"]
    assert row["codes"].shape == (4, row["frames"]) == (4, -(-round(0.305 * RATE) // 320))
    assert report(tmp_path / "out")["splits"].keys() == {"test", "train"}
    for row in prepared:
        wav, _ = load_audio(corpus / row["id"], RATE)
        assert torch.equal(row["codes"], tiny_codec.encode(wav[None]).audio_codes[0])
    assert PreparedCorpus(tmp_path / "out", split="test").row(-1)["id"] == "6.flac"
    assert prepare(corpus, tmp_path / "part", tiny_codec, split="test").source_rows == 3
    for opened in (open_source, PreparedCorpus):
        with pytest.raises(ValueError, match="dev"):
            opened(tmp_path / "out" if opened is PreparedCorpus else corpus, split="dev")
    assert prepare(corpus, tmp_path / "two", tiny_codec, n_q=2).codec["n_q"] == 2
    for one, other in zip(prepared, PreparedCorpus(tmp_path / "two"), strict=True):
        assert torch.equal(one["codes"][:2], other["codes"])
    with pytest.raises(ValueError, match="n_q"):
        prepare(corpus, tmp_path / "five", tiny_codec, n_q=5)


def test_datasets_finds_the_splits(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: list[object]
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    opened: Any = datasets.load_dataset(str(prepared))
    corpus = PreparedCorpus(prepared)
    for split in ("train", "test"):
        ours = PreparedCorpus(prepared, split)
        assert set(opened[split]["codes_fingerprint"]) == {corpus.manifest.codes_fingerprint}
        assert opened[split]["id"][:] == ours.column("id") and set(opened[split]["split"][:]) == {split}
        row = opened[split][1]
        assert torch.equal(unpack_codes(row["codes"], row["n_q"]), ours.row(1)["codes"])
    assert len(corpus) == sum(map(len, opened.values())) and no_network == []


def test_other_rates_and_channels(tiny_codec: AudioCodec, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    sound = speech_like(0.8, 44_100)[0].numpy()
    soundfile.write(source / "a.wav", np.stack([sound, 0.5 * sound], axis=1), 44_100)
    soundfile.write(
        source / "b.ogg", speech_like(0.8, 48_000)[0].numpy(), 48_000, format="OGG", subtype="OPUS"
    )
    write_folder(source, [("a.wav", "A."), ("b.ogg", "B.")])
    prepare(source, tmp_path / "out", tiny_codec)
    prepared = PreparedCorpus(tmp_path / "out")
    wav, _ = load_audio(source / "a.wav", RATE)
    assert prepared.frames.tolist() == [40, 40]
    assert torch.equal(prepared.row(0)["codes"], tiny_codec.encode(wav[None]).audio_codes[0])
    soundfile.write(source / "c.wav", np.concatenate([np.zeros(RATE), speech_like(1.0)[0].numpy()]), RATE)
    write_folder(source, [("c.wav", "A word.")])
    prepare(source, tmp_path / "trimmed", tiny_codec, shaping=Shaping(trim=True))
    assert PreparedCorpus(tmp_path / "trimmed").row(0)["start_s"] == pytest.approx(0.9, abs=0.1)


def break_things(folder: Path, sound: np.ndarray) -> dict[str, str]:
    """Write files that are no clips; the reason that each must get."""
    holes = np.where(np.arange(len(sound)) == 1000, np.nan, sound)
    sounds = {
        "nan.wav": (holes, "not_finite"),
        "inf.wav": (np.where(np.isnan(holes), -np.inf, holes), "not_finite"),
        "loud.wav": (sound * 30_000, "bad_scale"),
        "zero.wav": (sound[:0], "too_short"),
        "one.wav": (sound[:1], "too_short"),
        "silent.flac": (np.zeros(RATE), "silent"),
        "long.flac": (np.zeros(31 * RATE), "too_long"),
        "cut.flac": (sound, "unreadable"),
        "mute.flac": (sound, "no_text"),
        "../outside.flac": (sound, "outside_folder"),
    }
    for name, (samples, _) in sounds.items():
        soundfile.write(folder / name, samples, RATE, subtype="FLOAT" if name.endswith("wav") else "PCM_16")
    (folder / "cut.flac").write_bytes((folder / "cut.flac").read_bytes()[:6000])
    (folder / "empty.wav").write_bytes(b"")
    (folder / "text.wav").write_text("This is no sound at all. " * 50)
    (folder / "folder.wav").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.wav")
    reasons = {name: reason for name, (_, reason) in sounds.items()}
    reasons |= dict.fromkeys(("empty.wav", "text.wav"), "unreadable")
    reasons |= dict.fromkeys(("folder.wav", "absent.wav", "pipe.wav", f"{'x' * 5000}.wav"), "missing_file")
    return reasons | dict.fromkeys(
        ("x/../../outside.flac", str(folder.parent / "outside.flac")), "outside_folder"
    )


def test_broken_rows_are_dropped_with_the_right_reason(
    corpus: Path, tiny_codec: AudioCodec, tmp_path: Path
) -> None:
    reasons = break_things(corpus, speech_like(1.0)[0].numpy())
    good = [(f"{index}.flac", "Good.") for index in range(len(LENGTHS_S))]
    bad = [(name, "" if name == "mute.flac" else "Bad.") for name in reasons]
    rows = [row for pair in zip(bad, good * 3, strict=False) for row in pair]
    write_folder(corpus, [*rows, ("", "A row without a file.")])
    counts = dry_run(corpus, tmp_path / "out")
    manifest = prepare(corpus, tmp_path / "out", tiny_codec, rows_per_shard=4)
    dropped = dropped_of(tmp_path / "out")
    assert dropped.pop(f"{len(rows):08d}") == "missing_file"
    # The id of a row with an absolute path is its number, because that path belongs to one machine.
    ids = [f"{2 * index:08d}" if name.startswith("/") else name for index, name in enumerate(reasons)]
    assert [dropped.get(id) for id in ids] == list(reasons.values())
    # The good clips stand there more than once: all but the first are duplicates.
    assert set(dropped) - set(ids) == {name for name, _ in good}
    assert manifest.dropped["duplicate"] == len(rows) - len(bad) - len(good)
    assert manifest.rows + sum(manifest.dropped.values()) == manifest.source_rows == len(rows) + 1
    assert set(manifest.dropped) <= set(REASONS) and manifest.rows == len(good)
    lines = (tmp_path / "out/dropped.jsonl").read_text()
    numbers = [json.loads(line)["row"] for line in lines.splitlines()]
    assert numbers == sorted(numbers) and (tmp_path / "out/dry-run/dropped.jsonl").read_text() == lines
    assert counts["dropped"] == manifest.dropped and counts["rows"] == manifest.rows


# ---- kills, workers, parts


class _Stop(BaseException):
    """Simulates a kill, since nothing handles it."""


@pytest.mark.parametrize("count", [1, 2, 7, 8, 10, 11, 12])
def test_stopped_at_any_write_and_resumed(
    count: int, mixed: Path, whole: dict[str, bytes], tiny_codec: AudioCodec, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    real, seen = os.replace, list[Any]()

    def replace(source: Any, target: Any) -> None:
        seen.append(target)
        if len(seen) == count:
            # A kill leaves the temporary file behind; the handler of an exception would remove it.
            shutil.copy(source, f"{source}x{Path(source).suffix}")
            raise _Stop
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        with pytest.raises(_Stop):
            prepare(mixed, tmp_path / "out", tiny_codec, **OPTIONS)
    assert not (tmp_path / "out/manifest.json").exists()
    prepare(mixed, tmp_path / "out", tiny_codec, **OPTIONS)
    assert files_of(tmp_path / "out") == whole


def test_killed_and_resumed(
    mixed: Path, whole: dict[str, bytes], tiny_codec: AudioCodec, tmp_path: Path
) -> None:
    out = tmp_path / "killed"

    def watch(progress: Progress) -> None:
        if progress.rows >= 6:
            os.kill(os.getpid(), signal.SIGKILL)

    options = OPTIONS | {"workers": 2, "progress": watch}
    killed = multiprocessing.get_context("fork").Process(
        target=prepare, args=(mixed, out, tiny_codec), kwargs=options
    )
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert not (out / "manifest.json").exists()
    (out / "shards/.train-00002.x.parquet").write_bytes(b"left by a kill in the middle of a write")
    finished = {path: path.stat().st_mtime_ns for path in out.glob("shards/t*.parquet")}
    assert finished
    prepare(mixed, out, tiny_codec, **OPTIONS)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert files_of(out) == whole
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    seen: list[Progress] = []
    prepare(mixed, out, tiny_codec, progress=seen.append, **OPTIONS)
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before and not seen


def test_workers_change_nothing_even_if_one_is_killed(
    mixed: Path, whole: dict[str, bytes], tiny_codec: AudioCodec, tmp_path: Path
) -> None:
    killed: list[Any] = []

    def kill(progress: Progress) -> None:
        if not killed:
            killed.append(multiprocessing.active_children()[0])
            killed[0].kill()

    prepare(mixed, tmp_path / "out", tiny_codec, workers=2, progress=kill, **OPTIONS)
    assert files_of(tmp_path / "out") == whole and killed


_FROM_STDIN = """
import torch
from audiotok import load_codec, prepare
torch.cuda.is_initialized = lambda: True
prepare({corpus!r}, {out!r}, load_codec({codec!r}), rows_per_shard=3, batch_s=1.5, workers=2)
"""


@pytest.mark.slow
def test_spawned_workers_do_not_run_the_script_again(
    mixed: Path, whole: dict[str, bytes], tiny_codec_dir: Path, tmp_path: Path
) -> None:
    script = _FROM_STDIN.format(corpus=str(mixed), out=str(tmp_path / "out"), codec=str(tiny_codec_dir))
    done = subprocess.run(
        [sys.executable, "-"], input=script, env=ENVIRONMENT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert files_of(tmp_path / "out") == whole


def kill_an_actor(stop: threading.Event, killed: list[int]) -> None:
    """Kill the first Ray worker of ours that is at work, and note how far it gave way to other processes."""
    import psutil

    while not stop.wait(0.05):
        for process in psutil.Process().children(recursive=True):
            try:
                if "_run_on_ray" in " ".join(process.cmdline()):
                    niceness = process.nice()
                    process.kill()
                    killed.append(niceness)
                    return
            except psutil.Error:
                continue


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.parametrize("kill", [False, True])
def test_ray_gives_the_same_rows(kill: bool, tiny_codec: AudioCodec, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason='the engine ray needs the extra "ray"')
    (tmp_path / "many").mkdir()  # enough work for a kill in the middle of it
    soundfile.write(tmp_path / "many/a.flac", speech_like(0.5)[0].numpy(), RATE)
    rows = ["id,file_name,text", *(f"{n},{'a' if n % 9 else 'none'}.flac,Clip {n}." for n in range(400))]
    (tmp_path / "many/metadata.csv").write_text("\n".join(rows))
    prepare(tmp_path / "many", tmp_path / "whole", tiny_codec, rows_per_shard=8)
    stop, killed = threading.Event(), list[int]()
    killer = threading.Thread(target=kill_an_actor, args=(stop, killed))
    os.environ["PYTHONPATH"] = ENVIRONMENT["PYTHONPATH"]
    try:
        if kill:
            killer.start()
        options: dict[str, Any] = {"engine": "ray", "address": "local", "workers": 2, "rows_per_shard": 8}
        prepare(tmp_path / "many", tmp_path / "ray", tiny_codec, **options)
    finally:
        stop.set()
        if kill:
            killer.join()
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "whole")
    assert not ray.is_initialized()
    # Workers of Ray's own niceness (15) would stand still for minutes on a machine that others use.
    assert killed == ([os.nice(0)] if kill else [])


def test_parts_in_one_folder_and_in_folders_of_their_own(
    mixed: Path, whole: dict[str, bytes], tiny_codec: AudioCodec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    for number in (2, 3, 1):
        assert not (tmp_path / "out/manifest.json").exists()
        manifest = prepare(mixed, tmp_path / "out", tiny_codec, part=(number, 3), **OPTIONS)
    assert files_of(tmp_path / "out") == whole and manifest.rows == ROWS - 5
    monkeypatch.setenv("WORLD_SIZE", "2")  # left over from something else: it makes no parts
    for number in (1, 2):
        prepare(mixed, tmp_path / str(number), tiny_codec, part=(number, 2), **OPTIONS)
    for shard in (tmp_path / "2/shards").iterdir():
        shutil.copy(shard, tmp_path / "1/shards")
    seen: list[Progress] = []
    prepare(mixed, tmp_path / "1", tiny_codec, progress=seen.append, **OPTIONS)
    assert files_of(tmp_path / "1") == whole and not seen
    with pytest.raises(ValueError, match="part i of n"):
        prepare(mixed, tmp_path / "3", tiny_codec, part=(0, 2), **OPTIONS)


# ---- folders


@pytest.mark.parametrize(
    "damage",
    [
        lambda out: (out / "dropped.jsonl").unlink(),
        lambda out: (out / "README.md").unlink(),
        lambda out: (out / "shards/test-00001.parquet").unlink(),
        lambda out: (out / "shards/train-00001.parquet").write_bytes(b"PAR1 and nothing else"),
    ],
)
def test_a_rerun_restores_what_is_missing(
    mixed: Path, prepared: Path, tmp_path: Path, tiny_codec: AudioCodec, damage: Callable[[Path], object]
) -> None:
    out = shutil.copytree(prepared, tmp_path / "out")
    (out / "alignments.jsonl").write_text("{}\n")  # other files may lie beside a preparation
    damage(out)
    prepare(mixed, out, tiny_codec, **OPTIONS)
    assert files_of(out) == files_of(prepared) | {"alignments.jsonl": b"{}\n"}


def test_a_damaged_shard_is_named(
    mixed: Path, prepared: Path, tmp_path: Path, tiny_codec: AudioCodec
) -> None:
    out = shutil.copytree(prepared, tmp_path / "out")
    (out / "manifest.json").rename(out / ".plan.json")
    shard = out / "shards/train-00001.parquet"
    data = bytearray(shard.read_bytes())
    data[99] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=r"train-00001\.parquet: damaged"):
        prepare(mixed, out, tiny_codec, **OPTIONS)


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


# ---- programs


def test_command_line(
    corpus: Path, tiny_codec_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["--codec", str(tiny_codec_dir), "--device", "cpu"]
    given = ["prepare", str(corpus), *common, "--out"]
    assert main([*given, str(tmp_path / "out"), "--min-s", "0.4", "--json", "--expect-rows", "5"]) == 0
    captured = capsys.readouterr()
    counts = json.loads(captured.out)
    assert counts["rows"] == 5 and counts["dropped"] == {"too_short": 2}
    assert "encode: 7 of 7 rows" in captured.err
    assert main(["verify", str(tmp_path / "out"), *common]) == 0
    assert main([*given, str(tmp_path / "parts"), "--shard", "1/2"]) == 0
    assert main([*given, str(tmp_path / "parts"), "--shard", "2/2", "--expect-rows", "9"]) == 1
    capsys.readouterr()
    assert main([*given, str(tmp_path / "none"), "--min-s", "9"]) == 1
    captured = capsys.readouterr()
    assert "too_short" in captured.out and "every row was dropped" in captured.err
    assert verify(tmp_path / "none").faults == []
    wrong = {"--split": "dev", "--column": "text=words", "--codec": "none", "--workers": "0", "--n-q": "9"}
    for bad in wrong.items():
        assert main([*given, str(tmp_path / "bad"), *bad]) == 1
        captured = capsys.readouterr()
        assert captured.out == "" and captured.err.count("audiotok: error: ") == 1


@pytest.mark.slow
def test_the_toy_corpus(tiny_codec_dir: Path, tmp_path: Path) -> None:
    script = Path(__file__).parents[1] / "data/toy/prepare.py"
    command = [sys.executable, script, "--out", tmp_path, "--limit", "2", "--codec", tiny_codec_dir]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert PreparedCorpus(tmp_path / "tokens").column("speaker") == ["slt", "bdl"]
