"""What stands before every route: who may come in, how much they may bring, and what happens when they leave.

Knows nothing of routes. The laws it keeps: no body is read beyond its bound, with a length or without; a client that
leaves ends its own request, which frees what it held; and no web page of somebody else's speaks to a server that asks
for no key.
"""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError, BrokenOff
from .limits import ServeLimits
from .meters import Meters

FREE = ("/health",)  # of the key: what says no more than that somebody is there
BODY_SECONDS = 30.0  # in which a body must have come
FULL = "tts_lm_full"
"""In a request's ``state``: it came on a connection too many."""
_NO_ROOM = "expected a free connection, all are taken; try again soon"


@dataclass(frozen=True)
class Door:
    """Who may come in."""

    api_key: str | None = None
    """What ``Authorization: Bearer`` must say."""
    hosts: tuple[str, ...] | None = None
    """Names that requests may call the server by, so that no page finds it by a name of its own; None takes all."""


class Guard:
    """An ASGI middleware.

    Args:
        app: what it stands before.
        limits: of bodies and of time.
        door: who may come in.
        meters: told of every answer.
    """

    def __init__(self, app: ASGIApp, limits: ServeLimits, door: Door, meters: Meters) -> None:
        self._app, self._limits, self._door, self._meters = app, limits, door, meters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # what GET says, without its body
            scope = {**scope, "method": "GET"}
        began, answer = time.monotonic(), _Answer(send, self._limits.timeout_seconds)
        try:
            if scope.get("state", {}).get(FULL):
                raise ApiError(503, _NO_ROOM, code="no_room", retry_after_s=1, hang_up=True)
            most = self._admit(Headers(scope=scope), scope["path"])
            await self._run(scope, _Body(receive, most), answer)
        except ApiError as error:
            await error.response()(scope, receive, answer.send)
        except BrokenOff:
            pass
        except Exception:
            answer.status = answer.status or 500
            raise
        finally:
            route = getattr(scope.get("route"), "path", "other")
            self._meters.requests.labels(route, str(answer.status or 499)).inc()
            self._meters.took.labels(route).observe(time.monotonic() - began)

    def _admit(self, headers: Headers, path: str) -> int:
        """Check who comes; how many bytes they may bring."""
        check_host(headers, self._door.hosts)
        host, origin = headers.get("host", ""), headers.get("origin")
        key = self._door.api_key
        if key is None and origin is not None and urlsplit(origin).netloc != host:
            raise ApiError(
                403, "expected no request from another site's page; run the server with an API key"
            )
        if key is not None and path not in FREE:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            right = hmac.compare_digest(given.strip().encode("latin-1"), key.encode())
            if scheme.lower() != "bearer" or not right:
                raise ApiError(401, "expected 'Authorization: Bearer KEY' with this server's key")
        upload = headers.get("content-type", "").startswith("multipart/")
        most = self._limits.upload_bytes if upload else self._limits.json_bytes
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > most:
            raise _too_large(most)
        return most

    async def _run(self, scope: Scope, body: _Body, answer: _Answer) -> None:
        """Let the app answer, until it has or its client leaves."""
        task = asyncio.ensure_future(self._app(scope, body.receive, answer.send))

        def leave() -> None:
            if not answer.whole:
                self._meters.left.inc()
                task.cancel()

        body.on_leave = leave
        try:
            await task
        except asyncio.CancelledError:
            if not body.left.is_set():
                task.cancel()
                raise
        finally:
            body.close()


class _Body:
    """A request's body within its bound; behind it, whether the client is still there."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self._most = receive, most
        self._deadline = asyncio.get_running_loop().time() + BODY_SECONDS
        self._count = 0
        self._watcher: asyncio.Task[None] | None = None
        self.left = asyncio.Event()
        self.on_leave: Callable[[], None] = lambda: None

    async def receive(self) -> Message:
        """The next piece, as ASGI has it."""
        if self._watcher is not None or self.left.is_set():
            await self.left.wait()
            return {"type": "http.disconnect"}
        try:
            async with asyncio.timeout_at(self._deadline):
                message = await self._receive()
        except TimeoutError:
            raise HTTPException(408, f"expected the whole request within {BODY_SECONDS:g} s") from None
        if message["type"] == "http.disconnect":
            self.left.set()
            return message
        self._count += len(message.get("body", b""))
        if self._count > self._most:
            error = _too_large(self._most)
            raise HTTPException(error.status, str(error))
        if not message.get("more_body"):
            self._watcher = asyncio.ensure_future(self._watch())
        return message

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.left.set()
        self.on_leave()

    def close(self) -> None:
        """Look no longer."""
        if self._watcher is not None:
            self._watcher.cancel()


class _Answer:
    """What is sent: its status, and whether all of it is; a client that takes nothing for too long is let go."""

    def __init__(self, send: Send, patience_s: float) -> None:
        self._send, self._patience = send, patience_s
        self.status = 0
        self.whole = False

    async def send(self, message: Message) -> None:
        """Pass on a message of ASGI."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
        elif not message.get("more_body"):
            self.whole = True
        try:
            async with asyncio.timeout(self._patience):
                await self._send(message)
        except TimeoutError:
            raise BrokenOff from None


class OwnName:
    """An ASGI middleware that lets nobody in by a name that is not the server's.

    Args:
        app: what it stands before.
        hosts: as of :class:`Door`.
    """

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...] | None) -> None:
        self._app, self._hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            if scope["type"] == "http":
                check_host(Headers(scope=scope), self._hosts)
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)


def check_host(headers: Headers, hosts: tuple[str, ...] | None) -> None:
    """Refuse who calls the server by another name: a page whose name was made to mean this machine.

    Raises:
        ApiError: it is another.
    """
    if hosts is not None and _name(headers.get("host", "")) not in hosts:
        raise ApiError(403, "expected a request to this server by its own name; ask its owner for --host")


def _name(host: str) -> str:
    """``localhost:8000`` -> ``localhost``, ``[::1]:8000`` -> ``::1``."""
    return (urlsplit(f"//{host}").hostname or "") if "@" not in host and host.count("[") <= 1 else ""


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"expected at most {most} bytes in a request; send less", code="request_too_large")
