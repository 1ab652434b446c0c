"""What can go wrong between a client and the server, in OpenAI's words.

Knows nothing of models. The law it keeps: every refusal is JSON of one shape, says what was expected and repeats no
body; what is our own fault says nothing of the inside.
"""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

_LOG = logging.getLogger("tts_lm.server")
_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_SHOWN = 60  # letters of what a client sent
_CODES = {401: "invalid_api_key", 404: "not_found", 405: "method_not_allowed", 429: "rate_limit_exceeded"}


class ApiError(Exception):
    """A refusal.

    Args:
        status: of HTTP.
        message: for the client.
        param: the field at fault.
        code: for programs; None takes that of the status, if it has one.
        retry_after_s: whole seconds after which it may go better.
        hang_up: the connection ends with it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
        hang_up: bool = False,
    ) -> None:
        super().__init__(message)
        self.status, self.param, self.code = status, param, code or _CODES.get(status)
        self.headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
        if hang_up:
            self.headers["Connection"] = "close"
        if status == 401:
            self.headers["WWW-Authenticate"] = "Bearer"

    def response(self) -> JSONResponse:
        """As it is sent."""
        return JSONResponse(self.body(), self.status, self.headers)

    def body(self) -> dict[str, Any]:
        """``{"error": {...}}``, as ``openai`` reads it."""
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}


class BrokenOff(RuntimeError):
    """An answer that has begun and will have no end: its connection breaks off, which is no failure of ours."""


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """A refusal or a failure."""

    error: ErrorDetail


def storage_error(error: OSError) -> ApiError:
    """The answer where a disk is full or cannot be written; what it was is in the log."""
    _LOG.error("a file could not be read or written: %s", one_line(error))
    return ApiError(503, "the server cannot read or write its files; its log says why", code="storage")


def one_line(error: Exception) -> str:
    """An error's text, on one line and without what JSON cannot hold."""
    return " ".join(str(error).split()).encode("utf-8", "replace").decode()


def install(app: FastAPI) -> None:
    """Have an app answer every error in this shape."""

    async def refused(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, ApiError)
        return error.response()

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        where = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
        param = ".".join(where) or None
        message = f"{param}: {first['msg']}" if param else f"the request: {first['msg']}"
        kind = request.headers.get("content-type", "none")
        if first["type"] == "json_invalid":  # "where" is a character of the body
            param, message = None, f"expected JSON, got something else from character {where[-1]} on"
        elif first["type"] == "model_attributes_type" and not where and "json" not in kind:
            message = f"expected JSON with Content-Type: application/json, got {kind[:_SHOWN]}"
        return ApiError(400, message.encode("ascii", "replace").decode(), param).response()

    async def http(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        if isinstance(error.__cause__, OSError):  # a body that is not kept in memory
            return storage_error(error.__cause__).response()
        message = str(error.detail)
        if error.status_code == 404:
            path = request.url.path[:_SHOWN].encode("ascii", "replace").decode()
            message = f"expected a path of GET /openapi.json, got {path}"
        elif error.status_code == 405:
            message = f"expected {(error.headers or {}).get('Allow')}, got {request.method[:_SHOWN]}"
        answer = ApiError(error.status_code, message).response()
        answer.headers.update(error.headers or {})
        return answer

    async def failed(_: Request, error: Exception) -> JSONResponse:
        return ApiError(500, "the server failed at this request; its log says why").response()

    app.add_exception_handler(ApiError, refused)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, failed)
