"""The pipeline with tiny random parts: speech independent of its batch, and errors in one line."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build_tiny_codec
from lm_toys import CODEC_N_Q as K
from lm_toys import CODEC_SIZE as V
from lm_toys import FRAME_RATE, toy_models, toy_synthesizer, toy_tokenizer, toy_voice, write_corpus

from audiotok import load_audio
from tts_lm import Speech, Synthesizer
from tts_lm.cli.main import main
from tts_lm.models.ar import save_ar
from tts_lm.synthesizer import PAUSE_SECONDS
from tts_lm.voices import (
    CARDS,
    OTHER_VOICE,
    PROMPT_SECONDS,
    VOICES,
    choose_voices,
    load_voices,
    save_voices,
    voice_index,
)

TEXTS = ["Hello there.", "A.", "One sentence. And then another one.", "Hello there."]


@pytest.fixture(scope="module")
def synthesizer() -> Synthesizer:
    return toy_synthesizer(build_tiny_codec())


@pytest.fixture(scope="module")
def folder(synthesizer, tmp_path_factory) -> Path:
    """A synthesizer on disk; tests only read it."""
    path = tmp_path_factory.mktemp("saved") / "model"
    synthesizer.save_pretrained(path)
    return path


def same(one: Speech, other: Speech) -> bool:
    equal = torch.equal(one.codes, other.codes) and one.finish_reason == other.finish_reason
    return equal and one.wav.shape == other.wav.shape and bool((one.wav - other.wav).abs().max() < 1e-5)


def test_speech_is_a_function_of_text_voice_seed_and_settings(synthesizer):
    speech = synthesizer.say("Hello there.", seed=1)
    frames = speech.codes.shape[1]
    assert speech.codes.shape == (K, frames) and speech.codes.dtype == torch.int64
    assert 0 <= speech.codes.min() and speech.codes.max() < V
    assert speech.wav.shape == (frames * 320,) and speech.wav.dtype == torch.float32
    assert speech.wav.abs().max() <= 1 and torch.isfinite(speech.wav).all()
    assert speech.sampling_rate == 16000 and speech.seconds == frames / 50
    assert same(speech, synthesizer.say("Hello there.", voice="kathleen", seed=1))
    assert not same(speech, synthesizer.say("Hello there.", seed=-5))
    assert not same(speech, synthesizer.say("Hello there.", voice="bdl", seed=1))
    greedy = [synthesizer.say("Hello there.", seed=seed, temperature=0) for seed in (1, 2)]
    assert same(*greedy)


def test_a_batch_says_what_each_alone_says(synthesizer):
    seeds = [3, 5, 9, 3]
    together = synthesizer.say_batch(TEXTS, seed=seeds)
    assert same(together[0], together[3])
    for text, seed, speech in zip(TEXTS[:3], seeds, together, strict=False):
        assert same(speech, synthesizer.say(text, seed=seed))
    assert synthesizer.say_batch([]) == []


def test_long_texts_are_spoken_sentence_by_sentence(synthesizer):
    [part] = synthesizer.say_batch(["One."], temperature=0)
    whole = synthesizer.say("One. And two. " + "Three! " * 4, temperature=0)
    assert whole.wav.shape[0] == whole.codes.shape[1] * 320 + 5 * int(PAUSE_SECONDS * 16000)
    assert torch.equal(whole.codes[:, : part.codes.shape[1]], part.codes)


def test_saved_moved_and_loaded_it_says_the_same(synthesizer, folder, tmp_path, no_network):
    said = synthesizer.say("Hello there.", voice="bdl", seed=4)
    moved = shutil.copytree(folder, tmp_path / "elsewhere" / "it")
    loaded = Synthesizer.from_pretrained(moved)
    assert list(loaded.voices) == ["kathleen", "bdl"] and loaded.voices["bdl"].card == CARDS["bdl"]
    assert same(said, loaded.say("Hello there.", voice="bdl", seed=4))
    assert no_network == []
    suffixes = {path.suffix for path in moved.rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".safetensors", ".model"}
    half = Synthesizer.from_pretrained(moved, dtype="bfloat16").say("Hello.")
    assert half.wav.dtype == torch.float32 and torch.isfinite(half.wav).all()


def test_another_codec_is_refused(synthesizer, folder, tiny_codec):
    ar, nar = toy_models("0ther")
    own = tiny_codec.codes_fingerprint
    right, wrong = toy_tokenizer(K, V, own), toy_tokenizer(K, V, "0ther")
    for parts in (
        (ar, synthesizer.nar, right),
        (synthesizer.ar, nar, right),
        (synthesizer.ar, synthesizer.nar, wrong),
    ):
        with pytest.raises(ValueError, match="0ther"):
            Synthesizer(parts[0], parts[1], tiny_codec, parts[2], synthesizer.voices)
    with torch.no_grad():
        tiny_codec.quantizer.codebooks.add_(1.0)
    with pytest.raises(ValueError, match=own):
        Synthesizer.from_pretrained(folder, codec=type(tiny_codec)(tiny_codec.config))


@pytest.mark.parametrize(
    ("call", "error", "key"),
    [
        (lambda s: s.say("你好"), ValueError, "script"),
        (lambda s: s.say(None), TypeError, "NoneType"),
        (lambda s: s.say(["Hello"]), TypeError, "list"),
        (lambda s: s.say_batch("Hello"), TypeError, "list of texts"),
        (lambda s: s.say_batch(["Hello", 7]), TypeError, "int"),
        (lambda s: s.say_batch(["Hello"], seed=[1, 2]), ValueError, "2"),
        (lambda s: s.say("Hello", voice="bob"), ValueError, "kathleen, bdl"),
        (lambda s: s.say("Hello", voice=["kathleen"]), ValueError, "kathleen, bdl"),
        (lambda s: s.say("Hello", temperature=-1), ValueError, "temperature"),
        (lambda s: s.say("Hello", temperature="hot"), TypeError, "temperature"),
        (lambda s: s.say("Hello", best_of=1.5), TypeError, "best_of"),
        (lambda s: s.say("Hello", best_of=2), ValueError, "reranker"),
        (lambda s: s.say("Hello", heat=1), TypeError, "heat"),
        (lambda s: s.say("Hello", seed="a"), TypeError, "seed"),
        (lambda s: s.say("Hello", seed=0.5), TypeError, "seed"),
        (lambda s: s.stream(""), ValueError, "empty"),
        (lambda s: s.stream("Hello", voice="bob"), ValueError, "bob"),
        (lambda s: s.stream("Hello", seed="a"), TypeError, "seed"),
        (lambda s: s.stream("Hello", temperature=-1), ValueError, "temperature"),
    ],
)
def test_what_cannot_be_said_is_refused(synthesizer, call, error, key):
    with pytest.raises(error, match=key):
        call(synthesizer)


# ---- voices


@pytest.mark.parametrize(
    ("speaker", "index"), [("arctic_slt", 1), ("bdl", 2), ("LJSpeech", 3), ("84", OTHER_VOICE)]
)
def test_speakers_have_tokens(speaker, index):
    assert voice_index(speaker) == index


def test_voices_come_back_the_default_first(tmp_path):
    save_voices([toy_voice(name) for name in ("slt", "bdl", "kathleen")], tmp_path)
    found = load_voices(tmp_path)
    assert list(found) == ["slt", "kathleen", "bdl"]
    assert torch.equal(found["bdl"].codes, toy_voice("bdl").codes) and found["bdl"].index == 2
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError):
        load_voices(tmp_path / "none")


def test_prompts_are_cut_from_clips_of_training():
    def row(name: str, frames: int, speaker: str = "bdl", split: str = "train") -> dict[str, Any]:
        codes = torch.full((K, frames), frames)
        return {"id": name, "speaker": speaker, "split": split, "frames": frames, "codes": codes, "text": "x"}

    wanted = int(PROMPT_SECONDS * FRAME_RATE)
    rows = [row("long", 400), row("fits", wanted + 2), row("short", wanted - 1), row("near", wanted + 9)]
    rows += [row("test", wanted, split="test"), row("x", wanted, speaker="84"), row("lj", 60, speaker="lj")]
    chosen = {voice.name: voice for voice in choose_voices(rows, FRAME_RATE)}
    assert set(chosen) == {"bdl", "lj"}
    assert chosen["bdl"].codes.shape == (K, wanted) and chosen["bdl"].card["clip"] == "fits"
    assert chosen["lj"].codes.shape == (K, 60) and chosen["lj"].card["license"] == "public domain"


def test_every_voice_has_a_card():
    assert set(CARDS) == set(VOICES) and max(VOICES.values()) < OTHER_VOICE
    assert all({"description", "license", "attribution", "consent"} <= set(card) for card in CARDS.values())


# ---- the commands


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_say_writes_a_file(folder, synthesizer, tmp_path, capsys):
    target = tmp_path / "hello.wav"
    command = ["say", "Hello there.", "-o", str(target), "--model", str(folder)]
    assert main([*command, "--voice", "bdl", "--seed", "5"]) == 0
    assert capsys.readouterr().out == f"{target}\n"
    wav, rate = load_audio(target)
    said = synthesizer.say("Hello there.", voice="bdl", seed=5)
    assert rate == 16000 and wav.shape == (1, said.wav.shape[0])
    assert (wav[0] - said.wav).abs().max() < 1e-4
    assert main(command) == 1
    assert main([*command, "--temperature", "0", "--top-p", "0.5", "--dtype", "bfloat16", "--overwrite"]) == 0
    assert files(tmp_path) == ["hello.wav"]


def test_say_writes_a_file_for_every_line(folder, tmp_path, capsys):
    lines = tmp_path / "lines.txt"
    lines.write_text("\ufeffFirst line.\r\n\nThird 😀 line.\n你好\n", encoding="utf-8")
    out = tmp_path / "deep" / "out"
    assert main(["say", "--file", str(lines), "--out", str(out), "--model", str(folder)]) == 1
    stdout, stderr = capsys.readouterr()
    assert files(out) == ["0001.wav", "0003.wav"]
    assert stdout.splitlines() == [str(out / "0001.wav"), str(out / "0003.wav")]
    assert "line 4" in stderr and "😀" in stderr


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["", "-o", "OUT/a.wav"], "empty"),
        (["今天天气很好", "-o", "OUT/a.wav"], "script"),
        (["Hi.", "-o", "OUT/none/a.wav"], "none"),
        (["Hi.", "-o", "OUT"], "folder"),
        (["Hi.", "-o", "OUT/a.nonsense"], "nonsense"),
        (["Hi.", "-o", "OUT/a.wav", "--voice", "bob"], "bob"),
        (["Hi.", "-o", "OUT/a.wav", "--model", "best"], "best"),
        (["Hi.", "-o", "OUT/a.wav", "--device", "toaster"], "device"),
        (["Hi.", "-o", "OUT/a.wav", "--temperature", "nan"], "temperature"),
        (["--file", "OUT/none.txt", "--out", "OUT/x"], "none.txt"),
        (["--file", "OUT/empty", "--out", "OUT/x"], "empty"),
        (["--file", "OUT/latin", "--out", "OUT/x"], "UTF-8"),
        (["--file", "OUT/file", "--out", "OUT/file"], "file"),
    ],
)
def test_bad_input_is_one_line(folder, tmp_path, capsys, arguments, key):
    place = tmp_path / "place"
    place.mkdir()
    (place / "empty").touch()
    (place / "file").write_text("Hello.\n")
    (place / "latin").write_bytes("café".encode("latin-1"))
    before = files(place)
    arguments = [word.replace("OUT", str(place)) for word in arguments]
    model = [] if "--model" in arguments else ["--model", str(folder)]
    assert main(["say", *arguments, *model]) == 1
    out, err = capsys.readouterr()
    assert out == "" and files(place) == before
    [line] = [line for line in err.splitlines() if line.startswith("tts-lm: error: ")]
    assert re.search(key, line.removeprefix("tts-lm: error: ")), line


@pytest.mark.parametrize("arguments", [[], ["Hi."], ["--file", "x"], ["Hi.", "--file", "x", "--out", "y"]])
def test_wrong_usage_is_two(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["say", *arguments])
    assert stopped.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_voices_are_listed(folder, capsys):
    assert main(["voices", "--model", str(folder)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("kathleen") and "CC0-1.0" in out and "ARCTIC" in out
    assert main(["voices", "--model", str(folder), "--json"]) == 0
    cards = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [card["name"] for card in cards] == ["kathleen", "bdl"] and cards[1]["license"] == "CMU ARCTIC"
    assert main(["voices", "--model", "nobody"]) == 1


def test_a_bundle_speaks(tiny_codec, tiny_codec_dir, tmp_path, capsys):
    fingerprint = tiny_codec.codes_fingerprint
    ar, nar = toy_models(fingerprint)
    save_ar(ar, tmp_path / "ar")
    nar.save_pretrained(tmp_path / "nar")
    write_corpus(tmp_path / "slt", rows=3, speaker="arctic_slt", fingerprint=fingerprint, size=V)
    write_corpus(tmp_path / "lj", rows=3, speaker="lj", fingerprint=fingerprint, size=V)
    write_corpus(tmp_path / "other", rows=1, fingerprint="0ther", size=V)
    parts = ["--ar", str(tmp_path / "ar"), "--nar", str(tmp_path / "nar"), "--codec", str(tiny_codec_dir)]
    parts += ["--data", str(tmp_path / "lj"), str(tmp_path / "slt")]
    assert main(["bundle", *parts, "--out", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'out'}\n" and "voices: slt, lj" in err
    shutil.rmtree(tiny_codec_dir)
    assert main(["say", "Hello.", "-o", str(tmp_path / "a.wav"), "--model", str(tmp_path / "out")]) == 0
    parts += ["--codec", str(tmp_path / "out" / "codec"), "--out", str(tmp_path / "no")]
    for wrong, key in (
        (["--voices", "bdl"], "lj, slt"),
        (["--ar", str(tmp_path / "lj")], "ar model"),
        (["--data", str(tmp_path / "other")], "0ther"),
    ):
        capsys.readouterr()
        assert main(["bundle", *parts, *wrong]) == 1
        assert key in capsys.readouterr().err and not (tmp_path / "no").exists()
