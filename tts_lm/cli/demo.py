"""``tts-lm demo``: a page in the browser to speak with, and to look into the codec."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile

from audiotok import program, threads

from .common import add_model_options, pick_device

_PORT = 7860
_CONNECTIONS = 256  # a visitor's browser opens half a dozen


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
    with tempfile.TemporaryDirectory() as folder:
        # Uploads and results lie here, and are gone with the process.
        os.environ["GRADIO_TEMP_DIR"] = folder
        from ..server.demo import build_app, import_gradio

        import_gradio()  # what is missing is said before the model is loaded, and so is a port that is taken
        from ..server.page import Page
        from ..server.wire import listen, local_names, run_server, server_config
        from ..synthesizer import Synthesizer

        with listen(args.host, args.port) as listener, threads(1):
            synthesizer = Synthesizer.from_pretrained(args.model, pick_device(args.device), args.dtype)
            hosts = local_names(listener, args.host)
            app = build_app(Page(synthesizer), hosts)
            if hosts is None:
                print(f"tts-lm: whoever reaches {args.host} can use this page", file=sys.stderr)
            run_server(server_config(app, _CONNECTIONS), listener)
    return 0
