"""A sentence goes on from the end of the one before: whole words with their own codes, alike in batches and streams."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from lm_toys import CODEC_SIZE as V
from lm_toys import toy_synthesizer

from tts_lm import Synthesizer
from tts_lm.ar import Answer
from tts_lm.listener import CLASSES, Listener, ListenerConfig
from tts_lm.rolling import find_tail
from tts_lm.text import TEXT_START
from tts_lm.verify import GazeVerifier, ListenerVerifier, Reading, sounds_of

TEXT = "Hello there, dear friend. One more, please. And the last."


class Literal(Listener):
    """Hears in a code the sound of its number."""

    def forward(self, codes, mask=None):
        return 9.0 * torch.nn.functional.one_hot(codes % (len(CLASSES) + 1), len(CLASSES) + 1).float()


@pytest.fixture
def literal(tiny_codec) -> ListenerVerifier:
    config = ListenerConfig(
        codebook_size=V,
        hidden_size=4,
        num_hidden_layers=1,
        codes_fingerprint=tiny_codec.codes_fingerprint,
    )
    return ListenerVerifier(Literal(config))


@pytest.fixture
def synthesizer(tiny_codec, literal) -> Synthesizer:
    synthesizer = toy_synthesizer(tiny_codec)
    synthesizer.verifier = literal
    return synthesizer


def spell(spoken: str, frames: int = 4) -> Reading:
    """A reading that says every sound for so many frames, and breathes between words."""
    codes: list[int] = []
    for word in sounds_of(spoken):
        codes += [sound for sound in word for _ in range(frames)] + [0, 0]
    return Reading(torch.tensor(codes), spoken, [])


def test_words_begin_where_they_are_heard(literal):
    reading = spell("HEL, WE. DO")
    assert literal.word_starts(reading) == [(0, 0), (1, 14), (2, 24)]
    assert literal.word_starts(replace(reading, codes=reading.codes[:3])) == []


@pytest.mark.parametrize(
    ("frames", "words", "length"), [(34, 3, 34), (33, 2, 20), (20, 2, 20), (19, 1, 10), (9, 0, 0)]
)
def test_a_tail_is_the_most_words_that_fit(literal, frames, words, length):
    reading = spell("HEL, WE. DO")
    tail = find_tail(reading, literal, frames)
    if not words:
        assert tail is None
        return
    assert tail is not None and tail.spoken == " ".join("HEL, WE. DO".split()[-words:])
    assert torch.equal(tail.codes, reading.codes[-length:])


def test_without_a_listener_only_a_whole_sentence_is_told(synthesizer):
    reading, gaze = spell("HEL, WE. DO"), GazeVerifier(synthesizer._decoder)
    assert find_tail(reading, gaze, 33) is None
    tail = find_tail(reading, gaze, 34)
    assert tail is not None and tail.spoken == reading.spoken
    assert find_tail(replace(reading, codes=reading.codes[:0]), gaze, 34) is None


def test_the_prompt_holds_the_words_and_the_codes_before(synthesizer):
    first, second, _ = synthesizer.plan(TEXT)
    rolling = synthesizer._rolling(replace(synthesizer.sampling, rolling=2.0))
    said = Answer(torch.arange(30) % V, "eos")
    asked = rolling(second, first, said)
    offset, tokenizer = synthesizer.tokenizer.audio_offset, synthesizer.tokenizer
    assert asked.prompt[-30:] == [offset + code for code in said.codes.tolist()]
    assert asked.prompt[:TEXT_START] == second.prompt[:TEXT_START]
    text = asked.prompt[TEXT_START : asked.prompt.index(tokenizer.control_id("text_end"))]
    assert text == [synthesizer._characters[c] for c in f"{first.spoken} {second.spoken}"]
    assert text[asked.text_at - TEXT_START :] == [synthesizer._characters[c] for c in second.spoken]
    assert asked.limits == second.limits and (asked.seed, asked.row) == (second.seed, second.row)
    cloned = replace(second, voice=replace(second.voice, prompt_text="Hello"))
    assert rolling(cloned, first, said) is cloned
    assert synthesizer._rolling(synthesizer.sampling)(second, first, said) is second  # it is off


@pytest.mark.parametrize("best_of", [1, 2])
def test_a_rolling_text_is_the_same_alone_in_a_batch_and_streamed(synthesizer, best_of):
    texts = ["Just this.", TEXT, "One. Two."]
    done = []
    told = {"progress": lambda *counts: done.append(counts)}
    together = synthesizer.say_batch(texts, seed=4, rolling=2.0, best_of=best_of, n_q=1, **told)
    assert done == [(3, 6), (5, 6), (6, 6)]
    for text, speech in zip(texts, together, strict=True):
        alone = synthesizer.say(text, seed=4, rolling=2.0, best_of=best_of, n_q=1)
        assert torch.equal(alone.codes, speech.codes)
        chunks = list(synthesizer.stream(text, seed=4, rolling=2.0, best_of=best_of, n_q=1))
        codes = torch.cat([chunk.codes for chunk in chunks if chunk.codes.numel()], dim=1)
        ended = all(chunk.finish_reason in (None, "eos") for chunk in chunks)
        if best_of > 1 or ended:  # with one reading, what was heard is not tried again
            assert torch.equal(codes, speech.codes)
    plain = synthesizer.say(TEXT, seed=4, best_of=best_of, n_q=1)
    assert not torch.equal(plain.codes, together[1].codes)
    with pytest.raises(ValueError, match="expected rolling >= 0 and <= 5, got 9"):
        synthesizer.say(TEXT, rolling=9.0)
