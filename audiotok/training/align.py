"""Forced alignment of English transcripts with pocketsphinx: the times of words and phones.

``python -m audiotok.training.align PACK OUT.jsonl`` aligns the English clips of a 16 kHz pack. The attention
supervision and the reranker of the TTS model use the result.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from functools import cache
from multiprocessing import Pool
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_aside
from .packed import PackedClips

_clips: PackedClips | None = None
_decoder: Any = None


def _start(pack: str, hop_length: int) -> None:
    """Open pack and decoder once per worker."""
    global _clips, _decoder
    try:
        from pocketsphinx import Decoder
    except ImportError:
        raise ImportError("alignment needs pocketsphinx: pip install 'audiotok[align]'") from None
    _clips = PackedClips(pack, hop_length)
    # bestpath rescoring breaks about one alignment in seven (impossible phone durations).
    _decoder = Decoder(lm=None, loglevel="FATAL", bestpath=False)


@cache
def _pronounce(word: str) -> str:
    """Phones of a word outside the dictionary by flite's letter-to-sound rules; empty if flite is not installed."""
    command = ["flite", "-ps", "-o", "none", "-t", word]
    try:
        phones = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return ""
    return " ".join({"ax": "AH"}.get(phone, phone.upper()) for phone in phones if phone != "pau")


def align_clip(index: int) -> dict[str, Any]:
    """Align one clip of the worker's pack: ``{"id", "words": [...]}`` in 10 ms units, or ``{"id", "fail": why}``."""
    assert _clips is not None
    row = _clips.rows[index]
    words = re.findall(r"[a-z']+", row["text"].lower().replace("\u2019", "'"))
    words = [word if _decoder.lookup_word(word) else word.strip("'") for word in words]
    words = [word for word in words if word]
    for word in words:
        if _decoder.lookup_word(word) is None and _pronounce(word):
            _decoder.add_word(word, _pronounce(word), True)
    unknown = [word for word in words if _decoder.lookup_word(word) is None]
    if unknown or not words:
        return {"id": row["id"], "fail": "no pronunciation: " + " ".join(unknown)}
    pcm = (_clips.clip(index)[0].numpy() * 32767).astype(np.int16).tobytes()
    try:
        _decoder.set_align_text(" ".join(words))
        _decode(pcm)
        _decoder.set_alignment()  # the second pass aligns phones within the words of the first
        _decode(pcm)
        found = _decoder.get_alignment()
    except RuntimeError as error:
        return {"id": row["id"], "fail": str(error)}
    parts = [[w.name, w.start, w.duration, [[p.name, p.start, p.duration] for p in w]] for w in found]
    return {"id": row["id"], "words": parts}


def _decode(pcm: bytes) -> None:
    _decoder.start_utt()
    _decoder.process_raw(pcm, full_utt=True)
    _decoder.end_utt()


def main(argv: list[str] | None = None) -> int:
    """Align the English clips of a pack; prints counts on stdout."""
    parser = argparse.ArgumentParser(prog="python -m audiotok.training.align", description=__doc__)
    parser.add_argument("pack", help="packed clips at 16 kHz")
    parser.add_argument("out", help="JSON lines to write")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--hop-length", type=int, default=320)
    args = parser.parse_args(argv)
    rows = PackedClips(args.pack, args.hop_length).rows
    wanted = [i for i, row in enumerate(rows) if row["text"].strip() and row["language"].startswith("en")]
    failed = 0
    with (
        Pool(args.workers, _start, (args.pack, args.hop_length)) as pool,
        write_aside(Path(args.out)) as aside,
    ):
        with aside.open("w", encoding="utf-8") as file:
            for done, result in enumerate(pool.imap(align_clip, wanted, chunksize=8), 1):
                failed += "fail" in result
                file.write(json.dumps(result, ensure_ascii=False) + "\n")
                if done % 500 == 0:
                    print(f"{done}/{len(wanted)}", file=sys.stderr)
    print(f"{len(wanted) - failed} aligned, {failed} not")
    return 0


if __name__ == "__main__":
    sys.exit(main())
