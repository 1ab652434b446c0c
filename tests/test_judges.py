"""What judges a clip beside its words: likeness, cleanness, lists with prompts, a recogniser of one's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from audiotok import save_audio
from tts_lm.cli.eval import print_table
from tts_lm.cli.main import main
from tts_lm.evaluate import PromptedLine, evaluate_lines, evaluate_recordings, read_prompted_lines
from tts_lm.quality import Cleanness, Likeness, PromptLikeness, SpeakerEar
from tts_lm.recognise import PocketSphinx, find_recogniser


class Mute:
    """A recogniser that hears nothing."""

    def transcribe(self, wav: Tensor, sampling_rate: int) -> str:
        return ""


class PitchEar:
    """Embeds a wav by its strongest frequency: enough to tell two tones apart."""

    def embed(self, wav: Tensor, sampling_rate: int) -> np.ndarray:
        share = int(torch.fft.rfft(wav).abs().argmax()) / len(wav)
        return np.array([math.cos(20 * share), math.sin(20 * share)])


def tone(hz: float, seconds: float = 1.0) -> Tensor:
    return 0.3 * torch.sin(2 * math.pi * hz * torch.arange(int(16000 * seconds)) / 16000)


@pytest.fixture
def tones(tmp_path: Path) -> Callable[..., list[Path]]:
    def write(*hz: float) -> list[Path]:
        for one in hz:
            save_audio(tmp_path / f"{one}.wav", tone(one), 16000)
        return [tmp_path / f"{one}.wav" for one in hz]

    return write


def test_likeness_is_to_the_voices_own_recordings(tones) -> None:
    ear: Any = PitchEar()
    likeness = Likeness(ear, tones(200, 210, 220))
    assert likeness(0, tone(210), 16000) > 0.96 > likeness(0, tone(600), 16000)
    assert math.isnan(likeness(0, torch.zeros(0), 16000))
    prompts = PromptLikeness(ear, tones(200, 600))
    assert prompts(0, tone(200), 16000) > 0.95 > prompts(1, tone(200), 16000)
    assert math.isnan(prompts(0, tone(200, 0.2), 16000))


def test_a_recording_is_not_held_against_itself(tones) -> None:
    ear: Any = PitchEar()
    likeness = Likeness(ear, tones(200, 1000), leave_out=True)
    assert likeness(0, tone(200), 16000) == pytest.approx(likeness(1, tone(1000), 16000), abs=1e-3)
    assert likeness(0, tone(1000), 16000) > 0.95
    with pytest.raises(ValueError, match="expected at least 2 recordings of the voice, got 1"):
        Likeness(ear, tones(200), leave_out=True)


def test_scores_are_means_over_the_clips_that_could_be_judged() -> None:
    class Actor:
        def say(self, text: str, voice: Any = None, seed: int = 0) -> SimpleNamespace:
            if "refuse" in text:
                raise ValueError("cannot")
            assert voice == f"voice {seed}"
            return SimpleNamespace(wav=torch.zeros(16000), sampling_rate=16000, finish_reason="eos")

    def judge(index: int, wav: Tensor, sampling_rate: int) -> float:
        return float("nan") if not len(wav) else index + 1.0

    actor: Any = Actor()
    lines = ["one", "refuse this", "three"]
    outcome = evaluate_lines(
        actor, lines, voice=lambda index: f"voice {index}", recogniser=Mute, judges={"x": judge}, workers=0
    )
    assert outcome.scores["x"].rate == 2.0 and outcome.scores["x"].low <= 2.0 <= outcome.scores["x"].high
    assert [detail["x"] for detail in outcome.details] == [1.0, None, 3.0]
    assert outcome.as_dict()["scores"]["x"]["rate"] == 2.0


def test_recordings_are_judged_too(tones, capsys) -> None:
    ear: Any = PitchEar()
    paths = tones(200, 205)
    judges = {"similarity": Likeness(ear, paths, leave_out=True)}
    outcome = evaluate_recordings(
        [(path, "some words") for path in paths], recogniser=Mute, judges=judges, workers=0
    )
    assert outcome.scores["similarity"].rate > 0.95
    print_table([outcome], {}, "mine:Ear")
    printed = capsys.readouterr().out
    assert "recogniser: mine:Ear" in printed and "similarity of recordings: " in printed


def test_a_list_with_prompts(tmp_path: Path) -> None:
    (tmp_path / "wavs").mkdir()
    (tmp_path / "wavs" / "a.wav").touch()
    good = "u1|What I say.|wavs/a.wav|What to say.|truth.wav\n\nu2|What I say.|wavs/a.wav|More.\n"
    (tmp_path / "meta.lst").write_text(good, encoding="utf-8")
    lines = read_prompted_lines(tmp_path / "meta.lst")
    assert lines[0] == PromptedLine("What to say.", tmp_path / "wavs" / "a.wav", "What I say.")
    assert [line.text for line in lines] == ["What to say.", "More."]
    assert len(read_prompted_lines(tmp_path / "meta.lst", 1)) == 1
    for text, error, message in (
        (
            "u1|What I say.|wavs/b.wav|More.",
            FileNotFoundError,
            "line 1: expected the prompt .*b.wav, found none",
        ),
        ("u1|only this", ValueError, "line 1: expected name|prompt text|prompt file|text, got 2 columns"),
        ("\n", ValueError, "the file is empty"),
    ):
        (tmp_path / "meta.lst").write_text(text, encoding="utf-8")
        with pytest.raises(error, match=message.replace("|", r"\|")):
            read_prompted_lines(tmp_path / "meta.lst")


def test_a_recogniser_of_ones_own_is_found_by_name() -> None:
    assert find_recogniser("pocketsphinx") is PocketSphinx
    assert isinstance(find_recogniser("test_judges:Mute")(), Mute)
    for name in ("whisper", "no_such_module:Ear", "test_judges:Nothing", "test_judges:__doc__"):
        with pytest.raises(ValueError, match="expected a recogniser"):
            find_recogniser(name)


def test_similarity_without_recordings_is_refused_before_anything_is_said(tmp_path: Path, capsys) -> None:
    (tmp_path / "lines.txt").write_text("Hello.\n")
    assert main(["eval", "--lines", str(tmp_path / "lines.txt"), "--judge", "similarity"]) == 1
    assert "expected recordings of the voice to be like; add --ceiling" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of resemblyzer's own imports
def test_the_real_judges_score(make_speech) -> None:
    """Needs the extra ``judge``; without it the error says so."""
    try:
        ear, clean = SpeakerEar(), Cleanness()
    except ModuleNotFoundError as error:
        assert "pip install 'audiotok[judge]'" in str(error)
        pytest.skip("the extra judge is not installed")
    one, other = make_speech(3.0, seed=1)[0], make_speech(3.0, seed=2)[0]
    assert ear.embed(one, 16000) @ ear.embed(one, 16000) == pytest.approx(1.0, abs=1e-4)
    assert ear.embed(one, 16000) @ ear.embed(other, 16000) < 0.99
    assert 1 <= clean(0, one, 16000) <= 5
