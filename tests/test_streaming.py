"""Sessions of the default family: concealment of lost packets, and layers that process a signal in pieces."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from codec_toys import shared_codec
from torch import Tensor, nn

from audiotok.codec.decoder import hold_pitch, white_noise
from audiotok.codec.layers import CausalConv1d, StreamState
from audiotok.codec.streaming import FADE_S, HOLD_S, decode_with_losses, random_losses

HOP = 320


@pytest.fixture
def codec() -> Any:
    return shared_codec("speech")


def random_codes(frames: int, batch: int = 1) -> Tensor:
    return torch.randint(64, (batch, 4, frames), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("channels", "out", "kernel", "stride", "dilation", "groups"),
    [(3, 5, 4, 1, 1, 1), (1, 6, 8, 4, 1, 1), (4, 4, 3, 1, 4, 1), (6, 6, 7, 1, 1, 6), (8, 2, 1, 1, 1, 2)],
)
@torch.no_grad()
def test_convolution_step_equals_one_pass(channels, out, kernel, stride, dilation, groups) -> None:
    torch.manual_seed(0)
    layer = CausalConv1d(channels, out, kernel, stride, dilation, groups)
    x = torch.randn(2, channels, 9 * stride, dtype=torch.float64)
    padded, state = nn.functional.pad(x, (layer.context, 0)), StreamState()
    whole = nn.functional.conv1d(
        padded, layer.conv.weight.double(), layer.conv.bias.double(), stride, 0, dilation, groups
    )
    steps = torch.cat([layer(piece, state) for piece in x.split(stride, dim=-1)], dim=-1)
    assert steps.dtype == torch.float64
    torch.testing.assert_close(steps, whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(layer(x.float()).double(), whole, atol=1e-5, rtol=0)


def test_noise_and_pitch_depend_on_the_sample_alone() -> None:
    whole = white_noise(0, 40_000, torch.device("cpu"))
    for first in (0, 16_300, 32_600):
        assert torch.equal(white_noise(first, 320, torch.device("cpu")), whole[first : first + 320])
    f0_hz, voiced = torch.tensor([[100.0, 200.0, 300.0]]), torch.tensor([[False, True, False]])
    before, steps = torch.tensor([50.0]), []
    for t in range(3):
        steps.append(hold_pitch(f0_hz[:, t : t + 1], voiced[:, t : t + 1], before))
        before = steps[-1][:, 0]
    assert torch.equal(torch.cat(steps, 1), hold_pitch(f0_hz, voiced, torch.tensor([50.0])))


def test_session_results_can_be_used_in_training(codec: Any) -> None:
    """They are not inference tensors."""
    session, scale = codec.streaming_decoder(), torch.ones((), requires_grad=True)
    codes = codec.streaming_encoder().push(torch.full((1, 1, 1000), 0.1))
    for sound in (session.push(codes), session.conceal(1), session.flush()):
        (sound * scale).sum().backward()
    nn.Embedding(64, 3)(codes).sum().backward()


@pytest.mark.parametrize("conceal", [True, False])
@pytest.mark.parametrize("gone", [slice(0, 3), slice(4, 5), slice(9, 12), slice(0, 12)])
def test_a_loss_keeps_length_and_earlier_audio(codec: Any, conceal: bool, gone: slice) -> None:
    codes, lost = random_codes(12, batch=2), torch.zeros(12, dtype=torch.bool)
    lost[gone] = True
    decoded = decode_with_losses(codec, codes, lost, conceal)
    whole = codec.decode(codes).audio_values
    assert decoded.shape == whole.shape and decoded.isfinite().all()
    same = max(0, gone.start * HOP - HOP // 2)  # the last window before the gap overlaps it
    torch.testing.assert_close(decoded[..., :same], whole[..., :same], atol=1e-5, rtol=0)


def test_a_gap_may_be_reported_in_pieces(codec: Any) -> None:
    codes, found = random_codes(6), []
    for pieces in ((1, 2, 4), (7,)):
        session = codec.streaming_decoder()
        sound = [session.push(codes[..., :4]), *map(session.conceal, pieces), session.push(codes[..., 4:])]
        found.append(torch.cat(sound, dim=-1))
    torch.testing.assert_close(*found, atol=1e-5, rtol=0)


def test_a_gap_fades_out_and_in_again_if_the_next_packet_is_known(codec: Any) -> None:
    codes = random_codes(8)
    for following in (None, codes[..., :1]):
        session = codec.streaming_decoder()
        assert not session.conceal(3).any()  # nothing to hold yet
        loud = float(session.push(codes).square().mean().sqrt())
        gap = session.conceal(30, following)[0, 0].unfold(0, HOP, HOP).square().mean(-1).sqrt()
        silent_from = round((HOLD_S + FADE_S) * codec.config.frame_rate) + 1
        assert gap[0] > 0.3 * loud and not gap[silent_from : 30 - silent_from].any()
        assert (gap[-1] > 0.01) == (following is not None)
        assert session.push(codes)[..., HOP:].square().mean().sqrt() > 0.3 * loud


def test_decoder_session_errors(codec: Any) -> None:
    session, codes = codec.streaming_decoder(), random_codes(2)
    session.push(codes)
    for frames, following, value in (
        (0, None, "got 0"),
        (1, codes.repeat(2, 1, 1), "batch of 1"),
        (1, codes[..., :0], "following"),
    ):
        with pytest.raises(ValueError, match=value):
            session.conceal(frames, following)
    session.flush()
    for call in (lambda: session.conceal(1), lambda: session.push(codes)):
        with pytest.raises(RuntimeError, match="streaming_decoder"):
            call()


def test_loss_rate() -> None:
    for rate, packet_frames in ((0.0, 1), (0.05, 1), (0.1, 3), (1.0, 2)):
        lost = random_losses(1000, rate, seed=3, packet_frames=packet_frames)
        assert lost.shape == (1000,)
        assert abs(float(lost.float().mean()) - rate) <= packet_frames / 1000 + 1e-6
