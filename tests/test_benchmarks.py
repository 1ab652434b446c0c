"""Benchmarks of codecs, ``.atok`` files and preparation."""

from __future__ import annotations

import json

import atok_toys
import pytest

from audiotok.bitstream.format import LEARNT, RAW
from benchmarks.__main__ import PROGRAM
from benchmarks.atok import measure


def test_codec_times_every_codec(tiny_codec_dir, tmp_path, capsys):
    out = tmp_path / "bench.json"
    words = ["codec", "--codec", str(tiny_codec_dir), "--against", "encodec", "--seconds", "0.3"]
    assert PROGRAM.main([*words, "--repeats", "1", "--json", str(out)]) == 0
    assert "encodec" in capsys.readouterr().out
    report = json.loads(out.read_text())
    ours, encodec = report["rows"]
    assert encodec["parameters"] / 1e6 == pytest.approx(14.9, abs=0.1)
    assert min(row[verb] for row in (ours, encodec) for verb in ("encode", "decode")) > 0
    assert report["streaming_step_ms"]["decode"] > 0 and report["machine"]["threads"] == 1


@pytest.mark.parametrize("coding", [RAW, LEARNT])
def test_atok_sizes_are_of_whole_files(tmp_path, coding):
    model = atok_toys.toy_model() if coding == LEARNT else None
    clips = [atok_toys.toy_codes(atok_toys.toy_model(), 60, 20, seed) for seed in range(2)]
    figures = measure(clips, atok_toys.toy_header(model), model, tmp_path, turns=1, seeks=3, hour_s=12.0)
    sizes = [(tmp_path / f"{i}.atok").stat().st_size for i in range(2)]
    assert figures["seconds"] == 2.4 and figures["saved"] == pytest.approx(
        1 - sum(sizes) / (2 * 60 * 3 * 5 / 8)
    )
    assert 0 < figures["framing"] < 1 and 0 < figures["seek_ms"]["median"] <= figures["seek_ms"]["worst"]
