"""``tts-lm bundle``: AR and NAR models, a reranker, a codec and voices to one folder that speaks."""

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
    """Declare the verb."""
    parser = subparsers.add_parser(
        "bundle",
        help="two trained halves, a codec and voices -> one folder that speaks",
        description="Put results of `tts-lm train` together; voice prompts are cut from prepared corpora. Sampling "
        "settings that are not given stay those of the bundle that is replaced.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--ar", required=True, metavar="DIR", help="RUN/model of the AR half, or a model whose to take"
    )
    parser.add_argument("--nar", required=True, metavar="DIR", help="the same of the NAR half")
    parser.add_argument(
        "--reranker", metavar="DIR", help="the same of the reranker (default: none, best-of 1)"
    )
    parser.add_argument("--codec", default="default", metavar="NAME", help="a shipped codec or a folder")
    parser.add_argument(
        "--data", nargs="+", required=True, metavar="DIR", help="prepared corpora with the voices"
    )
    parser.add_argument(
        "--voices",
        nargs="+",
        metavar="V",
        help="speakers to give a voice (default: the known ones; where there is none, every speaker)",
    )
    parser.add_argument("--license", metavar="TEXT", help="of the recordings of speakers that are not known")
    parser.add_argument(
        "--attribution", metavar="TEXT", help="whose recordings they are, and where they are from"
    )
    parser.add_argument("--consent", metavar="TEXT", help="how the speakers agreed to being spoken with")
    add_sampling_options(parser)
    parser.add_argument(
        "--out", required=True, metavar="DIR", help="the folder to write: new, empty, or a bundle to replace"
    )


def run(args: argparse.Namespace) -> int:
    """Put together; the folder goes to stdout."""
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
    """A voice whose card says what the options say, where the card did not know."""
    from ..voices import NOT_STATED

    given = {"license": args.license, "attribution": args.attribution, "consent": args.consent}
    card = {
        key: given.get(key) or value if value == NOT_STATED else value for key, value in voice.card.items()
    }
    missing = [key for key, value in card.items() if value == NOT_STATED]
    if missing:
        options = " ".join(f"--{key} TEXT" for key in missing)
        print(
            f"tts-lm: voice {voice.name}: its card says nothing of its {' and '.join(missing)}; {options}",
            file=sys.stderr,
        )
    return replace(voice, card=card)
