"""``audiotok plot``: a picture of a clip: waveform, spectrogram before and after the codec, codes."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .common import add_codec_option, add_model_options, check_output, load_chosen_codec, number


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the description and the options."""
    parser.description = "Encode and decode a sound file and draw waveform, spectrograms and codes."
    option = parser.add_argument
    option("source", metavar="IN", help="a sound file")
    option(
        "-o",
        "--out",
        metavar="FILE",
        help="the picture: .png, .svg or .pdf (default: IN's name with .png, here)",
    )
    option("--n-q", type=number(int), metavar="K", help="codebooks to decode from (default: all)")
    option(
        "--seconds",
        type=number(float, above=0),
        default=15.0,
        help="shown from the start (default: %(default)s)",
    )
    option("--overwrite", action="store_true", help="replace an existing picture")
    add_codec_option(parser)
    add_model_options(parser)


def run(args: argparse.Namespace) -> int:
    """Encode, decode, draw."""
    import torch

    from ..audio import audio_blocks
    from ..pictures import check_picture, draw_clip

    source = Path(args.source)
    target = Path(args.out) if args.out else Path(f"{source.stem}.png")
    check_picture(target)
    check_output(source, target, args.overwrite, {})
    codec = load_chosen_codec(args.codec, args)
    config = codec.config
    n_q = config.n_q if args.n_q is None else args.n_q
    if not 1 <= n_q <= config.n_q:
        raise ValueError(f"expected --n-q in 1..{config.n_q} for the codec {args.codec!r}, got {n_q}")
    # A second block shows whether the file is longer.
    blocks = audio_blocks(source, config.sampling_rate, args.seconds)
    wav = next(blocks)
    if next(blocks, None) is not None:
        print(f"{source}: the first {args.seconds:g} s are shown; --seconds shows more", file=sys.stderr)
    with torch.inference_mode():
        out = codec.encode(codec.spread(wav[None]), n_q=n_q)
        codes = out.audio_codes
        assert codes is not None
        gains = {"audio_scales": out.audio_scales} if codec.has_scale else {}
        decoded = codec.decode(codes, num_samples=wav.shape[-1], **gains).audio_values
        assert decoded is not None
        decoded = decoded.mean(dim=1, keepdim=True)
    bitrate_bps = config.bitrate_bps * n_q / config.n_q
    draw_clip(
        target,
        wav[0].numpy(),
        decoded[0, 0].float().cpu().numpy(),
        codes[0].cpu().numpy(),
        config.sampling_rate,
        config.codebook_size,
        f"{source.name}: {config.codec_name}, {n_q} x {config.codebook_size} at {config.frame_rate:g} Hz, "
        f"{bitrate_bps / 1000:g} kbit/s",
    )
    print(f"wrote {target}", file=sys.stderr)
    return 0
