"""Evaluation with a recogniser of known errors, metrics of known values and toy pipelines."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from audiotok import AudioCodec, save_audio
from tts_lm import Speech, evaluate
from tts_lm.cli.main import main
from tts_lm.evaluate import (
    DNSMOS,
    SpeakerEncoder,
    SpeakerSimilarity,
    comparable_form,
    evaluate_lines,
    evaluate_recordings,
    read_lines,
    read_prompted_lines,
    read_recordings,
)

LINES = ["It is a truth.", "Refuse nothing!", "The machine went back in time."]


@pytest.fixture(autouse=True)
def normalizer(monkeypatch: pytest.MonkeyPatch) -> None:
    """English normalisation without the package whisper-normalizer."""
    pytest.importorskip("jiwer")
    words = re.compile(r"[\w']+")
    monkeypatch.setattr(
        evaluate, "_english_normalizer", lambda: lambda text: " ".join(words.findall(text.lower()))
    )


class Actor:
    """A pipeline whose wav of n samples represents line n."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.seeds: list[int] = []
        self.voices = {"a": None, "b": None}

    def say(self, text: str, voice: Any = None, seed: int = 0) -> Speech:
        if text.lower().startswith("refuse"):
            raise ValueError("nothing to say")
        self.said.append(text)
        self.seeds.append(seed)
        return Speech(torch.full((16_000,), 0.1), 16_000, torch.zeros(1, 50, dtype=torch.int64), "eos")

    def voice(self, name: str | None) -> None:
        if name not in (None, *self.voices):
            raise ValueError(f"unknown voice {name!r}")


def recogniser_of(actor: Actor) -> Callable[[Tensor, int], str]:
    """Drops the last word of the text."""
    return lambda wav, rate: " ".join(actor.said[-1].split()[:-1])


def test_errors_are_counted_over_all_lines() -> None:
    actor: Any = Actor()
    outcome = evaluate_lines(
        actor, LINES, seed=7, recogniser=recogniser_of(actor), metrics={"one": lambda *_: 1.0}
    )
    assert outcome.error_rate is not None
    assert outcome.error_rate.rate == pytest.approx((1 + 2 + 1) / (4 + 2 + 6))
    assert outcome.error_rate.low <= outcome.error_rate.rate <= outcome.error_rate.high
    assert actor.seeds == [7, 9]
    assert outcome.finish_reasons == {"eos": 2, "error": 1}
    assert outcome.times_real_time is not None and outcome.times_real_time > 0
    assert outcome.scores["one"].rate == 1.0
    json.dumps(asdict(outcome), allow_nan=False)
    without = evaluate_lines(actor, LINES[:1])
    assert without.error_rate is None and without.lines == 1


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # zhconv leaves its dictionary open
def test_chinese_is_compared_by_simplified_characters() -> None:
    pytest.importorskip("zhconv")
    pytest.importorskip("cn2an")
    assert comparable_form("大模型時代的語音合成。", "zh") == "大模型时代的语音合成"
    assert comparable_form("他有 3 本书!", "zh") == comparable_form("他有三本书", "zh")
    actor: Any = Actor()
    outcome = evaluate_lines(
        actor, ["大模型时代"], language="zh", recogniser=lambda wav, rate: "大模型時代的"
    )
    assert outcome.error_rate is not None and outcome.error_rate.rate == pytest.approx(1 / 5)


def test_lines_are_read_from_the_last_column_or_with_prompts(tmp_path: Path) -> None:
    file = tmp_path / "lines.tsv"
    file.write_text("1342\tIt is a truth.\n\n35\t!!!\n35\t大模型时代。\n", encoding="utf-8")
    assert read_lines(file) == ["It is a truth.", "大模型时代。"]
    assert read_lines(file, 1) == ["It is a truth."]
    (tmp_path / "a.wav").touch()
    file.write_text("u1|What I say.|a.wav|What to say.|truth.wav\n\nu2|What I say.|a.wav|More.\n")
    lines = read_prompted_lines(file)
    assert lines[0] == ("What to say.", tmp_path / "a.wav", "What I say.") and len(lines) == 2
    for text, read, error, key in (
        ("\n", read_lines, ValueError, "lines.tsv"),
        ("u1|What I say.|b.wav|More.", read_prompted_lines, FileNotFoundError, "line 1.*b.wav"),
        ("u1|only this", read_prompted_lines, ValueError, "line 1.*got 2"),
    ):
        file.write_text(text)
        with pytest.raises(error, match=key):
            read(file)


def test_similarity_to_recordings_to_prompts_and_to_the_others(tmp_path: Path) -> None:
    def tone(hz: float) -> Tensor:
        return 0.3 * torch.sin(2 * math.pi * hz * torch.arange(16_000) / 16_000)

    def embed(wav: Tensor, sampling_rate: int) -> np.ndarray:
        """A unit vector of the strongest frequency."""
        share = int(torch.fft.rfft(wav).abs().argmax()) / len(wav)
        return np.array([math.cos(20 * share), math.sin(20 * share)])

    def scorer(*hz: float, **options: bool) -> Callable[[int, float], float]:
        paths = [tmp_path / f"{one}.wav" for one in hz]
        for one, path in zip(hz, paths, strict=True):
            save_audio(path, tone(one)[None], 16_000)
        similarity = SpeakerSimilarity(embed, paths, **options)
        return lambda index, hz: similarity(index, tone(hz), 16_000)

    assert scorer(200, 210, 220)(0, 210) > 0.96 > scorer(200, 210, 220)(0, 600)
    prompts = scorer(200, 600, one_each=True)
    assert prompts(0, 200) > 0.95 > prompts(1, 200)
    others = scorer(200, 1000, leave_out=True)
    assert others(0, 1000) > 0.95 > others(0, 200)
    with pytest.raises(ValueError, match="at least 2"):
        scorer(200, leave_out=True)


def test_recordings_are_scored_as_they_are_and_after_the_codec(
    tiny_codec: AudioCodec, tmp_path: Path, make_speech: Callable[..., Tensor]
) -> None:
    table = "file_name,transcription,source,split\n"
    for index, split in enumerate(("test", "test", "train")):
        save_audio(tmp_path / f"{index}.wav", make_speech(0.6, seed=index), 16_000)
        table += f"{index}.wav,{LINES[index]},x,{split}\n"
    (tmp_path / "metadata.csv").write_text(table)
    recordings = read_recordings(tmp_path, "x")
    assert [text for _, text in recordings] == LINES[:2]
    lengths: list[int] = []

    def recognise(wav: Tensor, rate: int) -> str:
        lengths.append(len(wav))
        return "it is a truth"

    for codec in (None, tiny_codec):
        outcome = evaluate_recordings(recordings, codec, recogniser=recognise)
        assert outcome.error_rate is not None and outcome.error_rate.rate == pytest.approx(4 / 6)
    assert lengths == 4 * [9600]
    with pytest.raises(ValueError, match="nobody"):
        read_recordings(tmp_path, "nobody")


def test_eval_verb_writes_table_and_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tts_lm.synthesizer import Synthesizer

    actor: Any = Actor()
    asked: list[dict[str, Any]] = []

    class WhisperModel:
        def __init__(self, name: str, **_: Any) -> None:
            if name != "tiny":
                raise RuntimeError("no such model")

        def transcribe(self, wav: np.ndarray, **options: Any) -> tuple[list[Any], None]:
            asked.append(options)
            return [SimpleNamespace(text=f" {recogniser_of(actor)(torch.from_numpy(wav), 16_000)}")], None

    module = ModuleType("faster_whisper")
    module.WhisperModel = WhisperModel  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "faster_whisper", module)
    monkeypatch.setattr(Synthesizer, "from_pretrained", lambda *_, **__: actor)
    lines, out = tmp_path / "lines.txt", tmp_path / "out.json"
    lines.write_text("\n".join(LINES))
    words = ["eval", "--lines", str(lines), "--asr", "tiny", "--json", str(out)]
    with monkeypatch.context() as missing:
        missing.setitem(sys.modules, "faster_whisper", None)
        assert main(words) == 1
    assert "audiotok[eval]" in capsys.readouterr().err
    assert main([*words, "--limit", "2", "--voices", "all"]) == 0
    assert "WER" in capsys.readouterr().out
    report = json.loads(out.read_text())
    assert [outcome["name"] for outcome in report["outcomes"]] == ["a", "b"]
    assert report["outcomes"][0]["lines"] == 2
    assert report["outcomes"][0]["error_rate"]["rate"] == pytest.approx(3 / 6)
    assert asked[0]["language"] == "en"
    assert main(words) == 1  # out.json exists
    for refused in (["--asr", "nowhere"], ["--metrics", "similarity"], ["--voices", "c"]):
        assert main(["eval", "--lines", str(lines), *refused]) == 1
    assert main(["eval", "--lines", str(tmp_path / "none.tsv")]) == 1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_real_metrics_score(make_speech: Callable[..., Tensor]) -> None:
    if not all(importlib.util.find_spec(package) for package in ("speechmos", "resemblyzer")):
        pytest.skip("the extra eval is not installed")
    encoder, mos = SpeakerEncoder(), DNSMOS()
    one, other = make_speech(3.0, seed=1)[0], make_speech(3.0, seed=2)[0]
    assert encoder(one, 16000) @ encoder(one, 16000) == pytest.approx(1.0, abs=1e-4)
    assert encoder(one, 16000) @ encoder(other, 16000) < 0.99
    assert 1 <= mos(0, one, 16000) <= 5
