"""``audiotok verify``: is a file, or a prepared corpus, whole? Reads everything, changes nothing.

What a path is decides how it is checked: a folder is a prepared corpus, anything else a code file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .common import (
    KNOWN_ERRORS,
    add_model_options,
    codec_name,
    duration,
    load_chosen_codec,
    number,
    one_line,
)


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "verify",
        help="whether code files and prepared corpora are whole",
        description=(
            "Check every byte of code files. Of prepared corpora hash every shard again, derive all counts again, "
            "check the range of every code and decode rows drawn at random. Exit 1 and the reason where one is damaged."
        ),
        allow_abbrev=False,
    )
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="code files, and folders written by audiotok prepare"
    )
    parser.add_argument(
        "--codec",
        type=codec_name,
        metavar="DIR",
        help="the folder of the codec that made them, if it is not shipped",
    )
    parser.add_argument(
        "--samples",
        type=number(int, 0),
        default=8,
        metavar="N",
        help="rows of a corpus to decode (default 8; 0: no codec)",
    )
    parser.add_argument("--seed", type=number(int, 0), default=0, help="which rows (default 0)")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Verify every path; 1 if one is damaged."""
    failed = 0
    for name in args.paths:
        path = Path(name)
        try:
            if not name:  # as the variable of a shell script may be; a path of it would be this folder
                raise FileNotFoundError("expected a code file or a folder, got an empty name")
            damage = _verify_corpus(path, args) if path.is_dir() else _verify_atok(path, args.codec)
        except KNOWN_ERRORS as error:
            damage = [one_line(error).removeprefix(f"{name}: ")]
        for words in damage:
            print(f"audiotok: error: {name}: {words}", file=sys.stderr)
        failed += bool(damage)
    return 1 if failed else 0


def _verify_corpus(path: Path, args: argparse.Namespace) -> list[str]:
    """What is wrong with a prepared corpus; says on stdout what it is if nothing is."""
    from ..corpus import verify

    codec = load_chosen_codec(args.codec or "default", args) if args.samples > 0 else None
    found = verify(path, codec, samples=args.samples, seed=args.seed)
    if not found.faults:
        print(
            f"{path}: whole, {found.rows} rows, {duration(found.hours)}, {found.shards} "
            f"shard{'s' * (found.shards != 1)}; every code in range, {found.decoded} rows decoded"
        )
    return found.faults


def _verify_atok(path: Path, codec: str | None) -> list[str]:
    """What is wrong with an ``.atok`` file; says on stdout what it is if nothing is."""
    from ..bitstream import AtokReader, find_model
    from ..bitstream.format import LEARNT

    with AtokReader(path) as file:
        header = file.header
    model = find_model(header.codes_fingerprint, codec) if header.coding == LEARNT else None
    with AtokReader(path, model) as file:
        if header.coding == LEARNT and (model is None or model.fingerprint != header.model_fingerprint):
            packets, how = (
                len(list(file.packets())),
                f"checksums only: the entropy model {header.model_fingerprint} is not here",
            )
            damage = file.damage
        else:
            damage, how = file.verify(), "every code decoded"
            packets = len(list(file.packets()))
        if not damage:
            print(f"{path}: whole, {file.duration_s:.2f} s, {header.n_q} codebooks, {packets} packets; {how}")
        return damage
