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


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "info",
        help="describe sound files, code files or codecs",
        description="Describe sound files (and their size in codes), code files, or codecs by name.",
        allow_abbrev=False,
    )
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
        return {
            "file": str(path),
            "kind": "codes",
            "codec": header.codec,
            "codes_fingerprint": header.codes_fingerprint,
            "duration_s": file.duration_s,
            "sampling_rate": header.sampling_rate,
            "channels": header.channels,
            "num_samples": header.num_samples,
            "n_q": header.n_q,
            "codebook_size": max(header.codebook_sizes),
            "T": file.frames,
            "frame_rate": header.frame_rate,
            "packet_frames": header.packet_frames,
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
    from ..audio import audio_facts

    facts = audio_facts(path)
    config = load_chosen_codec(args.codec, args).config
    samples = -(-facts["num_samples"] * config.sampling_rate // facts["sampling_rate"])
    return {
        "file": str(path),
        "kind": "audio",
        **facts,
        "file_bytes": path.stat().st_size,
        "codec": config.codec_name,
        "n_q": config.n_q,
        "T": -(-samples // config.hop_length),
        "frame_rate": config.frame_rate,
        "bitrate_bps": config.bitrate_bps,
    }


def _codec(name: str, args: argparse.Namespace) -> dict[str, Any]:
    codec = load_chosen_codec(name, args)
    config = codec.config
    return {
        "codec": config.codec_name,
        "kind": "codec",
        "sampling_rate": config.sampling_rate,
        "hop_length": config.hop_length,
        "frame_rate": config.frame_rate,
        "n_q": config.n_q,
        "codebook_size": config.codebook_size,
        "bitrate_bps": config.bitrate_bps,
        "parameters": sum(p.numel() for p in codec.parameters()),
        "algorithmic_latency_ms": codec.algorithmic_latency_ms,
        "is_causal": codec.is_causal,
        "lookahead_samples": codec.lookahead_samples,
        "segment_samples": codec.segment_samples,
        "has_scale": codec.has_scale,
        "codes_fingerprint": codec.codes_fingerprint,
        "weights_fingerprint": codec.weights_fingerprint,
    }


def _table(facts: dict[str, Any]) -> str:
    width = max(map(len, facts))
    return "\n".join(f"{key:<{width}}  {_shown(value)}" for key, value in facts.items()) + "\n"


def _shown(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
