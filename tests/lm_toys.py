"""A toy language for the tests of the language model: every sound is a run of codes of its own.

Nothing here reads ../shared or the network; everything is seeded.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from audiotok import AudioTextTokenizer, build_tokenizer, checkpoint_dir
from audiotok.corpus.shards import Manifest, write_shard
from tts_lm.pronounce import SOUNDS, pronounce

N_Q, SIZE, FRAME_RATE = 4, 128, 50.0
FINGERPRINT = "70ca1c0de5000000"
CODEC = {"name": "toy", "n_q": N_Q, "codebook_size": SIZE, "hop_length": 320, "sampling_rate": 16000}
WORDS = "the cat sat on a mat and dog ran to big red house with six new ships under blue sky near old town".split()
_ORDER = {char: index for index, char in enumerate(SOUNDS.values())}
_PHONES = {char: name for name, char in SOUNDS.items()}


def speak(words: list[str], rng: np.random.Generator) -> tuple[np.ndarray, list]:
    """Codes [K, T] of words, and their times as the aligner writes them (10 ms)."""
    first: list[int] = []
    times = []
    for word in words:
        phones = []
        begin = len(first)
        for sound in pronounce(word) or "":
            length = int(rng.integers(3, 6))
            phones.append([_PHONES[sound], 2 * len(first), 2 * length])
            first += [3 * _ORDER[sound] + min(step, 2) for step in range(length)]
        times.append([word, 2 * begin, 2 * (len(first) - begin), phones])
    codes = np.asarray(first)
    return np.stack([(codes * (2 * k + 1) + 5 * k) % SIZE for k in range(N_Q)]), times


def hear(codes: np.ndarray) -> str:
    """The sounds in codebook 0: a new one begins with a code whose remainder by 3 is 0."""
    sounds = "".join(_ORDER)
    return "".join(sounds[code // 3] for code in codes if code % 3 == 0 and code // 3 < len(sounds))


def write_corpus(
    folder: Path,
    rows: int,
    seed: int = 0,
    longest: int = 5,
    speaker: str = "kathleen",
    language: str = "en",
    texts: list[str] | None = None,
    fingerprint: str = FINGERPRINT,
    size: int = SIZE,
) -> list[str]:
    """A prepared corpus with alignments.jsonl in it; returns the texts. Given texts are not what is spoken."""
    rng = np.random.default_rng(seed)
    table, lines, said = [], [], []
    for index in range(rows):
        words = [str(word) for word in rng.choice(WORDS, size=int(rng.integers(1, longest + 1)))]
        codes, times = speak(words, rng)
        codes %= size
        said.append(texts[index] if texts else " ".join(words).capitalize() + ".")
        row = {"id": f"toy{index}", "text": said[-1], "speaker": speaker, "language": language}
        row |= {
            "split": "train",
            "frames": codes.shape[1],
            "seconds": codes.shape[1] / FRAME_RATE,
            "n_q": N_Q,
        }
        table.append(row | {"codes": codes.astype("<i2").tobytes()})
        lines.append(json.dumps({"id": row["id"], "words": times}))
    (folder / "shards").mkdir(parents=True)
    digest = write_shard(
        folder / "shards" / "00000.parquet", table, {"codes_fingerprint": fingerprint, "n_q": N_Q}
    )
    Manifest(
        codes_fingerprint=fingerprint,
        codec=CODEC | {"codebook_size": size},
        source="toy",
        options={},
        plan="toy",
        source_rows=rows,
        rows=rows,
        shards=[{"file": "00000.parquet", "rows": rows, "sha256": digest}],
    ).save(folder)
    (folder / "alignments.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return said


@functools.cache
def toy_tokenizer(n_q: int = N_Q, size: int = SIZE, fingerprint: str = FINGERPRINT) -> AudioTextTokenizer:
    """The shipped text vocabulary with the toy's codes."""
    text_model = checkpoint_dir("text-en") / "tokenizer.model"
    return build_tokenizer(text_model, n_q, size, codes_fingerprint=fingerprint)


def loud(model: torch.nn.Module, gain: float = 8.0) -> Any:
    """A model whose random weights are so large that its likeliest answers stand out."""
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim >= 2:
                p.mul_(gain)
    return model.eval()
