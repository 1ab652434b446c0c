"""``audiotok decode``: codes -> sound, block by block, so that any length needs little memory; live with ``-``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..machine import threads
from .atok import mark_of, model_of, warn
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
from .live import PIPE, binary_input, binary_output, sound_of, wants_pipe

if TYPE_CHECKING:
    from torch import Tensor

    from ..bitstream import AtokHeader, AtokReader, EntropyModel
    from ..codec.model import AudioCodec

# Decoded at a time: with more, buffers of many megabytes come and go and the heap grows by the hour; no faster either.
_PUSHED_FRAMES = 200


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "decode",
        help="code files -> sound files",
        usage="audiotok decode [options] IN OUT | IN [IN ...] --out DIR",
        description="Decode code files to exactly as many samples as were encoded, carrying the sound over what is "
        "damaged. "
        "OUT's suffix decides its format: .wav and .flac 16 bit, .ogg and .opus Opus. "
        "- as IN reads packets of 'audiotok encode' from standard input, carrying the sound over lost ones; - as OUT "
        "writes wav or raw PCM to standard output, live.",
        allow_abbrev=False,
    )
    parser.add_argument("paths", nargs="+", metavar="IN", help="code files, and OUT unless --out is given")
    parser.add_argument(
        "--n-q", type=number(int, 1), metavar="K", help="codebooks to use (default: all in the file)"
    )
    parser.add_argument("--raw", choices=("s16le", "f32le"), help="raw samples on standard output, not wav")
    add_codec_option(parser, default=None)
    add_model_options(parser)
    add_output_options(parser)
    parser.set_defaults(parser=parser)


def run(args: argparse.Namespace) -> int:
    """Decode every input; 1 if one failed."""
    if args.raw and args.paths[-1] != PIPE:
        args.parser.error("--raw says what goes to standard output; pass - as OUT")
    if wants_pipe(args.paths, args.out, args.parser):
        with threads(1):
            _decode_live(args)
        return 0
    pairs = plan_outputs(args.paths, args.out, ".wav", args.parser)
    # A codec's fingerprint is a hash over its weights: once a run, not once a file.
    codecs: dict[str, tuple[AudioCodec, str, EntropyModel | None]] = {}

    def work(source: Path, target: Path) -> None:
        started = time.perf_counter()
        name = args.codec or shipped_codec(source)
        if name not in codecs:
            codec = load_timed_codec(name, args, started)
            fingerprint = codec.codes_fingerprint
            codecs[name] = codec, fingerprint, model_of(codec, fingerprint)
        decode_file(*codecs[name], source, target, args.n_q)

    with threads(1):
        return each(pairs, work, args.overwrite, "audiotok")


def shipped_codec(source: Path) -> str:
    """The shipped checkpoint whose codec made the codes of a file.

    Raises:
        AtokError: no shipped codec has the name that the file says, or it is no code file.
        FileNotFoundError: there is no such file.
    """
    from ..bitstream import AtokError
    from ..codec.config import CodecConfig
    from ..codec.pretrained import checkpoint_dir, shipped_checkpoints

    codec_name = header_of(source).codec
    for name in shipped_checkpoints():
        if CodecConfig.from_pretrained(checkpoint_dir(name)).codec_name == codec_name:
            return name
    raise AtokError(
        f"{source}: made by the codec {codec_name!r}, which does not come with audiotok; pass its folder "
        f"with --codec"
    )


def _decode_live(args: argparse.Namespace) -> None:
    """Decode IN to OUT where one of them is a pipe."""
    started = time.perf_counter()
    from ..audio import pcm_bytes, save_audio_blocks, wav_head

    source, target = args.paths
    if target != PIPE:
        check_output(Path(source), Path(target), args.overwrite, {})
    name = args.codec
    if name is None and source != PIPE:
        name = shipped_codec(Path(source))
    codec = load_timed_codec(name, args, started)
    fingerprint, rate = codec.codes_fingerprint, codec.config.sampling_rate
    model = model_of(codec, fingerprint)
    if source == PIPE:
        header, blocks = sound_of(codec, fingerprint, binary_input(), args.n_q, model)
    else:
        header = header_of(Path(source))
        blocks = _file_blocks(codec, fingerprint, model, Path(source), args.n_q)
    mark = mark_of(header.metadata)
    if target != PIPE:
        save_audio_blocks(target, blocks, rate, mark)
        return
    write = binary_output()
    head = wav_head(rate, mark) if args.raw is None else b""
    for block in blocks:
        write(head + pcm_bytes(block, args.raw or "s16le"))
        head = b""  # sent with the first sound, so that nothing is sent where there is none


def decode_file(
    codec: AudioCodec,
    codes_fingerprint: str,
    model: EntropyModel | None,
    source: Path,
    target: Path,
    n_q: int | None,
) -> None:
    """Decode one file with the first ``n_q`` codebooks of it (None: all); ``model`` is the codec's entropy model.

    Raises:
        AtokError: ``source`` is not a code file of this codec, or nothing in it is whole.
        ValueError: ``n_q`` is not in the file.
        OSError: ``source`` cannot be read, or ``target`` not written.
    """
    from ..audio import save_audio_blocks

    started, rate = time.perf_counter(), codec.config.sampling_rate
    blocks = _file_blocks(codec, codes_fingerprint, model, source, n_q)
    written = save_audio_blocks(target, blocks, rate, mark_of(header_of(source).metadata))
    seconds = written / rate
    print(f"{target}: {seconds:.2f} s at {rate} Hz{cost(seconds, started)}", file=sys.stderr)


def header_of(source: Path) -> AtokHeader:
    """What a code file says of itself.

    Raises:
        AtokError: it is no code file.
        OSError: it cannot be read.
    """
    from ..bitstream import AtokReader

    with AtokReader(source) as file:
        return file.header


def _file_blocks(
    codec: AudioCodec, codes_fingerprint: str, model: EntropyModel | None, source: Path, n_q: int | None
) -> Iterator[Tensor]:
    """A code file -> wavs [1, n], as many samples in all as were encoded, or as are left of them."""
    from ..bitstream import AtokError, AtokReader

    with AtokReader(source, model) as file:
        file.header.check_codec(source, codec.config.codec_name, codes_fingerprint)
        if n_q is not None and not 1 <= n_q <= file.header.n_q:
            raise ValueError(
                f"{source}: expected --n-q in 1..{file.header.n_q}, which the file holds; got {n_q}"
            )
        if not file.frames:
            reason = "; ".join(file.damage) or "it was never filled"
            raise AtokError(f"{source}: expected packets, got none ({reason}); copy it again")
        yield from _decoded(codec, file, n_q, source.name)
        warn(source, file.damage)


def _decoded(codec: AudioCodec, file: AtokReader, n_q: int | None, label: str) -> Iterator[Tensor]:
    """A file's codes -> wavs [1, n]; sound is carried on where frames are missing."""
    import torch
    from tqdm import tqdm

    session: Any = codec.streaming_decoder()
    header = file.header
    left = file.frames * header.hop_length
    if header.num_samples is not None:
        left = min(left, header.num_samples)
    with tqdm(
        total=file.frames, desc=label, unit="frame", leave=False, disable=None, file=sys.stderr
    ) as progress:
        for block in file.blocks(n_q):
            codes, at = block.codes[None].to(codec.device), 0
            if block.scales is not None:
                session.add_scales(block.scales)
            whole, counts = torch.unique_consecutive(block.present, return_counts=True)
            for present, count in zip(whole.tolist(), counts.tolist(), strict=True):
                after = codes[..., at + count : at + count + 1]
                if present:
                    wavs = map(session.push, codes[..., at : at + count].split(_PUSHED_FRAMES, dim=-1))
                else:
                    wavs = iter([session.conceal(count, after if after.shape[-1] else None)])
                at += count
                for wav in wavs:
                    left -= (wav := wav[0, :, :left]).shape[-1]
                    yield wav.float().mean(dim=0, keepdim=True)
            progress.update(codes.shape[-1])
        yield session.flush()[0, :, :left].float().mean(dim=0, keepdim=True)
