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
from transformers import AutoModelForCausalLM

from audiotok import PreparedCorpus, build_tokenizer, checkpoint_dir, load_codec

from ..listener import Listener
from ..nar import NarModel
from ..shipped import find_checkpoint
from .ar_task import ArTask
from .clips import read_clips
from .loop import Task, train
from .nar_task import NarTask
from .recipe import Recipe
from .verifier_task import VerifierTask


def train_lm(
    recipe: Recipe,
    data: Sequence[str | Path],
    out: str | Path,
    alignments: Sequence[str | Path] = (),
    init: str | Path | None = None,
    device: str = "auto",
    codec: str | None = None,
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

    Returns:
        The folder of the model.

    Raises:
        FileNotFoundError: something named is not there.
        ValueError: the corpora or the start are of different codecs, or there is nothing to learn from.
    """
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
        f"{len(clips)} clips, {hours:.2f} h, {aligned} with word times; {len(held_out)} held out",
        file=sys.stderr,
    )
    torch.manual_seed(recipe.seed)
    task: Task
    if recipe.kind == "ar":
        frame_rate = facts["sampling_rate"] / facts["hop_length"]
        task = ArTask(recipe, tokenizer, frame_rate, _start(init, "ar", manifest.codes_fingerprint))
    elif recipe.kind == "verifier":
        task = VerifierTask(recipe, tokenizer, _start(init, "listener", manifest.codes_fingerprint))
    else:
        start = _start(init, "nar", manifest.codes_fingerprint)
        codebooks = None
        if codec is not None:
            loaded = load_codec(codec)
            PreparedCorpus(data[0]).check(loaded)
            codebooks = loaded.quantizer.codebooks
        task = NarTask(recipe, tokenizer, clips, start, codebooks)
    return train(task, clips, held_out, recipe, out, device)


def _start(init: str | Path | None, kind: str, fingerprint: str) -> Any:
    if init is None:
        return None
    folder = find_checkpoint(init)
    folder = folder / kind if (folder / kind).is_dir() else folder
    if kind == "ar":
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        theirs = getattr(model.config, "audio", {}).get("codes_fingerprint")
    else:
        model = {"nar": NarModel, "listener": Listener}[kind].from_pretrained(folder, dtype=torch.float32)
        theirs = model.config.codes_fingerprint
    if theirs != fingerprint:
        raise ValueError(
            f"{folder} reads the codes {theirs}, the corpora hold {fingerprint}; prepare with its codec"
        )
    return model
