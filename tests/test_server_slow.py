"""Requests from schemathesis. They take minutes and run by name only: ``pytest tests/test_server_slow.py``."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="the server is an extra")
pytest.importorskip("openai", reason="the server is tested through its client")

from server_toys import places, serving, toy

from tts_lm.server.scheduler import ServeLimits

httpx = pytest.importorskip("httpx2", reason="it comes with openai")
pytestmark = pytest.mark.slow
HOOKS = """
import schemathesis

@schemathesis.hook
def map_body(context, body):  # most requests name the model and a voice
    is_known = isinstance(body, dict) and {"model", "voice"} <= set(body) and len(str(body)) % 4
    return body | {"model": "toy", "voice": "bdl"} if is_known else body
"""


def test_schemathesis_finds_no_failure(tmp_path: Path) -> None:
    """At least 1,000 requests made from the OpenAPI document: none is a 5xx."""
    pytest.importorskip("schemathesis", reason="of the developers' environment")
    (tmp_path / "hooks.py").write_text(HOOKS)
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    options = f"--checks {checks} --max-examples 300 --phases examples,coverage,fuzzing --seed 1"
    options += " --warnings off --continue-on-failure --suppress-health-check all"
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "hooks", "PYTHONPATH": str(tmp_path)}
    with serving(toy(), ServeLimits(text_letters=200, voices=4)) as (address, app):
        words = [sys.executable, "-m", "schemathesis.cli", "run", f"{address}/openapi.json", *options.split()]
        settings: dict[str, Any] = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True}
        run = subprocess.run(words, timeout=3000, **settings)
        pattern = r'^tts_lm_request_seconds_count\{route=".*",status="(\d+)"\} (\S+)$'
        counted = re.findall(pattern, httpx.get(f"{address}/metrics").text, flags=re.MULTILINE)
        assert places(app) == 0 and app.state.server.scheduler.alive
    assert run.returncode == 0, run.stdout[-6000:]
    assert not [status for status, _ in counted if status.startswith("5")]
    assert sum(float(count) for _, count in counted) >= 1000
