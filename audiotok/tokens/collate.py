"""Rows of a data set -> padded batches for training.

Knows nothing of models. The law it keeps: a row's ids and labels do not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .processor import AudioTextProcessor, Task


@dataclass
class AudioTextCollator:
    """Rows -> a padded batch with labels, for ``Trainer(data_collator=...)`` or a ``DataLoader``.

    A row is what the processor gave (``input_ids`` and perhaps ``labels``), or a conversation under
    ``messages``, or ``text`` with ``codes`` [K, T] (as in prepared shards) or ``audio``.

    Attributes:
        processor: makes and pads the sequences.
        task: ``speak`` or ``transcribe``, for rows of text and sound.
        pad_to_multiple_of: of the width.
        padding_side: ``left`` or ``right``; None means the tokenizer's.
    """

    processor: AudioTextProcessor
    task: Task = "speak"
    pad_to_multiple_of: int = 1
    padding_side: str | None = None

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
        """Make the batch: ``input_ids``, ``attention_mask`` and ``labels``, [B, S] int64."""
        features = [self._feature(row) for row in rows]
        return dict(self.processor.pad(features, self.padding_side, self.pad_to_multiple_of))

    def _feature(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        if "input_ids" in row:
            return {"input_ids": row["input_ids"], "labels": row.get("labels", row["input_ids"])}
        if "messages" in row:
            return self.processor.apply_chat_template(row["messages"], labels=True)
        audio = row["codes"] if row.get("codes") is not None else row["audio"]
        return self.processor(row["text"], audio, self.task, labels=True)
