"""A codec whose packets get lost, for measuring: which are lost, and what a listener then hears.

Knows nothing of networks between machines; losses are a mask over frames. The law it keeps: without a loss the sound
is that of ``codec.decode`` within 1e-5.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .model import AudioCodec


def random_losses(frames: int, rate: float, seed: int, packet_frames: int = 1) -> Tensor:
    """Lose packets at random, ``rate`` of them to the nearest packet.

    Args:
        frames: T of the recording.
        rate: share of the packets to lose, 0 to 1.
        seed: the same seed loses the same packets.
        packet_frames: frames of a packet.

    Returns:
        [T] bool, True where a frame is lost.

    Raises:
        ValueError: rate is not in [0, 1], or packet_frames is below 1.
    """
    if not 0.0 <= rate <= 1.0 or packet_frames < 1:
        raise ValueError(
            f"expected a rate in [0, 1] and packet_frames >= 1, got {rate:g} and {packet_frames}"
        )
    packets = -(-frames // packet_frames)
    lost = torch.zeros(packets, dtype=torch.bool)
    order = torch.randperm(packets, generator=torch.Generator().manual_seed(seed))
    lost[order[: round(rate * packets)]] = True
    return lost.repeat_interleave(packet_frames)[:frames]


def decode_with_losses(
    codec: AudioCodec, codes: Tensor, lost: Tensor, conceal: bool, glide: bool = False
) -> Tensor:
    """What a live listener hears when frames are lost on the way.

    Args:
        codec: made the codes.
        codes: [B, K, T] int64 in [0, V).
        lost: [T] bool, True where a frame does not come.
        conceal: carry on where frames are missing; else silence stands in for them.
        glide: the listener waits for the frame after a gap, as a reader of a pipe does, so the sound can glide to it.

    Returns:
        [B, 1, T * hop_length] float32.

    Raises:
        ValueError: ``lost`` is not [T].
    """
    if lost.shape != codes.shape[-1:]:
        raise ValueError(f"expected lost [T] = {list(codes.shape[-1:])}, got {list(lost.shape)}")
    session = codec.streaming_decoder()
    pieces, at = [session.push(codes[..., :0])], 0  # tells B, should the first frame be lost
    gone, counts = torch.unique_consecutive(lost.cpu(), return_counts=True)
    for missing, count in zip(gone.tolist(), counts.tolist(), strict=True):
        end = at + count
        if missing:
            following = codes[..., end : end + 1] if glide and conceal and end < codes.shape[-1] else None
            pieces.append(session.conceal(count, following, silent=not conceal))
        else:
            pieces.append(session.push(codes[..., at:end]))
        at = end
    return torch.cat([*pieces, session.flush()], dim=-1)
