"""Prepares a folder of recordings with a text file beside each: ``anna/0001.wav`` and ``anna/0001.txt``.

Knows nothing but how the files lie; ``audiotok.corpus`` does the work.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import datasets

from audiotok.corpus import prepare, report, report_text

SUFFIXES = {".wav", ".flac", ".ogg", ".opus", ".mp3"}


def read_folder(folder: Path, language: str) -> datasets.Dataset:
    """The sound files under ``folder`` as rows: id, audio (a path), text, speaker (the subfolder), language.

    Raises:
        ValueError: there is no sound file.
    """
    sounds = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not sounds:
        raise ValueError(f"{folder}: expected sound files ({', '.join(sorted(SUFFIXES))}), found none")
    texts = [sound.with_suffix(".txt") for sound in sounds]
    names = [sound.relative_to(folder) for sound in sounds]
    return datasets.Dataset.from_dict(
        {
            "id": [name.as_posix() for name in names],
            "audio": list(map(str, sounds)),
            "text": [text.read_text(encoding="utf-8-sig") if text.is_file() else "" for text in texts],
            "speaker": [name.parts[0] if len(name.parts) > 1 else folder.resolve().name for name in names],
            "language": [language] * len(sounds),
        }
    )


def main() -> int:
    """Prepare; 1 if the folder cannot be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("source", type=Path, help="the folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards")
    parser.add_argument("--language", default="", help="of the recordings, such as en or de")
    parser.add_argument("--codec", help="a shipped codec or a folder (default: the default codec)")
    parser.add_argument("--workers", type=int, default=1, help="processes (default 1)")
    args = parser.parse_args()
    try:
        prepare(read_folder(args.source, args.language), args.out, args.codec, workers=args.workers)
    except (ValueError, OSError) as error:
        print(f"prepare.py: error: {error}", file=sys.stderr)
        return 1
    print(report_text(report(args.out)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
