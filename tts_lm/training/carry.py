"""A half trained on one codec's codes -> a start on another's.

The same clips, prepared with both codecs, say which codes stand for the same sounds. What a new code means to the AR
half is the average of the old codes it stands beside; the NAR half thinks in latents, and a linear map takes one
codec's to the other's. Knows nothing of training. The law it keeps: codes that only changed their numbers keep their
meaning exactly.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from audiotok import PreparedCorpus

from ..models.nar import NarModel


def pair_rows(old: Sequence[str | Path], new: Sequence[str | Path]) -> Iterator[tuple[Tensor, Tensor]]:
    """Codes of the clips that both lists of prepared corpora hold, [K, T] each.

    Raises:
        ValueError: no clip is in both, or a clip has another number of frames.
    """
    found = False
    for theirs, ours in zip(map(PreparedCorpus, old), map(PreparedCorpus, new), strict=False):
        rows = {id: row for row, id in enumerate(theirs.column("id"))}
        for row, id in enumerate(ours.column("id")):
            if id not in rows:
                continue
            was, now = theirs.row(rows[id])["codes"], ours.row(row)["codes"]
            if was.shape != now.shape:
                raise ValueError(
                    f"{id}: expected codes {list(was.shape)} as in {theirs.path}, got {list(now.shape)}; "
                    "carrying over needs codecs of one frame rate and as many codebooks"
                )
            found = True
            yield was, now
    if not found:
        raise ValueError(
            f"expected clips that {', '.join(map(str, old))} hold too, got none; prepare the same sources"
        )


def count_pairs(
    pairs: Iterator[tuple[Tensor, Tensor]], codebook_size: int, frames: int
) -> tuple[Tensor, Tensor]:
    """How often codes of codebook 0 stand for each other, and a sample of frames.

    Args:
        pairs: old and new codes of the same clips.
        codebook_size: V.
        frames: size of the sample.

    Returns:
        [V, V] float32, share of each old code (column) among the frames of a new code (row): rows sum to one, and a
        new code that never occurred takes the average of all; and [2, K, M] int64, M <= ``frames``, old and new.
    """
    counts = torch.zeros(codebook_size * codebook_size)
    sample, kept = [], 0
    for was, now in pairs:
        counts += torch.bincount(now[0] * codebook_size + was[0], minlength=len(counts))
        if kept < frames:
            sample.append(torch.stack([was, now]))
            kept += now.shape[-1]
    table = counts.view(codebook_size, codebook_size)
    everything = table.sum(0, keepdim=True)
    table = torch.where(table.sum(1, keepdim=True) > 0, table, everything)
    return table / table.sum(1, keepdim=True), torch.cat(sample, dim=-1)[..., :frames]


@torch.no_grad()
def carry_ar(model: Any, shares: Tensor, fingerprint: str) -> None:
    """Give the rows of codebook 0 their new meaning, in place.

    Args:
        model: a Llama from :func:`~tts_lm.models.ar.build_ar`; input and output rows are tied.
        shares: [V, V] as :func:`count_pairs` gives it.
        fingerprint: of the new codec.
    """
    first = model.config.audio["audio_offset"]
    rows = model.model.embed_tokens.weight[first : first + len(shares)]
    rows.copy_(shares @ rows)
    model.config.audio["codes_fingerprint"] = fingerprint


@torch.no_grad()
def carry_nar(model: NarModel, shares: Tensor, sample: Tensor, codebooks: Tensor, fingerprint: str) -> None:
    """Put the NAR half into another codec's latent space, in place.

    Args:
        model: trained on the old codec.
        shares: [V, V], and
        sample: [2, K, M], as :func:`count_pairs` gives them.
        codebooks: [K, V, D] of the new codec.
        fingerprint: of the new codec.

    Raises:
        ValueError: the new codewords are of another width.
    """
    old = model.latents(sample[:1])[0]
    model.set_codebooks(codebooks)
    new = model.latents(sample[1:])[0]
    to_old = torch.linalg.lstsq(new, old).solution  # [D, D]: new @ to_old is about old
    to_new = torch.linalg.lstsq(old, new).solution
    model.latent_in.weight.copy_(model.latent_in.weight @ to_old.t())
    model.latent_out.weight.copy_(to_new.t() @ model.latent_out.weight)
    model.latent_out.bias.copy_(model.latent_out.bias @ to_new)
    model.first_embedding.weight.copy_(shares @ model.first_embedding.weight)
    model.code_bias.zero_()
    model.config.codes_fingerprint = fingerprint
