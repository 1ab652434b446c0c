"""Draws the figures of the documentation; needs matplotlib (extra ``plot``). Everything is seeded.

``python docs/figures.py [FOLDER]`` (default: docs/figures).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from audiotok import flatten
from audiotok.codec.quantizer import ResidualVectorQuantizer, nearest

BLUE, ORANGE, GREY = "#2a5d9f", "#c8641b", "#9a9a9a"
LEVELS = ["#2a5d9f", "#c8641b", "#3f8f4f", "#8a4f9e"]


def fitted(latents: Tensor, n_q: int, codebook_size: int) -> ResidualVectorQuantizer:
    """A quantiser whose codebooks are k-means of latents [M, D], level by level."""
    quantizer = ResidualVectorQuantizer(n_q, codebook_size, latents.shape[1])
    quantizer.init_from(latents, iterations=25)
    return quantizer.eval()


def draw_levels() -> Any:
    """RVQ of one latent: each level quantises the residual of the levels before."""
    generator = torch.Generator().manual_seed(3)
    angle = torch.rand(3000, generator=generator) * 5.0
    latents = torch.stack([angle.cos(), angle.sin()], 1) * (0.6 + 0.15 * angle[:, None])
    latents += 0.13 * torch.randn(3000, 2, generator=generator)
    quantizer = fitted(latents, 4, 8)
    chosen = latents[17]
    figure, panels = plt.subplots(1, 4, figsize=(11, 3.1), layout="constrained")
    residuals, total = latents, torch.zeros(2)
    for level, panel in enumerate(panels):
        book = quantizer.codebooks[level]
        left = chosen - total
        index = nearest(left[None], book)[0]
        panel.scatter(*residuals[::3].T, s=2, color=GREY, alpha=0.35, linewidths=0)
        panel.scatter(*book.T, s=26, color=LEVELS[level], marker="s")
        arrow = {"arrowstyle": "->", "color": LEVELS[level], "lw": 1.8}
        panel.annotate("", book[index].tolist(), (0, 0), arrowprops=arrow)
        panel.plot(*left, "k*", markersize=11)
        panel.plot(*zip(book[index].tolist(), left.tolist(), strict=True), "k:", lw=1)
        total = total + book[index]
        error = float((chosen - total).norm())
        panel.set_title(f"level {level}: code {int(index)}, residual {error:.3f}", fontsize=9)
        reach = 1.1 * float(residuals.abs().quantile(0.999))
        panel.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
        panel.tick_params(labelsize=7)
        residuals = residuals - book[nearest(residuals, book)]
    return figure


def draw_error() -> Any:
    """Error over the number of levels, for latents with equal and with falling variances."""
    generator = torch.Generator().manual_seed(5)
    size, dim, n_q = 64, 8, 8
    plain = torch.randn(20_000, dim, generator=generator)
    falling = plain * 2.0 ** -torch.arange(dim)  # as the principal components of speech fall
    figure, panel = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
    levels = np.arange(n_q + 1)
    for latents, name, colour in (
        (plain, "equal variances", BLUE),
        (falling, "each deviation half of the one before", ORANGE),
    ):
        train, test = latents[:16_000], latents[16_000:]
        quantizer = fitted(train, n_q, size)
        codes = quantizer.encode(test.T[None])
        errors = [1.0]
        for k in range(1, n_q + 1):
            decoded = quantizer.decode(codes[:, :k])[0].T
            errors.append(float((test - decoded).square().mean() / test.square().mean()))
        panel.plot(levels, 10 * np.log10(errors), "o-", color=colour, label=name, markersize=4)
    slope = -6.02 * np.log2(size) / dim
    label = f"6.02 dB x {int(np.log2(size))} bits / {dim} directions"
    panel.plot(levels, slope * levels, "--", color=GREY, label=label)
    panel.set(xlabel=f"codebooks of {size}", ylabel="error over signal, dB")
    panel.legend(fontsize=8)
    panel.grid(alpha=0.3)
    return figure


def draw_layouts() -> Any:
    """The four layouts of codes with 4 codebooks and 6 frames."""
    n_q, frames, size, fill = 4, 6, 100, 10_000
    codes = torch.arange(frames)[None].expand(n_q, -1)  # each code is the number of its frame
    sizes: Any = {"figsize": (10, 5.2), "height_ratios": [4, 1, 1, 1, 1]}
    figure, panels = plt.subplots(5, 1, layout="constrained", **sizes)
    _cells(panels[0], [(k, t, k, t) for k in range(n_q) for t in range(frames)])
    title = "codes [K, T]: codebook k downwards, frame t to the right; each cell shows its frame"
    panels[0].set_title(title, fontsize=9, loc="left")
    for panel, layout in zip(panels[1:], ("first", "flat", "delay", "coarse"), strict=True):
        symbols = flatten(codes, size, layout, fill=fill).tolist()
        cells = [(0, at, -1 if s == fill else s // size, s % size) for at, s in enumerate(symbols)]
        _cells(panel, cells)
        panel.set_title(f"{layout}: {len(symbols)} symbols", fontsize=9, loc="left")
    for panel in panels:
        panel.set(xlim=(0, 36.5), aspect="equal")
        panel.axis("off")
    return figure


def _cells(panel: Any, cells: list[tuple[int, int, int, int]]) -> None:
    """Squares at (row, column), coloured by level (-1: fill), each with the number of its frame."""
    for row, column, level, frame in cells:
        colour = "#e4e4e4" if level < 0 else LEVELS[level]
        panel.add_patch(plt.Rectangle((column + 0.04, -row + 0.04), 0.92, 0.92, color=colour))
        if level >= 0:
            style: Any = {"ha": "center", "va": "center", "color": "white", "fontsize": 8}
            panel.text(column + 0.5, -row + 0.5, str(frame), **style)
    panel.set_ylim(-max(row for row, *_ in cells) - 0.05, 1.05)


def main(argv: list[str]) -> int:
    """Draw all figures into a folder."""
    folder = Path(argv[0]) if argv else Path(__file__).parent / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in (("rvq-levels", draw_levels), ("rvq-error", draw_error), ("layouts", draw_layouts)):
        draw().savefig(folder / f"{name}.png", dpi=90, metadata={"Software": None})
        print(folder / f"{name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
