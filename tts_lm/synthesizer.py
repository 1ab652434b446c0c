"""Text-to-speech pipeline: text -> phonemes -> AR model -> NAR model -> codec -> wav."""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from audiotok import __version__, load_codec, write_json

from .decoding.engine import (
    Answer,
    ArDecoder,
    FinishReason,
    FrameLimits,
    Sampling,
    build_prompt,
    frame_limits,
)
from .folder import (
    CARD,
    FORMAT_VERSION,
    claim_folder,
    drop_part,
    find_checkpoint,
    load_part,
    load_tokenizer_part,
    read_card,
)
from .models.ar import character_ids, save_ar
from .models.nar import NarConfig, NarModel
from .models.reranker import Reranker, RerankerConfig
from .text import PUNCTUATION, normalise, phonemes, pronounce_text, split_phonemes, split_sentences
from .voices import (
    LEVEL_DB,
    PROMPT_SECONDS,
    Voice,
    clone_voice,
    find_voice,
    load_voices,
    save_voices,
    voice_gain,
)

PAUSE_SECONDS = 0.25
"""Silence between sentences, in addition to the silence that :class:`Trimmer` keeps."""
LEAD_SECONDS, TAIL_SECONDS = 0.05, 0.1
"""Longest silence before the first sound of a sentence and after its last sound."""
FIRST_FRAMES, MOST_FRAMES = 8, 100
"""Frames of the first and of the longest chunk of a stream. Each chunk is twice as long as the one before."""
AHEAD = 6
"""Lookahead frames of a streamed chunk, because the NAR model attends in both directions."""
ATTEMPTS = 3
"""A sentence whose generation did not end with ``</audio>`` is sampled again, up to this many times in all."""
ROWS_AT_ONCE = 16
REASONS: tuple[FinishReason, ...] = ("eos", "silence", "length", "loop")
"""Finish reasons from good to bad."""
MAX_SYMBOLS, MAX_PROMPTED = 160, 100
"""Longest sentence in phonemes or letters, alone and after the transcript of a voice prompt."""
_ONSET_DB = LEVEL_DB - 27.0  # a sentence begins with its first frame above this
_END_DB = -30.0  # a sentence ends with its last frame above this, relative to its loudest frame so far
Progress = Callable[[int, int], None] | None
"""Called with (sentences done, sentences)."""


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
class Sentence:
    """A sentence and its prompt for the AR model."""

    spoken: str
    """Its phonemes."""
    ids: list[int]
    """Their ids."""
    prompt: list[int]
    limits: FrameLimits
    seed: int
    row: int
    """Index in the text. The sampling noise depends on it and on the seed."""
    voice: Voice


@dataclass(frozen=True)
class Said:
    """A synthesized sentence."""

    codes: Tensor
    """[K, T] int64."""
    finish_reason: FinishReason
    gain: float = 1.0
    """Factor that brings the voice to the common level."""


class Synthesizer:
    """Text-to-speech pipeline. Load one with :meth:`from_pretrained`.

    The speech of a sentence does not depend on the other sentences of a text or batch.

    Args:
        ar: the AR model, a stock Llama made by :func:`tts_lm.models.ar.build_ar`.
        nar: the NAR model.
        codec: an ``audiotok`` codec.
        tokenizer: the ``audiotok`` tokenizer of the AR model.
        voices: voices by name; the first is the default.
        codec_name: name of a shipped codec; None saves the codec's weights with the other parts.
        sampling: default sampling settings.
        reranker: scores the candidates of a sentence. Without one, ``best_of`` must be 1.

    Raises:
        ValueError: the parts belong to different codecs.
    """

    def __init__(
        self,
        ar: Any,
        nar: NarModel,
        codec: Any,
        tokenizer: Any,
        voices: dict[str, Voice],
        codec_name: str | None = None,
        sampling: Sampling | None = None,
        reranker: Reranker | None = None,
    ) -> None:
        parts = {
            "AR": ar.config.audio["codes_fingerprint"],
            "NAR": nar.config.codes_fingerprint,
            "tokenizer": tokenizer.codes_fingerprint,
        }
        if reranker is not None:
            parts["reranker"] = reranker.config.codes_fingerprint
        for part, fingerprint in parts.items():
            if fingerprint != codec.codes_fingerprint:
                raise ValueError(
                    f"the {part} was trained on codes {fingerprint}, but the codec has {codec.codes_fingerprint}; "
                    "use the codec it was trained on"
                )
        self.ar, self.nar, self.codec, self.tokenizer = ar.eval(), nar.eval(), codec, tokenizer
        self.voices = voices
        self.codec_name = codec_name
        self.sampling = sampling or Sampling()
        self.reranker = reranker.eval() if reranker is not None else None
        self.device = next(nar.parameters()).device
        self.frame_rate = float(codec.config.frame_rate)
        self.decoder = ArDecoder(ar)
        self._symbols = character_ids(tokenizer)
        self._gains: WeakKeyDictionary[Voice, float] = WeakKeyDictionary()
        with torch.inference_mode():  # a generation of nothing but these codes is stopped
            silence = torch.zeros(1, 1, 2 * codec.config.sampling_rate, device=self.device)
            self.silent = frozenset(codec.encode(silence).audio_codes[0, 0].unique().tolist())

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        codec: Any = None,
    ) -> Synthesizer:
        """Load a pipeline from disk, without network access.

        Args:
            name_or_path: a shipped name (None: the default) or a folder of :meth:`save_pretrained`.
            device: device of the models.
            dtype: dtype of the AR and NAR models, float32 or bfloat16.
            codec: a loaded codec; None loads the codec that the folder names.

        Raises:
            FileNotFoundError: the folder or a part of it is missing.
            ValueError: the folder has another format, or the codec has another fingerprint.
        """
        folder = find_checkpoint(name_or_path)
        card = read_card(folder)
        numbers = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(dtype)
        if numbers is None:
            raise ValueError(f"expected dtype float32 or bfloat16, got {dtype!r}")
        try:
            sampling = Sampling(**card.get("sampling", {}))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{folder / CARD}: {error}") from None
        if codec is None:
            codec = load_codec(card["codec"] or folder / "codec", device=device)
        if codec.codes_fingerprint != card["codes_fingerprint"]:
            raise ValueError(
                f"{folder} was trained on codes {card['codes_fingerprint']}, but the codec {card['codec'] or 'in it'} "
                f"has {codec.codes_fingerprint}; use the codec it was trained on"
            )
        ar = load_part(AutoModelForCausalLM, folder / "ar", "llama", numbers).to(device)
        nar = load_part(NarModel, folder / "nar", NarConfig.model_type, numbers).to(device)
        reranker = None
        if any((folder / "reranker" / name).exists() for name in ("config.json", "model.safetensors")):
            reranker = load_part(Reranker, folder / "reranker", RerankerConfig.model_type).to(device)
        voices = load_voices(folder / "voices", codec.config.n_q, codec.config.codebook_size)
        if not voices:
            raise FileNotFoundError(f"no voices (NAME.json, NAME.safetensors) in {folder / 'voices'}")
        tokenizer = load_tokenizer_part(folder / "ar")
        return cls(ar, nar, codec, tokenizer, voices, card["codec"], sampling, reranker)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write all parts into one self-contained folder.

        Args:
            folder: a new or empty folder, or a saved synthesizer to replace. Other files in it are kept.

        Raises:
            FileExistsError: the folder holds something else.
        """
        folder = claim_folder(folder)
        save_ar(self.ar, folder / "ar", self.tokenizer)
        self.nar.save_pretrained(folder / "nar")
        drop_part(folder / "reranker")
        if self.reranker is not None:
            self.reranker.save_pretrained(folder / "reranker")
        save_voices(self.voices.values(), folder / "voices")
        if self.codec_name is None:
            self.codec.save_pretrained(folder / "codec")
        card = {
            "format_version": FORMAT_VERSION,
            "codec": self.codec_name,
            "codes_fingerprint": self.codec.codes_fingerprint,
            "sampling": vars(self.sampling),
        }
        write_json(folder / CARD, card)

    def say(
        self,
        text: str,
        voice: str | Voice | None = None,
        seed: int = 0,
        progress: Progress = None,
        **sampling: Any,
    ) -> Speech:
        """Synthesize a text of any length.

        Args:
            text: English text. It is synthesized sentence by sentence with the same voice prompt.
            voice: a name in ``self.voices`` or a :class:`Voice` from :meth:`clone_voice`; None is the default voice.
            seed: seed of the sampling noise.
            progress: called with (sentences done, sentences).
            **sampling: fields of :class:`~tts_lm.decoding.engine.Sampling` to change, such as ``temperature=0.6``.

        Raises:
            TypeError: text is not a str, seed not an int, or a sampling field is unknown or not a number.
            ValueError: nothing in the text can be spoken, the voice is unknown, or a sampling value is out of
                range.
        """
        return self.join(self.speak(self.plan(text, voice, seed), progress, **sampling))

    def say_batch(
        self,
        texts: Sequence[str],
        voice: str | Voice | None = None,
        seed: int | Sequence[int] = 0,
        progress: Progress = None,
        **sampling: Any,
    ) -> list[Speech]:
        """Synthesize many texts at once. Each result equals that of :meth:`say` with the same seed.

        Args:
            texts: as for :meth:`say`.
            voice: one voice for all texts, as for :meth:`say`.
            seed: one seed for all texts, or one for each.
            progress: as for :meth:`say`.
            **sampling: as for :meth:`say`.

        Raises:
            TypeError: texts is not a sequence of str, or as :meth:`say`.
            ValueError: as :meth:`say`, or the numbers of seeds and texts differ. Nothing is synthesized then.
        """
        if isinstance(texts, str) or not isinstance(texts, Sequence):
            raise TypeError(f"expected a list of texts, got {type(texts).__name__}; use say() for one text")
        seeds = list(seed) if isinstance(seed, list | tuple | range) else [seed] * len(texts)
        if len(seeds) != len(texts):
            raise ValueError(f"expected one seed, or one for each of {len(texts)} texts, got {len(seeds)}")
        plans = [self.plan(text, voice, one) for text, one in zip(texts, seeds, strict=True)]
        said = iter(self.speak([sentence for plan in plans for sentence in plan], progress, **sampling))
        return [self.join([next(said) for _ in plan]) for plan in plans]

    def plan(self, text: str, voice: str | Voice | None = None, seed: Any = 0) -> list[Sentence]:
        """Cut a text into sentences of phonemes and build the AR prompt of each. Arguments and errors as :meth:`say`.

        A voice with a ``prompt_text`` has its transcript and codes in the prompt, and the AR model continues them
        (VALL-E, arXiv:2301.02111, section 4.3). Another voice is selected by its control token.
        """
        voice = self.voice(voice)
        if isinstance(seed, bool) or not hasattr(seed, "__index__"):
            raise TypeError(f"expected seed to be an int, got {seed!r}")
        ids = self._symbols
        boundary = " " if " " in ids else "_"
        before: list[int] = []
        for sentence in self._sentences(voice.prompt_text) if voice.prompt_text else ():
            before += [*(ids[symbol] for symbol in sentence), ids[boundary]]
        codes = (voice.codes[0] + self.tokenizer.audio_offset).tolist() if before else []
        out = []
        for row, spoken in enumerate(self._sentences(text, MAX_PROMPTED if before else MAX_SYMBOLS)):
            own = [ids[symbol] for symbol in spoken]
            prompt = build_prompt(self.tokenizer, before + own, voice.index) + codes
            limits = frame_limits(sum(symbol != boundary for symbol in spoken), self.frame_rate)
            written = spoken if isinstance(spoken, str) else " ".join(spoken)
            out.append(Sentence(written, own, prompt, limits, operator.index(seed), row, voice))
        return out

    def _sentences(self, text: str, limit: int = MAX_SYMBOLS) -> Sequence[Sequence[str]]:
        """Sentences of at most ``limit`` symbols of the model: characters for phonemes and letters, or ``PHONEMES``."""
        if " " in self._symbols:
            return [pronounce_text(sentence) for sentence in split_sentences(normalise(text), limit)]
        return split_phonemes(phonemes(text), limit)

    def speak(self, sentences: Sequence[Sentence], progress: Progress = None, **sampling: Any) -> list[Said]:
        """Synthesize sentences of many texts and voices at once. Each result equals that of a call of its own.

        Sentences come from :meth:`plan`, in any order. The other arguments and the errors are those of :meth:`say`.
        """
        settings = replace(self.sampling, **sampling)
        answers = self.generate(sentences, settings, progress)
        return [
            Said(self._fill(s, answer.codes, settings.n_q), answer.finish_reason, self._gain(s.voice))
            for s, answer in zip(sentences, answers, strict=True)
        ]

    def generate(
        self, sentences: Sequence[Sentence], sampling: Sampling, progress: Progress = None
    ) -> list[Answer]:
        """Generate codebook 0 of every sentence: the best of ``sampling.best_of`` candidates and of three attempts.

        Raises ValueError for several candidates without a reranker.
        """
        if sampling.best_of > 1 and self.reranker is None:
            raise ValueError(f"expected best_of 1 for a model without a reranker, got {sampling.best_of}")
        best: dict[int, tuple[int, float, Answer]] = {}
        waiting = sorted(range(len(sentences)), key=lambda index: len(sentences[index].prompt))
        for attempt in range(ATTEMPTS):
            candidates = [(index, nth) for index in waiting for nth in range(sampling.best_of)]
            for start in range(0, len(candidates), ROWS_AT_ONCE):
                group = candidates[start : start + ROWS_AT_ONCE]
                rows = [sentences[index] for index, _ in group]
                # Each sentence, attempt and candidate has its own row of noise.
                keys = [
                    (row.seed, row.row + (attempt << 32) + (nth << 40))
                    for row, (_, nth) in zip(rows, group, strict=True)
                ]
                prompts, limits = [row.prompt for row in rows], [row.limits for row in rows]
                answers = self.decoder.generate(prompts, limits, keys, sampling, self.silent)
                for (index, _), row, answer in zip(group, rows, answers, strict=True):
                    score = 0.0
                    if self.reranker is not None and sampling.best_of > 1:
                        score = self.reranker.score(answer.codes, row.spoken)
                    scored = (REASONS.index(answer.finish_reason), -score, answer)
                    if index not in best or scored[:2] < best[index][:2]:
                        best[index] = scored
                if progress is not None and not attempt:
                    left = (len(candidates) - start - len(group)) / sampling.best_of
                    progress(len(sentences) - math.ceil(left), len(sentences))
            waiting = [index for index in waiting if best[index][0] > 0]
        return [best[index][2] for index in range(len(sentences))]

    def _fill(self, sentence: Sentence, first: Tensor, n_q: int) -> Tensor:
        """Codes [K, T] of a sentence, or of its beginning, from codebook 0 [T]."""
        longest = int(PROMPT_SECONDS * self.frame_rate)  # the longest prompt of the NAR model's training
        return self.nar.fill(
            first[None].to(self.device),
            torch.tensor([sentence.ids], device=self.device),
            torch.tensor([sentence.voice.index], device=self.device),
            sentence.voice.codes[None, :, :longest].to(self.device),
            n_q=n_q or None,
        )[0]

    def _gain(self, voice: Voice) -> float:
        if voice not in self._gains:
            self._gains[voice] = voice_gain(voice, self.codec)
        return self._gains[voice]

    def join(self, said: Sequence[Said]) -> Speech:
        """Decode the sentences of one text, at least one, and join them with pauses."""
        config = self.codec.config
        hop, pause = config.hop_length, torch.zeros(int(PAUSE_SECONDS * config.sampling_rate))
        wavs: list[Tensor] = []
        kept: list[Tensor] = []
        with torch.inference_mode():
            for sentence in said:
                wav = _mono(self.codec.decode(sentence.codes[None]).audio_values, sentence.gain)
                start, stop = Trimmer(hop, config.frame_rate).push(wav, is_last=True)
                wavs += [pause] * bool(wavs) + [wav[start * hop : stop * hop]]
                kept.append(sentence.codes[:, start:stop])
        worst = REASONS[max(REASONS.index(sentence.finish_reason) for sentence in said)]
        return Speech(torch.cat(wavs).clone(), config.sampling_rate, torch.cat(kept, dim=1).cpu(), worst)

    def stream(
        self, text: str, voice: str | Voice | None = None, seed: int = 0, **sampling: Any
    ) -> Iterator[SpeechChunk]:
        """Synthesize a text as a stream of chunks.

        Args:
            text: as for :meth:`say`.
            voice: as for :meth:`say`.
            seed: as for :meth:`say`.
            **sampling: as for :meth:`say`, but ``best_of`` is 1 by default. With more candidates, the first chunk of a
                sentence waits until all its candidates are complete.

        Yields:
            Chunks of audio. The last chunk of a sentence has its finish reason. With equal codes of codebook 0, the
            other codebooks may differ from those of :meth:`say` where chunks meet.

        Raises:
            TypeError, ValueError: as :meth:`say`, before the first chunk.
        """
        settings = replace(self.sampling, **({"best_of": 1} | sampling))
        return self._stream(self.plan(text, voice, seed), settings)

    def _stream(self, sentences: list[Sentence], sampling: Sampling) -> Iterator[SpeechChunk]:
        rate = self.codec.config.sampling_rate
        for index, sentence in enumerate(sentences):
            if index:
                pause = torch.zeros(int(PAUSE_SECONDS * rate))
                yield SpeechChunk(pause, rate, torch.zeros(0, 0, dtype=torch.int64))
            if sampling.best_of > 1:
                [answer] = self.generate([sentence], sampling)
                first = whole_answer(answer)
            else:
                key = (sentence.seed, sentence.row)
                first = self.decoder.stream(sentence.prompt, sentence.limits, key, sampling, self.silent)

            def fill(codes: Tensor, sentence: Sentence = sentence) -> Tensor:
                return self._fill(sentence, codes, sampling.n_q)

            yield from stream_sentence(first, fill, self.codec, self._gain(sentence.voice))

    def clone_voice(self, wav: Tensor, sampling_rate: int, text: str, name: str = "clip") -> Voice:
        """Make a voice from a clip, for :meth:`say`. See :func:`tts_lm.voices.clone_voice`.

        Args:
            wav: [N] or [1, N] float32 in [-1, 1], 1 to 8 s of speech; 3 to 5 s work best.
            sampling_rate: sampling rate of ``wav`` in Hz.
            text: exact transcript of the clip.
            name: name of the voice.

        Raises:
            TypeError: text is not a str.
            ValueError: the text cannot be spoken, or the clip is not speech of this text.
        """
        spoken = (symbol for sentence in self._sentences(text) for symbol in sentence)
        symbols = sum(symbol not in f"{PUNCTUATION} _" for symbol in spoken)
        return clone_voice(wav, sampling_rate, text, symbols, self.codec, name)

    def voice(self, voice: str | Voice | None = None) -> Voice:
        """Return the voice that :meth:`say` uses for its argument ``voice``.

        Raises:
            ValueError: the name is unknown, or the voice belongs to another codec.
        """
        if voice is None:
            return next(iter(self.voices.values()))
        if isinstance(voice, Voice):
            config = self.codec.config
            if voice.codes.shape[0] != config.n_q or int(voice.codes.max()) >= config.codebook_size:
                raise ValueError(
                    f"expected a voice with codes of {config.n_q} x {config.codebook_size}, got "
                    f"{list(voice.codes.shape)} up to {int(voice.codes.max())}; make it with clone_voice()"
                )
            return voice
        found = find_voice(self.voices, voice) if isinstance(voice, str) else None
        if found is None:
            raise ValueError(f"unknown voice {voice!r}; choose from {', '.join(self.voices)}")
        return found


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
        self._lead = max(0, int(LEAD_SECONDS * frame_rate) - 1)  # sound begins somewhere in its first frame
        self._tail = max(1, round(TAIL_SECONDS * frame_rate))
        self._rest = np.zeros(0, dtype=np.float32)
        self._peak, self._frames, self._loud = 0.0, 0, 0
        self._start: int | None = None

    def push(self, wav: Tensor, is_last: bool = False) -> tuple[int, int]:
        """Add samples [n] float32.

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


def stream_sentence(
    first_codes: Generator[int, None, Answer], fill: Callable[[Tensor], Tensor], codec: Any, gain: float = 1.0
) -> Iterator[SpeechChunk]:
    """Decode one sentence while it is being generated.

    The NAR model fills each chunk with all frames before it and :data:`AHEAD` frames after it as context. Silence is
    held back until sound follows, because the silence at the end is cut.

    Args:
        first_codes: generator of codebook 0, which returns the answer.
        fill: maps codes [T] of codebook 0 to codes [K, T].
        codec: codec of the codes.
        gain: factor of the samples, as in :class:`Said`.

    Yields:
        Chunks; the last has the finish reason.
    """
    config, session = codec.config, codec.streaming_decoder()
    hop, trimmer = config.hop_length, Trimmer(config.hop_length, config.frame_rate)
    codes, wav = torch.zeros(config.n_q, 0, dtype=torch.int64), torch.zeros(0)
    given = 0  # frames of earlier chunks

    def decode(fresh: Tensor, reason: FinishReason | None = None) -> SpeechChunk:
        nonlocal codes, wav, given
        parts = []
        if fresh.shape[1]:
            codes = torch.cat((codes[: len(fresh)], fresh.cpu()), dim=1)
            parts.append(_mono(session.push(fresh[None]), gain))
        if reason is not None and codes.shape[1]:
            parts.append(_mono(session.flush(), gain))
        new = torch.cat([torch.zeros(0), *parts])
        wav = torch.cat((wav, new))
        start, stop = trimmer.push(new, reason is not None)
        start = max(start, given)
        given = stop = max(start, stop)
        return SpeechChunk(wav[start * hop : stop * hop], config.sampling_rate, codes[:, start:stop], reason)

    first: list[int] = []
    filled, size = 0, FIRST_FRAMES
    while True:
        try:
            first.append(next(first_codes))
        except StopIteration as stopped:
            answer: Answer = stopped.value
            break
        if len(first) >= filled + size + AHEAD:
            chunk = decode(fill(torch.tensor(first))[:, filled : filled + size])
            filled, size = filled + size, min(2 * size, MOST_FRAMES)
            if len(chunk.wav):
                yield chunk
    rest = fill(answer.codes)[:, filled:] if len(answer.codes) > filled else codes[:, :0]
    yield decode(rest, answer.finish_reason)


def whole_answer(answer: Answer) -> Generator[int, None, Answer]:
    """A complete answer in the form that :func:`stream_sentence` takes."""
    yield from answer.codes.tolist()
    return answer


def _mono(wav: Tensor, gain: float) -> Tensor:
    return (gain * wav[0, 0].float().cpu()).clamp(-1.0, 1.0)


def provenance_tag(text: str, voice: str, settings: object) -> str:
    """The comment that marks a file as generated speech.

    Args:
        text: text of the speech. The tag has only its digest.
        voice: name of the voice.
        settings: everything else the audio depends on, such as model, seed and sampling.
    """
    digest = hashlib.sha256(f"{text}\n{settings}".encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"Generated speech, not a recording: tts-lm {__version__}, voice {voice}, request {digest}"
