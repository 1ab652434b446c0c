"""Text and a voice in, speech out: the AR half, the NAR half and the codec in one row.

Knows nothing of training or of the command line. The laws it keeps: a saved folder can be moved; a codec with
other codes is refused (binding); a sentence said beside others, or alone, is the same speech.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from audiotok import load_codec, load_tokenizer, write_json

from .ar import Answer, ArDecoder, save_ar
from .listener import Listener
from .nar import NarModel
from .pronounce import pronounce_text
from .sampling import FinishReason, Sampling, frame_limits
from .shipped import find_checkpoint
from .text import build_prompt, character_ids, normalise, split_sentences
from .verify import GazeVerifier, ListenerVerifier, Reading, Verifier
from .voices import Voice, load_voices, save_voice

FORMAT_VERSION = 1
PAUSE_SECONDS = 0.2
ATTEMPTS = 3
ROWS_AT_ONCE = 16
_CARD = "synthesizer.json"
_REASONS: tuple[FinishReason, ...] = ("eos", "silence", "length", "loop")  # from good to bad


@dataclass(frozen=True)
class Speech:
    """What was said."""

    wav: Tensor
    """[N] float32 in [-1, 1]."""
    sampling_rate: int
    """Hz."""
    codes: Tensor
    """[K, T] int64, K the codebooks that were filled; without the pauses between sentences."""
    finish_reason: FinishReason
    """``eos`` when every sentence came to its end by itself, else the worst of theirs."""

    @property
    def seconds(self) -> float:
        """Length."""
        return self.wav.shape[-1] / self.sampling_rate


class Synthesizer:
    """Speaks. Make one with :meth:`from_pretrained`.

    Args:
        ar: a stock Llama of :func:`tts_lm.ar.build_ar`.
        nar: the NAR half.
        codec: an ``audiotok`` codec.
        tokenizer: its tokenizer.
        voices: by name; the first is the default.
        codec_name: a shipped codec's name, or None to keep the codec's weights with the rest when saving.
        sampling: default settings.
        verifier: what chooses among readings; None goes by the gaze of the AR half.

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
        verifier: Verifier | None = None,
    ) -> None:
        wanted = codec.codes_fingerprint
        parts = {
            "AR": ar.config.audio["codes_fingerprint"],
            "NAR": nar.config.codes_fingerprint,
            "tokenizer": tokenizer.codes_fingerprint,
        }
        if isinstance(verifier, ListenerVerifier):
            parts["verifier"] = verifier.listener.config.codes_fingerprint
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
        self.verifier: Verifier = verifier or GazeVerifier(self._decoder)
        self._characters = character_ids(tokenizer)
        self._silent = self._codes_of_silence()

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | Path | None = None,
        device: str = "cpu",
        dtype: str = "float32",
        codec: Any = None,
    ) -> Synthesizer:
        """Load a synthesizer, ready to speak, offline.

        Args:
            name_or_path: a shipped name (None: the default) or a folder of :meth:`save_pretrained`.
            device: where to put it.
            dtype: float32 or bfloat16, of the two halves.
            codec: a codec that is loaded already; None loads the one the folder names.

        Raises:
            FileNotFoundError: there is no such folder, or it is not whole.
            ValueError: the folder is of another format, or the codec has other codes.
        """
        folder = find_checkpoint(name_or_path)
        card = _read_card(folder)
        numbers = {"float32": torch.float32, "bfloat16": torch.bfloat16}.get(dtype)
        if numbers is None:
            raise ValueError(f"expected dtype float32 or bfloat16, got {dtype!r}")
        if codec is None:
            codec = load_codec(card["codec"] or folder / "codec", device=device)
        if codec.codes_fingerprint != card["codes_fingerprint"]:
            raise ValueError(
                f"{folder} speaks the codes {card['codes_fingerprint']}, the codec {card['codec'] or 'in it'} "
                f"has {codec.codes_fingerprint}; use the codec it was trained on"
            )
        ar, nar = (
            cast(Any, kind.from_pretrained(folder / name, dtype=numbers)).to(device)
            for kind, name in ((AutoModelForCausalLM, "ar"), (NarModel, "nar"))
        )
        verifier = None
        if (folder / "listener").is_dir():
            verifier = ListenerVerifier(cast(Any, Listener.from_pretrained(folder / "listener")).to(device))
        return cls(
            ar,
            nar,
            codec,
            load_tokenizer(folder / "tokenizer"),
            load_voices(folder / "voices"),
            card["codec"],
            Sampling(**card.get("sampling", {})),
            verifier,
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write everything into one folder, which can be moved."""
        folder = Path(folder)
        (folder / "voices").mkdir(parents=True, exist_ok=True)
        save_ar(self.ar, folder / "ar")
        self.nar.save_pretrained(folder / "nar")
        shutil.rmtree(folder / "listener", ignore_errors=True)  # of another codec, perhaps
        if isinstance(self.verifier, ListenerVerifier):
            self.verifier.listener.save_pretrained(folder / "listener")
        self.tokenizer.save_pretrained(str(folder / "tokenizer"))
        for former in (folder / "voices").iterdir():
            former.unlink()
        for voice in self.voices.values():
            save_voice(voice, folder / "voices")
        if self.codec_name is None:
            self.codec.save_pretrained(folder / "codec")
        card = {
            "format_version": FORMAT_VERSION,
            "codec": self.codec_name,
            "codes_fingerprint": self.codec.codes_fingerprint,
            "sampling": vars(self.sampling),
        }
        write_json(folder / _CARD, card)

    def say(self, text: str, voice: str | None = None, seed: int = 0, **sampling: Any) -> Speech:
        """Speak a text of any length.

        Args:
            text: English; long texts are spoken sentence by sentence.
            voice: a name of ``self.voices``; None is the first.
            seed: another seed reads it another way; the same one, the same.
            **sampling: fields of :class:`~tts_lm.sampling.Sampling` to change: ``temperature=0.6``.

        Returns:
            The speech.

        Raises:
            TypeError: text is not a str, or a sampling field is unknown.
            ValueError: nothing in the text can be spoken, the voice is unknown, or a sampling value is out of
                range.
        """
        return self.say_batch([text], voice, seed, **sampling)[0]

    def say_batch(
        self, texts: Sequence[str], voice: str | None = None, seed: int = 0, **sampling: Any
    ) -> list[Speech]:
        """Speak many texts at once; each comes out as :meth:`say` alone with this seed would say it.

        Args, errors: as :meth:`say`.

        Raises:
            TypeError: texts is one str, or as :meth:`say`.
            ValueError: as :meth:`say`; nothing is spoken then.
        """
        if isinstance(texts, str):
            raise TypeError("expected a list of texts, got one str; use say() for one")
        settings = replace(self.sampling, **sampling)
        speaker = self._voice(voice)
        pieces = [[pronounce_text(s) for s in split_sentences(normalise(text))] for text in texts]
        flat = [(spoken, row) for sentences in pieces for row, spoken in enumerate(sentences)]
        answers = self._answers(flat, speaker, seed, settings)
        said = self._fill([spoken for spoken, _ in flat], answers, speaker, settings.n_q)
        speeches, at = [], 0
        for sentences in pieces:
            here = slice(at, at + len(sentences))
            speeches.append(self._join(said[here], [answer.finish_reason for answer in answers[here]]))
            at += len(sentences)
        return speeches

    def _answers(
        self, rows: list[tuple[str, int]], voice: Voice, seed: int, sampling: Sampling
    ) -> list[Answer]:
        """Codebook 0 of every sentence, the best of several; what did not end by itself is tried again."""
        prompts = [build_prompt(self.tokenizer, self._ids(text), voice.index) for text, _ in rows]
        limits = [frame_limits(len(text.replace(" ", "")), self.frame_rate) for text, _ in rows]
        best: dict[int, tuple[int, float, Answer]] = {}
        waiting = sorted(range(len(rows)), key=lambda index: len(prompts[index]))
        for attempt in range(ATTEMPTS):
            readings = [(index, nth) for index in waiting for nth in range(sampling.best_of)]
            for start in range(0, len(readings), ROWS_AT_ONCE):
                group = readings[start : start + ROWS_AT_ONCE]
                fresh = self._decoder.generate(
                    [prompts[index] for index, _ in group],
                    [limits[index] for index, _ in group],
                    # A row of noise of its own for every sentence, attempt and reading.
                    [(seed, rows[index][1] + (attempt << 32) + (nth << 40)) for index, nth in group],
                    sampling,
                    self._silent,
                )
                for (index, _), answer in zip(group, fresh, strict=True):
                    reading = Reading(answer.codes, rows[index][0], prompts[index])
                    wrong = self.verifier.fault(reading) if sampling.best_of > 1 else 0.0
                    scored = (_REASONS.index(answer.finish_reason), wrong, answer)
                    if index not in best or scored[:2] < best[index][:2]:
                        best[index] = scored
            waiting = [index for index in waiting if best[index][0] > 0]
        return [best[index][2] for index in range(len(rows))]

    def _fill(self, texts: list[str], answers: list[Answer], voice: Voice, n_q: int) -> list[Tensor]:
        """Codes [K, T] of every sentence from codebook 0."""
        out = []
        prompt = voice.codes[None].to(self.device)
        speaker = torch.tensor([voice.index], device=self.device)
        for text, answer in zip(texts, answers, strict=True):
            ids = torch.tensor([self._ids(text)], device=self.device)
            first = answer.codes[None].to(self.device)
            out.append(self.nar.fill(first, ids, speaker, prompt, n_q=n_q or None)[0])
        return out

    def _join(self, sentences: list[Tensor], reasons: list[FinishReason]) -> Speech:
        rate = self.codec.config.sampling_rate
        pause = torch.zeros(int(PAUSE_SECONDS * rate))
        wavs: list[Tensor] = []
        with torch.inference_mode():
            for codes in sentences:
                if wavs:
                    wavs.append(pause)
                wavs.append(self.codec.decode(codes[None]).audio_values[0, 0].float().cpu())
        wav = torch.cat(wavs).clamp(-1.0, 1.0).clone()
        return Speech(wav, rate, torch.cat(sentences, dim=1).cpu(), max(reasons, key=_REASONS.index))

    def _voice(self, name: str | None) -> Voice:
        if name is None:
            return next(iter(self.voices.values()))
        if name not in self.voices:
            raise ValueError(f"expected a voice of {', '.join(self.voices)}; got {name!r}")
        return self.voices[name]

    def _ids(self, spoken: str) -> list[int]:
        return [self._characters[c] for c in spoken]

    def _codes_of_silence(self) -> frozenset[int]:
        """What codebook 0 says to two seconds of nothing, so that a model that only breathes is noticed."""
        with torch.inference_mode():
            silence = torch.zeros(1, 1, 2 * self.codec.config.sampling_rate, device=self.device)
            codes = self.codec.encode(silence).audio_codes[0, 0]
        return frozenset(codes.unique().tolist())


def _read_card(folder: Path) -> dict[str, Any]:
    """What a synthesizer's folder says of itself; a folder that is not whole is refused before anything is loaded,
    because transformers would look for what is missing on the network."""
    for part in (_CARD, "ar", "nar", "tokenizer", "voices"):
        if not (folder / part).exists():
            raise FileNotFoundError(
                f"expected a synthesizer with {_CARD}, ar, nar, tokenizer and voices in {folder}, it has no {part}; "
                "write one with `tts-lm bundle`"
            )
    card = json.loads((folder / _CARD).read_text(encoding="utf-8"))
    if not isinstance(card, dict) or card.get("format_version") != FORMAT_VERSION:
        found = card.get("format_version") if isinstance(card, dict) else type(card).__name__
        raise ValueError(f"{folder}: expected format_version {FORMAT_VERSION}, got {found}")
    missing = {"codec", "codes_fingerprint"} - set(card)
    if missing:
        raise ValueError(f"{folder / _CARD}: expected {' and '.join(sorted(missing))} in it; bundle it again")
    return card
