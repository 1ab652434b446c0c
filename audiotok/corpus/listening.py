"""A page to hear what is in a prepared corpus: random rows with sound, text and a picture of their codes.

Knows nothing of how the corpus was made. The law it keeps: the page is one file that needs no other and no network, and
the same seed shows the same rows.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile
import torch

from ..files import write_aside
from .pages import grid_png, page
from .reader import PreparedCorpus

if TYPE_CHECKING:
    from ..codec.model import AudioCodec


def listen(
    path: str | Path,
    codec: AudioCodec,
    out: str | Path,
    *,
    rows: int = 20,
    seed: int = 0,
    split: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[str]:
    """Write the page.

    Args:
        path: a folder written by :func:`~audiotok.corpus.prepare`.
        codec: the one it was prepared with.
        out: the .html file.
        rows: how many are shown; all if there are fewer.
        seed: which.
        split: only rows of this split; None takes all.
        progress: called with rows decoded and rows in all.

    Returns:
        The ids of the rows, in the order of the page.

    Raises:
        FileNotFoundError: there is no corpus, or no folder for the page.
        ValueError: the corpus is damaged, empty, or of another codec.
    """
    corpus = PreparedCorpus(path, split)
    corpus.check(codec)
    if not len(corpus):
        raise ValueError(f"{path}: expected at least one row to listen to, got none")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(corpus))[:rows])
    sections, ids = [], []
    for done, number in enumerate(chosen, 1):
        row = corpus.row(int(number))
        ids.append(row["id"])
        sections.append(_section(row, codec))
        if progress is not None:
            progress(done, len(chosen))
    manifest = corpus.manifest
    size = manifest.codec
    intro = (
        f"<p>{len(ids)} of {len(corpus)} rows, drawn with seed {seed}. Codec {html.escape(size['name'])} "
        f"({manifest.codes_fingerprint}), {size['n_q']} x {size['codebook_size']}. What you hear is decoded from the "
        "codes. In the pictures time runs to the right and codebook 0 is at the top.</p>"
    )
    with write_aside(out) as aside:
        aside.write_text(page(f"{manifest.source}: listen", intro + "".join(sections)), encoding="utf-8")
    return ids


def _section(row: dict[str, Any], codec: AudioCodec) -> str:
    config = codec.config
    codes = row["codes"]
    # Cut to the row's own length: the last frame may be longer than the sound.
    num_samples = min(round(row["seconds"] * config.sampling_rate), codec.samples(codes.shape[1]))
    gains = {"audio_scales": torch.tensor([row["scales"]])} if codec.has_scale else {}
    with torch.inference_mode():
        wav = codec.decode(codes[None].to(codec.device), num_samples=num_samples, **gains).audio_values
    assert wav is not None
    sound = io.BytesIO()
    samples = wav[0, 0].float().clamp(-1, 1).cpu().numpy()
    soundfile.write(sound, samples, config.sampling_rate, format="FLAC", subtype="PCM_16")
    facts = [
        row["split"],
        row["speaker"],
        row["language"],
        f"{row['seconds']:.2f} s",
        f"{row['frames']} frames",
    ]
    if row.get("level_db") is not None:
        facts.append(f"speech at {row['level_db']:.0f} dB")
    picture = grid_png(codes.numpy(), config.codebook_size)
    height = 10 * codes.shape[0]
    return (
        f"<section><b>{html.escape(row['id'])}</b> "
        f'<span class="small">{html.escape(" · ".join(filter(None, facts)))}</span>'
        f"<p>{html.escape(row['text'] or '(no text)')}</p>"
        f'<audio controls preload="none" src="data:audio/flac;base64,{_base64(sound.getvalue())}"></audio>'
        f'<img class="codes" style="height:{height}px" alt="codes" src="data:image/png;base64,{_base64(picture)}">'
        "</section>\n"
    )


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
