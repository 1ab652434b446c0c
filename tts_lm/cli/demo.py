"""``tts-lm demo``: the demo page."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile

from audiotok import program, threads

from .common import add_model_option

_CONNECTIONS = 256  # a browser opens six


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the description and the options."""
    parser.description = (
        "Serve a page that synthesizes a text as a stream, in a voice of the model or of a clip, and "
        "plays a clip through the codec with fewer codebooks. Without --host, only this machine can reach it. It needs "
        "no network."
    )
    add, port = parser.add_argument, program.number(int, 0, 65_535)
    add_model_option(parser)
    add("--port", type=port, default=7860, help="0 takes a free one (default: %(default)s)")
    add("--host", default="127.0.0.1", help="0.0.0.0 opens it to other machines (default: %(default)s)")
    program.add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted and print the address."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when gradio is imported
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # uploads and results are deleted with the process
        try:
            from ..server.demo import Page, build_app
        except ModuleNotFoundError as error:
            message = f"the demo needs the package {error.name!r}; pip install 'audiotok[demo]'"
            raise ModuleNotFoundError(message, name=error.name) from error
        from ..server.run import keep_few_shapes, listen, local_names, run_server, server_config
        from ..synthesizer import Synthesizer

        keep_few_shapes()
        with listen(args.host, args.port) as listener, threads(1):
            device = program.pick_device(args.device)
            hosts = local_names(listener, args.host)
            app = build_app(Page(Synthesizer.from_pretrained(args.model, device, args.dtype)), hosts)
            if hosts is None:
                print(f"tts-lm: anyone who can reach {args.host} can use this page", file=sys.stderr)
            run_server(server_config(app, _CONNECTIONS), listener)
    return 0
