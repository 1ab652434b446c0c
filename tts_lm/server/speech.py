"""The route that speaks: ``POST /v1/audio/speech``, as OpenAI's client calls it.

Knows nothing of queues or codecs. The laws it keeps: the same text, voice and seed give the same sound, whoever else
asks; what can carry a mark says that it was generated, and every answer's header says it.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any, Literal

from fastapi import APIRouter
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError
from starlette.types import Receive, Scope, Send

from ..marks import mark_of
from ..stream import SpeechChunk
from ..voices import Voice
from .scheduler import Stopped
from .errors import ApiError, BrokenOff
from .front import ERRORS, Behind, Front, client_errors
from .limits import MAX_NAME_LETTERS, MAX_SPEED, MIN_SPEED
from .audio import MEDIA_TYPES, SoundFormat, change_speed, encode, open_encoder

_SSE = "text/event-stream"
MARK_HEADER = "X-Generated"
router = APIRouter(tags=["speech"])


class VoiceId(BaseModel):
    """A voice by its id."""

    model_config = ConfigDict(extra="forbid")
    id: str = Field(min_length=1, max_length=MAX_NAME_LETTERS)


def _a_voice(given: Any) -> Any:
    """Refuse what is no voice in one sentence, not one for each form that it may have."""
    if isinstance(given, str) or isinstance(given, dict) and set(given) == {"id"}:
        return given
    raise PydanticCustomError("voice", "expected a voice's name, or an object with its id")


class SpeechRequest(BaseModel):
    """What is to be said, and how. Fields that OpenAI's interface does not have: ``seed`` and ``stream``."""

    model_config = ConfigDict(extra="forbid")
    model: str = Field(min_length=1, max_length=200, description="of GET /v1/models; tts-1 is understood")
    input: str = Field(min_length=1, description="English, plain text")
    voice: Annotated[str | VoiceId, BeforeValidator(_a_voice)] = Field(description="of GET /v1/voices")
    response_format: SoundFormat = Field("mp3", description="pcm is 16-bit little-endian mono at 24 kHz")
    speed: float = Field(
        1.0, ge=MIN_SPEED, le=MAX_SPEED, allow_inf_nan=False, strict=True, description="the pitch stays"
    )
    stream: bool = Field(
        False, strict=True, description="send sound while it is being made; one reading of each sentence"
    )
    stream_format: Literal["audio", "sse"] | None = Field(None, description="given, it streams")
    instructions: str | None = Field(None, max_length=0, description="not understood; leave it out")
    seed: int = Field(
        0, ge=-(1 << 63), lt=1 << 63, strict=True, description="another seed reads it another way"
    )

    @property
    def voice_name(self) -> str:
        """The voice, however it was given."""
        return self.voice if isinstance(self.voice, str) else self.voice.id


SOUND = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in MEDIA_TYPES.values()}
"""What an answer with sound may be, for the OpenAPI document."""


class _Closing(StreamingResponse):
    """A stream that ends with its request, also when that is given up: what made it is closed at once."""

    def __init__(self, pieces: AsyncGenerator[bytes, None], headers: dict[str, str], kind: str) -> None:
        super().__init__(pieces, headers=headers, media_type=kind)
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._pieces):
            await super().__call__(scope, receive, send)


@router.post(
    "/v1/audio/speech",
    response_class=Response,
    responses={
        **ERRORS,
        200: {
            "content": {**SOUND, _SSE: {"schema": {"type": "string"}}},
            "description": "the sound, or events",
        },
    },
)
async def speech(asked: SpeechRequest, front: Behind) -> Response:
    """Speak a text."""
    front.check_model(asked.model)
    front.check_text(asked.input)
    voice = front.voice(asked.voice_name)
    settings = {"model": front.model, "seed": asked.seed, "speed": asked.speed}
    mark = mark_of(asked.input, voice.name, settings)
    if asked.stream or asked.stream_format:
        return await _stream(asked, front, voice, mark)
    with client_errors("input"):
        said = await front.engine.say(asked.input, voice, asked.seed)

    def pack() -> bytes:
        wav = change_speed(said.wav, said.sampling_rate, asked.speed)
        return encode(wav, said.sampling_rate, asked.response_format, mark)

    body = await asyncio.to_thread(pack)
    front.meters.spoken.inc(said.seconds)
    headers = {MARK_HEADER: mark, "X-Finish-Reason": said.finish_reason}
    return Response(body, headers=headers, media_type=MEDIA_TYPES[asked.response_format])


async def _stream(asked: SpeechRequest, front: Front, voice: Voice, mark: str) -> Response:
    """An answer that begins with the first sound; what is wrong by then is still an error of its own."""
    began = time.monotonic()
    if asked.speed != 1:
        raise ApiError(400, "expected speed 1 for a stream; ask for the whole speech to change it", "speed")
    with client_errors("response_format"):
        rate = front.synthesizer.codec.config.sampling_rate
        encoder = open_encoder(rate, asked.response_format, mark)
    chunks = front.engine.stream(asked.input, voice, asked.seed)
    with client_errors("input"):
        first = await anext(chunks)
    front.meters.first_sound.observe(time.monotonic() - began)
    events = asked.stream_format == "sse"

    async def pieces() -> AsyncGenerator[bytes, None]:
        frames = 0
        async with aclosing(chunks):
            try:
                async for chunk in _all(first, chunks):
                    frames += chunk.codes.shape[1]
                    front.meters.spoken.inc(len(chunk.wav) / chunk.sampling_rate)
                    if ready := await asyncio.to_thread(encoder.push, chunk.wav):
                        yield _delta(ready) if events else ready
                if rest := await asyncio.to_thread(encoder.close):
                    yield _delta(rest) if events else rest
            except Exception as error:
                if not events:  # the connection breaks off, so that no one takes a part for the whole
                    raise BrokenOff if isinstance(error, (TimeoutError, Stopped)) else error from None
                yield _event("error", error=_told(error))
                return
        if events:
            count = len(asked.input)
            usage = {"input_tokens": count, "output_tokens": frames, "total_tokens": count + frames}
            yield _event("speech.audio.done", usage=usage)

    kind = _SSE if events else MEDIA_TYPES[asked.response_format]
    return _Closing(pieces(), {MARK_HEADER: mark}, kind)


async def _all(first: SpeechChunk, rest: AsyncIterator[SpeechChunk]) -> AsyncIterator[SpeechChunk]:
    yield first
    async for chunk in rest:
        yield chunk


def _told(error: Exception) -> Any:
    """An error in the middle of a stream, as the answer to a request would say it."""
    try:
        with client_errors("input"):
            raise error
    except ApiError as known:
        return known.body()["error"]
    except Exception:
        return ApiError(500, "the server failed at this request; its log says why").body()["error"]


def _delta(sound: bytes) -> bytes:
    return _event("speech.audio.delta", audio=base64.b64encode(sound).decode())


def _event(kind: str, **fields: Any) -> bytes:
    return f"data: {json.dumps({'type': kind} | fields)}\n\n".encode()
