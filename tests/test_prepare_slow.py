"""Preparation at size: kills, broken inputs, Ray, memory, a million rows. Run by name."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from test_corpus_checks import unknown_length_flac
from test_corpus_reader import build, reindex
from test_prepare import ENVIRONMENT, RATE, dropped_of, files_of, write_folder

from audiotok import AudioCodec, PreparedCorpus, prepare
from audiotok.corpus import Manifest

pytestmark = pytest.mark.slow
OPTIONS: dict[str, Any] = {"rows_per_shard": 8, "batch_s": 2.0}


def speak(folder: Path, make_speech: Callable[..., torch.Tensor], different: int, clips: int) -> list[str]:
    """``clips`` files of which so many differ: the others are further names of the same."""
    folder.mkdir()
    names = []
    for number in range(clips):
        name = f"{number:05d}.flac"
        if number < different:
            sound = make_speech(0.3 + 0.05 * (number % 10), seed=number)[0].numpy()
            soundfile.write(folder / name, sound, RATE)
        else:
            os.link(folder / names[number % different], folder / name)
        names.append(name)
    return names


def table(folder: Path, names: list[str]) -> Path:
    return write_folder(folder, [(name, f"Clip {name[:5]}.") for name in names])


def run_apart(work: Callable[[], object], kill_after_s: float | None) -> bool:
    """Work in a forked process. Returns whether it finished before it was killed."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            os._exit(1)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
    return os.waitstatus_to_exitcode(status) == 0


def test_twenty_kills_at_random_moments(
    tmp_path: Path, tiny_codec: AudioCodec, make_speech: Callable[..., torch.Tensor]
) -> None:
    torch.set_num_threads(1)  # a forked process has no other thread
    names = speak(tmp_path / "speech", make_speech, 40, 160)
    (tmp_path / "speech/00007.flac").unlink()
    corpus = table(tmp_path / "speech", names)
    prepare(corpus, tmp_path / "whole", tiny_codec, **OPTIONS)
    whole = files_of(tmp_path / "whole")
    began = time.monotonic()
    assert run_apart(lambda: prepare(corpus, tmp_path / "timed", tiny_codec, **OPTIONS), None)
    taken_s = time.monotonic() - began
    rng = random.Random(0)
    kills = finished = 0
    out = tmp_path / "out0"
    while kills < 20:
        # Short runs after long ones, so that kills fall on the start, the middle and the end of the work.
        if run_apart(
            lambda out=out: prepare(corpus, out, tiny_codec, **OPTIONS), taken_s * rng.uniform(0, 0.6)
        ):
            assert files_of(out) == whole
            finished += 1
            out = tmp_path / f"out{finished}"
        else:
            kills += 1
    prepare(corpus, out, tiny_codec, **OPTIONS)
    assert files_of(out) == whole


def break_clip(kind: str, path: Path, sound: np.ndarray) -> str:
    """Write a broken clip; the file name that its row gives."""
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "truncated":
        soundfile.write(path, sound, RATE)
        path.write_bytes(path.read_bytes()[:-200])
    elif kind == "wrong suffix":
        path.write_text("This is a transcript, not its sound. " * 20)
    elif kind == "NaN":
        sound = sound.copy()
        sound[100] = np.nan
        soundfile.write(path, sound, RATE, format="WAV", subtype="FLOAT")
    elif kind == "silence":
        soundfile.write(path, 0 * sound, RATE)
    elif kind == "bomb":
        soundfile.write(path, np.zeros(1200 * RATE, dtype=np.int16), RATE)
    elif kind == "hidden bomb":
        unknown_length_flac(path, 300)
    elif kind == "no text":
        soundfile.write(path, sound, RATE)
    elif kind == "folder":
        path.mkdir()
    elif kind == "traversal":
        return f"../speech/../{path.name}"
    return path.name


REASONS = {
    "empty": "unreadable",
    "truncated": "unreadable",
    "wrong suffix": "unreadable",
    "NaN": "not_finite",
    "silence": "silent",
    "bomb": "too_long",
    "hidden bomb": "too_long",
    "no text": "no_text",
    "folder": "missing_file",
    "traversal": "outside_folder",
}


def test_five_hundred_broken_among_five_thousand(
    tmp_path: Path, tiny_codec: AudioCodec, make_speech: Callable[..., torch.Tensor]
) -> None:
    folder = tmp_path / "speech"
    good = speak(folder, make_speech, 20, 4500)
    sound = make_speech(0.8)[0].numpy()
    expected, rows = {}, [(name, "A good clip.") for name in good]
    kinds = list(REASONS)
    for number in range(500):
        kind = kinds[number % len(kinds)]
        name = break_clip(kind, folder / f"bad{number:03d}.flac", sound)
        expected[name] = REASONS[kind]
        rows.append((name, "" if kind == "no text" else "A bad clip."))
    random.Random(0).shuffle(rows)
    write_folder(folder, rows)
    manifest = prepare(folder, tmp_path / "out", tiny_codec)
    assert dropped_of(tmp_path / "out") == expected
    assert manifest.rows == 4500 and manifest.dropped == dict(sorted(Counter(expected.values()).items()))
    assert sorted(PreparedCorpus(tmp_path / "out").column("id")) == sorted(good)


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


@pytest.mark.filterwarnings("ignore")  # Ray's own
@pytest.mark.parametrize("kill", [False, True])
def test_ray_gives_the_same_rows(
    kill: bool, tmp_path: Path, tiny_codec: AudioCodec, make_speech: Callable[..., torch.Tensor]
) -> None:
    ray = pytest.importorskip("ray", reason='the engine ray needs the extra "ray"')
    names = speak(tmp_path / "speech", make_speech, 20, 400)
    (tmp_path / "speech/00007.flac").unlink()
    corpus = table(tmp_path / "speech", names)
    prepare(corpus, tmp_path / "whole", tiny_codec, **OPTIONS)
    stop, killed = threading.Event(), list[int]()
    killer = threading.Thread(target=kill_an_actor, args=(stop, killed))
    os.environ["PYTHONPATH"] = ENVIRONMENT["PYTHONPATH"]
    try:
        if kill:
            killer.start()
        prepare(corpus, tmp_path / "ray", tiny_codec, engine="ray", address="local", workers=2, **OPTIONS)
    finally:
        stop.set()
        if kill:
            killer.join()
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "whole")
    assert not ray.is_initialized()
    # Workers of Ray's own niceness (15) would stand still for minutes on a machine that others use.
    assert killed == ([os.nice(0)] if kill else [])


@pytest.mark.parametrize("workers", [2, 4])
def test_workers_give_the_same_rows_also_if_one_is_killed(
    workers: int, tmp_path: Path, tiny_codec: AudioCodec, make_speech: Callable[..., torch.Tensor]
) -> None:
    import psutil

    names = speak(tmp_path / "speech", make_speech, 20, 400)
    corpus = table(tmp_path / "speech", names)
    prepare(corpus, tmp_path / "whole", tiny_codec, **OPTIONS)
    killed = []

    def kill_one(progress: Any) -> None:
        if progress.seconds > 20 and not killed:
            killed.append(psutil.Process().children()[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    prepare(corpus, tmp_path / "many", tiny_codec, workers=workers, progress=kill_one, **OPTIONS)
    assert files_of(tmp_path / "many") == files_of(tmp_path / "whole") and killed


_MEASURED = """
import resource, sys
from audiotok import load_codec, prepare
prepare(sys.argv[1], sys.argv[2], load_codec(sys.argv[3]), rows_per_shard=64)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_ten_times_the_rows_take_no_more_memory(
    tmp_path: Path, tiny_codec_dir: Path, make_speech: Callable[..., torch.Tensor]
) -> None:
    peaks = []
    for clips in (200, 2000):
        folder = tmp_path / f"speech{clips}"
        corpus = table(folder, speak(folder, make_speech, 20, clips))
        command = [
            sys.executable,
            "-c",
            _MEASURED,
            str(corpus),
            str(tmp_path / f"out{clips}"),
            str(tiny_codec_dir),
        ]
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout))
    print(f"peak memory: {peaks[0]} kB for 200 rows, {peaks[1]} kB for 2,000")
    assert peaks[1] < 1.10 * peaks[0]


def test_a_million_rows_give_their_first_batch_at_once(tmp_path: Path, tiny_codec: AudioCodec) -> None:
    folder = build(tmp_path / "tokens", tiny_codec, shards=9, rows=1024)
    manifest = Manifest.load(folder)
    originals = manifest.shards[:8]
    manifest.shards = []
    for number in range(977):
        original = originals[number % 8]
        file = f"{number + 100:05d}.parquet"
        os.link(folder / "shards" / original["file"], folder / "shards" / file)
        manifest.shards.append(original | {"file": file})
    manifest.rows = sum(shard["rows"] for shard in manifest.shards)
    assert manifest.rows >= 1_000_000
    manifest.save(folder)
    reindex(folder, [folder / "shards" / shard["file"] for shard in manifest.shards])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    began = time.monotonic()
    batch = next(PreparedCorpus(folder, "train").batches(20_000, seed=1))
    taken_s = time.monotonic() - began
    cpu_s = resource.getrusage(resource.RUSAGE_SELF).ru_utime - before
    print(f"first of {manifest.rows} rows' batches: {taken_s:.2f} s, {cpu_s:.2f} s of a core")
    assert len(batch.rows) > 50 and cpu_s < 5
    shutil.rmtree(folder)
