"""Figures: a clip before and after a codec with its codes, and quality over bitrate. They need no display."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .files import write_aside

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")

_BLUE, _ORANGE, _GREEN, _GREY = "#2a5d9f", "#c8641b", "#3b8a4e", "#8a8a8a"
# Kind of a condition -> style of its curve.
_CURVES = {
    "codec": (_BLUE, "codes"),
    "search": (_GREEN, "optimised codes"),
    "opus": (_ORANGE, "Opus packets"),
}
_RANGE_DB = 80.0  # range of a spectrogram below its maximum
# Metric -> title of its panel; the arrow points to better.
_PANELS = {
    "pesq_wb": "PESQ-WB ↑",
    "stoi": "STOI ↑",
    "visqol": "ViSQOL, speech mode ↑",
    "mel_distance_db": "mel distance, dB ↓",
    "f0_error_cents": "pitch error, cents ↓",
}


def check_picture(path: str | Path) -> None:
    """Raise ValueError for a suffix that is not in :data:`FORMATS`, ModuleNotFoundError without matplotlib."""
    if Path(path).suffix.lower() not in FORMATS:
        raise ValueError(f"expected a picture ending in {', '.join(FORMATS)}, got {path}; choose one of them")
    _figure(1, 1)


def draw_clip(
    path: str | Path,
    wav: np.ndarray[Any, Any],
    decoded: np.ndarray[Any, Any] | None,
    codes: np.ndarray[Any, Any],
    sampling_rate: int,
    codebook_size: int,
    title: str,
) -> None:
    """Draw waveform, spectrogram before and after, and codes over one time axis.

    Args:
        path: .png, .svg or .pdf.
        wav: the clip, [N] in [-1, 1].
        decoded: the decoded clip, [N]; None for generated speech, which has no before and after.
        codes: [K, T] in [0, V), T frames over the same time; -1 is left empty.
        sampling_rate: of both wavs, in Hz.
        codebook_size: V.
        title: of the figure.

    Raises the errors of :func:`check_picture`.
    """
    check_picture(path)
    seconds = len(wav) / sampling_rate
    sounds = [(wav, "before, "), (decoded, "after, ")] if decoded is not None else [(wav, "")]
    rows = len(sounds)
    figure = _figure(11, 5.1 + 1.7 * rows)
    axes = figure.subplots(2 + rows, 1, sharex=True, height_ratios=(1.0, *[1.6] * rows, 1.1))
    figure.suptitle(title, fontsize=11)
    # The outline of the waveform: the lowest and the highest sample of each column.
    edges = np.linspace(0, len(wav), min(1500, len(wav)) + 1).astype(int)[:-1]
    low, high = np.minimum.reduceat(wav, edges), np.maximum.reduceat(wav, edges)
    axes[0].fill_between(edges / sampling_rate, low, high, color=_BLUE, linewidth=0.3, step="post")
    axes[0].axhline(0, color=_GREY, linewidth=0.5)
    peak = 1.05 * max(0.05, float(np.abs(wav).max()))
    axes[0].set(xlim=(0, seconds), ylim=(-peak, peak), ylabel="wav")
    images = [_spectrogram_db(sound, sampling_rate) for sound, _ in sounds]
    # Both share one colour scale, so that a loss of level is visible.
    top = images[0].max()
    place: dict[str, Any] = {"origin": "lower", "aspect": "auto"}
    place["extent"] = (0, seconds, 0, sampling_rate / 2000)
    for axis, image, (_, label) in zip(axes[1:], images, sounds, strict=False):
        drawn = axis.imshow(image - top, cmap="magma", vmin=-_RANGE_DB, vmax=0, **place)
        axis.set_ylabel(f"{label}kHz")
    figure.colorbar(drawn, ax=list(axes[1 : 1 + len(sounds)]), label="dB", pad=0.01, fraction=0.03)
    drawn = axes[-1].imshow(
        np.ma.masked_less(codes, 0), aspect="auto", interpolation="nearest",
        extent=(0, seconds, len(codes) - 0.5, -0.5), cmap="viridis", vmin=0, vmax=codebook_size - 1,
    )  # fmt: skip
    axes[-1].set(yticks=range(len(codes)), ylabel="codebook", xlabel="seconds")
    figure.colorbar(drawn, ax=axes[-1], label="code", pad=0.01, fraction=0.03)
    _save(figure, path)


def draw_rate_distortion(path: str | Path, report: dict[str, Any]) -> None:
    """Draw every metric over the coded bitrate, for the codec and Opus, with 95 % intervals.

    ``report`` is from :meth:`audiotok.evaluate.CodecReport.as_dict`.

    Raises:
        ValueError: the suffix is not supported, or no condition has both a bitrate and a score.
    """
    check_picture(path)
    lines = [condition for condition in report["conditions"] if condition["kind"] in _CURVES]
    names = [name for name in _PANELS if any(name in line["averages"] for line in lines)]
    if not names:
        raise ValueError("expected scores to draw over the bitrate, got none; see the failures in the table")
    columns = min(3, len(names))
    height = -(-len(names) // columns)
    figure = _figure(4.2 * columns, 3.4 * height + 0.5)
    axes = figure.subplots(height, columns, squeeze=False, sharex=True).flatten()
    heading = (
        f"{report['codec']['name']}: {report['rows']} clips, {report['duration_s']:.0f} s, 95 % intervals"
    )
    figure.suptitle(heading, fontsize=11)
    for axis, name in zip(axes, names, strict=False):
        for kind, (colour, label) in _CURVES.items():
            found = [line for line in lines if line["kind"] == kind and name in line["averages"]]
            found.sort(key=lambda line: line["bitrate_bps"])
            if not found:
                continue
            mean, low, high = (
                np.array([line["averages"][name][key] for line in found]) for key in ("mean", "low", "high")
            )
            # The mean of a skewed bootstrap may lie outside its interval.
            errors = np.stack([mean - low, high - mean]).clip(min=0)
            rates = [line["bitrate_bps"] / 1000 for line in found]
            style: dict[str, Any] = {"marker": "o", "markersize": 4, "linewidth": 1.4, "capsize": 2}
            axis.errorbar(rates, mean, yerr=errors, color=colour, label=label, **style)
        axis.set_title(_PANELS[name], fontsize=10)
        axis.grid(color="#e4e4e4", linewidth=0.7)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in axes[len(names) :]:
        axis.set_visible(False)
    for axis in axes[max(0, len(names) - columns) : len(names)]:
        axis.set_xlabel("kbit/s")
        axis.tick_params(labelbottom=True)
    axes[0].legend(frameon=False, fontsize=9)
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    """An empty figure that draws without a display and without matplotlib's global state."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "a picture needs the package 'matplotlib', which is not installed; pip install 'audiotok[plot]'",
            name="matplotlib",
        ) from error
    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: str | Path) -> None:
    with write_aside(path) as aside:
        figure.savefig(aside, dpi=140)


def _spectrogram_db(wav: np.ndarray[Any, Any], sampling_rate: int) -> np.ndarray[Any, Any]:
    """Power [F, T] in dB of 32 ms Hann windows every 8 ms, centred on times from 0 to the end."""
    size = 2 ** round(np.log2(0.032 * sampling_rate))
    padded = np.pad(wav.astype(np.float64), size // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, size)[:: size // 4]
    power = np.abs(np.fft.rfft(frames * np.hanning(size), axis=-1)) ** 2
    return 10 * np.log10(power.T + 1e-10)
