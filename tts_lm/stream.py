"""Sound while it is being said: codebook 0 as it comes, the levels above on chunks with overlap, the codec's session.

Knows nothing of texts or of how codes are drawn. The laws it keeps: for given codes of codebook 0 every frame is given
out once, in order; the levels of a chunk are filled with all that was said before it and a little of what comes after.

The NAR half looks both ways. Of a sentence that is still being said it sees the beginning, so the last frames of a
chunk lack what follows: ``AHEAD`` frames are waited for, which are filled again with the next chunk. The chunks grow,
so that the first sound comes soon and the passes over the growing beginning stay few.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .ar import Answer
from .sampling import FinishReason

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


def stream_sentence(said: FirstCodes, fill: Callable[[Tensor], Tensor], codec: Any) -> Iterator[SpeechChunk]:
    """Speak one sentence.

    Args:
        said: codebook 0.
        fill: codes [T] of codebook 0 to codes [K, T] of all.
        codec: what opens a streaming decoder.

    Yields:
        Chunks; the last has the finish reason.
    """
    session, rate = codec.streaming_decoder(), codec.config.sampling_rate
    first: list[int] = []
    given, size = 0, FIRST_FRAMES
    answer: Answer | None = None

    def piece(end: int) -> tuple[Tensor, Tensor]:
        codes = fill(torch.tensor(first))[:, given:end]
        return codes.cpu(), _clip(session.push(codes[None]))

    while answer is None:
        try:
            first.append(next(said))
        except StopIteration as stopped:
            answer = stopped.value
            assert answer is not None
            break
        if len(first) >= given + size + AHEAD:
            codes, wav = piece(given + size)
            given, size = given + size, min(2 * size, MOST_FRAMES)
            yield SpeechChunk(wav, rate, codes)
    first = answer.codes.tolist()
    codes, wav = torch.zeros(0, 0, dtype=torch.int64), torch.zeros(0)
    if len(first) > given:
        codes, wav = piece(len(first))
    tail = _clip(session.flush()) if given or len(first) else torch.zeros(0)
    yield SpeechChunk(torch.cat((wav, tail)), rate, codes, answer.finish_reason)


def whole_answer(answer: Answer) -> FirstCodes:
    """An answer that is there already, as one that is being said."""
    yield from answer.codes.tolist()
    return answer


def _clip(wav: Tensor) -> Tensor:
    return wav[0, 0].float().cpu().clamp(-1.0, 1.0)
