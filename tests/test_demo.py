"""The demo page: its functions, its HTTP routes, and its tabs in a browser."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lm_toys
import numpy as np
import pytest
import soundfile
from demo_toys import page_process
from torch import Tensor

from audiotok import AudioCodec, read_comment, save_audio
from tts_lm.cli.main import main

pytest.importorskip("gradio", reason="the page needs the extra demo")
pytest.importorskip("matplotlib", reason="the page draws with matplotlib")

from tts_lm.server.demo import CLIP_SECONDS, Page, read_pieces

httpx = pytest.importorskip("httpx2", reason="it comes with openai")

TEXT = "The cat sat. A dog ran."
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def page(tiny_codec: AudioCodec) -> Page:
    return Page(lm_toys.toy_synthesizer(tiny_codec))


def speak(page: Page, folder: Path, text: str = TEXT) -> tuple[list[tuple[float, str]], bytes]:
    """Progress, and what was streamed."""
    name, live = page.open_stream()
    assert page.take_stream(name) is live
    voice = page.choose_voice("bdl", None, "", False)
    progress = list(page.speak(text, voice, 0, live, folder / "a.wav", folder / "a.png"))
    return progress, b"".join(read_pieces(live))


def test_the_stream_is_the_file(page: Page, tmp_path: Path) -> None:
    progress, streamed = speak(page, tmp_path)
    kept, rate = soundfile.read(tmp_path / "a.wav", dtype="int16")
    difference = np.frombuffer(streamed[44:], "<i2").astype(int) - kept.astype(int)
    assert rate == 16_000 and len(kept) and np.abs(difference).max() <= 1
    assert progress == sorted(progress, key=lambda step: step[0]) and progress[-1][0] == len(kept) / rate
    assert progress[-1][1] and not any(ended for _, ended in progress[:-1])
    assert "Generated speech" in (read_comment(tmp_path / "a.wav") or "")
    assert (tmp_path / "a.png").read_bytes()[:8] == PNG


def test_streams_do_not_pile_up(page: Page) -> None:
    names = [page.open_stream()[0] for _ in range(100)]
    assert len(set(names)) == 100 and page.take_stream(names[0]) is None
    assert page.take_stream(names[-1]) is not None and page.take_stream(names[-1]) is None


def test_a_failed_or_cancelled_speech_ends_its_stream(page: Page, tmp_path: Path) -> None:
    voice = page.choose_voice("bdl", None, "", False)
    for text in ("", "x" * 1001):
        _, live = page.open_stream()
        with pytest.raises(ValueError):
            next(page.speak(text, voice, 0, live, tmp_path / "a.wav", tmp_path / "a.png"))
        assert list(read_pieces(live)) == []
    assert list(tmp_path.iterdir()) == []
    _, live = page.open_stream()
    going = page.speak(TEXT, voice, 0, live, tmp_path / "b.wav", tmp_path / "b.png")
    next(going)
    going.close()  # type: ignore[attr-defined]  # a generator
    assert list(read_pieces(live)) and speak(page, tmp_path)  # the models are free again


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
    page: Page, make_speech: Callable[..., Tensor], tmp_path: Path
) -> None:
    save_audio(tmp_path / "long.wav", make_speech(CLIP_SECONDS + 1), 16_000)
    heard = []
    for n_q in (1, 4):
        page.show(str(tmp_path / "long.wav"), n_q, tmp_path / "a.wav", tmp_path / "a.png")
        heard.append(soundfile.read(tmp_path / "a.wav")[0])
        assert (tmp_path / "a.png").read_bytes()[:8] == PNG
    assert len(heard[0]) == len(heard[1]) == 16_000 * CLIP_SECONDS and not np.array_equal(*heard)


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
    from tts_lm.server.run import listen

    with listen("127.0.0.1", 0) as taken:
        assert main(["demo", "--port", str(taken.getsockname()[1])]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo", "--port", "0"]) == 1
    assert "audiotok[demo]" in capsys.readouterr().err


@pytest.fixture
def address(tiny_codec: AudioCodec, tmp_path: Path) -> Iterator[str]:
    lm_toys.toy_synthesizer(tiny_codec).save_pretrained(tmp_path / "toy-model")
    (tmp_path / "kept").mkdir()
    with page_process("--model", str(tmp_path / "toy-model"), TMPDIR=str(tmp_path / "kept")) as found:
        yield found
    assert list((tmp_path / "kept").rglob("*.wav")) == []  # uploads and results are deleted


def press(address: str, *values: Any) -> str:
    """The last answer of the page when its button is pressed with these values."""
    asked = httpx.post(f"{address}/gradio_api/call/speak", json={"data": values}, timeout=120)
    answer = httpx.get(f"{address}/gradio_api/call/speak/{asked.json()['event_id']}", timeout=240)
    return answer.text.strip().split("\n\n")[-1]


def test_the_page_from_outside(address: str, tmp_path: Path, make_speech: Callable[..., Tensor]) -> None:
    """One process for all checks, because it starts slowly."""
    assert "ended by" in press(address, TEXT, "bdl", 0, None, "", False)
    mine = tmp_path / "mine.wav"
    save_audio(mine, make_speech(2.0), 16_000)
    sent = httpx.post(f"{address}/gradio_api/upload", files={"files": ("a.wav", mine.read_bytes())}).json()[0]
    for path, end in (  # only an upload is opened, no other file of this machine, no address
        (sent, "event: complete"),
        (str(mine), "event: error"),
        (f"{Path(sent).parent}/../../../{mine.name}", "event: error"),
        ("http://192.0.2.1/a.wav", "event: error"),
    ):
        clip = {"path": path, "meta": {"_type": "gradio.FileData"}}
        assert press(address, TEXT, "bdl", 0, clip, "so many words of hers", True).startswith(end), path
    assert list((tmp_path / "kept").rglob("mine.wav")) == []
    for values in (("?!", "bdl"), ("a" * 1_001, "bdl"), (TEXT, ["bdl"])):
        told = press(address, *values, 0, None, "", False)
        assert "That did not work" in told and "Traceback" not in told
    for header, status in (
        ({}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Host": "[x"}, 400),
        ({"Host": "[zz]:80"}, 400),
        ({"Origin": "http://["}, 400),
        ({"Origin": "nonsense"}, 400),
    ):
        assert httpx.get(f"{address}/config", headers=header).status_code == status, header


def check_audio(path: Path) -> np.ndarray:
    """At least a second, above -40 dBFS."""
    wav, _ = soundfile.read(path)
    assert soundfile.info(path).duration >= 1.0 and 10 * np.log10(np.mean(wav**2)) > -40
    return wav


def download(tab: Any, name: str, target: Path) -> Path:
    """Press the download button of a sound and wait for the file."""
    with tab.expect_download(timeout=60_000) as coming:
        tab.locator(f"#{name} a[download]").first.click()
    coming.value.save_as(target)
    return target


@pytest.mark.slow
def test_both_tabs_in_a_real_browser(tmp_path: Path) -> None:
    """Headless Chromium types, clicks, downloads the audio and plays it."""
    driver = pytest.importorskip("playwright.sync_api", reason="the browser is driven by playwright")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on this machine; apt-get install chromium")
    asked: list[str] = []
    faults: list[str] = []
    with page_process() as address, driver.sync_playwright() as playwright:
        options = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
        browser = playwright.chromium.launch(executable_path=chromium, args=options)
        tab = browser.new_page()
        tab.set_default_timeout(60_000)
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("pageerror", lambda error: faults.append(str(error)))
        tab.goto(address)
        speak_in_browser(tab, tmp_path)
        assert sum("/live/" in url for url in asked) == 2  # a double click is one
        decode_in_browser(tab, tmp_path)
        leave_while_it_speaks(browser, address)
        browser.close()
    elsewhere = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert elsewhere == [] and faults == []


def speak_in_browser(tab: Any, folder: Path) -> None:
    """The first tab: speech, an error, a cloned voice."""
    tab.locator("#text textarea").fill("The boats were in before the rain, and nobody knew what to say.")
    tab.locator("#speak").dblclick()
    # It plays before all of it is made.
    tab.wait_for_function("() => document.querySelector('[data-live]')?.dataset.heard > 0", polling=20)
    assert "so far" in tab.locator("#spoken").inner_text()
    tab.locator("#spoken", has_text="ended by").wait_for()
    said = download(tab, "speech", folder / "said.wav")
    seconds = len(check_audio(said)) / 16_000
    assert "Generated speech" in (read_comment(said) or "")
    tab.wait_for_function(f"() => document.querySelector('[data-live]').dataset.heard >= {seconds - 0.1}")
    tab.wait_for_function("() => document.querySelector('#speech-picture img')?.naturalWidth > 500")
    tab.screenshot(path=str(folder / "speak.png"), full_page=True)

    tab.get_by_text("A voice of your own").click()
    clip = tab.locator("#clip")
    clip.get_by_label("Record audio").click()
    clip.get_by_role("button", name="Record", exact=True).click()
    tab.wait_for_timeout(1500)
    clip.get_by_role("button", name="Stop", exact=True).click()
    clip.locator("a[download]").wait_for(state="attached")
    tab.locator("#speak").click()
    tab.get_by_text("consent is missing; tick the box").wait_for()
    clip.get_by_label("Clear").click()
    clip.get_by_label("Upload file").click()
    clip.locator("input[type=file]").set_input_files(said)
    clip.locator("a[download]").wait_for(state="attached")
    tab.locator("#words textarea, #words input").fill(tab.locator("#text textarea").input_value())
    tab.locator("#consent input").check()
    tab.locator("#text textarea").fill("She said no to the man in the garden.")
    tab.locator("#speak").click()
    tab.locator("#spoken", has_text="so far").wait_for()
    tab.locator("#spoken", has_text="ended by").wait_for()
    assert download(tab, "speech", folder / "mine.wav").read_bytes() != said.read_bytes()


def decode_in_browser(tab: Any, folder: Path) -> None:
    """The second tab: a clip with all codebooks, then with two."""
    tab.get_by_role("tab", name="Codebooks").click()
    tab.locator("#source input[type=file]").set_input_files(folder / "said.wav")
    whole = check_audio(download(tab, "decoded", folder / "all.wav"))
    tab.locator("#n-q input[type=number]").fill("2")
    tab.locator("#n-q input[type=number]").press("Tab")
    tab.locator("#decoded a[download*='decoded-2']").wait_for(state="attached")
    two = check_audio(download(tab, "decoded", folder / "two.wav"))
    assert len(two) == len(whole) and not np.array_equal(two, whole)
    tab.wait_for_function("() => document.querySelector('#clip-picture img')?.naturalWidth > 500")
    tab.screenshot(path=str(folder / "codebooks.png"), full_page=True)


def leave_while_it_speaks(browser: Any, address: str) -> None:
    """A visitor leaves in the middle of a long text; the next one is served."""
    texts = (" ".join(["Nobody knew what to say in the quiet garden."] * 10), "She said no.")
    for text in texts:
        tab = browser.new_page()
        tab.goto(address)
        tab.locator("#text textarea").fill(text)
        tab.locator("#speak").click()
        tab.wait_for_function(
            "() => document.querySelector('[data-live]')?.dataset.heard > 0", timeout=60_000
        )
        if text == texts[-1]:
            tab.locator("#spoken", has_text="ended by").wait_for(timeout=60_000)
        tab.close()
