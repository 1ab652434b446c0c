"""The page: what it does, without and with a browser."""

from __future__ import annotations

import re
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lm_toys
import numpy as np
import pytest
import soundfile
import torch
from demo_toys import page_process
from torch import Tensor

from audiotok import AudioCodec, read_comment, save_audio
from tts_lm.cli.main import main

pytest.importorskip("matplotlib", reason="the page draws with matplotlib")
pytest.importorskip("fastapi", reason="the page is a FastAPI app")

from tts_lm.server.demo import CLIP_SECONDS, LiveAudio, Page

ROOT = Path(__file__).parents[1]
TEXT = "The cat sat."
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def page(tiny_codec: AudioCodec) -> Page:
    return Page(lm_toys.toy_synthesizer(tiny_codec))


def speak(page: Page, folder: Path, text: str = TEXT, live: LiveAudio | None = None) -> list[Any]:
    voice = page.choose_voice("bdl", None, "", False)
    return list(page.speak(text, voice, 0, live or LiveAudio(), folder / "a.wav", folder / "a.png"))


def test_what_is_heard_live_is_what_is_kept(page: Page, tmp_path: Path) -> None:
    live = LiveAudio()
    told = speak(page, tmp_path, live=live)
    heard = b"".join(live.read())
    kept, rate = soundfile.read(tmp_path / "a.wav", dtype="int16")
    head = heard.index(b"data") + 8
    difference = np.frombuffer(heard[head:], "<i2").astype(int) - kept.astype(int)
    assert rate == 16_000 and len(kept) and np.abs(difference).max() <= 1
    assert [step.seconds for step in told] == sorted(step.seconds for step in told)
    assert (
        told[-1].seconds == len(kept) / rate and told[-1].ended and not any(step.ended for step in told[:-1])
    )
    assert "Generated speech" in (read_comment(tmp_path / "a.wav") or "") and head == 44
    assert (tmp_path / "a.png").read_bytes()[:8] == PNG


def test_a_listener_hears_a_piece_before_the_next_is_made() -> None:
    sound = LiveAudio()
    heard: list[bytes] = []
    came = threading.Event()

    def listen() -> None:
        for piece in sound.read():
            heard.append(piece)
            came.set()

    listener = threading.Thread(target=listen)
    listener.start()
    for piece in (b"one", b"two"):
        sound.push(piece)
        assert came.wait(10)
        came.clear()
    sound.end()
    listener.join(10)
    assert heard == [b"one", b"two"] and list(sound.read()) == [b"onetwo"]


def test_streams_do_not_pile_up(page: Page) -> None:
    names = [page.open_stream()[0] for _ in range(100)]
    assert len(set(names)) == 100 and page.stream(names[-1]) is not None and page.stream(names[0]) is None


def test_a_failure_ends_the_live_sound(page: Page, tmp_path: Path) -> None:
    for text in ("", "x" * 1001):
        live = LiveAudio()
        with pytest.raises(ValueError):
            speak(page, tmp_path, text, live)
        assert list(live.read()) == []  # returns at once
    assert list(tmp_path.iterdir()) == []


def test_a_visitor_who_leaves_gives_the_models_back(page: Page, tmp_path: Path) -> None:
    live, voice = LiveAudio(), page.choose_voice("bdl", None, "", False)
    going = page.speak(TEXT, voice, 0, live, tmp_path / "b.wav", tmp_path / "b.png")
    next(going)
    going.close()  # type: ignore[attr-defined]  # a generator
    assert list(live.read()) and speak(page, tmp_path)


def test_a_clip_is_spoken_with_only_where_its_speaker_agreed(
    page: Page, make_speech: Callable[..., Tensor], tmp_path: Path
) -> None:
    clip = tmp_path / "clip.wav"
    save_audio(clip, make_speech(2.0), 16_000)
    with pytest.raises(ValueError, match="consent"):
        page.choose_voice("bdl", str(clip), "what the clip says", False)
    with pytest.raises(ValueError, match="words"):
        page.choose_voice("bdl", str(clip), " ", True)
    voice = page.choose_voice("bdl", str(clip), "what the clip says", True)
    assert voice.prompt_text == "what the clip says" and voice.codes.shape[0] == 4
    assert page.choose_voice("bdl", None, "", False).name == "bdl"


def test_levels_of_a_clip_are_heard_seen_and_counted(
    page: Page, make_speech: Callable[..., Tensor], tmp_path: Path
) -> None:
    pytest.importorskip("pesq")
    save_audio(tmp_path / "long.wav", make_speech(CLIP_SECONDS + 1), 16_000)
    clip = page.open_clip(str(tmp_path / "long.wav"))
    assert clip.is_cut and clip.wav.shape == (1, 16_000 * CLIP_SECONDS) and clip.codes.shape[0] == 4
    save_audio(tmp_path / "short.wav", make_speech(1.0), 16_000)
    clip = page.open_clip(str(tmp_path / "short.wav"))
    assert not clip.is_cut
    levels = list(page.levels(clip))
    assert [n_q for n_q, _, _ in levels] == [1, 2, 3, 4]
    assert [bitrate for _, bitrate, _ in levels] == [300, 600, 900, 1200]
    assert not torch.equal(page.decode(clip, 1), page.decode(clip, 4))
    page.show(clip, 2, tmp_path / "two.wav", tmp_path / "two.png")
    assert soundfile.info(tmp_path / "two.wav").frames == 16_000
    assert (tmp_path / "two.png").read_bytes()[:8] == PNG


def test_without_pesq_the_page_says_so(
    page: Page, make_speech: Callable[..., Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tts_lm.server.demo import level_table

    monkeypatch.setitem(sys.modules, "pesq", None)
    save_audio(tmp_path / "clip.wav", make_speech(0.5), 16_000)
    levels = list(page.levels(page.open_clip(str(tmp_path / "clip.wav"))))
    assert {score for _, _, score in levels} == {"not installed"}
    table = level_table(levels, True, 4)
    assert table.count("<tr>") == 5 and "audiotok[eval]" in table and "The file is longer" in table


def test_what_is_no_sound_is_refused_in_words(page: Page, tmp_path: Path) -> None:
    (tmp_path / "clip.wav").write_text("no sound")
    with pytest.raises(ValueError, match=r"^clip\.wav"):  # without its folder
        page.open_clip(str(tmp_path / "clip.wav"))


@pytest.mark.parametrize(("rate", "channels"), [(10, 1), (1_000_000, 1), (16_000, 100)])
def test_a_sound_that_would_swell_is_refused_by_its_header(
    page: Page, tmp_path: Path, rate: int, channels: int
) -> None:
    """A minute of 10 samples a second is no 600 samples here, but a million."""
    soundfile.write(tmp_path / "clip.wav", np.zeros((600, channels)), rate)
    with pytest.raises(ValueError):
        page.open_clip(str(tmp_path / "clip.wav"))


def test_a_port_that_is_taken_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gradio", reason="the page needs the extra demo")
    from tts_lm.server.run import listen

    with listen("127.0.0.1", 0) as taken:
        assert main(["demo", "--port", str(taken.getsockname()[1])]) == 1
    error = capsys.readouterr().err
    assert "choose another --port" in error and error.count("\n") == 1


def test_a_missing_gradio_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["demo", "--port", "0"]) == 1
    assert "pip install 'audiotok[demo]'" in capsys.readouterr().err


def check_sound(path: Path) -> np.ndarray:
    """At least a second, above -40 dBFS."""
    wav, _ = soundfile.read(path)
    assert soundfile.info(path).duration >= 1.0
    assert 10 * np.log10(np.mean(wav**2)) > -40
    return wav


def download(tab: Any, name: str, target: Path) -> Path:
    """Press the download button of a sound and wait for the file."""
    with tab.expect_download(timeout=60_000) as coming:
        tab.locator(f"#{name} a[download]").first.click()
    coming.value.save_as(target)
    return target


@pytest.mark.slow
def test_both_tabs_in_a_real_browser(tmp_path: Path) -> None:
    """Debian's Chromium, headless: it types, clicks, waits, downloads the sound and listens."""
    pytest.importorskip("gradio", reason="the page needs the extra demo")
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
        look_into_codec_in_browser(tab, tmp_path)
        leave_while_it_speaks(browser, address)
        browser.close()
    elsewhere = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
    assert elsewhere == [] and faults == []


def speak_in_browser(tab: Any, folder: Path) -> None:
    """The first tab: speech, an error in words, a voice of one's own."""
    tab.locator("#text textarea").fill("The boats were in before the rain, and nobody knew what to say.")
    tab.locator("#speak").dblclick()
    # It is heard before all of it is made.
    tab.wait_for_function("() => document.querySelector('[data-live]')?.dataset.heard > 0", polling=20)
    assert "so far" in tab.locator("#spoken").inner_text()
    tab.locator("#spoken", has_text="ended by").wait_for()
    said = download(tab, "speech", folder / "said.wav")
    seconds = len(check_sound(said)) / 16_000
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


def look_into_codec_in_browser(tab: Any, folder: Path) -> None:
    """The second tab: a clip, all levels, fewer of them."""
    tab.get_by_role("tab", name="Codebooks").click()
    tab.locator("#source input[type=file]").set_input_files(folder / "said.wav")
    tab.wait_for_function("() => document.querySelectorAll('#levels tbody tr').length == 8")
    table = tab.locator("#levels").inner_text()
    assert "0.5" in table and "4" in table
    scores = [float(score) for score in re.findall(r"\t(\d\.\d\d)\t", table)]
    assert len(scores) == 8 and scores[-1] > scores[0]  # PESQ, where it is installed
    whole = check_sound(download(tab, "decoded", folder / "all.wav"))
    tab.locator("#n-q input[type=number]").fill("2")
    tab.locator("#n-q input[type=number]").press("Tab")
    tab.locator("#decoded a[download*='decoded-2']").wait_for(state="attached")
    two = check_sound(download(tab, "decoded", folder / "two.wav"))
    assert len(two) == len(whole) and not np.array_equal(two, whole)
    tab.wait_for_function("() => document.querySelector('#clip-picture img')?.naturalWidth > 500")
    tab.screenshot(path=str(folder / "codebooks.png"), full_page=True)


def leave_while_it_speaks(browser: Any, address: str) -> None:
    """Someone asks for much and goes; the next one is served."""
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
