"""``audiotok laws``: whether codes are a function of the audio alone, on this machine.

Knows nothing of the laws themselves. The law it keeps: what it did not try it does not count, and a failure is exit 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

from .common import add_codec_option, add_json_option, add_model_options, load_chosen_codec, number

if TYPE_CHECKING:
    from torch import Tensor


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb ``laws``."""
    parser = subparsers.add_parser(
        "laws",
        help="check that codes depend on the audio alone",
        allow_abbrev=False,
        description="Code random pieces of sounds alone, in batches, padded, on other thread counts and in chunks, and "
        "compare. A tie is a difference between two codewords equally near within 1e-5; anything else is a failure.",
    )
    parser.add_argument("files", nargs="*", metavar="SOUND", help="sound files (default: noise)")
    parser.add_argument(
        "--cases",
        type=number(int, 1),
        default=100,
        help="random cases of every law (default: %(default)s)",
    )
    parser.add_argument("--seed", type=number(int, 0), default=0, help="of the cases (default: %(default)s)")
    add_codec_option(parser)
    add_model_options(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Check, print the counts; 1 if a law failed."""
    from ..audio import load_audio
    from ..codec.laws import LAWS, Agreement, check_case

    codec = load_chosen_codec(args.codec, args)
    if not codec.streams:
        raise ValueError(
            f"expected a codec whose sound may come in pieces, got {codec.config.codec_name}, which does not stream"
        )
    rate = codec.config.sampling_rate
    wavs = [load_audio(path, rate)[0] for path in args.files] or _noises(rate)
    found = dict.fromkeys(LAWS, Agreement())
    for case in range(args.cases):
        for law, agreement in check_case(codec, wavs, args.seed + case).items():
            found[law] += agreement
        if sys.stderr.isatty() or (case + 1) % 100 == 0:
            print(f"\r{case + 1}/{args.cases} cases", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    rows = [{"law": law, "is_exact": codec.is_exact, **vars(agreement)} for law, agreement in found.items()]
    if args.json:
        print("\n".join(map(json.dumps, rows)))
    else:
        print(f"{'law':<10}{'cases':>8}{'frames':>10}{'ties':>8}{'failures':>10}")
        for row in rows:
            print(
                f"{row['law']:<10}{row['cases']:>8}{row['frames']:>10}{row['ties']:>8}{row['failures']:>10}"
            )
    return 1 if any(agreement.failures for agreement in found.values()) else 0


def _noises(sampling_rate: int) -> list[Tensor]:
    """Eight noises [1, 2 s] that swell and fade, as speech does."""
    import torch

    generator = torch.Generator().manual_seed(0)
    time_s = torch.arange(2 * sampling_rate) / sampling_rate
    return [
        0.2 * torch.randn(1, len(time_s), generator=generator) * torch.sin(3.0 * (n + 1) * time_s) ** 2
        for n in range(8)
    ]
