"""Run an ASGI app with uvicorn on a socket."""

from __future__ import annotations

import logging
import os
import socket
from ipaddress import ip_address
from typing import Any

import uvicorn

LOCAL_NAMES = ("127.0.0.1", "::1", "localhost")
HEAD_BYTES = 16 << 10
"""Largest head of a request."""
IDLE_SECONDS = 10
"""How long a connection may be idle between requests."""
# oneDNN caches code for each of the last 1024 shapes. Sentences have all lengths: 200 of them took 300 MB.
_KEPT_SHAPES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32", "LRU_CACHE_CAPACITY": "32"}


def keep_few_shapes() -> None:
    """Limit what torch caches for each length of a sentence; has an effect before the first inference only."""
    for name, value in _KEPT_SHAPES.items():
        os.environ.setdefault(name, value)


def server_config(app: Any, connections: int | None = None, timeout_s: float = 1.0) -> uvicorn.Config:
    """Settings of uvicorn for an app.

    Args:
        app: an ASGI app.
        connections: connections and requests at one time, beyond which uvicorn answers 503; None: no limit.
        timeout_s: for answers that have begun when the server stops.
    """
    return uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="on",
        log_level="error",  # its warnings are about what clients send
        access_log=False,
        server_header=False,
        limit_concurrency=None if connections is None else connections + 1,  # uvicorn refuses the last
        h11_max_incomplete_event_size=HEAD_BYTES,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=max(1, int(timeout_s)),
    )


def run_server(config: uvicorn.Config, listener: socket.socket) -> None:
    """Serve until a signal; prints the address to stdout once it answers.

    Args:
        config: of :func:`server_config`.
        listener: of :func:`listen`.
    """
    logging.getLogger("python_multipart").setLevel(logging.ERROR)

    class Announcing(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                print(address_of(listener), flush=True)

    Announcing(config).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket, so that a port in use is reported before a model is loaded.

    Args:
        host: a name or an address of this machine.
        port: 0 takes a free one.

    Raises:
        OSError: the host is not of this machine, or the port is in use.
    """
    try:
        found = {
            family: at
            for family, _, _, _, at in socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)
        }
        # localhost has two addresses; every client tries the IPv4 one.
        family = socket.AF_INET if socket.AF_INET in found else socket.AF_INET6
        return socket.create_server(found[family][:2], family=family, backlog=128)
    except OSError as error:
        raise OSError(
            f"cannot listen at {host}, port {port}: {error.strerror}; choose another --port or --host"
        ) from None


def address_of(listener: socket.socket) -> str:
    """``http://127.0.0.1:8000`` of a socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def local_names(listener: socket.socket, host: str) -> tuple[str, ...] | None:
    """Names of a socket that only this machine reaches; None if others reach it.

    Args:
        listener: of :func:`listen`.
        host: that it was opened with.
    """
    address = listener.getsockname()[0].partition("%")[0]
    return (*LOCAL_NAMES, address, host.lower()) if ip_address(address).is_loopback else None
