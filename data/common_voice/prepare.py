"""Prepares one language of Common Voice for text to speech. Takes every option of ``audiotok prepare``."""

from __future__ import annotations

import sys

from audiotok.cli.main import main

CARD = ["--layout", "common_voice", "--tts", "--licence", "CC0 1.0"]

if __name__ == "__main__":
    sys.exit(main(["prepare", *CARD, *sys.argv[1:]]))
