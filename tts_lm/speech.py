"""Conversion of codes to a waveform, whole or streamed, with trimming, levels and pauses; provenance tags."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from audiotok import __version__

from .decoding.engine import Answer
from .decoding.sampling import FinishReason
from .sentences import REASONS
from .voices import LEVEL_DB

PAUSE_SECONDS = 0.25
"""Silence between sentences, in addition to the silence that :class:`Trimmer` keeps."""
LEAD_SECONDS, TAIL_SECONDS = 0.05, 0.1
"""Longest silence before the first sound of a sentence and after its last sound."""
FIRST_FRAMES, MOST_FRAMES = 8, 100
"""Frames of the first and of the longest chunk of a stream. Each chunk is twice as long as the one before."""
AHEAD = 6
"""Lookahead frames of a streamed chunk, because the NAR model attends in both directions."""
_ONSET_DB = LEVEL_DB - 27.0  # a sentence begins with its first frame above this
_END_DB = -30.0  # a sentence ends with its last frame above this, relative to its loudest frame so far

FirstCodes = Generator[int, None, Answer]
"""Codes of codebook 0 as the AR model draws them; returns the whole answer."""


@dataclass(frozen=True)
class Speech:
    """The speech of a text."""

    wav: Tensor
    """[N] float32 in [-1, 1]."""
    sampling_rate: int
    """Hz."""
    codes: Tensor
    """[K, T] int64, K filled codebooks, without the pauses between sentences."""
    finish_reason: FinishReason
    """``eos`` if every sentence ended with ``</audio>``, else the worst reason of all sentences."""

    @property
    def seconds(self) -> float:
        """Length."""
        return self.wav.shape[-1] / self.sampling_rate


@dataclass(frozen=True)
class SpeechChunk:
    """A piece of streamed speech."""

    wav: Tensor
    """[n] float32 in [-1, 1]."""
    sampling_rate: int
    """Hz."""
    codes: Tensor
    """[K, t] int64, the frames of ``wav``; none for a pause."""
    finish_reason: FinishReason | None = None
    """Finish reason of the sentence, on its last chunk."""


@dataclass(frozen=True)
class Said:
    """A synthesized sentence."""

    codes: Tensor
    """[K, T] int64."""
    finish_reason: FinishReason
    gain: float = 1.0
    """Factor that brings the voice to the common level."""


class Trimmer:
    """Finds the frames of a sentence to keep, without its silent ends, while it is being generated.

    The AR model generates up to 200 ms of silence before the first sound and 40 to 400 ms after the last. The first
    sound is the first frame above an absolute level, so the wav must be at :data:`~tts_lm.voices.LEVEL_DB`. The last
    sound is the last frame above a level relative to the loudest frame so far, which makes the result independent of
    the chunks. On 30 recordings, -30 dB and 100 ms cut audible sound from 3 %, at most 40 ms of it.

    Args:
        hop_length: samples per frame.
        frame_rate: frame rate in Hz.
    """

    def __init__(self, hop_length: int, frame_rate: float) -> None:
        self._hop = hop_length
        self._lead = max(
            0, int(LEAD_SECONDS * frame_rate) - 1
        )  # the sound begins somewhere in its first frame
        self._tail = max(1, round(TAIL_SECONDS * frame_rate))
        self._rest = np.zeros(0, dtype=np.float32)
        self._peak, self._frames, self._loud = 0.0, 0, 0
        self._start: int | None = None

    def push(self, wav: Tensor, is_last: bool = False) -> tuple[int, int]:
        """Add samples.

        Args:
            wav: [n] float32, the next samples.
            is_last: whether these are the last samples of the sentence.

        Returns:
            The frames [start, stop) that are certain to be kept. A silent sentence keeps its first 100 ms.
        """
        samples = np.concatenate((self._rest, wav.numpy()))
        count = len(samples) // self._hop
        self._rest = samples[count * self._hop :]
        if count:
            power = np.square(samples[: count * self._hop].reshape(count, -1), dtype=np.float64).mean(axis=1)
            peaks = np.maximum.accumulate(np.append(self._peak, power))[1:]
            if self._start is None and len(onset := np.nonzero(power > 10 ** (_ONSET_DB / 10))[0]):
                self._start = max(0, self._frames + int(onset[0]) - self._lead)
            loud = np.nonzero(power >= 10 ** (_END_DB / 10) * peaks)[0]
            self._loud = self._frames + int(loud[-1]) + 1 if len(loud) else self._loud
            self._peak, self._frames = float(peaks[-1]), self._frames + count
        if self._start is None:
            return 0, min(self._tail, self._frames) if is_last else 0
        return self._start, min(self._loud + self._tail, self._frames)


def join_sentences(said: Sequence[Said], codec: Any) -> Speech:
    """Decode the sentences of one text and join them with pauses.

    Args:
        said: sentences in order, at least one.
        codec: codec of the codes.
    """
    config = codec.config
    pause = torch.zeros(int(PAUSE_SECONDS * config.sampling_rate))
    wavs: list[Tensor] = []
    kept: list[Tensor] = []
    with torch.inference_mode():
        for sentence in said:
            wav = _mono(codec.decode(sentence.codes[None]).audio_values, sentence.gain)
            start, stop = Trimmer(config.hop_length, config.frame_rate).push(wav, is_last=True)
            wavs += [pause] * bool(wavs) + [wav[start * config.hop_length : stop * config.hop_length]]
            kept.append(sentence.codes[:, start:stop])
    worst = REASONS[max(REASONS.index(sentence.finish_reason) for sentence in said)]
    return Speech(torch.cat(wavs).clone(), config.sampling_rate, torch.cat(kept, dim=1).cpu(), worst)


def pause_chunk(sampling_rate: int) -> SpeechChunk:
    """The pause between two sentences of a stream."""
    pause = torch.zeros(int(PAUSE_SECONDS * sampling_rate))
    return SpeechChunk(pause, sampling_rate, torch.zeros(0, 0, dtype=torch.int64))


def stream_sentence(
    first_codes: FirstCodes, fill: Callable[[Tensor], Tensor], codec: Any, gain: float = 1.0
) -> Generator[SpeechChunk, None, Answer]:
    """Decode one sentence while it is being generated.

    The NAR model fills each chunk with all frames before it and :data:`AHEAD` frames after it as context. Silence is
    held back until sound follows, because the silence at the end is cut.

    Args:
        first_codes: generator of codebook 0.
        fill: maps codes [T] of codebook 0 to codes [K, T].
        codec: codec of the codes.
        gain: factor of the samples, as in :class:`Said`.

    Yields:
        Chunks; the last has the finish reason.

    Returns:
        The AR model's answer, with the silence at its end.
    """
    sentence = _StreamedSentence(codec, gain)
    first: list[int] = []
    given, size = 0, FIRST_FRAMES
    while True:
        try:
            first.append(next(first_codes))
        except StopIteration as stopped:
            answer: Answer = stopped.value
            break
        if len(first) >= given + size + AHEAD:
            chunk = sentence.push(fill(torch.tensor(first))[:, given : given + size])
            given, size = given + size, min(2 * size, MOST_FRAMES)
            if len(chunk.wav):
                yield chunk
    first = answer.codes.tolist()
    rest = fill(torch.tensor(first))[:, given:] if len(first) > given else None
    yield sentence.push(rest, answer.finish_reason)
    return answer


class _StreamedSentence:
    """Decodes the codes of a sentence chunk by chunk."""

    def __init__(self, codec: Any, gain: float) -> None:
        config = codec.config
        self._session, self._gain = codec.streaming_decoder(), gain
        self._rate, self._hop = config.sampling_rate, config.hop_length
        self._trimmer = Trimmer(config.hop_length, config.frame_rate)
        self._codes, self._wav = torch.zeros(0, 0, dtype=torch.int64), torch.zeros(0)
        self._given = 0  # frames

    def push(self, codes: Tensor | None, reason: FinishReason | None = None) -> SpeechChunk:
        """Decode codes [K, t] or None to a chunk of samples that are certain to be kept. The last call has a reason."""
        wav = torch.zeros(0)
        if codes is not None:
            wav = _mono(self._session.push(codes[None]), self._gain)
            self._codes = torch.cat((self._codes, codes.cpu()), dim=1) if self._codes.numel() else codes.cpu()
        if reason is not None and self._codes.numel():
            wav = torch.cat((wav, _mono(self._session.flush(), self._gain)))
        self._wav = torch.cat((self._wav, wav))
        start, stop = self._trimmer.push(wav, reason is not None)
        start = max(start, self._given)
        self._given = stop = max(start, stop)
        wav = self._wav[start * self._hop : stop * self._hop]
        return SpeechChunk(wav, self._rate, self._codes[:, start:stop], reason)


def whole_answer(answer: Answer) -> FirstCodes:
    """A complete answer in the form that :func:`stream_sentence` takes."""
    yield from answer.codes.tolist()
    return answer


def provenance_tag(text: str, voice: str, settings: object) -> str:
    """The comment that marks a file as generated speech.

    Args:
        text: text of the speech. The tag has only its digest.
        voice: name of the voice.
        settings: everything else the audio depends on, such as model, seed and sampling.
    """
    digest = hashlib.sha256(f"{text}\n{settings}".encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"Generated speech, not a recording: tts-lm {__version__}, voice {voice}, request {digest}"


def _mono(wav: Tensor, gain: float) -> Tensor:
    return (gain * wav[0, 0].float().cpu()).clamp(-1.0, 1.0)
