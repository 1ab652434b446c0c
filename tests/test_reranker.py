"""The reranker: alignment of phonemes with frames, costs of words, and its place in the pipeline."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from lm_toys import CODEC_SIZE, hear, speak, toy_synthesizer, write_corpus
from torch import Tensor

from audiotok import AudioCodec
from tts_lm.decoding.engine import Answer, FinishReason
from tts_lm.models.reranker import (
    CLASSES,
    Reranker,
    RerankerConfig,
    best_path,
    word_classes,
    word_costs,
)
from tts_lm.text import SOUNDS, pronounce, pronounce_text
from tts_lm.training.alignments import Times, Word
from tts_lm.training.data import Clip, read_clips
from tts_lm.training.recipe import load_lm_recipe
from tts_lm.training.reranker import UNKNOWN, frame_labels
from tts_lm.training.trainer import train_lm

SIZE = len(CLASSES) + 1


def heard(path: list[int], sure: float = 4.0) -> np.ndarray:
    """Log-probabilities of ``path``, one class a frame."""
    logits = torch.zeros(len(path), SIZE)
    logits[torch.arange(len(path)), torch.tensor(path)] = sure
    return logits.log_softmax(-1).numpy()


def test_best_path_is_the_best_of_all() -> None:
    rng = np.random.default_rng(0)
    for words in ([1], [2], [1, 1], [2, 2], [1, 1, 1], [4]):  # words with these numbers of phonemes
        silent = np.array([True, *(state for sounds in words for state in [*[False] * sounds, True])])
        for frames in (4, 5):
            scores = rng.normal(size=(frames, len(silent)))
            steps = itertools.product(range(len(silent)), repeat=frames)
            paths = [path for path in map(np.array, steps) if _allowed(path, silent)]
            best = max(paths, key=lambda path: scores[range(frames), path].sum())
            assert best_path(scores, silent).tolist() == best.tolist()


def test_what_the_text_does_not_explain_counts() -> None:
    """Costs are in the order gap, word, gap, word, gap, word, gap."""
    words = [[1, 2], [3, 4], [5, 6]]
    for path in ([1, 2, 3, 4, 5, 6], [0, 0, 1, 1, 2, 0, 3, 3, 4, 0, 0, 5, 6, 0]):
        assert word_costs(heard(path), words) == pytest.approx(np.zeros(7), abs=1e-6)
    for path, where in (
        ([1, 1, 2, 2, 3, 3, 4, 4, 3, 3, 4, 4, 5, 5, 6, 6], {2, 3, 4}),  # a word is repeated
        ([1, 1, 2, 2, 3, 3, 9, 9, 5, 5, 6, 6], {3, 4, 5}),  # another phoneme
        ([1, 1, 2, 2, 3, 3, 4, 4], {5}),  # the last word is missing
        ([1, 1, 0, 0, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6], {1}),  # silence inside a word
        ([7] * 20 + [1, 2, 3, 4, 5, 6], {0, 1}),  # more than the text
    ):
        costs = word_costs(heard(path), words)
        assert costs.sum() > 0.4 and costs.max() <= 3 and costs.argmax() in where
        if len(path) > 8:  # else the phonemes of the missing word take frames of the word before
            assert costs[list(where)].sum() == pytest.approx(costs.sum())


def test_a_text_is_its_sounds() -> None:
    k, ae, t = (CLASSES[SOUNDS[name]] for name in ("K", "AE", "T"))
    assert word_classes("KET, KE?") == [[k, ae, t], [k, ae]]
    assert word_classes("kat - tak") == [[k, ae, t], [t, ae, k]]  # of unknown words, letter by letter
    assert word_classes(pronounce_text("it's the cat.")) == [
        [CLASSES[c] for c in pronounce(word) or ""] for word in ("it's", "the", "cat")
    ]


def _allowed(path: np.ndarray, silent: np.ndarray) -> bool:
    """Whether a path visits every state in order, but for silent ones."""
    visited = set(path.tolist())
    return bool((np.diff(path) >= 0).all()) and set(np.flatnonzero(~silent).tolist()) <= visited


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A toy corpus and a reranker trained on it."""
    folder = tmp_path_factory.mktemp("toy")
    write_corpus(folder / "c", rows=60)
    sets = ["model.hidden_size=32", "model.layers=2", "data.batch_tokens=900", "dtype=float32"]
    sets += ["max_minutes=0", "max_steps=40", "optim.lr=1e-2", "log_every=30"]
    recipe = load_lm_recipe("reranker", sets)
    trained = train_lm(recipe, [folder / "c"], folder / "r", device="cpu")
    write_corpus(folder / "untimed", rows=8)
    (folder / "untimed" / "alignments.jsonl").unlink()
    with pytest.raises(ValueError, match="alignments"):
        train_lm(recipe, [folder / "untimed"], folder / "no", device="cpu")
    return folder / "c", trained


def test_score_falls_with_errors(trained: tuple[Path, Path]) -> None:
    reranker = Reranker.from_pretrained(trained[1]).eval()
    rng = np.random.default_rng(5)
    words = ["the", "big", "dog", "ran", "under", "red", "sky"]
    spoken = pronounce_text(" ".join(words))
    codes, times = speak(words, rng)
    first = torch.from_numpy(codes[0])
    right = reranker.score(first, spoken)
    noisy = first.clone()
    at = torch.from_numpy(rng.permutation(len(first))[: len(first) // 4])
    noisy[at] = torch.from_numpy(rng.integers(SIZE, size=len(at)))
    start, end = times[3][1] // 2, (times[3][1] + times[3][2]) // 2
    wrong = {
        "noise": reranker.score(noisy, spoken),
        "a word missing": reranker.score(torch.cat((first[:start], first[end:])), spoken),
        "a word twice": reranker.score(torch.cat((first[:end], first[start:])), spoken),
        "another text": reranker.score(first, pronounce_text("six new ships near old town")),
    }
    assert right > -0.1
    assert all(score < right - 0.1 for score in wrong.values()), (right, wrong)
    assert reranker.score(first[:0], spoken) == -float("inf")


def test_logits_do_not_depend_on_the_batch(trained: tuple[Path, Path]) -> None:
    reranker = Reranker.from_pretrained(trained[1]).eval()
    codes = torch.randint(SIZE, (3, 40))
    lengths = [40, 1, 17]
    mask = torch.arange(40) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        together = reranker(codes, mask)
        for row, length in enumerate(lengths):
            alone = reranker(codes[row : row + 1, :length])[0]
            torch.testing.assert_close(together[row, :length], alone, atol=1e-5, rtol=0)


def test_frames_are_labelled_with_their_sound(trained: tuple[Path, Path]) -> None:
    characters = {index: character for character, index in CLASSES.items()}
    for clip in sum(read_clips([trained[0]]), []):
        labels = frame_labels(clip)
        assert hear(clip.codes[0]) == "".join(characters[s] for s in labels[clip.codes[0] % 3 == 0])
    times = Times(np.array([1.0, 2.6], np.float32), np.array([2.6, 4.0], np.float32), "AB")
    unknown = dataclasses.replace(times.shifted(5), phonemes=None)
    words = (Word("AB", "ab", "", times), Word("KET", "cat", "", unknown))
    labels = frame_labels(Clip("x", words, "", 0, np.zeros((2, 10), np.int16)))
    a, b = CLASSES["A"], CLASSES["B"]
    assert labels.tolist() == [0, a, a, b, 0, 0, UNKNOWN, UNKNOWN, UNKNOWN, 0]


# ---- its place in the pipeline


def test_reranker_chooses_among_those_that_ended(
    tiny_codec: AudioCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates = [[1, 2, 3, 3], [7, 7, 7, 8], [3, 3, 3, 3], [5, 7, 7, 1]]
    reasons: list[FinishReason] = ["eos", "eos", "loop", "eos"]

    def generate(prompts: list, *_: object) -> list[Answer]:
        return [Answer(torch.tensor(c), r) for c, r in zip(candidates[: len(prompts)], reasons, strict=False)]

    config = RerankerConfig(CODEC_SIZE, 8, 1, codes_fingerprint=tiny_codec.codes_fingerprint)
    reranker = Reranker(config)
    synthesizer = toy_synthesizer(tiny_codec, reranker=reranker)
    monkeypatch.setattr(synthesizer.decoder, "generate", generate)
    scored: list[str] = []
    for code, expected in ((7, 1), (3, 0), (1, 0), (5, 3)):

        def score(codes: Tensor, phonemes: str, code: int = code) -> float:
            scored.append(phonemes)
            return float((codes == code).float().mean())

        monkeypatch.setattr(reranker, "score", score)
        speech = synthesizer.say("Hello there.", best_of=4, n_q=1)
        assert speech.codes[0].tolist() == candidates[expected]
    assert scored == 16 * [pronounce_text("hello there.")]
    synthesizer.say("Hello there.", best_of=1, n_q=1)
    assert len(scored) == 16
