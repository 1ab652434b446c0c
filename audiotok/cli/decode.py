"""``audiotok decode``: decodes codes to sound in bounded memory, and live with ``-``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ..machine import threads
from .common import (
    PIPE,
    PROVENANCE,
    add_codec_option,
    add_model_options,
    add_output_options,
    binary_input,
    binary_output,
    check_output,
    cost,
    each,
    load_timed_codec,
    model_of,
    number,
    plan_outputs,
    wants_pipe,
    warn,
)

if TYPE_CHECKING:
    from torch import Tensor

    from ..bitstream import AtokHeader, AtokReader, EntropyModel, Packet, PacketScanner
    from ..bitstream.format import Found, Tail
    from ..codec.model import AudioCodec

# Frames decoded at a time. More are not faster, and their large buffers fragment the heap.
_PUSHED_FRAMES = 200
_READ_BYTES = 1 << 16
# A long gap of a stream is concealed in pieces to bound memory.
_GAP_FRAMES = 500
MAX_GAP_S = 60.0
"""Longest gap of a stream in seconds. Longer gaps are shortened, because the stated length can be wrong."""


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "decode",
        help="code files -> sound files",
        usage="audiotok decode [options] IN OUT | IN [IN ...] --out DIR",
        description="Decode code files to exactly as many samples as were encoded; damaged frames are concealed. "
        "OUT's suffix decides its format: .wav and .flac 16 bit, .ogg and .opus Opus. "
        "- as IN reads packets of 'audiotok encode' from standard input and conceals lost ones; - as OUT writes wav "
        "or raw PCM to standard output, live.",
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
        args.parser.error("--raw describes standard output; pass - as OUT")
    if wants_pipe(args.paths, args.out, args.parser):
        with threads(1):
            _decode_live(args)
        return 0
    pairs = plan_outputs(args.paths, args.out, ".wav", args.parser)
    # Loaded once a run, because a codec's fingerprint is a hash over its weights.
    codecs: dict[str, tuple[AudioCodec, str, EntropyModel | None]] = {}

    def work(source: Path, target: Path) -> None:
        from ..audio import save_audio_blocks

        started = time.perf_counter()
        name = args.codec or shipped_codec(source)
        if name not in codecs:
            codec = load_timed_codec(name, args, started)
            fingerprint = codec.codes_fingerprint
            codecs[name] = codec, fingerprint, model_of(codec, fingerprint)
            started = time.perf_counter()
        rate = codecs[name][0].config.sampling_rate
        blocks = _file_blocks(*codecs[name], source, args.n_q)
        written = save_audio_blocks(target, blocks, rate, provenance_of(header_of(source).metadata))
        seconds = written / rate
        print(f"{target}: {seconds:.2f} s at {rate} Hz{cost(seconds, started)}", file=sys.stderr)

    with threads(1):
        return each(pairs, work, args.overwrite)


def shipped_codec(source: Path) -> str:
    """The shipped checkpoint whose codec made the codes of a file.

    Raises:
        AtokError: no shipped codec has the name that the file states, or it is not a code file.
        FileNotFoundError: the file does not exist.
    """
    from ..bitstream import AtokError
    from ..codec.config import CodecConfig
    from ..codec.pretrained import checkpoint_dir, shipped_checkpoints

    codec_name = header_of(source).codec
    for name in shipped_checkpoints():
        if CodecConfig.from_pretrained(checkpoint_dir(name)).codec_name == codec_name:
            return str(checkpoint_dir(name))  # a folder of that name would precede it
    raise AtokError(
        f"{source}: made by the codec {codec_name!r}, which is not shipped with audiotok; pass its folder with --codec"
    )


def provenance_of(metadata: Mapping[str, str]) -> str | None:
    """The comment for decoded audio if the metadata mark it as generated; None for a recording."""
    generated = metadata.get("generated", "no")
    if generated.strip().lower() in ("", "no", "false", "0"):
        return None
    return generated if len(generated) > len("yes") else PROVENANCE


def header_of(source: Path) -> AtokHeader:
    """The header of a code file. AtokError: it is not one. OSError: it cannot be read."""
    from ..bitstream import AtokReader

    with AtokReader(source) as file:
        return file.header


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
    comment = provenance_of(header.metadata)
    if target != PIPE:
        save_audio_blocks(target, blocks, rate, comment)
        return
    write = binary_output()
    head = wav_head(rate, comment) if args.raw is None else b""
    for block in blocks:
        write(head + pcm_bytes(block, args.raw or "s16le"))
        head = b""  # written with the first samples, so that empty input gives no output


def _file_blocks(
    codec: AudioCodec, codes_fingerprint: str, model: EntropyModel | None, source: Path, n_q: int | None
) -> Iterator[Tensor]:
    """Decode a code file to wavs [1, n] with the encoded number of samples, fewer if the end is missing."""
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
    """Decode the codes of a file to wavs [1, n]. Missing frames are concealed."""
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


def sound_of(
    codec: AudioCodec,
    codes_fingerprint: str,
    stream: BinaryIO,
    n_q: int | None,
    model: EntropyModel | None = None,
) -> tuple[AtokHeader, Iterator[Tensor]]:
    """Decode an ``.atok`` stream. Returns when its header has arrived.

    Args:
        codec: the codec that made the codes.
        codes_fingerprint: of the codec.
        stream: source of the packets.
        n_q: codebooks to use; None uses all in the stream.
        model: the codec's entropy model, or None.

    Returns:
        the header, and wavs [1, n] float32, each as soon as it is complete. Gaps are concealed.

    Raises:
        AtokError: the stream is of another codec or has fewer codebooks. The wavs raise it if there is no tail.
    """
    from ..bitstream import PacketScanner

    scanner, found = PacketScanner(), []
    while scanner.header is None:
        data = stream.read1(_READ_BYTES)  # type: ignore[attr-defined]  # what has come
        found = scanner.feed(data) if data else scanner.finish()  # without a header, finish() raises
    player = _Player(codec, codes_fingerprint, n_q, scanner.header, model)
    return scanner.header, _played(player, scanner, found, stream)


def _played(
    player: _Player, scanner: PacketScanner, found: list[Found], stream: BinaryIO
) -> Iterator[Tensor]:
    """Decode the packets that arrived with the header and the following ones: wavs [1, n]."""
    from ..bitstream import AtokError

    for each_found in found:
        yield from player.play(each_found.packet)
    ended = scanner.tail is not None
    while not ended:
        data = stream.read1(_READ_BYTES)  # type: ignore[attr-defined]  # what has come
        found = scanner.feed(data) if data else scanner.finish()
        ended = not data or scanner.tail is not None
        for each_found in found:
            yield from player.play(each_found.packet)
    yield from player.rest(scanner.tail)
    print(
        f"stdin: {player.given / player.sampling_rate:.2f} s, {player.frames} frames, {player.lost} of them lost and "
        f"concealed, {player.late} packets late, {scanner.damaged_bytes} bytes damaged",
        file=sys.stderr,
    )
    if scanner.tail is None:
        raise AtokError(
            f"stdin: expected the stream to state its end, got none after {player.frames} frames; the "
            "received packets were decoded"
        )


class _Player:
    """Decodes packets in their order and conceals missing ones.

    Attributes:
        sampling_rate: in Hz.
        frames: frames decoded, lost ones included.
        lost: frames that did not arrive.
        late: packets that arrived too late.
        given: samples returned.
    """

    def __init__(
        self, codec: AudioCodec, codes_fingerprint: str, n_q: int | None, header: AtokHeader,
        model: EntropyModel | None,
    ) -> None:  # fmt: skip
        from ..bitstream import AtokError, coder_of

        header.check_codec("stdin", codec.config.codec_name, codes_fingerprint)
        if n_q is not None and n_q > header.n_q:
            raise AtokError(f"stdin: expected --n-q in 1..{header.n_q}, which the stream holds; got {n_q}")
        self._codec, self._header, self._n_q = codec, header, n_q
        self._coder = coder_of(header, model, "stdin")
        self._session = codec.streaming_decoder()
        self._next: int | None = None
        self._num_samples: int | None = None  # to return in all
        self.sampling_rate = codec.config.sampling_rate
        self.frames = self.lost = self.late = self.given = 0

    def play(self, packet: Packet) -> Iterator[Tensor]:
        """Decode one packet and conceal the gap before it: wavs [1, n]."""
        import torch

        from ..bitstream import LayerError

        first = packet.number * self._header.packet_frames
        if self._next is None:
            self._next = first
            if first:
                print(f"stdin: joined at frame {first}", file=sys.stderr)
        if first < self._next:
            self.late += 1
            return
        values = self._coder.decode([(packet.frames, packet.layers[: self._n_q])])[0]
        if isinstance(values, LayerError):
            return
        codes = torch.from_numpy(values)[None].to(self._codec.device)
        yield from self._gap(first - self._next, codes)
        if packet.trim:
            frames = self.frames + packet.frames
            self._num_samples = frames * self._header.hop_length - packet.trim
        yield self._counted(self._session.push(codes), packet.frames)
        self._next = first + packet.frames

    def rest(self, tail: Tail | None) -> Iterator[Tensor]:
        """The end of the sound as wavs [1, n], after the last packet."""
        if tail is not None and self._next is not None:
            samples = tail.header.num_samples
            if samples is not None:
                before = self._next - self.frames  # frames sent before this end joined
                self._num_samples = samples - before * self._header.hop_length
            yield from self._gap(max(0, tail.frames - self._next), None)
        yield self._counted(self._session.flush(), 0)

    def _gap(self, frames: int, following: Tensor | None) -> Iterator[Tensor]:
        """Conceal missing frames, at most :data:`MAX_GAP_S` of them; ``following`` [1, K, t] are the next codes."""
        rate = self._codec.config.frame_rate
        most = round(MAX_GAP_S * rate)
        if frames > most:
            print(
                f"stdin: {frames} frames did not arrive, {frames / rate:.0f} s; the first {MAX_GAP_S:g} s of them are "
                "decoded as silence, the others are skipped",
                file=sys.stderr,
            )
            frames = most
        self.lost += frames
        while frames:
            count = min(frames, _GAP_FRAMES)
            frames -= count
            wav = self._session.conceal(count, following if frames == 0 else None)
            yield self._counted(wav, count)

    def _counted(self, wav: Tensor, frames: int) -> Tensor:
        """[1, 1, n] -> [1, n], cut at the end of the sound."""
        wav = wav[0].mean(dim=0, keepdim=True).cpu()
        if self._num_samples is not None:
            wav = wav[:, : max(0, self._num_samples - self.given)]
        self.frames += frames
        self.given += wav.shape[-1]
        return wav
