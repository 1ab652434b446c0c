"""Speech from codes: trimming, equal levels of voices, and streams equal to whole speech."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_toys import CODEC_N_Q as K
from lm_toys import toy_synthesizer
from torch import Tensor

from tts_lm import Speech, Synthesizer
from tts_lm.decoding.engine import Answer
from tts_lm.synthesizer import (
    AHEAD,
    FIRST_FRAMES,
    LEAD_SECONDS,
    PAUSE_SECONDS,
    TAIL_SECONDS,
    Said,
    Trimmer,
    stream_sentence,
    whole_answer,
)
from tts_lm.voices import LEVEL_DB, Voice, speech_level_db, voice_gain

HOP, FRAME_RATE, RATE = 320, 50.0, 16_000
TAIL = round(TAIL_SECONDS * FRAME_RATE)
LEAD = int(LEAD_SECONDS * FRAME_RATE) - 1
TEXT = "Hello there. A."


def noise(levels: list[float]) -> Tensor:
    """A frame of noise at each level."""
    generator = torch.Generator().manual_seed(len(levels))
    return torch.cat([level * torch.randn(HOP, generator=generator) for level in levels])


def test_silence_before_and_after_a_sentence_is_cut():
    for quiet, level in [(0, 0.0), (1, 0.0), (5, 1e-4), (40, 1e-4), (40, 0.0)]:
        around = [level] * quiet
        wav = noise([*around, 0.1, 0.0, 0.3, 0.2, 0.02, *around])
        start, stop = Trimmer(HOP, FRAME_RATE).push(wav, is_last=True)
        assert start == max(0, quiet - LEAD) and stop == quiet + 5 + min(quiet, TAIL)
    silence = torch.zeros(50 * HOP)
    assert Trimmer(HOP, FRAME_RATE).push(silence) == (0, 0)
    assert Trimmer(HOP, FRAME_RATE).push(silence, is_last=True) == (0, TAIL)


@settings(max_examples=25, deadline=None)
@given(
    levels=st.lists(st.sampled_from([0.0, 1e-4, 3e-3, 0.02, 0.3]), min_size=1, max_size=30),
    cuts=st.lists(st.integers(0, 30 * HOP), max_size=8),
)
def test_pieces_are_trimmed_as_the_whole(levels, cuts):
    wav, trimmer = noise(levels), Trimmer(HOP, FRAME_RATE)
    edges = [0, *sorted(min(cut, len(wav)) for cut in cuts), len(wav)]
    kept = [trimmer.push(wav[low:high]) for low, high in zip(edges, edges[1:], strict=False)]
    kept.append(trimmer.push(torch.zeros(0), is_last=True))
    assert kept[-1] == Trimmer(HOP, FRAME_RATE).push(wav, is_last=True)
    stops = [stop for _, stop in kept]
    assert stops == sorted(stops) and {start for start, stop in kept if stop} <= {kept[-1][0]}


def join_sentences(said: list[Said], codec: Any) -> Speech:
    pipeline: Any = SimpleNamespace(codec=codec)
    return Synthesizer.join(pipeline, said)


class Fading:
    """A codec whose code is the loudness of its frame; its stream is a frame late."""

    class config:
        hop_length, sampling_rate, frame_rate, n_q = HOP, RATE, FRAME_RATE, 1

    def parameters(self) -> object:
        return iter([torch.zeros(1)])

    def decode(self, codes: Tensor) -> Any:
        wav = (10.0 ** -(codes[0, 0] / 2)).repeat_interleave(HOP)[None, None]
        return SimpleNamespace(audio_values=wav)

    def streaming_decoder(self) -> Any:
        codec, late = self, [torch.zeros(1, 1, 0)]

        def push(codes: Tensor) -> Tensor:
            wav = torch.cat((late[0], codec.decode(codes).audio_values), dim=-1)
            late[0] = wav[..., -HOP:]
            return wav[..., :-HOP]

        return SimpleNamespace(push=push, flush=lambda: late[0])


@pytest.mark.parametrize("quiet", [0, 1, 4, 60])
def test_a_stream_is_the_whole_without_silent_ends(quiet):
    codes = torch.tensor([9] * quiet + [1, 2, *[9] * 14, 1, 2, 2] + [9] * quiet)
    answer = whole_answer(Answer(codes, "eos"))
    chunks = list(stream_sentence(answer, lambda first: first[None], Fading(), gain=0.5))
    whole = join_sentences([Said(codes[None], "eos", gain=0.5)], Fading())
    assert torch.equal(torch.cat([chunk.wav for chunk in chunks]), whole.wav)
    streamed = torch.cat([chunk.codes for chunk in chunks if chunk.codes.numel()], dim=1)
    assert torch.equal(streamed, whole.codes)
    assert int(torch.nonzero(whole.wav > 0.1)[0]) <= LEAD_SECONDS * RATE
    assert whole.codes.shape[1] == min(quiet, LEAD) + 19 + min(quiet, TAIL) == len(whole.wav) // HOP
    assert all(len(chunk.wav) == chunk.codes.shape[1] * HOP for chunk in chunks)
    assert [chunk.finish_reason for chunk in chunks] == [*[None] * (len(chunks) - 1), "eos"]


def test_pauses_between_sentences_are_equal():
    loud, quiet = torch.ones(1, 5), torch.full((1, 30), 9.0)
    texts = [torch.cat((quiet, loud, quiet[:, :length]), dim=1).long() for length in (30, 5, 12)]
    speech = join_sentences([Said(codes, "eos") for codes in texts], Fading())
    gaps = torch.nonzero(speech.wav > 0.1)[:, 0].diff()
    pause = int(PAUSE_SECONDS * RATE) + (TAIL + LEAD) * HOP + 1
    assert gaps[gaps > 1].tolist() == [pause, pause]


def test_loud_and_quiet_voices_come_out_at_one_level(tiny_codec):
    levels = []
    for code in (1, 3):  # 20 dB apart
        voice = Voice("a", 0, torch.full((1, 50), code))
        said = Said(voice.codes, "eos", voice_gain(voice, Fading()))
        levels.append(speech_level_db(join_sentences([said], Fading()).wav, RATE))
    assert levels == pytest.approx([LEVEL_DB, LEVEL_DB], abs=0.1)
    synthesizer = toy_synthesizer(tiny_codec)
    for name, voice in synthesizer.voices.items():
        [said] = synthesizer.speak(synthesizer.plan("A.", name), n_q=1)
        assert said.gain == pytest.approx(voice_gain(voice, tiny_codec)) and abs(said.gain - 1) > 0.01
    # With one codebook the NAR model fills nothing, so the stream is the whole.
    answer = whole_answer(Answer(said.codes[0], said.finish_reason))
    chunks = stream_sentence(answer, lambda first: first[None], tiny_codec, said.gain)
    streamed, whole = torch.cat([chunk.wav for chunk in chunks]), synthesizer.join([said]).wav
    assert streamed.shape == whole.shape and (streamed - whole).abs().max() < 1e-5


def test_a_stream_begins_soon_and_has_the_first_codebook_of_the_whole(tiny_codec, monkeypatch):
    synthesizer = toy_synthesizer(tiny_codec)
    whole = synthesizer.say(TEXT, best_of=1)
    steps = iter(range(10_000))
    inner = synthesizer.decoder._logits
    monkeypatch.setattr(synthesizer.decoder, "_logits", lambda hidden: (next(steps), inner(hidden))[1])
    stream = synthesizer.stream(TEXT)
    chunks = [next(stream)]
    assert next(steps) <= FIRST_FRAMES + AHEAD + 1
    chunks += stream
    assert len([chunk for chunk in chunks if chunk.finish_reason]) == 2
    pause = [chunk for chunk in chunks if chunk.codes.shape[1] == 0 and chunk.finish_reason is None]
    assert [len(chunk.wav) for chunk in pause] == [int(PAUSE_SECONDS * RATE)]
    codes = torch.cat([chunk.codes for chunk in chunks if chunk.codes.numel()], dim=1)
    wav = torch.cat([chunk.wav for chunk in chunks])
    assert codes.shape[0] == K and len(wav) == codes.shape[1] * HOP + len(pause[0].wav)
    if whole.finish_reason == "eos":  # else the whole was tried again
        assert torch.equal(codes[0], whole.codes[0])
