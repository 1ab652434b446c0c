"""Makes two more copies of the training rows of an audio folder: at another tempo, and shifted at another level.

The copies augment small data sets, because a codec gives them other codes for the same words. The copies
depend only on the names of the rows. Needs sox.

    python data/vary.py speech --out varied --alignments words.jsonl --varied-alignments varied-words.jsonl
"""

from __future__ import annotations

import argparse
import csv
import functools
import hashlib
import json
import multiprocessing
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

TEMPOS = (0.92, 0.95, 1.06, 1.09)
SHIFTS_MS = (4, 16)  # within a frame of 20 ms
GAINS_DB = (-4, 2)


def vary(row: dict[str, str], source: Path, out: Path) -> list[tuple[dict[str, str], float, float]]:
    """Write the copies of a row.

    Returns:
        For each its row, how much longer it is (1: as long), and how much was cut from its start, in s.

    Raises:
        OSError, soundfile.LibsndfileError: the row's file cannot be read.
        subprocess.CalledProcessError: sox failed.
    """
    name = Path(row["file_name"])
    chance = hashlib.sha256(row["file_name"].encode()).digest()
    wav, rate = soundfile.read(source / name, dtype="float32", always_2d=True)
    mono = wav.mean(axis=1)
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    tempo = TEMPOS[chance[0] % len(TEMPOS)]
    shift_s = (SHIFTS_MS[0] + chance[1] % (SHIFTS_MS[1] - SHIFTS_MS[0] + 1)) / 1000
    gain_db = GAINS_DB[0] + chance[2] % (GAINS_DB[1] - GAINS_DB[0] + 1)
    shifted = np.clip(mono[round(shift_s * rate) :] * 10 ** (gain_db / 20), -1.0, 1.0)
    copies = []
    for suffix, sound, longer, cut_s in (
        ("_t", at_tempo(mono, rate, tempo), 1 / tempo, 0.0),
        ("_s", shifted, 1.0, shift_s),
    ):
        target = name.with_name(f"{name.stem}{suffix}.flac")
        soundfile.write(out / target, sound, rate, subtype="PCM_16")
        copies.append((row | {"file_name": target.as_posix()}, longer, cut_s))
    return copies


def at_tempo(wav: np.ndarray, rate: int, tempo: float) -> np.ndarray:
    """Read at another tempo at the same pitch (WSOLA, by sox): [N] float32 -> about [N / tempo]."""
    raw = ["-t", "raw", "-r", str(rate), "-e", "floating-point", "-b", "32", "-c", "1"]
    command = ["sox", "-V1", *raw, "-", *raw, "-", "gain", "-2", "tempo", "-s", str(tempo)]
    done = subprocess.run(command, input=wav.tobytes(), stdout=subprocess.PIPE, check=True)
    return np.frombuffer(done.stdout, dtype=np.float32)


def moved(words: list[Any], longer: float, cut_s: float) -> list[Any]:
    """Word times ``[word, start, length, [[PHONE, start, length]…]]…`` in 10 ms, as they are in a copy."""

    def times(start: float, length: float) -> tuple[float, float]:
        return round(start * longer - 100 * cut_s, 2), round(length * longer, 2)

    return [
        [word, *times(start, length), [[phone, *times(at, lasts)] for phone, at, lasts in phones]]
        for word, start, length, phones in words
    ]


def main(argv: list[str] | None = None) -> int:
    """Vary a folder. Returns 1 and prints the reason on failure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "source", type=Path, help="folder with metadata.csv; rows whose split is not train stay out"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write; must not exist")
    parser.add_argument("--alignments", type=Path, help="word times of the rows")
    parser.add_argument("--varied-alignments", type=Path, help="file for the word times of the copies")
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args(argv)
    if shutil.which("sox") is None:
        print("vary: expected the program sox, found none; apt-get install sox", file=sys.stderr)
        return 1
    if args.out.exists():
        print(f"vary: {args.out} exists already; remove it or name another --out", file=sys.stderr)
        return 1
    with (args.source / "metadata.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row.get("split", "train") == "train"]
    times = {}
    if args.alignments:
        lines = args.alignments.read_text(encoding="utf-8").splitlines()
        times = {entry["id"]: entry["words"] for entry in map(json.loads, lines)}
    aside = args.out.with_name(args.out.name + ".part")
    shutil.rmtree(aside, ignore_errors=True)
    work = functools.partial(vary, source=args.source, out=aside)
    with multiprocessing.Pool(args.workers) as pool:
        made = pool.map(work, rows, chunksize=16)
    with (aside / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(copy for copies in made for copy, _, _ in copies)
    if args.varied_alignments:
        with args.varied_alignments.open("w", encoding="utf-8") as file:
            for row, copies in zip(rows, made, strict=True):
                for copy, longer, cut_s in copies:
                    if words := times.get(row["file_name"]):
                        entry = {"id": copy["file_name"], "words": moved(words, longer, cut_s)}
                        file.write(json.dumps(entry) + "\n")
    aside.rename(args.out)
    print(f"{args.out}: {sum(map(len, made))} clips")
    return 0


if __name__ == "__main__":
    sys.exit(main())
