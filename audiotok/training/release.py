"""A trained codec -> a released one: weights rounded to half precision, a fingerprint, provenance.

``python -m audiotok.training.release RUN/codec OUT --recipe RUN/recipe.json``. The law kept: codes are those of the
rounded weights, so that half the bytes give the same codes; whoever prepares data does it with the released folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from transformers import EncodecFeatureExtractor

from ..codec.model import AudioCodec
from ..codec.pretrained import load_codec
from ..files import write_json
from ..state import store_half


def release(codec: AudioCodec, out: str | Path, provenance: dict[str, Any]) -> AudioCodec:
    """Write a codec as it ships.

    Args:
        codec: trained, float32.
        out: the folder to write; created where it is missing.
        provenance: what to write into ``provenance.json`` beside fingerprints and the weights' SHA-256.

    Returns:
        The codec as loaded back from ``out``.

    Raises:
        ValueError: a weight is too large for half precision.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    codec.save_pretrained(out)
    store_half(out)
    EncodecFeatureExtractor(
        feature_size=codec.config.audio_channels, sampling_rate=codec.config.sampling_rate
    ).save_pretrained(out)
    released = load_codec(out.resolve())
    weights = out / "model.safetensors"
    facts = {
        "codes_fingerprint": released.codes_fingerprint,
        "weights_fingerprint": released.weights_fingerprint,
        "parameters": sum(p.numel() for p in released.parameters()),
        "sha256": {weights.name: hashlib.sha256(weights.read_bytes()).hexdigest()},
    }
    write_json(out / "provenance.json", provenance | facts)
    return released


def main(argv: list[str] | None = None) -> int:
    """Release a codec; prints its codes_fingerprint."""
    parser = argparse.ArgumentParser(prog="python -m audiotok.training.release", description=__doc__)
    parser.add_argument("codec", help="folder of a trained codec")
    parser.add_argument("out", help="folder to write")
    parser.add_argument("--recipe", help="recipe.json of the run, kept in the provenance")
    parser.add_argument("--note", action="append", default=[], metavar="KEY=TEXT", help="more provenance")
    args = parser.parse_args(argv)
    provenance: dict[str, Any] = dict(note.split("=", 1) for note in args.note)
    if args.recipe:
        provenance["recipe"] = json.loads(Path(args.recipe).read_text(encoding="utf-8"))
    print(release(load_codec(Path(args.codec).resolve()), args.out, provenance).codes_fingerprint)
    return 0


if __name__ == "__main__":
    sys.exit(main())
