"""The routes beside speaking: models, voices, sound to codes and back, health and counters.

Knows nothing of queues. The laws they keep: a voice is taken with its speaker's consent only; codes are taken with the
fingerprint of the codec that they are of.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Annotated, Literal

import torch
from fastapi import APIRouter, File, Form, UploadFile
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from ..clone import LONGEST_SECONDS
from ..marks import mark_of
from ..voices import MAX_PROMPT_SECONDS, Voice
from .errors import ApiError
from .front import ERRORS, Behind, Front, client_errors
from .limits import MAX_FIELD_LETTERS, MAX_NAME_LETTERS
from .audio import MEDIA_TYPES, SoundFormat, encode
from .speech import MARK_HEADER, SOUND
from .uploads import check_field, check_name

_SHORTEST_CONSENT = 10  # letters: "yes" does not say who agreed to what
VOICE_CLIP_SECONDS = LONGEST_SECONDS + 10.0  # with silence around what is said
_TOKENS = "/v1/audio/tokens"
router = APIRouter(responses=ERRORS)


class ModelCard(BaseModel):
    """A model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "tts-lm"


class ModelList(BaseModel):
    """Models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class VoiceCard(BaseModel):
    """A voice, and whose it is."""

    id: str
    name: str
    object: Literal["audio.voice"] = "audio.voice"
    description: str
    license: str
    attribution: str
    consent: str
    added: bool = Field(description="by a client of this server")


class VoiceList(BaseModel):
    """Voices; the first is the default of ``tts-lm say``."""

    object: Literal["list"] = "list"
    data: list[VoiceCard]


class VoiceRemoved(BaseModel):
    """A voice that is no more."""

    id: str
    object: Literal["audio.voice.deleted"] = "audio.voice.deleted"
    deleted: bool = True


class Tokens(BaseModel):
    """A sound as codes."""

    object: Literal["audio.tokens"] = "audio.tokens"
    codec: str
    codes_fingerprint: str
    sampling_rate: int
    frame_rate: float
    num_samples: int
    n_q: int
    codes: list[list[int]] = Field(description="n_q rows of one code a frame")


class TokensRequest(BaseModel):
    """Codes to be heard."""

    model_config = ConfigDict(extra="forbid")
    codes: list[list[Annotated[int, Field(ge=0, lt=1 << 31, strict=True)]]] = Field(min_length=1)
    codes_fingerprint: str = Field(max_length=64, description="of the answer that the codes came in")
    num_samples: int | None = Field(
        None, ge=1, lt=1 << 31, description="length of the sound; None: all frames"
    )
    response_format: SoundFormat = "wav"


class Health(BaseModel):
    """How the server is."""

    status: Literal["ok", "going down"]
    model: str
    queue: int = Field(description="requests that wait or are spoken")


MaybeLine = Annotated[str | None, Form(max_length=MAX_FIELD_LETTERS)]


@router.get("/v1/models", tags=["models"])
async def models(front: Behind) -> ModelList:
    """What speaks here."""
    return ModelList(data=[ModelCard(id=front.model, created=front.created)])


@router.get("/v1/models/{model}", tags=["models"])
async def model_card(model: str, front: Behind) -> ModelCard:
    """One model."""
    front.check_model(model)
    return ModelCard(id=front.model, created=front.created)


@router.get("/v1/voices", tags=["voices"])
async def voices(front: Behind) -> VoiceList:
    """Who can speak."""
    return VoiceList(data=[_card(voice, added) for voice, added in front.keeper.all()])


@router.post("/v1/voices", status_code=201, tags=["voices"], responses={409: ERRORS[400]})
async def add_voice(
    front: Behind,
    file: Annotated[UploadFile, File(description="1 to 5 s of speech: WAV, FLAC, Ogg or MP3")],
    name: Annotated[str, Form(min_length=1, max_length=MAX_NAME_LETTERS, description="a-z, 0-9, _ and -")],
    text: Annotated[
        str, Form(min_length=1, max_length=MAX_FIELD_LETTERS, description="exactly what is said")
    ],
    consent: Annotated[str, Form(description="how the speaker agreed to being spoken with")] = "",
    license: MaybeLine = None,
    attribution: MaybeLine = None,
) -> VoiceCard:
    """Give the server the voice of a clip, with its speaker's consent.

    Raises:
        ApiError: a field does not fit, the clip is no speech, the name is taken, or there is no room.
    """
    card: dict[str, str] = {}
    fields = {"consent": consent, "license": license, "attribution": attribution}
    with client_errors("name"):
        check_name(name)
    with client_errors("text"):
        check_field(text)
    for key, value in fields.items():
        if value is not None:
            with client_errors(key):
                card[key] = check_field(value)
    if len(card["consent"]) < _SHORTEST_CONSENT:
        message = "expected how the speaker agreed to being spoken with, in a few words"
        raise ApiError(400, message, "consent", "consent_required")
    wav = await front.read(file.file, VOICE_CLIP_SECONDS)
    rate = front.synthesizer.codec.config.sampling_rate

    def learn() -> Voice:
        voice = front.synthesizer.clone_voice(wav, rate, text, name)
        seconds = voice.codes.shape[1] / front.synthesizer.frame_rate
        if seconds > MAX_PROMPT_SECONDS:
            raise ValueError(
                f"expected at most {MAX_PROMPT_SECONDS:g} s of speech, got {seconds:.1f} s; cut it"
            )
        voice = replace(voice, card=voice.card | card)
        front.keeper.add(voice)
        return voice

    with client_errors("file"):
        return _card(await front.engine.call(learn), True)


@router.delete("/v1/voices/{name}", tags=["voices"])
async def remove_voice(name: str, front: Behind) -> VoiceRemoved:
    """Forget a voice that was added.

    Raises:
        ApiError: there is none of this name.
    """
    with client_errors():
        found = await front.engine.call(lambda: front.keeper.remove(name))
    if not found:
        raise ApiError(404, "expected the name of an added voice; GET /v1/voices lists them", "name")
    return VoiceRemoved(id=name)


@router.post(_TOKENS, tags=["tokens"])
async def to_tokens(
    front: Behind,
    file: Annotated[UploadFile, File(description="WAV, FLAC, Ogg or MP3")],
    n_q: Annotated[int | None, Form(ge=1, lt=1 << 31, description="codebooks; all if not given")] = None,
) -> Tokens:
    """A sound as the codes that the language model speaks in.

    Raises:
        ApiError: it is no sound, too long, or there are not so many codebooks.
    """
    codec = front.synthesizer.codec
    config = codec.config
    if n_q is not None and n_q > config.n_q:
        raise ApiError(400, f"expected n_q of 1 to {config.n_q}, got {n_q}", "n_q")
    wav = await front.read(file.file, front.limits.clip_seconds)

    def listen() -> list[list[int]]:
        with torch.inference_mode():
            sound = wav[None].to(front.synthesizer.device)
            return codec.encode(sound, n_q=n_q or config.n_q).audio_codes[0].tolist()

    with client_errors("file"):
        codes = await front.engine.call(listen)
    return Tokens(
        codec=config.codec_name,
        codes_fingerprint=codec.codes_fingerprint,
        sampling_rate=config.sampling_rate,
        frame_rate=front.synthesizer.frame_rate,
        num_samples=wav.shape[-1],
        n_q=len(codes),
        codes=codes,
    )


@router.post(
    f"{_TOKENS}/decode",
    tags=["tokens"],
    response_class=Response,
    responses={200: {"content": SOUND}},
)
async def from_tokens(asked: TokensRequest, front: Behind) -> Response:
    """Codes as the sound that they stand for."""
    codec = front.synthesizer.codec
    _check_codes(asked, front)

    def sound() -> torch.Tensor:
        codes = torch.tensor(asked.codes, device=front.synthesizer.device)[None]
        with torch.inference_mode():
            wav = codec.decode(codes, num_samples=asked.num_samples).audio_values[0, 0]
        return wav.float().cpu().clamp(-1.0, 1.0).clone()

    with client_errors("codes"):
        wav = await front.engine.call(sound)
    mark = mark_of(str(asked.codes), "of the codes", codec.codes_fingerprint)
    rate = codec.config.sampling_rate
    body = await asyncio.to_thread(encode, wav, rate, asked.response_format, mark)
    return Response(body, headers={MARK_HEADER: mark}, media_type=MEDIA_TYPES[asked.response_format])


@router.get("/health", tags=["server"])
async def health(front: Behind) -> Health:
    """Whether requests are taken.

    Raises:
        ApiError: they are not.
    """
    if not front.engine.alive:
        raise ApiError(503, "the server is going down", code="going_down")
    return Health(status="ok", model=front.model, queue=front.engine.places_taken)


@router.get(
    "/metrics", tags=["server"], response_class=Response, responses={200: {"content": {"text/plain": {}}}}
)
async def metrics(front: Behind) -> Response:
    """Counters, for Prometheus."""
    return Response(front.meters.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _check_codes(asked: TokensRequest, front: Front) -> None:
    codec, config = front.synthesizer.codec, front.synthesizer.codec.config
    if asked.codes_fingerprint != codec.codes_fingerprint:
        message = f"expected codes of {codec.codes_fingerprint}; use the codec that they were made with"
        raise ApiError(400, message, "codes_fingerprint")
    most = int(front.limits.clip_seconds * front.synthesizer.frame_rate)
    frames = {len(row) for row in asked.codes}
    if len(asked.codes) > config.n_q or len(frames) > 1 or not 1 <= min(frames) <= most:
        message = f"expected 1 to {config.n_q} rows of one length, 1 to {most} codes"
        raise ApiError(400, message, "codes")
    if max(map(max, asked.codes)) >= config.codebook_size:
        raise ApiError(400, f"expected codes below {config.codebook_size}", "codes")
    longest = min(frames) * config.hop_length
    if asked.num_samples is not None and asked.num_samples > longest:
        raise ApiError(400, f"expected num_samples of 1 to {longest} for these codes", "num_samples")


def _card(voice: Voice, added: bool) -> VoiceCard:
    keys = ("description", "license", "attribution", "consent")
    facts = {key: str(voice.card.get(key, "")) for key in keys}
    return VoiceCard.model_validate({"id": voice.name, "name": voice.name, "added": added, **facts})
