"""Sentences end alike: in pieces as whole, and as long after the last sound whatever silence was said."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_toys import toy_synthesizer
from torch import Tensor

from tts_lm.endings import TAIL_SECONDS, Ending
from tts_lm.speech import PAUSE_SECONDS, Said, join_sentences
from tts_lm.stream import stream_sentence, whole_answer

HOP, RATE = 320, 50.0
TAIL = round(TAIL_SECONDS * RATE)


def sound(levels: list[float]) -> Tensor:
    """A frame of noise at each level."""
    generator = torch.Generator().manual_seed(len(levels))
    return torch.cat([level * torch.randn(HOP, generator=generator) for level in levels])


@pytest.mark.parametrize("quiet", [0, 1, 5, 40])
@pytest.mark.parametrize("level", [0.0, 1e-4])
def test_what_follows_the_last_sound_is_cut(quiet, level):
    wav = sound([0.1, 0.0, 0.3, 0.2, 0.02, *[level] * quiet])
    assert Ending(HOP, RATE).push(wav) == 5 + TAIL
    assert Ending(HOP, RATE).push(torch.zeros(3 * HOP)) == 3 + TAIL  # nothing is loud, nothing is cut


@settings(max_examples=40, deadline=None)
@given(
    levels=st.lists(st.sampled_from([0.0, 1e-4, 3e-3, 0.02, 0.3]), min_size=1, max_size=30),
    cuts=st.lists(st.integers(0, 30 * HOP), max_size=8),
)
def test_pieces_end_where_the_whole_does(levels, cuts):
    wav = sound(levels)
    whole, ending = Ending(HOP, RATE).push(wav), Ending(HOP, RATE)
    edges = [0, *sorted(min(cut, len(wav)) for cut in cuts), len(wav)]
    stays = [ending.push(wav[low:high]) for low, high in zip(edges, edges[1:], strict=False)]
    assert stays == sorted(stays) and stays[-1] == whole  # what may still be cut is never promised


class Fading:
    """A codec whose code is the loudness of its frame; the stream is a frame late."""

    class config:
        hop_length, sampling_rate, frame_rate, n_q = HOP, 16000, RATE, 1

    def decode(self, codes: Tensor) -> object:
        wav = torch.cat([10.0 ** -float(code) * torch.ones(HOP) for code in codes[0, 0]])[None, None]
        return type("Out", (), {"audio_values": wav})

    def streaming_decoder(self) -> object:
        codec, late = self, [torch.zeros(1, 1, 0)]

        def push(codes: Tensor) -> Tensor:
            wav = torch.cat((late[0], codec.decode(codes).audio_values), dim=-1)
            late[0] = wav[..., -HOP:]
            return wav[..., :-HOP]

        return type("Session", (), {"push": staticmethod(push), "flush": staticmethod(lambda: late[0])})


@pytest.mark.parametrize("quiet", [0, 1, 4, 60])
def test_a_stream_ends_as_the_whole(quiet):
    from tts_lm.decoding.engine import Answer

    codes = torch.tensor([0, 1, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 0, 1, 1, *[9] * quiet])
    chunks = list(stream_sentence(whole_answer(Answer(codes, "eos")), lambda first: first[None], Fading()))
    streamed = torch.cat([chunk.wav for chunk in chunks])
    whole = join_sentences([Said(codes[None], "eos")], Fading())
    assert torch.equal(streamed, whole.wav)
    given_out = torch.cat([chunk.codes for chunk in chunks if chunk.codes.numel()], dim=1)
    assert torch.equal(given_out, whole.codes)
    assert whole.codes.shape[1] == 19 + min(quiet, TAIL) == len(whole.wav) // HOP
    assert chunks[-1].finish_reason == "eos" and all(chunk.finish_reason is None for chunk in chunks[:-1])


def test_pauses_are_even():
    loud, quiet = torch.zeros(1, 5), torch.full((1, 30), 9.0)
    texts = [torch.cat((loud, quiet[:, :length]), dim=1).long() for length in (30, 5, 12)]
    speech = join_sentences([Said(codes, "eos") for codes in texts], Fading())
    heard = torch.nonzero(speech.wav > 0.5)[:, 0].diff()
    gaps = heard[heard > 1]
    assert len(gaps) == 2 and torch.equal(gaps, torch.full((2,), int(PAUSE_SECONDS * 16000) + TAIL * HOP + 1))


def test_what_a_real_codec_streams_is_what_it_says(tiny_codec):
    synthesizer = toy_synthesizer(tiny_codec)
    whole = synthesizer.say("Hello there. And you.", best_of=2, n_q=1)
    chunks = list(synthesizer.stream("Hello there. And you.", best_of=2, n_q=1))
    streamed = torch.cat([chunk.wav for chunk in chunks])
    assert streamed.shape == whole.wav.shape and (streamed - whole.wav).abs().max() < 1e-5
