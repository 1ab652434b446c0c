"""The server as a process with the shipped model: load, kill and restart, and requests from schemathesis.

It takes minutes and runs by name only: ``pytest tests/test_server_slow.py``.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the server is an extra")
pytest.importorskip("openai", reason="the server is tested through its client")

from lm_toys import toy_synthesizer
from server_toys import client, clip, heard, places, serving

from tts_lm.server.scheduler import ServeLimits
from tts_lm.voices import load_voices

httpx = pytest.importorskip("httpx2", reason="it comes with openai")
pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[1]
CLIENTS, ROUNDS = 8, 3
SENTENCES = [
    "The garden is quiet this morning and the gate is wide open.",
    "She sold seven shells.",
    "A long road leads from the old town to the harbour by the sea.",
    "He plays the piano every evening.",
    "What time does the next train leave for London?",
]
Asked = tuple[str, str, int]


@contextmanager
def process(*options: str, folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``tts-lm serve`` on a free port: the process and its address."""
    words = [sys.executable, "-m", "tts_lm.cli.main", "serve", "--port", "0", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (folder / "errors.txt").open("a") as errors:
        server = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            assert address.startswith("http://"), (folder / "errors.txt").read_text()
            yield server, address
        finally:
            if server.poll() is None:
                server.send_signal(signal.SIGTERM)
                server.wait(60)
            server.stdout.close() if server.stdout else None


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
    """Eight clients at once get the same answers as one at a time, and memory does not grow."""
    memory = []
    with process(folder=tmp_path) as (server, address), ThreadPoolExecutor(CLIENTS) as clients:
        with client(address).with_options(timeout=600) as caller:
            for seed in range(ROUNDS):
                asked = [(text, ("slt", "bdl")[seed % 2], seed) for text in SENTENCES]
                alone = {one: say(caller, one) for one in asked}
                many = asked * 5
                random.Random(seed).shuffle(many)
                answers = list(clients.map(lambda one: say(caller, one), many))
                assert all(same(got, alone[one]) for one, got in zip(many, answers, strict=True))
                memory.append(memory_mib(server))
        assert httpx.get(f"{address}/health").json()["queue"] == 0
        sums = dict(re.findall(r"^(\S+) (\S+)$", httpx.get(f"{address}/metrics").text, flags=re.MULTILINE))
    batch = float(sums["tts_lm_batch_sum"]) / float(sums["tts_lm_batch_count"])
    print(f"\n{batch:.1f} sentences a batch, resident {', '.join(f'{m:.0f}' for m in memory)} MiB")
    assert batch > 2 and memory[-1] < 1.05 * memory[0] + 20


def test_killed_under_load_it_comes_back_whole(tmp_path: Path) -> None:
    """Every voice that was confirmed is there after a kill -9, and none is half written."""
    folder, kept = tmp_path / "voices", 0
    for turn in range(3):
        with process("--voices-dir", str(folder), folder=tmp_path) as (server, address):
            listed = httpx.get(f"{address}/v1/voices").json()["data"]
            assert sum(voice["added"] for voice in listed) >= kept
            stop, confirmed = threading.Event(), threading.Event()

            def load(
                nth: int, address: str = address, turn: int = turn, stop=stop, confirmed=confirmed
            ) -> int:
                done = 0
                while not stop.is_set() and done < 4:
                    try:
                        if nth < 4:
                            with client(address) as caller:
                                say(caller, (SENTENCES[nth], "bdl", nth))
                            continue
                        data = {"name": f"v{turn}-{nth}-{done}", "text": "so many words of hers"}
                        data["consent"] = "she agreed to it in writing"
                        files = {"file": ("a.wav", clip(1.5))}
                        url = f"{address}/v1/voices"
                        done += httpx.post(url, data=data, files=files, timeout=300).status_code == 201
                        confirmed.set() if done else None
                    except Exception:  # the connection broke
                        stop.wait(0.1)
                return done

            with ThreadPoolExecutor(6) as clients:
                loads = [clients.submit(load, nth) for nth in range(6)]
                try:
                    assert confirmed.wait(300)
                    time.sleep(0.5 * turn)
                    server.kill()
                    server.wait()
                finally:
                    stop.set()
                kept += sum(one.result() for one in loads)
        assert len(load_voices(folder)) >= kept
    with process("--voices-dir", str(folder), folder=tmp_path) as (_, address):
        names = {v["id"] for v in httpx.get(f"{address}/v1/voices").json()["data"] if v["added"]}
    assert len(names) >= kept > 0 and names == set(load_voices(folder))


HOOKS = """
import schemathesis

@schemathesis.hook
def map_body(context, body):
    if isinstance(body, dict) and len(str(body)) % 4:  # most requests name the model and a voice
        known = {"model": "toy", "voice": "bdl"}
        return body | {key: value for key, value in known.items() if key in body}
    return body
"""


def test_schemathesis_finds_no_failure(tiny_codec: Any, tmp_path: Path) -> None:
    """At least 1,000 requests made from the OpenAPI document: none is a 5xx."""
    pytest.importorskip("schemathesis", reason="of the developers' environment")
    (tmp_path / "hooks.py").write_text(HOOKS)
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    options = (
        f"--checks {checks} --max-examples 300 --phases examples,coverage,fuzzing --seed 1 --warnings off"
    )
    options += " --continue-on-failure --suppress-health-check all"
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(tmp_path)}
    with serving(toy_synthesizer(tiny_codec), ServeLimits(text_letters=200, voices=4)) as (address, app):
        words = [sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json", *options.split()]
        run = subprocess.run(
            words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=3000
        )
        counted = re.findall(
            r'^tts_lm_request_seconds_count\{route="(.*)",status="(\d+)"\} (\S+)$',
            httpx.get(f"{address}/metrics").text,
            flags=re.MULTILINE,
        )
        assert places(app) == 0 and app.state.server.scheduler.alive
    print(f"\n{counted}")
    assert run.returncode == 0, run.stdout[-6000:]
    assert not [status for _, status, _ in counted if status.startswith("5")]
    assert sum(float(count) for _, _, count in counted) >= 1000
