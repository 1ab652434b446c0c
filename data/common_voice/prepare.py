"""Prepares one language of Common Voice and checks that every validated clip is accounted for.

Knows nothing but the licence of the card; ``audiotok prepare`` knows the layout and does the work. Every option of it
can be given behind the folder.
"""

from __future__ import annotations

import sys

from audiotok.cli.main import main

CARD = ["--layout", "common_voice", "--tts", "--licence", "CC0 1.0"]

if __name__ == "__main__":
    sys.exit(main(["prepare", *CARD, *sys.argv[1:]]))
