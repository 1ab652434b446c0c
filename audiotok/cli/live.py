"""``-`` in ``audiotok encode`` and ``audiotok decode``: standard input and output, worked through as they come.

Knows packets and pipes, no file. The law it keeps: what can be given on is given on at once, so that sound comes out
before its input ends; and it is what the files would give.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from torch import Tensor

    from ..codec.model import AudioCodec
    from ..packets import Packet

PIPE = "-"
_READ_BYTES = 1 << 16
# A long gap is played in pieces, so that its length costs no memory.
_GAP_FRAMES = 500


def wants_pipe(paths: list[str], out: str | None, parser: argparse.ArgumentParser) -> bool:
    """Whether IN or OUT is ``-``. Leaves through ``parser.error`` (exit 2) if the names then are not IN OUT."""
    if PIPE not in paths:
        return False
    if len(paths) != 2 or out is not None:
        parser.error("expected IN OUT where one of them is -; for many inputs pass files and --out DIR")
    return True


def binary_input() -> BinaryIO:
    """Standard input, as bytes.

    Raises:
        ValueError: standard input is a terminal.
    """
    if sys.stdin.isatty():
        raise ValueError(
            "expected standard input to be a pipe or a file, got a terminal; add '... |' or '< FILE'"
        )
    return sys.stdin.buffer


def binary_output() -> Callable[[bytes], None]:
    """What writes to standard output, every piece at once.

    Raises:
        ValueError: standard output is a terminal.
    """
    if sys.stdout.isatty():
        raise ValueError(
            "expected standard output to be a pipe or a file, got a terminal; add '> FILE' or '| ...'"
        )
    stream = sys.stdout.buffer

    def write(data: bytes) -> None:
        stream.write(data)
        stream.flush()

    return write


def packets_of(
    codec: AudioCodec, codes_fingerprint: str, blocks: Iterable[Tensor], n_q: int, packet_frames: int
) -> Iterator[bytes]:
    """Sound in blocks [1, n] -> packets, each as soon as its frames are complete; the last one says so."""
    import torch

    from ..packets import Packet, pack

    config = codec.config
    session = codec.streaming_encoder(n_q)
    held = torch.zeros(n_q, 0, dtype=torch.int64)
    at = num_samples = 0

    def packet(codes: Tensor, trim: int = 0, is_last: bool = False) -> bytes:
        return pack(Packet(codes_fingerprint, at, codes, config.codebook_size, trim, is_last))

    for block in blocks:
        num_samples += block.shape[-1]
        held = torch.cat([held, session.push(block[None].to(codec.device))[0].cpu()], dim=1)
        while held.shape[1] >= packet_frames:
            yield packet(held[:, :packet_frames])
            at += packet_frames
            held = held[:, packet_frames:]
    held = torch.cat([held, session.flush()[0].cpu()], dim=1)
    yield packet(held, trim=-num_samples % config.hop_length, is_last=True)
    frames, seconds = at + held.shape[1], num_samples / config.sampling_rate
    print(f"stdout: {seconds:.2f} s, {frames} frames x {n_q} codebooks", file=sys.stderr)


def sound_of(
    codec: AudioCodec, codes_fingerprint: str, stream: BinaryIO, n_q: int | None
) -> Iterator[Tensor]:
    """Packets -> wavs [1, n] float32, each as soon as it is complete; where packets are missing, sound is carried on.

    Args:
        codec: made the packets' codes.
        codes_fingerprint: the codec's own.
        stream: where the packets come from.
        n_q: codebooks to use; None uses all in the packets.

    Raises:
        PacketError: the packets are another codec's, have no such codebooks, or end without their last one.
    """
    from ..packets import PacketError, PacketReader

    reader, listener = PacketReader(), _Listener(codec, codes_fingerprint, n_q)
    while not listener.ended and (data := stream.read1(_READ_BYTES)):  # type: ignore[attr-defined]
        for packet in reader.feed(data):
            yield from listener.hear(packet)
    if not reader.packets:
        raise reader.nothing()
    yield listener.rest()
    seconds = listener.given / codec.config.sampling_rate
    print(
        f"stdin: {seconds:.2f} s, {listener.frames} frames, {listener.lost} of them lost and carried over, "
        f"{listener.late} packets late, {reader.damaged_bytes} bytes damaged",
        file=sys.stderr,
    )
    if not listener.ended:
        raise PacketError(
            f"stdin: expected a last packet, got an end after {listener.frames} frames; what came was decoded, "
            "the sender was cut off"
        )


class _Listener:
    """Plays packets in their order, and time where there are none.

    Attributes:
        frames: frames played, lost ones among them.
        lost: frames that did not come.
        late: packets that came after their time.
        given: samples given out.
        ended: whether the last packet was heard.
    """

    def __init__(self, codec: AudioCodec, codes_fingerprint: str, n_q: int | None) -> None:
        self._codec, self._fingerprint, self._n_q = codec, codes_fingerprint, n_q
        self._session = codec.streaming_decoder()
        self._next: int | None = None
        self._num_samples: int | None = None
        self.frames = self.lost = self.late = self.given = 0
        self.ended = False

    def hear(self, packet: Packet) -> Iterator[Tensor]:
        """One packet -> wavs [1, n]: what was missing before it, and itself."""
        self._check(packet)
        if self._next is None:
            self._next = packet.first_frame
            if self._next:
                print(f"stdin: joined at frame {self._next}", file=sys.stderr)
        gap = packet.first_frame - self._next
        if self.ended or gap < 0:
            self.late += 1
            return
        codes = packet.codes[None, : self._n_q].to(self._codec.device)
        self.lost += gap
        while gap:
            count = min(gap, _GAP_FRAMES)
            gap -= count
            following = codes if gap == 0 and codes.shape[-1] else None
            yield self._counted(self._session.conceal(count, following), count)
        if packet.is_last:
            self.ended = True
            frames = self.frames + codes.shape[-1]
            self._num_samples = frames * self._codec.config.hop_length - packet.trim
        yield self._counted(self._session.push(codes), codes.shape[-1])
        self._next = packet.first_frame + codes.shape[-1]

    def rest(self) -> Tensor:
        """The end of the sound [1, n], when no packet will come any more."""
        return self._counted(self._session.flush(), 0)

    def _counted(self, wav: Tensor, frames: int) -> Tensor:
        """[1, 1, n] -> [1, n], without what lies beyond the sound's end."""
        wav = wav[0].cpu()
        if self._num_samples is not None:
            wav = wav[:, : max(0, self._num_samples - self.given)]
        self.frames += frames
        self.given += wav.shape[-1]
        return wav

    def _check(self, packet: Packet) -> None:
        from ..packets import PacketError

        config = self._codec.config
        if packet.codes_fingerprint != self._fingerprint:
            raise PacketError(
                f"stdin: expected packets of the codec {config.codec_name!r} (fingerprint {self._fingerprint}), got "
                f"fingerprint {packet.codes_fingerprint}; pass --codec and the codec that made them"
            )
        n_q, frames = packet.codes.shape
        if not max(1, self._n_q or 1) <= n_q <= config.n_q:
            raise PacketError(
                f"stdin: expected packets of {self._n_q or 1} to {config.n_q} codebooks, got {n_q}; "
                "pass a smaller --n-q"
            )
        if frames and int(packet.codes.max()) >= config.codebook_size:
            raise PacketError(
                f"stdin: expected codes in [0, {config.codebook_size}), got {int(packet.codes.max())}; "
                "the sender is broken"
            )
