"""The page: a form to speak with, and a codec to look into, in gradio.

Knows nothing of models: :class:`~tts_lm.server.page.Page` does the work. The laws it keeps: nothing is fetched from, or
told to, any other machine; what goes wrong is a message, never a traceback; no file outlives the process.
"""

from __future__ import annotations

import html
import inspect
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

from audiotok import program

from .security import OwnName
from .limits import keep_few_shapes
from .page import CLIP_SECONDS, TEXT_LETTERS, Clip, Level, Page

_LOG = logging.getLogger("tts_lm.demo")
_PLAYER = Path(__file__).with_name("demo_player.js")
_UPLOAD = "16mb"
_KEEP_S = 3600
_WAITING = 16  # visitors in the queue
_EXAMPLE = "The garden is quiet this morning."
_CONSENT = "The speaker of this clip agreed to being spoken with."


def import_gradio() -> Any:
    """gradio, told to keep to itself.

    Raises:
        ModuleNotFoundError: it is missing.
    """
    # Read when it is imported, and it would ask its makers for news.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import gradio  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"expected the package 'gradio' for the page, {error.name!r} is missing; pip install 'audiotok[demo]'",
            name=error.name,
        ) from error
    return gradio


def build_app(page: Page, hosts: tuple[str, ...] | None = None) -> Any:
    """The page as a FastAPI app.

    Args:
        page: what it does.
        hosts: names that it may be called by; None takes all.

    Raises:
        ModuleNotFoundError: gradio or matplotlib is missing.
    """
    gradio = import_gradio()
    from fastapi import FastAPI, HTTPException
    from fastapi.responses import StreamingResponse

    keep_few_shapes()
    app = FastAPI(openapi_url=None)
    app.add_middleware(OwnName, hosts=hosts)

    @app.get("/live/{name}.wav")
    def live(name: str) -> StreamingResponse:
        sound = page.sounds.get(name)
        if sound is None:
            raise HTTPException(404, "expected a sound that is being made; press the button again")
        return StreamingResponse(sound.read(), media_type="audio/wav", headers={"Cache-Control": "no-store"})

    blocks = gradio.Blocks(title="audiotok", analytics_enabled=False, delete_cache=(_KEEP_S, _KEEP_S))
    with blocks:
        gradio.Markdown(
            "# audiotok\nText in, speech out; and what is in a code. All of it runs on this machine."
        )
        with gradio.Tab("Speak"):
            _speak_tab(gradio, page)
        with gradio.Tab("Codebooks"):
            _codebooks_tab(gradio, page)
    # Mounted, it is never said to be launched, and takes any path of this machine for an upload.
    blocks.has_launched = True
    blocks.queue(max_size=_WAITING, default_concurrency_limit=1)
    return gradio.mount_gradio_app(
        app,
        blocks,
        path="/",
        theme=gradio.themes.Default(),  # its fonts come with it
        head=f"<script>{_PLAYER.read_text(encoding='utf-8')}</script>",
        footer_links=[],
        show_error=False,
        max_file_size=_UPLOAD,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
    )


def _speak_tab(gradio: Any, page: Page) -> None:
    text = gradio.Textbox(_EXAMPLE, label="Text", lines=3, max_length=TEXT_LETTERS, elem_id="text")
    with gradio.Row():
        voices = page.voices
        voice = gradio.Dropdown(voices, value=voices[0][1], label="Voice", elem_id="voice")
        seed = gradio.Number(0, label="Seed: another one reads it another way", precision=0, elem_id="seed")
    with gradio.Accordion("A voice of your own", open=False):
        gradio.Markdown("3 to 5 seconds of one speaker. Expect a likeness at best.")
        clip = _sound_input(gradio, "Clip", "clip")
        words = gradio.Textbox(label="What is said in the clip, word for word", elem_id="words")
        consent = gradio.Checkbox(label=_CONSENT, elem_id="consent")
    button = gradio.Button("Speak", variant="primary", elem_id="speak")
    live = gradio.HTML(elem_id="live")
    status = gradio.Markdown(elem_id="spoken")
    sound = _sound_output(gradio, "The whole", "speech")
    picture = _picture(gradio, "Waveform, spectrogram, codes", "speech-picture")

    def speak(
        text: str, voice: str, seed: float, clip: str | None, words: str, consent: bool
    ) -> Iterator[tuple[Any, ...]]:
        began, first = time.monotonic(), 0.0
        chosen = page.choose_voice(voice, clip, words or "", consent)
        name, heard = page.sounds.open()
        player = f'<div data-live="live/{name}.wav"><button>Stop the sound</button></div>'
        with tempfile.TemporaryDirectory() as folder:
            wav, drawn = Path(folder) / "speech.wav", Path(folder) / "speech.png"
            for told in page.speak(text or "", chosen, int(seed or 0), heard, wav, drawn):
                if not first:
                    first = time.monotonic() - began
                    yield player, f"{told.seconds:.1f} s so far", None, None
                elif told.ended is None:
                    yield gradio.skip(), f"{told.seconds:.1f} s so far", None, None
                else:
                    words_now = (
                        f"{told.seconds:.1f} s of speech in {time.monotonic() - began:.1f} s, the first sound after "
                        f"{first:.1f} s; {told.ended}. Generated speech, not a recording: the file says so too."
                    )
                    yield gradio.skip(), words_now, str(wav), str(drawn)

    inputs = [text, voice, seed, clip, words, consent]
    outputs = [live, status, sound, picture]
    button.click(_told(gradio, speak), inputs, outputs, api_name="speak", show_progress="minimal")


def _codebooks_tab(gradio: Any, page: Page) -> None:
    gradio.Markdown(
        "Each codebook codes what those before it left over. Drop a clip and slide: you hear what so many codebooks "
        f"keep. The first {CLIP_SECONDS:g} s count."
    )
    with gradio.Row():
        with gradio.Column():
            source = _sound_input(gradio, "A clip of speech", "source")
            n_q = gradio.Slider(1, page.n_q, value=page.n_q, step=1, label="Codebooks", elem_id="n-q")
            decoded = _sound_output(gradio, "After the codec", "decoded")
        table = gradio.HTML(elem_id="levels")
    picture = _picture(gradio, "Before and after", "clip-picture")
    held = gradio.State(None, time_to_live=_KEEP_S)

    def show(clip: Clip | None, n_q: float) -> Iterator[tuple[Any, ...]]:
        if clip is None:
            yield None, None
            return
        with tempfile.TemporaryDirectory() as folder:
            wav, drawn = Path(folder) / f"decoded-{int(n_q)}.wav", Path(folder) / "clip.png"
            page.show(clip, int(n_q), wav, drawn)
            yield str(wav), str(drawn)

    def take(path: str | None) -> Any:
        return None if path is None else page.open_clip(path)

    def measure(clip: Clip | None) -> Iterator[str]:
        if clip is None:
            yield ""
            return
        levels: list[Level] = []
        for level in page.levels(clip):
            levels.append(level)
            yield level_table(levels, clip.is_cut, page.n_q)

    outputs = [decoded, picture]
    taken = source.change(_told(gradio, take), [source], [held], api_visibility="private")
    shown = taken.success(_told(gradio, show), [held, n_q], outputs, api_visibility="private")
    shown.success(_told(gradio, measure), [held], [table], api_visibility="private", show_progress="hidden")
    n_q.change(
        _told(gradio, show), [held, n_q], outputs, api_visibility="private", trigger_mode="always_last"
    )


def _sound_input(gradio: Any, label: str, name: str) -> Any:
    sound = gradio.Audio(
        label=label,
        sources=["upload", "microphone"],
        type="filepath",
        elem_id=name,
        editable=False,
        buttons=["download"],
    )
    keep = sound.async_move_resource_to_block_cache

    async def keep_uploads(path: str | None) -> str | None:
        # An address would be fetched: from elsewhere, by this machine.
        if path is not None and not Path(path).is_file():
            raise gradio.Error("expected a sound that was uploaded; drop it again", print_exception=False)
        return await keep(path)

    sound.async_move_resource_to_block_cache = keep_uploads
    return sound


def _sound_output(gradio: Any, label: str, name: str) -> Any:
    return gradio.Audio(label=label, type="filepath", interactive=False, elem_id=name, buttons=["download"])


def _picture(gradio: Any, label: str, name: str) -> Any:
    # Without its own choice of buttons one of them would share the picture with the world.
    buttons = ["download", "fullscreen"]
    return gradio.Image(label=label, type="filepath", interactive=False, elem_id=name, buttons=buttons)


def level_table(levels: list[Level], is_cut: bool, n_q: int) -> str:
    """What every number of codebooks is worth, as HTML."""
    rows, before = [], None
    for level in levels:
        score, gain = level.pesq_wb, ""
        if isinstance(score, str):
            said = html.escape(score)
        else:
            said = f"{score:.2f}"
            gain = "" if before is None else f"{score - before:+.2f}"
            before = score
        cells = (str(level.n_q), f"{level.bitrate_bps / 1000:g}", said, gain)
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    notes = []
    if is_cut:
        notes.append(f"The clip goes on; its first {CLIP_SECONDS:g} s are measured.")
    if any(level.pesq_wb == "not installed" for level in levels):
        notes.append("PESQ is not installed here: pip install 'audiotok[eval]'.")
    if len(levels) < n_q:
        notes.append("Measuring...")
    heads = "".join(f"<th>{word}</th>" for word in ("codebooks", "kbit/s", "PESQ-WB", "gained"))
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table><p>{' '.join(notes)}</p>"


def _told(gradio: Any, work: Callable[..., Any]) -> Callable[..., Any]:
    """``work`` with its errors as messages of the page: those a visitor can cause in words, others as an apology."""

    def message(error: Exception) -> Any:
        if isinstance(error, program.KNOWN_ERRORS):
            words = program.one_line(error)
        else:
            _LOG.exception("the page failed")
            words = "Something went wrong on this machine; its log says more."
        return gradio.Error(html.escape(words), print_exception=False, title="That did not work")

    if not inspect.isgeneratorfunction(work):

        @wraps(work)
        def call(*values: Any) -> Any:
            try:
                return work(*values)
            except Exception as error:  # the page's boundary: nothing may pass it as a traceback
                raise message(error) from None

        return call

    @wraps(work)
    def run(*values: Any) -> Iterator[Any]:
        try:
            yield from work(*values)
        except Exception as error:
            raise message(error) from None

    return run
