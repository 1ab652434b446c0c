"""The README's code runs, offline, as it stands there.

Blocks marked ``python`` and ``sh`` are run in a new folder with the network refused. Blocks marked ``bash``
install things or need data: their ``audiotok`` and ``tts-lm`` lines are parsed; ``.ci/run`` runs the two
that install.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)
PROGRAMS = {"audiotok": "audiotok.cli.main", "tts-lm": "tts_lm.cli.main"}

_NO_NETWORK = """
import socket

def _refuse(self, address, *_):
    if self.family != socket.AF_UNIX:
        raise OSError(f"the network is refused here: {address}")

socket.socket.connect = _refuse
socket.socket.connect_ex = _refuse
"""


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCKS if name == language]


@pytest.fixture
def offline(tmp_path) -> dict[str, str]:
    """Environment of a process that finds the programs and this checkout, and no network."""
    (tmp_path / "bin").mkdir()
    for program, module in PROGRAMS.items():
        script = tmp_path / "bin" / program
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        script.chmod(0o755)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(_NO_NETWORK)
    return {
        **os.environ,
        "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{ROOT}",
    }


def run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.splitlines()[0])
def test_python_runs(code, tmp_path, offline):
    assert run([sys.executable, "-c", code], tmp_path, offline).strip()


@pytest.mark.parametrize("script", blocks("sh"), ids=lambda script: script.splitlines()[0])
def test_shell_runs(script, tmp_path, offline):
    run(["bash", "-euo", "pipefail", "-c", script], tmp_path, offline)
    written = [word for word in shlex.split(script) if word.endswith(".wav")]
    for name in written:
        assert soundfile.info(tmp_path / name).samplerate == 16_000


def test_every_command_is_one_the_programs_take():
    from audiotok.cli.main import build_parser as audiotok_parser
    from audiotok.training.entropy import is_entropy_recipe, load_entropy_recipe
    from audiotok.training.recipe import load_codec_recipe
    from tts_lm.cli.main import build_parser as tts_lm_parser
    from tts_lm.training.recipe import load_lm_recipe

    parsers = {"audiotok": audiotok_parser, "tts-lm": tts_lm_parser}
    lines = [re.sub(r" [<>] \S+", "", line) for _, text in BLOCKS for line in re.split(r"\n|&& ?|\| ?", text)]
    commands = [shlex.split(line) for line in lines if line.strip().split(" ")[0] in parsers]
    assert len(commands) >= 10
    for program, verb, *rest in commands:
        args = parsers[program](verb).parse_args([verb, *rest])
        if verb == "train":
            recipe = {"audiotok": load_codec_recipe, "tts-lm": load_lm_recipe}[program]
            recipe = load_entropy_recipe if is_entropy_recipe(args.recipe) else recipe
            assert recipe(args.recipe, args.set).seed >= 0


def test_the_first_screen_speaks_and_shows_code():
    lines = README.splitlines()
    assert "tts-lm say" in "".join(lines[:12]) and "```python" in lines[:12]
    # One line each, to paste: a fresh clone speaks with the first and tests with the second.
    first, second = re.findall(r"^python3 -m venv .*$", README, flags=re.MULTILINE)
    assert "-c constraints.txt" in first and first.endswith("-o hello.wav")
    assert "-c constraints.txt" in second and second.endswith("pytest")


def test_paths_named_in_the_tree_exist():
    (tree,) = blocks("")
    folder = ""
    for line in tree.splitlines():
        first = line.split()[0]
        if not line.startswith(" "):
            folder = first
        places = (
            [folder]
            if first == folder
            else [folder + w for w in line.split() if re.fullmatch(r"\w+(\.py|/)", w)]
        )
        for place in places:
            assert (ROOT / place).exists(), place


def test_no_machine_or_index_is_named():
    text = (ROOT / "constraints.txt").read_text()
    assert all(
        re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in text.splitlines() if not line.startswith("#")
    )
    assert "torch==2.13.0" in text.splitlines()
    assert not re.search(
        r"https?://|--(extra-)?index|--find-links", text + (ROOT / "pyproject.toml").read_text()
    )
