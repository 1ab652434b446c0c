"""Prepares LJ Speech 1.1 and checks that all of it arrived.

Knows nothing but the counts of the card; ``audiotok.corpus`` knows the layout and does the work.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from audiotok.corpus import prepare, report, report_text

ROWS = 13_100
HOURS = 23.92


def main() -> int:
    """Prepare, check the counts; 1 if they are not those of the card."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("source", type=Path, help="the folder LJSpeech-1.1")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards")
    parser.add_argument("--codec", help="a shipped codec or a folder (default: the default codec)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    args = parser.parse_args()
    prepare(args.source, args.out, args.codec, workers=args.workers)
    counts = report(args.out)
    print(report_text(counts))
    if counts["rows"] != ROWS or abs(counts["hours"] - HOURS) > 0.01:
        print(f"expected {ROWS} rows and {HOURS} h: is the archive whole?", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
