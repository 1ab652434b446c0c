"""The reranker: alignment of phonemes with frames, costs of words, and its place in the pipeline."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from lm_toys import hear, speak, toy_synthesizer, write_corpus
from torch import Tensor

from audiotok import AudioCodec
from tts_lm import Synthesizer
from tts_lm.decoding.engine import Answer, ArDecoder, FinishReason
from tts_lm.models.reranker import (
    CLASSES,
    SILENCE,
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

CHARACTERS = {index: character for character, index in CLASSES.items()}


SIZE = len(CLASSES) + 1


def heard(path: list[int], sure: float = 4.0) -> np.ndarray:
    """Log-probabilities of ``path``, one class a frame."""
    logits = torch.zeros(len(path), SIZE)
    logits[torch.arange(len(path)), torch.tensor(path)] = sure
    return logits.log_softmax(-1).numpy()


def all_paths(silent: list[bool], frames: int) -> Iterator[list[int]]:
    """Every path through a row of states, by enumeration."""
    gaps = [index for index, quiet in enumerate(silent) if quiet]
    for taken in itertools.product((False, True), repeat=len(gaps)):
        left_out = {gap for gap, rest in zip(gaps, taken, strict=True) if not rest}
        states = [index for index in range(len(silent)) if index not in left_out]
        for cuts in itertools.combinations(range(1, frames), len(states) - 1):
            yield np.repeat(states, np.diff([0, *cuts, frames])).tolist()


@pytest.mark.parametrize("words", [[1], [2], [1, 1], [2, 2], [1, 1, 1], [4]])
@pytest.mark.parametrize("frames", [4, 7])
def test_best_path_is_the_best_of_all(words: list[int], frames: int) -> None:
    """Words with these numbers of phonemes."""
    silent = [True]
    for sounds in words:
        silent += [*[False] * sounds, True]
    scores = np.random.default_rng(len(words)).normal(size=(frames, len(silent)))
    paths = list(all_paths(silent, frames))
    assert best_path(scores, np.array(silent)).tolist() == max(
        paths, key=lambda path: scores[range(frames), path].sum()
    )


def test_text_and_silence_between_words_are_explained() -> None:
    words = [[1, 2], [3], [3, 4]]
    for path in ([1, 2, 3, 3, 4], [0, 0, 1, 1, 2, 0, 3, 3, 0, 0, 3, 4, 4, 0]):
        assert word_costs(heard(path), words) == pytest.approx(np.zeros(7), abs=1e-6)


@pytest.mark.parametrize(
    ("path", "where", "why"),
    [
        ([1, 1, 2, 2, 5, 5, 6, 6], {3}, "leaves a word out"),
        ([1, 1, 2, 2, 3, 3, 4, 4, 3, 3, 4, 4, 5, 5, 6, 6], {2, 3, 4}, "repeats"),
        ([1, 1, 2, 2, 3, 3, 9, 9, 5, 5, 6, 6], {3, 4, 5}, "mumbles"),
        ([1, 1, 2, 2, 3, 3, 4, 4], {5}, "stops early"),
        ([1, 1, 0, 0, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6], {1}, "rests inside a word"),
        ([7] * 20 + [1, 2, 3, 4, 5, 6], {0, 1}, "says more"),
    ],
)
def test_what_the_text_does_not_explain_counts(path: list[int], where: set[int], why: str) -> None:
    """Costs are in the order gap, word, gap, word, gap, word, gap."""
    costs = word_costs(heard(path), [[1, 2], [3, 4], [5, 6]])
    assert costs.sum() > 0.4 and costs.max() <= 3, why
    if why in ("leaves a word out", "stops early"):  # the word's sounds take frames of its neighbours
        assert costs[list(where)].sum() > 0.4 * costs.sum() and costs.argmax() in where, why
    else:
        assert costs[list(where)].sum() == pytest.approx(costs.sum()), why


def test_a_text_is_its_sounds() -> None:
    k, ae, t = (CLASSES[SOUNDS[name]] for name in ("K", "AE", "T"))
    assert word_classes("KET, KE?") == [[k, ae, t], [k, ae]]
    assert word_classes("kat - tak") == [[k, ae, t], [t, ae, k]]  # of unknown words, letter by letter
    assert word_classes(pronounce_text("it's the cat.")) == [
        [CLASSES[c] for c in pronounce(word) or ""] for word in ("it's", "the", "cat")
    ]
    assert sorted(CLASSES.values()) == list(range(1, SIZE)) and SILENCE == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A toy corpus and a reranker trained on it."""
    folder = tmp_path_factory.mktemp("toy")
    write_corpus(folder / "c", rows=60)
    sets = ["model.hidden_size=32", "model.layers=2", "data.batch_tokens=900", "dtype=float32"]
    sets += ["max_minutes=0", "max_steps=40", "optim.lr=1e-2", "log_every=30"]
    return folder / "c", train_lm(
        load_lm_recipe("reranker", sets), [folder / "c"], folder / "r", device="cpu"
    )


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
    for clip in sum(read_clips([trained[0]]), []):
        labels = frame_labels(clip)
        turns = "".join(
            "".join(CHARACTERS[s] for s in labels[frame : frame + 1])
            for frame in range(clip.frames)
            if clip.codes[0][frame] % 3 == 0
        )
        assert turns == hear(clip.codes[0])
    times = Times(np.array([1.0, 2.6], np.float32), np.array([2.6, 4.0], np.float32), "AB")
    unknown = dataclasses.replace(times.shifted(5), phonemes=None)
    words = (Word("AB", "ab", "", times), Word("KET", "cat", "", unknown))
    labels = frame_labels(Clip("x", words, "", 0, np.zeros((2, 10), np.int16)))
    a, b = CLASSES["A"], CLASSES["B"]
    assert labels.tolist() == [0, a, a, b, 0, 0, UNKNOWN, UNKNOWN, UNKNOWN, 0]


def test_without_word_times_there_is_nothing_to_learn(tmp_path: Path) -> None:
    write_corpus(tmp_path / "c", rows=8)
    (tmp_path / "c" / "alignments.jsonl").unlink()
    with pytest.raises(ValueError, match="alignments"):
        train_lm(load_lm_recipe("reranker"), [tmp_path / "c"], tmp_path / "r", device="cpu")


# ---- its place in the pipeline


def pipeline(codec: AudioCodec, reranker: Reranker | None = None) -> Synthesizer:
    parts = toy_synthesizer(codec)
    return Synthesizer(parts.ar, parts.nar, codec, parts.tokenizer, parts.voices, reranker=reranker)


def reranker_of(fingerprint: str, size: int) -> Reranker:
    return Reranker(
        RerankerConfig(size, hidden_size=8, num_hidden_layers=2, codes_fingerprint=fingerprint)
    ).eval()


def test_reranker_chooses_among_those_that_ended(
    tiny_codec: AudioCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates = [[1, 2, 3, 3], [7, 7, 7, 8], [3, 3, 3, 3], [5, 7, 7, 1]]
    reasons: list[FinishReason] = ["eos", "eos", "loop", "eos"]

    def generate(self: ArDecoder, prompts: list, *_: object) -> list[Answer]:
        return [Answer(torch.tensor(c), r) for c, r in zip(candidates[: len(prompts)], reasons, strict=False)]

    monkeypatch.setattr(ArDecoder, "generate", generate)
    reranker = reranker_of(tiny_codec.codes_fingerprint, tiny_codec.config.codebook_size)
    for code, expected in ((7, 1), (3, 0), (1, 0), (5, 3)):
        scored: list[tuple[Tensor, str]] = []

        def score(codes: Tensor, phonemes: str, code: int = code, scored: list = scored) -> float:
            scored.append((codes, phonemes))
            return float((codes == code).float().mean())

        monkeypatch.setattr(reranker, "score", score)
        speech = pipeline(tiny_codec, reranker).say("Hello there.", best_of=4, n_q=1)
        assert speech.codes[0].tolist() == candidates[expected]
        assert {phonemes for _, phonemes in scored} == {pronounce_text("hello there.")}
        assert len(scored) == 4
        scored.clear()
        pipeline(tiny_codec, reranker).say("Hello there.", best_of=1)
        assert not scored
    with pytest.raises(ValueError, match="best_of"):
        pipeline(tiny_codec).say("Hello there.", best_of=4)


def test_a_folder_keeps_its_reranker(tiny_codec: AudioCodec, tmp_path: Path) -> None:
    size = tiny_codec.config.codebook_size
    reranker = reranker_of(tiny_codec.codes_fingerprint, size)
    pipeline(tiny_codec, reranker).save_pretrained(tmp_path / "it")
    loaded = Synthesizer.from_pretrained(tmp_path / "it").reranker
    assert loaded is not None
    codes, phonemes = torch.arange(30) % size, pronounce_text("hello there")
    assert loaded.score(codes, phonemes) == pytest.approx(reranker.score(codes, phonemes), abs=1e-5)
    pipeline(tiny_codec).save_pretrained(tmp_path / "it")
    assert Synthesizer.from_pretrained(tmp_path / "it").reranker is None
    with pytest.raises(ValueError, match="0ther"):
        pipeline(tiny_codec, reranker_of("0ther", size))
