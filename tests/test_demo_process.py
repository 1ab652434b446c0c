"""The page from outside, by the requests that its scripts make, and by those that they never would."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lm_toys
import pytest
from demo_toys import page_process
from torch import Tensor

from audiotok import AudioCodec, save_audio

pytest.importorskip("gradio", reason="the page needs the extra demo")
pytest.importorskip("matplotlib", reason="the page draws with matplotlib")
httpx = pytest.importorskip("httpx2", reason="it comes with openai")
TEXT = "The cat sat."


@pytest.fixture
def address(tiny_codec: AudioCodec, tmp_path: Path) -> Iterator[str]:
    lm_toys.toy_synthesizer(tiny_codec).save_pretrained(tmp_path / "toy-model")
    (tmp_path / "kept").mkdir()
    with page_process("--model", str(tmp_path / "toy-model"), TMPDIR=str(tmp_path / "kept")) as found:
        yield found
    # What was uploaded and made is gone with the process; torch's own folders stay.
    assert list((tmp_path / "kept").rglob("*.wav")) == []


def press(address: str, *values: Any) -> str:
    """What the page answers in the end when its button is pressed with these values."""
    asked = httpx.post(f"{address}/gradio_api/call/speak", json={"data": values}, timeout=60)
    answer = httpx.get(f"{address}/gradio_api/call/speak/{asked.json()['event_id']}", timeout=120)
    return answer.text.strip().split("\n\n")[-1]


def opens_what_was_uploaded_only(address: str, folder: Path, wav: Tensor) -> None:
    """A path is an upload's, not any file's of this machine, nor an address that it would fetch."""
    mine = folder / "mine.wav"
    save_audio(mine, wav, 16_000)
    sent = httpx.post(f"{address}/gradio_api/upload", files={"files": ("a.wav", mine.read_bytes())}).json()[0]
    for path, end in (
        (sent, "event: complete"),
        (str(mine), "event: error"),
        (f"{Path(sent).parent}/../../../{mine.name}", "event: error"),
        ("http://192.0.2.1/a.wav", "event: error"),
    ):
        clip = {"path": path, "meta": {"_type": "gradio.FileData"}}
        told = press(address, TEXT, "bdl", 0, clip, "so many words of hers", True)
        assert told.startswith(end), (path, told)
    assert [path for path in (folder / "kept").rglob("mine.wav")] == []


def tells_what_is_wrong(address: str) -> None:
    for values, words in (
        (("?!", "bdl", 0, None, "", False), "say"),
        (("a" * 1_001, "bdl", 0, None, "", False), "1000 letters, got 1001"),
        ((TEXT, ["bdl"], 0, None, "", False), "voice"),
    ):
        told = press(address, *values)
        assert words in told and "That did not work" in told and "Traceback" not in told


def answers_to_its_own_name_only(address: str) -> None:
    assert httpx.get(f"{address}/config").status_code == 200
    assert httpx.get(f"{address}/config", headers={"Host": "evil.example"}).status_code == 403
    for header in ({"Host": "[x"}, {"Host": "[zz]:80"}, {"Origin": "http://["}, {"Origin": "nonsense"}):
        assert httpx.get(f"{address}/config", headers=header).status_code == 400


def test_the_page_is_there_for_its_visitor_only(
    address: str, tmp_path: Path, make_speech: Callable[..., Tensor]
) -> None:
    """One page for all of it: it takes long to start."""
    assert "ended by" in press(address, TEXT, "bdl", 0, None, "", False)
    opens_what_was_uploaded_only(address, tmp_path, make_speech(2.0))
    tells_what_is_wrong(address)
    answers_to_its_own_name_only(address)
