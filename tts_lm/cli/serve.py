"""``tts-lm serve``: a server that OpenAI's clients speak to."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from audiotok import program

from .common import add_model_options, pick_device

KEY_VARIABLE = "TTS_LM_API_KEY"
SLOW_CONNECTIONS = 64  # that may be open beside those that wait


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the verb."""
    whole, positive = program.number(int, least=1), program.number(float, above=0)
    parser = subparsers.add_parser(
        "serve",
        help="a server that OpenAI's clients speak to",
        description="Serve POST /v1/audio/speech and what belongs to it (docs/serve.md). Prints its address when it is "
        f"ready. The key that clients must give is in {KEY_VARIABLE}, or after --api-key.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model", metavar="NAME", help="a shipped model or a folder (default: the shipped default)"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    parser.add_argument(
        "--port",
        type=program.number(int, least=0, most=65535),
        default=8000,
        metavar="N",
        help="0 takes a free one (default: %(default)s)",
    )
    parser.add_argument("--api-key", metavar="KEY", help="what clients must give; others can read it in ps")
    parser.add_argument(
        "--voices-dir", metavar="DIR", help="keep voices that clients add here (default: in memory)"
    )
    parser.add_argument(
        "--queue", type=whole, default=64, metavar="N", help="requests that may wait (default: %(default)s)"
    )
    parser.add_argument(
        "--batch", type=whole, default=8, metavar="N", help="sentences spoken at once (default: %(default)s)"
    )
    parser.add_argument(
        "--timeout", type=positive, default=120.0, metavar="S", help="for a request (default: %(default)s)"
    )
    parser.add_argument(
        "--letters", type=whole, default=4096, metavar="N", help="of a request's text (default: %(default)s)"
    )
    parser.add_argument(
        "--threads",
        type=whole,
        default=1,
        metavar="N",
        help="CPU threads of the model (default: %(default)s)",
    )
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal comes."""
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import python_multipart  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{error}; the server needs the extra 'serve': pip install 'audiotok[serve]'"
        ) from None
    from ..server.limits import keep_few_shapes
    from ..server.wire import listen, local_names, run_server, server_config

    keep_few_shapes()
    key = args.api_key or os.environ.get(KEY_VARIABLE) or None
    # A port that is taken is found out before the model is loaded.
    with listen(args.host, args.port) as listener:
        hosts = local_names(listener, args.host)
        app = _app(args, key, hosts if key is None else None)
        if key is None and hosts is None:
            print(
                f"tts-lm: everyone who reaches {args.host} may use this; set {KEY_VARIABLE}", file=sys.stderr
            )
        try:
            run_server(server_config(app, args.queue + SLOW_CONNECTIONS, args.timeout), listener)
        except (KeyboardInterrupt, program.Terminated):
            print("tts-lm: stopped", file=sys.stderr)
    return 0


def _app(args: argparse.Namespace, key: str | None, hosts: tuple[str, ...] | None) -> Any:
    import torch

    from ..server.app import create_app
    from ..server.guard import Door
    from ..server.limits import ServeLimits
    from ..shipped import find_checkpoint
    from ..synthesizer import Synthesizer

    torch.set_num_threads(args.threads)
    synthesizer = Synthesizer.from_pretrained(args.model, pick_device(args.device), args.dtype)
    limits = ServeLimits(
        queue=args.queue, batch=args.batch, text_letters=args.letters, timeout_seconds=args.timeout
    )
    name = "tts-lm" if args.model is None else find_checkpoint(args.model).resolve().name
    return create_app(synthesizer, limits, name, Door(key, hosts), args.voices_dir)
