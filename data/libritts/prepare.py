"""Prepares one subset of LibriTTS for text to speech and checks that all of it arrived.

Knows nothing but the licence and the counts of the card; ``audiotok prepare`` knows the layout and does the work. Every
option of it can be given behind the folder.
"""

from __future__ import annotations

import sys
from pathlib import Path

from audiotok.cli.main import main

# Rows of each subset. A few clips are longer than 30 s: --max-s takes them all.
ROWS = {
    "dev-clean": 5736,
    "dev-other": 4613,
    "test-clean": 4837,
    "test-other": 5120,
    "train-clean-100": 33_236,
    "train-clean-360": 116_500,
    "train-other-500": 205_044,
}
CARD = ["--layout", "libritts", "--level-db", "-26", "--max-s", "60", "--licence", "CC BY 4.0"]

if __name__ == "__main__":
    named = [ROWS[name] for name in (Path(word).name for word in sys.argv[1:]) if name in ROWS]
    expected = ["--expect-rows", str(named[0])] if named else []
    sys.exit(main(["prepare", *CARD, *expected, *sys.argv[1:]]))
