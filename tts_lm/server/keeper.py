"""The voices that a server speaks with: the model's, and those that clients added.

Knows nothing of HTTP. The laws it keeps: no voice is added without its speaker's consent on its card; a name means one
voice; and on disk a voice is there whole or not at all, whenever the server was stopped.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError

from ..voices import Voice, add_voice, load_voices

_ASIDE = ".adding-"


class VoiceKeeper:
    """Voices by name.

    Args:
        own: the model's; they stay as they are.
        most: voices that may be added.
        folder: where added ones are kept, a folder each; None keeps them in memory.
        n_q: codebooks of a voice.
        codebook_size: codes of each.

    Raises:
        ValueError: a voice in the folder is damaged or of another codec.
        OSError: the folder is none.
    """

    def __init__(
        self, own: Mapping[str, Voice], most: int, folder: Path | None, n_q: int, codebook_size: int
    ) -> None:
        self._own, self._most, self._folder = dict(own), most, folder
        self._added: dict[str, Voice] = {}
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(f"{folder}: expected a folder for voices, {error.strerror}; give another") from None
        for rest in folder.glob(f"{_ASIDE}*"):  # of a server that was killed
            shutil.rmtree(rest, ignore_errors=True)
        for place in sorted(folder.iterdir()):
            # Whatever else lies there, lost+found of a disk of its own, is not ours.
            if (place / f"{place.name}.json").is_file() and place.name not in self._own:
                self._added |= load_voices(place, n_q, codebook_size)

    @property
    def added(self) -> int:
        """How many were added."""
        return len(self._added)

    def all(self) -> list[tuple[Voice, bool]]:
        """Every voice, the default first, and whether it was added."""
        return [(v, False) for v in self._own.values()] + [(v, True) for v in self._added.values()]

    def find(self, name: str) -> Voice | None:
        """The voice of this name, if there is one."""
        return self._own.get(name) or self._added.get(name)

    def add(self, voice: Voice) -> None:
        """Keep a voice, on disk first.

        Raises:
            FileExistsError: there is one of this name.
            ValueError: there are as many as may be added.
            OSError: it cannot be written.
        """
        if self.find(voice.name) is not None:
            raise FileExistsError(
                f"expected a new name, there is a voice {voice.name!r} already; take another"
            )
        if len(self._added) >= self._most:
            raise ValueError(f"expected at most {self._most} added voices; remove one first")
        if self._folder is not None:
            aside = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=self._folder))
            try:
                add_voice(voice, aside)
                os.rename(aside, self._folder / voice.name)
            except BaseException as error:
                shutil.rmtree(aside, ignore_errors=True)
                if isinstance(error, SafetensorError):  # the disk is full
                    raise OSError(f"{self._folder}: {error}") from None
                raise
        self._added[voice.name] = voice

    def remove(self, name: str) -> bool:
        """Forget an added voice; False where there is none of this name.

        Raises:
            OSError: it cannot be removed from the disk.
        """
        if name not in self._added:
            return False
        if self._folder is not None:
            aside = Path(tempfile.mkdtemp(prefix=_ASIDE, dir=self._folder))
            os.rename(self._folder / name, aside / name)
            shutil.rmtree(aside, ignore_errors=True)
        del self._added[name]
        return True
