"""The codec's test-set report, the bench, and the word-error pipeline with a recogniser of known mistakes."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from audiotok import AudioCodec, load_audio, save_audio
from audiotok.cli.main import main
from audiotok.evaluate import bootstrap, evaluate_codec, read_rows, spread
from tts_lm.evaluate import (
    careless_form,
    difference,
    evaluate_lines,
    evaluate_recordings,
    read_lines,
    read_recordings,
    spoken_form,
)
from tts_lm.recognise import PocketSphinx, Recogniser

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
    alone = evaluate_codec(tiny_codec, rows, workers=0, **options)
    helped = evaluate_codec(tiny_codec, rows, workers=2, **options)
    assert alone.as_dict() == helped.as_dict()
    identity = alone.conditions[1]
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
        ({"rows": []}, "at least one clip"),
    ],
)
def test_evaluate_codec_refuses(
    tiny_codec: AudioCodec, folder: Path, change: dict[str, Any], message: str
) -> None:
    arguments: dict[str, Any] = {"rows": read_rows(folder), "workers": 0, **change}
    with pytest.raises(ValueError, match=message):
        evaluate_codec(tiny_codec, **arguments)


def test_eval_verb_prints_a_table_and_writes_json(
    tiny_codec_dir: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pesq")
    pytest.importorskip("pystoi")
    out = tmp_path / "out.json"
    words = [
        "eval",
        "--codec",
        str(tiny_codec_dir),
        "--data",
        str(folder),
        "--source",
        "news",
        "--n-q",
        "1",
        "4",
    ]
    assert main([*words, "--limit", "2", "--workers", "0", "--json", str(out)]) == 0
    table = capsys.readouterr().out
    assert "pesq_wb" in table and "n_q=4" in table and "perplexity" in table
    assert len(json.loads(out.read_text())["conditions"]) == 2
    assert main([*words, "--workers", "0", "--split", "nothing"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("audiotok: error: no row of ")


def test_bench_verb_times_both_codecs(
    tiny_codec_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    words = [
        "bench",
        "--codec",
        str(tiny_codec_dir),
        "--against",
        "encodec",
        "--seconds",
        "0.5",
        "--repeats",
        "1",
    ]
    assert main([*words, "--json", str(out)]) == 0
    assert "ratio" in capsys.readouterr().out
    report = json.loads(out.read_text())
    assert [row["name"] for row in report["rows"]] == ["audiotok", "encodec 24 kHz 6 kbps"]
    assert all(row[f"{verb}_times_real_time"] > 0 for row in report["rows"] for verb in ("encode", "decode"))
    assert report["streaming_step_ms"]["both"] > 0 and report["frame_ms"] == 20.0
    assert main(["bench", "--codec", str(tiny_codec_dir), "--seconds", "0"]) == 1


def test_the_random_encodec_has_living_codebooks() -> None:
    from audiotok.cli.bench import random_encodec

    model = random_encodec()
    with torch.inference_mode():
        codes = model.encode(0.1 * torch.randn(1, 1, 4800), bandwidth=6.0).audio_codes
    assert codes.shape[-2] == 8  # 6 kbps = 75 Hz x 8 x 10 bits
    assert len(codes.unique()) > 1


class Deaf:
    """A recogniser that knows what was said from the wav's length, and drops every third word."""

    def transcribe(self, wav: Tensor, sampling_rate: int) -> str:
        words = SAID.get(len(wav), "").split()
        return " ".join(word for index, word in enumerate(words) if index % 3 != 2)


SAID: dict[int, str] = {}


class Actor:
    """Says line i as a wav of a length of its own; one line it refuses."""

    def say(self, text: str, voice: str | None = None, seed: int = 0) -> SimpleNamespace:
        if "refuse" in text:
            raise ValueError("expected a text that can be said")
        SAID[8000 + seed] = text
        reason = "length" if "long" in text else "eos"
        return SimpleNamespace(wav=torch.zeros(8000 + seed), sampling_rate=16_000, finish_reason=reason)


def test_word_errors_are_counted_over_all_lines() -> None:
    lines = ["One two three.", "Four, five!", "refuse this one", "a long line of six words"]
    actor: Any = Actor()
    outcome = evaluate_lines(actor, lines, seed=1, recogniser=Deaf, workers=0)
    assert [detail["word_errors"] for detail in outcome.details] == [1, 0, 3, 2]
    assert outcome.wer.rate == pytest.approx(6 / 14)
    assert outcome.wer.low <= outcome.wer.rate <= outcome.wer.high
    assert outcome.finish_reasons == {"eos": 2, "error": 1, "length": 1}
    assert outcome.details[0]["ms_per_letter"] == pytest.approx(8001 / 16 / 11)
    assert outcome.ms_per_letter_in_range == pytest.approx(2 / 4)  # 45.5, 62.5, error, 26.3
    again = evaluate_lines(actor, lines, seed=1, recogniser=Deaf, workers=0)
    gap = difference(outcome, again)
    assert (gap.rate, gap.low, gap.high) == (0.0, 0.0, 0.0)  # paired: the same lines, the same errors
    json.dumps(outcome.as_dict(), allow_nan=False)


def test_both_sides_are_reduced_to_the_same_words() -> None:
    assert spoken_form("Mr. Bennet's 2 cats -- well-fed!") == "mister bennet's two cats well fed"
    assert spoken_form("...") == ""
    assert careless_form("“Don’t go,” said Mr. Bennet; 2 cats?") == "don't go said mr bennet 2 cats"
    assert isinstance(Deaf(), Recogniser)


def test_read_lines_takes_the_last_column(tmp_path: Path) -> None:
    file = tmp_path / "lines.tsv"
    file.write_text("1342\tIt is a truth.\n\n35\t!!!\n35\tThe machine.\n")
    assert read_lines(file) == ["It is a truth.", "The machine."]
    assert read_lines(file, 1) == ["It is a truth."]
    with pytest.raises(FileNotFoundError):
        read_lines(tmp_path / "none.tsv")
    file.write_text("\n")
    with pytest.raises(ValueError, match="sentences"):
        read_lines(file)


def test_recordings_pass_through_the_codec(tiny_codec: AudioCodec, folder: Path) -> None:
    recordings = read_recordings(folder, "news")
    assert [text for _, text in recordings] == TEXTS
    SAID.update({len(load_audio(path)[0][0]): text for path, text in recordings})
    for codec in (None, tiny_codec):
        outcome = evaluate_recordings(recordings, codec, recogniser=Deaf, workers=0)
        assert outcome.wer.rate == pytest.approx((1 + 2 + 0) / (3 + 6 + 2))
    with pytest.raises(ValueError, match="no row"):
        read_recordings(folder, "nobody")


@pytest.mark.parametrize("workers", [0, 1])
def test_pocketsphinx_hears_flite(tmp_path: Path, workers: int) -> None:
    pytest.importorskip("pocketsphinx")
    if not shutil.which("flite"):
        pytest.skip("the program flite is not installed (apt install flite)")
    recordings = []
    for index, text in enumerate(["the two men shook hands", "he was a very good friend of the family"]):
        path = tmp_path / f"{index}.wav"
        subprocess.run(["flite", "-voice", "slt", "-t", text, "-o", str(path)], check=True)
        recordings.append((path, text))
    outcome = evaluate_recordings(recordings, None, workers=workers)
    assert outcome.wer.rate <= 0.25, [detail["hypothesis"] for detail in outcome.details]


def test_pocketsphinx_is_silent_about_silence_and_independent_of_order(
    make_speech: Callable[..., Tensor],
) -> None:
    pytest.importorskip("pocketsphinx")
    ears = PocketSphinx()
    assert ears.transcribe(torch.zeros(10), 16_000) == ""
    speech = make_speech(1.0)
    first = ears.transcribe(speech, 16_000)
    ears.transcribe(0.1 * make_speech(2.0, seed=5), 16_000)
    assert ears.transcribe(speech, 16_000) == first


def test_eval_verb_of_tts_lm_prints_ceilings_and_writes_json(
    tiny_codec: AudioCodec,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("pocketsphinx")
    from tts_lm.cli.main import main as tts_lm
    from tts_lm.synthesizer import Synthesizer

    actor: Any = Actor()
    actor.codec = tiny_codec
    monkeypatch.setattr(Synthesizer, "from_pretrained", lambda *_, **__: actor)
    (tmp_path / "lines.tsv").write_text("1\tIt is a truth.\n2\tRefuse nothing!\n")
    out = tmp_path / "out.json"
    words = [
        "eval",
        "--lines",
        str(tmp_path / "lines.tsv"),
        "--lowercase",
        "--workers",
        "0",
        "--json",
        str(out),
    ]
    assert tts_lm([*words, "--ceiling", str(folder), "--ceiling-source", "other"]) == 0
    table = capsys.readouterr().out
    assert "as written" in table and "eos 100 %" in table and "points" in table
    report = json.loads(out.read_text())
    assert [outcome["name"] for outcome in report["outcomes"]] == [
        "as written",
        "careless",
        "ceiling: through codec",
        "recordings",
    ]
    assert report["outcomes"][0]["wer"]["rate"] == 1.0  # it said nothing: every word is missing
    assert report["outcomes"][1]["finish_reasons"] == {"eos": 1, "error": 1}
    assert tts_lm(["eval", "--lines", str(tmp_path / "none.tsv")]) == 1
    assert "tts-lm: error: expected a file of sentences" in capsys.readouterr().err
