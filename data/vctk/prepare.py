"""Prepares VCTK 0.92 (first microphone) for text to speech and checks that all of it arrived.

Knows nothing but the licence and the counts of the card; ``audiotok prepare`` knows the layout and does the work. Every
option of it can be given behind the folder.
"""

from __future__ import annotations

import sys

from audiotok.cli.main import main

# Silence at the ends was cut by its makers.
CARD = ["--layout", "vctk", "--level-db", "-26", "--licence", "CC BY 4.0", "--expect-rows", "44455"]

if __name__ == "__main__":
    sys.exit(main(["prepare", *CARD, *sys.argv[1:]]))
