"""Prepares VCTK 0.92 (first microphone) for text to speech and checks the number of rows.

Takes every option of ``audiotok prepare``.
"""

from __future__ import annotations

import sys

from audiotok.cli.main import main

# Silence at the ends was cut by its makers.
CARD = ["--layout", "vctk", "--language", "en", "--level-db", "-26"]
CARD += ["--licence", "CC BY 4.0", "--expect-rows", "44455"]

if __name__ == "__main__":
    sys.exit(main(["prepare", *CARD, *sys.argv[1:]]))
