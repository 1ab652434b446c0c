"""The pipeline with tiny random parts: speech independent of its batch, and errors in one line."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import build_tiny_codec
from lm_toys import CODEC_N_Q as K
from lm_toys import CODEC_SIZE as V
from lm_toys import FRAME_RATE, toy_models, toy_synthesizer, toy_tokenizer, toy_voice

from audiotok import load_audio
from tts_lm import Speech, Synthesizer
from tts_lm.cli.main import main
from tts_lm.models.reranker import Reranker, RerankerConfig
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

TEXTS = ["Hello there.", "A.", "One. Two.", "Hello there."]


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
    together = synthesizer.say_batch(TEXTS, seed=[3, 5, 9, 3])
    assert same(together[0], together[3])
    for text, seed, speech in zip(TEXTS[:3], [3, 5, 9], together, strict=False):
        assert same(speech, synthesizer.say(text, seed=seed))
    assert synthesizer.say_batch([]) == []
    part, whole = synthesizer.say_batch(["One.", "One. And two. Three!"], temperature=0)
    assert whole.wav.shape[0] == whole.codes.shape[1] * 320 + 2 * int(PAUSE_SECONDS * 16000)
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
    right = {"ar": synthesizer.ar, "nar": synthesizer.nar, "tokenizer": synthesizer.tokenizer}
    reranker = Reranker(RerankerConfig(V, 8, 1, codes_fingerprint="0ther"))
    others = {"ar": ar, "nar": nar, "tokenizer": toy_tokenizer(K, V, "0ther"), "reranker": reranker}
    for part, other in others.items():
        with pytest.raises(ValueError, match="0ther"):
            Synthesizer(**right | {part: other}, codec=tiny_codec, voices=synthesizer.voices)
    with torch.no_grad():
        tiny_codec.quantizer.codebooks.add_(1.0)
    with pytest.raises(ValueError, match=own):
        Synthesizer.from_pretrained(folder, codec=type(tiny_codec)(tiny_codec.config))


@pytest.mark.parametrize("method", ["say", "stream"])
def test_what_cannot_be_said_is_refused(synthesizer, method):
    say = getattr(synthesizer, method)
    for text, options, error, key in (
        ("你好", {}, ValueError, "script"),
        ("", {}, ValueError, "empty"),
        (None, {}, TypeError, "NoneType"),
        ("Hello", {"voice": "bob"}, ValueError, "kathleen, bdl"),
        ("Hello", {"temperature": -1}, ValueError, "temperature"),
        ("Hello", {"temperature": "hot"}, TypeError, "temperature"),
        ("Hello", {"heat": 1}, TypeError, "heat"),
        ("Hello", {"seed": "a"}, TypeError, "seed"),
    ):
        with pytest.raises(error, match=key):
            say(text, **options)
    with pytest.raises(ValueError, match="reranker"):
        synthesizer.say("Hello", best_of=2)
    with pytest.raises(TypeError, match="list of texts"):
        synthesizer.say_batch("Hello")
    with pytest.raises(ValueError, match="2"):
        synthesizer.say_batch(["Hello"], seed=[1, 2])


# ---- voices


def test_known_speakers_have_a_token_and_a_card_and_the_default_comes_first(tmp_path):
    speakers = ("arctic_slt", "bdl", "LJSpeech", "84")
    assert [voice_index(speaker) for speaker in speakers] == [1, 2, 3, OTHER_VOICE]
    assert set(CARDS) == set(VOICES) and max(VOICES.values()) < OTHER_VOICE
    assert all({"description", "license", "attribution", "consent"} <= set(card) for card in CARDS.values())
    save_voices([toy_voice(name) for name in ("slt", "bdl", "kathleen")], tmp_path)
    found = load_voices(tmp_path)
    assert list(found) == ["slt", "kathleen", "bdl"]
    assert torch.equal(found["bdl"].codes, toy_voice("bdl").codes) and found["bdl"].index == 2


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


# ---- the commands


def test_say_writes_a_file(folder, synthesizer, tmp_path, capsys):
    target = tmp_path / "hello.wav"
    command = ["say", "Hello there.", "-o", str(target), "--model", str(folder)]
    assert main([*command, "--voice", "bdl", "--seed", "5"]) == 0
    assert capsys.readouterr().out == f"{target}\n"
    wav, rate = load_audio(target)
    said = synthesizer.say("Hello there.", voice="bdl", seed=5)
    assert rate == 16000 and wav.shape == (1, said.wav.shape[0])
    assert (wav[0] - said.wav).abs().max() < 1e-4
    assert main([*command, "--temperature", "0", "--top-p", "0.5", "--dtype", "bfloat16", "--overwrite"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["hello.wav"]
    with pytest.raises(SystemExit) as stopped:
        main(["say", "Hi."])
    assert stopped.value.code == 2


def test_say_writes_a_file_for_every_line(folder, tmp_path, capsys):
    lines = tmp_path / "lines.txt"
    lines.write_text("\ufeffA.\r\n\nB 😀.\n你好\n", encoding="utf-8")
    out = tmp_path / "deep" / "out"
    assert main(["say", "--file", str(lines), "--out", str(out), "--model", str(folder)]) == 1
    stdout, stderr = capsys.readouterr()
    assert stdout.splitlines() == [str(path) for path in sorted(out.iterdir())]
    assert [path.name for path in sorted(out.iterdir())] == ["0001.wav", "0003.wav"]
    assert "line 4" in stderr and "😀" in stderr


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["今天天气很好", "-o", "OUT/a.wav"], "script"),
        (["Hi.", "-o", "OUT/none/a.wav"], "none"),
        (["Hi.", "-o", "OUT"], "folder"),
        (["Hi.", "-o", "OUT/a.nonsense"], "nonsense"),
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
    (tmp_path / "empty").touch()
    (tmp_path / "file").write_text("Hello.\n")
    (tmp_path / "latin").write_bytes("café".encode("latin-1"))
    before = sorted(tmp_path.rglob("*"))
    arguments = [word.replace("OUT", str(tmp_path)) for word in arguments]
    model = [] if "--model" in arguments else ["--model", str(folder)]
    assert main(["say", *arguments, *model]) == 1
    out, err = capsys.readouterr()
    assert out == "" and sorted(tmp_path.rglob("*")) == before
    [line] = [line for line in err.splitlines() if line.startswith("tts-lm: error: ")]
    assert key in line
