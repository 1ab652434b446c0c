"""Both programs: SIGTERM removes unfinished files, numbers are in bounds, and devices exist."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import audiotok
from audiotok.cli.main import VERBS, build_parser, main
from audiotok.machine import check_device
from audiotok.program import Program, number, pick_device

VERB = """
from __future__ import annotations
import os, signal, sys, time
from audiotok import write_aside

def add_options(parser):
    parser.add_argument("out")

def run(args):
    with write_aside(args.out) as aside:
        aside.write_text("half")
        if os.fork() == 0:  # a worker ends as if nothing were special about it
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(1)
        assert os.WTERMSIG(os.wait()[1]) == signal.SIGTERM
        print("ready", flush=True)
        time.sleep(60)
    return 0
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGTERM of POSIX systems")
def test_sigterm_leaves_no_partial_file(tmp_path: Path) -> None:
    (tmp_path / "verbs").mkdir()
    (tmp_path / "verbs" / "__init__.py").write_text("")
    (tmp_path / "verbs" / "wait.py").write_text(VERB)
    out = tmp_path / "out"
    out.mkdir()
    code = (
        "import sys; from audiotok.program import Program; "
        "sys.exit(Program('toy', '', '1', 'verbs', {'wait': ''}).main())"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code, "wait", str(out / "a.txt")],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    assert [path.name[:3] for path in out.iterdir()] == [".a."]
    child.send_signal(signal.SIGTERM)
    assert (child.communicate(timeout=30)[1], child.returncode) == ("toy: terminated\n", 143)
    assert list(out.iterdir()) == []


def test_the_handler_of_whoever_runs_the_program_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    def theirs(*_: object) -> None:
        raise AssertionError

    program = Program("toy", "", "1", "audiotok.cli", {"info": ""})
    seen: list[object] = []
    monkeypatch.setattr(
        "audiotok.cli.info.run", lambda args: seen.append(signal.getsignal(signal.SIGTERM)) or 0
    )
    before = signal.signal(signal.SIGTERM, theirs)
    try:
        assert program.main(["info"]) == 0
        assert signal.getsignal(signal.SIGTERM) is theirs
    finally:
        signal.signal(signal.SIGTERM, before)
    assert program.main(["info"]) == 0
    assert seen[0] is theirs and callable(seen[1]) and seen[1] is not theirs
    assert signal.getsignal(signal.SIGTERM) is before


def test_numbers_are_finite_and_within_bounds() -> None:
    for text in ("nan", "inf", "-inf", "1e999", "-1", "0", "11", "", "ten", "1,0", "9" * 5000):
        for parse in (number(float, most=10, above=0), number(int, 1, 10)):
            with pytest.raises(argparse.ArgumentTypeError, match="10, got"):
                parse(text)
    assert number(float, most=10, above=0)("1e1") == 10.0
    assert number(int)("-3") == -3 and number(int, 1, 10)("10") == 10
    assert number(float)("-26") == -26.0


def test_no_numeric_option_takes_what_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in VERBS:
        options = build_parser(verb)._subparsers._group_actions[0].choices[verb]._actions  # type: ignore[union-attr]
        flags = [option.option_strings[-1] for option in options if option.option_strings]
        assert not [option for option in options if option.type in (int, float)]
        for flag in {"--n-q", "--bitrate", "--search", "--rows", "--batch-s", "--workers"} & {*flags}:
            with pytest.raises(SystemExit) as left:
                main([verb, "x", "--out", "y", flag, "nan"])
            assert left.value.code == 2 and f"argument {flag}" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["meta", "toaster", "cuda:99", "", "cpu:x"])
def test_devices_that_are_not_here_are_refused(name: str) -> None:
    for check in (check_device, pick_device):
        with pytest.raises(ValueError, match=f"'{name}'"):
            check(name)
    assert pick_device("cpu") == "cpu" and pick_device("auto") in ("cpu", "cuda")


def test_an_empty_codec_is_not_the_default_one(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("encode", "decode", "info", "verify", "prepare", "plot"):
        with pytest.raises(SystemExit) as left:
            main([verb, "a", "--out", "b", "--codec", ""])
        assert left.value.code == 2 and "--codec" in capsys.readouterr().err


def test_a_report_replaces_nothing_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    precious = tmp_path / "precious.wav"
    precious.write_text("precious")
    assert main(["eval", "--data", str(tmp_path), "--json", str(precious)]) == 1
    assert "precious.wav" in capsys.readouterr().err and precious.read_text() == "precious"


@pytest.mark.parametrize(
    ("module", "name"), [("audiotok.cli.main", "audiotok"), ("tts_lm.cli.main", "tts-lm")]
)
def test_both_programs_print_their_version(
    module: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        importlib.import_module(module).main(["--version"])
    assert left.value.code == 0 and capsys.readouterr().out == f"{name} {audiotok.__version__}\n"
