"""Codes and control tokens <-> ids, by arithmetic: the half of a tokenizer that needs no text.

Knows nothing of text or models. The law it keeps: codes -> ids -> codes is the identity for every layout, and
ids that no codes could have made raise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor

from .grammar import Cursor, Layout
from .layout import flatten, unflatten
from .stream import FrameReader, Repaired
from .vocabulary import CONTROL_INDEX, ROW_MULTIPLE


class AudioIds:
    """What :class:`~audiotok.tokens.tokenizer.AudioTextTokenizer` knows of codes.

    Attributes:
        n_q: K, the codebooks that have ids.
        codebook_size: V, entries per codebook.
        codes_fingerprint: the codec whose codes the audio ids stand for.
        control_offset: id of the first control token, which is also the number of text ids.
        audio_offset: id of code 0 of codebook 0.
    """

    init_kwargs: dict[str, Any]  # where transformers keeps what a saved folder says

    @property
    def n_q(self) -> int:
        return self._stored("n_q")

    @property
    def codebook_size(self) -> int:
        return self._stored("codebook_size")

    @property
    def codes_fingerprint(self) -> str:
        return self._stored("codes_fingerprint")

    @property
    def control_offset(self) -> int:
        return self._stored("control_offset")

    @property
    def audio_offset(self) -> int:
        return self._stored("audio_offset")

    @property
    def padded_vocab_size(self) -> int:
        """Rows that a model's embedding should have: the vocabulary, rounded up to a multiple of 64."""
        ids: Any = self  # the tokenizer that this is part of has a length
        return -(-len(ids) // ROW_MULTIPLE) * ROW_MULTIPLE

    def control_id(self, name: str) -> int:
        """The id of a control token by its name.

        Args:
            name: ``pad``, ``bos``, ``eos``, ``text_start``, ``text_end``, ``audio_start``, ``audio_end``,
                ``voice_00`` to ``voice_15``, ``fill``, or ``reserved_24`` to ``reserved_63``.

        Returns:
            The id, in [control_offset, audio_offset).

        Raises:
            ValueError: no control token has this name; the message lists those that exist.
        """
        if name not in CONTROL_INDEX:
            raise ValueError(f"expected a control token of {', '.join(CONTROL_INDEX)}; got {name!r}")
        return self.control_offset + CONTROL_INDEX[name]

    def encode_audio(self, codes: Tensor, layout: Layout = "flat") -> list[int]:
        """Turn codes into ids.

        Args:
            codes: [K, T] integers in [0, V), 1 <= K <= n_q.
            layout: ``flat`` (all K codebooks, frame by frame), ``delay`` (so too, codebook k shifted by k
                frames), ``coarse`` (codebook by codebook) or ``first`` (codebook 0 only).

        Returns:
            Ids in [audio_offset, len(self)), with the control id ``fill`` in the corners of ``delay``; as
            many as :func:`audiotok.sequence_length` says.

        Raises:
            TypeError: ``codes`` is not a tensor of integers.
            ValueError: the shape or a code is out of range, or the layout is unknown.
        """
        if isinstance(codes, Tensor) and codes.ndim == 2 and codes.shape[0] > self.n_q:
            raise ValueError(
                f"expected at most n_q = {self.n_q} codebooks, got {codes.shape[0]}; pass codes[:n_q]"
            )
        fill = self.control_id("fill")
        return flatten(codes, self.codebook_size, layout, self.audio_offset, fill).tolist()

    @overload
    def decode_audio(
        self,
        ids: Sequence[int] | Tensor,
        layout: Layout = "flat",
        n_q: int | None = None,
        errors: Literal["strict"] = "strict",
    ) -> Tensor:
        """Ids [S] -> codes [K, T], strictly."""
        ...

    @overload
    def decode_audio(
        self,
        ids: Sequence[int] | Tensor,
        layout: Layout = "flat",
        n_q: int | None = None,
        *,
        errors: Literal["repair"],
    ) -> Repaired:
        """Ids [S] -> codes [K, T] and what was lost."""
        ...

    def decode_audio(
        self,
        ids: Sequence[int] | Tensor,
        layout: Layout = "flat",
        n_q: int | None = None,
        errors: Literal["strict", "repair"] = "strict",
    ) -> Tensor | Repaired:
        """Turn audio ids back into codes: the strict inverse of :meth:`encode_audio`.

        Args:
            ids: [S] audio ids only; cut the markers around them off first.
            layout: the layout that they were made with.
            n_q: K, the codebooks in them; None means all of the tokenizer's. ``first`` always holds one.
            errors: ``strict``, or ``repair`` to keep the whole frames and count what was lost.

        Returns:
            [K, T] int64 codes; with ``errors="repair"`` a :class:`Repaired` of codes and count.

        Raises:
            TypeError: ``ids`` are not integers.
            ValueError: ``n_q`` is out of range, or layout or errors are unknown.
            LayoutError: the ids do not form whole frames; names the first bad position, the range expected
                there and what came.
        """
        n_q, fill = self.check_n_q(n_q), self.control_id("fill")
        return unflatten(ids, n_q, self.codebook_size, layout, self.audio_offset, fill, errors=errors)  # type: ignore[call-overload]

    def audio_reader(
        self,
        layout: Layout = "flat",
        n_q: int | None = None,
        errors: Literal["strict", "repair"] = "strict",
    ) -> FrameReader:
        """A session that takes audio ids one at a time and gives frames as soon as they are whole.

        Raises:
            ValueError: ``n_q`` is out of range, or layout or errors are unknown.
        """
        fill = self.control_id("fill")
        return FrameReader(layout, self.check_n_q(n_q), self.codebook_size, self.audio_offset, fill, errors)

    def audio_cursor(self, layout: Layout = "flat", n_q: int | None = None) -> Cursor:
        """What may come next in a block of audio ids; see :class:`audiotok.tokens.grammar.Cursor`.

        Raises:
            ValueError: ``n_q`` is out of range, or the layout is unknown.
        """
        fill = self.control_id("fill")
        return Cursor(layout, self.check_n_q(n_q), self.codebook_size, self.audio_offset, fill)

    def batch_encode_audio(
        self, codes: Tensor, mask: Tensor | None = None, layout: Layout = "flat"
    ) -> list[list[int]]:
        """Turn a ragged batch of codes into ids, one list a clip.

        Args:
            codes: [B, K, T] integers, as ``codec.encode`` gives them.
            mask: [B, T] bool, true where a frame is sound, ``audio_codes_mask``; None means all.
            layout: see :meth:`encode_audio`.

        Returns:
            B lists.

        Raises:
            ValueError: a shape does not fit, or as in :meth:`encode_audio`.
        """
        if codes.ndim != 3 or (mask is not None and mask.shape != (codes.shape[0], codes.shape[2])):
            shapes = [list(codes.shape), None if mask is None else list(mask.shape)]
            raise ValueError(f"expected codes [B, K, T] and mask [B, T], got shapes {shapes}")
        rows = codes if mask is None else [row[:, keep] for row, keep in zip(codes, mask.bool(), strict=True)]
        return [self.encode_audio(row, layout) for row in rows]

    def batch_decode_audio(
        self, batch: Sequence[Sequence[int] | Tensor], layout: Layout = "flat", n_q: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """The strict inverse of :meth:`batch_encode_audio`.

        Args:
            batch: B sequences of audio ids [S], of any lengths.
            layout: see :meth:`encode_audio`.
            n_q: K, the codebooks in them; None means all.

        Returns:
            codes [B, K, T] int64, zeros where a clip is over, and mask [B, T] bool.

        Raises:
            LayoutError: ids of a clip do not form whole frames.
            ValueError: as in :meth:`decode_audio`, or the batch is empty.
        """
        if not len(batch):
            raise ValueError("expected at least one sequence of audio ids, got an empty batch")
        clips = [self.decode_audio(ids, layout, n_q) for ids in batch]
        lengths = torch.tensor([clip.shape[1] for clip in clips])
        codes = torch.zeros(len(clips), clips[0].shape[0], int(lengths.max()), dtype=torch.int64)
        for row, clip in zip(codes, clips, strict=True):
            row[:, : clip.shape[1]] = clip
        return codes, torch.arange(codes.shape[2]) < lengths[:, None]

    def check_n_q(self, n_q: int | None) -> int:
        """``n_q`` codebooks, or all for None. ValueError if there are not so many."""
        n_q = self.n_q if n_q is None else n_q
        if not 1 <= n_q <= self.n_q:
            raise ValueError(f"expected n_q in [1, {self.n_q}], got {n_q}")
        return n_q

    def _stored(self, name: str) -> Any:
        if name not in self.init_kwargs:
            raise ValueError(
                f"expected a tokenizer with audio ids, but its tokenizer_config.json has no {name!r}; "
                "make one with audiotok.build_tokenizer() or audiotok.extend_tokenizer()"
            )
        return self.init_kwargs[name]
