"""HTTP routes: speech, models and voices in the format of OpenAI, health and metrics."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import re
import time
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, TypeVar

from fastapi import APIRouter, Depends, File, Form, Request, UploadFile
from fastapi.responses import Response, StreamingResponse
from prometheus_client import generate_latest
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.types import Receive, Scope, Send

from ..synthesizer import SpeechChunk, Synthesizer, provenance_tag
from ..voices import Voice
from .audio import MEDIA_TYPES, SoundFormat, StreamEncoder, change_speed, encode, read_clip
from .errors import ApiError, api_error, client_errors, failure
from .metrics import Metrics
from .scheduler import Scheduler, ServeLimits
from .voices import VoiceStore

TAG_HEADER, IGNORED_HEADER, REASON_HEADER = "X-Generated", "X-Ignored-Fields", "X-Finish-Reason"
# Names of OpenAI, which select the served model and its first voice.
_OTHER_MODELS = re.compile(r"tts-1(-.+)?|gpt-.*tts(-.+)?")
_OTHER_VOICES = "alloy ash ballad cedar coral echo fable marin nova onyx sage shimmer verse".split()
_NAME_LETTERS, _FIELD_LETTERS = 40, 1_000
_SHORTEST_CONSENT = 10  # letters; "yes" is too short to state who agreed to what
_NAME = re.compile(rf"[a-z0-9][a-z0-9_-]{{0,{_NAME_LETTERS - 1}}}")
_SSML = re.compile(
    r"<\?xml|</?speak\b[^<>]*>|<(?:audio|break|emphasis|lang|mark|phoneme|prosody|say-as|sub|voice)(?:\s+[\w:-]+\s*=|\s*/>)"
)
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f\ud800-\udfff]")
_SSE = "text/event-stream"
_SOUND = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in MEDIA_TYPES.values()}
_LOG = logging.getLogger("tts_lm.server")
_T = TypeVar("_T")
_ERRORS: dict[int | str, dict[str, Any]] = {"default": {"description": "error: message, type, param, code"}}
router = APIRouter(responses=_ERRORS)


@dataclass
class Server:
    """Shared objects of the routes."""

    synthesizer: Synthesizer
    scheduler: Scheduler
    voices: VoiceStore
    limits: ServeLimits
    metrics: Metrics
    model: str
    created: int = field(default_factory=lambda: int(time.time()))
    uploads: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2))
    """Held while an uploaded clip is decoded."""

    @property
    def rate(self) -> int:
        """Sampling rate in Hz."""
        return self.synthesizer.codec.config.sampling_rate

    def check_model(self, name: str) -> bool:
        """True for the model that is served, False for OpenAI's names; raises ApiError for others."""
        if name != self.model and not _OTHER_MODELS.fullmatch(name):
            raise ApiError(404, f"unknown model; choose {self.model!r}", "model", "model_not_found")
        return name == self.model

    def voice(self, name: str) -> tuple[Voice, bool]:
        """The voice of this name and True, or the first and False for OpenAI's names; raises ApiError for others."""
        if voice := self.voices.find(name):
            return voice, True
        if name.lower() in _OTHER_VOICES:
            return self.synthesizer.voice(), False
        names = ", ".join(voice.name for voice in self.voices.all())
        raise ApiError(400, f"unknown voice; choose from {names}", "voice", "voice_not_found")


def _server(request: Request) -> Server:
    return request.app.state.server


Served = Annotated[Server, Depends(_server)]


async def _unless_client_leaves(request: Request, work: Awaitable[_T]) -> _T:
    """Await ``work``; cancel it when the client disconnects. The body of the request must have been read."""

    async def disconnected() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    tasks = asyncio.ensure_future(work), asyncio.ensure_future(disconnected())
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not tasks[0].done():
            raise ApiError(499, "the client disconnected")
        return tasks[0].result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


# Speech


class SpeechRequest(BaseModel):
    """OpenAI's fields, ``seed`` and ``stream``. Others, ``instructions`` too, are named in ``X-Ignored-Fields``."""

    model_config = ConfigDict(extra="allow")
    model: str = Field(max_length=200, description="a model of GET /v1/models, or a name of OpenAI")
    input: str = Field(min_length=1, description="plain text")
    voice: str = Field(description="a voice of GET /v1/voices, or an object with its id")
    response_format: SoundFormat = Field("mp3", description="pcm is 16-bit little-endian mono at 24 kHz")
    speed: float = Field(
        1.0, ge=0.25, le=4.0, allow_inf_nan=False, strict=True, description="changes no pitch"
    )
    stream: bool = Field(False, strict=True, description="send audio while it is generated")
    stream_format: Literal["audio", "sse"] | None = Field(None, description="implies stream")
    seed: int = Field(0, ge=-(1 << 63), lt=1 << 63, strict=True, description="seed of the sampling noise")

    @model_validator(mode="before")
    @classmethod
    def _simplify(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        given = {key: value for key, value in given.items() if value is not None}
        if isinstance(given.get("voice"), dict):
            given["voice"] = given["voice"].get("id")
        return given


def check_text(text: str) -> str:
    """Return the text. Raises ValueError if it contains SSML or control characters."""
    if tag := _SSML.search(text):
        raise ValueError(f"expected plain text, got SSML at character {tag.start()}; remove the tags")
    if _CONTROL.search(text):
        raise ValueError("expected plain text, got control characters; remove them")
    return text


@router.post(
    "/v1/audio/speech",
    tags=["speech"],
    response_class=Response,
    responses={200: {"content": {**_SOUND, _SSE: {}}, "description": "audio or events"}},
)
async def speech(asked: SpeechRequest, request: Request, server: Served) -> Response:
    """Synthesize a text."""
    is_model, letters = server.check_model(asked.model), server.limits.text_letters
    if len(asked.input) > letters:
        message = f"the input may have {letters} characters, got {len(asked.input)}; send it in parts"
        raise ApiError(400, message, "input", "string_above_max_length")
    with client_errors("input"):
        check_text(asked.input)
    voice, is_voice = server.voice(asked.voice)
    settings = {"model": server.model, "seed": asked.seed, "speed": asked.speed}
    headers = {TAG_HEADER: provenance_tag(asked.input, voice.name, settings)}
    ignored = [*(asked.model_extra or ()), *["model"] * (not is_model), *["voice"] * (not is_voice)]
    if ignored:
        names = dict.fromkeys(re.sub(r"[^\w.-]", "?", name or "?", flags=re.ASCII)[:40] for name in ignored)
        headers[IGNORED_HEADER] = ", ".join(list(names)[:20])
    kind, is_sse = MEDIA_TYPES[asked.response_format], asked.stream_format == "sse"
    is_streamed = asked.stream or asked.stream_format is not None
    if is_streamed and asked.speed == 1 and asked.response_format != "flac":
        pieces = await _stream(asked, request, server, voice, headers[TAG_HEADER])
    else:
        whole, frames = await _whole(asked, request, server, voice, headers)
        if not is_streamed:
            return Response(whole, headers=headers, media_type=kind)
        pieces = _one_piece(whole, frames)
    body = _events(pieces, len(asked.input)) if is_sse else _bytes(pieces)
    answer = _StreamedSpeech(body, headers=headers, media_type=_SSE if is_sse else kind)
    answer.pieces, answer.timeout_s = body, server.limits.timeout_seconds
    return answer


Pieces = AsyncGenerator[tuple[bytes, int], None]
"""Pieces of encoded audio with their numbers of frames."""


async def _whole(
    asked: SpeechRequest, request: Request, server: Server, voice: Voice, headers: dict[str, str]
) -> tuple[bytes, int]:
    """The encoded speech and its number of frames. Adds the finish reason to the headers."""
    with client_errors("input"):
        said = await _unless_client_leaves(request, server.scheduler.say(asked.input, voice, asked.seed))
    headers[REASON_HEADER] = said.finish_reason
    server.metrics.spoken.inc(said.seconds)

    def pack() -> bytes:
        wav = change_speed(said.wav, said.sampling_rate, asked.speed)
        return encode(wav, said.sampling_rate, asked.response_format, headers[TAG_HEADER])

    return await asyncio.to_thread(pack), said.codes.shape[1]


async def _one_piece(body: bytes, frames: int) -> Pieces:
    yield body, frames


async def _stream(asked: SpeechRequest, request: Request, server: Server, voice: Voice, tag: str) -> Pieces:
    """Encoded pieces of a stream. Waits for the first chunk, so that an earlier error has its own status."""
    began = time.monotonic()
    encoder = StreamEncoder(server.rate, asked.response_format, tag)
    chunks = server.scheduler.stream(asked.input, voice, asked.seed)
    with client_errors("input"):
        first = await _unless_client_leaves(request, anext(chunks))
    server.metrics.first_sound.observe(time.monotonic() - began)

    async def pieces() -> Pieces:
        async with aclosing(chunks):
            chunk: SpeechChunk | None = first
            while chunk is not None:
                server.metrics.spoken.inc(len(chunk.wav) / chunk.sampling_rate)
                yield await asyncio.to_thread(encoder.push, chunk.wav), chunk.codes.shape[1]
                chunk = await anext(chunks, None)
        yield await asyncio.to_thread(encoder.close), 0

    return pieces()


async def _bytes(pieces: Pieces) -> AsyncGenerator[bytes, None]:
    async with aclosing(pieces):
        async for piece, _ in pieces:
            if piece:
                yield piece


async def _events(pieces: Pieces, letters: int) -> AsyncGenerator[bytes, None]:
    """OpenAI's events: speech.audio.delta, speech.audio.done, error."""

    def event(kind: str, **fields: Any) -> bytes:
        return f"data: {json.dumps({'type': kind} | fields)}\n\n".encode()

    frames = 0
    async with aclosing(pieces):
        try:
            async for piece, new in pieces:
                frames += new
                if piece:
                    yield event("speech.audio.delta", audio=base64.b64encode(piece).decode())
        except Exception as error:
            known = api_error(error, "input")
            if known is None:
                _LOG.exception("a stream failed")
            yield event("error", error=(known or failure()).body()["error"])
            return
    usage = {"input_tokens": letters, "output_tokens": frames, "total_tokens": letters + frames}
    yield event("speech.audio.done", usage=usage)


class _StreamedSpeech(StreamingResponse):
    """A streamed response that is closed with its request. An error or timeout closes the connection early."""

    pieces: AsyncGenerator[bytes, None]
    timeout_s: float

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self.pieces):
            try:
                async with asyncio.timeout(self.timeout_s):  # also if the client does not read
                    await super().__call__(scope, receive, send)
            except Exception as error:
                if api_error(error) is None:
                    raise
                _LOG.warning("a stream broke off: %s", error or type(error).__name__)


# Models and voices


@router.get("/v1/models", tags=["models"])
async def models(server: Served) -> dict[str, Any]:
    """The model that is served."""
    return {"object": "list", "data": [await one_model(server.model, server)]}


@router.get("/v1/models/{model}", tags=["models"])
async def one_model(model: str, server: Served) -> dict[str, Any]:
    """One model."""
    server.check_model(model)
    return {"id": server.model, "object": "model", "created": server.created, "owned_by": "tts-lm"}


def _card(voice: Voice, added: bool) -> dict[str, Any]:
    """The JSON of a voice. ``added`` tells whether a client added it."""
    names = ("description", "license", "attribution", "consent")
    facts = {name: str(voice.card.get(name, "")) for name in names}
    return {"id": voice.name, "name": voice.name, "object": "audio.voice", **facts, "added": added}


@router.get("/v1/voices", tags=["voices"])
@router.get("/v1/audio/voices", tags=["voices"])
async def voices(server: Served) -> dict[str, Any]:
    """All voices, the default first. ``voices`` repeats ``data`` for clients that read that field."""
    cards = [_card(voice, voice.name in server.voices.added) for voice in server.voices.all()]
    return {"object": "list", "data": cards, "voices": cards}


_Line = Annotated[str, Form(max_length=_FIELD_LETTERS)]


@router.post("/v1/voices", status_code=201, tags=["voices"])
async def add_voice(
    server: Served,
    file: Annotated[UploadFile, File(description="1 to 8 s of speech: WAV, FLAC, Ogg or MP3")],
    name: Annotated[str, Form(max_length=_NAME_LETTERS, description="a-z, 0-9, _ and -")],
    text: Annotated[str, Form(max_length=_FIELD_LETTERS, description="exact transcript of the clip")],
    consent: Annotated[_Line, Form(description="how the speaker agreed to the use of the voice")] = "",
    license: _Line = "",
    attribution: _Line = "",
) -> dict[str, Any]:
    """Clone the voice of a clip, with its speaker's consent."""
    if not _NAME.fullmatch(name):
        message = f"expected up to {_NAME_LETTERS} of a-z, 0-9, _ and -, a letter or digit first"
        raise ApiError(400, message, "name")
    card: dict[str, str] = {}
    fields = {"text": text, "consent": consent, "license": license, "attribution": attribution}
    for key, value in fields.items():
        with client_errors(key):
            if value := " ".join(check_text(value).split()):
                card[key] = value
    if len(card.get("consent", "")) < _SHORTEST_CONSENT:
        message = "say in a few words how the speaker agreed to the use of the voice"
        raise ApiError(400, message, "consent", "consent_required")

    def clone() -> Voice:
        voice = server.synthesizer.clone_voice(wav, server.rate, text, name)
        voice = replace(voice, card=voice.card | card)
        server.voices.add(voice)
        return voice

    with client_errors("file"):
        async with server.uploads:
            limits, data = server.limits, await file.read()
            wav = await asyncio.to_thread(read_clip, data, limits.clip_seconds, server.rate)
        return _card(await server.scheduler.call(clone), True)


@router.delete("/v1/voices/{name}", tags=["voices"])
async def remove_voice(name: str, server: Served) -> dict[str, Any]:
    """Remove a voice that a client added."""
    with client_errors():
        found = await server.scheduler.call(lambda: server.voices.remove(name))
    if not found:
        raise ApiError(404, "no added voice of this name; GET /v1/voices lists them", "name")
    return {"id": name, "object": "audio.voice.deleted", "deleted": True}


# Server


@router.get("/health", tags=["server"])
async def health(server: Served) -> dict[str, Any]:
    """Whether the server accepts requests."""
    if not server.scheduler.alive:
        raise ApiError(503, "the server is stopping", code="stopping")
    return {"status": "ok", "model": server.model, "queue": server.scheduler.places_taken}


@router.get(
    "/metrics", tags=["server"], response_class=Response, responses={200: {"content": {"text/plain": {}}}}
)
async def metrics(server: Served) -> Response:
    """Counters, for Prometheus."""
    text = generate_latest(server.metrics.registry)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
