"""A clip and its words -> a voice: codes that both halves go on from.

Knows nothing of models but the codec. The law it keeps: what it hands on is what the language model has learnt from,
sound without silent ends whose every word is in the text; a clip that cannot be that is refused.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from audiotok import resample

from .text import normalise
from .voices import NOT_STATED, OTHER_VOICE, Voice

SHORTEST_SECONDS = 1.0
LONGEST_SECONDS = 8.0  # with a sentence after it, about what was learnt from
_SILENT_DB = -40.0  # below the loudest 20 ms
_MS_PER_LETTER = (25.0, 250.0)  # no one reads faster or slower


def clone_voice(wav: Tensor, sampling_rate: int, text: str, codec: Any, name: str = "clip") -> Voice:
    """The voice of a clip.

    Args:
        wav: [N] or [1, N] float32 in [-1, 1], 1 to 8 s between its silent ends.
        sampling_rate: of it, in Hz.
        text: exactly what is said in it.
        codec: the language model's.
        name: of the voice.

    Raises:
        TypeError: text is not a str.
        ValueError: the clip is too short, too long or silent, or the text cannot be what is said in it.
    """
    if wav.ndim > 2 or (wav.ndim == 2 and wav.shape[0] != 1) or not wav.numel():
        raise ValueError(
            f"expected the clip as wav [N] or [1, N], got {list(wav.shape)}; average its channels"
        )
    spoken = normalise(text)
    rate = codec.config.sampling_rate
    sound = trim(resample(wav.detach().float().reshape(1, -1), sampling_rate, rate), rate)
    seconds = sound.shape[-1] / rate
    if not SHORTEST_SECONDS <= seconds <= LONGEST_SECONDS:
        raise ValueError(
            f"expected {SHORTEST_SECONDS:g} to {LONGEST_SECONDS:g} s of speech in the clip, got {seconds:.1f} s "
            "between its silent ends; cut it, and its text with it"
        )
    pace = 1000 * seconds / sum(c.isalpha() for c in spoken)
    if not _MS_PER_LETTER[0] <= pace <= _MS_PER_LETTER[1]:
        raise ValueError(
            f"expected the text to be what is said in the clip, got {pace:.0f} ms a letter (25 to 250 is speech); "
            "write down exactly its words"
        )
    device = next(codec.parameters()).device
    with torch.inference_mode():
        codes = codec.encode(sound[None].to(device)).audio_codes[0].cpu()
    card = {"description": "a speaker of a clip"} | dict.fromkeys(
        ("license", "attribution", "consent"), NOT_STATED
    )
    return Voice(name, OTHER_VOICE, codes.clone(), card | {"text": text}, text)


def trim(wav: Tensor, sampling_rate: int) -> Tensor:
    """Cut silent ends.

    Args:
        wav: [1, N] float32, N >= 1.
        sampling_rate: Hz.

    Returns:
        [1, n] from the first to the last 20 ms that are not 40 dB below the loudest.

    Raises:
        ValueError: all of it is silence.
    """
    step = max(1, sampling_rate // 50)
    padded = torch.nn.functional.pad(wav, (0, -wav.shape[-1] % step))
    power = padded.reshape(-1, step).square().mean(1)
    if not float(power.max()) > 0:
        raise ValueError("expected speech in the clip, got silence; choose another")
    loud = torch.nonzero(power > power.max() * 10 ** (_SILENT_DB / 10))[:, 0]
    return wav[:, int(loud[0]) * step : (int(loud[-1]) + 1) * step]
