"""``audiotok verify``: checks code files, and prepared corpora (folders). The files are not changed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .common import KNOWN_ERRORS, add_model_options, codec_name, duration, load_chosen_codec, number, one_line


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the description and the options."""
    parser.description = (
        "Check every byte of code files. For prepared corpora, check the hash of every shard, all counts and the "
        "range of every code, and decode random rows. If one is damaged, print the reason and exit with 1."
    )
    option = parser.add_argument
    option("paths", nargs="+", metavar="PATH", help="code files, and folders written by audiotok prepare")
    option("--codec", type=codec_name, metavar="DIR", help="the codec that made them, if it is not shipped")
    option(
        "--samples",
        type=number(int, 0),
        default=8,
        metavar="N",
        help="rows to decode (default 8; 0: no codec)",
    )
    option("--seed", type=number(int, 0), default=0, help="which rows (default 0)")
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Verify every path; 1 if one is damaged."""
    failed = 0
    for name in args.paths:
        path = Path(name)
        try:
            if not name:  # an unset shell variable; as a path it would be the current folder
                raise FileNotFoundError("expected a code file or a folder, got an empty name")
            damage = _verify_corpus(path, args) if path.is_dir() else _verify_atok(path, args.codec)
        except KNOWN_ERRORS as error:
            damage = [one_line(error).removeprefix(f"{name}: ")]
        for words in damage:
            print(f"audiotok: error: {name}: {words}", file=sys.stderr)
        failed += bool(damage)
    return 1 if failed else 0


def _verify_corpus(path: Path, args: argparse.Namespace) -> list[str]:
    """Faults of a prepared corpus; prints a summary if there is none."""
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
    """Faults of an ``.atok`` file; prints a summary if there is none."""
    from ..bitstream import AtokReader, find_model
    from ..bitstream.format import LEARNT

    with AtokReader(path) as file:
        header = file.header
    model = find_model(header.codes_fingerprint, codec) if header.coding == LEARNT else None
    with AtokReader(path, model) as file:
        if header.coding == LEARNT and (model is None or model.fingerprint != header.model_fingerprint):
            how = f"checksums only: the entropy model {header.model_fingerprint} is not installed"
            packets = len(list(file.packets()))
            damage = file.damage
        else:
            damage, how = file.verify(), "every code decoded"
            packets = len(list(file.packets()))
        if not damage:
            print(f"{path}: whole, {file.duration_s:.2f} s, {header.n_q} codebooks, {packets} packets; {how}")
        return damage
