"""Speech while it is being made: the codes of the whole, every frame once, and seams that a bound holds."""

from __future__ import annotations

import pytest
import torch
from lm_toys import CODEC_N_Q as K
from lm_toys import toy_synthesizer

from tts_lm import Synthesizer
from tts_lm.stream import AHEAD, FIRST_FRAMES
from tts_lm.synthesizer import PAUSE_SECONDS

TEXT = "Hello there, dear friend of speech. And one more."


@pytest.fixture
def synthesizer(tiny_codec) -> Synthesizer:
    return toy_synthesizer(tiny_codec)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_stream_says_the_codes_of_the_whole(synthesizer, seed):
    """Where the whole needed no second attempt: what was heard cannot be taken back."""
    whole = synthesizer.say(TEXT, seed=seed, best_of=1)
    chunks = list(synthesizer.stream(TEXT, seed=seed))
    reasons = [chunk.finish_reason for chunk in chunks if chunk.finish_reason]
    assert len(reasons) == 2
    pause = [chunk for chunk in chunks if chunk.codes.shape[1] == 0 and chunk.finish_reason is None]
    assert [len(chunk.wav) for chunk in pause] == [int(PAUSE_SECONDS * 16000)]
    codes = torch.cat([chunk.codes for chunk in chunks if chunk.codes.numel()], dim=1)
    wav = torch.cat([chunk.wav for chunk in chunks])
    assert codes.shape[0] == K and len(wav) == codes.shape[1] * 320 + len(pause[0].wav)
    if whole.finish_reason == "eos":
        assert torch.equal(codes[0], whole.codes[0])


def test_a_sentence_chosen_whole_is_streamed_as_it_is_said(synthesizer):
    whole = synthesizer.say("Hello there.", best_of=3, n_q=1)
    chunks = list(synthesizer.stream("Hello there.", best_of=3, n_q=1))
    codes = torch.cat([chunk.codes for chunk in chunks if chunk.codes.numel()], dim=1)
    assert torch.equal(codes, whole.codes)
    # With one codebook nothing is filled from what comes after: the sound is that of the whole.
    assert (torch.cat([chunk.wav for chunk in chunks]) - whole.wav).abs().max() < 1e-5


def test_the_first_sound_waits_for_a_few_frames_only(synthesizer):
    steps = 0
    inner = synthesizer._decoder._logits

    def count(hidden):
        nonlocal steps
        steps += 1
        logits = inner(hidden)
        logits[:, -1] = -torch.inf  # it never ends by itself
        return logits

    synthesizer._decoder._logits = count  # type: ignore[method-assign]
    first = next(iter(synthesizer.stream("Hello there, dear friend of speech.")))
    assert steps <= FIRST_FRAMES + AHEAD + 1
    assert first.codes.shape[1] == FIRST_FRAMES and len(first.wav) > (FIRST_FRAMES - 1) * 320


def test_the_levels_of_a_chunk_know_all_that_was_said_before(synthesizer):
    """Frames that saw what follows them are those of the whole, up to how far the NAR half looks ahead."""
    whole = synthesizer.say(TEXT, best_of=1, temperature=0)
    chunks = list(synthesizer.stream(TEXT, temperature=0))
    reasons = [chunk.finish_reason for chunk in chunks if chunk.finish_reason]
    last = [chunk.codes for chunk in chunks if chunk.finish_reason][-1]
    if reasons[-1] == "eos" and last.shape[1]:  # the last piece of a sentence is filled with all of it
        assert torch.equal(last, whole.codes[:, -last.shape[1] :])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: s.stream(""), ValueError, "something to say"),
        (lambda s: s.stream("Hello", voice="bob"), ValueError, "expected a voice of"),
        (lambda s: s.stream("Hello", seed="a"), TypeError, "expected seed to be an int, got 'a'"),
        (lambda s: s.stream("Hello", temperature=-1), ValueError, "expected temperature >= 0"),
    ],
)
def test_what_cannot_be_streamed_is_refused_at_once(synthesizer, call, error, message):
    with pytest.raises(error, match=message):
        call(synthesizer)
