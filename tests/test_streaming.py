"""Streaming sessions equal one pass, and lost packets are concealed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from audiotok import SearchingEncoder, search_codes
from audiotok.codec.decoder import hold_pitch, white_noise
from audiotok.codec.layers import CausalConv1d, StreamState
from audiotok.codec.streaming import FADE_S, HOLD_S, decode_with_losses, random_losses


def random_codes(codec, frames: int, batch: int = 1, seed: int = 0) -> torch.Tensor:
    shape = (batch, codec.config.n_q, frames)
    return torch.randint(codec.config.codebook_size, shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("channels", "out", "kernel", "stride", "dilation", "groups"),
    [(3, 5, 4, 1, 1, 1), (1, 6, 8, 4, 1, 1), (4, 4, 3, 1, 4, 1), (6, 6, 7, 1, 1, 6), (8, 2, 1, 1, 1, 2)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_convolution_step_equals_one_pass(channels, out, kernel, stride, dilation, groups, dtype):
    torch.manual_seed(0)
    layer = CausalConv1d(channels, out, kernel, stride, dilation, groups)
    x = torch.randn(2, channels, 9 * stride, dtype=dtype)
    whole = nn.functional.conv1d(
        nn.functional.pad(x, (layer.context, 0)), layer.conv.weight.to(dtype), layer.conv.bias.to(dtype),
        stride=stride, dilation=dilation, groups=groups,
    )  # fmt: skip
    state = StreamState()
    steps = torch.cat([layer(piece, state) for piece in x.split(stride, dim=-1)], dim=-1)
    assert steps.dtype == dtype
    torch.testing.assert_close(steps, whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(layer(x), whole, atol=1e-5, rtol=0)


def test_noise_and_pitch_depend_on_the_sample_alone():
    whole = white_noise(0, 40_000, torch.device("cpu"))
    for first in (0, 16_300, 16_384, 32_600):
        assert torch.equal(white_noise(first, 320, torch.device("cpu")), whole[first : first + 320])
    f0_hz, voiced = torch.tensor([[100.0, 200.0, 300.0]]), torch.tensor([[False, True, False]])
    before, steps = torch.tensor([50.0]), []
    for t in range(3):
        steps.append(hold_pitch(f0_hz[:, t : t + 1], voiced[:, t : t + 1], before))
        before = steps[-1][:, 0]
    assert torch.equal(torch.cat(steps, 1), hold_pitch(f0_hz, voiced, torch.tensor([50.0])))


def test_session_results_can_be_used_in_training(tiny_codec):
    """The results of a session are not inference tensors."""
    wav = torch.randn(1, 1, 1000, generator=torch.Generator().manual_seed(0)) * 0.1
    codes = tiny_codec.streaming_encoder().push(wav)
    session, scale = tiny_codec.streaming_decoder(), torch.ones((), requires_grad=True)
    for sound in (session.push(codes), session.conceal(1), session.flush()):
        (sound * scale).sum().backward()
    nn.Embedding(64, 3)(codes).sum().backward()


def test_input_buffers_may_be_reused(tiny_codec, make_speech):
    """A caller may reuse its input buffer."""
    wav, buffer = make_speech(1.0)[None], torch.zeros(1, 1, 1000)
    for session, whole in (
        (tiny_codec.streaming_encoder(), tiny_codec.encode(wav)),
        (SearchingEncoder(tiny_codec, steps=1), search_codes(tiny_codec, wav, steps=1)),
    ):
        found = [session.push(buffer.copy_(piece)) for piece in wav.split(1000, dim=-1)]
        buffer.zero_()
        assert torch.equal(torch.cat([*found, session.flush()], dim=-1), whole.audio_codes)


@pytest.mark.parametrize("conceal", [True, False])
@pytest.mark.parametrize("gone", [slice(0, 3), slice(4, 5), slice(9, 12), slice(0, 12)])
def test_a_loss_keeps_length_and_earlier_audio(tiny_codec, conceal, gone):
    codes, hop = random_codes(tiny_codec, 12, batch=2), tiny_codec.config.hop_length
    lost = torch.zeros(12, dtype=torch.bool)
    lost[gone] = True
    decoded = decode_with_losses(tiny_codec, codes, lost, conceal)
    whole = tiny_codec.decode(codes).audio_values
    assert decoded.shape == whole.shape and decoded.isfinite().all()
    # The second half of the last window before the gap overlaps the gap.
    same = max(0, gone.start * hop - tiny_codec.config.synthesis_hop)
    torch.testing.assert_close(decoded[..., :same], whole[..., :same], atol=1e-5, rtol=0)


def test_a_gap_reported_in_pieces(tiny_codec):
    codes = random_codes(tiny_codec, 6)

    def decoded(*pieces: int) -> torch.Tensor:
        session = tiny_codec.streaming_decoder()
        return torch.cat(
            [session.push(codes[..., :4]), *map(session.conceal, pieces), session.push(codes[..., 4:])],
            dim=-1,
        )

    torch.testing.assert_close(decoded(1, 2, 4), decoded(7), atol=1e-5, rtol=0)


def test_a_gap_fades_to_silence(tiny_codec):
    codes, hop = random_codes(tiny_codec, 8), tiny_codec.config.hop_length
    session = tiny_codec.streaming_decoder()
    before = session.push(codes)
    gap = session.conceal(15)
    loudness = gap[0, 0].unfold(0, hop, hop).square().mean(-1).sqrt()
    assert loudness[0] > 0.3 * before.square().mean().sqrt()
    silent_from = round((HOLD_S + FADE_S) * tiny_codec.config.frame_rate) + 1
    assert not loudness[silent_from:].any()
    back = session.push(codes)
    assert back[..., hop:].square().mean() > 0.3 * before.square().mean()


def test_a_gap_before_the_first_packet_is_silent(tiny_codec):
    session = tiny_codec.streaming_decoder()
    hop = tiny_codec.config.hop_length
    assert not session.conceal(3).any()
    sound = session.push(random_codes(tiny_codec, 2))
    assert sound.shape[-1] == 2 * hop and sound.any()


def test_the_sound_glides_to_what_follows(tiny_codec):
    """A long gap fades in again if the next packet is known; otherwise it stays silent to its end."""
    codes, hop = random_codes(tiny_codec, 4), tiny_codec.config.hop_length
    levels = []
    for following in (None, codes[..., 2:]):
        session = tiny_codec.streaming_decoder()
        session.push(codes[..., :2])
        gap = session.conceal(30, following)[0, 0]
        levels.append((gap[15 * hop : 16 * hop].abs().max(), gap[-hop:].abs().max()))
    assert levels[0] == (0, 0)
    assert levels[1][0] == 0 and levels[1][1] > 0.01


def test_decoder_session_errors(tiny_codec):
    session = tiny_codec.streaming_decoder()
    codes = random_codes(tiny_codec, 2)
    session.push(codes)
    for call, value in (
        (lambda: session.conceal(0), "got 0"),
        (lambda: session.conceal(1, following=codes.repeat(2, 1, 1)), "batch of 1"),
        (lambda: session.conceal(1, following=codes[..., :0]), "following"),
    ):
        with pytest.raises(ValueError, match=value):
            call()
    session.flush()
    for call in (lambda: session.conceal(1), lambda: session.push(codes)):
        with pytest.raises(RuntimeError, match="streaming_decoder"):
            call()


def test_loss_rate():
    for rate, packet_frames in ((0.0, 1), (0.05, 1), (0.1, 3), (1.0, 2)):
        lost = random_losses(1000, rate, seed=3, packet_frames=packet_frames)
        assert lost.shape == (1000,)
        assert abs(float(lost.float().mean()) - rate) <= packet_frames / 1000 + 1e-6
        assert torch.equal(lost, random_losses(1000, rate, seed=3, packet_frames=packet_frames))
