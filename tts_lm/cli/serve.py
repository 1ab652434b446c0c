"""``tts-lm serve``: an HTTP server for OpenAI's clients."""

from __future__ import annotations

import argparse
import os
import sys

from audiotok import program, threads

from .common import add_model_option

KEY_VARIABLE = "TTS_LM_API_KEY"
SLOW_CONNECTIONS = 64  # in addition to those of the queue


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the description and the options."""
    whole, positive = program.number(int, least=1), program.number(float, above=0)
    parser.description = (
        "Serve POST /v1/audio/speech and related routes; see docs/how-to/serve.md. Prints its address "
        f"when it is ready. {KEY_VARIABLE} or --api-key sets the key that clients must send."
    )
    add, port = parser.add_argument, program.number(int, least=0, most=65535)
    add_model_option(parser)
    add("--host", default="127.0.0.1", help="address to listen at (default: %(default)s)")
    add("--port", type=port, default=8000, metavar="N", help="0 takes a free one (default: %(default)s)")
    add("--api-key", metavar="KEY", help="key that clients must send; other users can read it in ps")
    site = "site whose pages may use the server, such as https://example.org, or * for all; can be repeated"
    add("--cors-origin", action="append", default=[], metavar="SITE", help=site)
    add("--voices-dir", metavar="DIR", help="folder for voices that clients add (default: in memory)")
    add("--queue", type=whole, default=64, metavar="N", help="requests that may wait (default: %(default)s)")
    add("--batch", type=whole, default=8, metavar="N", help="sentences per batch (default: %(default)s)")
    add("--timeout", type=positive, default=120.0, metavar="S", help="of a request (default: %(default)s)")
    add("--letters", type=whole, default=4096, metavar="N", help="of a request's text (default: %(default)s)")
    add("--threads", type=whole, default=1, metavar="N", help="CPU threads (default: %(default)s)")
    program.add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal."""
    try:
        import python_multipart  # noqa: F401

        from ..server.app import create_app
    except ImportError as error:
        raise ImportError(f"{error}; install the extra 'serve': pip install 'audiotok[serve]'") from None
    from ..folder import find_checkpoint
    from ..server.run import keep_few_shapes, listen, local_names, run_server, server_config
    from ..server.scheduler import ServeLimits
    from ..server.security import Access, site_of
    from ..synthesizer import Synthesizer

    keep_few_shapes()
    key = args.api_key or os.environ.get(KEY_VARIABLE) or None
    origins = tuple(site if site == "*" else site_of(site) for site in args.cors_origin)
    name = "tts-lm" if args.model is None else find_checkpoint(args.model).resolve().name
    limits = ServeLimits(
        queue=args.queue, batch=args.batch, text_letters=args.letters, timeout_seconds=args.timeout
    )
    with listen(args.host, args.port) as listener, threads(args.threads):
        hosts = local_names(listener, args.host)
        device = program.pick_device(args.device)
        synthesizer = Synthesizer.from_pretrained(args.model, device, args.dtype)
        access = Access(key, hosts if key is None else None, origins)
        app = create_app(synthesizer, limits, name, access, args.voices_dir)
        if key is None and hosts is None:
            message = f"anyone who can reach {args.host} can use this server; set {KEY_VARIABLE}"
            print(f"tts-lm: {message}", file=sys.stderr)
        try:
            run_server(server_config(app, args.queue + SLOW_CONNECTIONS, args.timeout), listener)
        except (KeyboardInterrupt, program.Terminated):
            print("tts-lm: stopped", file=sys.stderr)
    return 0
