"""Errors in the format of OpenAI: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from .scheduler import QueueFull, Stopped

_LOG = logging.getLogger("tts_lm.server")
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES = {
    401: "invalid_api_key",
    404: "not_found",
    405: "method_not_allowed",
    413: "request_too_large",
    429: "rate_limit_exceeded",
}
_RETRY_SECONDS = 2  # for clients that find the queue full
_SHOWN = 60  # longest quotation of client input in characters


class ApiError(HTTPException):
    """An error for the client. ``code`` is machine-readable; None uses the code of the status."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message, headers)
        self.param, self.code = param, code or _CODES.get(status)

    def body(self) -> dict[str, Any]:
        """The error as JSON."""
        status = self.status_code
        kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
        message, param = (
            text and " ".join(text.split()).encode("utf-8", "replace").decode()
            for text in (self.detail, self.param)
        )
        return {"error": {"message": message, "type": kind, "param": param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The error as an HTTP response."""
        return JSONResponse(self.body(), self.status_code, self.headers)


@contextmanager
def client_errors(param: str | None = None) -> Iterator[None]:
    """Raise the expected errors of a block as :class:`ApiError`; ``param`` is the field that caused a ValueError."""
    try:
        yield
    except Exception as error:
        known = api_error(error, param)
        if known is None:
            raise
        raise known from None


def api_error(error: Exception, param: str | None = None) -> ApiError | None:
    """The :class:`ApiError` for an expected error; None for an error of the server."""
    match error:
        case ApiError():
            return error
        case QueueFull():
            message = f"the queue is full; try again in {_RETRY_SECONDS} s"
            return ApiError(429, message, headers={"Retry-After": str(_RETRY_SECONDS)})
        case Stopped():
            return ApiError(503, "the server is stopping; try again later", code="stopping")
        case TimeoutError():
            message = "the answer took too long; send less text, or try again later"
            return ApiError(503, message, code="timeout")
        case FileExistsError():
            return ApiError(409, str(error), "name", "voice_exists")
        case OSError():
            _LOG.error("a file could not be read or written: %s", " ".join(str(error).split()))
            return ApiError(503, "the server cannot read or write its files; see its log", code="storage")
        case ValueError() | TypeError():
            return ApiError(400, str(error), param)
    return None


def failure() -> ApiError:
    """The response to an error of the server, without details."""
    return ApiError(500, "the server failed at this request; see its log")


def install_handlers(app: FastAPI) -> None:
    """Return every error of an app in this format."""

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
        param = ".".join(where) or None
        message = f"{param or 'the request'}: {first['msg']}"
        kind = request.headers.get("content-type", "none")[:_SHOWN]
        if first["type"] == "json_invalid":  # the location ends with a position in the body
            param, message = None, f"the body is not JSON, from character {where[-1]} on"
        elif first["type"] == "model_attributes_type" and not where and "json" not in kind:
            message = f"expected JSON with Content-Type: application/json, got {kind}"
        return ApiError(400, message, param).response()

    @app.exception_handler(HTTPException)
    async def http(_: Request, error: HTTPException) -> JSONResponse:
        if isinstance(error.__cause__, OSError):  # a large body is written to the disk
            error = api_error(error.__cause__) or failure()
        if not isinstance(error, ApiError):
            error = ApiError(error.status_code, error.detail, headers=error.headers)
        return error.response()

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        return failure().response()
