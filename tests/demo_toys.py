"""``tts-lm demo`` as a process, for its tests."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]


@contextmanager
def page_process(*options: str, **environment: str) -> Iterator[str]:
    """Start it on a free port, by default with the shipped model; yields its address."""
    command = [sys.executable, "-m", "tts_lm.cli.main", "demo", "--port", "0", *options]
    settings = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    process = subprocess.Popen(command, env=settings, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], 240)
        assert ready, "expected an address within 240 s, got none"
        yield process.stdout.readline().strip().rstrip("/")
    finally:
        process.terminate()
        assert process.wait(120) in (0, 143)
        process.stdout.close() if process.stdout else None
