"""From a recipe and folders to a trained half.

Knows nothing of the inside of either half. The law it keeps (binding): corpora, tokenizer and the model one
starts from carry the same ``codes_fingerprint``.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from audiotok import PreparedCorpus, build_tokenizer, checkpoint_dir, load_codec, program

from ..evaluate import read_lines
from ..folder import find_checkpoint, load_part
from ..models.nar import NarConfig, NarModel
from ..models.reranker import Reranker, RerankerConfig
from .ar_task import ArTask
from .carry import carry_ar, carry_nar, count_pairs, pair_rows
from .clips import join_clips, read_clips
from .hearing import Hearing
from .loop import Task, train
from .nar_task import NarTask
from .recipe import Recipe
from .verifier_task import VerifierTask

_PARTS = {"ar": "ar", "nar": "nar", "verifier": "reranker"}  # folders of a bundle
_CARRIED_FRAMES = 200_000
_HEARD_LINES = 10


def train_lm(
    recipe: Recipe,
    data: Sequence[str | Path],
    out: str | Path,
    alignments: Sequence[str | Path] = (),
    init: str | Path | None = None,
    device: str = "auto",
    codec: str | None = None,
    carry: Sequence[str | Path] = (),
    speaker: str | Path | None = None,
    lines: str | Path | None = None,
) -> Path:
    """Train one half of the language model, or the verifier.

    Args:
        recipe: which half, how large, how long.
        data: prepared corpora of one codec.
        out: the run's folder; a run that is there is continued.
        alignments: word times (see :func:`~tts_lm.training.clips.read_clips`).
        init: a shipped model or folder to start from: a whole synthesizer, or the part itself.
        device: ``cpu`` or ``auto``.
        codec: the corpora's codec, by name or folder; a new NAR half starts from its codewords.
        carry: the sources of ``data``, in the same order, prepared with the codec that ``init`` was trained on: it is
            carried over to the new codes before training.
        speaker: a whole model, by name or folder: at every checkpoint the half speaks with its other parts.
        lines: a file of what it says then, of which the first ten are taken; pocketsphinx listens.

    Returns:
        The folder of the model.

    Raises:
        FileNotFoundError: something named is not there.
        ValueError: the corpora or the start are of different codecs, or there is nothing to learn from.
    """
    hear = None
    if speaker is not None and lines is not None:
        fingerprint = PreparedCorpus(data[0]).manifest.codes_fingerprint
        hear = Hearing(recipe.kind, speaker, read_lines(lines, _HEARD_LINES), fingerprint)
    elif speaker is not None or lines is not None:
        raise ValueError(
            "expected both a model to speak with and lines to say, got one; give --speaker and --lines"
        )
    clips, held_out = read_clips(data, alignments, recipe.data.max_seconds)
    if recipe.kind == "verifier":
        clips, held_out = ([clip for clip in some if clip.aligned] for some in (clips, held_out))
        if not clips:
            raise ValueError("expected word times to learn sounds from, got none; give --alignments FILE")
    manifest = PreparedCorpus(data[0]).manifest
    facts = manifest.codec
    text_model = checkpoint_dir("text-en") / "tokenizer.model"
    tokenizer = build_tokenizer(
        text_model, facts["n_q"], facts["codebook_size"], codes_fingerprint=manifest.codes_fingerprint
    )
    hours = sum(clip.frames for clip in clips) * facts["hop_length"] / facts["sampling_rate"] / 3600
    aligned = sum(clip.aligned for clip in clips)
    print(
        f"{len(clips)} clips, {program.duration(hours)}, {aligned} with word times; {len(held_out)} held out",
        file=sys.stderr,
    )
    torch.manual_seed(recipe.seed)
    task: Task
    codebooks = None
    if codec is not None:
        loaded = load_codec(codec)
        PreparedCorpus(data[0]).check(loaded)
        codebooks = loaded.quantizer.codebooks
    old_codes = PreparedCorpus(carry[0]).manifest.codes_fingerprint if carry else manifest.codes_fingerprint
    start = _start(init, recipe.kind, old_codes)
    if carry:
        _carry_over(start, recipe.kind, carry, data, codebooks)
    if recipe.kind == "ar":
        frame_rate = facts["sampling_rate"] / facts["hop_length"]
        clips += join_clips(clips, recipe.data.joined, int(recipe.data.max_seconds * frame_rate), recipe.seed)
        task = ArTask(recipe, tokenizer, frame_rate, start)
    elif recipe.kind == "verifier":
        task = VerifierTask(recipe, tokenizer, start)
    else:
        task = NarTask(recipe, tokenizer, clips, start, codebooks)
    return train(task, clips, held_out, recipe, out, device, hear)


def _carry_over(
    start: Any, kind: str, old: Sequence[str | Path], new: Sequence[str | Path], codebooks: Tensor | None
) -> None:
    """Carry a half over to the codes of ``new``; ValueError where something for it is missing."""
    if start is None or kind == "verifier":
        raise ValueError("expected a half to carry over, ar or nar; give --init, or train from nothing")
    if kind == "nar" and codebooks is None:
        raise ValueError("expected the new codec to carry a NAR half over to; give --codec")
    manifest = PreparedCorpus(new[0]).manifest
    shares, sample = count_pairs(pair_rows(old, new), manifest.codec["codebook_size"], _CARRIED_FRAMES)
    if kind == "ar":
        carry_ar(start, shares, manifest.codes_fingerprint)
    elif codebooks is not None:
        carry_nar(start, shares, sample, codebooks, manifest.codes_fingerprint)


def _start(init: str | Path | None, kind: str, fingerprint: str) -> Any:
    if init is None:
        return None
    part = _PARTS[kind]
    folder = find_checkpoint(init)
    folder = folder / part if (folder / part).is_dir() else folder
    if kind == "ar":
        model = load_part(AutoModelForCausalLM, folder, "llama")
        theirs = getattr(model.config, "audio", {}).get("codes_fingerprint")
    else:
        family, config = {"nar": (NarModel, NarConfig), "verifier": (Reranker, RerankerConfig)}[kind]
        model = load_part(family, folder, config.model_type)
        theirs = model.config.codes_fingerprint
    if theirs != fingerprint:
        raise ValueError(
            f"{folder} reads the codes {theirs}, the corpora hold {fingerprint}; prepare with its codec"
        )
    return model
