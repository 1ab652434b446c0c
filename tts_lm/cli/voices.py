"""``tts-lm voices``: the voices of a model and their cards."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from .common import add_model_option


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the description and the options."""
    parser.description = (
        "List the voices of a model with their sources; the first is the default. --add keeps a new one."
    )
    add_model_option(parser)
    add = parser.add_argument
    add("--json", action="store_true", help="print JSON, one object per line")
    clip = "add the voice of a clip of 1 to 8 s (3 to 5 s work best) to the model folder --model"
    add("--add", metavar="CLIP", help=clip)
    add("--name", metavar="V", help="with --add: name of the voice")
    add("--text", metavar="TEXT", help="with --add: exact transcript of the clip")
    add("--consent", metavar="TEXT", help="with --add: how the speaker agreed to the use of the voice")
    add("--license", metavar="TEXT", help="with --add: license of the clip")
    add("--attribution", metavar="TEXT", help="with --add: speaker and source of the clip")


def run(args: argparse.Namespace) -> int:
    """Add a voice if --add is given, and print the cards."""
    from ..folder import find_checkpoint
    from ..voices import load_voices

    folder = find_checkpoint(args.model)
    if args.add:
        _add(args, folder)
    for voice in load_voices(folder / "voices").values():
        card = {"name": voice.name, "frames": voice.codes.shape[1], **voice.card}
        if args.json:
            print(json.dumps(card))
        else:
            print(f"{voice.name:10} {card.get('description', '')} ({card.get('license', 'license unknown')})")
            print(f"{'':10} {card.get('attribution', '')}")
            if "consent" in card:
                print(f"{'':10} consent: {card['consent']}")
    return 0


def _add(args: argparse.Namespace, folder: Path) -> None:
    from audiotok import load_audio

    from ..folder import CHECKPOINTS
    from ..synthesizer import Synthesizer
    from ..voices import add_voice, voice_name

    if not (args.model and args.name and args.text and args.consent):
        args.parser.error("expected --add CLIP --model DIR --name V --text TEXT --consent TEXT")
    if CHECKPOINTS in folder.resolve().parents:
        raise ValueError(f"{folder} is part of the package; copy it and name the copy with --model")
    synthesizer = Synthesizer.from_pretrained(folder)
    voice = synthesizer.clone_voice(*load_audio(args.add), args.text, voice_name(args.name))
    given = {"license": args.license, "attribution": args.attribution, "consent": args.consent}
    card = voice.card | {key: value for key, value in given.items() if value}
    add_voice(replace(voice, card=card | {"clip": Path(args.add).name}), folder / "voices")
