"""docs/how-to/serve.md runs as it stands, against a server of tiny parts; ``tts-lm serve`` starts and stops."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the server is an extra")
pytest.importorskip("openai", reason="the page speaks through it")
pytest.importorskip("httpx2", reason="it comes with openai")

import httpx2
from lm_toys import toy_synthesizer
from pages import ROOT, read_blocks
from server_toys import clip, heard, serving

from tts_lm.cli.main import main

ADDRESS = "http://127.0.0.1:8000"


def test_the_page_can_be_worked_through(tiny_codec, tmp_path, monkeypatch, capsys):
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
    assert "Generated speech" in printed and "'id': 'anna'" in printed and "bytes of wav" in printed
    assert heard(Path("morning.mp3").read_bytes())[0].size and heard(Path("morning.wav").read_bytes())[0].size
    assert Path("morning.pcm").stat().st_size > 1000


def test_the_table_of_limits_is_that_of_the_code():
    from tts_lm.cli.main import build_parser
    from tts_lm.cli.serve import SLOW_CONNECTIONS
    from tts_lm.server.security import BODY_SECONDS
    from tts_lm.server.limits import ServeLimits
    from tts_lm.server.routes import VOICE_CLIP_SECONDS
    from tts_lm.server.wire import PATIENCE_SECONDS

    args, limits = build_parser("serve").parse_args(["serve"]), ServeLimits()
    given = (args.queue, args.batch, args.letters, args.timeout)
    assert given == (limits.queue, limits.batch, limits.text_letters, limits.timeout_seconds)
    page = (ROOT / "docs/how-to/serve.md").read_text(encoding="utf-8")
    rows = [
        line.split("|")[2].strip()
        for line in page.splitlines()
        if re.match(r"\| (requests|letters|bytes|seconds|connections)", line)
    ]
    assert rows == [
        f"`--queue`, {limits.queue}",
        f"`--letters`, {limits.text_letters}",
        f"{limits.upload_bytes >> 20} MiB",
        f"{limits.clip_seconds:g}; {VOICE_CLIP_SECONDS:g} of a voice",
        f"`--timeout`, {limits.timeout_seconds:g}",
        f"{BODY_SECONDS:g}",
        f"{PATIENCE_SECONDS:g}",
        f"`--queue` and {SLOW_CONNECTIONS}",
    ]
    assert f"{limits.voices} at most" in page


def test_the_program_serves_and_stops(tiny_codec, tmp_path):
    toy_synthesizer(tiny_codec).save_pretrained(tmp_path / "toy-model")
    words = [
        sys.executable,
        "-m",
        "tts_lm.cli.main",
        "serve",
        "--model",
        str(tmp_path / "toy-model"),
        "--port",
        "0",
    ]
    server = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", address)
        asked = {"model": "toy-model", "voice": "bdl", "input": "Hello there.", "response_format": "flac"}
        assert heard(httpx2.post(f"{address}/v1/audio/speech", json=asked).content)[0].size
        assert httpx2.get(f"{address}/health", headers={"Host": "evil.example"}).status_code == 403
        port = address.rpartition(":")[2]
        assert main(["serve", "--port", port]) == 1  # it is taken, which is found out at once
    finally:
        server.send_signal(signal.SIGTERM)
        _, said = server.communicate(timeout=60)
    assert server.returncode == 0 and said == "tts-lm: stopped\n"
