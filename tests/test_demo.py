"""The demo page: its functions and its HTTP routes."""

from __future__ import annotations

import gc
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from torch import Tensor

from audiotok import read_comment, save_audio

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported
pytest.importorskip("gradio", reason="the page needs the extra demo")
pytest.importorskip("matplotlib", reason="the page draws with matplotlib")
pytest.importorskip("openai", reason="the toys use its client")

from server_toys import run_program, toy

from tts_lm.cli.main import main
from tts_lm.server import demo, run
from tts_lm.server.demo import Page, read_pieces

httpx = pytest.importorskip("httpx2", reason="it comes with openai")

TEXT = "Hi. A dog."
PATH = 'data-live="(.*?)"'


@pytest.fixture
def page() -> Page:
    return Page(toy())


def test_the_stream_is_the_file(page: Page, tmp_path: Path) -> None:
    names = [page.open_stream()[0] for _ in range(100)]
    assert len(set(names)) == 100 and page.take_stream(names[0]) is None  # they do not pile up
    name, live = page.open_stream()
    assert page.take_stream(name) is live and page.take_stream(name) is None
    voice = page.choose_voice("bdl", None, "", False)
    progress = list(page.speak(TEXT, voice, 0, live, tmp_path / "a.wav", tmp_path / "a.png"))
    streamed = b"".join(read_pieces(live))
    kept, rate = soundfile.read(tmp_path / "a.wav", dtype="int16")
    difference = np.frombuffer(streamed[44:], "<i2").astype(int) - kept.astype(int)
    assert rate == 16_000 and len(kept) and np.abs(difference).max() <= 1
    assert progress == sorted(progress, key=lambda step: step[0]) and progress[-1][0] == len(kept) / rate
    assert progress[-1][1] and not any(ended for _, ended in progress[:-1])
    assert "Generated speech" in (read_comment(tmp_path / "a.wav") or "")
    assert (tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"


def test_a_failed_or_cancelled_speech_ends_its_stream(page: Page, tmp_path: Path) -> None:
    voice = page.choose_voice("bdl", None, "", False)
    files = tmp_path / "a.wav", tmp_path / "a.png"
    for text in ("", "x" * 1001):
        _, live = page.open_stream()
        with pytest.raises(ValueError):
            next(page.speak(text, voice, 0, live, *files))
        assert list(read_pieces(live)) == []
    for _ in range(2):  # the models are free again
        _, live = page.open_stream()
        going: Any = page.speak(TEXT, voice, 0, live, *files)
        next(going)
        going.close()
        assert list(read_pieces(live))
    assert list(tmp_path.iterdir()) == []


def test_a_clip_is_cloned_only_with_consent(
    page: Page, make_speech: Callable[..., Tensor], tmp_path: Path
) -> None:
    clip = tmp_path / "clip.wav"
    save_audio(clip, make_speech(2.0), 16_000)
    for words, consent in (("what the clip says", False), (" ", True)):
        with pytest.raises(ValueError):
            page.choose_voice("bdl", str(clip), words, consent)
    voice = page.choose_voice("bdl", str(clip), "what the clip says", True)
    assert voice.prompt_text == "what the clip says" and voice.codes.shape[0] == 4


def test_fewer_codebooks_decode_to_other_audio(
    page: Page, make_speech: Callable[..., Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "CLIP_SECONDS", 1.0)
    save_audio(tmp_path / "long.wav", make_speech(1.5), 16_000)
    decoded = []
    for n_q in (1, 4):
        page.show(str(tmp_path / "long.wav"), n_q, tmp_path / "a.wav", tmp_path / "a.png")
        decoded.append(soundfile.read(tmp_path / "a.wav")[0])
    assert len(decoded[0]) == len(decoded[1]) == 16_000 and not np.array_equal(*decoded)


def test_uploads_that_are_not_audio_or_too_large_are_refused(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "clip.wav"
    path.write_text("no sound")
    with pytest.raises(ValueError, match=r"^clip\.wav"):  # without its folder
        page.show(str(path), 1, tmp_path / "a.wav", tmp_path / "a.png")
    for rate, channels in ((10, 1), (1_000_000, 1), (16_000, 100)):
        soundfile.write(path, np.zeros((600, channels)), rate)
        with pytest.raises(ValueError):
            page.show(str(path), 1, tmp_path / "a.wav", tmp_path / "a.png")


def test_a_taken_port_or_a_missing_package_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with run.listen("127.0.0.1", 0) as taken:
        assert main(["demo", "--port", str(taken.getsockname()[1])]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.delitem(sys.modules, "tts_lm.server.demo")
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo", "--port", "0"]) == 1
    assert "audiotok[demo]" in capsys.readouterr().err


def press(address: str, *values: Any) -> list[str]:
    """The answers of the page when its button is pressed with these values."""
    asked = httpx.post(f"{address}/gradio_api/call/speak", json={"data": values}, timeout=120)
    answer = httpx.get(f"{address}/gradio_api/call/speak/{asked.json()['event_id']}", timeout=240)
    return answer.text.strip().split("\n\n")


@pytest.mark.filterwarnings("ignore")
def test_the_page_from_outside(
    tmp_path: Path,
    make_speech: Callable[..., Tensor],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One server for all checks, because it starts slowly."""
    kept, mine = tmp_path / "kept", tmp_path / "mine.wav"
    kept.mkdir()
    save_audio(mine, make_speech(2.0), 16_000)
    toy().save_pretrained(tmp_path / "toy-model")
    monkeypatch.setattr("tempfile.tempdir", str(kept))
    monkeypatch.setenv("GRADIO_TEMP_DIR", "")  # restored afterwards
    command = ["demo", "--model", str(tmp_path / "toy-model")]
    assert run_program(command, lambda address: use_page(address, mine), capsys) == 143
    gc.collect()  # gradio leaves event loops behind
    assert [path for path in kept.rglob("*") if path.suffix in (".wav", ".png")] == []


def use_page(address: str, mine: Path) -> None:
    """The page speaks, opens no file but an upload, and refuses other hosts. ``mine`` is a file of this machine."""
    first, *_, last = press(address, TEXT, "bdl", 0, None, "", False)
    assert "ended by" in last
    element = json.loads(first.partition("data: ")[2])[0]
    live = httpx.get(f"{address}/{re.findall(PATH, element)[0]}")
    assert live.content[:4] == b"RIFF" and live.headers["content-type"] == "audio/wav"
    sent = httpx.post(f"{address}/gradio_api/upload", files={"files": ("a.wav", mine.read_bytes())}).json()[0]
    for path, end in (  # only an upload is opened, no other file of this machine, no address
        (sent, "event: complete"),
        (str(mine), "event: error"),
        (f"{Path(sent).parent}/../../../{mine.name}", "event: error"),
        ("http://192.0.2.1/a.wav", "event: error"),
    ):
        clip = {"path": path, "meta": {"_type": "gradio.FileData"}}
        assert press(address, "Hi.", "bdl", 0, clip, "so many words of hers", True)[-1].startswith(end), path
    assert list((mine.parent / "kept").rglob("mine.wav")) == []
    for values in (("?!", "bdl"), ("a" * 1_001, "bdl"), (TEXT, ["bdl"])):
        told = press(address, *values, 0, None, "", False)[-1]
        assert "That did not work" in told and "Traceback" not in told
    for header, status in (
        ({}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "[x"}, 400),
        ({"Origin": "http://["}, 400),
        ({"Origin": "nonsense"}, 400),
    ):
        assert httpx.get(f"{address}/config", headers=header).status_code == status, header
