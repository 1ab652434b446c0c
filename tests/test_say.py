"""``tts-lm say`` and ``voices --add``: files are not replaced unasked and carry a provenance tag."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
import soundfile
import torch
from conftest import build_tiny_codec
from lm_toys import toy_synthesizer

import audiotok
from audiotok import load_audio, read_comment, save_audio
from tts_lm import Synthesizer
from tts_lm.cli.main import main
from tts_lm.voices import load_voices

TAG = "Generated speech, not a recording: tts-lm "


@pytest.fixture(scope="module")
def toy() -> Synthesizer:
    return toy_synthesizer(build_tiny_codec())


@pytest.fixture(scope="module")
def folder(toy, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "model"
    toy.save_pretrained(folder)
    return folder


@pytest.fixture
def model(folder) -> list[str]:
    return ["--model", str(folder)]


class Pipe(io.TextIOWrapper):
    """Standard input or output that is not a terminal."""

    def __init__(self, data: bytes = b"") -> None:
        super().__init__(io.BytesIO(data))


def test_a_file_is_not_replaced_unasked(model, tmp_path, capsys):
    target = tmp_path / "hello.wav"
    command = ["say", "Hello.", "-o", str(target), *model]
    save_audio(target, torch.linspace(-0.5, 0.5, 1600), 16000)
    before = target.read_bytes()
    assert main(command) == 1
    out, err = capsys.readouterr()
    assert out == "" and str(target) in err and "--overwrite" in err and target.read_bytes() == before
    assert main([*command, "--overwrite"]) == 0 and target.read_bytes() != before
    before = target.read_bytes(), target.stat().st_mtime_ns
    assert main(command) == 0  # the same request
    assert (target.read_bytes(), target.stat().st_mtime_ns) == before
    assert capsys.readouterr().out == f"{target}\n" * 2
    for other in (["--seed", "1"], ["--voice", "bdl"], ["--temperature", "0.5"]):
        assert main([*command, *other]) == 1


def test_lines_that_are_there_are_not_replaced_and_the_others_are_spoken(model, tmp_path, capsys):
    lines, out = tmp_path / "lines.txt", tmp_path / "out"
    lines.write_text("One line.\n?!\n\nAnother line.\n", encoding="utf-8")
    out.mkdir()
    (out / "0001.wav").write_text("precious")
    assert main(["say", "--file", str(lines), "--out", str(out), *model]) == 1
    stdout, stderr = capsys.readouterr()
    assert stdout == f"{out / '0004.wav'}\n" and "0001.wav: exists already" in stderr
    assert "lines.txt, line 2: " in stderr and (out / "0001.wav").read_text() == "precious"


@pytest.mark.parametrize("option", ["-o", "--out", "--output"])
def test_a_kind_of_file_that_cannot_be_written_is_refused_before_anything_is_loaded(tmp_path, capsys, option):
    assert main(["say", "Hi.", option, str(tmp_path / "a.mp3"), "--model", str(tmp_path / "none")]) == 1
    assert ".mp3" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".atok"])
def test_a_file_says_that_it_was_generated(toy, model, tmp_path, suffix):
    target = tmp_path / f"a{suffix}"
    assert main(["say", "Hello.", "-o", str(target), "--voice", "BDL", *model]) == 0
    if suffix != ".atok":
        tag = read_comment(target) or ""
        assert tag.startswith(TAG) and "voice bdl" in tag
        with soundfile.SoundFile(target) as file:
            assert file.comment == tag and file.frames > 0
        return
    with audiotok.open(target) as file:
        assert file.header.metadata["generated"].startswith(TAG)
        assert file.header.metadata["transcript"] == "Hello."
        assert file.header.codes_fingerprint == toy.codec.codes_fingerprint
        codes = torch.cat([block.codes for block in file.blocks()], dim=1)
    assert torch.equal(codes, toy.say("Hello.", "bdl").codes)


@pytest.mark.parametrize("command", [["Hi. Or so.", "-o", "-"], ["-"]])
def test_a_pipe_gets_a_wav_with_the_tag_and_the_streamed_sound(toy, model, monkeypatch, capsys, command):
    monkeypatch.setattr(sys, "stdin", Pipe(b"Hi. Or so.\n"))
    monkeypatch.setattr(sys, "stdout", out := Pipe())
    assert main(["say", *command, "--seed", "3", *model]) == 0
    data = out.buffer.getvalue()  # type: ignore[attr-defined]
    said = torch.cat([chunk.wav for chunk in toy.stream("Hi. Or so.", seed=3)])
    assert data[:4] == b"RIFF" and b"Generated speech" in data[:200]
    samples = torch.frombuffer(bytearray(data[data.index(b"data") + 8 :]), dtype=torch.int16).float() / 32768
    assert samples.shape == said.shape and (samples - said).abs().max() < 1e-4
    assert "the first after" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_the_text_comes_from_standard_input(toy, model, tmp_path, monkeypatch, name):
    monkeypatch.setattr(sys, "stdin", Pipe(b"\xef\xbb\xbfHi.\n"))
    assert main(["say", name, "-o", str(tmp_path / "a.wav"), *model]) == 0
    assert load_audio(tmp_path / "a.wav")[0].shape[1] == len(toy.say("Hi.").wav)
    monkeypatch.setattr(sys, "stdin", Pipe(b"One.\n\nTwo.\n"))
    assert main(["say", "--file", name, "-o", str(tmp_path / "lines"), *model]) == 0
    assert sorted(path.name for path in (tmp_path / "lines").iterdir()) == ["0001.wav", "0003.wav"]


@pytest.mark.parametrize(
    ("text", "options", "key"),
    [
        (b"", [], "empty"),
        (b" \n", [], "empty"),
        (b"\xff\xfe", [], "UTF-8"),
        ("🎉".encode(), [], "emoji"),
        (b"?!", [], "punctuation"),
        ("𠀀".encode(), [], "(CJK)"),
        (b"Hi.", ["--voice", "CLIP"], "--voice-text"),
        (b"Hi.", ["--voice-text", "Hi."], "--voice CLIP.wav"),
        (b"Hi.", ["--voice", "none.wav", "--voice-text", "Hi."], "none.wav"),
        (b"Hi.", ["--voice", "CLIP", "--voice-text", "Hi."], "1000 ms"),
        (b"Hi.", ["--voice", "CLIP", "--voice-text", "???"], "punctuation"),
    ],
)
def test_what_cannot_be_spoken_is_refused_with_the_reason(
    model, tmp_path, make_speech, monkeypatch, capsys, text, options, key
):
    save_audio(tmp_path / "clip.wav", make_speech(2.0), 16000)
    options = [word if word != "CLIP" else str(tmp_path / "clip.wav") for word in options]
    monkeypatch.setattr(sys, "stdin", Pipe(text))
    assert main(["say", "-", "-o", str(tmp_path / "a.wav"), *model, *options]) == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert key in line and not (tmp_path / "a.wav").exists()


def test_a_clip_lends_its_voice_and_is_kept_with_consent(toy, tmp_path, make_speech, capsys):
    toy.save_pretrained(tmp_path / "model")
    clip, model, words = tmp_path / "clip.wav", ["--model", str(tmp_path / "model")], "So I say in it."
    save_audio(clip, make_speech(2.0), 16000)
    say = ["say", "Hi.", *model, "-o"]
    assert main([*say, str(tmp_path / "a.wav"), "--voice", str(clip), "--voice-text", words]) == 0
    assert "make sure that its speaker agrees" in capsys.readouterr().err
    assert "voice clip" in (read_comment(tmp_path / "a.wav") or "")
    add = ["voices", "--add", str(clip), "--name", "Anna K.", "--text", words]
    with pytest.raises(SystemExit) as stopped:
        main([*add, *model])
    assert stopped.value.code == 2 and "--consent TEXT" in capsys.readouterr().err
    assert main([*add, *model, "--consent", "asked, 3 May", "--license", "CC0"]) == 0
    out = capsys.readouterr().out
    assert "anna_k" in out and "consent: asked, 3 May" in out and "CC0" in out and "kathleen" in out
    kept = load_voices(tmp_path / "model" / "voices")["anna_k"]
    assert kept.prompt_text == words and kept.card["clip"] == "clip.wav"
    assert main([*say, str(tmp_path / "b.wav"), "--voice", "anna_k"]) == 0
    assert main([*add, *model, "--consent", "asked, 3 May"]) == 1
    assert "anna_k.json: exists already" in capsys.readouterr().err
    assert main([*add, "--model", "default", "--consent", "x"]) == 1
    assert "part of the package" in capsys.readouterr().err
