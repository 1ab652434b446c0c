"""The examples of docs/how-to/serve.md run against a small server; ``tts-lm serve`` starts and stops."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the server is an extra")
pytest.importorskip("openai", reason="the examples use its client")
pytest.importorskip("httpx2", reason="it comes with openai")

import httpx2
from lm_toys import toy_synthesizer
from pages import ROOT, read_blocks
from server_toys import clip, heard, serving

from tts_lm.cli.main import main

ADDRESS = "http://127.0.0.1:8000"


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page calls curl")
def test_the_examples_run(tiny_codec, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("clip.wav").write_bytes(clip(2.0))
    names: dict[str, object] = {"__name__": "__main__"}
    with serving(toy_synthesizer(tiny_codec), model="tts-lm") as (address, _):
        for block in read_blocks(ROOT / "docs/how-to/serve.md"):
            text = block.text.replace(ADDRESS, address)
            if block.language == "python":
                exec(compile("\n" * (block.line - 1) + text, block.page, "exec"), names)
            elif block.language == "sh":
                subprocess.run(shlex.split(text), check=True, timeout=60)
        names["server"].close()  # type: ignore[attr-defined]
    printed = capsys.readouterr().out
    assert "Generated speech" in printed and "'id': 'anna'" in printed
    assert heard(Path("morning.mp3").read_bytes())[0].size and heard(Path("morning.wav").read_bytes())[0].size
    assert Path("morning.pcm").stat().st_size > 1000


def test_the_program_serves_and_stops(tiny_codec, tmp_path):
    toy_synthesizer(tiny_codec).save_pretrained(tmp_path / "toy-model")
    command = [
        sys.executable,
        "-m",
        "tts_lm.cli.main",
        "serve",
        "--model",
        str(tmp_path / "toy-model"),
        "--port",
        "0",
    ]
    command += ["--cors-origin", "https://app.example/"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address)
        asked = {"model": "toy-model", "voice": "bdl", "input": "Hello there.", "response_format": "flac"}
        site = {"Origin": "https://app.example"}
        answer = httpx2.post(f"{address}/v1/audio/speech", json=asked, headers=site, timeout=60)
        assert heard(answer.content)[0].size and answer.headers["access-control-allow-origin"]
        assert httpx2.get(f"{address}/health", headers={"Host": "evil.example"}).status_code == 403
        assert main(["serve", "--port", address.rpartition(":")[2]]) == 1  # the port is in use
    finally:
        server.send_signal(signal.SIGTERM)
        _, said = server.communicate(timeout=60)
    assert server.returncode == 0 and said == "tts-lm: stopped\n"
    assert main(["serve", "--port", "0", "--cors-origin", "app.example"]) == 1
