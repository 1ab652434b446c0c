"""Preparation at size: kills at random moments, and Ray. Run by name."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from test_prepare import ENVIRONMENT, RATE, files_of, write_folder

from audiotok import AudioCodec, prepare

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
