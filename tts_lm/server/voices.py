"""The voices of a server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..voices import Voice, add_voice, find_voice, load_voices, remove_voice


class VoiceStore:
    """The voices of a server: those of the model (``own``) and at most ``limit`` added by clients.

    Added voices are kept in ``folder``, or in memory if it is None. ``n_q`` and ``codebook_size`` describe the codec.

    Raises:
        ValueError: a voice in the folder is damaged or belongs to another codec.
        OSError: the folder cannot be created or written.
    """

    def __init__(
        self, own: Mapping[str, Voice], limit: int, folder: str | Path | None, n_q: int, codebook_size: int
    ) -> None:
        self._own, self._limit = dict(own), limit
        self._folder = None if folder is None else Path(folder)
        self.added: dict[str, Voice] = {}
        if self._folder is not None:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OSError(f"{folder}: {error.strerror}; name another folder for voices") from None
            found = load_voices(self._folder, n_q, codebook_size)
            self.added = {name: voice for name, voice in found.items() if name not in own}

    def all(self) -> list[Voice]:
        """Every voice, the default first."""
        return [*self._own.values(), *self.added.values()]

    def find(self, name: str) -> Voice | None:
        """The voice of this name in any case, or None."""
        return find_voice(self._own, name) or find_voice(self.added, name)

    def add(self, voice: Voice) -> None:
        """Add a voice and write it to disk.

        Raises:
            FileExistsError: the name is taken.
            ValueError: the limit is reached.
            OSError: the voice cannot be written.
        """
        if self.find(voice.name) is not None:
            raise FileExistsError(f"voice {voice.name!r} exists already; choose another name")
        if len(self.added) >= self._limit:
            raise ValueError(f"the limit of {self._limit} added voices is reached; remove one first")
        if self._folder is not None:
            add_voice(voice, self._folder)
        self.added[voice.name] = voice

    def remove(self, name: str) -> bool:
        """Remove an added voice. Returns False if there is no such voice."""
        voice = find_voice(self.added, name)
        if voice is None:
            return False
        if self._folder is not None:
            remove_voice(voice.name, self._folder)
        del self.added[voice.name]
        return True
