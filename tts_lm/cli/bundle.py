"""``tts-lm bundle``: AR model, NAR model, reranker, codec and voices to the folder of a TTS model."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from .common import add_sampling_options, sampling_settings

if TYPE_CHECKING:
    from ..voices import Voice


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "bundle",
        help="AR model, NAR model, codec and voices -> the folder of a TTS model",
        description="Combine models of `tts-lm train` in one folder, with voice prompts cut from prepared corpora. A "
        "replaced bundle keeps the sampling settings that are not given.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--ar", required=True, metavar="DIR", help="the AR model: RUN/model, or a TTS model that has one"
    )
    parser.add_argument("--nar", required=True, metavar="DIR", help="the NAR model, likewise")
    parser.add_argument("--reranker", metavar="DIR", help="the reranker, likewise (default: none, best-of 1)")
    parser.add_argument("--codec", default="default", metavar="NAME", help="a shipped codec or a folder")
    parser.add_argument(
        "--data",
        nargs="+",
        required=True,
        metavar="DIR",
        help="prepared corpora with the speakers of the voices",
    )
    parser.add_argument(
        "--voices",
        nargs="+",
        metavar="V",
        help="speakers to make voices of (default: the known ones, or every speaker if there are none)",
    )
    parser.add_argument("--license", metavar="TEXT", help="license of the recordings of unknown speakers")
    parser.add_argument("--attribution", metavar="TEXT", help="author and source of these recordings")
    parser.add_argument(
        "--consent", metavar="TEXT", help="how these speakers agreed to the use of their voices"
    )
    add_sampling_options(parser)
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="the folder to write: new, empty, or a bundle to replace"
    )


def run(args: argparse.Namespace) -> int:
    """Write the folder and print its path."""
    import torch
    from transformers import AutoModelForCausalLM

    from audiotok import (
        PreparedCorpus,
        build_tokenizer,
        checkpoint_dir,
        load_codec,
        quiet_loading,
        store_half,
    )

    from ..decoding.sampling import Sampling
    from ..folder import CARD, claim_folder, find_part, load_part, read_json
    from ..models.nar import NarConfig, NarModel
    from ..models.reranker import Reranker, RerankerConfig
    from ..synthesizer import Synthesizer
    from ..voices import choose_voices, voice_name

    ar, nar = find_part(args.ar, "ar"), find_part(args.nar, "nar")
    reranker_folder = find_part(args.reranker, "reranker") if args.reranker else None
    with quiet_loading():
        codec = load_codec(args.codec)
    shipped = "/" not in args.codec and not Path(args.codec, "config.json").is_file()  # load_codec's order
    corpora = [PreparedCorpus(folder) for folder in args.data]
    for corpus in corpora:
        corpus.check(codec)
    names = [voice_name(speaker) for speaker in args.voices] if args.voices else None
    found = choose_voices(chain.from_iterable(corpora), float(codec.config.frame_rate), names)
    voices = [_stated(voice, args) for voice in found]
    config = codec.config
    text_model = checkpoint_dir("text-en") / "tokenizer.model"
    tokenizer = build_tokenizer(
        text_model, config.n_q, config.codebook_size, codes_fingerprint=codec.codes_fingerprint
    )
    reranker = None
    if reranker_folder:
        reranker = load_part(Reranker, reranker_folder, RerankerConfig.model_type)
    former = read_json(Path(args.out) / CARD).get("sampling", {}) if (Path(args.out) / CARD).is_file() else {}
    synthesizer = Synthesizer(
        load_part(AutoModelForCausalLM, ar, "llama", torch.float32),
        load_part(NarModel, nar, NarConfig.model_type, torch.float32),
        codec,
        tokenizer,
        {voice.name: voice for voice in voices},
        args.codec if shipped else None,
        Sampling(**former | sampling_settings(args)),
        reranker=reranker,
    )
    folder = claim_folder(args.out)
    synthesizer.save_pretrained(folder)
    for part in ("ar", "nar", *(["reranker"] if reranker is not None else [])):
        store_half(folder / part)
    print(folder)
    print(f"voices: {', '.join(synthesizer.voices)}", file=sys.stderr)
    return 0


def _stated(voice: Voice, args: argparse.Namespace) -> Voice:
    """Fill the unstated fields of a voice card from the options."""
    from ..voices import NOT_STATED

    given = {"license": args.license, "attribution": args.attribution, "consent": args.consent}
    card = {
        key: given.get(key) or value if value == NOT_STATED else value for key, value in voice.card.items()
    }
    missing = [key for key, value in card.items() if value == NOT_STATED]
    if missing:
        options = " ".join(f"--{key} TEXT" for key in missing)
        print(
            f"tts-lm: voice {voice.name}: its card does not state {' and '.join(missing)}; add {options}",
            file=sys.stderr,
        )
    return replace(voice, card=card)
