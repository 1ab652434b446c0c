"""tts-lm say: files are not replaced unasked and carry a provenance tag; text may come from a pipe."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from lm_toys import CODEC_N_Q as K
from lm_toys import toy_synthesizer

import audiotok
from audiotok import load_audio, save_audio
from audiotok import read_comment as read_mark
from tts_lm.cli.main import main
from tts_lm.voices import load_voices


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("saved") / "model"


@pytest.fixture
def model(tiny_codec, saved) -> list[str]:
    """--model and a synthesizer on disk, written once."""
    if not saved.exists():
        toy_synthesizer(tiny_codec).save_pretrained(saved)
    return ["--model", str(saved)]


def test_a_file_that_is_there_is_not_replaced_unasked(model, tmp_path, capsys):
    target = tmp_path / "interview.wav"
    save_audio(target, torch.linspace(-0.5, 0.5, 1600), 16000)
    before = target.read_bytes()
    assert main(["say", "Hello.", "-o", str(target), *model]) == 1
    out, err = capsys.readouterr()
    assert out == "" and f"{target}: exists already; pass --overwrite to replace it" in err
    assert target.read_bytes() == before
    assert main(["say", "Hello.", "-o", str(target), *model, "--overwrite"]) == 0
    assert target.read_bytes() != before


def test_the_same_command_again_succeeds_and_changes_nothing(model, tmp_path, capsys):
    target = tmp_path / "hello.wav"
    command = ["say", "Hello there.", "-o", str(target), *model]
    assert main(command) == 0
    before = target.read_bytes(), target.stat().st_mtime_ns
    assert main(command) == 0
    assert (target.read_bytes(), target.stat().st_mtime_ns) == before
    assert capsys.readouterr().out == f"{target}\n" * 2
    for other in (["--seed", "1"], ["--voice", "bdl"], ["--temperature", "0.5"]):
        assert main([*command, *other]) == 1
    assert main(["say", "Hello again.", *command[2:]]) == 1
    wav, rate = load_audio(target)
    save_audio(target, 0.5 * wav, rate, read_mark(target))  # edited, with its comment
    edited = target.read_bytes()
    assert main(command) == 1
    assert "exists already and was changed since; pass --overwrite" in capsys.readouterr().err
    assert target.read_bytes() == edited


def test_lines_that_are_there_are_not_replaced_and_the_others_are_spoken(model, tmp_path, capsys):
    lines, out = tmp_path / "lines.txt", tmp_path / "out"
    lines.write_text("One line.\nAnother line.\n", encoding="utf-8")
    out.mkdir()
    (out / "0001.wav").write_text("precious")
    assert main(["say", "--file", str(lines), "--out", str(out), *model]) == 1
    stdout, stderr = capsys.readouterr()
    assert stdout == f"{out / '0002.wav'}\n" and "0001.wav: exists already" in stderr
    assert (out / "0001.wav").read_text() == "precious"


@pytest.mark.parametrize("option", ["-o", "--out", "--output"])
def test_a_kind_of_file_that_cannot_be_written_is_refused_before_anything_is_loaded(tmp_path, capsys, option):
    assert main(["say", "Hi.", option, str(tmp_path / "a.mp3"), "--model", str(tmp_path / "none")]) == 1
    assert "expected a name ending in .wav, .flac, .ogg, .opus, .atok, got .mp3" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg"])
def test_a_file_says_that_it_was_generated(model, tmp_path, suffix):
    target = tmp_path / f"a{suffix}"
    assert main(["say", "Hello.", "-o", str(target), "--voice", "bdl", *model]) == 0
    mark = read_mark(target) or ""
    assert mark.startswith("Generated speech, not a recording: tts-lm ") and "voice bdl" in mark
    with soundfile.SoundFile(target) as file:
        assert file.comment == mark and file.frames > 0
    if suffix == ".wav":
        assert b"INFO" in target.read_bytes()


def test_codes_say_that_they_were_generated(tiny_codec, model, tmp_path):
    target = tmp_path / "a.atok"
    assert main(["say", "Hello there.", "-o", str(target), *model]) == 0
    said = toy_synthesizer(tiny_codec).say("Hello there.")
    with audiotok.open(target) as file:
        assert file.header.metadata["generated"].startswith("Generated speech, not a recording")
        assert file.header.metadata["transcript"] == "Hello there."
        assert file.header.codes_fingerprint == tiny_codec.codes_fingerprint
        assert torch.equal(torch.cat([block.codes for block in file.blocks()], dim=1), said.codes)
    assert said.codes.shape[0] == K


def test_a_pipe_gets_a_wav_with_the_mark_and_the_streamed_sound(tiny_codec, model, monkeypatch, capsys):
    class Pipe:
        buffer = io.BytesIO()

        def isatty(self) -> bool:
            return False

        def flush(self) -> None:
            pass

    monkeypatch.setattr(sys, "stdout", Pipe())
    assert main(["say", "Hello there. And more.", "-o", "-", "--seed", "3", *model]) == 0
    data = Pipe.buffer.getvalue()
    chunks = toy_synthesizer(tiny_codec).stream("Hello there. And more.", seed=3)
    said = torch.cat([chunk.wav for chunk in chunks])
    assert data[:4] == b"RIFF" and b"Generated speech" in data[:200]
    samples = torch.frombuffer(bytearray(data[data.index(b"data") + 8 :]), dtype=torch.int16).float() / 32768
    assert samples.shape == said.shape and (samples - said).abs().max() < 1e-4
    wav, rate = soundfile.read(io.BytesIO(data))  # a reader of files takes it too
    assert rate == 16000 and len(wav) == len(said)
    assert "the first after" in capsys.readouterr().err


class Stdin:
    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)

    def isatty(self) -> bool:
        return False


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_the_text_comes_from_standard_input(model, tmp_path, monkeypatch, capsys, name):
    assert main(["say", "Hello there.", "-o", str(tmp_path / "a.wav"), *model]) == 0
    monkeypatch.setattr(sys, "stdin", Stdin(b"\xef\xbb\xbfHello there.\n"))
    assert main(["say", name, "-o", str(tmp_path / "b.wav"), *model]) == 0
    assert torch.equal(load_audio(tmp_path / "a.wav")[0], load_audio(tmp_path / "b.wav")[0])
    monkeypatch.setattr(sys, "stdin", Stdin(b"One.\n\nTwo.\n"))
    assert main(["say", "--file", name, "-o", str(tmp_path / "lines"), *model]) == 0
    assert sorted(path.name for path in (tmp_path / "lines").iterdir()) == ["0001.wav", "0003.wav"]


def test_a_pipe_to_a_pipe_needs_no_output(model, monkeypatch):
    class Pipe:
        buffer = io.BytesIO()

        def isatty(self) -> bool:
            return False

        def flush(self) -> None:
            pass

    monkeypatch.setattr(sys, "stdin", Stdin(b"Hi\n"))
    monkeypatch.setattr(sys, "stdout", Pipe())
    assert main(["say", "-", *model]) == 0
    assert Pipe.buffer.getvalue()[:4] == b"RIFF"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"\xff\xfe", "UTF-8"),
        ("🎉".encode(), "emoji"),
        (b"?!", "punctuation"),
    ],
)
def test_standard_input_without_words_is_refused_with_the_reason(tmp_path, monkeypatch, capsys, data, reason):
    monkeypatch.setattr(sys, "stdin", Stdin(data))
    assert main(["say", "-", "-o", str(tmp_path / "a.wav"), "--model", str(tmp_path / "none")]) == 1
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "a.wav").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--voice", "CLIP"], "clip.wav; add --voice-text"),
        (["--voice-text", "Hi."], "expected a clip for --voice-text; add --voice CLIP.wav"),
        (["--voice", "none.wav", "--voice-text", "Hi."], "none.wav: no such file"),
        (
            ["--voice", "CLIP", "--voice-text", "Hi."],
            "1000 ms",
        ),
        (["--voice", "CLIP", "--voice-text", "???"], "expected English text with something to say"),
    ],
)
def test_a_clip_that_is_no_voice_is_refused(model, tmp_path, make_speech, capsys, options, message):
    import re

    save_audio(tmp_path / "clip.wav", make_speech(2.0), 16000)
    options = [word.replace("CLIP", str(tmp_path / "clip.wav")) for word in options]
    assert main(["say", "Hello.", "-o", str(tmp_path / "a.wav"), *model, *options]) == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert re.search(message, line), line
    assert not (tmp_path / "a.wav").exists()


def test_a_clip_lends_its_voice(model, tmp_path, make_speech, capsys):
    save_audio(tmp_path / "clip.wav", make_speech(2.0), 16000)
    voice = ["--voice", str(tmp_path / "clip.wav"), "--voice-text", "This is what I say in it."]
    assert main(["say", "Hello.", "-o", str(tmp_path / "a.wav"), *model, *voice]) == 0
    assert "make sure that its speaker agrees" in capsys.readouterr().err
    assert "voice clip" in (read_mark(tmp_path / "a.wav") or "")


def test_a_voice_is_kept_with_its_consent(tiny_codec, tmp_path, make_speech, capsys):
    toy_synthesizer(tiny_codec).save_pretrained(tmp_path / "model")
    model = ["--model", str(tmp_path / "model")]
    save_audio(tmp_path / "clip.wav", make_speech(2.0), 16000)
    add = [
        "voices",
        "--add",
        str(tmp_path / "clip.wav"),
        "--name",
        "Anna K.",
        "--text",
        "This is what I say in it.",
    ]
    with pytest.raises(SystemExit) as stopped:
        main([*add, *model])
    assert stopped.value.code == 2 and "--consent TEXT" in capsys.readouterr().err
    assert main([*add, *model, "--consent", "asked, 3 May", "--license", "CC0"]) == 0
    out = capsys.readouterr().out
    assert "anna_k" in out and "consent: asked, 3 May" in out and "CC0" in out and "kathleen" in out
    kept = load_voices(tmp_path / "model" / "voices")["anna_k"]
    assert kept.prompt_text == "This is what I say in it." and kept.card["clip"] == "clip.wav"
    assert main(["say", "Hello.", "-o", str(tmp_path / "a.wav"), "--voice", "anna_k", *model]) == 0
    capsys.readouterr()
    assert main([*add, *model, "--consent", "asked, 3 May"]) == 1
    assert "anna_k.json: exists already; give the voice another name" in capsys.readouterr().err
    assert main([*add, "--model", "default", "--consent", "x"]) == 1
    assert "part of the package" in capsys.readouterr().err
