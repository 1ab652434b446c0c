"""Text-to-speech pipeline: AR model, NAR model and codec."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from audiotok import load_codec, write_json

from .decoding.engine import Answer, ArDecoder, pack_linears
from .decoding.sampling import Sampling
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
from .models.ar import save_ar
from .models.nar import NarConfig, NarModel
from .models.reranker import Reranker, RerankerConfig
from .sentences import Progress, Sentence, answer_sentences, check_seeds, plan_sentences
from .speech import (
    FirstCodes,
    Said,
    Speech,
    SpeechChunk,
    join_sentences,
    pause_chunk,
    stream_sentence,
    whole_answer,
)
from .text import character_ids
from .voices import PROMPT_SECONDS, Voice, clone_voice, find_voice, load_voices, save_voices, voice_gain


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
        wanted = codec.codes_fingerprint
        parts = {
            "AR": ar.config.audio["codes_fingerprint"],
            "NAR": nar.config.codes_fingerprint,
            "tokenizer": tokenizer.codes_fingerprint,
        }
        if reranker is not None:
            parts["reranker"] = reranker.config.codes_fingerprint
        for part, theirs in parts.items():
            if theirs != wanted:
                raise ValueError(
                    f"the {part} was trained on codes {theirs}, but the codec has {wanted}; "
                    "use the codec it was trained on"
                )
        self.ar, self.nar, self.codec, self.tokenizer = ar.eval(), nar.eval(), codec, tokenizer
        self.voices = voices
        self.codec_name = codec_name
        self.sampling = sampling or Sampling()
        self.device = next(nar.parameters()).device
        self.frame_rate = float(codec.config.frame_rate)
        self._decoder = ArDecoder(ar)
        self._filler = pack_linears(self.nar)
        self.reranker = reranker.eval() if reranker is not None else None
        self._characters = character_ids(tokenizer)
        self._silent = self._codes_of_silence()
        self._gains: WeakKeyDictionary[Voice, float] = WeakKeyDictionary()

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
        if (folder / "reranker").is_dir():
            reranker = load_part(Reranker, folder / "reranker", RerankerConfig.model_type).to(device)
        voices = load_voices(folder / "voices", codec.config.n_q, codec.config.codebook_size)
        tokenizer = load_tokenizer_part(folder)
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
        drop_part(folder / "tokenizer")  # where it was before it moved into ar/
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
            **sampling: fields of :class:`~tts_lm.decoding.sampling.Sampling` to change, such as ``temperature=0.6``.

        Returns:
            The speech.

        Raises:
            TypeError: text is not a str, seed not an int, or a sampling field is unknown or not a number.
            ValueError: nothing in the text can be spoken, the voice is unknown, or a sampling value is out of
                range.
        """
        return self.say_batch([text], voice, seed, progress, **sampling)[0]

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
        seeds = check_seeds(seed, len(texts))
        plans = [self.plan(text, voice, one) for text, one in zip(texts, seeds, strict=True)]
        flat = [sentence for plan in plans for sentence in plan]
        said = iter(self.speak(flat, progress, **sampling))
        return [self.join([next(said) for _ in plan]) for plan in plans]

    def plan(self, text: str, voice: str | Voice | None = None, seed: int = 0) -> list[Sentence]:
        """Split a text into sentences for :meth:`speak`. Arguments and errors are those of :meth:`say`."""
        speaker, [one] = self.voice(voice), check_seeds(seed, 1)
        return plan_sentences(text, speaker, one, self.tokenizer, self._characters, self.frame_rate)

    def speak(self, sentences: Sequence[Sentence], progress: Progress = None, **sampling: Any) -> list[Said]:
        """Synthesize sentences of many texts and voices at once. Each result equals that of a call of its own.

        Args:
            sentences: sentences from :meth:`plan`, in any order.
            progress: as for :meth:`say`.
            **sampling: as for :meth:`say`.

        Raises:
            TypeError, ValueError: as :meth:`say`.
        """
        settings = replace(self.sampling, **sampling)
        answers = self._answers(sentences, settings, progress)
        return [
            Said(
                self._fill(sentence, answer.codes, settings.n_q),
                answer.finish_reason,
                self._gain(sentence.voice),
            )
            for sentence, answer in zip(sentences, answers, strict=True)
        ]

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

    def clone_voice(self, wav: Tensor, sampling_rate: int, text: str, name: str = "clip") -> Voice:
        """Make a voice from a clip, for :meth:`say`.

        Args:
            wav: [N] or [1, N] float32 in [-1, 1], 1 to 8 s of speech; 3 to 5 s work best.
            sampling_rate: sampling rate of ``wav`` in Hz.
            text: exact transcript of the clip.
            name: name of the voice.

        Raises:
            TypeError: text is not a str.
            ValueError: the clip is too short, too long or silent, or the text has nothing to speak.

        Source: VALL-E (arXiv:2301.02111), section 4.3.
        """
        return clone_voice(wav, sampling_rate, text, self.codec, name)

    def _stream(self, sentences: list[Sentence], sampling: Sampling) -> Iterator[SpeechChunk]:
        for index, sentence in enumerate(sentences):
            if index:
                yield pause_chunk(self.codec.config.sampling_rate)
            said: FirstCodes
            if sampling.best_of > 1:
                [answer] = self._answers([sentence], sampling, None)
                said = whole_answer(answer)
            else:
                said = self._decoder.stream(
                    sentence.prompt, sentence.limits, (sentence.seed, sentence.row), sampling, self._silent
                )

            def fill(first: Tensor, sentence: Sentence = sentence) -> Tensor:
                return self._fill(sentence, first, sampling.n_q)

            yield from stream_sentence(said, fill, self.codec, self._gain(sentence.voice))

    def _answers(self, sentences: Sequence[Sentence], sampling: Sampling, progress: Progress) -> list[Answer]:
        return answer_sentences(self._decoder, sentences, sampling, self.reranker, self._silent, progress)

    def _fill(self, sentence: Sentence, first: Tensor, n_q: int) -> Tensor:
        """Codes [K, T] of a sentence, or of its beginning, from codebook 0 [T]."""
        voice = sentence.voice
        longest = int(PROMPT_SECONDS * self.frame_rate)  # the longest prompt of the NAR model's training
        return self._filler.fill(
            first[None].to(self.device),
            torch.tensor([[self._characters[c] for c in sentence.spoken]], device=self.device),
            torch.tensor([voice.index], device=self.device),
            voice.codes[None, :, :longest].to(self.device),
            n_q=n_q or None,
        )[0]

    def _gain(self, voice: Voice) -> float:
        if voice not in self._gains:
            self._gains[voice] = voice_gain(voice, self.codec)
        return self._gains[voice]

    def join(self, said: Sequence[Said]) -> Speech:
        """Decode the sentences of one text and join them with pauses."""
        return join_sentences(said, self.codec)

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

    def _codes_of_silence(self) -> frozenset[int]:
        """Codes of codebook 0 for two seconds of silence, used to stop a generation that produces only silence."""
        with torch.inference_mode():
            silence = torch.zeros(1, 1, 2 * self.codec.config.sampling_rate, device=self.device)
            codes = self.codec.encode(silence).audio_codes[0, 0]
        return frozenset(codes.unique().tolist())
