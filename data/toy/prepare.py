"""Makes the toy corpus (40 sentences read by flite) and prepares it.

Knows nothing but its sentences and what must come out; ``generate.py`` and ``audiotok.corpus`` do the work.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from audiotok.corpus import prepare, report, report_text

HERE = Path(__file__).resolve().parent
ROWS = 40
HOURS = (0.02, 0.04)


def main() -> int:
    """Generate, prepare, check the counts; 1 if they are not those of the card."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for audio/ and tokens/")
    parser.add_argument("--voices", default="slt,rms", help="flite voices, or espeak:VOICE (default slt,rms)")
    parser.add_argument("--codec", help="a shipped codec or a folder (default: the default codec)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    args = parser.parse_args()
    generate = [sys.executable, str(HERE.parent / "generate.py"), "--sentences", str(HERE / "sentences.txt")]
    generate += ["--voices", args.voices, "--out", str(args.out / "audio"), "--hours", "1"]
    if subprocess.run(generate).returncode:
        return 1
    prepare(args.out / "audio", args.out / "tokens", args.codec, workers=args.workers)
    counts = report(args.out / "tokens")
    print(report_text(counts))
    if counts["rows"] != ROWS or not HOURS[0] <= counts["hours"] <= HOURS[1]:
        print(
            f"expected {ROWS} rows and {HOURS[0]} to {HOURS[1]} h: another version of the voices?",
            file=sys.stderr,
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
