"""The benchmark of codecs."""

from __future__ import annotations

import json

import pytest

from benchmarks.__main__ import PROGRAM


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
