"""The server as a process under load: nothing mixed up, nothing leaked, killed and back, fuzzed by schemathesis.

By name, for it takes minutes: ``pytest -s tests/test_server_slow.py`` prints what it measured. With the shipped model.
"""

from __future__ import annotations

import os
import random
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the server is an extra")
pytest.importorskip("openai", reason="its client is what the server is for")

from lm_toys import toy_synthesizer
from server_toys import client, clip, heard, places, serving

from tts_lm.server.scheduler import ServeLimits
from tts_lm.voices import load_voices

httpx = pytest.importorskip("httpx2", reason="it comes with openai")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
CLIENTS, ROUNDS = 8, 5
SENTENCES = [
    "The garden is quiet this morning and the gate is wide open.",
    "She sold seven shells.",
    "A long road leads from the old town to the harbour by the sea.",
    "Please close the door when you leave the house.",
    "The meeting begins at nine and ends before noon.",
    "He plays the piano every evening.",
    "What time does the next train leave for London?",
    "It was raining.",
]
Asked = tuple[str, str, int]


@dataclass(frozen=True)
class Ready:
    """Seconds until a server answered."""

    wall: float
    on_processor: float
    """The same where nothing else runs: the start is one thread's work."""


@contextmanager
def process(*options: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], str, Ready]]:
    """``tts-lm serve`` on a free port: the process, its address, and how long it took until it answered."""
    began = time.monotonic()
    words = [sys.executable, "-m", "tts_lm.cli.main", "serve", "--port", "0", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    errors = (folder / "errors.txt").open("a")
    server = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        assert address.startswith("http://"), (folder / "errors.txt").read_text()
        assert httpx.get(f"{address}/health").status_code == 200
        yield server, address, Ready(time.monotonic() - began, on_processor(server))
    finally:
        if server.poll() is None:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
        server.stdout.close() if server.stdout else None
        errors.close()


def on_processor(server: subprocess.Popen[str]) -> float:
    """Seconds that a process has been on a processor."""
    ticks = Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def memory_mib(server: subprocess.Popen[str]) -> float:
    status = Path(f"/proc/{server.pid}/status").read_text()
    return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024


def say(caller: Any, asked: Asked) -> bytes:
    text, voice, seed = asked
    more = {"extra_body": {"seed": seed}}
    answer = caller.audio.speech.create(model="tts-1", voice=voice, input=text, response_format="wav", **more)
    return answer.content


def same(one: bytes, other: bytes) -> bool:
    first, second = heard(one)[0], heard(other)[0]
    return first.shape == second.shape and bool(np.abs(first - second).max() < 1e-4)


def test_load(tmp_path: Path) -> None:
    """200 requests of 8 clients, and between them the same one at a time: equal answers, 1.5 times as many of them."""
    asked = [
        (text, voice, seed)
        for seed, voice in enumerate(("slt", "bdl", "lj", "kathleen", "slt"))
        for text in SENTENCES
    ]
    ratios, work, wrong, memory = [], [], 0, []
    with process(folder=tmp_path) as (server, address, _), ThreadPoolExecutor(CLIENTS) as clients:
        with client(address).with_options(timeout=600) as caller:
            say(caller, asked[0])  # warm
            for nth in range(ROUNDS):
                mine = asked[len(SENTENCES) * nth : len(SENTENCES) * (nth + 1)]
                began, spent = time.monotonic(), on_processor(server)
                singles = {one: say(caller, one) for one in mine}
                alone, cost = (
                    len(mine) / (time.monotonic() - began),
                    (on_processor(server) - spent) / len(mine),
                )
                many = mine * 5
                random.Random(nth).shuffle(many)
                began, spent = time.monotonic(), on_processor(server)
                answers = list(clients.map(lambda one: say(caller, one), many))
                ratios.append(len(many) / (time.monotonic() - began) / alone)
                work.append(cost * len(many) / (on_processor(server) - spent))
                wrong += sum(not same(got, singles[one]) for one, got in zip(many, answers, strict=True))
                memory.append(memory_mib(server))
        left = httpx.get(f"{address}/health").json()["queue"]
        sums = dict(re.findall(r"^(\S+) (\S+)$", httpx.get(f"{address}/metrics").text, flags=re.MULTILINE))
    batch = float(sums["tts_lm_batch_sum"]) / float(sums["tts_lm_batch_count"])
    ratio = statistics.median(ratios)
    print(
        f"\n{ROUNDS * 40} requests of {CLIENTS} clients: {wrong} wrong, {left} places left taken, resident "
        f"{', '.join(f'{m:.0f}' for m in memory)} MiB, {ratio:.2f} times one at a time "
        f"({', '.join(f'{r:.2f}' for r in ratios)}), {statistics.median(work):.2f} times for the same time on a "
        f"processor, {batch:.1f} sentences at once"
    )
    assert wrong == 0 and left == 0 and len(ratios) == ROUNDS
    assert memory[-1] < 1.05 * memory[1] + 10
    assert ratio >= 1.5


def test_killed_under_load_it_comes_back_whole(tmp_path: Path) -> None:
    folder = tmp_path / "voices"
    ready: list[Ready] = []
    kept = 0
    for turn in range(3):
        with process("--voices-dir", str(folder), folder=tmp_path) as (server, address, seconds):
            ready.append(seconds)
            listed = httpx.get(f"{address}/v1/voices").json()["data"]
            assert sum(voice["added"] for voice in listed) >= kept
            stop, confirmed = threading.Event(), threading.Event()

            def load(
                nth: int,
                address: str = address,
                stop: threading.Event = stop,
                confirmed: threading.Event = confirmed,
                turn: int = turn,
            ) -> int:
                done = 0
                while not stop.is_set():
                    try:
                        if nth < 4:
                            with client(address) as caller:
                                say(caller, (SENTENCES[nth], "bdl", nth))
                            continue
                        data = {"name": f"v{turn}-{nth}-{done}", "text": "so many words of hers"}
                        data["consent"] = "she agreed to it in writing"
                        files = {"file": ("a.wav", clip(1.5))}
                        done += httpx.post(f"{address}/v1/voices", data=data, files=files).status_code == 201
                        confirmed.set() if done else None
                        if done > 3:
                            return done
                    except Exception:  # the connection broke, as it must
                        stop.wait(0.1)
                return done

            with ThreadPoolExecutor(6) as clients:
                loads = [clients.submit(load, nth) for nth in range(6)]
                assert confirmed.wait(120)  # on a machine that has other work
                time.sleep(0.5 * turn)
                server.kill()
                server.wait()
                stop.set()
                kept += sum(one.result() for one in loads)
        assert len(load_voices(folder)) >= kept
    with process("--voices-dir", str(folder), folder=tmp_path) as (_, address, seconds):
        ready.append(seconds)
        names = {v["id"] for v in httpx.get(f"{address}/v1/voices").json()["data"] if v["added"]}
        assert len(names) >= kept > 0
        assert names == set(load_voices(folder))
    times = ", ".join(f"{one.wall:.1f} ({one.on_processor:.1f} on a processor)" for one in ready)
    print(f"\nready after {times} s; {kept} voices confirmed, {len(names)} there")
    assert max(one.on_processor for one in ready) < 10


HOOKS = """
import schemathesis

@schemathesis.hook
def map_body(context, body):
    if isinstance(body, dict) and len(str(body)) % 4:  # most get past the first look
        known = {"model": "toy", "voice": "bdl"}
        return body | {key: value for key, value in known.items() if key in body}
    return body
"""


def test_schemathesis_finds_no_failure_of_ours(tiny_codec: Any, tmp_path: Path) -> None:
    """At least 2,000 requests made from the OpenAPI document: none is a 5xx, each answer is as the document says."""
    pytest.importorskip("schemathesis", reason="of the developers' environment")
    (tmp_path / "hooks.py").write_text(HOOKS)
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    options = [
        "--checks",
        checks,
        "--max-examples",
        "450",
        "--phases",
        "examples,coverage,fuzzing",
        "--seed",
        "1",
    ]
    options += ["--continue-on-failure", "--suppress-health-check", "all", "--warnings", "off"]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(tmp_path)}
    with serving(toy_synthesizer(tiny_codec), ServeLimits(text_letters=200, voices=4)) as (address, app):
        words = [sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json", *options]
        run = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=3000
        )
        counted = re.findall(
            r'^tts_lm_request_seconds_count\{route="(.*)",status="(\d+)"\} (\S+)$',
            httpx.get(f"{address}/metrics").text,
            flags=re.MULTILINE,
        )
        assert places(app) == 0 and app.state.server.scheduler.alive
    statuses = {route: {} for route, _, _ in counted}
    for route, status, count in counted:
        statuses[route][status] = int(float(count))
    cases = sum(sum(found.values()) for found in statuses.values())
    print(f"\n{cases} requests: {statuses}")
    assert run.returncode == 0, run.stdout[-6000:]
    assert not [status for found in statuses.values() for status in found if status.startswith("5")]
    assert cases >= 2000 and statuses["/v1/audio/speech"]["200"] >= 20
