"""``tts-lm bundle``: two trained halves, a verifier, a codec and voices to one folder that speaks."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "bundle",
        help="two trained halves, a codec and voices -> one folder that speaks",
        description="Put results of `tts-lm train` together; voice prompts are cut from prepared corpora.",
        allow_abbrev=False,
    )
    parser.add_argument("--ar", required=True, metavar="DIR", help="RUN/model of the AR half")
    parser.add_argument("--nar", required=True, metavar="DIR", help="RUN/model of the NAR half")
    parser.add_argument("--verifier", metavar="DIR", help="RUN/model of the verifier (default: by gaze)")
    parser.add_argument("--codec", default="default", metavar="NAME", help="a shipped codec or a folder")
    parser.add_argument(
        "--data", nargs="+", required=True, metavar="DIR", help="prepared corpora with the voices"
    )
    parser.add_argument(
        "--voices", nargs="*", metavar="V", help="only these of the voices found (default: all)"
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="the folder to write")


def run(args: argparse.Namespace) -> int:
    """Put together; the folder goes to stdout."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    from audiotok import PreparedCorpus, build_tokenizer, checkpoint_dir, load_codec, store_half

    from ..listener import Listener
    from ..nar import NarModel
    from ..synthesizer import Synthesizer
    from ..verify import ListenerVerifier
    from ..voices import choose_voices

    logging.disable_progress_bar()
    for folder in (args.ar, args.nar, args.verifier):
        if folder is not None and not (Path(folder) / "config.json").is_file():
            raise FileNotFoundError(f"expected a trained half with config.json in {folder}, found none")
    codec = load_codec(args.codec)
    shipped = "/" not in args.codec and not args.codec.startswith(".") and checkpoint_dir(args.codec).is_dir()
    rows = []
    for folder in args.data:
        corpus = PreparedCorpus(folder)
        corpus.check(codec)
        rows.extend(corpus)
    found = {voice.name: voice for voice in choose_voices(rows, float(codec.config.frame_rate))}
    missing = set(args.voices or found) - set(found)
    if missing or not found:
        raise ValueError(
            f"expected voices in the corpora: {', '.join(sorted(missing)) or 'any'}; found {sorted(found)}"
        )
    voices = {name: voice for name, voice in found.items() if args.voices is None or name in args.voices}
    voices = dict(sorted(voices.items(), key=lambda item: item[1].index))
    config = codec.config
    text_model = checkpoint_dir("text-en") / "tokenizer.model"
    tokenizer = build_tokenizer(
        text_model, config.n_q, config.codebook_size, codes_fingerprint=codec.codes_fingerprint
    )
    listener = Listener.from_pretrained(args.verifier) if args.verifier else None
    synthesizer = Synthesizer(
        AutoModelForCausalLM.from_pretrained(args.ar, dtype=torch.float32),
        NarModel.from_pretrained(args.nar, dtype=torch.float32),
        codec,
        tokenizer,
        voices,
        args.codec if shipped else None,
        verifier=ListenerVerifier(listener) if listener is not None else None,
    )
    synthesizer.save_pretrained(args.out)
    for part in ("ar", "nar", *(["listener"] if listener is not None else [])):
        store_half(Path(args.out) / part)
    print(args.out)
    print(f"voices: {', '.join(voices)}", file=sys.stderr)
    return 0
