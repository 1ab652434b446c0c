"""Makes the toy corpus (40 sentences synthesised by flite) and prepares it."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from audiotok.cli.main import main as audiotok

HERE = Path(__file__).resolve().parent
LICENCE = "text public domain; sound made by flite"


def main() -> int:
    """Generate, prepare, check the counts; 1 if they are not those of the card."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for audio/ and tokens/")
    parser.add_argument("--voices", default="slt,rms", help="flite voices, or espeak:VOICE (default slt,rms)")
    args, further = parser.parse_known_args()
    generate = [sys.executable, str(HERE.parent / "generate.py"), "--sentences", str(HERE / "sentences.txt")]
    generate += ["--voices", args.voices, "--out", str(args.out / "audio"), "--hours", "1", "--overwrite"]
    # The table is written last, so the clips are complete if it exists, and a killed preparation resumes.
    if (args.out / "audio" / "metadata.csv").exists():
        print(f"{args.out / 'audio'}: exists already and is reused", file=sys.stderr)
    elif subprocess.run(generate).returncode:
        return 1
    folders = [str(args.out / "audio"), "--out", str(args.out / "tokens")]
    return audiotok(["prepare", *folders, "--licence", LICENCE, "--expect-rows", "40", *further])


if __name__ == "__main__":
    sys.exit(main())
