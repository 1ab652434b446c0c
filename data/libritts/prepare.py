"""Prepares one subset of LibriTTS for text to speech and checks the number of rows.

Takes every option of ``audiotok prepare``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from audiotok.cli.main import main

# Rows of each subset. A few clips are longer than 30 s, so --max-s is raised.
ROWS = {
    "dev-clean": 5736,
    "dev-other": 4613,
    "test-clean": 4837,
    "test-other": 5120,
    "train-clean-100": 33_236,
    "train-clean-360": 116_500,
    "train-other-500": 205_044,
}
CARD = ["--layout", "libritts", "--language", "en", "--level-db", "-26", "--max-s", "60"]
CARD += ["--licence", "CC BY 4.0"]

if __name__ == "__main__":
    named = [ROWS[name] for name in (Path(word).name for word in sys.argv[1:]) if name in ROWS]
    expected = ["--expect-rows", str(named[0])] if named else []
    sys.exit(main(["prepare", *CARD, *expected, *sys.argv[1:]]))
