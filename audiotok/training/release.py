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

import torch
from safetensors.torch import save_file
from transformers import EncodecFeatureExtractor

from ..codec.model import AudioCodec
from ..codec.pretrained import load_codec
from ..files import write_aside, write_json


def release(codec: AudioCodec, out: str | Path, provenance: dict[str, Any]) -> AudioCodec:
    """Write a codec as it ships.

    Args:
        codec: trained, float32.
        out: the folder to write; created where it is missing.
        provenance: what to write into ``provenance.json`` beside fingerprints and the weights' SHA-256.

    Returns:
        The codec as loaded back from ``out``.

    Raises:
        RuntimeError: what was loaded back is not what was rounded.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    rounded = AudioCodec(codec.config)
    rounded.load_state_dict({name: value.half().float() for name, value in codec.state_dict().items()})
    rounded.config.dtype = torch.float32  # transformers would else compute in the stored type
    rounded.config.architectures = ["AudioCodec"]
    rounded.config.save_pretrained(out)
    stored = {name: value.half().contiguous() for name, value in rounded.state_dict().items()}
    weights = out / "model.safetensors"
    with write_aside(weights) as aside:
        save_file(stored, aside, metadata={"format": "pt"})
    EncodecFeatureExtractor(
        feature_size=codec.config.audio_channels, sampling_rate=codec.config.sampling_rate
    ).save_pretrained(out)
    facts = {
        "codes_fingerprint": rounded.codes_fingerprint,
        "weights_fingerprint": rounded.weights_fingerprint,
        "parameters": sum(p.numel() for p in rounded.parameters()),
        "sha256": {weights.name: hashlib.sha256(weights.read_bytes()).hexdigest()},
    }
    write_json(out / "provenance.json", provenance | facts)
    back = load_codec(out.resolve())
    if back.weights_fingerprint != rounded.weights_fingerprint:
        raise RuntimeError(f"{out}: loaded weights differ from the rounded ones; do not ship this folder")
    return back


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
