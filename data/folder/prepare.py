"""Prepares a folder of recordings with a text file beside each: ``anna/0001.wav`` and ``anna/0001.txt``.

Knows nothing but the name of the layout; ``audiotok prepare`` does the work. Every option of it can be given behind the
folder.
"""

from __future__ import annotations

import sys

from audiotok.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["prepare", "--layout", "folder", *sys.argv[1:]]))
