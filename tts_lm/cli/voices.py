"""``tts-lm voices``: who can speak, and whose voice it is."""

from __future__ import annotations

import argparse
import json


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Declare the verb."""
    parser = subparsers.add_parser(
        "voices",
        help="who can speak",
        description="List the voices of a model with their sources; the first is the default.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--model", metavar="NAME", help="a shipped model or a folder (default: the shipped default)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, one object per line")


def run(args: argparse.Namespace) -> int:
    """Print the cards."""
    from ..shipped import find_checkpoint
    from ..voices import load_voices

    for voice in load_voices(find_checkpoint(args.model) / "voices").values():
        card = {"name": voice.name, "frames": voice.codes.shape[1], **voice.card}
        if args.json:
            print(json.dumps(card))
        else:
            print(f"{voice.name:10} {card.get('description', '')} ({card.get('license', 'license unknown')})")
            print(f"{'':10} {card.get('attribution', '')}")
            if "consent" in card:
                print(f"{'':10} consent: {card['consent']}")
    return 0
