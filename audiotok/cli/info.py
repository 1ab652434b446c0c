"""``audiotok info``: describe sound files, code files or codecs."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from .common import (
    KNOWN_ERRORS,
    add_codec_option,
    add_json_option,
    add_model_options,
    load_chosen_codec,
    one_line,
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the description and the options."""
    parser.description = "Describe sound files (and their size in codes), code files, or codecs by name."
    parser.add_argument("names", nargs="*", metavar="FILE_OR_CODEC", help="default: the default codec")
    add_codec_option(parser)
    add_model_options(parser)
    add_json_option(parser)


def run(args: argparse.Namespace) -> int:
    """Describe every name; 1 if one failed."""
    failed = 0
    for name in args.names or [args.codec]:
        try:
            facts = _describe(name, args)
        except KNOWN_ERRORS as error:
            failed += 1
            print(f"audiotok: error: {one_line(error)}", file=sys.stderr)
            continue
        print(json.dumps(facts) if args.json else _table(facts))
    return 1 if failed else 0


def _describe(name: str, args: argparse.Namespace) -> dict[str, Any]:
    from ..bitstream import SUFFIX, is_atok

    path = Path(name)
    if path.is_file():
        return _code_file(path) if path.suffix == SUFFIX or is_atok(path) else _audio_file(path, args)
    if path.suffix and not path.is_dir():
        raise FileNotFoundError(f"{path}: no such file")
    return _codec(name, args)


def _code_file(path: Path) -> dict[str, Any]:
    from ..bitstream import AtokReader
    from ..bitstream.format import CODINGS

    with AtokReader(path) as file:
        header, size = file.header, path.stat().st_size
        of_header = (
            "codec codes_fingerprint sampling_rate channels num_samples n_q frame_rate packet_frames".split()
        )
        return {
            "file": str(path),
            "kind": "codes",
            **{key: getattr(header, key) for key in of_header},
            "duration_s": file.duration_s,
            "codebook_size": max(header.codebook_sizes),
            "T": file.frames,
            "coding": CODINGS[header.coding],
            "model_fingerprint": header.model_fingerprint,
            "has_scale": bool(header.scale_frames),
            "bitrate_bps": header.bitrate_bps,
            "file_bps": 8 * size / file.duration_s if file.duration_s else 0.0,
            "file_bytes": size,
            **{f"meta.{key}": value for key, value in header.metadata.items()},
            "damage": file.damage,
        }


def _audio_file(path: Path, args: argparse.Namespace) -> dict[str, Any]:
    from ..audio import open_audio

    with open_audio(path) as sound:  # decoded to its end, since a header can be wrong
        count = sum(block.shape[-1] for block in sound.blocks())
    config = load_chosen_codec(args.codec, args).config
    samples = -(-count * config.sampling_rate // sound.sampling_rate)
    return {
        "file": str(path),
        "kind": "audio",
        "duration_s": count / sound.sampling_rate,
        "sampling_rate": sound.sampling_rate,
        "num_samples": count,
        "channels": sound.channels,
        "format": sound.format,
        **({"comment": sound.comment} if sound.comment else {}),
        "file_bytes": path.stat().st_size,
        "codec": config.codec_name,
        "n_q": config.n_q,
        "T": -(-samples // config.hop_length),
        "frame_rate": config.frame_rate,
        "bitrate_bps": config.bitrate_bps,
    }


def _codec(name: str, args: argparse.Namespace) -> dict[str, Any]:
    codec = load_chosen_codec(name, args)
    of_config = ("sampling_rate", "hop_length", "frame_rate", "n_q", "codebook_size", "bitrate_bps")
    of_codec = (
        "algorithmic_latency_ms is_causal lookahead_samples segment_samples has_scale codes_fingerprint "
        "weights_fingerprint"
    ).split()
    return {
        "codec": codec.config.codec_name,
        "kind": "codec",
        **{key: getattr(codec.config, key) for key in of_config},
        "parameters": sum(p.numel() for p in codec.parameters()),
        **{key: getattr(codec, key) for key in of_codec},
    }


def _table(facts: dict[str, Any]) -> str:
    width = max(map(len, facts))
    shown = {key: f"{value:.6g}" if isinstance(value, float) else value for key, value in facts.items()}
    return "\n".join(f"{key:<{width}}  {value}" for key, value in shown.items()) + "\n"
