"""What the routes share: the engine, the voices, the limits, and what their errors are called outside.

Knows no route. The law it keeps: an error of a client's making is a 4xx with its reason, a full house is a 429.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, BinaryIO

from fastapi import Depends, Request
from torch import Tensor

from ..synthesizer import Synthesizer
from ..voices import Voice
from .scheduler import Busy, Engine, Stopped
from .errors import ApiError, ErrorBody, one_line, storage_error
from .keeper import VoiceKeeper
from .limits import ServeLimits
from .meters import Meters
from .uploads import check_plain, read_clip

OTHER_NAMES = ("tts-1", "tts-1-hd", "gpt-4o-mini-tts")  # what clients with a fixed model name ask for
OTHER_VOICES = (  # and those with a fixed voice; they hear the model's own
    "alloy", "ash", "ballad", "coral", "echo", "fable", "nova", "onyx", "sage", "shimmer", "verse",
)  # fmt: skip
_WHY = {
    400: "what was asked for is not understood or not to be had",
    401: "the key is wrong",
    403: "not from there",
    404: "there is no such thing",
    408: "the request did not come to its end",
    413: "too much at a time",
    429: "the queue is full; Retry-After says when to try again",
    500: "the server is at fault",
    503: "too late, too many, no room on the disk, or going down",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": why} for status, why in _WHY.items()
}


@dataclass
class Front:
    """Everything behind the routes."""

    synthesizer: Synthesizer
    engine: Engine
    keeper: VoiceKeeper
    limits: ServeLimits
    meters: Meters
    model: str
    """What the model is called."""
    created: int
    """When, in Unix seconds."""
    clips: asyncio.Semaphore
    """Held while a sound of a stranger's is decoded."""

    def check_model(self, name: str) -> None:
        """Refuse a model that is not this one.

        Raises:
            ApiError: it is another.
        """
        if name not in (self.model, *OTHER_NAMES):
            message = f"expected the model {self.model!r}, which is all that is served here"
            raise ApiError(404, message, "model", "model_not_found")

    def voice(self, name: str) -> Voice:
        """The voice of a name; OpenAI's names, where no voice here has them, are the model's own voice.

        Raises:
            ApiError: there is none.
        """
        voice = self.keeper.find(name)
        if voice is None and name in OTHER_VOICES:
            return self.synthesizer.voice()
        if voice is None:
            names = ", ".join(v.name for v, _ in self.keeper.all())
            raise ApiError(
                400, f"expected a voice of {names}; GET /v1/voices lists them", "voice", "voice_not_found"
            )
        return voice

    def check_text(self, text: str) -> None:
        """Refuse a text that is too long or is none.

        Raises:
            ApiError: why.
        """
        most = self.limits.text_letters
        if len(text) > most:
            message = f"expected at most {most} characters, got {len(text)}; send it in parts"
            raise ApiError(400, message, "input", "string_above_max_length")
        with client_errors("input"):
            check_plain(text)

    async def read(self, file: BinaryIO, longest_s: float) -> Tensor:
        """A sound that was sent, [1, N] at the codec's rate.

        Raises:
            ApiError: it is none, or too long.
        """
        rate = self.synthesizer.codec.config.sampling_rate
        async with self.clips:
            with client_errors("file"):
                return await asyncio.to_thread(read_clip, file, longest_s, rate)


def front_of(request: Request) -> Front:
    """What the app of a request keeps."""
    return request.app.state.front


Behind = Annotated[Front, Depends(front_of)]


@contextmanager
def client_errors(param: str | None = None) -> Iterator[None]:
    """What goes wrong inside, as an answer.

    Args:
        param: the field that is at fault when it is the client's.

    Raises:
        ApiError: always instead of the errors it knows.
    """
    try:
        yield
    except Busy as error:
        raise ApiError(429, str(error), retry_after_s=error.retry_after_s) from None
    except Stopped as error:
        raise ApiError(503, str(error), code="going_down") from None
    except TimeoutError:
        message = "the answer took too long; send less text, or try when fewer do"
        raise ApiError(503, message, code="timeout") from None
    except FileExistsError as error:
        raise ApiError(409, str(error), "name", "voice_exists") from None
    except OSError as error:
        raise storage_error(error) from None
    except (ValueError, TypeError) as error:
        raise ApiError(400, one_line(error), param) from None
