"""The codec's test-set report."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from audiotok import AudioCodec, load_audio, save_audio
from audiotok.bitstream import AtokWriter
from audiotok.cli.encode import new_header
from audiotok.cli.main import main
from audiotok.evaluate import (
    bootstrap,
    bootstrap_interval,
    evaluate_codec,
    read_rows,
    through_opus,
)

PLAIN: dict[str, Any] = {"metrics": ("si_sdr_db", "mel_distance_db"), "workers": 0}


@pytest.fixture
def folder(make_speech: Callable[..., Tensor], tmp_path: Path) -> Path:
    """An audio folder: three clips of one source, one of another, one of another split."""
    data = tmp_path / "data"
    data.mkdir()
    rows = [("test", "news_a", 1.2), ("test", "news_b", 0.8), ("test", "news_b", 1.0)]
    rows += [("test", "other", 0.6), ("train", "news_a", 0.6)]
    with (data / "metadata.csv").open("w", newline="") as lines:
        table = csv.writer(lines)
        table.writerow(["file_name", "transcription", "speaker_id", "source", "split"])
        for index, (split, source, seconds) in enumerate(rows):
            save_audio(data / f"{index}.wav", make_speech(seconds, seed=index), 16_000)
            table.writerow([f"{index}.wav", "A sentence.", f"s{index}", source, split])
    return data


def test_read_rows_filters_by_split_and_source_prefix(folder: Path) -> None:
    assert [row.path.name for row in read_rows(folder, "test", "news")] == ["0.wav", "1.wav", "2.wav"]
    assert [row.speaker for row in read_rows(folder, "train")] == ["s4"]
    assert len(read_rows(folder)) == 5
    assert [row.path.name for row in read_rows(folder, limit=2)] == ["0.wav", "2.wav"]
    (folder / "other.csv").write_text("path\na.wav\n")
    for wrong, key in (({"split": "validation"}, "validation"), ({"limit": 0}, "limit")):
        with pytest.raises(ValueError, match=key):
            read_rows(folder, **wrong)
    with pytest.raises(ValueError, match="file_name"):
        read_rows(folder / "other.csv")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_rows(folder / "nowhere")


def test_bootstrap_interval_holds_the_mean_and_shrinks() -> None:
    few, many = bootstrap([1.0, 2.0, 3.0, 4.0]), bootstrap([1.0, 2.0, 3.0, 4.0] * 100)
    assert few.mean == many.mean == 2.5
    assert few.low < many.low < 2.5 < many.high < few.high
    # 400 values with a deviation of 1.118: the mean's standard error is 0.0559, the interval 3.92 times that.
    assert many.high - many.low == pytest.approx(0.219, abs=0.02)
    values = np.arange(50.0)
    low, high = bootstrap_interval(50, lambda picks: np.median(values[picks], axis=1))
    assert 10 < low < 24.5 < high < 40
    with pytest.raises(ValueError):
        bootstrap_interval(0, lambda picks: picks[:, 0])


def test_every_condition_is_reported(tiny_codec: AudioCodec, folder: Path) -> None:
    wav, _ = load_audio(folder / "0.wav", 22_050)
    save_audio(folder / "0.wav", wav, 22_050)  # scored at its own rate
    rows = read_rows(folder, "test", "news")
    done: list[tuple[int, int]] = []
    options = {**PLAIN, "opus_kbps": [24], "losses": [0.3], "progress": lambda *counts: done.append(counts)}
    report = evaluate_codec(tiny_codec, rows, [1, 4], **options)
    assert done == [(1, 3), (2, 3), (3, 3)]
    found = [(c.kind, c.n_q, c.raw_bps, c.loss, c.conceal, c.opus_kbps) for c in report.conditions]
    assert found == [
        ("codec", 1, 300.0, None, False, None), ("codec", 4, 1200.0, None, False, None),
        ("loss", 4, 1200.0, 0.3, True, None), ("loss", 4, 1200.0, 0.3, False, None),
        ("opus", None, None, None, False, 24),
    ]  # fmt: skip
    distances = [condition.averages["mel_distance_db"].mean for condition in report.conditions]
    assert len(set(distances)) == 5 and min(distances) == distances[4] > 0
    assert report.conditions[4].averages["si_sdr_db"].mean > 0
    assert report.duration_s == pytest.approx(3.0) and report.frames == 60 + 40 + 50
    assert all(1.0 <= value <= 64.0 for value in report.perplexity)
    assert report.entropy_bps == pytest.approx(50 * np.log2(report.perplexity).sum())
    json.dumps(report.as_dict(), allow_nan=False)
    # The lost frames of a clip do not depend on the others.
    again = evaluate_codec(tiny_codec, rows[1:], [4], losses=[0.3], **PLAIN).conditions[1]
    assert again.clips == report.conditions[2].clips[1:]


def test_workers_do_not_change_the_result_and_failures_are_counted(
    tiny_codec: AudioCodec, folder: Path
) -> None:
    save_audio(folder / "1.wav", torch.zeros(1, 8000), 16_000)
    rows = read_rows(folder, "test", "news")
    alone, helped = (
        evaluate_codec(tiny_codec, rows, opus_kbps=[6], **{**PLAIN, "workers": workers}).as_dict()
        for workers in (0, 1)
    )
    assert alone == helped
    opus = alone["conditions"][1]
    (failure,) = opus["failures"]
    assert (failure["metric"], Path(failure["file"]).name) == ("si_sdr_db", "1.wav")
    # Left out of the mean, not scored as the worst.
    assert opus["averages"]["si_sdr_db"]["clips"] == 2 and opus["averages"]["mel_distance_db"]["clips"] == 3


@pytest.mark.parametrize(
    "change",
    [{"n_qs": [5]}, {"metrics": ("beauty",)}, {"opus_kbps": [2]}, {"losses": [1.0]}, {"rows": []}],
)
def test_impossible_conditions_are_refused(
    tiny_codec: AudioCodec, folder: Path, change: dict[str, Any]
) -> None:
    with pytest.raises(ValueError):
        evaluate_codec(tiny_codec, **{"rows": read_rows(folder), "workers": 0, **change})


def test_bitrates_are_those_of_the_files(tiny_codec: AudioCodec, folder: Path, tmp_path: Path) -> None:
    rows = read_rows(folder, limit=2)
    report = evaluate_codec(tiny_codec, rows, [2, 4], **PLAIN)
    bits = [0, 0]
    for at, n_q in enumerate((2, 4)):
        for row in rows:
            codes = tiny_codec.encode(load_audio(row.path)[0][None]).audio_codes[0]
            header = new_header(tiny_codec.config, tiny_codec.codes_fingerprint, n_q, None)
            with (tmp_path / "codes.atok").open("wb") as file:
                writer = AtokWriter(file, header)
                writer.write(codes[:n_q])
                writer.close()
            bits[at] += 8 * writer.layer_bytes
    assert [c.bitrate_bps for c in report.conditions] == pytest.approx([b / report.duration_s for b in bits])


def test_opus_keeps_time_and_its_bitrate(make_speech: Callable[..., Tensor]) -> None:
    speech = make_speech(3.0)
    decoded, bits = through_opus(speech, 16_000, 6)
    assert abs(decoded.shape[-1] - speech.shape[-1]) <= 1
    assert 4000 < bits / 3 < 9000  # 6 kbit/s asked for, variable
    assert through_opus(speech, 16_000, 24)[1] > 2 * bits
    assert torch.corrcoef(torch.cat([speech, decoded[:, : speech.shape[-1]]]))[0, 1] > 0.5


def test_eval_verb_prints_a_table_and_writes_json(
    tiny_codec_dir: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pesq")
    pytest.importorskip("pystoi")
    out = tmp_path / "out.json"
    words = ["eval", "--codec", str(tiny_codec_dir), "--data", str(folder), "--source", "news"]
    words += ["--n-q", "1", "4", "--opus", "6", "--limit", "2", "--workers", "0"]
    assert main([*words, "--json", str(out)]) == 0
    table = capsys.readouterr().out
    names = ("pesq_wb", "stoi", "si_sdr_db", "mel_distance_db", "f0_error_cents", "voicing_error")
    assert all(name in table for name in (*names, "n_q=4", "perplexity", "opus 6 kbps"))
    assert len(json.loads(out.read_text())["conditions"]) == 3
    for option, value in (("--json", "none/out.json"), ("--plot", "out.bmp"), ("--split", "nothing")):
        assert main([*words, option, value if option == "--split" else str(tmp_path / value)]) == 1
        captured = capsys.readouterr()
        assert captured.out == "" and value.split("/")[0] in captured.err
