"""Writing and truncating ``.atok`` files and pipes. The bytes do not depend on how the codes are split into calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from ..files import write_aside
from .entropy import EntropyModel, coder_of
from .format import AtokError, AtokHeader, Packet, Tail, head_bytes
from .reader import AtokReader

SUFFIX = ".atok"


class AtokWriter:
    """Writes a file or a pipe, packet by packet, as codes arrive.

    Args:
        file: a binary file or pipe. If it can seek, the length is stored in the header at the end.
        header: of the file. ``num_samples`` may be None.
        model: for LEARNT coding; None searches the shipped ones.

    Attributes:
        frames: frames so far.
        layer_bytes: bytes of layers written so far, without their framing.

    Raises:
        AtokError: the model is missing or for other codes.
    """

    def __init__(self, file: BinaryIO, header: AtokHeader, model: EntropyModel | None = None) -> None:
        self._file, self.header = file, header
        self._coder = coder_of(header, model)
        self._codes = np.zeros((header.n_q, 0), np.int64)
        self._scales: list[float] = []
        self._sizes: list[int] = []
        self.frames = self.layer_bytes = 0
        self._end: int | None = None
        self._start = file.tell() if file.seekable() else None
        file.write(head_bytes(header))

    def write(self, codes: Tensor, scales: Sequence[float] = ()) -> None:
        """Add codes and write the packets that they complete.

        Args:
            codes: [K, t] integers in [0, V), any t >= 0.
            scales: scales that belong to the frames, for a header with ``scale_frames``.

        Raises:
            AtokError: codes are not [K, t] or out of range.
        """
        values = self._checked(codes)
        self.frames += values.shape[1]
        self._codes = np.concatenate([self._codes, values], axis=1)
        self._scales += map(float, scales)
        size = self.header.packet_frames
        whole = self._codes.shape[1] // size
        if whole:
            self._put(np.split(self._codes[:, : whole * size], whole, axis=1))
            self._codes = self._codes[:, whole * size :]

    def close(self, num_samples: int | None = None, codes: Tensor | None = None) -> None:
        """Write the last packet and the tail. The file itself stays open.

        Args:
            num_samples: length of the sound; None keeps that of the header.
            codes: the last codes, [K, t]. On a pipe their packet states where the sound ends, so that a player does
                not wait for the tail.

        Raises:
            AtokError: the number of scales does not fit the frames, or codes as in :meth:`write`.
        """
        if codes is not None:
            self._end = num_samples if self._start is None else None
            self.write(codes)
        if self._codes.shape[1]:
            self._put([self._codes])
        if self._scales:
            raise AtokError(
                f"expected a scale for {self.header.scale_frames} frames, got {len(self._scales)} more"
            )
        header = self.header if num_samples is None else replace(self.header, num_samples=num_samples)
        self._file.write(Tail(header, self.frames, tuple(self._sizes)).to_bytes())
        if self._start is not None and header != self.header:
            end = self._file.tell()
            self._file.seek(self._start)
            self._file.write(head_bytes(header))
            self._file.seek(end)
        self._file.flush()

    def _put(self, pieces: list[np.ndarray]) -> None:
        """Code and write packets."""
        header = self.header
        for codes, layers in zip(pieces, self._coder.encode(pieces), strict=True):
            number, frames = len(self._sizes), codes.shape[1]
            count = header.scales_of(frames)
            scales, self._scales = tuple(self._scales[:count]), self._scales[count:]
            if len(scales) < count:
                raise AtokError(
                    f"expected a scale for {header.scale_frames} frames, got {len(scales)} for {frames}"
                )
            trim = 0
            if self._end is not None and number * header.packet_frames + frames == self.frames:
                trim = max(0, self.frames * header.hop_length - self._end)
            data = Packet(number, frames, tuple(layers), scales, trim).to_bytes()
            self._file.write(data)
            self._sizes.append(len(data))
            self.layer_bytes += sum(map(len, layers))
        self._file.flush()

    def _checked(self, codes: Tensor) -> np.ndarray:
        if not isinstance(codes, Tensor):
            raise TypeError(f"expected codes as a torch.Tensor, got {type(codes).__name__}")
        whole = not (codes.is_floating_point() or codes.is_complex() or codes.dtype == torch.bool)
        if codes.ndim != 2 or codes.shape[0] != self.header.n_q or not whole:
            raise AtokError(
                f"expected integers [{self.header.n_q}, t], got {list(codes.shape)} {codes.dtype}"
            )
        values = codes.detach().to("cpu", torch.int64).numpy()
        bad = np.argwhere((values < 0) | (values >= np.array(self.header.codebook_sizes)[:, None]))
        if len(bad):
            k, t = bad[0]
            raise AtokError(
                f"expected codes in [0, {self.header.codebook_sizes[k]}), got {values[k, t]} in codebook {k}, frame "
                f"{self.frames + t}"
            )
        return values


def save_atok(
    path: str | Path,
    codes: Tensor,
    header: AtokHeader,
    model: EntropyModel | None = None,
    scales: Sequence[float] = (),
) -> None:
    """Write all codes of a recording to a file atomically.

    Args:
        path: the file.
        codes: [K, T] integers in [0, V).
        header, model: as for :class:`AtokWriter`.
        scales: one for every ``header.scale_frames`` frames, if that is not 0.

    Raises:
        AtokError: codes, scales, header and model do not fit each other.
        OSError: the folder does not exist or cannot be written.
    """
    with write_aside(path) as aside, open(aside, "wb") as file:
        writer = AtokWriter(file, header, model)
        writer.write(codes, scales)
        writer.close()


def truncate(source: str | Path, target: str | Path, n_q: int) -> list[str]:
    """Write the first ``n_q`` codebooks of a file to another file, without decoding.

    Args:
        source: an ``.atok`` file.
        target: the new file, written atomically.
        n_q: codebooks to keep.

    Returns:
        descriptions of the damage in ``source``. Damaged packets are missing in ``target``.

    Raises:
        AtokError: the source is not such a file, has fewer codebooks, or contains no undamaged packet.
        OSError: the target cannot be written.
    """
    with AtokReader(source) as reader, write_aside(target) as aside, open(aside, "wb") as file:
        header = reader.header.with_n_q(n_q)
        file.write(head_bytes(header))
        sizes: list[int] = []
        for packet in reader.packets():
            data = replace(packet, layers=packet.layers[:n_q]).to_bytes()
            sizes += [0] * (packet.number - len(sizes))
            sizes.append(len(data))
            file.write(data)
        if reader.damage and not any(sizes):
            raise AtokError(
                f"{source}: expected packets, got none ({'; '.join(reader.damage)}); copy it again"
            )
        file.write(Tail(header, reader.frames, tuple(sizes)).to_bytes())
        return reader.damage
