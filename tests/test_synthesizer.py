"""The pipeline with tiny random parts: speech independent of its batch, and errors in one line."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_toys import CODEC_N_Q as K
from lm_toys import CODEC_SIZE as V
from lm_toys import FRAME_RATE, toy_models, toy_synthesizer, toy_tokenizer, toy_voice, write_corpus

from audiotok import load_audio
from tts_lm import Speech, Synthesizer
from tts_lm.cli.main import main
from tts_lm.models.ar import save_ar
from tts_lm.speech import PAUSE_SECONDS
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


@pytest.fixture
def synthesizer(tiny_codec) -> Synthesizer:
    return toy_synthesizer(tiny_codec)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("saved") / "model"


@pytest.fixture
def folder(request, saved) -> Path:
    """A synthesizer on disk, written once; tests only read it."""
    if not saved.exists():
        request.getfixturevalue("synthesizer").save_pretrained(saved)
    return saved


def same(one: Speech, other: Speech) -> bool:
    equal = torch.equal(one.codes, other.codes) and one.finish_reason == other.finish_reason
    return equal and one.wav.shape == other.wav.shape and bool((one.wav - other.wav).abs().max() < 1e-5)


def test_speech_is_whole(synthesizer):
    speech = synthesizer.say("Hello there.")
    frames = speech.codes.shape[1]
    assert speech.codes.shape == (K, frames) and speech.codes.dtype == torch.int64
    assert 0 <= speech.codes.min() and speech.codes.max() < V
    assert speech.wav.shape == (frames * 320,) and speech.wav.dtype == torch.float32
    assert speech.wav.abs().max() <= 1 and torch.isfinite(speech.wav).all()
    assert speech.sampling_rate == 16000 and speech.seconds == frames / 50
    assert speech.finish_reason in ("eos", "length", "loop", "silence")


def test_seeds_voices_and_settings_tell(synthesizer):
    first = synthesizer.say("Hello there.", seed=1)
    assert same(first, synthesizer.say("Hello there.", seed=1))
    assert same(first, synthesizer.say("Hello there.", voice="kathleen", seed=1))
    assert not same(first, synthesizer.say("Hello there.", seed=2))
    assert not same(first, synthesizer.say("Hello there.", voice="bdl", seed=1))
    greedy = [synthesizer.say("Hello there.", seed=seed, temperature=0) for seed in (1, 2)]
    assert same(*greedy)
    assert synthesizer.say("Hello there.", seed=-5).codes.shape[1] > 0


def test_a_batch_says_what_each_alone_says(synthesizer):
    texts = ["Hello there.", "A.", "One sentence. And then another one, rather longer.", "Hello there."]
    together = synthesizer.say_batch(texts, seed=3)
    assert same(together[0], together[3])
    for text, speech in zip(texts, together, strict=True):
        assert same(speech, synthesizer.say(text, seed=3))
    assert synthesizer.say_batch([]) == []


def test_every_text_of_a_batch_may_have_its_own_seed(synthesizer):
    texts = ["Hello there.", "One sentence. And then another one."]
    for text, seed, speech in zip(texts, (5, 9), synthesizer.say_batch(texts, seed=[5, 9]), strict=True):
        assert same(speech, synthesizer.say(text, seed=seed))


def test_long_texts_are_spoken_sentence_by_sentence(synthesizer):
    parts = synthesizer.say_batch(["One.", "And two."])
    whole = synthesizer.say("One. And two.")
    pause = int(PAUSE_SECONDS * 16000)
    assert whole.wav.shape[0] == whole.codes.shape[1] * 320 + pause
    assert torch.equal(whole.codes[:, : parts[0].codes.shape[1]], parts[0].codes)
    long = synthesizer.say("Hello there, dear friend of speech. " * 139, temperature=0)
    assert long.wav.shape[0] == long.codes.shape[1] * 320 + 138 * pause
    assert long.codes.shape[1] >= 139


def test_saved_moved_and_loaded_it_says_the_same(synthesizer, folder, tmp_path, no_network):
    said = synthesizer.say("Hello there.", voice="bdl", seed=4)
    moved = tmp_path / "elsewhere" / "it"
    moved.parent.mkdir()
    shutil.copytree(folder, tmp_path / "first")
    shutil.move(tmp_path / "first", moved)
    loaded = Synthesizer.from_pretrained(moved)
    assert list(loaded.voices) == ["kathleen", "bdl"] and loaded.voices["bdl"].card == CARDS["bdl"]
    assert same(said, loaded.say("Hello there.", voice="bdl", seed=4))
    assert no_network == []
    suffixes = {path.suffix for path in moved.rglob("*") if path.is_file()}
    assert suffixes <= {".json", ".safetensors", ".model"}


def test_saving_again_leaves_no_voice_behind(synthesizer, folder, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    del synthesizer.voices["bdl"]
    synthesizer.save_pretrained(copy)
    assert list(load_voices(copy / "voices")) == ["kathleen"]


def test_bfloat16_synthesizes(folder):
    speech = Synthesizer.from_pretrained(folder, dtype="bfloat16").say("Hello.")
    assert speech.wav.dtype == torch.float32 and torch.isfinite(speech.wav).all()
    with pytest.raises(ValueError, match="expected dtype float32 or bfloat16, got 'float16'"):
        Synthesizer.from_pretrained(folder, dtype="float16")


def test_another_codec_is_refused(synthesizer, folder, tiny_codec):
    ar, nar = toy_models("0ther")
    own = tiny_codec.codes_fingerprint
    tokenizers = toy_tokenizer(K, V, own), toy_tokenizer(K, V, "0ther")
    for parts in ((ar, synthesizer.nar, tokenizers[0]), (synthesizer.ar, nar, tokenizers[0])):
        with pytest.raises(ValueError, match=f"0ther.*{own}"):
            Synthesizer(parts[0], parts[1], tiny_codec, parts[2], synthesizer.voices)
    with pytest.raises(ValueError, match="tokenizer.*0ther"):
        Synthesizer(synthesizer.ar, synthesizer.nar, tiny_codec, tokenizers[1], synthesizer.voices)
    with torch.no_grad():
        tiny_codec.quantizer.codebooks.add_(1.0)
    other = type(tiny_codec)(tiny_codec.config)
    with pytest.raises(ValueError, match=own):
        Synthesizer.from_pretrained(folder, codec=other)


def test_a_missing_or_damaged_folder_is_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="'best'"):
        Synthesizer.from_pretrained("best")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="expected a synthesizer with synthesizer.json"):
        Synthesizer.from_pretrained(tmp_path / "empty")
    copy = shutil.copytree(folder, tmp_path / "copy")
    card = json.loads((copy / "synthesizer.json").read_text())
    (copy / "synthesizer.json").write_text(json.dumps(card | {"format_version": 99}))
    with pytest.raises(ValueError, match="expected format_version 1, got 99"):
        Synthesizer.from_pretrained(copy)
    (copy / "synthesizer.json").write_text("[]")
    with pytest.raises(ValueError, match="expected a JSON object, got list"):
        Synthesizer.from_pretrained(copy)
    (copy / "synthesizer.json").write_text('{"format_version": 1}')
    with pytest.raises(ValueError, match="expected codec and codes_fingerprint in it"):
        Synthesizer.from_pretrained(copy)


@pytest.mark.parametrize("part", ["ar", "nar", "voices"])
def test_an_incomplete_folder_is_refused(folder, tmp_path, part):
    copy = shutil.copytree(folder, tmp_path / "copy")
    shutil.rmtree(copy / part)
    with pytest.raises(FileNotFoundError, match=f"no {part}"):
        Synthesizer.from_pretrained(copy)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda s: s.say(""), ValueError, "something to say, got ''"),
        (lambda s: s.say("你好"), ValueError, "something to say"),
        (lambda s: s.say(None), TypeError, "expected the text as str, got NoneType"),
        (lambda s: s.say_batch("Hello"), TypeError, "expected a list of texts"),
        (lambda s: s.say("Hello", voice="bob"), ValueError, "'bob'.*kathleen, bdl"),
        (lambda s: s.say("Hello", temperature=-1), ValueError, "expected temperature >= 0, got -1"),
        (lambda s: s.say("Hello", heat=1), TypeError, "heat"),
        (lambda s: s.say("Hello", seed="a"), TypeError, "expected seed to be an int, got 'a'"),
        (lambda s: s.say("Hello", seed=0.5), TypeError, "expected seed to be an int, got 0.5"),
        (
            lambda s: s.say_batch(["Hello"], seed=[1, 2]),
            ValueError,
            "got 2",
        ),
        (lambda s: s.say(b"Hello"), TypeError, "expected the text as str, got bytes"),
        (lambda s: s.say(["Hello"]), TypeError, "expected the text as str, got list"),
        (lambda s: s.say_batch(None), TypeError, "expected a list of texts, got NoneType"),
        (lambda s: s.say_batch(["Hello", 7]), TypeError, "expected the text as str, got int"),
        (lambda s: s.say("Hello", voice=["kathleen"]), ValueError, "kathleen, bdl"),
        (
            lambda s: s.say("Hello", temperature="hot"),
            TypeError,
            "expected temperature to be a number, got 'hot'",
        ),
        (lambda s: s.say("Hello", best_of=1.5), TypeError, "expected best_of to be a whole number, got 1.5"),
    ],
)
def test_what_cannot_be_said_is_refused(synthesizer, call, error, message):
    with pytest.raises(error, match=message):
        call(synthesizer)


# ---- voices


@pytest.mark.parametrize(
    ("speaker", "index"),
    [("kathleen", 0), ("arctic_slt", 1), ("bdl", 2), ("LJSpeech", 3), ("flite-rms", 5), ("84", OTHER_VOICE)],
)
def test_speakers_have_tokens(speaker, index):
    assert voice_index(speaker) == index


def test_voices_come_back_the_default_first(tmp_path):
    save_voices([toy_voice(name) for name in ("slt", "bdl", "kathleen")], tmp_path)
    found = load_voices(tmp_path)
    assert list(found) == ["slt", "kathleen", "bdl"]
    assert torch.equal(found["bdl"].codes, toy_voice("bdl").codes) and found["bdl"].index == 2
    (tmp_path / "slt.json").write_text("{}")
    with pytest.raises(ValueError, match="expected a voice's card"):
        load_voices(tmp_path)
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match="no voices"):
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


# ---- the verbs


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_say_writes_a_file(folder, synthesizer, tmp_path, capsys):
    target = tmp_path / "hello.wav"
    arguments = [
        "say",
        "Hello there.",
        "-o",
        str(target),
        "--model",
        str(folder),
        "--voice",
        "bdl",
        "--seed",
        "5",
    ]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    assert out == f"{target}\n" and "s of speech in" in err and "tts-lm: loaded in " in err
    wav, rate = load_audio(target)
    said = synthesizer.say("Hello there.", voice="bdl", seed=5)
    assert rate == 16000 and wav.shape == (1, said.wav.shape[0])
    assert (wav[0] - said.wav).abs().max() < 1e-4
    assert (
        main([*arguments, "--temperature", "0", "--top-p", "0.5", "--dtype", "bfloat16", "--overwrite"]) == 0
    )
    assert main(["say", "Hello.", "-o", str(tmp_path / "hello.flac"), "--model", str(folder)]) == 0
    assert files(tmp_path) == ["hello.flac", "hello.wav"]


def test_say_writes_a_file_for_every_line(folder, tmp_path, capsys):
    lines = tmp_path / "lines.txt"
    lines.write_text("\ufeffFirst line.\r\n\nThird 😀 line.\n你好\n", encoding="utf-8")
    out = tmp_path / "deep" / "out"
    assert main(["say", "--file", str(lines), "--out", str(out), "--model", str(folder)]) == 1
    stdout, stderr = capsys.readouterr()
    assert files(out) == ["0001.wav", "0003.wav"]
    assert stdout.splitlines() == [str(out / "0001.wav"), str(out / "0003.wav")]
    assert "line 4: expected English text" in stderr and "dropped" in stderr and "😀" in stderr
    lines.write_text("\n".join(["One more line."] * 20), encoding="utf-8")
    assert main(["say", "--file", str(lines), "--out", str(out), "--model", str(folder), "--overwrite"]) == 0
    assert files(out) == [f"{number:04}.wav" for number in range(1, 21)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["", "-o", "OUT/a.wav"], "expected English text with something to say, got ''"),
        (["😀", "-o", "OUT/a.wav"], "expected English text"),
        (["今天天气很好", "-o", "OUT/a.wav"], "expected English text"),
        (["Hi.", "-o", "OUT/none/a.wav"], "the folder .*none does not exist"),
        (["Hi.", "-o", "OUT"], "it is a folder; name a file in it"),
        (["Hi.", "-o", "OUT/file/a.wav"], "file does not exist|Not a directory"),
        (["Hi.", "-o", "OUT/a.nonsense"], "nonsense"),
        (["Hi.", "-o", "OUT/a.wav", "--voice", "bob"], "bob"),
        (["Hi.", "-o", "OUT/a.wav", "--model", "best"], "'best'"),
        (["Hi.", "-o", "OUT/a.wav", "--device", "toaster"], "expected a device of this machine"),
        (["Hi.", "-o", "OUT/a.wav", "--temperature", "-1"], "expected temperature >= 0"),
        (["Hi.", "-o", "OUT/a.wav", "--temperature", "nan"], "expected temperature >= 0"),
        (["Hi.", "-o", "OUT/a.wav", "--top-p", "0"], "expected top_p > 0 and <= 1"),
        (["--file", "OUT/none.txt", "--out", "OUT/x"], "no file .*none.txt"),
        (["--file", "OUT/empty", "--out", "OUT/x"], "the file is empty"),
        (["--file", "OUT/latin", "--out", "OUT/x"], "expected UTF-8 text, got byte 0xe9 at 3"),
        (["--file", "OUT/file", "--out", "OUT/file"], "File exists"),
    ],
)
def test_bad_input_is_one_line(folder, tmp_path, capsys, arguments, message):
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
    [line] = [
        line for line in err.splitlines() if "s of speech" not in line and not line.startswith("Loading")
    ]
    assert line.startswith("tts-lm: error: ")
    assert re.search(message, line), line


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["Hi."],
        ["-o", "a.wav"],
        ["--file", "x"],
        ["Hi.", "--file", "x", "--out", "y"],
    ],
)
def test_wrong_usage_is_two(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["say", *arguments])
    assert stopped.value.code == 2
    assert "TEXT -o OUT" in capsys.readouterr().err


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
    parts = ["--ar", str(tmp_path / "ar"), "--nar", str(tmp_path / "nar"), "--codec", str(tiny_codec_dir)]
    parts += ["--data", str(tmp_path / "lj"), str(tmp_path / "slt")]
    assert main(["bundle", *parts, "--out", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert out == f"{tmp_path / 'out'}\n" and "voices: slt, lj" in err
    shutil.rmtree(tiny_codec_dir)
    assert main(["say", "Hello.", "-o", str(tmp_path / "a.wav"), "--model", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    for wrong, message in (
        (
            ["--voices", "bdl"],
            "lj, slt",
        ),
        (["--ar", str(tmp_path / "lj")], "no trained ar model"),
    ):
        assert main(["bundle", *parts, "--codec", str(tmp_path / "out" / "codec"), *wrong, "--out", "x"]) == 1
        assert message in capsys.readouterr().err
    write_corpus(tmp_path / "other", rows=1, fingerprint="0ther", size=V)
    others = [*parts, "--codec", str(tmp_path / "out" / "codec"), "--data", str(tmp_path / "other")]
    assert main(["bundle", *others, "--out", str(tmp_path / "no")]) == 1
    assert "0ther" in capsys.readouterr().err and not (tmp_path / "no").exists()
