"""Reading ``.atok`` files by time range. Damaged packets are skipped and reported."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from .entropy import EntropyModel, LayerError, coder_of
from .format import (
    MAGIC,
    MAX_HEADER_BYTES,
    TAIL_MARK,
    TAIL_SIZE_BYTES,
    AtokError,
    AtokHeader,
    DamageError,
    Found,
    NeedMoreError,
    Packet,
    PacketScanner,
    Tail,
    frame_at,
    read_head,
    read_packet,
)

_BLOCK_BYTES = 1 << 16
_HEAD_GUESS = 1 << 12
_BLOCK_PACKETS = 16
# Most codes per byte of a file. Silence reaches 300. The limit protects memory from forged headers.
_DENSEST = 1024
_LONGEST_S = 1 << 40


@dataclass(frozen=True)
class Excerpt:
    """Some frames of a file.

    Attributes:
        first_frame: number of the first.
        codes: [K, T] int64 in [0, V); 0 where a frame is missing.
        present: [T] bool, False where a frame is missing: damaged, cut off or never sent.
        scales: [S] float32, one for every ``scale_frames`` frames from ``first_frame`` on, 0.1 where missing; None if
            the file has none.
    """

    first_frame: int
    codes: Tensor
    present: Tensor
    scales: Tensor | None = None


class AtokReader:
    """Reads a file by time range; only the packets of the range are read.

    Args:
        path: the file.
        model: for learned coding; None searches the shipped ones when codes are read.

    Attributes:
        header: of the file.
        frames: T of the whole file, missing ones included.
        damage: descriptions of the damage found so far; packets are checked when they are read.

    Raises:
        FileNotFoundError: the file does not exist.
        AtokError: it is not an ``.atok`` file, is of another version, or header and copy are both damaged.
    """

    def __init__(self, path: str | Path, model: EntropyModel | None = None) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            raise AtokError(f"{path}: expected an .atok file, got a folder; name the files in it")
        if not self.path.exists():
            raise FileNotFoundError(f"{path}: no such file")
        if not self.path.is_file():  # opening a pipe would block until it has a writer
            raise AtokError(f"{path}: expected a file, got a device or a pipe")
        self._model, self._coder = model, None
        self.damage: list[str] = []
        self._file = open(self.path, "rb")  # noqa: SIM115  # closed by close()
        try:
            self._size = os.fstat(self._file.fileno()).st_size
            self._open()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def duration_s(self) -> float:
        """Length of the sound in seconds, or of the frames if the number of samples is not known."""
        samples = self.header.num_samples
        if samples is None:
            samples = self.frames * self.header.hop_length
        return samples / self.header.sampling_rate

    def read(self, start_s: float = 0.0, stop_s: float | None = None, n_q: int | None = None) -> Excerpt:
        """The codes of a time range.

        Args:
            start_s, stop_s: in seconds; None reads to the end. Frames that overlap the range are included.
            n_q: codebooks; None reads all.

        Returns:
            the excerpt. Damaged frames are not ``present``.

        Raises:
            AtokError: the range or n_q is not in the file, or the entropy model is missing.
        """
        rate = self.header.frame_rate
        for second in (start_s, 0.0 if stop_s is None else stop_s):
            if not isinstance(second, int | float) or not 0 <= second <= _LONGEST_S:
                raise AtokError(f"{self.path}: expected seconds of at least 0, got {second!r}")
        stop = self.frames if stop_s is None else min(self.frames, int(np.ceil(round(stop_s * rate, 6))))
        return self.read_frames(int(round(start_s * rate, 6)), stop, n_q)

    def read_frames(self, start: int, stop: int, n_q: int | None = None) -> Excerpt:
        """The codes of frames ``start`` to ``stop`` (excluded); otherwise as :meth:`read`."""
        whole = isinstance(start, int) and isinstance(stop, int)
        if not whole or not 0 <= start <= stop <= self.frames:
            raise AtokError(f"{self.path}: expected frames within 0 to {self.frames}, got {start} to {stop}")
        kept = self.header.with_n_q(self.header.n_q if n_q is None else n_q).n_q
        size = self.header.packet_frames
        first, last = start // size, -(-stop // size)
        codes = torch.zeros(kept, (last - first) * size, dtype=torch.int64)
        present = torch.zeros(codes.shape[1], dtype=torch.bool)
        each = self.header.scale_frames
        scales = torch.full(((last - first) * size // each,), 0.1) if each else None  # as the codec
        for packet, values in self._decoded(first, last, kept):
            at = (packet.number - first) * size
            codes[:, at : at + values.shape[1]] = torch.from_numpy(values)
            present[at : at + values.shape[1]] = True
            if scales is not None:
                scales[at // each : at // each + len(packet.scales)] = torch.tensor(packet.scales)
        cut = slice(start - first * size, stop - first * size)
        if scales is not None:
            scales = scales[cut.start // each : -(-cut.stop // each)]
        return Excerpt(start, codes[:, cut], present[cut], scales)

    def blocks(self, n_q: int | None = None) -> Iterator[Excerpt]:
        """The whole file in excerpts of some packets each, for little memory; otherwise as :meth:`read`."""
        step = _BLOCK_PACKETS * self.header.packet_frames
        for start in range(0, self.frames, step):
            yield self.read_frames(start, min(start + step, self.frames), n_q)

    def packets(self) -> Iterator[Packet]:
        """Every whole packet; damaged ones are left out and reported in ``damage``."""
        for number in range(len(self._sizes)):
            packet = self._packet(number)
            if packet is not None:
                yield packet

    def verify(self) -> list[str]:
        """Read and decode everything and return ``damage``. AtokError: the entropy model is missing."""
        for _ in self.blocks():
            pass
        return self.damage

    def _decoded(self, first: int, last: int, n_q: int) -> Iterator[tuple[Packet, np.ndarray]]:
        """The whole packets ``first`` to ``last`` (excluded), with their codes."""
        if self._coder is None:
            self._coder = coder_of(self.header, self._model, str(self.path))
        packets = [packet for number in range(first, last) if (packet := self._packet(number)) is not None]
        codes = self._coder.decode([(packet.frames, packet.layers[:n_q]) for packet in packets])
        for packet, values in zip(packets, codes, strict=True):
            if isinstance(values, LayerError):
                self._note_packet(packet.number, f": {values}")
            else:
                yield packet, values

    def _packet(self, number: int) -> Packet | None:
        size = self._sizes[number]
        if size == 0:
            self._note_packet(number, " is missing")
            return None
        self._file.seek(self._places[number])
        try:
            packet, end = read_packet(self.header, self._take(size))
            if packet.number != number or end != size:
                raise DamageError(f"expected packet {number}, got {packet.number}")
            frames = min(self.header.packet_frames, self.frames - number * self.header.packet_frames)
            if packet.frames != frames:
                raise DamageError(f"expected {frames} frames, got {packet.frames}")
            return packet
        except (DamageError, NeedMoreError) as error:
            self._note_packet(number, f": {str(error) or 'it ends too early'}")
            return None

    def _note_packet(self, number: int, words: str) -> None:
        length = self.header.packet_frames / self.header.frame_rate
        self._note(f"packet {number} ({number * length:.2f} to {(number + 1) * length:.2f} s){words}")

    def _note(self, words: str) -> None:
        if words not in self.damage:
            self.damage.append(words)

    def _open(self) -> None:
        """Find header, length and packets."""
        tail, tail_at = self._read_tail()
        header, start = self._read_front(tail)
        if tail is not None and replace(header, num_samples=None) != replace(tail.header, num_samples=None):
            raise AtokError(
                f"{self.path}: expected a header and a copy of it, got those of {header.codec!r} and "
                f"{tail.header.codec!r} that differ; the file was joined from two files"
            )
        if tail is not None and start in (None, tail_at - sum(tail.sizes)):
            self.header, self.frames, self._sizes = tail.header, tail.frames, list(tail.sizes)
            self._places = list(accumulate(self._sizes, initial=tail_at - sum(tail.sizes)))
        elif start is None:
            raise AtokError(f"{self.path}: there are too few bytes between header and index; copy it again")
        else:
            self._scan(header, start)
        if self.header.num_samples is not None:
            seconds = self.frames / self.header.frame_rate
            expected = -(-self.header.num_samples // self.header.hop_length)
            if self.frames < expected:
                whole = expected / self.header.frame_rate
                self._note(f"the end is missing from {seconds:.2f} s on, of {whole:.2f} s")
        if self.frames * self.header.n_q > _DENSEST * self._size:
            raise AtokError(
                f"{self.path}: expected at most {_DENSEST} codes a byte, got {self.frames} frames x {self.header.n_q} "
                f"in {self._size} bytes; the stated length is wrong"
            )

    def _read_tail(self) -> tuple[Tail | None, int]:
        """The tail and its position; None if it is cut off or damaged."""
        self._file.seek(max(0, self._size - TAIL_SIZE_BYTES))
        size = int.from_bytes(self._file.read(TAIL_SIZE_BYTES), "little")
        at = self._size - TAIL_SIZE_BYTES - size
        if at < 0:
            return None, 0
        self._file.seek(at)
        if self._file.read(1) != bytes([TAIL_MARK]):
            return None, 0
        self._file.seek(at)
        try:
            tail = Tail.from_body(frame_at(self._file.read(size), TAIL_MARK, size)[0])
        except (DamageError, NeedMoreError, AtokError):
            return None, 0
        return (tail, at) if at >= sum(tail.sizes) else (None, 0)

    def _read_front(self, tail: Tail | None) -> tuple[AtokHeader, int | None]:
        """The header and the position of the packets, which is None if the header is damaged and the tail's is used."""
        self._file.seek(0)
        data = self._take(_HEAD_GUESS)
        try:
            try:
                return read_head(data)
            except NeedMoreError:
                return read_head(data + self._take(MAX_HEADER_BYTES))
        except (DamageError, NeedMoreError, AtokError) as error:
            if tail is None and isinstance(error, AtokError):
                raise AtokError(f"{self.path}: {error}") from None
            if tail is None:
                reason = str(error) or "the file ends in it"
                raise AtokError(
                    f"{self.path}: header and its copy are damaged ({reason}); copy it again"
                ) from None
            self._note("the header is damaged; its copy at the end was used")
            return tail.header, None

    def _scan(self, header: AtokHeader, start: int) -> None:
        """Rebuild the index by reading the whole file."""
        scanner = PacketScanner(header)
        found: dict[int, Found] = {}
        self._file.seek(start)
        while data := self._take(_BLOCK_BYTES):
            found |= {each.packet.number: each for each in scanner.feed(data)}
        found |= {each.packet.number: each for each in scanner.finish()}
        if scanner.tail is not None:
            header = replace(header, num_samples=scanner.tail.header.num_samples)
        else:
            self._note("the index at the end is missing or damaged; it was rebuilt")
        # A gap takes space in the index too, so there cannot be more packets than bytes.
        count = min(max(found, default=-1) + 1, self._size)
        self._sizes, self._places = [0] * count, [0] * count
        self.frames = 0
        for number in sorted(found):
            if number < count:
                self._places[number], self._sizes[number] = start + found[number].at, found[number].size
                self.frames = number * header.packet_frames + found[number].packet.frames
        self.header = header
        if scanner.damaged_bytes:
            self._note(f"{scanner.damaged_bytes} bytes belong to no whole packet")
        if scanner.tail_end is not None:  # only the size of the index should follow
            over = self._size - start - scanner.tail_end - TAIL_SIZE_BYTES
            if over < 0:
                self._note(f"{-over} bytes are missing at the end")
            else:
                self._note(f"{over} bytes too many at the end" if over else "the last 4 bytes are damaged")

    def _take(self, count: int) -> bytes:
        """At most ``count`` of the next bytes, without allocating more than the file has."""
        return self._file.read(min(count, self._size))


def is_atok(path: str | Path) -> bool:
    """Whether a file begins like an ``.atok`` file. It may be damaged."""
    with open(path, "rb") as file:
        return file.read(len(MAGIC)) == MAGIC
