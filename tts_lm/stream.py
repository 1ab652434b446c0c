"""Sound while it is being said: codebook 0 as it comes, the levels above on chunks with overlap, the codec's session.

Knows nothing of texts or of how codes are drawn. The laws it keeps: for given codes of codebook 0 every frame is given
out once, in order; the levels of a chunk are filled with all that was said before it and a little of what comes after.

The NAR half looks both ways. Of a sentence that is still being said it sees the beginning, so the last frames of a
chunk lack what follows: ``AHEAD`` frames are waited for, which are filled again with the next chunk. The chunks grow,
so that the first sound comes soon and the passes over the growing beginning stay few. Silence is kept back until sound
follows it, so that what ends a sentence can be cut (tts_lm/endings.py).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .decoding.engine import Answer
from .decoding.sampling import FinishReason
from .endings import Ending

FIRST_FRAMES = 8
AHEAD = 6
MOST_FRAMES = 100
FirstCodes = Generator[int, None, Answer]
"""Codes of codebook 0 as they are said, and the answer that counts in the end."""


@dataclass(frozen=True)
class SpeechChunk:
    """A piece of speech that is being made."""

    wav: Tensor
    """[n] float32 in [-1, 1]."""
    sampling_rate: int
    """Hz."""
    codes: Tensor
    """[K, t] int64, the frames that were new in it; the sound is up to half a synthesis window behind them."""
    finish_reason: FinishReason | None = None
    """How its sentence ended, with the last piece of it."""


def stream_sentence(
    said: FirstCodes, fill: Callable[[Tensor], Tensor], codec: Any
) -> Generator[SpeechChunk, None, Answer]:
    """Speak one sentence.

    Args:
        said: codebook 0.
        fill: codes [T] of codebook 0 to codes [K, T] of all.
        codec: what opens a streaming decoder.

    Yields:
        Chunks; the last has the finish reason.

    Returns:
        The answer, with the silence at its end.
    """
    sound = _Sound(codec)
    first: list[int] = []
    given, size = 0, FIRST_FRAMES
    while True:
        try:
            first.append(next(said))
        except StopIteration as stopped:
            answer: Answer = stopped.value
            break
        if len(first) >= given + size + AHEAD:
            chunk = sound.push(fill(torch.tensor(first))[:, given : given + size])
            given, size = given + size, min(2 * size, MOST_FRAMES)
            if len(chunk.wav):
                yield chunk
    first = answer.codes.tolist()
    rest = (
        fill(torch.tensor(first))[:, given:] if len(first) > given else torch.zeros(0, 0, dtype=torch.int64)
    )
    yield sound.push(rest, answer.finish_reason)
    return answer


class _Sound:
    """Codes of a sentence to sound, a piece at a time, and silence kept back."""

    def __init__(self, codec: Any) -> None:
        config = codec.config
        self._session = codec.streaming_decoder()
        self._rate, self._hop = config.sampling_rate, config.hop_length
        self._ending = Ending(config.hop_length, config.frame_rate)
        self._codes, self._wav = torch.zeros(0, 0, dtype=torch.int64), torch.zeros(0)  # kept back
        self._frames = self._samples = 0  # given out
        self._begun = False

    def push(self, codes: Tensor, reason: FinishReason | None = None) -> SpeechChunk:
        """Codes [K, t] to a chunk of what stays, whatever follows. With a reason they are the last ones."""
        wav = torch.zeros(0)
        if codes.shape[1]:
            wav = _clip(self._session.push(codes[None]))
            codes = codes.cpu()
            self._codes = torch.cat((self._codes, codes), dim=1) if self._codes.numel() else codes
            self._begun = True
        if reason is not None and self._begun:
            wav = torch.cat((wav, _clip(self._session.flush())))
        self._wav = torch.cat((self._wav, wav))
        kept = self._ending.push(wav)
        frames, samples = max(0, kept - self._frames), max(0, kept * self._hop - self._samples)
        chunk = SpeechChunk(self._wav[:samples], self._rate, self._codes[:, :frames], reason)
        self._codes, self._wav = self._codes[:, frames:], self._wav[samples:]
        self._frames, self._samples = self._frames + chunk.codes.shape[1], self._samples + len(chunk.wav)
        return chunk


def whole_answer(answer: Answer) -> FirstCodes:
    """An answer that is there already, as one that is being said."""
    yield from answer.codes.tolist()
    return answer


def _clip(wav: Tensor) -> Tensor:
    return wav[0, 0].float().cpu().clamp(-1.0, 1.0)
