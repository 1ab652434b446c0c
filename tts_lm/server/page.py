"""What the page does, without the page: speech that is heard while it is made, a clip level by level, pictures.

Knows nothing of gradio or HTTP. The laws it keeps: the models work for one visitor at a time; a clip is spoken with
only where its speaker's consent was stated; what is read of an upload is bounded; generated sound carries its mark.
"""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from audiotok import MetricError, audio_blocks, pesq, pictures, save_audio

from ..marks import mark_of, pcm16, wav_head
from ..stream import SpeechChunk
from ..synthesizer import Synthesizer
from ..voices import Voice
from .uploads import check_shape

CLIP_SECONDS = 15.0
TEXT_LETTERS = 1000
_KEPT_SOUNDS = 16
_PATIENCE_S = 120.0  # a listener waits no longer for the next piece


class LiveSound:
    """A wav that is read while it is being made, by any number of listeners."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._ended = False
        self._changed = threading.Condition()

    def push(self, piece: bytes) -> None:
        """Add a piece."""
        with self._changed:
            self._pieces.append(piece)
            self._changed.notify_all()

    def end(self) -> None:
        """No more comes."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def read(self) -> Iterator[bytes]:
        """Every piece from the beginning, each as soon as it is there."""
        given = 0
        while fresh := self._after(given):
            given += len(fresh)
            yield b"".join(fresh)

    def _after(self, given: int) -> list[bytes]:
        """What came after so many pieces; waits for it. Nothing at the end."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._pieces) > given or self._ended, _PATIENCE_S)
            return self._pieces[given:]


class LiveSounds:
    """The newest live sounds, by names that no one can guess."""

    def __init__(self) -> None:
        self._sounds: OrderedDict[str, LiveSound] = OrderedDict()
        self._lock = threading.Lock()

    def open(self) -> tuple[str, LiveSound]:
        """A new one and its name."""
        name, sound = secrets.token_urlsafe(16), LiveSound()
        with self._lock:
            self._sounds[name] = sound
            while len(self._sounds) > _KEPT_SOUNDS:
                self._sounds.popitem(last=False)
        return name, sound

    def get(self, name: str) -> LiveSound | None:
        """The one of this name, if it is still kept."""
        return self._sounds.get(name)


@dataclass(frozen=True)
class Spoken:
    """How far a speech is.

    Attributes:
        seconds: of sound so far.
        ended: how it ended, in words; None while it goes on.
    """

    seconds: float
    ended: str | None = None


@dataclass(frozen=True)
class Clip:
    """A clip that was dropped.

    Attributes:
        name: of its file.
        wav: [1, N] float32.
        codes: [K, T] int64.
        is_cut: whether the file goes on.
    """

    name: str
    wav: Tensor
    codes: Tensor
    is_cut: bool


@dataclass(frozen=True)
class Level:
    """What a number of codebooks is worth.

    Attributes:
        n_q: codebooks.
        bitrate_bps: before entropy coding.
        pesq_wb: of the clip, or why there is none.
    """

    n_q: int
    bitrate_bps: float
    pesq_wb: float | str


def read_clip(path: str, sampling_rate: int) -> tuple[Tensor, bool]:
    """The beginning of a visitor's sound file.

    Args:
        path: of the file.
        sampling_rate: Hz, to which it is resampled.

    Returns:
        wav [1, N] float32 of at most ``CLIP_SECONDS``, and whether the file goes on.

    Raises:
        ValueError: it is no sound; where it lies on this machine is not said.
    """
    try:
        blocks = audio_blocks(path, sampling_rate, CLIP_SECONDS)
        # What is no sound at all is told by who reads it.
        with suppress(soundfile.LibsndfileError), soundfile.SoundFile(path) as sound:
            check_shape(sound.channels, sound.samplerate)
        return next(blocks), next(blocks, None) is not None
    except ValueError as error:
        raise ValueError(str(error).replace(path, Path(path).name)) from None


class Page:
    """What a visitor can ask for.

    Args:
        synthesizer: speaks; its codec is the one that is looked at.
    """

    def __init__(self, synthesizer: Synthesizer) -> None:
        self._synthesizer = synthesizer
        self._codec = synthesizer.codec
        self._turn = threading.Lock()
        self.sounds = LiveSounds()
        self.n_q: int = self._codec.config.n_q

    @property
    def voices(self) -> list[tuple[str, str]]:
        """What the voices are, in words, and their names; the first is the default."""
        voices = self._synthesizer.voices.items()
        return [(f"{name}: {voice.card.get('description', 'a voice')}", name) for name, voice in voices]

    def choose_voice(self, name: str, clip: str | None, words: str, consent: bool) -> Voice:
        """The voice that the form asks for.

        Args:
            name: of :attr:`voices`; counts where there is no clip.
            clip: a sound file, or None.
            words: what is said in it.
            consent: whether its speaker agreed.

        Raises:
            ValueError: there is a clip without words or consent, or it is no speech that can be used.
        """
        if clip is None:
            return self._synthesizer.voice(name)
        if not consent:
            raise ValueError(
                "expected the speaker's consent to being spoken with; tick the box, or remove the clip"
            )
        if not words.strip():
            raise ValueError("expected the words of the clip too; write down exactly what is said in it")
        rate = self._codec.config.sampling_rate
        wav, _ = read_clip(clip, rate)
        with self._turn:
            return self._synthesizer.clone_voice(wav, rate, words)

    def speak(
        self, text: str, voice: Voice, seed: int, live: LiveSound, wav_path: Path, picture_path: Path
    ) -> Iterator[Spoken]:
        """Speak a text into a live sound, and in the end into a file, with a picture of it.

        Args:
            text: what to say.
            voice: of :meth:`choose_voice`.
            seed: another one reads it another way.
            live: what is listened to; ended when this ends, however it ends.
            wav_path, picture_path: written at the end.

        Yields:
            How far it is.

        Raises:
            ValueError: nothing in the text can be spoken, or it is too long.
        """
        try:
            if len(text) > TEXT_LETTERS:
                raise ValueError(
                    f"expected at most {TEXT_LETTERS} letters, got {len(text)}; shorten the text"
                )
            rate = self._codec.config.sampling_rate
            mark = mark_of(text, voice.name, {"seed": seed})
            chunks: list[SpeechChunk] = []
            samples = 0
            with self._turn:
                for chunk in self._synthesizer.stream(text, voice, seed):
                    live.push((b"" if chunks else wav_head(rate, mark)) + pcm16(chunk.wav))
                    chunks.append(chunk)
                    samples += len(chunk.wav)
                    yield Spoken(samples / rate)
        finally:
            live.end()
        wav = torch.cat([chunk.wav for chunk in chunks])
        if not len(wav):
            raise ValueError("expected speech, the model stopped before its first sound; try another seed")
        save_audio(wav_path, wav, rate, mark)
        shown = text if len(text) < 80 else f"{text[:77]}..."
        self._draw(picture_path, wav, None, self._grid(chunks), f"{voice.name}: {shown}")
        reasons = [chunk.finish_reason for chunk in chunks if chunk.finish_reason]
        bad = [reason for reason in reasons if reason != "eos"]
        ended = f"ended by {bad[0]}, not by itself; another seed may do better" if bad else "ended by itself"
        yield Spoken(len(wav) / rate, ended)

    def open_clip(self, path: str) -> Clip:
        """Read and encode the beginning of a sound file.

        Args:
            path: of the file.

        Raises:
            ValueError: it is no sound.
        """
        wav, is_cut = read_clip(path, self._codec.config.sampling_rate)
        with self._turn, torch.inference_mode():
            codes = self._codec.encode(self._codec.spread(wav[None])).audio_codes
        return Clip(Path(path).name, wav, codes[0].cpu().clone(), is_cut)

    def decode(self, clip: Clip, n_q: int) -> Tensor:
        """What the first ``n_q`` codebooks of a clip sound like: [1, N] float32."""
        with self._turn, torch.inference_mode():
            codes = clip.codes[None, :n_q].to(self._codec.device)
            wav = self._codec.decode(codes, num_samples=clip.wav.shape[-1]).audio_values
        return wav[0].float().mean(dim=0, keepdim=True).cpu().clone()

    def show(self, clip: Clip, n_q: int, wav_path: Path, picture_path: Path) -> None:
        """Write the sound of the first ``n_q`` codebooks of a clip, and a picture of before and after.

        Args:
            clip: of :meth:`open_clip`.
            n_q: codebooks.
            wav_path, picture_path: what is written.

        Raises:
            OSError: it cannot be written.
        """
        decoded = self.decode(clip, n_q)
        config = self._codec.config
        save_audio(wav_path, decoded, config.sampling_rate, "Coded speech")
        title = (
            f"{clip.name}: {n_q} x {config.codebook_size} at {config.frame_rate:g} Hz, "
            f"{self.bitrate_bps(n_q) / 1000:g} kbit/s"
        )
        fewer = self.decode(clip, n_q - 1)[0] if n_q > 1 else None
        self._draw(picture_path, clip.wav[0], decoded[0], clip.codes[:n_q], title, fewer)

    def bitrate_bps(self, n_q: int) -> float:
        """Bits a second of so many codebooks, before entropy coding."""
        return self._codec.config.bitrate_bps * n_q / self.n_q

    def levels(self, clip: Clip) -> Iterator[Level]:
        """Every number of codebooks with what it costs and how good the clip is with it, as each is measured.

        Args:
            clip: of :meth:`open_clip`.

        Yields:
            From one codebook to all.
        """
        rate = self._codec.config.sampling_rate
        for n_q in range(1, self.n_q + 1):
            try:
                score: float | str = pesq(clip.wav, self.decode(clip, n_q), rate)
            except MetricError as error:
                score = str(error)
            except ModuleNotFoundError:
                score = "not installed"
            yield Level(n_q, self.bitrate_bps(n_q), score)

    def _grid(self, chunks: list[SpeechChunk]) -> Tensor:
        """Codes [K, T] of a speech over its time, -1 where sentences pause."""
        hop = self._codec.config.hop_length
        books = max(len(chunk.codes) for chunk in chunks)
        columns = []
        for chunk in chunks:
            if chunk.codes.numel():
                columns.append(chunk.codes)
            elif chunk.finish_reason is None:
                columns.append(torch.full((books, len(chunk.wav) // hop), -1))
        return torch.cat(columns, dim=1)

    def _draw(
        self,
        path: Path,
        wav: Tensor,
        decoded: Tensor | None,
        codes: Tensor,
        title: str,
        fewer: Tensor | None = None,
    ) -> None:
        config = self._codec.config
        after, less = (None if sound is None else np.asarray(sound) for sound in (decoded, fewer))
        sizes = config.sampling_rate, config.codebook_size
        # A dollar sign would begin a formula.
        words = title.replace("$", r"\$")
        pictures.draw_clip(path, np.asarray(wav), after, np.asarray(codes), *sizes, words, less)
