"""What the verbs share that read or write ``.atok``: the header of a codec's codes, how many codebooks, warnings.

Knows no verb. The law it keeps: an option means the same in every verb.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .common import number

if TYPE_CHECKING:
    from ..bitstream import AtokHeader, EntropyModel
    from ..codec.config import CodecConfig
    from ..codec.model import AudioCodec


MARK = "Generated speech, not a recording"
"""What the comment of generated speech begins with; ``tts-lm`` writes it."""


def add_rate_options(parser: argparse.ArgumentParser, required: bool = False) -> None:
    """--n-q and --bitrate: how many codebooks to keep."""
    group = parser.add_mutually_exclusive_group(required=required)
    group.add_argument("--n-q", type=number(int), metavar="K", help="codebooks to keep (default: all)")
    group.add_argument(
        "--bitrate",
        type=number(float),
        metavar="KBPS",
        help="as many codebooks as fit, counted before entropy coding",
    )


def add_writing_options(parser: argparse.ArgumentParser) -> None:
    """--no-lm and --meta."""
    parser.add_argument("--no-lm", action="store_true", help="do without the codec's entropy model")
    parser.add_argument(
        "--meta",
        action="append",
        default=[],
        metavar="KEY=TEXT",
        help="transcript, speaker, licence, generated...",
    )


def chosen_n_q(args: argparse.Namespace, codebook_sizes: Sequence[int], frame_rate: float, name: object) -> int:
    """The codebooks that --n-q or --bitrate ask for.

    Args:
        args: with ``n_q`` and ``bitrate``.
        codebook_sizes: V of the codebooks there are.
        frame_rate: Hz.
        name: of the codec or file, for errors.

    Raises:
        ValueError: they ask for less than one codebook, or for more than there are.
    """
    from ..bitstream.format import raw_bits

    bits = [raw_bits(size) * frame_rate for size in codebook_sizes]
    if args.bitrate is not None:
        fits = [n for n in range(1, len(bits) + 1) if sum(bits[:n]) <= args.bitrate * 1000 + 1e-6]
        if not fits:
            raise ValueError(
                f"expected --bitrate of at least {bits[0] / 1000:g} for {name}, got {args.bitrate:g}"
            )
        return fits[-1]
    n_q = len(bits) if args.n_q is None else args.n_q
    if not 1 <= n_q <= len(bits):
        raise ValueError(f"expected --n-q in 1..{len(bits)} for {name}, got {n_q}")
    return n_q


def model_of(codec: AudioCodec, codes_fingerprint: str) -> EntropyModel | None:
    """The codec's entropy model, from its own folder or the shipped ones; None if there is none."""
    from ..bitstream import find_model

    folder = Path(str(codec.name_or_path))
    return find_model(codes_fingerprint, folder if folder.is_dir() else None)


def new_header(
    config: CodecConfig, codes_fingerprint: str, n_q: int, model: EntropyModel | None, packet_frames: int | None = None,
    meta: Iterable[str] = (),
) -> AtokHeader:  # fmt: skip
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
    from ..bitstream.format import MAX_PACKET_FRAMES, PACKET_S
    from ..bitstream.format import ADAPTIVE, LEARNT

    pairs = [text.partition("=") for text in meta]
    if any(not equals or not key for key, equals, _ in pairs):
        raise ValueError(f"expected --meta KEY=TEXT, got {list(meta)}; write for example speaker=Ada")
    # A scale stands for a segment, and a packet holds whole ones.
    each = getattr(config, "scale_frames", 0)
    size = packet_frames or min(MAX_PACKET_FRAMES, max(1, round(PACKET_S * config.frame_rate)))
    return AtokHeader(
        codec=config.codec_name,
        codes_fingerprint=codes_fingerprint,
        sampling_rate=config.sampling_rate,
        hop_length=config.hop_length,
        codebook_sizes=(config.codebook_size,) * n_q,
        packet_frames=-(-size // each) * each if each else size,
        scale_frames=each,
        channels=config.audio_channels,
        coding=ADAPTIVE if model is None else LEARNT,
        model_fingerprint="" if model is None else model.fingerprint,
        metadata={key: value for key, _, value in pairs},
    )


def marked(header: AtokHeader, comment: str | None) -> AtokHeader:
    """The header for a sound with this comment: a mark of generated speech is kept, unless --meta says otherwise."""
    if comment is None or not comment.startswith(MARK) or "generated" in header.metadata:
        return header
    return replace(header, metadata={**header.metadata, "generated": comment})


def mark_of(metadata: Mapping[str, str]) -> str | None:
    """The comment for the sound of codes with these metadata: that it was generated; None where it is a recording."""
    said = metadata.get("generated", "no")
    if said.strip().lower() in ("", "no", "false", "0"):
        return None
    return said if len(said) > len("yes") else MARK


def encoding_session(codec: AudioCodec, n_q: int, search: int | None) -> Any:
    """What encodes one stream: the codec's own session, or one that seeks codes by ``search`` steps.

    Raises:
        ValueError: the codec cannot search.
    """
    if search is None:
        return codec.streaming_encoder(n_q)
    from ..search import SearchingEncoder

    return SearchingEncoder(codec, n_q, search)


def scales_of(session: Any) -> list[float]:
    """The scales that an encoding session has for what it gave; none of a codec without."""
    return session.take_scales() if hasattr(session, "take_scales") else []


def warn(path: object, damage: Iterable[str]) -> None:
    """Say on stderr what is wrong with a file that was read all the same."""
    for words in damage:
        print(f"audiotok: warning: {path}: {words}", file=sys.stderr)
