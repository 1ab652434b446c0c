"""``audiotok encode``: sound files -> code files, block by block, so that any length needs little memory."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from .common import (
    add_codec_option,
    add_model_options,
    add_output_options,
    each,
    load_chosen_codec,
    plan_outputs,
)

if TYPE_CHECKING:
    from ..codec.model import AudioCodec

_BLOCK_S = 30.0


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "encode",
        help="sound files -> code files",
        usage="audiotok encode [options] IN OUT | IN [IN ...] --out DIR",
        description="Encode sound files. Any format and rate that libsndfile reads; channels are averaged.",
        allow_abbrev=False,
    )
    parser.add_argument("paths", nargs="+", metavar="IN", help="sound files, and OUT unless --out is given")
    parser.add_argument("--n-q", type=int, metavar="K", help="codebooks to keep (default: all)")
    add_codec_option(parser)
    add_model_options(parser)
    add_output_options(parser)
    parser.set_defaults(parser=parser)


def run(args: argparse.Namespace) -> int:
    """Encode every input; 1 if one failed."""
    from ..codefile import SUFFIX

    pairs = plan_outputs(args.paths, args.out, SUFFIX, args.parser)
    codec = load_chosen_codec(args.codec, args)
    n_q = codec.config.n_q if args.n_q is None else args.n_q
    if not 1 <= n_q <= codec.config.n_q:
        raise ValueError(f"expected --n-q in 1..{codec.config.n_q} for the codec {args.codec!r}, got {n_q}")
    # A hash over the weights: once a run, not once a file.
    fingerprint = codec.codes_fingerprint

    def work(source: Path, target: Path) -> None:
        encode_file(codec, fingerprint, source, target, n_q)

    return each(pairs, work, args.overwrite, "audiotok")


def encode_file(codec: AudioCodec, codes_fingerprint: str, source: Path, target: Path, n_q: int) -> None:
    """Encode one file with the first ``n_q`` codebooks of ``codec``; the fingerprint is the codec's own.

    Raises:
        AudioError: ``source`` is not sound that can be encoded.
        OSError: ``source`` cannot be read, or ``target`` not written.
    """
    import torch
    from tqdm import tqdm

    from ..audio import audio_blocks
    from ..codefile import CodeHeader, save_codes
    from ..files import write_aside

    config = codec.config
    session = codec.streaming_encoder(n_q)
    pieces, num_samples = [], 0
    # The place is tried before the work, so that an hour's encoding cannot end at a missing folder.
    with (
        write_aside(target) as aside,
        torch.inference_mode(),
        tqdm(desc=source.name, unit="s", leave=False, disable=None, file=sys.stderr) as progress,
    ):
        for block in audio_blocks(source, config.sampling_rate, _BLOCK_S):
            num_samples += block.shape[-1]
            # Two bytes a code while a long file is read: ten hours of the default codec stay under 30 MB.
            pieces.append(session.push(block[None].to(codec.device))[0].to("cpu", torch.int16))
            progress.update(round(block.shape[-1] / config.sampling_rate))
        pieces.append(session.flush()[0].to("cpu", torch.int16))
        codes = torch.cat(pieces, dim=-1)
        header = CodeHeader(
            codec=config.codec_name,
            codes_fingerprint=codes_fingerprint,
            sampling_rate=config.sampling_rate,
            hop_length=config.hop_length,
            num_samples=num_samples,
            n_q=n_q,
            codebook_size=config.codebook_size,
        )
        save_codes(aside, codes, header)
    seconds = num_samples / config.sampling_rate
    print(f"{target}: {seconds:.2f} s, {codes.shape[1]} frames x {n_q} codebooks", file=sys.stderr)
