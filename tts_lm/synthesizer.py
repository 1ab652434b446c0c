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
from .voices import PROMPT_SECONDS, Voice, clone_voice, load_voices, save_voices, voice_gain


class Synthesizer:
    """Text-to-speech pipeline. Load one with :meth:`from_pretrained`.

    Speech of a sentence does not depend on the sentences beside it.

    Args:
        ar: a stock Llama of :func:`tts_lm.models.ar.build_ar`.
        nar: the NAR model.
        codec: an ``audiotok`` codec.
        tokenizer: its tokenizer.
        voices: by name; the first is the default.
        codec_name: a shipped codec's name, or None to keep the codec's weights with the rest when saving.
        sampling: default settings.
        reranker: scores the candidates of a sentence; without one ``best_of`` must be 1.

    Raises:
        ValueError: the parts are of different codecs.
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
                    f"the {part} was made for codes {theirs}, the codec makes {wanted}; "
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
        """Load a pipeline; needs no network.

        Args:
            name_or_path: a shipped name (None: the default) or a folder of :meth:`save_pretrained`.
            device: where to put it.
            dtype: float32 or bfloat16, of the AR and NAR models.
            codec: a codec that is loaded already; None loads the one the folder names.

        Raises:
            FileNotFoundError: there is no such folder, or it is not whole.
            ValueError: the folder is of another format, or the codec has other codes.
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
                f"{folder} speaks the codes {card['codes_fingerprint']}, the codec {card['codec'] or 'in it'} "
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
        """Write everything into one folder, which can be moved.

        Args:
            folder: new, empty, or with a synthesizer in it, which is replaced; other files beside it stay.

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
        """Speak a text of any length.

        Args:
            text: English; long texts are spoken sentence by sentence, each from the same prompt of the voice.
            voice: a name of ``self.voices``, or what :meth:`clone_voice` made of a clip; None is the
                first of ``self.voices``.
            seed: another seed reads it another way; the same one, the same.
            progress: called with (sentences spoken, sentences) now and then.
            **sampling: fields of :class:`~tts_lm.decoding.sampling.Sampling` to change: ``temperature=0.6``.

        Returns:
            The speech.

        Raises:
            TypeError: text is not a str, seed not an int, or a sampling field is unknown or no number.
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
        """Speak many texts at once; each comes out as :meth:`say` alone with its seed would say it.

        Args:
            texts: as for :meth:`say`.
            voice: of all of them, as for :meth:`say`.
            seed: of all of them, or one for each.
            progress: as for :meth:`say`.
            **sampling: as for :meth:`say`.

        Raises:
            TypeError: texts is no sequence of str, or as :meth:`say`.
            ValueError: as :meth:`say`, or there are not as many seeds as texts; nothing is spoken then.
        """
        if isinstance(texts, str) or not isinstance(texts, Sequence):
            raise TypeError(f"expected a list of texts, got {type(texts).__name__}; use say() for one text")
        seeds = check_seeds(seed, len(texts))
        plans = [self.plan(text, voice, one) for text, one in zip(texts, seeds, strict=True)]
        flat = [sentence for plan in plans for sentence in plan]
        said = iter(self.speak(flat, progress, **sampling))
        return [self.join([next(said) for _ in plan]) for plan in plans]

    def plan(self, text: str, voice: str | Voice | None = None, seed: int = 0) -> list[Sentence]:
        """The sentences of a text, for :meth:`speak`. Args, errors: as :meth:`say`."""
        speaker, [one] = self.voice(voice), check_seeds(seed, 1)
        return plan_sentences(text, speaker, one, self.tokenizer, self._characters, self.frame_rate)

    def speak(self, sentences: Sequence[Sentence], progress: Progress = None, **sampling: Any) -> list[Said]:
        """Speak sentences of many texts and voices at once; each comes out as it would alone.

        Args:
            sentences: of :meth:`plan`, in any order.
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
        """Speak a text while it is being made.

        Args:
            text: as for :meth:`say`.
            voice: as for :meth:`say`.
            seed: as for :meth:`say`.
            **sampling: as for :meth:`say`, but ``best_of`` is 1 unless it is given: what was heard cannot be taken
                back. With more, a sentence is chosen whole before its first sound.

        Yields:
            Chunks of sound, joined the speech; the last of a sentence carries its finish reason. For equal codes of
            codebook 0 the others may differ from those of :meth:`say` at the seams of chunks, and so the sound
            (tests/test_stream.py holds the bound).

        Raises:
            TypeError, ValueError: as :meth:`say`, at once.
        """
        settings = replace(self.sampling, **({"best_of": 1} | sampling))
        return self._stream(self.plan(text, voice, seed), settings)

    def clone_voice(self, wav: Tensor, sampling_rate: int, text: str, name: str = "clip") -> Voice:
        """The voice of a clip, to give to :meth:`say`.

        Args:
            wav: [N] or [1, N] float32 in [-1, 1], 1 to 8 s with sound in it; 3 to 5 are best.
            sampling_rate: of it, in Hz.
            text: exactly what is said in it.
            name: of the voice.

        Raises:
            TypeError: text is not a str.
            ValueError: the clip is too short, too long or silent, or nothing in the text can be spoken.

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
        """The sentences of one text as one speech, with pauses between them."""
        return join_sentences(said, self.codec)

    def voice(self, voice: str | Voice | None = None) -> Voice:
        """The voice that :meth:`say` takes for ``voice``.

        Raises:
            ValueError: there is none of this name, or it is of another codec.
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
        if not isinstance(voice, str) or voice not in self.voices:
            raise ValueError(f"expected a voice of {', '.join(self.voices)}; got {voice!r}")
        return self.voices[voice]

    def _codes_of_silence(self) -> frozenset[int]:
        """Codes of codebook 0 for two seconds of silence, which end a generation that produces nothing else."""
        with torch.inference_mode():
            silence = torch.zeros(1, 1, 2 * self.codec.config.sampling_rate, device=self.device)
            codes = self.codec.encode(silence).audio_codes[0, 0]
        return frozenset(codes.unique().tolist())
