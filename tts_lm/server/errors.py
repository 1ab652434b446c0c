"""Errors in the format of OpenAI: ``{"error": {"message", "type", "param", "code"}}``."""

from __future__ import annotations

import logging
from collections.abc import Iterator
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
_SHOWN = 60  # longest quotation of client input in characters


class ApiError(Exception):
    """An error for the client. ``code`` is machine-readable; None uses the code of the status."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code or _CODES.get(status)
        self.headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"

    def response(self) -> JSONResponse:
        """The error as an HTTP response."""
        return JSONResponse(self.body(), self.status, self.headers)

    def body(self) -> dict[str, Any]:
        """The error as JSON, in ASCII for headers and logs."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        message = " ".join(str(self).split()).encode("utf-8", "replace").decode()
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}


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
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFull):
        return ApiError(429, str(error), retry_after_s=error.retry_after_s)
    if isinstance(error, Stopped):
        return ApiError(503, str(error), code="stopping")
    if isinstance(error, TimeoutError):
        message = "the answer took too long; send less text, or try again later"
        return ApiError(503, message, code="timeout")
    if isinstance(error, FileExistsError):
        return ApiError(409, str(error), "name", "voice_exists")
    if isinstance(error, OSError):
        _LOG.error("a file could not be read or written: %s", " ".join(str(error).split()))
        return ApiError(503, "the server cannot read or write its files; see its log", code="storage")
    if isinstance(error, (ValueError, TypeError)):
        return ApiError(400, str(error), param)
    return None


def failure() -> ApiError:
    """The response to an error of the server, without details."""
    return ApiError(500, "the server failed at this request; see its log")


def _ascii(part: object) -> str:
    return str(part).encode("ascii", "replace").decode()


def install_handlers(app: FastAPI) -> None:
    """Return every error of an app in this format."""

    @app.exception_handler(ApiError)
    async def refused(_: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = [_ascii(part) for part in first["loc"] if part not in ("body", "query", "path")]
        param = ".".join(where) or None
        message = f"{param}: {first['msg']}" if param else f"the request: {first['msg']}"
        kind = request.headers.get("content-type", "none")
        if first["type"] == "json_invalid":  # the location ends with a position in the body
            param, message = None, f"the body is not JSON, from character {where[-1]} on"
        elif first["type"] == "model_attributes_type" and not where and "json" not in kind:
            message = f"expected JSON with Content-Type: application/json, got {kind[:_SHOWN]}"
        return ApiError(400, _ascii(message), param).response()

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        message = str(error.detail)
        if isinstance(error.__cause__, OSError):  # a large body is written to the disk
            return (api_error(error.__cause__) or failure()).response()
        if error.status_code == 404:
            message = f"no path {_ascii(request.url.path[:_SHOWN])} here; GET /openapi.json lists them"
        elif error.status_code == 405:
            message = f"expected {(error.headers or {}).get('Allow')}, got {request.method[:_SHOWN]}"
        answer = ApiError(error.status_code, message).response()
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    async def failed(_: Request, error: Exception) -> JSONResponse:
        return failure().response()
