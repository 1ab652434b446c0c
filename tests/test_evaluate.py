"""The codec's test-set report."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from audiotok import AudioCodec, load_audio, save_audio
from audiotok.cli.main import main
from audiotok.codec.streaming import decode_with_losses
from audiotok.evaluate import Condition, bootstrap, bootstrap_interval, evaluate_codec, read_rows, spread
from audiotok.evaluate.opus import ogg_payload_bytes, opus_missing, through_opus

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
    assert [condition.bitrate_bps for condition in report.conditions] == [300.0, 1200.0, None]
    assert report.conditions[2].averages["si_sdr_db"].mean == 100.0
    assert report.conditions[2].averages["mel_distance_db"].mean == 0.0
    assert report.conditions[0].averages["mel_distance_db"].mean > 0.0
    assert report.duration_s == pytest.approx(3.0)
    assert report.frames == 60 + 40 + 50
    assert all(1.0 <= value <= 64.0 for value in report.perplexity)
    assert report.perplexity_percent == pytest.approx([100 * value / 64 for value in report.perplexity])
    assert report.efficiency == pytest.approx([bits / 6 for bits in report.entropy_bits])
    assert report.bitrate_efficiency == pytest.approx(sum(report.efficiency) / 4)
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_qs": [5]}, "1 <= n_q <= 4"),
        ({"metrics": ("beauty",)}, "expected a metric"),
        ({"baselines": ["opus"]}, "expected a baseline"),
        ({"opus_kbps": [2]}, "6 to 256 kbit/s, got 2"),
        ({"n_qs": [1], "visqol": [2]}, "expected ViSQOL for an n_q that is evaluated"),
        ({"rows": []}, "at least one clip"),
    ],
)
def test_evaluate_codec_refuses(
    tiny_codec: AudioCodec, folder: Path, change: dict[str, Any], message: str
) -> None:
    arguments: dict[str, Any] = {"rows": read_rows(folder), "workers": 0, **change}
    with pytest.raises(ValueError, match=message):
        evaluate_codec(tiny_codec, **arguments)


PLAIN: dict[str, Any] = {"metrics": ("si_sdr_db", "mel_distance_db"), "workers": 0}


def test_a_killed_run_goes_on_where_it_stopped(
    tiny_codec: AudioCodec, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from audiotok.evaluate import engine, scoring

    rows, journal = read_rows(folder), tmp_path / "run.partial"
    whole = evaluate_codec(tiny_codec, rows, [1, 4], **PLAIN).as_dict()

    def stop(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate_codec(tiny_codec, rows, [1, 4], journal=journal, progress=stop, **PLAIN)
    with journal.open("a") as lines:
        lines.write('{"clip": 3, "resu')  # what a kill in the middle of a write leaves
    scored: list[int] = []

    @contextmanager
    def counting(workers: int) -> Iterator[Any]:
        def score(job: scoring.Job) -> scoring.Results:
            scored.append(1)
            return scoring.score_all(job)

        yield lambda jobs: map(score, jobs)

    monkeypatch.setattr(engine, "mapper", counting)
    done: list[tuple[int, int]] = []
    again = evaluate_codec(
        tiny_codec, rows, [1, 4], journal=journal, progress=lambda *n: done.append(n), **PLAIN
    )
    assert len(scored) == 2 and done == [(4, 5), (5, 5)]
    assert again.as_dict() == whole
    assert evaluate_codec(tiny_codec, rows, [1, 4], journal=journal, **PLAIN).as_dict() == whole
    assert len(scored) == 2  # nothing was left to do
    # Another run, of other conditions, takes nothing from it.
    other = evaluate_codec(tiny_codec, rows, [2], journal=journal, **PLAIN)
    assert len(scored) == 7 and [condition.name for condition in other.conditions] == ["n_q=2"]


def test_opus_counts_the_packets_that_were_written(make_speech: Callable[..., Tensor]) -> None:
    if reason := opus_missing():
        pytest.skip(reason)
    speech = make_speech(3.0)
    clip = through_opus(speech, 16_000, 6)
    assert abs(clip.wav.shape[-1] - speech.shape[-1]) <= 1
    assert 4000 < clip.payload_bits / 3 < 9000  # 6 kbit/s asked for, variable
    assert clip.payload_bits < clip.file_bits < clip.payload_bits + 8 * 3000
    assert through_opus(speech, 16_000, 24).payload_bits > 2 * clip.payload_bits
    assert torch.corrcoef(torch.cat([speech, clip.wav[:, : speech.shape[-1]]]))[0, 1] > 0.5  # in time


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


def test_visqol_is_scored_where_it_is_asked_for(
    tiny_codec: AudioCodec, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from audiotok import metrics

    monkeypatch.setitem(metrics.METRICS, "visqol", lambda *_: 3.0)
    monkeypatch.setitem(metrics.NEEDS, "visqol", ())
    rows = read_rows(folder, limit=2)

    def scored(visqol: list[int] | None) -> list[bool]:
        report = evaluate_codec(tiny_codec, rows, [4, 1], baselines=["identity"], visqol=visqol, **PLAIN)
        return ["visqol" in condition.averages for condition in report.conditions]

    assert scored(None) == [False, False, False]
    assert scored([1]) == [False, True, True]
    assert scored([]) == [True, True, True]


def test_lost_packets_are_concealed_or_silent_and_the_same_every_time(
    tiny_codec: AudioCodec, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from audiotok.evaluate import engine

    heard: list[tuple[int, list[bool], bool]] = []

    def listen(codec: AudioCodec, codes: Tensor, lost: Tensor, conceal: bool) -> Tensor:
        heard.append((codes.shape[1], lost.tolist(), conceal))
        return decode_with_losses(codec, codes, lost, conceal)

    monkeypatch.setattr(engine, "decode_with_losses", listen)

    def run(rows: list[Any], losses: list[float]) -> list[Condition]:
        return evaluate_codec(tiny_codec, rows, [2, 4], losses=losses, **PLAIN).conditions

    rows = read_rows(folder)
    conditions = run(rows, [0.1, 0.5])
    assert [condition.name for condition in conditions[2:]] == [
        "n_q=4, 10 % lost, concealed",
        "n_q=4, 10 % lost, zeros",
        "n_q=4, 50 % lost, concealed",
        "n_q=4, 50 % lost, zeros",
    ]
    first = heard[:4]  # of a clip of 60 frames
    assert [(books, sum(lost), conceal) for books, lost, conceal in first] == [
        (4, 6, True),
        (4, 6, False),
        (4, 30, True),
        (4, 30, False),
    ]
    assert first[0][1] == first[1][1]  # the same packets, concealed or not
    distances = [condition.averages["mel_distance_db"].mean for condition in conditions]
    assert len(set(distances)) == len(distances)
    assert conditions[2].bitrate_bps == conditions[1].bitrate_bps == 1200.0
    assert run(rows[3:], [0.1])[2].clips == conditions[2].clips[3:]  # a clip's losses are its own
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match="share of lost packets"):
            run(rows, [share])


def test_a_condition_weighs_bits_by_seconds() -> None:
    condition = Condition("opus", "opus", ("stoi",))
    for seconds, bits in ((1.0, 6000), (3.0, 30000)):
        result = {"scores": {}, "failed": {}, "duration_s": seconds, "payload_bits": bits, "file_bits": 40000}
        condition.add(Path("a.wav"), "", result)
    condition.average()
    assert (condition.bitrate_bps, condition.file_bps) == (9000.0, 20000.0)


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
    # A place that cannot be written is known before the work.
    assert main([*words, "--json", str(tmp_path / "none" / "out.json")]) == 1
    assert "does not exist" in capsys.readouterr().err
    assert main([*words, "--plot", str(tmp_path / "out.bmp")]) == 1
    assert "expected a picture ending in .png" in capsys.readouterr().err
    assert main([*words, "--workers", "0", "--split", "nothing"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("audiotok: error: no row of ")


def test_a_journal_replaces_no_other_file(tmp_path: Path) -> None:
    from audiotok.evaluate.journal import Journal

    (tmp_path / "precious").write_text("precious")
    with pytest.raises(FileExistsError, match="expected results of an earlier run"):
        Journal(tmp_path / "precious", {"clips": 1})
    assert (tmp_path / "precious").read_text() == "precious"
