"""``audiotok encode``: sound -> codes, block by block, so that any length needs little memory; live with ``-``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from .common import (
    add_codec_option,
    add_model_options,
    add_output_options,
    check_output,
    cost,
    each,
    load_chosen_codec,
    plan_outputs,
)
from .live import PIPE, binary_input, binary_output, packets_of, wants_pipe

if TYPE_CHECKING:
    from torch import Tensor

    from ..codec.model import AudioCodec

_BLOCK_S = 30.0


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "encode",
        help="sound files -> code files",
        usage="audiotok encode [options] IN OUT | IN [IN ...] --out DIR",
        description="Encode sound files. Any format and rate that libsndfile reads; channels are averaged. "
        "- as IN reads wav or raw PCM from standard input, - as OUT writes packets to standard output, live.",
        allow_abbrev=False,
    )
    parser.add_argument("paths", nargs="+", metavar="IN", help="sound files, and OUT unless --out is given")
    parser.add_argument("--n-q", type=int, metavar="K", help="codebooks to keep (default: all)")
    parser.add_argument(
        "--raw",
        choices=("u8", "s16le", "s24le", "s32le", "f32le", "f64le"),
        help="standard input is raw samples of this format, not wav",
    )
    parser.add_argument(
        "--rate", type=int, metavar="HZ", help="sampling rate of --raw (default: the codec's)"
    )
    parser.add_argument("--channels", type=int, default=1, metavar="C", help="channels of --raw (default: 1)")
    parser.add_argument(
        "--packet-frames",
        type=int,
        default=1,
        metavar="T",
        help="frames in a packet on standard output: 1 is soonest, more need fewer bytes (default: 1)",
    )
    add_codec_option(parser)
    add_model_options(parser)
    add_output_options(parser)
    parser.set_defaults(parser=parser)


def run(args: argparse.Namespace) -> int:
    """Encode every input; 1 if one failed."""
    from ..codefile import SUFFIX

    live = wants_pipe(args.paths, args.out, args.parser)
    if args.raw and args.paths[0] != PIPE:
        args.parser.error("--raw says what comes from standard input; pass - as IN")
    pairs = [] if live else plan_outputs(args.paths, args.out, SUFFIX, args.parser)
    codec = load_chosen_codec(args.codec, args)
    n_q = codec.config.n_q if args.n_q is None else args.n_q
    if not 1 <= n_q <= codec.config.n_q:
        raise ValueError(f"expected --n-q in 1..{codec.config.n_q} for the codec {args.codec!r}, got {n_q}")
    # A hash over the weights: once a run, not once a file.
    fingerprint = codec.codes_fingerprint
    if live:
        _encode_live(codec, fingerprint, n_q, args)
        return 0

    def work(source: Path, target: Path) -> None:
        encode_file(codec, fingerprint, source, target, n_q)

    return each(pairs, work, args.overwrite, "audiotok")


def _encode_live(codec: AudioCodec, codes_fingerprint: str, n_q: int, args: argparse.Namespace) -> None:
    """Encode IN to OUT where one of them is a pipe."""
    from ..audio import audio_blocks
    from ..pipes import Pcm, read_sound

    source, target = args.paths
    rate = codec.config.sampling_rate
    if min(args.packet_frames, args.channels, args.rate or 1) < 1:
        raise ValueError("expected --packet-frames, --channels and --rate of at least 1; check them")
    blocks = audio_blocks(source, rate, _BLOCK_S)
    if source == PIPE:
        raw = None if args.raw is None else Pcm(args.raw, args.rate or rate, args.channels)
        blocks = read_sound(binary_input(), rate, raw)
    if target != PIPE:
        check_output(Path(source), Path(target), args.overwrite, {})
        return encode_blocks(codec, codes_fingerprint, blocks, Path(target), n_q, "stdin")
    write = binary_output()
    for packet in packets_of(codec, codes_fingerprint, blocks, n_q, args.packet_frames):
        write(packet)


def encode_file(codec: AudioCodec, codes_fingerprint: str, source: Path, target: Path, n_q: int) -> None:
    """Encode one file with the first ``n_q`` codebooks of ``codec``; the fingerprint is the codec's own.

    Raises:
        AudioError: ``source`` is not sound that can be encoded.
        OSError: ``source`` cannot be read, or ``target`` not written.
    """
    from ..audio import AudioError, audio_blocks, audio_facts

    blocks = audio_blocks(source, codec.config.sampling_rate, _BLOCK_S)
    try:
        total_s = audio_facts(source)["duration_s"]
    except AudioError:  # a stream saved with a header that does not know, or no sound: reading it will tell
        total_s = None
    encode_blocks(codec, codes_fingerprint, blocks, target, n_q, source.name, total_s)


def encode_blocks(
    codec: AudioCodec,
    codes_fingerprint: str,
    blocks: Iterable[Tensor],
    target: Path,
    n_q: int,
    label: str,
    total_s: float | None = None,
) -> None:
    """Encode sound that arrives in blocks [1, n] into one code file.

    Args:
        codec, codes_fingerprint, target, n_q: as for :func:`encode_file`.
        blocks: wavs at the codec's rate; at least one sample in all.
        label: what the progress is called.
        total_s: length of the sound where it is known, for the estimate.

    Raises:
        AudioError: from ``blocks``.
        OSError: ``target`` cannot be written.
    """
    import torch
    from tqdm import tqdm

    from ..codefile import CodeHeader, save_codes
    from ..files import write_aside

    config = codec.config
    session = codec.streaming_encoder(n_q)
    pieces, num_samples, started = [], 0, time.perf_counter()
    total = None if total_s is None else round(total_s)
    # The place is tried before the work, so that an hour's encoding cannot end at a missing folder.
    with (
        write_aside(target) as aside,
        tqdm(desc=label, total=total, unit="s", leave=False, disable=None, file=sys.stderr) as progress,
    ):
        for block in blocks:
            num_samples += block.shape[-1]
            # Two bytes a code while a long file is read: ten hours of the default codec stay under 30 MB.
            pieces.append(session.push(block[None].to(codec.device))[0].to("cpu", torch.int16))
            progress.update(round(block.shape[-1] / config.sampling_rate))
        pieces.append(session.flush()[0].to("cpu", torch.int16))
        codes = torch.cat(pieces, dim=-1)
        pieces.clear()
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
    what = f"{target}: {seconds:.2f} s, {codes.shape[1]} frames x {n_q} codebooks"
    print(f"{what}{cost(seconds, started)}", file=sys.stderr)
