"""Choosing among readings: the gaze of taught heads, what a listener hears, and what counts as a fault."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from lm_toys import FRAME_RATE, hear, loud, speak, toy_tokenizer, write_corpus

from audiotok import AudioCodec
from tts_lm import NarConfig, NarModel, Synthesizer, build_ar
from tts_lm.ar import Answer, ArDecoder, save_ar
from tts_lm.cli.main import main
from tts_lm.listener import CLASSES, SILENCE, Listener, ListenerConfig
from tts_lm.pronounce import SOUNDS, pronounce, pronounce_text
from tts_lm.sampling import FinishReason
from tts_lm.training.clips import Clip, Word, read_clips
from tts_lm.training.recipe import load_lm_recipe
from tts_lm.training.run import train_lm
from tts_lm.training.verifier_task import UNKNOWN, frame_sounds
from tts_lm.verify import (
    GazeVerifier,
    ListenerVerifier,
    Reading,
    Verifier,
    fault,
    gaze,
    shortfall,
    sounds_of,
    walk,
)
from tts_lm.voices import CARDS, Voice

CHARACTERS = {index: character for character, index in CLASSES.items()}


def path_attention(path: list[int], text: slice, first: int) -> torch.Tensor:
    """Attention of a head that looks where ``path`` says."""
    size = first + len(path)
    attention = torch.zeros(size, size)
    for frame, place in enumerate(path):
        attention[first + frame, text.start + place] = 1.0
    return attention


def test_gaze_finds_the_path() -> None:
    text, path = slice(3, 13), [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9]
    attention = path_attention(path, text, first=15)
    torch.testing.assert_close(gaze(attention, 15, len(path), text), torch.tensor(path, dtype=torch.float32))


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ([0, 1, 2, 3, 12, 13, 14, 15, 16, 17, 18, 19], "skips"),
        ([*range(0, 14), *range(2, 20)], "repeats"),
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9], "stops early"),
    ],
)
def test_a_faulty_reading_is_worse_than_a_whole_one(path: list[int], why: str) -> None:
    whole = torch.arange(20, dtype=torch.float32)
    assert fault([whole], 20) == 0.0
    assert fault([torch.tensor(path, dtype=torch.float32)], 20) > 0.2, why


# ---- by ear

SIZE = len(CLASSES) + 1


def heard(path: list[int], sure: float = 4.0) -> np.ndarray:
    """Log-probabilities of a listener that hears ``path``, one class a frame."""
    logits = torch.zeros(len(path), SIZE)
    logits[torch.arange(len(path)), torch.tensor(path)] = sure
    return logits.log_softmax(-1).numpy()


def walks(silent: list[bool], frames: int) -> Iterator[list[int]]:
    """Every way through a row of states in so many frames, by trying."""
    gaps = [index for index, quiet in enumerate(silent) if quiet]
    for taken in itertools.product((False, True), repeat=len(gaps)):
        left_out = {gap for gap, rest in zip(gaps, taken, strict=True) if not rest}
        states = [index for index in range(len(silent)) if index not in left_out]
        for cuts in itertools.combinations(range(1, frames), len(states) - 1):
            yield np.repeat(states, np.diff([0, *cuts, frames])).tolist()


@pytest.mark.parametrize("words", [[1], [2], [1, 1], [2, 2], [1, 1, 1], [4]])
@pytest.mark.parametrize("frames", [4, 7])
def test_the_best_walk_is_the_best_of_all(words: list[int], frames: int) -> None:
    """Words of so many sounds."""
    silent = [True]
    for sounds in words:
        silent += [*[False] * sounds, True]
    scores = np.random.default_rng(len(words)).normal(size=(frames, len(silent)))
    ways = list(walks(silent, frames))
    assert walk(scores, np.array(silent)).tolist() == max(
        ways, key=lambda way: scores[range(frames), way].sum()
    )


def test_text_and_silence_between_words_are_explained() -> None:
    words = [[1, 2], [3], [3, 4]]
    for path in ([1, 2, 3, 3, 4], [0, 0, 1, 1, 2, 0, 3, 3, 0, 0, 3, 4, 4, 0], [1, 2, 3, 0, 3, 4]):
        assert shortfall(heard(path), words) == pytest.approx(np.zeros(7), abs=1e-6)


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
    """At its place: gap 0, word 1, gap 2, word 3, gap 4, word 5, gap 6."""
    short = shortfall(heard(path), [[1, 2], [3, 4], [5, 6]])
    assert short.sum() > 0.4 and short.max() <= 3, why
    if why in ("leaves a word out", "stops early"):  # the word's sounds take frames of its neighbours
        assert short[list(where)].sum() > 0.4 * short.sum() and short.argmax() in where, why
    else:
        assert short[list(where)].sum() == pytest.approx(short.sum()), why


def test_a_text_is_its_sounds() -> None:
    k, ae, t = (CLASSES[SOUNDS[name]] for name in ("K", "AE", "T"))
    assert sounds_of("KET, KE?") == [[k, ae, t], [k, ae]]
    assert sounds_of("kat - tak") == [[k, ae, t], [t, ae, k]]  # of unknown words, letter by letter
    assert sounds_of(pronounce_text("it's the cat.")) == [
        [CLASSES[c] for c in pronounce(word) or ""] for word in ("it's", "the", "cat")
    ]
    assert sorted(CLASSES.values()) == list(range(1, SIZE)) and SILENCE == 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A toy corpus and a listener that learnt it."""
    folder = tmp_path_factory.mktemp("toy")
    write_corpus(folder / "c", rows=60)
    sets = ["model.hidden_size=32", "model.layers=2", "data.batch_tokens=900", "dtype=float32"]
    sets += ["max_minutes=0", "max_steps=60", "optim.lr=1e-2", "log_every=30"]
    return folder / "c", train_lm(
        load_lm_recipe("verifier", sets), [folder / "c"], folder / "r", device="cpu"
    )


def test_a_listener_hears_the_text_that_was_read(trained: tuple[Path, Path]) -> None:
    verifier = ListenerVerifier(Listener.from_pretrained(trained[1]))
    rng = np.random.default_rng(5)
    words = ["the", "big", "dog", "ran", "under", "red", "sky"]
    spoken = pronounce_text(" ".join(words))
    codes, times = speak(words, rng)
    first = torch.from_numpy(codes[0])
    right = verifier.fault(Reading(first, spoken, []))
    wrong_codes = first.clone()
    at = torch.from_numpy(rng.permutation(len(first))[: len(first) // 4])
    wrong_codes[at] = torch.from_numpy(rng.integers(SIZE, size=len(at)))
    start, end = times[3][1] // 2, (times[3][1] + times[3][2]) // 2
    faults = {
        "noise": verifier.fault(Reading(wrong_codes, spoken, [])),
        "a word missing": verifier.fault(Reading(torch.cat((first[:start], first[end:])), spoken, [])),
        "a word twice": verifier.fault(Reading(torch.cat((first[:end], first[start:])), spoken, [])),
        "another text": verifier.fault(Reading(first, pronounce_text("six new ships near old town"), [])),
    }
    assert right < 0.1
    assert all(fault > right + 0.1 for fault in faults.values()), (right, faults)
    assert verifier.fault(Reading(first[:0], spoken, [])) == float("inf")


def test_a_row_is_heard_as_it_is_alone(trained: tuple[Path, Path]) -> None:
    listener = Listener.from_pretrained(trained[1]).eval()
    codes = torch.randint(SIZE, (3, 40))
    lengths = [40, 1, 17]
    mask = torch.arange(40) < torch.tensor(lengths)[:, None]
    with torch.no_grad():
        together = listener(codes, mask)
        for row, length in enumerate(lengths):
            alone = listener(codes[row : row + 1, :length])[0]
            torch.testing.assert_close(together[row, :length], alone, atol=1e-5, rtol=0)


def test_frames_are_labelled_with_their_sound(trained: tuple[Path, Path]) -> None:
    for clip in sum(read_clips([trained[0]]), []):
        labels = frame_sounds(clip)
        turns = "".join(
            "".join(CHARACTERS[s] for s in labels[frame : frame + 1])
            for frame in range(clip.frames)
            if clip.codes[0][frame] % 3 == 0
        )
        assert turns == hear(clip.codes[0])
    word = Word("ab", "AB", "", np.array([1.0, 2.6], np.float32), np.array([2.6, 4.0], np.float32))
    other = dataclasses.replace(word, sounds="KET", starts=word.starts + 5, ends=word.ends + 5)
    labels = frame_sounds(Clip("x", (word, other), "", 0, np.zeros((2, 10), np.int16)))
    a, b = CLASSES["A"], CLASSES["B"]
    assert labels.tolist() == [0, a, a, b, 0, 0, UNKNOWN, UNKNOWN, UNKNOWN, 0]


def test_without_word_times_there_is_nothing_to_learn(tmp_path: Path) -> None:
    write_corpus(tmp_path / "c", rows=8)
    (tmp_path / "c" / "alignments.jsonl").unlink()
    with pytest.raises(ValueError, match="expected word times to learn sounds from, got none"):
        train_lm(load_lm_recipe("verifier"), [tmp_path / "c"], tmp_path / "r", device="cpu")


# ---- its place in the synthesizer


def speaker(codec: AudioCodec, verifier: Verifier | None = None) -> Synthesizer:
    """Random halves for the tiny codec."""
    config, fingerprint = codec.config, codec.codes_fingerprint
    tokenizer = toy_tokenizer(config.n_q, config.codebook_size, fingerprint)
    torch.manual_seed(0)
    nar = NarConfig(
        n_q=config.n_q,
        codebook_size=config.codebook_size,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
        codes_fingerprint=fingerprint,
    )
    ar = loud(build_ar(tokenizer, FRAME_RATE, 32, 2, 2, 48))
    voices = {"slt": Voice("slt", 1, torch.zeros(config.n_q, 40, dtype=torch.int64), CARDS["slt"])}
    return Synthesizer(ar, loud(NarModel(nar)), codec, tokenizer, voices, verifier=verifier)


def listener_of(fingerprint: str, size: int) -> Listener:
    return Listener(
        ListenerConfig(size, hidden_size=8, num_hidden_layers=2, codes_fingerprint=fingerprint)
    ).eval()


class Likes:
    """A verifier that wants one code most, and remembers what it was shown."""

    def __init__(self, code: int) -> None:
        self.code = code
        self.shown: list[Reading] = []

    def fault(self, reading: Reading) -> float:
        self.shown.append(reading)
        return -float((reading.codes == self.code).float().mean())


def test_the_verifier_chooses_among_those_that_ended(
    tiny_codec: AudioCodec, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = [[1, 2, 3, 3], [7, 7, 7, 8], [3, 3, 3, 3], [5, 7, 7, 1]]
    reasons: list[FinishReason] = ["eos", "eos", "loop", "eos"]

    def generate(self: ArDecoder, prompts: list, *_: object) -> list[Answer]:
        return [Answer(torch.tensor(c), r) for c, r in zip(readings[: len(prompts)], reasons, strict=False)]

    monkeypatch.setattr(ArDecoder, "generate", generate)
    for code, expected in ((7, 1), (3, 0), (1, 0), (5, 3)):
        verifier = Likes(code)
        said = speaker(tiny_codec, verifier).say("Hello there.", best_of=4, n_q=1)
        assert said.codes[0].tolist() == readings[expected]
        assert {reading.spoken for reading in verifier.shown} == {pronounce_text("hello there.")}
        assert len(verifier.shown) == 4
    alone = Likes(0)
    speaker(tiny_codec, alone).say("Hello there.", best_of=1)
    assert alone.shown == []


def test_a_folder_keeps_its_listener(tiny_codec: AudioCodec, tmp_path: Path) -> None:
    size = tiny_codec.config.codebook_size
    listener = listener_of(tiny_codec.codes_fingerprint, size)
    by_ear = speaker(tiny_codec, ListenerVerifier(listener))
    by_ear.save_pretrained(tmp_path / "it")
    loaded = Synthesizer.from_pretrained(tmp_path / "it")
    assert isinstance(loaded.verifier, ListenerVerifier)
    reading = Reading(torch.arange(30) % size, pronounce_text("hello there"), [])
    assert loaded.verifier.fault(reading) == pytest.approx(by_ear.verifier.fault(reading), abs=1e-5)
    speaker(tiny_codec).save_pretrained(tmp_path / "it")
    assert isinstance(Synthesizer.from_pretrained(tmp_path / "it").verifier, GazeVerifier)
    with pytest.raises(ValueError, match="the verifier was made for codes 0ther"):
        speaker(tiny_codec, ListenerVerifier(listener_of("0ther", size)))


def test_a_bundle_with_a_verifier(tiny_codec: AudioCodec, tiny_codec_dir: Path, tmp_path: Path) -> None:
    size, fingerprint = tiny_codec.config.codebook_size, tiny_codec.codes_fingerprint
    parts = speaker(tiny_codec)
    save_ar(parts.ar, tmp_path / "ar")
    parts.nar.save_pretrained(tmp_path / "nar")
    listener_of(fingerprint, size).save_pretrained(tmp_path / "ear")
    write_corpus(tmp_path / "slt", rows=3, speaker="arctic_slt", fingerprint=fingerprint, size=size)
    arguments = ["bundle", "--ar", str(tmp_path / "ar"), "--nar", str(tmp_path / "nar")]
    arguments += ["--codec", str(tiny_codec_dir), "--data", str(tmp_path / "slt")]
    for more, kind in (
        (["--verifier", str(tmp_path / "ear")], ListenerVerifier),
        ([], GazeVerifier),
    ):
        assert main([*arguments, *more, "--out", str(tmp_path / "out")]) == 0
        assert isinstance(Synthesizer.from_pretrained(tmp_path / "out").verifier, kind)
    assert main([*arguments, "--verifier", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
