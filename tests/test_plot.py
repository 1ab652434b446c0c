"""Pictures of clips and reports, checked by the data in the matplotlib figures and the files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from audiotok import save_audio
from audiotok.cli.main import main

pytest.importorskip("matplotlib")

PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that were saved, as matplotlib holds them."""
    from matplotlib.figure import Figure

    saved: list[Any] = []
    save = Figure.savefig

    def keep(self: Any, *args: Any, **options: Any) -> None:
        saved.append(self)
        save(self, *args, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return saved


def test_plot_verb_draws_sound_spectrograms_and_codes(
    tiny_codec_dir: Path, make_speech: Callable[..., Tensor], tmp_path: Path, figures: list[Any],
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    clip, out = tmp_path / "clip.wav", tmp_path / "clip.png"
    save_audio(clip, make_speech(1.0), 16_000)
    words = ["plot", str(clip), "--codec", str(tiny_codec_dir), "-o", str(out)]
    assert main([*words, "--n-q", "3"]) == 0
    assert out.read_bytes()[:8] == PNG
    (figure,) = figures
    wave, before, after, grid = figure.axes[:4]
    assert wave.get_xlim() == pytest.approx((0, 1))
    assert before.images[0].get_extent() == after.images[0].get_extent() == [0, 1, 0, 8]
    assert before.images[0].get_clim() == after.images[0].get_clim() == (-80, 0)
    assert before.images[0].get_array().max() == 0  # the loudest point of the clip
    assert grid.images[0].get_array().shape == (3, 50)
    assert grid.images[0].get_clim() == (0, 63)
    assert "0.9 kbit/s" in figure.get_suptitle() and "clip.wav" in figure.get_suptitle()
    # Of a long file only the beginning is shown, with a note.
    monkeypatch.chdir(tmp_path)
    assert main([*words[:4], "--overwrite", "--seconds", "0.4"]) == 0
    assert figures[1].axes[3].images[0].get_array().shape == (4, 20)
    assert "the first 0.4 s are shown" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["clip.wav", "-o", "x.gif"], ".png"),
        (["clip.wav", "--n-q", "9"], "1..4"),
        (["clip.wav", "-o", "none/x.png"], "folder none"),
        (["clip.wav", "-o", "there.png"], "exists already"),
        (["text.wav", "-o", "text.png"], "expected an audio file"),
    ],
)
def test_plot_verb_refuses_in_one_line(
    tiny_codec_dir: Path, make_speech: Callable[..., Tensor], tmp_path: Path, words: list[str], message: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("there.png").write_bytes(b"mine")
    Path("text.wav").write_text("no sound")
    save_audio("clip.wav", make_speech(0.2), 16_000)
    assert main(["plot", *words, "--codec", str(tiny_codec_dir)]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert Path("there.png").read_bytes() == b"mine" and not Path("text.png").exists()


def line(name: str, kind: str, bitrate_bps: float | None, **means: float) -> dict[str, Any]:
    averages = {key: {"mean": value, "low": value - 0.1, "high": value + 0.1} for key, value in means.items()}
    return {"name": name, "kind": kind, "bitrate_bps": bitrate_bps, "averages": averages}


def test_rate_distortion_draws_one_curve_per_system_and_panel(tmp_path: Path, figures: list[Any]) -> None:
    from audiotok.pictures import draw_rate_distortion

    report = {
        "codec": {"name": "tiny"}, "rows": 3, "duration_s": 9.0,
        "conditions": [
            line("n_q=8", "codec", 4000, pesq_wb=2.5, stoi=0.9, visqol=3.0),
            line("n_q=4", "codec", 2000, pesq_wb=2.0, stoi=0.85),
            line("opus 6 kbps", "opus", 7500, pesq_wb=2.1, stoi=0.9),
            line("resample", "baseline", None, pesq_wb=4.6, stoi=1.0),
        ],
    }  # fmt: skip
    draw_rate_distortion(tmp_path / "rd.png", report)
    assert (tmp_path / "rd.png").read_bytes()[:8] == PNG
    (figure,) = figures
    panels = {axis.get_title(): axis for axis in figure.axes if axis.get_title()}
    assert list(panels) == ["PESQ-WB ↑", "STOI ↑", "ViSQOL, speech mode ↑"]
    codec, opus = (curve.lines[0] for curve in panels["PESQ-WB ↑"].containers)
    assert codec.get_xydata().tolist() == [[2.0, 2.0], [4.0, 2.5]]  # in the order of the bitrate
    assert opus.get_xydata().tolist() == [[7.5, 2.1]]
    assert len(panels["ViSQOL, speech mode ↑"].containers) == 1  # Opus has no ViSQOL here
    report["conditions"] = [line("n_q=8", "codec", 4000)]
    with pytest.raises(ValueError, match="got none"):
        draw_rate_distortion(tmp_path / "rd.png", report)
