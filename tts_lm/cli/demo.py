"""``tts-lm demo``: a page in the browser to speak with, and to look into the codec."""

from __future__ import annotations

import argparse
import os
import socket
import sys
import tempfile
from ipaddress import ip_address

from audiotok import program

from .common import add_model_options, pick_device

_PORT = 7860


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "demo",
        help="a page to speak with, and to look into the codec",
        description="Serve a page: type a text and hear it while it is made, in a voice of the model or of a clip; "
        "drop a clip and hear what each number of codebooks keeps. It is there for this machine only, "
        "unless --host says otherwise, and asks no other machine for anything.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model", metavar="NAME", help="a shipped model or a folder (default: the shipped default)"
    )
    parser.add_argument(
        "--port",
        type=program.number(int, 0, 65_535),
        default=_PORT,
        help="where the page is; 0 takes a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="0.0.0.0 lets other machines in (default: %(default)s)"
    )
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted; the address goes to stdout."""
    with listening_socket(args.host, args.port) as listening, tempfile.TemporaryDirectory() as folder:
        # Uploads and results lie here, and are gone with the process.
        os.environ["GRADIO_TEMP_DIR"] = folder
        from ..serve.demo import build_app, import_gradio
        from ..serve.page import Page
        from ..synthesizer import Synthesizer

        import_gradio()  # what is missing is said before the model is loaded
        synthesizer = Synthesizer.from_pretrained(args.model, pick_device(args.device), args.dtype)
        app = build_app(Page(synthesizer))
        import uvicorn

        host, port = listening.getsockname()[:2]
        if not ip_address(host).is_loopback:
            print(f"tts-lm: whoever reaches {host} can use this page", file=sys.stderr)
        shown = f"[{host}]" if ":" in host else host
        print(f"http://{shown}:{port}/", flush=True)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
        uvicorn.Server(config).run(sockets=[listening])
    return 0


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that listens, so that a port that is taken is known before the model is loaded.

    Args:
        host: a name or an address.
        port: 0 takes a free one.

    Raises:
        OSError: there is no such host here, or the port is taken.
    """
    listening = None
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen()
    except OSError as error:
        if listening is not None:
            listening.close()
        raise OSError(f"cannot listen at {host}:{port}: {error.strerror}; choose another --port") from None
    return listening
