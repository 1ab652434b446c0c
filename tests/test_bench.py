"""The bench: every codec timed in turns, rivals at their published sizes, the machine named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from audiotok import AudioCodec
from audiotok.cli import bench, rivals
from audiotok.cli.main import build_parser, main


def test_bench_verb_times_both_codecs(
    tiny_codec_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    words = ["bench", "--codec", str(tiny_codec_dir), "--against", "encodec", "--seconds", "0.5"]
    threads = torch.get_num_threads()
    assert main([*words, "--repeats", "2", "--json", str(out)]) == 0
    table = capsys.readouterr().out
    assert "ours is faster by" in table and "algorithmic latency 30 ms" in table
    report = json.loads(out.read_text())
    assert [row["name"] for row in report["rows"]] == ["audiotok", "encodec 24 kHz 6 kbps"]
    assert report["rows"][1]["parameters"] / 1e6 == pytest.approx(14.9, abs=0.1)
    for verb in ("encode", "decode"):
        ours, theirs = (row[f"{verb}_times_real_time"] for row in report["rows"])
        assert ours > 0 and report["ratio"]["encodec 24 kHz 6 kbps"][verb] == pytest.approx(ours / theirs)
        assert all(len(row[f"{verb}_s"]) == 2 for row in report["rows"])
    assert report["streaming_step_ms"]["both"] > 0 and report["frame_ms"] == 20.0
    assert report["machine"]["threads"] == 1 and report["machine"]["processor"]
    assert torch.get_num_threads() == threads


def test_the_codecs_take_turns(tiny_codec: AudioCodec, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def rival(name: str) -> rivals.Rival:
        def encode(wav: torch.Tensor) -> torch.Tensor:
            order.append(name)
            return wav

        return rivals.Rival(name, 16_000, torch.nn.Identity(), encode, lambda codes: codes)

    monkeypatch.setattr(rivals, "build_rival", rival)
    report = bench.measure(tiny_codec, ["a", "b"], seconds=0.1, repeats=2)
    assert order == ["a", "b", *["a", "b"] * 3]  # once for the codes, once untimed, twice timed
    assert [len(row["encode_s"]) for row in report["rows"]] == [2, 2, 2]


def test_against_takes_names_joined_by_commas(capsys: pytest.CaptureFixture[str]) -> None:
    parser = build_parser("bench")
    assert parser.parse_args(["bench", "--against", "encodec,mimi,dac"]).against == ("encodec", "mimi", "dac")
    assert parser.parse_args(["bench"]).against == ()
    assert set(rivals.RIVALS) == set(bench._RIVALS)
    with pytest.raises(SystemExit) as left:
        parser.parse_args(["bench", "--against", "encodec,opus"])
    assert left.value.code == 2 and "got 'opus'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "rate", "books", "frame_rate", "millions"),
    [("encodec", 24_000, 8, 75, 14.9), pytest.param("mimi", 24_000, 8, 12.5, 79.3, marks=pytest.mark.slow),
     pytest.param("dac", 16_000, 12, 50, 74.1, marks=pytest.mark.slow)],
)  # fmt: skip
def test_a_rival_is_whole(name: str, rate: int, books: int, frame_rate: float, millions: float) -> None:
    """Codes of the published shape out of living codebooks, at the published size, weight norm folded."""
    state = torch.get_rng_state()
    rival = rivals.build_rival(name)
    assert torch.equal(torch.get_rng_state(), state)
    assert rival.sampling_rate == rate
    assert sum(weight.numel() for weight in rival.model.parameters()) / 1e6 == pytest.approx(
        millions, abs=0.1
    )
    assert not [key for key in rival.model.state_dict() if "parametrizations" in key]
    with torch.inference_mode():
        out = rival.encode(0.1 * torch.randn(1, 1, round(0.8 * rate)))
        codes = getattr(out, "audio_codes", out)
        assert codes.shape[-2:] == (books, round(0.8 * frame_rate))
        assert len(codes.unique()) > 1
        rival.decode(out)
