"""What a live decoder plays where packets are missing: the latents carried on, and a fade to silence.

Knows nothing of networks, codes or packets, so it serves any decoder that turns latents into sound. The law it keeps:
a loss told in one piece or in several sounds the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

HOLD_S = 0.02
"""How long the last sound is carried on in full. One lost packet of 20 ms passes almost unheard."""

FADE_S = 0.14
"""How long it then takes to fall silent: what goes on longer than a vowel's rest begins to sound like a buzzer."""


def carry_on(last: Tensor, frames: int, following: Tensor | None = None) -> Tensor:
    """Latents for frames that did not come.

    Args:
        last: [B, D, 1] float32, the latest before the gap.
        frames: length of the gap, at least 1.
        following: [B, D, 1] float32, the first after the gap if it is known; None repeats ``last``.

    Returns:
        [B, D, frames] float32: ``last``, or a straight way from it to ``following``.
    """
    if following is None:
        return last.expand(-1, -1, frames)
    way = torch.arange(1, frames + 1, dtype=last.dtype, device=last.device) / (frames + 1)
    return torch.lerp(last, following, way)


def fade(before_s: float, windows: int, window_s: float, until_s: float | None = None) -> Tensor:
    """Gains of synthesis windows inside a gap.

    Args:
        before_s: how much of the gap lies before the first of these windows.
        windows: how many are asked for.
        window_s: time from one to the next.
        until_s: time from the first of these windows to the end of the gap, where the sound comes back; None: unknown.

    Returns:
        [windows] float32 in [0, 1].
    """
    at_s = torch.arange(windows, dtype=torch.float64) * window_s
    gains = _gain(before_s + at_s)
    if until_s is not None:
        gains = torch.maximum(gains, _gain(until_s - window_s - at_s))
    return gains.float()


def _gain(gone_s: Tensor) -> Tensor:
    """1 for :data:`HOLD_S`, then a cosine's half turn to 0 within :data:`FADE_S`."""
    share = ((gone_s - HOLD_S) / FADE_S).clamp(0.0, 1.0)
    return 0.5 + 0.5 * torch.cos(torch.pi * share)
