"""The demo page in gradio: streamed synthesis, and a clip through the codec with fewer codebooks.

The page works offline. Uploads are limited, and cloning a voice needs consent.
"""

from __future__ import annotations

import html
import logging
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import wraps
from importlib import import_module
from pathlib import Path
from queue import Empty, Queue
from typing import Any

import torch
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from torch import Tensor

from audiotok import pcm_bytes, pictures, program, save_audio, wav_head

from ..synthesizer import PAUSE_SECONDS, SpeechChunk, Synthesizer, provenance_tag
from ..voices import Voice
from .audio import read_clip
from .security import Access, protect

gradio: Any = import_module("gradio")  # its types refuse lists of names
CLIP_SECONDS = 15.0
TEXT_LETTERS = 1000
_KEPT_STREAMS = 16
_STREAM_TIMEOUT_S = 120.0
_LOG = logging.getLogger("tts_lm.demo")
_PLAYER = Path(__file__).with_name("demo_player.js")
_KEEP_S = 3600
_WAITING = 16  # visitors in the queue
# the default buttons of a picture include one that uploads it
_OUTPUT: dict[str, Any] = {"type": "filepath", "interactive": False, "buttons": ["download"]}

Pieces = Queue[bytes | None]
"""Pieces of a streamed wav; None ends it."""


def read_pieces(pieces: Pieces) -> Iterator[bytes]:
    """Yield the pieces until the end."""
    with suppress(Empty):
        while (piece := pieces.get(timeout=_STREAM_TIMEOUT_S)) is not None:
            yield piece


class Page:
    """Functions of the page. The models of ``synthesizer`` serve one visitor at a time."""

    def __init__(self, synthesizer: Synthesizer) -> None:
        self.synthesizer = synthesizer
        self._codec, self._config = synthesizer.codec, synthesizer.codec.config
        self._models = threading.Lock()
        self._streams: dict[str, Pieces] = {}

    def open_stream(self) -> tuple[str, Pieces]:
        """Open a stream with a random name. Only the newest 16 are kept."""
        name, pieces = secrets.token_urlsafe(16), Pieces()
        self._streams[name] = pieces
        for old in list(self._streams)[:-_KEPT_STREAMS]:
            self._streams.pop(old, None)
        return name, pieces

    def take_stream(self, name: str) -> Pieces | None:
        """Remove and return the stream of this name."""
        return self._streams.pop(name, None)

    def choose_voice(self, name: str, clip: str | None, words: str, consent: bool) -> Voice:
        """The voice of this name, or that of a clip (a path) with its transcript and its speaker's consent.

        ValueError: one of them is missing, or the clip cannot be used.
        """
        if clip is None:
            return self.synthesizer.voice(name)
        if not consent:
            raise ValueError("the speaker's consent is missing; tick the box, or remove the clip")
        if not words.strip():
            raise ValueError("the transcript of the clip is missing; write down its exact words")
        rate = self._config.sampling_rate
        wav = read_clip(clip, CLIP_SECONDS, rate, cut=True)
        with self._models:
            return self.synthesizer.clone_voice(wav, rate, words)

    def speak(
        self, text: str, voice: Voice, seed: int, live: Pieces, wav_path: Path, picture_path: Path
    ) -> Iterator[tuple[float, str]]:
        """Synthesize a text into the stream ``live``, which is always closed, then into a file with a picture.

        Yields the seconds of audio so far, and how the generation ended (empty before the end). ValueError: nothing in
        the text can be spoken, or it is too long.
        """
        chunks: list[SpeechChunk] = []
        rate = self._config.sampling_rate
        try:
            if len(text) > TEXT_LETTERS:
                raise ValueError(f"the text may have {TEXT_LETTERS} letters, got {len(text)}; shorten it")
            with self._models:
                for chunk in self.synthesizer.stream(text, voice, seed):
                    live.put((b"" if chunks else wav_head(rate)) + pcm_bytes(chunk.wav))
                    chunks.append(chunk)
                    yield sum(len(chunk.wav) for chunk in chunks) / rate, ""
        finally:
            live.put(None)
        wav = torch.cat([chunk.wav for chunk in chunks])
        if not len(wav):
            raise ValueError("the model stopped before the first sound; try another seed")
        save_audio(wav_path, wav, rate, provenance_tag(text, voice.name, {"seed": seed}))
        rows = max(len(chunk.codes) for chunk in chunks)
        pause = torch.full((rows, int(PAUSE_SECONDS * rate) // self._config.hop_length), -1)
        codes = [
            chunk.codes if chunk.codes.numel() else pause
            for chunk in chunks
            if chunk.codes.numel() or chunk.finish_reason is None
        ]
        self._draw(picture_path, wav, None, torch.cat(codes, dim=1), f"{voice.name}: {text[:80]}")
        bad = [chunk.finish_reason for chunk in chunks if chunk.finish_reason not in (None, "eos")]
        ended = f"ended by {bad[0]}, not by itself; another seed may do better" if bad else "ended by itself"
        yield len(wav) / rate, ended

    def show(self, path: str, n_q: int, wav_path: Path, picture_path: Path) -> None:
        """Encode the start of an audio file, and write the reconstruction from ``n_q`` codebooks and a picture."""
        codec, config = self._codec, self._config
        wav = read_clip(path, CLIP_SECONDS, config.sampling_rate, cut=True)
        with self._models, torch.inference_mode():
            codes = codec.encode(codec.spread(wav[None])).audio_codes[:, :n_q]
            audio = codec.decode(codes, num_samples=wav.shape[-1]).audio_values
            decoded = audio[0].float().mean(dim=0, keepdim=True).cpu()
        save_audio(wav_path, decoded, config.sampling_rate, "Coded speech")
        title = (
            f"{Path(path).name}: {n_q} x {config.codebook_size} at {config.frame_rate:g} Hz, "
            f"{config.bitrate_bps * n_q / config.n_q / 1000:g} kbit/s"
        )
        self._draw(picture_path, wav[0], decoded[0], codes[0].cpu(), title)

    def _draw(self, path: Path, wav: Tensor, decoded: Tensor | None, codes: Tensor, title: str) -> None:
        after = None if decoded is None else decoded.numpy()
        sizes = self._config.sampling_rate, self._config.codebook_size
        plain = title.replace("$", r"\$")  # matplotlib parses dollar signs as formulas
        pictures.draw_clip(path, wav.numpy(), after, codes.numpy(), *sizes, plain)


def build_app(page: Page, hosts: tuple[str, ...] | None = None) -> Any:
    """The page as a FastAPI app. ``hosts`` are the allowed names in the Host header; None allows all."""
    app = FastAPI(openapi_url=None)
    protect(app, Access(hosts=hosts))

    @app.get("/live/{name}.wav")
    def live(name: str) -> StreamingResponse:
        pieces = page.take_stream(name)
        if pieces is None:
            raise HTTPException(404, "this stream has ended; press the button again")
        no_store = {"Cache-Control": "no-store"}
        return StreamingResponse(read_pieces(pieces), media_type="audio/wav", headers=no_store)

    blocks = gradio.Blocks(title="audiotok", analytics_enabled=False, delete_cache=(_KEEP_S, _KEEP_S))
    with blocks:
        gradio.Markdown(
            "# audiotok\nText-to-speech, and the codec with fewer codebooks. Everything runs on this machine."
        )
        with gradio.Tab("Speak"):
            _speak_tab(page)
        with gradio.Tab("Codebooks"):
            _codebooks_tab(page)
    blocks.has_launched = True  # otherwise a mounted page accepts any path of this machine as an upload
    blocks.queue(max_size=_WAITING, default_concurrency_limit=1)
    return gradio.mount_gradio_app(
        app,
        blocks,
        path="/",
        theme=gradio.themes.Default(),  # its fonts are in the package
        head=f"<script>{_PLAYER.read_text(encoding='utf-8')}</script>",
        footer_links=[],
        show_error=False,
        max_file_size="16mb",
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
    )


def _speak_tab(page: Page) -> None:
    example, voices = "The garden is quiet this morning.", page.synthesizer.voices.items()
    text = gradio.Textbox(example, label="Text", lines=3, max_length=TEXT_LETTERS)
    with gradio.Row():
        known = [(f"{name}: {voice.card.get('description', 'a voice')}", name) for name, voice in voices]
        voice = gradio.Dropdown(known, value=known[0][1], label="Voice")
        seed = gradio.Number(0, label="Seed of the sampling noise", precision=0)
    with gradio.Accordion("A voice of your own", open=False):
        gradio.Markdown(
            "1 to 8 seconds of one speaker; 3 to 5 work best. Expect a similar voice, not the same one."
        )
        clip = _audio_input("Clip")
        words = gradio.Textbox(label="Exact transcript of the clip")
        agreed = "The speaker of this clip agreed to the use of the voice."
        consent = gradio.Checkbox(label=agreed)
    button = gradio.Button("Speak", variant="primary")
    player = gradio.HTML()
    status = gradio.Markdown()
    audio = gradio.Audio(label="Whole speech", **_OUTPUT)
    picture = gradio.Image(label="Waveform, spectrogram, codes", **_OUTPUT)

    def speak(
        text: str, voice: str, seed: float, clip: str | None, words: str, consent: bool
    ) -> Iterator[tuple[Any, ...]]:
        began, first = time.monotonic(), 0.0
        chosen = page.choose_voice(voice, clip, words or "", consent)
        name, live = page.open_stream()
        element = f'<div data-live="live/{name}.wav"><button>Stop the sound</button></div>'
        with tempfile.TemporaryDirectory() as folder:
            wav, drawn = Path(folder) / "speech.wav", Path(folder) / "speech.png"
            for seconds, ended in page.speak(text or "", chosen, int(seed or 0), live, wav, drawn):
                if ended:
                    summary = (
                        f"{seconds:.1f} s of speech in {time.monotonic() - began:.1f} s, the first after "
                        f"{first:.1f} s; {ended}. Generated speech, not a recording. The file has a provenance tag."
                    )
                    yield gradio.skip(), summary, str(wav), str(drawn)
                else:
                    files = (gradio.skip(), gradio.skip()) if first else (None, None)
                    yield gradio.skip() if first else element, f"{seconds:.1f} s so far", *files
                    first = first or time.monotonic() - began

    inputs = [text, voice, seed, clip, words, consent]
    outputs = [player, status, audio, picture]
    button.click(_with_messages(speak), inputs, outputs, api_name="speak", show_progress="minimal")


def _codebooks_tab(page: Page) -> None:
    gradio.Markdown(
        "Each codebook codes the residual of those before it. Upload a clip and move the slider to hear what the first "
        f"codebooks keep. The first {CLIP_SECONDS:g} s are used."
    )
    with gradio.Row():
        source = _audio_input("A clip of speech")
        decoded = gradio.Audio(label="After the codec", **_OUTPUT)
    most = page.synthesizer.codec.config.n_q
    n_q = gradio.Slider(1, most, value=most, step=1, label="Codebooks")
    picture = gradio.Image(label="Before and after", **_OUTPUT)

    def show(path: str | None, n_q: float) -> Iterator[tuple[Any, ...]]:
        if path is None:
            yield None, None
            return
        with tempfile.TemporaryDirectory() as folder:
            wav, drawn = Path(folder) / f"decoded-{int(n_q)}.wav", Path(folder) / "clip.png"
            page.show(path, int(n_q), wav, drawn)
            yield str(wav), str(drawn)

    run = _with_messages(show)
    for control in (source, n_q):
        outputs = [decoded, picture]
        control.change(run, [source, n_q], outputs, api_visibility="private", trigger_mode="always_last")


def _audio_input(label: str) -> Any:
    sources = ["upload", "microphone"]
    audio = gradio.Audio(label=label, sources=sources, type="filepath", editable=False, buttons=["download"])
    keep = audio.async_move_resource_to_block_cache

    async def keep_uploads(path: str | None) -> str | None:
        if path is not None and not Path(path).is_file():  # gradio would fetch a URL
            raise gradio.Error("expected an uploaded file; upload it again", print_exception=False)
        return await keep(path)

    audio.async_move_resource_to_block_cache = keep_uploads
    return audio


def _with_messages(work: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """Wrap ``work`` so that its errors become messages on the page. Unexpected errors are shown without details."""

    @wraps(work)
    def run(*values: Any) -> Iterator[Any]:
        try:
            yield from work(*values)
        except Exception as error:
            words = program.one_line(error)
            if not isinstance(error, program.KNOWN_ERRORS):
                _LOG.exception("the page failed")
                words = "Something went wrong on this machine; see its log."
            title = "That did not work"
            raise gradio.Error(html.escape(words), print_exception=False, title=title) from None

    return run
