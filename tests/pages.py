"""Runs the code of a page of Markdown from top to bottom, as its reader would: offline, in an empty folder, small.

What a fence is marked with says what becomes of it. ``python`` is executed, all blocks of a page in one namespace.
``sh`` is executed, line by line. ``bash`` is not executed, for it installs things, needs an accelerator, several
machines, a microphone's hours or someone else's data: the command lines of the two programs in it are still parsed
by the real parsers and their recipes loaded, so every verb, option, recipe and key in it exists.

A plain command of ``audiotok`` or ``tts-lm`` runs in this process (importing torch anew takes longer than most of
them); what has pipes or redirections runs in bash, where the two names start this file. Both run in tiny form:
what would take minutes (trainings, benchmarks) gets the options of ``TINY`` behind its own. Machines that play,
record or reach another host are scripts here: ``aplay`` swallows, ``arecord`` plays clip.wav, ``ssh`` stays here.
``data/generate.py`` needs flite, so it is not run: the test lays out the folder that it would make.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAMS = {"audiotok": "audiotok.cli.main", "tts-lm": "tts_lm.cli.main"}
_SMALL_LM = (
    "model.hidden_size=32 model.layers=2 model.heads=2 model.intermediate_size=48 attention.layers=[0,1]"
)
_CODEC = ["--set", "steps=6", "--set", "quantize_from=2", "--set", "kmeans_crops=16", "--set", "batch=2"]
_LM = [word for key in "max_steps=2 max_minutes=0 data.batch_tokens=900".split() for word in ("--set", key)]
_NEW_LM = [*_LM, *(word for key in _SMALL_LM.split() for word in ("--set", key))]
# What a command's line begins with -> what is put behind it.
TINY = {
    "audiotok train entropy": ["--set", "steps=2", "--set", "batch=2"],
    "audiotok train speech-16k-decoder": ["--set", "steps=2", "--set", "batch=2"],
    "audiotok train": [*_CODEC, "--set", "own_pitch_from=3", "--set", "adversarial_from=4", "--set", "eval_every=6"],
    "audiotok prepare my-speech --out part": ["--rows-per-shard", "2"],
    "audiotok bench": ["--seconds", "0.5", "--repeats", "1", "--against", "encodec"],
    "audiotok eval": ["--limit", "1", "--n-q", "2", "--workers", "0"],
    "tts-lm train": _LM,
    "tts-lm bench": ["--rounds", "1"],
    "tts-lm eval": ["--limit", "1", "--workers", "1"],
}  # fmt: skip
_MACHINES = {
    "aplay": "cat > /dev/null",
    "arecord": "cat clip.wav",
    "ssh": 'shift; exec "$@"',
}
_NO_NETWORK = """
import socket

def _refuse(self, address, *_):
    if self.family != socket.AF_UNIX:
        raise OSError(f"the network is refused here: {address}")

socket.socket.connect = _refuse
socket.socket.connect_ex = _refuse
"""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: str
    line: int
    """Of its first line of code, counted from 1."""
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def read_blocks(page: Path) -> list[Block]:
    """The fenced blocks of a Markdown file, in order."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)
    return [Block(page.name, text[: m.start(2)].count("\n") + 1, m[1], m[2]) for m in found]


def simple_commands(script: str) -> Iterator[tuple[list[str], str | None]]:
    """The commands of a script, in order: words, and the whole line where only a shell understands it."""
    for line in script.replace("\\\n", " ").splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer)
        if not words:
            continue
        plain = not any(set(word) <= set("();<>|&") and word != "&&" for word in words) and "$" not in line
        parts: list[list[str]] = [[]]
        for word in words:
            if set(word) <= set("();<>|&"):
                parts.append([])
            else:
                parts[-1].append(word)
        for part in parts:
            yield part, None if plain else line


def programs_lines(blocks: list[Block]) -> list[tuple[Block, list[str]]]:
    """Every command of the two programs in shell blocks: words, ``accelerate launch`` and the like taken off."""
    found = []
    for block in blocks:
        if block.language in ("sh", "bash"):
            for words, _ in simple_commands(block.text):
                for program, module in PROGRAMS.items():
                    if module in words:
                        words = [program, *words[words.index(module) + 1 :]]
                if words and words[0] not in PROGRAMS and (names := set(words) & set(PROGRAMS)):
                    words = words[min(words.index(name) for name in names) :]  # ssh HOST audiotok ...
                if words and words[0] in PROGRAMS:
                    found.append((block, words))
    return found


def parse(words: list[str]) -> None:
    """Have the real parser read a command line, and load the recipe that it names.

    Raises:
        SystemExit: the parser refuses it.
        ValueError: the recipe or a key of it does not exist.
    """
    from audiotok.training.entropy import is_entropy_recipe, load_entropy_recipe
    from audiotok.training.recipe import load_codec_recipe
    from audiotok.training.seanet_recipe import is_seanet_recipe, load_seanet_recipe
    from tts_lm.training.recipe import load_lm_recipe

    program, *rest = words
    verb = next((word for word in rest if not word.startswith("-")), None)
    args = import_module(PROGRAMS[program]).build_parser(verb).parse_args(rest)
    if verb == "train":
        load = load_codec_recipe
        if program == "tts-lm":
            load = load_lm_recipe
        elif is_entropy_recipe(args.recipe):
            load = load_entropy_recipe
        elif is_seanet_recipe(args.recipe):
            load = load_seanet_recipe
        assert load(args.recipe, args.set).seed >= 0


def small(words: list[str]) -> list[str]:
    """A command line in tiny form."""
    typed = " ".join(words)
    if typed.startswith("audiotok train speech-16k "):
        words = [word if word != "speech-16k" else "tiny" for word in words]
    more = next((more for start, more in TINY.items() if typed.startswith(start)), [])
    if typed.startswith("tts-lm train") and "--init" not in words:
        more = _NEW_LM
    if "--opus" in words and not (shutil.which("opusenc") and shutil.which("opusdec")):
        at = words.index("--opus")
        end = next((i for i in range(at + 1, len(words)) if words[i].startswith("-")), len(words))
        words = words[:at] + words[end:]
    if words[-1:] == ["-"] or not more:
        return words
    return [*words, *more]


def command(words: list[str]) -> int:
    """Run one of the two programs in this process, in tiny form; its exit status."""
    if (
        "accelerate.state" in sys.modules
    ):  # what a training fixes for its process, a page's next one may choose anew
        sys.modules["accelerate.state"].AcceleratorState._reset_state(reset_partial_state=True)
    try:
        program, *rest = small(words)
        return import_module(PROGRAMS[program]).main(rest)
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else 1


def machinery(folder: Path) -> dict[str, str]:
    """Environment of a shell in which the two programs are those of this checkout, small, and there is no network.

    Args:
        folder: an empty one for the scripts.
    """
    site = folder / "site"
    site.mkdir(parents=True)
    (site / "sitecustomize.py").write_text(_NO_NETWORK)
    scripts = {name: f'exec "{sys.executable}" "{__file__}" {name} "$@"' for name in PROGRAMS}
    scripts |= _MACHINES | {name: f'exec "{sys.executable}" "$@"' for name in ("python", "python3")}
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{site}{os.pathsep}{ROOT}",
    }


class Reader:
    """Someone who works through a page in the current folder.

    Args:
        environment: of :func:`machinery`.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self.names: dict[str, object] = {"__name__": "__main__"}

    def work_through(self, block: Block) -> None:
        """Run a block, unless it is marked ``bash`` or not at all."""
        if block.language == "python":
            # Line numbers of a traceback are those of the page.
            exec(compile("\n" * (block.line - 1) + block.text, block.page, "exec"), self.names)
        elif block.language == "sh":
            done: set[str] = set()
            for words, line in simple_commands(block.text):
                if "data/generate.py" in words:
                    assert Path(words[words.index("--out") + 1]).is_dir(), (
                        f"{block}: the test makes my-speech only"
                    )
                elif line is None and words[0] in PROGRAMS:
                    status = command(words)
                    assert status == 0, f"{block}: {' '.join(words)}: exit {status}"
                elif line is None or line not in done:
                    done.add(line or "")
                    self._in_bash(block, line or shlex.join(words))

    def _in_bash(self, block: Block, line: str) -> None:
        shell = ["bash", "-euo", "pipefail", "-c", line]
        run = subprocess.run(shell, env=self.environment, capture_output=True, text=True, timeout=600)
        assert run.returncode == 0, f"{block}: {line}: exit {run.returncode}\n{run.stdout}{run.stderr}"


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:]))
