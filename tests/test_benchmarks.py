"""Benchmarks of codecs and text-to-speech."""

from __future__ import annotations

import json

import lm_toys
import pytest

import benchmarks.tts
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


def test_tts_reports_every_figure(tiny_codec, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmarks.tts, "_BATCH", 2)
    lm_toys.toy_synthesizer(tiny_codec).save_pretrained(tmp_path / "model")
    command = ["tts", "--model", str(tmp_path / "model"), "--rounds", "1", "--text", "Hi."]
    assert PROGRAM.main([*command, "--json", str(tmp_path / "tts.json")]) == 0
    report = json.loads((tmp_path / "tts.json").read_text())
    figures = {name: value for name, value in report.items() if name not in ("text", "threads")}
    assert {"loop_over_generate", "first_audio_ms", "rtf", "batch_speedup"} <= set(figures)
    assert all(value > 0 for value in figures.values()) and "first_audio_ms" in capsys.readouterr().out
