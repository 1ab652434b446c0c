"""``audiotok encode``: encodes sound in bounded memory, and live with ``-``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ..machine import threads
from .common import (
    PIPE,
    PROVENANCE,
    add_codec_option,
    add_model_options,
    add_output_options,
    add_rate_options,
    binary_input,
    binary_output,
    chosen_n_q,
    cost,
    each,
    load_timed_codec,
    model_of,
    number,
    plan_outputs,
)

if TYPE_CHECKING:
    from ..audio import AudioReader
    from ..bitstream import AtokHeader, EntropyModel
    from ..codec.base import Codec


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the description and the options."""
    parser.usage = "audiotok encode [options] IN OUT.atok | IN [IN ...] --out DIR"
    parser.description = (
        "Encode sound files of any common format and rate; channels are averaged. "
        "A comment that marks generated speech, as tts-lm writes it, is kept as metadata. "
        "- as IN reads sound from standard input, - as OUT writes packets to standard output, live."
    )
    parser.add_argument("paths", nargs="+", metavar="IN", help="sound files, and OUT unless --out is given")
    add_rate_options(parser)
    parser.add_argument("--no-lm", action="store_true", help="do not use the codec's entropy model")
    parser.add_argument(
        "--meta", action="append", default=[], metavar="KEY=TEXT", help="transcript, speaker, generated..."
    )
    parser.add_argument(
        "--packet-frames",
        type=number(int, 1),
        metavar="T",
        help="frames in a packet: more need fewer bytes, 1 has the least delay (default: 2 s in files, 1 on standard "
        "output)",
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


def run(args: argparse.Namespace) -> int:
    """Encode every input; 1 if one failed."""
    from ..audio import open_audio
    from ..bitstream import SUFFIX
    from ..files import write_aside

    # Loaded once a run, because the fingerprint hashes the weights.
    loaded: list[tuple[Codec, AtokHeader, EntropyModel | None]] = []

    def work(source: Path, target: Path) -> None:
        # The sound is opened before the codec is loaded, because the file may be missing.
        with open_audio(binary_input() if str(source) == PIPE else source) as sound:
            loaded[:] = loaded or [_load(args)]
            if str(target) == PIPE:
                return encode_sound(sound, binary_output(), "stdout", *loaded[0], args.search)
            with write_aside(target) as aside, open(aside, "wb") as file:
                encode_sound(sound, file, str(target), *loaded[0], args.search)

    pairs = plan_outputs(args.paths, args.out, SUFFIX, args.parser)
    with threads(1):
        return each(pairs, work, args.overwrite, SUFFIX)


def _load(args: argparse.Namespace) -> tuple[Codec, AtokHeader, EntropyModel | None]:
    codec = load_timed_codec(args.codec, args)
    config = codec.config
    sizes = (config.codebook_size,) * config.n_q
    n_q = chosen_n_q(args, sizes, config.frame_rate, f"the codec {args.codec!r}")
    fingerprint = codec.codes_fingerprint
    model = None if args.no_lm else model_of(codec, fingerprint)
    frames = args.packet_frames
    if args.paths[-1] == PIPE:
        frames = frames or 1
        if codec.has_scale:
            raise ValueError(
                f"{config.codec_name} has a scale for each segment, which pipes do not carry; write a file"
            )
    return codec, new_header(config, fingerprint, n_q, model, frames, args.meta), model


def new_header(
    config: Any,
    codes_fingerprint: str,
    n_q: int,
    model: EntropyModel | None,
    packet_frames: int | None = None,
    meta: Iterable[str] = (),
) -> AtokHeader:
    """The header for ``n_q`` codebooks of a codec, coded with its entropy model or adaptively, in packets of 2 s unless
    ``packet_frames`` is given. Its length is not known yet. ValueError: a ``meta`` is not KEY=TEXT.
    """
    from ..bitstream import AtokHeader
    from ..bitstream.format import ADAPTIVE, LEARNT, MAX_PACKET_FRAMES, PACKET_S

    pairs = [text.partition("=") for text in meta]
    if any(not equals or not key for key, equals, _ in pairs):
        raise ValueError(f"expected --meta KEY=TEXT, got {list(meta)}; write for example speaker=Ada")
    # A scale belongs to a segment, and a packet holds whole segments.
    segment = getattr(config, "scale_frames", 0)
    size = packet_frames or min(MAX_PACKET_FRAMES, max(1, round(PACKET_S * config.frame_rate)))
    return AtokHeader(
        codec=config.codec_name,
        codes_fingerprint=codes_fingerprint,
        sampling_rate=config.sampling_rate,
        hop_length=config.hop_length,
        codebook_sizes=(config.codebook_size,) * n_q,
        packet_frames=-(-size // segment) * segment if segment else size,
        scale_frames=segment,
        channels=config.audio_channels,
        coding=ADAPTIVE if model is None else LEARNT,
        model_fingerprint="" if model is None else model.fingerprint,
        metadata={key: value for key, _, value in pairs},
    )


def encode_sound(
    sound: AudioReader,
    file: BinaryIO,
    name: str,
    codec: Codec,
    header: AtokHeader,
    model: EntropyModel | None,
    search: int | None = None,
) -> None:
    """Encode a sound into a code file or, packet by packet, into a pipe, and print what was encoded.

    Args:
        sound: any rate and channels. A provenance tag in its comment is stored unless the header has one.
        file, name: open for writing, and its name for display.
        codec, header, model: as of :func:`new_header`.
        search: optimisation steps; None takes the encoder's codes.
    """
    from tqdm import tqdm

    from ..bitstream import AtokWriter
    from ..search import SearchingEncoder

    if (sound.comment or "").startswith(PROVENANCE) and "generated" not in header.metadata:
        header = replace(header, metadata={**header.metadata, "generated": sound.comment})
    session: Any = (
        codec.streaming_encoder(header.n_q) if search is None else SearchingEncoder(codec, header.n_q, search)
    )
    scales = session.take_scales if codec.has_scale else lambda: ()
    num_samples, started = 0, time.perf_counter()
    total = None if sound.header_s is None else round(sound.header_s)
    writer = AtokWriter(file, header, model)
    with tqdm(desc=name, total=total, unit="s", leave=False, disable=None, file=sys.stderr) as progress:
        for block in sound.blocks(header.sampling_rate):
            num_samples += block.shape[-1]
            codes = session.push(codec.spread(block[None]))[0]
            writer.write(codes, scales())
            progress.update(block.shape[-1] / header.sampling_rate)
    codes = session.flush()[0]
    writer.write(codes[:, :0], scales())
    writer.close(num_samples, codes)
    seconds = num_samples / header.sampling_rate
    size = f" in {file.tell()} bytes" if file.seekable() else ""
    what = f"{name}: {seconds:.2f} s, {writer.frames} frames x {header.n_q} codebooks{size}"
    print(f"{what}{cost(seconds, started)}", file=sys.stderr)
