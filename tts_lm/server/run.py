"""Run an ASGI app with uvicorn on a socket."""

from __future__ import annotations

import logging
import os
import socket
from ipaddress import ip_address
from typing import Any

import uvicorn

LOCAL_NAMES = ("127.0.0.1", "::1", "localhost")
HEAD_BYTES = 16 << 10  # of a request
IDLE_SECONDS = 10  # of a connection between requests


def keep_few_shapes() -> None:
    """Limit the cache of oneDNN, before the first inference. 200 sentences of different lengths took 300 MB."""
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(name, "32")


def server_config(app: Any, connections: int | None = None, timeout_s: float = 1.0) -> uvicorn.Config:
    """Configure uvicorn for an ASGI app.

    With more than ``connections`` at a time it returns 503. It takes ``timeout_s`` to finish responses when it stops.
    """
    return uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="on",
        log_level="error",  # its warnings are about client input
        access_log=False,
        server_header=False,
        # uvicorn rejects requests at the limit itself
        limit_concurrency=None if connections is None else connections + 1,
        h11_max_incomplete_event_size=HEAD_BYTES,
        timeout_keep_alive=IDLE_SECONDS,
        timeout_graceful_shutdown=max(1, int(timeout_s)),
    )


def run_server(config: uvicorn.Config, listener: socket.socket) -> None:
    """Serve on a socket of :func:`listen` until a signal. Prints the address to stdout when the server is ready."""
    logging.getLogger("python_multipart").setLevel(logging.ERROR)

    class Announcing(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                print(address_of(listener), flush=True)

    Announcing(config).run(sockets=[listener])


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket before a model is loaded. Port 0 takes a free one. OSError: it cannot be opened."""
    try:
        found = {at[0]: at[4] for at in socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)}
        # localhost has two addresses, and every client tries the IPv4 one
        family = socket.AF_INET if socket.AF_INET in found else socket.AF_INET6
        return socket.create_server(found[family][:2], family=family, backlog=128)
    except OSError as error:
        message = f"cannot listen at {host}, port {port}: {error.strerror}; choose another --port or --host"
        raise OSError(message) from None


def address_of(listener: socket.socket) -> str:
    """The URL of a socket, such as ``http://127.0.0.1:8000``."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def local_names(listener: socket.socket, host: str) -> tuple[str, ...] | None:
    """Names of a loopback socket that was opened with ``host``; None if other machines can reach it."""
    address = listener.getsockname()[0].partition("%")[0]
    return (*LOCAL_NAMES, address, host.lower()) if ip_address(address).is_loopback else None
