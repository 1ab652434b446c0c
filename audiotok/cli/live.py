"""``-`` in ``audiotok encode`` and ``audiotok decode``: standard input and output, worked through as they come.

Knows the .atok stream and pipes, no file. The law it keeps: what can be given on is given on at once, so that sound
comes out before its input ends; and it is what the files would give.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from torch import Tensor

    from ..bitstream import AtokHeader, EntropyModel, Packet, PacketScanner
    from ..bitstream.format import Found, Tail
    from ..codec.model import AudioCodec

PIPE = "-"
_READ_BYTES = 1 << 16
# A long gap is played in pieces, so that its length costs no memory.
_GAP_FRAMES = 500
MAX_GAP_S = 60.0
"""A longer gap is not played to its end: silence for a week helps nobody, and a number can be wrong."""


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


class _Pipe(io.BytesIO):
    """What a writer has written since it was last asked; like a pipe, it cannot go back."""

    def seekable(self) -> bool:
        """No."""
        return False

    def take(self) -> bytes:
        """The bytes so far, once."""
        data = self.getvalue()
        super().seek(0)
        self.truncate()
        return data


def packets_of(
    codec: AudioCodec,
    header: AtokHeader,
    model: EntropyModel | None,
    blocks: Iterable[Tensor],
    search: int | None = None,
) -> Iterator[bytes]:
    """Sound in blocks [1, n] -> an ``.atok`` stream, each packet as soon as its frames are complete.

    Raises:
        ValueError: the codec has scales, or cannot ``search``.
    """
    from ..bitstream import AtokWriter
    from .atok import encoding_session

    if codec.has_scale:
        raise ValueError(
            f"{codec.config.codec_name} codes segments with a scale each, which pipes do not carry; write a file"
        )
    pipe, num_samples = _Pipe(), 0
    session = encoding_session(codec, header.n_q, search)
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


def sound_of(
    codec: AudioCodec,
    codes_fingerprint: str,
    stream: BinaryIO,
    n_q: int | None,
    model: EntropyModel | None = None,
) -> tuple[AtokHeader, Iterator[Tensor]]:
    """Hear an ``.atok`` stream; returns when its header has come.

    Args:
        codec: made the stream's codes.
        codes_fingerprint: the codec's own.
        stream: where the packets come from.
        n_q: codebooks to use; None uses all in the stream.
        model: the codec's entropy model, if there is one.

    Returns:
        The header, and wavs [1, n] float32, each as soon as it is complete; over gaps, sound is carried on.

    Raises:
        AtokError: the stream is another codec's, or has no such codebooks; from the wavs: it ends without its end.
    """
    from ..bitstream import PacketScanner

    scanner, found = PacketScanner(), []
    while scanner.header is None:
        data = stream.read1(_READ_BYTES)  # type: ignore[attr-defined]  # what has come
        found = scanner.feed(data) if data else scanner.finish()  # without a header, finish() raises
    listener = _Listener(codec, codes_fingerprint, n_q, scanner.header, model)
    return scanner.header, _heard(listener, scanner, found, stream, codec.config.sampling_rate)


def _heard(
    listener: _Listener, scanner: PacketScanner, found: list[Found], stream: BinaryIO, sampling_rate: int
) -> Iterator[Tensor]:
    """What was found with the header, and what comes behind it -> wavs [1, n]."""
    from ..bitstream import AtokError

    for each in found:
        yield from listener.hear(each.packet)
    ended = scanner.tail is not None
    while not ended:
        data = stream.read1(_READ_BYTES)  # type: ignore[attr-defined]  # what has come
        found = scanner.feed(data) if data else scanner.finish()
        ended = not data or scanner.tail is not None
        for each in found:
            yield from listener.hear(each.packet)
    yield from listener.rest(scanner.tail)
    seconds = listener.given / sampling_rate
    print(
        f"stdin: {seconds:.2f} s, {listener.frames} frames, {listener.lost} of them lost and carried over, "
        f"{listener.late} packets late, {scanner.damaged_bytes} bytes damaged",
        file=sys.stderr,
    )
    if scanner.tail is None:
        raise AtokError(
            f"stdin: expected the stream to say its end, got none after {listener.frames} frames; what came was "
            "decoded, the sender was cut off"
        )


class _Listener:
    """Plays packets in their order, and time where there are none.

    Attributes:
        frames: frames played, lost ones among them.
        lost: frames that did not come.
        late: packets that came after their time.
        given: samples given out.
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
        self._num_samples: int | None = None  # to give out in all
        self.frames = self.lost = self.late = self.given = 0

    def hear(self, packet: Packet) -> Iterator[Tensor]:
        """One packet -> wavs [1, n]: what was missing before it, and itself."""
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
        """The end of the sound, wavs [1, n], when no packet will come any more."""
        if tail is not None and self._next is not None:
            samples = tail.header.num_samples
            if samples is not None:
                before = self._next - self.frames  # frames that were sent before the listener came
                self._num_samples = samples - before * self._header.hop_length
            yield from self._gap(max(0, tail.frames - self._next), None)
        yield self._counted(self._session.flush(), 0)

    def _gap(self, frames: int, following: Tensor | None) -> Iterator[Tensor]:
        """Sound for frames that did not come, of :data:`MAX_GAP_S` at most; ``following`` [1, K, t] came after them."""
        rate = self._codec.config.frame_rate
        most = round(MAX_GAP_S * rate)
        if frames > most:
            print(
                f"stdin: {frames} frames did not come, {frames / rate:.0f} s; the first {MAX_GAP_S:g} s of them are "
                "played as silence, the others are left out",
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
        """[1, 1, n] -> [1, n], without what lies beyond the sound's end."""
        wav = wav[0].mean(dim=0, keepdim=True).cpu()
        if self._num_samples is not None:
            wav = wav[:, : max(0, self._num_samples - self.given)]
        self.frames += frames
        self.given += wav.shape[-1]
        return wav
