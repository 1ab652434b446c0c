"""``audiotok merge``: parts of a preparation (``audiotok prepare --shard I/N``) are joined."""

from __future__ import annotations

import argparse

from .common import add_json_option


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "merge",
        help="join the parts of a preparation",
        description=(
            "Join the parts that `audiotok prepare --shard 1/4 --out DIR` and so on made in separate folders. The "
            "result equals a preparation that was not split. Parts made in one folder need no merging."
        ),
        allow_abbrev=False,
    )
    parser.add_argument("parts", metavar="PART", nargs="+", help="the folders of all parts")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder of the joined corpus")
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Join the parts and print the report."""
    import json

    from ..corpus import merge, report, report_text

    merge(args.parts, args.out)
    counts = report(args.out)
    print(json.dumps(counts, ensure_ascii=False) if args.json else report_text(counts))
    return 0
