"""``audiotok encode``: sound -> codes, block by block, so that any length needs little memory; live with ``-``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..audio import MAX_CHANNELS, MAX_RATE_HZ, PCM_BYTES
from ..machine import threads
from .atok import (
    add_rate_options,
    add_writing_options,
    chosen_n_q,
    encoding_session,
    marked,
    model_of,
    new_header,
    scales_of,
)
from .common import (
    add_codec_option,
    add_model_options,
    add_output_options,
    check_output,
    cost,
    each,
    load_timed_codec,
    number,
    plan_outputs,
)
from .live import PIPE, binary_input, binary_output, packets_of, wants_pipe

if TYPE_CHECKING:
    from torch import Tensor

    from ..bitstream import AtokHeader, EntropyModel
    from ..codec.model import AudioCodec

    _Encoder = tuple[AudioCodec, AtokHeader, EntropyModel | None]

_BLOCK_S = 30.0


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "encode",
        help="sound files -> code files",
        usage="audiotok encode [options] IN OUT | IN [IN ...] --out DIR",
        description="Encode sound files. Any format and rate that libsndfile reads; channels are averaged. A comment "
        "that says that the speech was generated, as tts-lm writes it, is kept as metadata. "
        "- as IN reads wav or raw PCM from standard input, - as OUT writes packets to standard output, live.",
        allow_abbrev=False,
    )
    parser.add_argument("paths", nargs="+", metavar="IN", help="sound files, and OUT unless --out is given")
    add_rate_options(parser)
    add_writing_options(parser)
    parser.add_argument(
        "--raw",
        choices=tuple(PCM_BYTES),
        help="standard input is raw samples of this format, not wav",
    )
    parser.add_argument(
        "--rate",
        type=number(int, 1, MAX_RATE_HZ),
        metavar="HZ",
        help="sampling rate of --raw (default: the codec's)",
    )
    parser.add_argument(
        "--channels",
        type=number(int, 1, MAX_CHANNELS),
        default=1,
        metavar="C",
        help="channels of --raw (default: 1)",
    )
    parser.add_argument(
        "--packet-frames",
        type=number(int, 1),
        metavar="T",
        help="frames in a packet: more need fewer bytes, 1 is soonest (default: 2 s in files, 1 on standard output)",
    )
    parser.add_argument(
        "--search",
        type=number(int, 1, 1000),
        metavar="STEPS",
        help="optimise the codes through the decoder by this many gradient steps: better audio, about a tenth more "
        "bits after entropy coding; 20 steps run at about twice real time, and live codes come 8 s late",
    )
    add_codec_option(parser)
    add_model_options(parser)
    add_output_options(parser)
    parser.set_defaults(parser=parser)


def run(args: argparse.Namespace) -> int:
    """Encode every input; 1 if one failed."""
    started = time.perf_counter()
    from ..bitstream import SUFFIX

    live = wants_pipe(args.paths, args.out, args.parser)
    if args.raw and args.paths[0] != PIPE:
        args.parser.error("--raw says what comes from standard input; pass - as IN")
    if args.raw is None and (args.rate or args.channels != 1):
        args.parser.error("--rate and --channels tell of --raw; a file or a wav tells them itself")
    pairs = [] if live else plan_outputs(args.paths, args.out, SUFFIX, args.parser)
    made: list[_Encoder] = []

    def work(source: Path, target: Path) -> None:
        if not source.exists():  # said before a codec is loaded
            raise FileNotFoundError(f"{source}: no such file")
        made[:] = made or [_load(args, started)]
        encode_file(*made[0], source, target, args.search)

    with threads(1):
        if live:
            _encode_live(*_load(args, started), args)
            return 0
        return each(pairs, work, args.overwrite, "audiotok")


def _load(args: argparse.Namespace, started: float) -> _Encoder:
    """What a run encodes with: once a run, not once a file, for the fingerprint is a hash over the weights."""
    codec = load_timed_codec(args.codec, args, started)
    config = codec.config
    n_q = chosen_n_q(
        args, (config.codebook_size,) * config.n_q, config.frame_rate, f"the codec {args.codec!r}"
    )
    fingerprint = codec.codes_fingerprint
    model = None if args.no_lm else model_of(codec, fingerprint)
    frames = args.packet_frames or (1 if args.paths[-1] == PIPE else None)
    return codec, new_header(config, fingerprint, n_q, model, frames, args.meta), model


def _encode_live(
    codec: AudioCodec, header: AtokHeader, model: EntropyModel | None, args: argparse.Namespace
) -> None:
    """Encode IN to OUT where one of them is a pipe."""
    from ..audio import Pcm, audio_blocks, open_audio, read_comment

    source, target = args.paths
    rate = codec.config.sampling_rate
    if target != PIPE:
        check_output(Path(source), Path(target), args.overwrite, {})
    if source == PIPE:
        raw = None if args.raw is None else Pcm(args.raw, args.rate or rate, args.channels)
        sound = open_audio(binary_input(), pcm=raw)
        blocks, header = sound.blocks(rate), marked(header, sound.comment)
    else:
        blocks, header = audio_blocks(source, rate, _BLOCK_S), marked(header, read_comment(source))
    if target != PIPE:
        return encode_blocks(codec, header, model, blocks, Path(target), "stdin", search=args.search)
    write = binary_output()
    for packet in packets_of(codec, header, model, blocks, args.search):
        write(packet)


def encode_file(
    codec: AudioCodec,
    header: AtokHeader,
    model: EntropyModel | None,
    source: Path,
    target: Path,
    search: int | None = None,
) -> None:
    """Encode one file as its header says, with the codec's entropy model or without one; a mark of the sound is kept.

    Raises:
        AudioError: ``source`` is not sound that can be encoded.
        ValueError: the codec cannot ``search``.
        OSError: ``source`` cannot be read, or ``target`` not written.
    """
    from ..audio import open_audio

    with open_audio(source) as sound:
        header = marked(header, sound.comment)
        blocks = sound.blocks(codec.config.sampling_rate)
        encode_blocks(codec, header, model, blocks, target, source.name, sound.header_s, search)


def encode_blocks(
    codec: AudioCodec,
    header: AtokHeader,
    model: EntropyModel | None,
    blocks: Iterable[Tensor],
    target: Path,
    label: str,
    total_s: float | None = None,
    search: int | None = None,
) -> None:
    """Encode sound that arrives in blocks [1, n] into one code file.

    Args:
        codec, header, model, target: as for :func:`encode_file`.
        blocks: wavs at the codec's rate; at least one sample in all.
        label: what the progress is called.
        total_s: length of the sound where it is known, for the estimate.
        search: steps by which codes are sought; None takes the encoder's.

    Raises:
        AudioError: from ``blocks``.
        ValueError: the codec cannot ``search``.
        OSError: ``target`` cannot be written.
    """
    from tqdm import tqdm

    from ..bitstream import AtokWriter
    from ..files import write_aside

    session = encoding_session(codec, header.n_q, search)
    num_samples, started = 0, time.perf_counter()
    total = None if total_s is None else round(total_s)
    # The place is tried before the work, so that an hour's encoding cannot end at a missing folder.
    with (
        write_aside(target) as aside,
        open(aside, "wb") as file,
        tqdm(desc=label, total=total, unit="s", leave=False, disable=None, file=sys.stderr) as progress,
    ):
        writer = AtokWriter(file, header, model)
        for block in blocks:
            num_samples += block.shape[-1]
            codes = session.push(codec.spread(block[None]))[0]
            writer.write(codes, scales_of(session))
            progress.update(round(block.shape[-1] / header.sampling_rate))
        codes = session.flush()[0]
        writer.write(codes, scales_of(session))
        writer.close(num_samples)
    seconds, size = num_samples / header.sampling_rate, target.stat().st_size
    what = f"{target}: {seconds:.2f} s, {writer.frames} frames x {header.n_q} codebooks in {size} bytes"
    print(f"{what}{cost(seconds, started)}", file=sys.stderr)
