"""What a worker does with rows: look at their headers, and encode batches of them.

Knows nothing of where rows come from or where codes go, nor of other workers. The law it keeps: an answer depends on
the rows, the settings and the codec alone.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from typing import Any

import torch

from ..codec.model import AudioCodec
from .checks import Drop, Header, Limits, decode, inspect
from .packing import pack_codes
from .rows import SourceRow
from .shaping import Shaping, Sound


@dataclass(frozen=True)
class Task:
    """What every worker is told once.

    Attributes:
        limits: which rows are fit.
        shaping: what is done to their sound.
        codec: a pickled codec; as bytes, because handing tensors to a process would share memory with it. None
            makes no codes (a dry run).
        device: where to encode.
        n_q: codebooks to keep.
    """

    limits: Limits
    shaping: Shaping
    codec: bytes | None
    device: str
    n_q: int


class RowServer:
    """Answers calls about rows; one a worker."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.codec: AudioCodec | None = None
        if task.codec is not None:
            self.codec = pickle.loads(task.codec).to(task.device).eval()

    def inspect(self, rows: list[SourceRow]) -> list[Header | Drop]:
        """Check the headers of rows."""
        return [inspect(row, self.task.limits) for row in rows]

    def encode(self, rows: list[SourceRow]) -> list[dict[str, Any] | Drop]:
        """Decode and encode rows as one batch; gives a row of a shard, or a drop, for each."""
        rate = self.codec.config.sampling_rate if self.codec else None
        sounds = [decode(row, self.task.limits, rate, self.task.shaping) for row in rows]
        fit = [sound for sound in sounds if not isinstance(sound, Drop)]
        codes = iter(self._encode(self.codec, fit) if fit and self.codec else [{}] * len(fit))
        out: list[dict[str, Any] | Drop] = []
        for row, sound in zip(rows, sounds, strict=True):
            out.append(sound if isinstance(sound, Drop) else _describe(row, sound) | next(codes))
        return out

    def _encode(self, codec: AudioCodec, sounds: list[Sound]) -> list[dict[str, Any]]:
        lengths = torch.tensor([sound.wav.shape[1] for sound in sounds])
        longest = int(lengths.max())
        padded = torch.zeros(
            len(sounds), codec.config.audio_channels, longest
        )  # a mono clip on every channel
        for place, sound in zip(padded, sounds, strict=True):
            place[:, : sound.wav.shape[1]] = sound.wav
        mask = None
        # What follows a clip changes none of our own codec's codes, for it is causal; looking for padding takes time.
        if int(lengths.min()) < longest and not isinstance(codec, AudioCodec):
            mask = (torch.arange(longest) < lengths[:, None]).to(self.task.device)
        found = codec.encode(padded.to(self.task.device), padding_mask=mask, n_q=self.task.n_q)
        assert found.audio_codes is not None
        made = []
        for i, (codes, sound) in enumerate(zip(found.audio_codes.cpu(), sounds, strict=True)):
            frames = codec.frames(sound.wav.shape[1])
            row = {"frames": frames, "codes": pack_codes(codes[:, :frames]), "n_q": self.task.n_q}
            if found.audio_scales is not None:
                row["scales"] = found.audio_scales[i, : -(-frames // codec.scale_frames)].tolist()
            made.append(row)
        return made


def _describe(row: SourceRow, sound: Sound) -> dict[str, Any]:
    """What a shard's row says beside its codes."""
    return {
        "row": row.index,
        "id": row.id,
        "text": row.text,
        "speaker": row.speaker,
        "language": row.language,
        "split": row.split,
        "seconds": sound.wav.shape[1] / sound.sampling_rate,
        "start_s": sound.start_s,
        "level_db": sound.level_db,
        "fields": row.fields or None,
    }
