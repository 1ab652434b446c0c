"""Release of a trained codec: refined codebooks, weights in half precision, fingerprints, provenance.

``python -m audiotok.training.release RUN/codec OUT --recipe RUN/recipe.json --refine PACK``. Rounding
the weights changes codes, so prepare corpora with the released folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import EncodecFeatureExtractor

from ..codec.model import AudioCodec
from ..codec.pretrained import load_codec
from ..files import write_json
from ..state import store_half
from .packed import Draw, PackedClips

_SEED = 20_261_123  # step number that no training run reaches, for other crops


def release(codec: AudioCodec, out: str | Path, provenance: dict[str, Any]) -> AudioCodec:
    """Write a trained codec in its released form into ``out``, and load it back.

    ``provenance.json`` holds ``provenance``, the fingerprints and the SHA-256 of the weights.

    Raises:
        ValueError: a weight is too large for half precision.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    # The provenance of an earlier release does not describe these weights.
    (out / "provenance.json").unlink(missing_ok=True)
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


def refine_codebooks(codec: AudioCodec, clips: PackedClips, crops: int) -> None:
    """Continue k-means of the codebooks with the encoder fixed; train the decoder on the result afterwards.

    Args:
        codec: changed in place.
        clips: the training data.
        crops: seconds of speech; 20,000 are about 1,000 frames per codeword.
    """
    frames = round(codec.config.frame_rate)
    latents = []
    with torch.no_grad():
        for step in range(-(-crops // 32)):
            wav = clips.crops(_SEED, step, 32, frames, Draw(max_gain_db=6.0)).wav
            latents.append(codec.encoder(wav).transpose(1, 2).flatten(0, 1))
    codec.quantizer.refine(torch.cat(latents))


def main(argv: list[str] | None = None) -> int:
    """Release a codec; prints its codes_fingerprint."""
    parser = argparse.ArgumentParser(prog="python -m audiotok.training.release", description=__doc__)
    parser.add_argument("codec", type=Path, help="folder of a trained codec")
    parser.add_argument("out", help="folder to write")
    parser.add_argument("--recipe", type=Path, help="recipe.json of the run, kept in the provenance")
    parser.add_argument("--refine", metavar="PACK", help="packed clips that refine the codebooks")
    parser.add_argument("--refine-crops", type=int, default=20_000, help="seconds of them (default: 20000)")
    args = parser.parse_args(argv)
    provenance = {"recipe": json.loads(args.recipe.read_text(encoding="utf-8"))} if args.recipe else {}
    codec = load_codec(args.codec.resolve())
    if args.refine:
        refine_codebooks(codec, PackedClips(args.refine, codec.config.hop_length), args.refine_crops)
    print(release(codec, args.out, provenance).codes_fingerprint)
    return 0


if __name__ == "__main__":
    sys.exit(main())
