"""A toy language for the tests of the language model: every phoneme is a run of its own codes.

Everything is seeded.
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
from tts_lm import NarConfig, NarModel, Synthesizer, build_ar
from tts_lm.text import PHONEMES, SOUNDS, pronounce
from tts_lm.voices import CARDS, VOICES, Voice

N_Q, SIZE, FRAME_RATE = 4, 128, 50.0
CODEC_N_Q, CODEC_SIZE = 4, 64  # of the fixture tiny_codec
FINGERPRINT = "70ca1c0de5000000"
CODEC = {"name": "toy", "n_q": N_Q, "codebook_size": SIZE, "hop_length": 320, "sampling_rate": 16000}
WORDS = "the cat sat on my mat and dog ran to big red house with six new ships under blue sky near old town".split()
_ORDER = {char: index for index, char in enumerate(SOUNDS.values())}
_PHONES = {char: name for name, char in SOUNDS.items()}


def speak(words: list[str], rng: np.random.Generator) -> tuple[np.ndarray, list]:
    """Codes [K, T] of words, and their times in the format of the aligner (10 ms)."""
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
    """The phonemes in codebook 0. A new one begins with a code whose remainder by 3 is 0."""
    sounds = "".join(_ORDER)
    return "".join(sounds[code // 3] for code in codes if code % 3 == 0 and code // 3 < len(sounds))


def write_corpus(
    folder: Path,
    rows: int,
    seed: int = 0,
    longest: int = 5,
    shortest: int = 1,
    speaker: str = "kathleen",
    language: str = "en",
    texts: list[str] | None = None,
    fingerprint: str = FINGERPRINT,
    size: int = SIZE,
) -> list[str]:
    """Write a prepared corpus with alignments.jsonl and return its texts. Given texts replace the transcripts only."""
    rng = np.random.default_rng(seed)
    table, lines, said = [], [], []
    for index in range(rows):
        words = [str(word) for word in rng.choice(WORDS, size=int(rng.integers(shortest, longest + 1)))]
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
    """A model whose random weights are large, so that its most likely codes are distinct."""
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim >= 2:
                p.mul_(gain)
    return model.eval()


def toy_models(fingerprint: str) -> tuple[Any, NarModel]:
    """Random AR and NAR models for the codes of the tiny codec."""
    torch.manual_seed(0)
    ar = loud(build_ar(toy_tokenizer(CODEC_N_Q, CODEC_SIZE, fingerprint), FRAME_RATE, 32, 2, 2, 48))
    config = NarConfig(
        n_q=CODEC_N_Q,
        codebook_size=CODEC_SIZE,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        codes_fingerprint=fingerprint,
    )
    return ar, loud(NarModel(config))


def toy_voice(name: str) -> Voice:
    """A voice of random codes of the tiny codec."""
    generator = torch.Generator().manual_seed(VOICES[name])
    return Voice(
        name, VOICES[name], torch.randint(CODEC_SIZE, (CODEC_N_Q, 40), generator=generator), CARDS[name]
    )


class PhonemeTokenizer:
    """A tokenizer with an id for every phoneme."""

    audio_offset = 1000

    def __init__(self, fingerprint: str) -> None:
        self.codes_fingerprint = fingerprint

    def encode_text(self, text: str) -> list[int]:
        return [PHONEMES.index(text)] if text in PHONEMES else [0] * 5

    def control_id(self, name: str) -> int:
        return 900


def toy_synthesizer(codec: Any, tokenizer: Any = None, reranker: Any = None) -> Synthesizer:
    """Random models over the tiny codec, with two voices."""
    fingerprint = codec.codes_fingerprint
    tokenizer = tokenizer or toy_tokenizer(CODEC_N_Q, CODEC_SIZE, fingerprint)
    voices = {name: toy_voice(name) for name in ("kathleen", "bdl")}
    return Synthesizer(*toy_models(fingerprint), codec, tokenizer, voices, reranker=reranker)
