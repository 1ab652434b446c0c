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
    Condition,
    bootstrap,
    bootstrap_interval,
    evaluate_codec,
    ogg_payload_bytes,
    opus_missing,
    read_rows,
    spread,
    through_opus,
)

TEXTS = ["The first sentence.", "A second one, longer than that.", "Number 3!"]


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
            table.writerow([f"{index}.wav", TEXTS[index % 3], f"s{index}", source, split])
    return data


def test_read_rows_filters_by_split_and_source_prefix(folder: Path) -> None:
    assert [row.path.name for row in read_rows(folder, "test", "news")] == ["0.wav", "1.wav", "2.wav"]
    assert [row.speaker for row in read_rows(folder, "train")] == ["s4"]
    assert len(read_rows(folder)) == 5
    assert [row.path.name for row in read_rows(folder, limit=2)] == ["0.wav", "2.wav"]
    with pytest.raises(ValueError, match=r"splits \['test', 'train'\]"):
        read_rows(folder, "validation")
    with pytest.raises(FileNotFoundError, match="metadata.csv"):
        read_rows(folder / "nowhere")
    with pytest.raises(ValueError, match="at least 1"):
        read_rows(folder, limit=0)


def test_spread_takes_even_distances() -> None:
    assert spread(list(range(10)), 5) == [0, 2, 4, 6, 8]
    assert spread([1, 2], 5) == [1, 2]


def test_bootstrap_interval_holds_the_mean_and_shrinks() -> None:
    few, many = bootstrap([1.0, 2.0, 3.0, 4.0]), bootstrap([1.0, 2.0, 3.0, 4.0] * 100)
    assert few.mean == many.mean == 2.5
    assert few.low < many.low < 2.5 < many.high < few.high
    # 400 values with a deviation of 1.118: the mean's standard error is 0.0559, the interval 3.92 times that.
    assert many.high - many.low == pytest.approx(0.219, abs=0.02)
    assert bootstrap([5.0]).low == bootstrap([5.0]).high == 5.0
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap([])


def test_bootstrap_interval_resamples_each_set_on_its_own() -> None:
    first, second = np.arange(50.0), np.arange(50.0)
    low, high = bootstrap_interval([50], lambda picks: first[picks].mean(1) - second[picks].mean(1))
    assert low == high == 0.0  # paired
    low, high = bootstrap_interval([50, 50], lambda a, b: first[a].mean(1) - second[b].mean(1))
    assert low < -3 and high > 3
    with pytest.raises(ValueError, match="at least one value"):
        bootstrap_interval([3, 0], lambda a, b: a)


def test_evaluate_codec_reports_every_condition(tiny_codec: AudioCodec, folder: Path) -> None:
    rows = read_rows(folder, "test", "news")
    done: list[tuple[int, int]] = []
    report = evaluate_codec(
        tiny_codec,
        rows,
        [1, 4],
        baselines=["identity"],
        metrics=("si_sdr_db", "mel_distance_db"),
        workers=0,
        progress=lambda *counts: done.append(counts),
    )
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert [condition.name for condition in report.conditions] == ["n_q=1", "n_q=4", "identity"]
    assert [condition.raw_bps for condition in report.conditions] == [300.0, 1200.0, None]
    assert report.conditions[2].averages["si_sdr_db"].mean == 100.0
    assert report.conditions[2].averages["mel_distance_db"].mean == 0.0
    assert report.conditions[0].averages["mel_distance_db"].mean > 0.0
    assert report.duration_s == pytest.approx(3.0)
    assert report.frames == 60 + 40 + 50
    assert all(1.0 <= value <= 64.0 for value in report.perplexity)
    assert report.entropy_bps == pytest.approx(50 * sum(report.entropy_bits))
    json.dumps(report.as_dict(), allow_nan=False)


def test_a_clip_at_another_rate_is_scored_at_its_own(tiny_codec: AudioCodec, folder: Path) -> None:
    wav, _ = load_audio(folder / "0.wav", 22_050)
    save_audio(folder / "0.wav", wav, 22_050)
    report = evaluate_codec(
        tiny_codec, read_rows(folder)[:1], baselines=["resample"], metrics=("si_sdr_db",), workers=0
    )
    assert 20.0 < report.conditions[1].averages["si_sdr_db"].mean <= 100.0


def test_workers_do_not_change_the_result_and_failures_are_counted(
    tiny_codec: AudioCodec, folder: Path
) -> None:
    pytest.importorskip("pesq")
    save_audio(folder / "1.wav", torch.zeros(1, 8000), 16_000)
    rows = read_rows(folder, "test", "news")
    options: dict[str, Any] = {"baselines": ["identity"], "metrics": ("pesq_wb", "mel_distance_db")}
    if opus_missing() is None:
        options["opus_kbps"] = [6]
    alone = evaluate_codec(tiny_codec, rows, workers=0, **options)
    helped = evaluate_codec(tiny_codec, rows, workers=2, **options)
    assert alone.as_dict() == helped.as_dict()
    identity = alone.conditions[-1]
    assert identity.failed == {"pesq_wb": 1}
    assert identity.failures[0]["file"].endswith("1.wav")
    assert identity.averages["pesq_wb"].clips == 2  # left out of the mean, not scored as 1.0
    assert identity.averages["pesq_wb"].mean == pytest.approx(4.644, abs=0.002)
    assert identity.averages["mel_distance_db"].clips == 3


PLAIN: dict[str, Any] = {"metrics": ("si_sdr_db", "mel_distance_db"), "workers": 0}


@pytest.mark.parametrize(
    "change",
    [
        {"n_qs": [5]},
        {"metrics": ("beauty",)},
        {"baselines": ["opus"]},
        {"opus_kbps": [2]},
        {"losses": [1.0]},
        {"rows": []},
    ],
)
def test_evaluate_codec_refuses(tiny_codec: AudioCodec, folder: Path, change: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"rows": read_rows(folder), "workers": 0, **change}
    with pytest.raises(ValueError):
        evaluate_codec(tiny_codec, **arguments)


def test_bitrates_are_those_of_the_files(tiny_codec: AudioCodec, folder: Path, tmp_path: Path) -> None:
    rows = read_rows(folder, limit=1)
    report = evaluate_codec(tiny_codec, rows, [2, 4], **PLAIN)
    bits = []
    for n_q in (2, 4):
        header = new_header(tiny_codec.config, tiny_codec.codes_fingerprint, n_q, None)
        codes = tiny_codec.encode(load_audio(rows[0].path)[0][None]).audio_codes[0]
        with (tmp_path / f"{n_q}.atok").open("wb") as file:
            writer = AtokWriter(file, header)
            writer.write(codes[:n_q])
            writer.close()
        bits.append(8 * writer.layer_bytes)
    assert [c.bitrate_bps for c in report.conditions] == pytest.approx([b / report.duration_s for b in bits])
    assert [c.raw_bps for c in report.conditions] == [600.0, 1200.0]


def test_opus_counts_the_packets_that_were_written(make_speech: Callable[..., Tensor]) -> None:
    if reason := opus_missing():
        pytest.skip(reason)
    speech = make_speech(3.0)
    decoded, bits = through_opus(speech, 16_000, 6)
    assert abs(decoded.shape[-1] - speech.shape[-1]) <= 1
    assert 4000 < bits / 3 < 9000  # 6 kbit/s asked for, variable
    assert through_opus(speech, 16_000, 24)[1] > 2 * bits
    assert torch.corrcoef(torch.cat([speech, decoded[:, : speech.shape[-1]]]))[0, 1] > 0.5  # in time


def test_ogg_payload_bytes_of_pages_made_by_hand() -> None:
    def page(*lacing: int) -> bytes:
        return b"OggS" + bytes(22) + bytes([len(lacing), *lacing]) + bytes(sum(lacing))

    # Two header packets, the second over two pages; then packets of 10, 255 and 300 bytes.
    data = page(19) + page(255) + page(40) + page(10, 255, 0, 255) + page(45)
    assert ogg_payload_bytes(data) == 10 + 255 + 300
    with pytest.raises(ValueError, match="expected an Ogg page at byte 47"):
        ogg_payload_bytes(page(19) + b"RIFF")


def test_a_yardstick_that_is_missing_is_skipped_with_a_reason(
    tiny_codec: AudioCodec, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    report = evaluate_codec(tiny_codec, read_rows(folder, limit=1), opus_kbps=[6, 8], **PLAIN)
    assert [condition.name for condition in report.conditions] == ["n_q=4"]
    assert [skip["condition"] for skip in report.skipped] == ["opus 6 kbps", "opus 8 kbps"]
    assert "install opus-tools" in report.skipped[0]["reason"]


def test_opus_that_fails_is_counted_not_scored(
    tiny_codec: AudioCodec, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("opusenc", "opusdec"):
        (tmp_path / name).write_text("#!/bin/sh\necho no disk >&2\nexit 1\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    report = evaluate_codec(tiny_codec, read_rows(folder, limit=2), opus_kbps=[6], **PLAIN)
    opus = report.conditions[1]
    assert opus.averages == {} and opus.failed == {"si_sdr_db": 2, "mel_distance_db": 2}
    assert opus.failures[0]["reason"] == "opusenc: no disk" and opus.bitrate_bps is None
    json.dumps(report.as_dict(), allow_nan=False)


def test_lost_frames_are_concealed_or_silent_and_the_same_every_time(
    tiny_codec: AudioCodec, folder: Path
) -> None:
    rows = read_rows(folder)
    conditions = evaluate_codec(tiny_codec, rows, [2, 4], losses=[0.1, 0.5], **PLAIN).conditions
    assert [(c.n_q, c.loss, c.conceal) for c in conditions[2:]] == [
        (4, 0.1, True), (4, 0.1, False), (4, 0.5, True), (4, 0.5, False),
    ]  # fmt: skip
    distances = [condition.averages["mel_distance_db"].mean for condition in conditions]
    assert len(set(distances)) == len(distances)
    again = evaluate_codec(tiny_codec, rows[3:], [4], losses=[0.1], **PLAIN).conditions[1]
    assert again.clips == conditions[2].clips[3:]  # the losses of a clip do not depend on the others


def test_a_condition_weighs_bits_by_seconds() -> None:
    condition = Condition("opus", "opus", ("stoi",))
    for seconds, bits in ((1.0, 6000), (3.0, 30000)):
        result = {"scores": {}, "failed": {}, "duration_s": seconds, "coded_bits": bits}
        condition.add(Path("a.wav"), "", result)
    condition.average()
    assert condition.bitrate_bps == 9000.0


def test_eval_verb_prints_a_table_and_writes_json(
    tiny_codec_dir: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pesq")
    pytest.importorskip("pystoi")
    out = tmp_path / "out.json"
    words = ["eval", "--codec", str(tiny_codec_dir), "--data", str(folder), "--source", "news"]
    words += ["--n-q", "1", "4", "--opus", "6"]
    assert main([*words, "--limit", "2", "--workers", "0", "--json", str(out)]) == 0
    table = capsys.readouterr().out
    names = ("pesq_wb", "pesq_nb", "stoi", "si_sdr_db", "mel_distance_db", "f0_error_cents", "voicing_error")
    assert all(name in table for name in (*names, "n_q=4", "perplexity", "opus 6 kbps"))
    report = json.loads(out.read_text())
    assert len(report["conditions"]) + len(report["skipped"]) == 3
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("out")] == ["out.json"]
    # An output that cannot be written is found in advance.
    assert main([*words, "--json", str(tmp_path / "none" / "out.json")]) == 1
    assert "does not exist" in capsys.readouterr().err
    assert main([*words, "--plot", str(tmp_path / "out.bmp")]) == 1
    assert "expected a picture ending in .png" in capsys.readouterr().err
    assert main([*words, "--workers", "0", "--split", "nothing"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("audiotok: error: no row of ")
