"""Opus as a yardstick: sound through ``opusenc`` and ``opusdec`` of opus-tools, and the bits that really flew.

Knows nothing of metrics. The law it keeps: the bitrate is counted from the packets written, not from the one asked for.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import Tensor

from ..audio import load_audio, save_audio

PROGRAMS = ("opusenc", "opusdec")


class OpusError(RuntimeError):
    """opusenc or opusdec refused a clip; the text is what it said."""


@dataclass(frozen=True)
class OpusClip:
    """A clip after Opus: wav [1, N] at the rate it came in, and its size in bits, as packets and as a file."""

    wav: Tensor
    payload_bits: int
    file_bits: int


def opus_missing() -> str | None:
    """Why there is no Opus on this machine; None if there is."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    return f"{' and '.join(missing)} not on PATH; install opus-tools" if missing else None


def through_opus(wav: Tensor, sampling_rate: int, bitrate_kbps: float) -> OpusClip:
    """Encode and decode a clip: 20 ms frames, variable rate, tuned for speech, best effort (opusenc's default).

    Args:
        wav: [1, N] float32.
        sampling_rate: in Hz.
        bitrate_kbps: the target, 6 or more (what opusenc takes).

    Returns:
        The decoded clip; its length is what opusdec gives, N up to a sample of resampling.

    Raises:
        OpusError: one of the programs failed.
    """
    with TemporaryDirectory(prefix="audiotok-opus-") as folder:
        source, packed, decoded = (Path(folder) / name for name in ("in.wav", "packed.opus", "out.wav"))
        save_audio(source, wav, sampling_rate)
        rate = ["--bitrate", f"{bitrate_kbps:g}", "--framesize", "20", "--speech"]
        _call("opusenc", "--quiet", *rate, str(source), str(packed))
        # At Opus's own 48 kHz: our resampler is better than that of opusdec, and keeps the time exactly.
        _call("opusdec", "--quiet", "--float", "--rate", "48000", str(packed), str(decoded))
        data = packed.read_bytes()
        return OpusClip(load_audio(decoded, sampling_rate)[0], 8 * ogg_payload_bytes(data), 8 * len(data))


def ogg_payload_bytes(data: bytes) -> int:
    """Bytes of the sound packets in an Ogg Opus file: no page headers, no Opus headers, no tags.

    Args:
        data: the whole file.

    Raises:
        ValueError: the bytes are not a sequence of Ogg pages.

    Source: RFC 3533, section 6 (pages and their lacing values); RFC 7845, section 3 (two header packets).
    """
    sizes: list[int] = []
    at, open_size = 0, 0
    while at < len(data):
        if data[at : at + 4] != b"OggS" or at + 27 > len(data):
            raise ValueError(f"expected an Ogg page at byte {at}, got {data[at : at + 4]!r}")
        lacing = data[at + 27 : at + 27 + data[at + 26]]
        for value in lacing:
            open_size += value
            if value < 255:  # 255 says that the packet goes on
                sizes.append(open_size)
                open_size = 0
        at += 27 + len(lacing) + sum(lacing)
    return sum(sizes[2:])


def _call(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split()) or f"exit {done.returncode}"
        raise OpusError(f"{command[0]}: {said}")
