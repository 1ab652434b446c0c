"""``audiotok encode``: encodes sound in bounded memory, and live with ``-``."""

from __future__ import annotations

import argparse
import io
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..audio import MAX_CHANNELS, MAX_RATE_HZ, PCM_BYTES
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
    check_output,
    chosen_n_q,
    cost,
    each,
    load_timed_codec,
    model_of,
    number,
    plan_outputs,
    wants_pipe,
)

if TYPE_CHECKING:
    from torch import Tensor

    from ..bitstream import AtokHeader, EntropyModel
    from ..codec.config import CodecConfig
    from ..codec.model import AudioCodec


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "encode",
        help="sound files -> code files",
        usage="audiotok encode [options] IN OUT.atok | IN [IN ...] --out DIR",
        description="Encode sound files of any common format and rate; channels are averaged. "
        "A comment that marks generated speech, as tts-lm writes it, is kept as metadata. "
        "- as IN reads sound or raw PCM from standard input, - as OUT writes packets to standard output, live.",
        allow_abbrev=False,
    )
    parser.add_argument("paths", nargs="+", metavar="IN", help="sound files, and OUT unless --out is given")
    add_rate_options(parser)
    parser.add_argument("--no-lm", action="store_true", help="do not use the codec's entropy model")
    parser.add_argument(
        "--meta",
        action="append",
        default=[],
        metavar="KEY=TEXT",
        help="transcript, speaker, licence, generated...",
    )
    parser.add_argument(
        "--raw", choices=tuple(PCM_BYTES), help="standard input is raw samples of this format"
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
    parser.set_defaults(parser=parser)


def run(args: argparse.Namespace) -> int:
    """Encode every input; 1 if one failed."""
    started = time.perf_counter()
    from ..bitstream import SUFFIX

    live = wants_pipe(args.paths, args.out, args.parser)
    if args.raw and args.paths[0] != PIPE:
        args.parser.error("--raw describes standard input; pass - as IN")
    if args.raw is None and (args.rate or args.channels != 1):
        args.parser.error("--rate and --channels describe --raw; other sound has a header")
    pairs = [] if live else plan_outputs(args.paths, args.out, SUFFIX, args.parser)
    loaded: list[tuple[AudioCodec, AtokHeader, EntropyModel | None]] = []

    def work(source: Path, target: Path) -> None:
        from ..audio import open_audio

        with open_audio(source) as sound:  # before the codec is loaded: the file may be missing
            loaded[:] = loaded or [_load(args, started)]
            codec, header, model = loaded[0]
            blocks = sound.blocks(codec.config.sampling_rate)
            header = tagged(header, sound.comment)
            encode_blocks(codec, header, model, blocks, target, source.name, sound.header_s, args.search)

    with threads(1):
        if live:
            _encode_live(*_load(args, started), args)
            return 0
        return each(pairs, work, args.overwrite, SUFFIX)


def _load(args: argparse.Namespace, started: float) -> tuple[AudioCodec, AtokHeader, EntropyModel | None]:
    """Codec, fingerprint and entropy model of a run. Loaded once, because the fingerprint hashes the weights."""
    codec = load_timed_codec(args.codec, args, started)
    config = codec.config
    sizes = (config.codebook_size,) * config.n_q
    n_q = chosen_n_q(args, sizes, config.frame_rate, f"the codec {args.codec!r}")
    fingerprint = codec.codes_fingerprint
    model = None if args.no_lm else model_of(codec, fingerprint)
    frames = args.packet_frames or (1 if args.paths[-1] == PIPE else None)
    return codec, new_header(config, fingerprint, n_q, model, frames, args.meta), model


def new_header(
    config: CodecConfig,
    codes_fingerprint: str,
    n_q: int,
    model: EntropyModel | None,
    packet_frames: int | None = None,
    meta: Iterable[str] = (),
) -> AtokHeader:
    """The header for codes of a codec; its length is not known yet.

    Args:
        config, codes_fingerprint: of the codec.
        n_q: codebooks.
        model: its entropy model; None codes adaptively.
        packet_frames: None takes 2 s.
        meta: KEY=TEXT, as of --meta.

    Raises:
        ValueError: a ``meta`` is not KEY=TEXT.
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


def tagged(header: AtokHeader, comment: str | None) -> AtokHeader:
    """The header for a sound with this comment: a provenance tag is kept, unless --meta overrides it."""
    if comment is None or not comment.startswith(PROVENANCE) or "generated" in header.metadata:
        return header
    return replace(header, metadata={**header.metadata, "generated": comment})


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
    """Encode sound that arrives in blocks into one code file atomically.

    Args:
        codec: the codec.
        header: of the file.
        model: the codec's entropy model, or None.
        blocks: wavs [1, n] at the codec's rate; at least one sample in all.
        target: the file.
        label: name of the progress bar.
        total_s: length of the sound where it is known.
        search: optimisation steps; None takes the encoder's codes.

    Raises:
        AudioError: from ``blocks``.
        ValueError: the codec cannot optimise codes.
        OSError: ``target`` cannot be written.
    """
    from tqdm import tqdm

    from ..bitstream import AtokWriter
    from ..files import write_aside

    session = _encoding_session(codec, header.n_q, search)
    num_samples, started = 0, time.perf_counter()
    total = None if total_s is None else round(total_s)
    with (
        write_aside(target) as aside,
        open(aside, "wb") as file,
        tqdm(desc=label, total=total, unit="s", leave=False, disable=None, file=sys.stderr) as progress,
    ):
        writer = AtokWriter(file, header, model)
        for block in blocks:
            num_samples += block.shape[-1]
            codes = session.push(codec.spread(block[None]))[0]
            writer.write(codes, _scales_of(session))
            progress.update(block.shape[-1] / header.sampling_rate)
        codes = session.flush()[0]
        writer.write(codes, _scales_of(session))
        writer.close(num_samples)
    seconds, size = num_samples / header.sampling_rate, target.stat().st_size
    what = f"{target}: {seconds:.2f} s, {writer.frames} frames x {header.n_q} codebooks in {size} bytes"
    print(f"{what}{cost(seconds, started)}", file=sys.stderr)


def _encode_live(
    codec: AudioCodec, header: AtokHeader, model: EntropyModel | None, args: argparse.Namespace
) -> None:
    """Encode IN to OUT where one of them is a pipe."""
    from ..audio import Pcm, open_audio
    from ..bitstream import SUFFIX

    source, target = args.paths
    rate = codec.config.sampling_rate
    if target != PIPE:
        check_output(Path(source), Path(target), args.overwrite, {}, SUFFIX)
    raw = None if args.raw is None else Pcm(args.raw, args.rate or rate, args.channels)
    with open_audio(binary_input() if source == PIPE else source, pcm=raw) as sound:
        blocks, header = sound.blocks(rate), tagged(header, sound.comment)
        if target != PIPE:
            return encode_blocks(codec, header, model, blocks, Path(target), "stdin", search=args.search)
        write = binary_output()
        for packet in packets_of(codec, header, model, blocks, args.search):
            write(packet)


def packets_of(
    codec: AudioCodec,
    header: AtokHeader,
    model: EntropyModel | None,
    blocks: Iterable[Tensor],
    search: int | None = None,
) -> Iterator[bytes]:
    """Sound in blocks [1, n] -> an ``.atok`` stream, each packet as soon as its frames are complete.

    Raises:
        ValueError: the codec has scales, or cannot optimise codes.
    """
    from ..bitstream import AtokWriter

    if codec.has_scale:
        raise ValueError(
            f"{codec.config.codec_name} has a scale for each segment, which pipes do not carry; write a file"
        )
    pipe, num_samples = _Pipe(), 0
    session = _encoding_session(codec, header.n_q, search)
    writer = AtokWriter(pipe, header, model)
    for block in blocks:
        num_samples += block.shape[-1]
        for frame in session.push(codec.spread(block[None]))[0].split(header.packet_frames, dim=1):
            writer.write(frame)
            if data := pipe.take():
                yield data
    writer.close(num_samples, session.flush()[0])
    yield pipe.take()
    seconds = num_samples / header.sampling_rate
    print(f"stdout: {seconds:.2f} s, {writer.frames} frames x {header.n_q} codebooks", file=sys.stderr)


class _Pipe(io.BytesIO):
    """Holds the bytes written since the last :meth:`take`. Like a pipe, it cannot seek."""

    def seekable(self) -> bool:
        """No."""
        return False

    def take(self) -> bytes:
        """Return the held bytes and clear them."""
        data = self.getvalue()
        super().seek(0)
        self.truncate()
        return data


def _encoding_session(codec: AudioCodec, n_q: int, search: int | None) -> Any:
    """The encoder session of one stream. ValueError: the codec cannot optimise codes."""
    if search is None:
        return codec.streaming_encoder(n_q)
    from ..search import SearchingEncoder

    return SearchingEncoder(codec, n_q, search)


def _scales_of(session: Any) -> list[float]:
    """The scales that belong to the codes of a session since the last call."""
    return session.take_scales() if hasattr(session, "take_scales") else []
