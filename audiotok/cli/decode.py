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
    cost,
    each,
    load_timed_codec,
    model_of,
    number,
    plan_outputs,
    warn,
)

if TYPE_CHECKING:
    from torch import Tensor

    from ..bitstream import AtokHeader, EntropyModel, Packet
    from ..codec.base import Codec

_PUSHED_FRAMES = 200  # decoded at a time: more are not faster, and their large buffers fragment the heap
_READ_BYTES = 1 << 16
_GAP_FRAMES = 500  # concealed at a time
MAX_GAP_S = 60.0
"""Longest gap of a stream in seconds. Longer gaps are shortened, because the stated length can be wrong."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the description and the options."""
    parser.usage = "audiotok decode [options] IN OUT | IN [IN ...] --out DIR"
    parser.description = (
        "Decode code files to exactly as many samples as were encoded; damaged frames are concealed. "
        "OUT's suffix decides its format: .wav and .flac 16 bit, .ogg and .opus Opus. "
        "- as IN reads packets of 'audiotok encode' from standard input and conceals lost ones; - as OUT writes wav "
        "to standard output, live."
    )
    parser.add_argument("paths", nargs="+", metavar="IN", help="code files, and OUT unless --out is given")
    parser.add_argument(
        "--n-q", type=number(int, 1), metavar="K", help="codebooks to use (default: all in the file)"
    )
    add_codec_option(parser, default=None)
    add_model_options(parser)
    add_output_options(parser)


def run(args: argparse.Namespace) -> int:
    """Decode every input; 1 if one failed."""
    from ..audio import pcm_bytes, save_audio_blocks, wav_head

    codecs: dict[str | None, tuple[Codec, str, EntropyModel | None]] = {}

    def work(source: Path, target: Path) -> None:
        piped = str(source) == PIPE
        name = args.codec or (None if piped else shipped_codec(source))
        if name not in codecs:  # once a run, because a codec's fingerprint hashes its weights
            codec = load_timed_codec(name, args)
            fingerprint = codec.codes_fingerprint
            codecs[name] = codec, fingerprint, model_of(codec, fingerprint)
        started = time.perf_counter()
        if piped:
            header, blocks = stream_sound(*codecs[name], binary_input(), args.n_q)
        else:
            header, blocks = header_of(source), file_sound(*codecs[name], source, args.n_q)
        rate, comment = header.sampling_rate, provenance_of(header.metadata)
        if str(target) == PIPE:
            file, head = binary_output(), wav_head(rate, comment)
            for block in blocks:
                file.write(head + pcm_bytes(block))
                head = b""  # written with the first samples, so that empty input gives no output
            return
        seconds = save_audio_blocks(target, blocks, rate, comment) / rate
        print(f"{target}: {seconds:.2f} s at {rate} Hz{cost(seconds, started)}", file=sys.stderr)

    pairs = plan_outputs(args.paths, args.out, ".wav", args.parser)
    with threads(1):
        return each(pairs, work, args.overwrite)


def shipped_codec(source: Path) -> str:
    """The folder of the shipped codec that made a file's codes. AtokError: there is none, or it is no code file."""
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


class _Player:
    """Decodes frames in their order and conceals missing ones; gives wavs [1, n] float32 on the CPU.

    Attributes:
        num_samples: samples to give in all; None gives all that are decoded.
        frames, lost, given: frames so far, missing ones among them, and samples so far.
    """

    def __init__(self, codec: Codec, num_samples: int | None = None) -> None:
        self.session = codec.streaming_decoder()
        self.num_samples = num_samples
        self.frames = self.lost = self.given = 0

    def push(self, codes: Tensor) -> Iterator[Tensor]:
        """Decode codes [1, K, t]."""
        self.frames += codes.shape[-1]
        for piece in codes.split(_PUSHED_FRAMES, dim=-1):
            yield self._cut(self.session.push(piece))

    def conceal(self, frames: int, following: Tensor | None) -> Iterator[Tensor]:
        """Replace missing frames; ``following`` [1, K, t] are the next codes if they are known."""
        self.frames += frames
        self.lost += frames
        while frames > 0:
            count = min(frames, _GAP_FRAMES)
            frames -= count
            yield self._cut(self.session.conceal(count, following if frames == 0 else None))

    def flush(self) -> Tensor:
        """The end of the sound."""
        return self._cut(self.session.flush())

    def _cut(self, wav: Tensor) -> Tensor:
        wav = wav[0].float().mean(dim=0, keepdim=True).cpu()
        if self.num_samples is not None:
            wav = wav[:, : max(0, self.num_samples - self.given)]
        self.given += wav.shape[-1]
        return wav


def file_sound(
    codec: Codec, codes_fingerprint: str, model: EntropyModel | None, source: Path, n_q: int | None
) -> Iterator[Tensor]:
    """Decode a code file to wavs [1, n] with the encoded number of samples, fewer if the end is missing. AtokError: the
    file is of another codec, has fewer codebooks or holds no packets.
    """
    import torch
    from tqdm import tqdm

    from ..bitstream import AtokError, AtokReader

    with AtokReader(source, model) as file:
        file.header.check_codec(source, codec.config.codec_name, codes_fingerprint)
        if n_q is not None and n_q > file.header.n_q:
            raise AtokError(f"{source}: expected --n-q in 1..{file.header.n_q}, got {n_q}")
        if not file.frames:
            reason = "; ".join(file.damage) or "it was never filled"
            raise AtokError(f"{source}: expected packets, got none ({reason}); copy it again")
        player = _Player(codec, file.header.num_samples)
        progress: Any = tqdm(
            total=file.frames, desc=source.name, unit="frame", leave=False, disable=None, file=sys.stderr
        )
        with progress:
            for block in file.blocks(n_q):
                codes, at = block.codes[None].to(codec.device), 0
                if block.scales is not None:
                    player.session.add_scales(block.scales)
                runs, counts = torch.unique_consecutive(block.present, return_counts=True)
                for present, count in zip(runs.tolist(), counts.tolist(), strict=True):
                    end = at + count
                    after = codes[..., end : end + 1] if end < codes.shape[-1] else None
                    yield from player.push(codes[..., at:end]) if present else player.conceal(count, after)
                    at = end
                progress.update(codes.shape[-1])
        yield player.flush()
        warn(source, file.damage)


def stream_sound(
    codec: Codec, codes_fingerprint: str, model: EntropyModel | None, stream: BinaryIO, n_q: int | None
) -> tuple[AtokHeader, Iterator[Tensor]]:
    """Decode an ``.atok`` stream with the codec that made it; ``n_q`` of None uses all codebooks.

    Returns:
        the header, when it has arrived, and wavs [1, n] float32, each as soon as it is complete.

    Raises:
        AtokError: the stream is of another codec or has fewer codebooks. The wavs raise it if there is no tail.
    """
    import torch

    from ..bitstream import AtokError, LayerError, PacketScanner, coder_of

    scanner, first_found = PacketScanner(), []
    while scanner.header is None:
        data = stream.read1(_READ_BYTES)  # type: ignore[attr-defined]  # what has come
        first_found = scanner.feed(data) if data else scanner.finish()  # without a header, finish() raises
    header = scanner.header
    header.check_codec("stdin", codec.config.codec_name, codes_fingerprint)
    n_q = header.with_n_q(header.n_q if n_q is None else n_q).n_q
    coder, player = coder_of(header, model, "stdin"), _Player(codec)

    def packets() -> Iterator[Packet]:
        found, more = first_found, True
        while True:
            yield from (each.packet for each in found)
            if scanner.tail is not None or not more:
                return
            data = stream.read1(_READ_BYTES)  # type: ignore[attr-defined]
            found, more = scanner.feed(data) if data else scanner.finish(), bool(data)

    def gap(frames: int, following: Tensor | None) -> Iterator[Tensor]:
        most = round(MAX_GAP_S * header.frame_rate)
        if frames > most:
            _tell(f"{frames} frames did not arrive; the first {MAX_GAP_S:g} s are silent, the others skipped")
        return player.conceal(min(frames, most), following)

    def wavs() -> Iterator[Tensor]:
        after, late = None, 0  # number of the next frame
        for packet in packets():
            first = packet.number * header.packet_frames
            if after is None:
                after = first
                if first:
                    _tell(f"joined at frame {first}")
            if first < after:
                late += 1
                continue
            values = coder.decode([(packet.frames, packet.layers[:n_q])])[0]
            if isinstance(values, LayerError):
                continue
            codes = torch.from_numpy(values)[None].to(codec.device)
            yield from gap(first - after, codes)
            if packet.trim:
                player.num_samples = (player.frames + packet.frames) * header.hop_length - packet.trim
            yield from player.push(codes)
            after = first + packet.frames
        tail = scanner.tail
        if tail is not None and after is not None:
            if tail.header.num_samples is not None:
                before = after - player.frames  # frames sent before this end joined
                player.num_samples = tail.header.num_samples - before * header.hop_length
            yield from gap(tail.frames - after, None)
        yield player.flush()
        _tell(
            f"{player.given / header.sampling_rate:.2f} s, {player.frames} frames, {player.lost} of them lost and "
            f"concealed, {late} packets late, {scanner.damaged_bytes} bytes damaged"
        )
        if tail is None:
            raise AtokError(
                f"stdin: expected the stream to state its end, got none after {player.frames} frames; the "
                "received packets were decoded"
            )

    return header, wavs()


def _tell(words: str) -> None:
    print(f"stdin: {words}", file=sys.stderr)
