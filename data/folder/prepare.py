"""Prepares a folder of recordings with a text file beside each: ``anna/0001.wav`` and ``anna/0001.txt``.

Takes every option of ``audiotok prepare``.
"""

from __future__ import annotations

import sys

from audiotok.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["prepare", "--layout", "folder", *sys.argv[1:]]))
