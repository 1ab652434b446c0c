"""Both programs: SIGTERM removes unfinished files, numbers are in bounds, and devices exist."""

from __future__ import annotations

import argparse
import importlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import audiotok
from audiotok.cli.main import build_parser, main
from audiotok.machine import check_device, threads
from audiotok.program import Program, duration, number, pick_device

VERB = """
from __future__ import annotations
import os, signal, sys, time
from audiotok import write_aside

def add_parser(subparsers):
    subparsers.add_parser("wait").add_argument("out")

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
        "sys.exit(Program('toy', '', '1', 'verbs', {'wait': ('wait', '')}).main())"
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

    program = Program("toy", "", "1", "audiotok.cli", {"info": ("info", "")})
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


@pytest.mark.parametrize(
    "text", ["nan", "inf", "-inf", "1e999", "-1", "0", "11", "", "ten", "1,0", "9" * 5000]
)
def test_numbers_are_finite_and_within_bounds(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="finite number above 0 and of at most 10, got"):
        number(float, most=10, above=0)(text)
    with pytest.raises(argparse.ArgumentTypeError, match="whole number of at least 1 and of at most 10, got"):
        number(int, 1, 10)(text)


def test_numbers_that_fit_are_taken() -> None:
    assert number(float, most=10, above=0)("1e1") == 10.0
    assert number(int)("-3") == -3 and number(int, 1, 10)("10") == 10
    assert number(float)("-26") == -26.0


def numeric_options() -> list[tuple[str, str]]:
    """Verb and flag of every option of ``audiotok`` that takes a number."""
    from audiotok.cli.main import VERBS

    found = []
    for verb in VERBS:
        parser = build_parser(verb)
        actions = parser._subparsers._group_actions[0].choices[verb]._actions  # type: ignore[union-attr]
        found += [
            (verb, action.option_strings[-1])
            for action in actions
            if action.option_strings and getattr(action.type, "__qualname__", "").startswith("number.")
        ]
        assert not [action for action in actions if action.type in (int, float)], "take number() instead"
    return found


def test_no_numeric_option_takes_what_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    options = numeric_options()
    assert len(options) > 20
    for verb, flag in options:
        for text in ("nan", "inf"):
            with pytest.raises(SystemExit) as left:
                build_parser(verb).parse_args([verb, "x", "--out", "y", flag, text])
            assert left.value.code == 2
            assert f"argument {flag}: expected a" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["meta", "toaster", "cuda:99", "", "cpu:x"])
def test_devices_that_are_not_here_are_refused(name: str) -> None:
    for check in (check_device, pick_device):
        with pytest.raises(ValueError, match=f"expected a device .* got '{name}'"):
            check(name)
    assert pick_device("cpu") == "cpu" and pick_device("auto") in ("cpu", "cuda")


def test_threads_are_what_they_were() -> None:
    before = torch.get_num_threads()
    with pytest.raises(KeyError), threads(before + 2):
        assert torch.get_num_threads() == before + 2
        raise KeyError
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("verb", ["encode", "decode", "info", "verify", "prepare", "plot"])
def test_an_empty_codec_is_not_the_default_one(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([verb, "a", "--out", "b", "--codec", ""])
    assert left.value.code == 2 and "expected a codec's name, got an empty one" in capsys.readouterr().err


def test_names_that_are_not_utf8_can_be_printed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audiotok.cli.info.run", lambda args: print(args.names[0]) or 0)
    assert main(["info", "caf\udce9.wav"]) == 0
    assert capsys.readouterr().out == "caf\\udce9.wav\n"


def test_a_report_replaces_nothing_unasked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    precious = tmp_path / "precious.wav"
    precious.write_text("precious")
    assert main(["eval", "--data", str(tmp_path), "--json", str(precious)]) == 1
    assert "precious.wav" in capsys.readouterr().err and precious.read_text() == "precious"


@pytest.mark.parametrize(
    ("module", "name"), [("audiotok.cli.main", "audiotok"), ("tts_lm.cli.main", "tts-lm")]
)
def test_both_programs_say_their_version(module: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        importlib.import_module(module).main(["--version"])
    assert left.value.code == 0 and capsys.readouterr().out == f"{name} {audiotok.__version__}\n"


COMPLETIONS = {  # completions of bash for the last word
    "audiotok": {
        "en": ["encode"],
        "prepare --la": ["--layout", "--language"],
        "prepare --engine ": ["local", "ray"],
        "encode --codec ta": ["tape.wav"],
    },
    "tts-lm": {"sa": ["say"], "say --dtype ": ["float32", "bfloat16"], "say --file ta": ["tape.wav"]},
}
ASK = r"""
source /dev/stdin
ask=$(complete -p "$1" | sed 's/.*-F \([^ ]*\).*/\1/')
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); $ask; printf '%s\n' "${COMPREPLY[@]}"
"""


@pytest.mark.skipif(
    not (shutil.which("bash") and shutil.which("sed")), reason="the completion needs bash and sed"
)
@pytest.mark.parametrize(
    ("module", "name"), [("audiotok.cli.main", "audiotok"), ("tts_lm.cli.main", "tts-lm")]
)
def test_bash_completes_verbs_options_choices_and_files(
    module: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("shtab", reason="the extra completion")
    (tmp_path / "tape.wav").touch()
    assert importlib.import_module(module).main(["--print-completion", "bash"]) == 0
    script = capsys.readouterr().out
    for typed, offered in COMPLETIONS[name].items():
        command = ["bash", "-c", ASK, "bash", name, *typed.split(" ")]
        done = subprocess.run(command, input=script, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert (done.stdout.split(), done.stderr) == (offered, "")


def test_completion_without_its_extra_names_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["--print-completion", "zsh"]) == 1
    assert 'pip install "audiotok[completion]"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("hours", "told"), [(0.03, "1.8 min"), (0.0, "0.0 min"), (1.0, "1.00 h"), (585.8, "585.80 h")]
)
def test_a_length_is_told_in_minutes_where_it_is_short(hours, told):
    assert duration(hours) == told


def test_one_thread_computes_and_a_wrong_name_loads_nothing(monkeypatch, tmp_path, capsys):
    """Two threads are slow while another program uses one of the cores."""
    from audiotok.cli import encode

    audiotok.save_audio(tmp_path / "a.wav", torch.zeros(1, 100), 16_000)
    seen: list[object] = []
    codec = SimpleNamespace(config=SimpleNamespace(sampling_rate=16_000))
    monkeypatch.setattr(encode, "_load", lambda args, started: seen.append("loaded") or (codec, None, None))
    monkeypatch.setattr(encode, "encode_blocks", lambda *_: seen.append(torch.get_num_threads()))
    with threads(2):
        sources = [str(tmp_path / name) for name in ("none.wav", "a.wav")]
        assert main(["encode", sources[0], str(tmp_path / "x.atok")]) == 1 and seen == []
        assert main(["encode", *sources, "--out", str(tmp_path / "out")]) == 1
        assert seen == ["loaded", 1] and torch.get_num_threads() == 2
    assert capsys.readouterr().err.count("none.wav: no such file") == 2
