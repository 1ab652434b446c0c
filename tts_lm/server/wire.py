"""Where connections come in: a socket that listens, and uvicorn's connection with bounds that it does not have itself.

Knows nothing of routes or models. The law it keeps: a client that has not said what it wants, or goes on sending what
nobody reads any more, is let go within ``PATIENCE_SECONDS``, and one that takes nothing of its answer within
``TAKING_SECONDS``; and whoever is sent away is told why, in the errors' one shape.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from ipaddress import ip_address
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .errors import ApiError
from .security import FULL

PATIENCE_SECONDS = 10.0
TAKING_SECONDS = 120.0  # a player that has enough for a while takes nothing meanwhile
LOCAL_NAMES = ("127.0.0.1", "::1", "localhost")
_TURNED_AWAY = 2  # times the connections that are served: more are not even answered
_MALFORMED = "expected a well-formed HTTP/1.1 request with a head of up to 16 kB, got something else"


class Wire(H11Protocol):
    """One connection."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        # uvicorn would answer those beyond it in its own words.
        self._most, self.limit_concurrency = self.limit_concurrency, None
        self._patience: asyncio.TimerHandle | None = None
        self._taking: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take it, to be refused where there are too many."""
        super().connection_made(transport)
        if self._most is not None and len(self.connections) > self._most:
            self.app_state = self.app_state | {FULL: True}
            if len(self.connections) > _TURNED_AWAY * self._most:
                transport.abort()
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Read on."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is over."""
        super().connection_lost(exc)
        for timer in (self._patience, self._taking):
            if timer is not None:
                timer.cancel()

    def pause_writing(self) -> None:
        """More is to be sent than is taken."""
        super().pause_writing()
        self._see_taken()

    def on_response_complete(self) -> None:
        """All is said, if not yet sent."""
        super().on_response_complete()
        self._see_taken()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(ApiError(400, _MALFORMED))

    def _watch(self) -> None:
        """Time what the client owes: the head of a request, or the end of a body that was answered before it."""
        answered = self.cycle is not None and self.cycle.response_complete
        state = self.conn.their_state
        owes = state is h11.IDLE or (state is h11.SEND_BODY and answered)
        if owes and self._patience is None:
            self._patience = self.loop.call_later(PATIENCE_SECONDS, self._give_up)
        elif not owes and self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _see_taken(self, before: int | None = None) -> None:
        """Cut off who takes nothing: closing alone would wait for ever to have the rest sent."""
        if self._taking is not None:
            self._taking.cancel()
            self._taking = None
        left = self.transport.get_write_buffer_size()
        if left and left == before:
            self.transport.abort()
        elif left:
            self._taking = self.loop.call_later(TAKING_SECONDS, self._see_taken, left)

    def _give_up(self) -> None:
        self._patience = None
        if self.transport.is_closing():
            return
        if self.conn.trailing_data[0]:  # there is somebody, who is slow
            self._refuse(ApiError(408, f"expected the whole head of a request within {PATIENCE_SECONDS:g} s"))
        else:
            self.transport.close()

    def _refuse(self, error: ApiError) -> None:
        """Send an error where no answer has begun, and hang up."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            answer = error.response()
            head = h11.Response(
                status_code=error.status, headers=[*answer.raw_headers, (b"connection", b"close")]
            )
            for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


def server_config(app: Any, connections: int | None = None, patience_s: float = 1.0) -> uvicorn.Config:
    """How uvicorn is to serve an app.

    Args:
        app: an ASGI app.
        connections: that may be open; None takes all.
        patience_s: for answers that have begun, when it is to stop.
    """
    return uvicorn.Config(
        app,
        http=Wire,
        ws="none",
        lifespan="on",
        log_level="error",  # its warnings are of what strangers send
        access_log=False,
        server_header=False,
        limit_concurrency=connections,
        timeout_graceful_shutdown=max(1, int(patience_s)),
    )


def run_server(config: uvicorn.Config, listener: socket.socket) -> None:
    """Serve until a signal comes; the address goes to stdout as soon as it answers.

    Args:
        config: of :func:`server_config`.
        listener: of :func:`listen`.
    """
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a stranger's body is no news

    class Announcing(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                print(address_of(listener), flush=True)

    Announcing(config).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens, so that a port that is taken is known before a model is loaded.

    Args:
        host: a name or an address of this machine.
        port: 0 takes a free one.

    Raises:
        OSError: there is no such host here, or the port is taken.
    """
    listener = None
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)
        # Of a name with two, localhost, the one that every client tries.
        family, kind, _, _, address = min(found, key=lambda one: one[0] != socket.AF_INET)
        listener = socket.socket(family, kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
    except socket.gaierror as error:
        raise OSError(f"cannot listen at {host}: {error.strerror}; choose another --host") from None
    except OSError as error:
        if listener is not None:
            listener.close()
        reason = error.strerror
        raise OSError(
            f"cannot listen at {host}, port {port}: {reason}; choose another --port or --host"
        ) from None
    return listener


def address_of(listener: socket.socket) -> str:
    """``http://127.0.0.1:8000`` of a socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def local_names(listener: socket.socket, host: str) -> tuple[str, ...] | None:
    """What a socket may be called that only this machine reaches; None where others reach it.

    Args:
        listener: of :func:`listen`.
        host: that it was opened with.
    """
    address = listener.getsockname()[0].partition("%")[0]
    return (*LOCAL_NAMES, address, host.lower()) if ip_address(address).is_loopback else None
