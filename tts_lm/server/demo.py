"""The demo page in gradio: speech that plays while it is made, and a clip through the codec with fewer codebooks.

The page works offline. Uploads are read with limits, a clip is cloned only with consent, and errors are one message.
"""

from __future__ import annotations

import html
import inspect
import logging
import os
import secrets
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from audiotok import MetricError, audio_blocks, pesq, pictures, program, save_audio, wav_head

from ..speech import SpeechChunk, pcm16, provenance_tag
from ..synthesizer import Synthesizer
from ..voices import Voice
from .audio import check_shape
from .run import keep_few_shapes
from .security import Access, protect

CLIP_SECONDS = 15.0
TEXT_LETTERS = 1000
_KEPT_STREAMS = 16
_STREAM_TIMEOUT_S = 120.0
_LOG = logging.getLogger("tts_lm.demo")
_PLAYER = Path(__file__).with_name("demo_player.js")
_UPLOAD = "16mb"
_KEEP_S = 3600
_WAITING = 16  # visitors in the queue
_EXAMPLE = "The garden is quiet this morning."
_CONSENT = "The speaker of this clip agreed to the use of the voice."


class LiveAudio:
    """A wav that any number of clients can read while it is being made."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._ended = False
        self._changed = threading.Condition()

    def push(self, piece: bytes) -> None:
        """Add a piece."""
        with self._changed:
            self._pieces.append(piece)
            self._changed.notify_all()

    def end(self) -> None:
        """Mark the end."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def read(self) -> Iterator[bytes]:
        """All pieces from the first; waits for the next one."""
        given = 0
        while fresh := self._after(given):
            given += len(fresh)
            yield b"".join(fresh)

    def _after(self, given: int) -> list[bytes]:
        with self._changed:
            self._changed.wait_for(lambda: len(self._pieces) > given or self._ended, _STREAM_TIMEOUT_S)
            return self._pieces[given:]


@dataclass(frozen=True)
class Progress:
    """State of a speech that is being made."""

    seconds: float
    """Of audio so far."""
    ended: str | None = None
    """How it ended; None while it goes on."""


@dataclass(frozen=True)
class Clip:
    """An uploaded clip."""

    name: str
    """Of its file."""
    wav: Tensor
    """[1, N] float32."""
    codes: Tensor
    """[K, T] int64."""
    is_cut: bool
    """Whether the file is longer."""


class Page:
    """What a visitor can do. The models work for one visitor at a time.

    Args:
        synthesizer: also gives the codec of the second tab.
    """

    def __init__(self, synthesizer: Synthesizer) -> None:
        self._synthesizer = synthesizer
        self._codec = synthesizer.codec
        self._models = threading.Lock()
        self._streams: OrderedDict[str, LiveAudio] = OrderedDict()
        self.n_q: int = self._codec.config.n_q

    @property
    def voices(self) -> list[tuple[str, str]]:
        """Descriptions and names of the voices, the default first."""
        voices = self._synthesizer.voices.items()
        return [(f"{name}: {voice.card.get('description', 'a voice')}", name) for name, voice in voices]

    def open_stream(self) -> tuple[str, LiveAudio]:
        """A new stream and its name, which cannot be guessed; only the newest 16 are kept."""
        name, live = secrets.token_urlsafe(16), LiveAudio()
        self._streams[name] = live
        while len(self._streams) > _KEPT_STREAMS:
            self._streams.popitem(last=False)
        return name, live

    def stream(self, name: str) -> LiveAudio | None:
        """The stream of this name, if it is still kept."""
        return self._streams.get(name)

    def choose_voice(self, name: str, clip: str | None, words: str, consent: bool) -> Voice:
        """The voice that the form asks for.

        Args:
            name: one of :attr:`voices`; used if there is no clip.
            clip: path of an audio file, or None.
            words: its transcript.
            consent: whether its speaker agreed.

        Raises:
            ValueError: the clip has no transcript or consent, or cannot be used.
        """
        if clip is None:
            return self._synthesizer.voice(name)
        if not consent:
            raise ValueError("the speaker's consent is missing; tick the box, or remove the clip")
        if not words.strip():
            raise ValueError("the words of the clip are missing; write down exactly what is said in it")
        rate = self._codec.config.sampling_rate
        wav, _ = read_start(clip, rate)
        with self._models:
            return self._synthesizer.clone_voice(wav, rate, words)

    def speak(
        self, text: str, voice: Voice, seed: int, live: LiveAudio, wav_path: Path, picture_path: Path
    ) -> Iterator[Progress]:
        """Synthesize a text into a stream; at the end also into a file, with a picture.

        Args:
            text: what to say.
            voice: of :meth:`choose_voice`.
            seed: another seed gives another reading.
            live: always ended when this ends.
            wav_path, picture_path: written at the end.

        Raises:
            ValueError: nothing in the text can be spoken, or it is too long.
        """
        chunks: list[SpeechChunk] = []
        rate, samples = self._codec.config.sampling_rate, 0
        try:
            if len(text) > TEXT_LETTERS:
                raise ValueError(f"the text may have {TEXT_LETTERS} letters, got {len(text)}; shorten it")
            with self._models:
                for chunk in self._synthesizer.stream(text, voice, seed):
                    live.push((b"" if chunks else wav_head(rate)) + pcm16(chunk.wav))
                    chunks.append(chunk)
                    samples += len(chunk.wav)
                    yield Progress(samples / rate)
        finally:
            live.end()
        wav = torch.cat([chunk.wav for chunk in chunks])
        if not len(wav):
            raise ValueError("the model stopped before the first sound; try another seed")
        save_audio(wav_path, wav, rate, provenance_tag(text, voice.name, {"seed": seed}))
        shown = text if len(text) < 80 else f"{text[:77]}..."
        self._draw(picture_path, wav, None, self._codes_over_time(chunks), f"{voice.name}: {shown}")
        bad = [chunk.finish_reason for chunk in chunks if chunk.finish_reason not in (None, "eos")]
        ended = f"ended by {bad[0]}, not by itself; another seed may do better" if bad else "ended by itself"
        yield Progress(len(wav) / rate, ended)

    def open_clip(self, path: str) -> Clip:
        """Read and encode the start of an audio file; raises ValueError if it is none."""
        wav, is_cut = read_start(path, self._codec.config.sampling_rate)
        with self._models, torch.inference_mode():
            codes = self._codec.encode(self._codec.spread(wav[None])).audio_codes
        return Clip(Path(path).name, wav, codes[0].cpu().clone(), is_cut)

    def decode(self, clip: Clip, n_q: int) -> Tensor:
        """A clip decoded from its first ``n_q`` codebooks: [1, N] float32."""
        with self._models, torch.inference_mode():
            codes = clip.codes[None, :n_q].to(self._codec.device)
            wav = self._codec.decode(codes, num_samples=clip.wav.shape[-1]).audio_values
        return wav[0].float().mean(dim=0, keepdim=True).cpu().clone()

    def show(self, clip: Clip, n_q: int, wav_path: Path, picture_path: Path) -> None:
        """Write a clip decoded from its first ``n_q`` codebooks, and a picture of before and after."""
        decoded, config = self.decode(clip, n_q), self._codec.config
        save_audio(wav_path, decoded, config.sampling_rate, "Coded speech")
        title = (
            f"{clip.name}: {n_q} x {config.codebook_size} at {config.frame_rate:g} Hz, "
            f"{self._bitrate_bps(n_q) / 1000:g} kbit/s"
        )
        fewer = self.decode(clip, n_q - 1)[0] if n_q > 1 else None
        self._draw(picture_path, clip.wav[0], decoded[0], clip.codes[:n_q], title, fewer)

    def levels(self, clip: Clip) -> Iterator[tuple[int, float, float | str]]:
        """For 1 to K codebooks: their number, bits a second before entropy coding, and PESQ-WB or why there is none."""
        for n_q in range(1, self.n_q + 1):
            try:
                score: float | str = pesq(clip.wav, self.decode(clip, n_q), self._codec.config.sampling_rate)
            except MetricError as error:
                score = str(error)
            except ModuleNotFoundError:
                score = "not installed"
            yield n_q, self._bitrate_bps(n_q), score

    def _bitrate_bps(self, n_q: int) -> float:
        return self._codec.config.bitrate_bps * n_q / self.n_q

    def _codes_over_time(self, chunks: list[SpeechChunk]) -> Tensor:
        """Codes [K, T] of a speech, -1 in the pauses."""
        rows, hop = max(len(chunk.codes) for chunk in chunks), self._codec.config.hop_length
        columns = []
        for chunk in chunks:
            if chunk.codes.numel():
                columns.append(chunk.codes)
            elif chunk.finish_reason is None:
                columns.append(torch.full((rows, len(chunk.wav) // hop), -1))
        return torch.cat(columns, dim=1)

    def _draw(
        self,
        path: Path,
        wav: Tensor,
        decoded: Tensor | None,
        codes: Tensor,
        title: str,
        fewer: Tensor | None = None,
    ) -> None:
        config = self._codec.config
        after, less = (None if one is None else np.asarray(one) for one in (decoded, fewer))
        sizes = config.sampling_rate, config.codebook_size
        plain = title.replace("$", r"\$")  # a dollar sign begins a formula
        pictures.draw_clip(path, np.asarray(wav), after, np.asarray(codes), *sizes, plain, less)


def read_start(path: str, sampling_rate: int) -> tuple[Tensor, bool]:
    """The start of an uploaded audio file.

    Args:
        path: of the file.
        sampling_rate: Hz, to which it is resampled.

    Returns:
        wav [1, N] float32 of at most ``CLIP_SECONDS``, and whether the file is longer.

    Raises:
        ValueError: it is not audio; the message has the file's name, not its path.
    """
    try:
        blocks = audio_blocks(path, sampling_rate, CLIP_SECONDS)
        with suppress(soundfile.LibsndfileError), soundfile.SoundFile(path) as sound:
            check_shape(sound.channels, sound.samplerate)
        return next(blocks), next(blocks, None) is not None
    except ValueError as error:
        raise ValueError(str(error).replace(path, Path(path).name)) from None


def import_gradio() -> Any:
    """Import gradio without its analytics.

    Raises:
        ModuleNotFoundError: it is missing.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        import gradio  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError as error:
        message = f"the demo needs the package {error.name!r}; pip install 'audiotok[demo]'"
        raise ModuleNotFoundError(message, name=error.name) from error
    return gradio


def build_app(page: Page, hosts: tuple[str, ...] | None = None) -> Any:
    """The page as a FastAPI app.

    Args:
        page: what it does.
        hosts: names that requests may use for it; None allows all.

    Raises:
        ModuleNotFoundError: gradio or matplotlib is missing.
    """
    gradio = import_gradio()
    from fastapi import FastAPI, HTTPException
    from fastapi.responses import StreamingResponse

    keep_few_shapes()
    app = FastAPI(openapi_url=None)
    protect(app, Access(hosts=hosts))

    @app.get("/live/{name}.wav")
    def live(name: str) -> StreamingResponse:
        audio = page.stream(name)
        if audio is None:
            raise HTTPException(404, "this stream is gone; press the button again")
        return StreamingResponse(audio.read(), media_type="audio/wav", headers={"Cache-Control": "no-store"})

    blocks = gradio.Blocks(title="audiotok", analytics_enabled=False, delete_cache=(_KEEP_S, _KEEP_S))
    with blocks:
        gradio.Markdown(
            "# audiotok\nText-to-speech, and what the codec keeps. Everything runs on this machine."
        )
        with gradio.Tab("Speak"):
            _speak_tab(gradio, page)
        with gradio.Tab("Codebooks"):
            _codebooks_tab(gradio, page)
    blocks.has_launched = True  # else a mounted page takes any path of this machine as an upload
    blocks.queue(max_size=_WAITING, default_concurrency_limit=1)
    return gradio.mount_gradio_app(
        app,
        blocks,
        path="/",
        theme=gradio.themes.Default(),  # its fonts are in the package
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
        seed = gradio.Number(0, label="Seed: another one gives another reading", precision=0, elem_id="seed")
    with gradio.Accordion("A voice of your own", open=False):
        gradio.Markdown("1 to 8 seconds of one speaker, best 3 to 5. Expect a likeness at best.")
        clip = _audio_input(gradio, "Clip", "clip")
        words = gradio.Textbox(label="What is said in the clip, word for word", elem_id="words")
        consent = gradio.Checkbox(label=_CONSENT, elem_id="consent")
    button = gradio.Button("Speak", variant="primary", elem_id="speak")
    player = gradio.HTML(elem_id="live")
    status = gradio.Markdown(elem_id="spoken")
    audio = _audio_output(gradio, "Whole speech", "speech")
    picture = _picture(gradio, "Waveform, spectrogram, codes", "speech-picture")

    def speak(
        text: str, voice: str, seed: float, clip: str | None, words: str, consent: bool
    ) -> Iterator[tuple[Any, ...]]:
        began, first = time.monotonic(), 0.0
        chosen = page.choose_voice(voice, clip, words or "", consent)
        name, live = page.open_stream()
        element = f'<div data-live="live/{name}.wav"><button>Stop the sound</button></div>'
        with tempfile.TemporaryDirectory() as folder:
            wav, drawn = Path(folder) / "speech.wav", Path(folder) / "speech.png"
            for state in page.speak(text or "", chosen, int(seed or 0), live, wav, drawn):
                so_far = f"{state.seconds:.1f} s so far"
                if not first:
                    first = time.monotonic() - began
                    yield element, so_far, None, None
                elif state.ended is None:
                    yield gradio.skip(), so_far, None, None
                else:
                    summary = (
                        f"{state.seconds:.1f} s of speech in {time.monotonic() - began:.1f} s, the first after "
                        f"{first:.1f} s; {state.ended}. Generated speech, not a recording; the file says so too."
                    )
                    yield gradio.skip(), summary, str(wav), str(drawn)

    inputs = [text, voice, seed, clip, words, consent]
    outputs = [player, status, audio, picture]
    button.click(_with_messages(gradio, speak), inputs, outputs, api_name="speak", show_progress="minimal")


def _codebooks_tab(gradio: Any, page: Page) -> None:
    gradio.Markdown(
        "Each codebook codes the residual of those before it. Upload a clip and move the slider to hear what the first "
        f"codebooks keep. The first {CLIP_SECONDS:g} s are used."
    )
    with gradio.Row():
        with gradio.Column():
            source = _audio_input(gradio, "A clip of speech", "source")
            n_q = gradio.Slider(1, page.n_q, value=page.n_q, step=1, label="Codebooks", elem_id="n-q")
            decoded = _audio_output(gradio, "After the codec", "decoded")
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
        levels: list[tuple[int, float, float | str]] = []
        yield ""
        for level in page.levels(clip) if clip is not None else ():
            levels.append(level)
            yield level_table(levels, clip is not None and clip.is_cut, page.n_q)

    show, take, measure = (_with_messages(gradio, work) for work in (show, take, measure))
    outputs = [decoded, picture]
    taken = source.change(take, [source], [held], api_visibility="private")
    shown = taken.success(show, [held, n_q], outputs, api_visibility="private")
    shown.success(measure, [held], [table], api_visibility="private", show_progress="hidden")
    n_q.change(show, [held, n_q], outputs, api_visibility="private", trigger_mode="always_last")


def _audio_input(gradio: Any, label: str, name: str) -> Any:
    audio = gradio.Audio(
        label=label,
        sources=["upload", "microphone"],
        type="filepath",
        elem_id=name,
        editable=False,
        buttons=["download"],
    )
    keep = audio.async_move_resource_to_block_cache

    async def keep_uploads(path: str | None) -> str | None:
        if path is not None and not Path(path).is_file():  # gradio would fetch a URL
            raise gradio.Error("expected an uploaded file; upload it again", print_exception=False)
        return await keep(path)

    audio.async_move_resource_to_block_cache = keep_uploads
    return audio


def _audio_output(gradio: Any, label: str, name: str) -> Any:
    return gradio.Audio(label=label, type="filepath", interactive=False, elem_id=name, buttons=["download"])


def _picture(gradio: Any, label: str, name: str) -> Any:
    buttons = ["download", "fullscreen"]  # the default has one that uploads the picture
    return gradio.Image(label=label, type="filepath", interactive=False, elem_id=name, buttons=buttons)


def level_table(levels: list[tuple[int, float, float | str]], is_cut: bool, n_q: int) -> str:
    """The output of :meth:`Page.levels` so far as HTML; ``n_q`` is the number of rows at the end."""
    rows, before = [], None
    for number, bitrate_bps, score in levels:
        gain = ""
        if isinstance(score, str):
            shown = html.escape(score)
        else:
            shown, gain = f"{score:.2f}", "" if before is None else f"{score - before:+.2f}"
            before = score
        cells = (str(number), f"{bitrate_bps / 1000:g}", shown, gain)
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    notes = []
    if is_cut:
        notes.append(f"The file is longer; its first {CLIP_SECONDS:g} s are measured.")
    if any(score == "not installed" for _, _, score in levels):
        notes.append("PESQ is not installed: pip install 'audiotok[eval]'.")
    if len(levels) < n_q:
        notes.append("Measuring...")
    heads = "".join(f"<th>{word}</th>" for word in ("codebooks", "kbit/s", "PESQ-WB", "gain"))
    return f"<table><thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table><p>{' '.join(notes)}</p>"


def _with_messages(gradio: Any, work: Callable[..., Any]) -> Callable[..., Any]:
    """``work`` with its errors as messages of the page: expected ones in their words, others without details."""

    def message(error: Exception) -> Any:
        if isinstance(error, program.KNOWN_ERRORS):
            words = program.one_line(error)
        else:
            _LOG.exception("the page failed")
            words = "Something went wrong on this machine; its log says more."
        return gradio.Error(html.escape(words), print_exception=False, title="That did not work")

    @wraps(work)
    def call(*values: Any) -> Any:
        try:
            return work(*values)
        except Exception as error:
            raise message(error) from None

    @wraps(work)
    def run(*values: Any) -> Iterator[Any]:
        try:
            yield from work(*values)
        except Exception as error:
            raise message(error) from None

    return run if inspect.isgeneratorfunction(work) else call
