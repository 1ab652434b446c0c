"""Access rules of a server: API key, host names, CORS and body limits."""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from typing import Any

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .errors import ApiError

OPEN_PATHS = ("/health",)
"""Paths that need no key."""
_AUTHORITY = re.compile(r"(\[[^\[\]]*\]|[^\s\[\]@:/?#\\]+)(?::\d{0,5})?")
_ORIGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(.+)")


@dataclass(frozen=True)
class Access:
    """Access rules of a server."""

    api_key: str | None = None
    """Key that ``Authorization: Bearer`` must contain; None requires no key."""
    hosts: tuple[str, ...] | None = None
    """Allowed names in the Host header, against DNS rebinding; None allows all."""
    cors_origins: tuple[str, ...] = ()
    """Sites whose pages may use the server, such as ``https://example.org``, or ``*`` for all."""
    body_bytes: int | None = None
    """Largest body in bytes; None: no limit."""


def protect(app: Any, access: Access, exposed_headers: tuple[str, ...] = ()) -> None:
    """Add the middleware for an :class:`Access` to a Starlette app.

    Pages of ``cors_origins`` may read the response headers ``exposed_headers``.
    """
    app.add_middleware(AccessMiddleware, access=access)
    if access.cors_origins:  # before the key check, because a preflight request has no key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(access.cors_origins),
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=list(exposed_headers),
        )


class AccessMiddleware:
    """Rejects requests that the :class:`Access` does not allow."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] == "http":
            try:
                headers = Headers(scope=scope)
                self._check(headers, scope["path"])
                receive = self._bounded(headers, receive)
            except ApiError as error:
                await error.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _check(self, headers: Headers, path: str) -> None:
        access, host, origin = self._access, headers.get("host"), headers.get("origin")
        name = None if host is None else host_name(host)
        if name is None and (host is not None or access.hosts is not None):
            raise ApiError(400, "the Host header is malformed")
        if access.hosts is not None and name not in access.hosts:
            raise ApiError(403, "the name in the Host header is not allowed; see --host")
        site = _ORIGIN.fullmatch(origin or "")
        if origin not in (None, "null") and (site is None or host_name(site[1]) is None):
            raise ApiError(400, "the Origin header is malformed")
        if access.api_key is None:
            own = origin is None or (site is not None and site[1] == host)
            if not own and not {origin, "*"} & set(access.cors_origins):
                raise ApiError(403, "pages of other sites may not use this server; see --cors-origin")
        elif path not in OPEN_PATHS:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            right = hmac.compare_digest(given.strip().encode("latin-1"), access.api_key.encode())
            if scheme.lower() != "bearer" or not right:
                message = "expected 'Authorization: Bearer KEY' with the key of this server"
                raise ApiError(401, message, headers={"WWW-Authenticate": "Bearer"})

    def _bounded(self, headers: Headers, receive: Receive) -> Receive:
        """``receive`` with a limit on the body, with or without a Content-Length."""
        limit = self._access.body_bytes
        if limit is None:
            return receive
        message = f"the body is larger than {limit} bytes; send less"
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > limit:
            raise ApiError(413, message)
        size = 0

        async def bounded() -> Message:
            nonlocal size
            part = await receive()
            size += len(part.get("body", b""))
            if size > limit:
                raise ApiError(413, message)
            return part

        return bounded


def host_name(authority: str) -> str | None:
    """The name in a Host header: ``Localhost:8000`` -> ``localhost``, ``[::1]:8000`` -> ``::1``; None if malformed."""
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        return None
    name = match[1].lower()
    try:
        return str(IPv6Address(name[1:-1])) if name.startswith("[") else name
    except AddressValueError:
        return None


def site_of(origin: str) -> str:
    """An origin as browsers send it: ``https://Example.org/`` -> ``https://example.org``. ValueError: it is none."""
    site = origin.lower().rstrip("/")
    match = _ORIGIN.fullmatch(site)
    if match is None or host_name(match[1]) is None:
        raise ValueError(f"expected a site such as https://example.org, got {origin!r}")
    return site
