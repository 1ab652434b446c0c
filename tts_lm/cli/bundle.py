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


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the description and the options."""
    parser.description = (
        "Combine models of `tts-lm train` in one folder, with voice prompts cut from prepared corpora. A "
        "replaced bundle keeps the sampling settings that are not given."
    )
    add = parser.add_argument
    add("--ar", required=True, metavar="DIR", help="the AR model: RUN/model, or a TTS model that has one")
    add("--nar", required=True, metavar="DIR", help="the NAR model, likewise")
    add("--reranker", metavar="DIR", help="the reranker, likewise (default: none, best-of 1)")
    add("--codec", default="default", metavar="NAME", help="a shipped codec or a folder")
    corpora = "prepared corpora with the speakers of the voices"
    add("--data", nargs="+", required=True, metavar="DIR", help=corpora)
    speakers = "speakers to make voices of (default: the known ones, or every speaker if there are none)"
    add("--voices", nargs="+", metavar="V", help=speakers)
    add("--license", metavar="TEXT", help="license of the recordings of unknown speakers")
    add("--attribution", metavar="TEXT", help="author and source of these recordings")
    add("--consent", metavar="TEXT", help="how these speakers agreed to the use of their voices")
    add_sampling_options(parser)
    out = "the folder to write: new, empty, or a bundle to replace"
    add("--out", required=True, metavar="DIR", help=out)


def run(args: argparse.Namespace) -> int:
    """Write the folder and print its path."""
    from transformers import AutoModelForCausalLM

    from audiotok import (
        PreparedCorpus,
        build_tokenizer,
        checkpoint_dir,
        load_codec,
        quiet_loading,
        store_half,
    )

    from ..decoding.engine import Sampling
    from ..folder import CARD, claim_folder, find_part, load_part, read_json
    from ..models.nar import NarConfig, NarModel
    from ..models.reranker import Reranker, RerankerConfig
    from ..synthesizer import Synthesizer
    from ..voices import choose_voices, voice_name

    kinds = {
        "ar": (AutoModelForCausalLM, "llama"),
        "nar": (NarModel, NarConfig.model_type),
        "reranker": (Reranker, RerankerConfig.model_type),
    }
    folders = {part: find_part(getattr(args, part), part) for part in kinds if getattr(args, part)}
    with quiet_loading():
        codec = load_codec(args.codec)
    shipped = "/" not in args.codec and not Path(args.codec, "config.json").is_file()  # load_codec's order
    corpora = [PreparedCorpus(folder) for folder in args.data]
    for corpus in corpora:
        corpus.check(codec)
    names = [voice_name(speaker) for speaker in args.voices] if args.voices else None
    found = choose_voices(chain.from_iterable(corpora), float(codec.config.frame_rate), names)
    voices = {voice.name: _stated(voice, args) for voice in found}
    sizes = codec.config.n_q, codec.config.codebook_size
    text_model = checkpoint_dir("text-en") / "tokenizer.model"
    tokenizer = build_tokenizer(text_model, *sizes, codes_fingerprint=codec.codes_fingerprint)
    parts = {part: load_part(kinds[part][0], folder, kinds[part][1]) for part, folder in folders.items()}
    card = Path(args.out) / CARD
    sampling = Sampling(
        **(read_json(card).get("sampling", {}) if card.is_file() else {}) | sampling_settings(args)
    )
    name = args.codec if shipped else None
    synthesizer = Synthesizer(
        parts["ar"], parts["nar"], codec, tokenizer, voices, name, sampling, parts.get("reranker")
    )
    folder = claim_folder(args.out)
    synthesizer.save_pretrained(folder)
    for part in parts:
        store_half(folder / part)
    print(folder)
    print(f"voices: {', '.join(voices)}", file=sys.stderr)
    return 0


def _stated(voice: Voice, args: argparse.Namespace) -> Voice:
    """Fill the unstated fields of a voice card from the options."""
    from ..voices import NOT_STATED

    unstated = [key for key, value in voice.card.items() if value == NOT_STATED]
    given = {key: getattr(args, key) for key in unstated if getattr(args, key, None)}
    if missing := [key for key in unstated if key not in given]:
        options = " ".join(f"--{key} TEXT" for key in missing)
        message = f"its card does not state {' and '.join(missing)}; add {options}"
        print(f"tts-lm: voice {voice.name}: {message}", file=sys.stderr)
    return replace(voice, card=voice.card | given)
