"""TTS models on disk: other files are kept, damage is reported, and other engines open the AR model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import sentencepiece
import torch
from lm_toys import CODEC_N_Q as K
from lm_toys import CODEC_SIZE as V
from lm_toys import toy_models, toy_synthesizer, toy_voice, write_corpus
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tts_lm import Synthesizer
from tts_lm.cli.main import main
from tts_lm.models.ar import save_ar
from tts_lm.models.reranker import Reranker, RerankerConfig
from tts_lm.voices import OTHER_VOICE, add_voice, load_voices


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("saved") / "model"


@pytest.fixture
def folder(tiny_codec, saved, tmp_path) -> Path:
    """A synthesizer with a reranker on disk, to damage."""
    if not saved.exists():
        synthesizer = toy_synthesizer(tiny_codec)
        config = RerankerConfig(
            codebook_size=V,
            hidden_size=8,
            num_hidden_layers=1,
            codes_fingerprint=tiny_codec.codes_fingerprint,
        )
        synthesizer.reranker = Reranker(config)
        synthesizer.save_pretrained(saved)
    return shutil.copytree(saved, tmp_path / "model")


# ---- writing


def test_a_folder_of_something_else_is_not_written_into(tiny_codec, tmp_path):
    foreign = tmp_path / "mine"
    for name in ("reranker/notes.txt", "voices/song.wav"):
        (foreign / name).parent.mkdir(parents=True)
        (foreign / name).write_text("precious")
    (tmp_path / "file").write_text("precious")
    synthesizer = toy_synthesizer(tiny_codec)
    for place in (foreign, tmp_path / "file"):
        with pytest.raises(FileExistsError, match=place.name):
            synthesizer.save_pretrained(place)
    (foreign / "synthesizer.json").write_text('{"synth": "a song"}')
    with pytest.raises(FileExistsError, match="mine"):
        synthesizer.save_pretrained(foreign)
    assert sorted(path.name for path in foreign.rglob("*.*")) == ["notes.txt", "song.wav", "synthesizer.json"]
    assert (tmp_path / "file").read_text() == "precious"


def test_its_own_folder_is_replaced_and_what_lies_beside_it_stays(tiny_codec, folder):
    for name in ("README.md", "reranker/notes.txt", "voices/notes.json", "voices/song.wav"):
        (folder / name).write_text("{}")
    synthesizer = toy_synthesizer(tiny_codec)
    del synthesizer.voices["bdl"]
    synthesizer.save_pretrained(folder)
    assert sorted(path.name for path in (folder / "reranker").iterdir()) == ["notes.txt"]
    assert sorted(path.name for path in (folder / "voices").iterdir()) == [
        "kathleen.json", "kathleen.safetensors", "notes.json", "song.wav"
    ]  # fmt: skip
    assert (folder / "README.md").read_text() == "{}"


def test_writing_that_was_interrupted_is_seen_and_may_be_done_again(tiny_codec, folder, monkeypatch):
    synthesizer = toy_synthesizer(tiny_codec)
    with monkeypatch.context() as patched:
        patched.setattr(type(synthesizer.nar), "save_pretrained", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            synthesizer.save_pretrained(folder)
    with pytest.raises(ValueError, match="interrupted"):
        Synthesizer.from_pretrained(folder)
    synthesizer.save_pretrained(folder)
    assert Synthesizer.from_pretrained(folder).voices.keys() == {"kathleen", "bdl"}


# ---- reading


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _garbage(path: Path) -> None:
    path.write_bytes(b"\xff\x00 not at all")


def _drop_a_tensor(path: Path) -> None:
    tensors = load_file(path)
    tensors.pop(sorted(tensors)[0])
    save_file(tensors, path, metadata={"format": "pt"})


def _nan(path: Path) -> None:
    tensors = load_file(path)
    name = next(name for name, value in tensors.items() if value.is_floating_point())
    tensors[name].view(-1)[0] = torch.nan
    save_file(tensors, path, metadata={"format": "pt"})


def _edit(**changes: object):
    def edit(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return edit


@pytest.mark.parametrize("part", ["ar", "nar", "reranker"])
@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("model.safetensors", _cut),
        ("model.safetensors", _garbage),
        ("model.safetensors", _drop_a_tensor),
        ("model.safetensors", _nan),
        ("model.safetensors", Path.unlink),
        ("config.json", _garbage),
        ("config.json", _edit(model_type="bert")),
        ("config.json", _edit(hidden_size="wide")),
        ("config.json", Path.unlink),
    ],
)
def test_a_damaged_model_is_named(folder, no_network, capfd, part, file, damage):
    damage(folder / part / file)
    with pytest.raises((ValueError, FileNotFoundError), match=f"{part}.*again") as caught:
        Synthesizer.from_pretrained(folder)
    assert "\n" not in str(caught.value) and no_network == [] and capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        ("synthesizer.json", _garbage),
        ("synthesizer.json", Path.unlink),
        ("synthesizer.json", lambda path: path.write_text("[]")),
        ("synthesizer.json", lambda path: path.write_text('{"format_version": 1}')),
        ("synthesizer.json", _edit(format_version=99)),
        ("synthesizer.json", _edit(codec="../codec")),
        ("synthesizer.json", _edit(codec=7)),
        ("voices", shutil.rmtree),
        ("synthesizer.json", _edit(sampling=[1])),
        ("synthesizer.json", _edit(sampling={"heat": 1})),
        ("synthesizer.json", _edit(sampling={"top_p": 7})),
        ("codec/config.json", Path.unlink),
        ("ar/tokenizer.json", _garbage),
        ("ar/tokenizer.json", Path.unlink),
        ("voices/bdl.json", _garbage),
        ("voices/bdl.json", _edit(index=99)),
        ("voices/bdl.json", _edit(name=None)),
        ("voices/bdl.safetensors", _cut),
        ("voices/bdl.safetensors", Path.unlink),
    ],
)
def test_a_damaged_part_is_named(folder, no_network, file, damage):
    damage(folder / file)
    with pytest.raises((ValueError, FileNotFoundError), match=file.split("/")[0]) as caught:
        Synthesizer.from_pretrained(folder)
    assert "\n" not in str(caught.value) and no_network == []


@pytest.mark.parametrize(
    "codes", [torch.full((K, 5), V), torch.full((K, 5), -1), torch.zeros(K + 1, 5), torch.zeros(5)]
)
def test_a_voice_of_another_codec_is_named(tmp_path, codes):
    add_voice(toy_voice("bdl"), tmp_path)
    save_file({"codes": codes.long()}, tmp_path / "bdl.safetensors")
    with pytest.raises(ValueError, match="bdl.safetensors"):
        load_voices(tmp_path, K, V)


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="best"):
        Synthesizer.from_pretrained("best")
    with pytest.raises(FileNotFoundError, match="synthesizer.json"):
        Synthesizer.from_pretrained(tmp_path)


# ---- other engines


def test_other_engines_find_all_they_need_in_the_ar_folder(folder, tiny_codec):
    """Converters need one integer as the end id, the sentencepiece file, and names of the control ids."""
    ar, tokenizer = folder / "ar", Synthesizer.from_pretrained(folder).tokenizer
    end = tokenizer.control_id("audio_end")
    for name in ("config.json", "generation_config.json"):
        assert json.loads((ar / name).read_text())["eos_token_id"] == end
    assert AutoTokenizer.from_pretrained(ar).eos_token_id == end == tokenizer.eos_token_id
    pieces = sentencepiece.SentencePieceProcessor(str(ar / "tokenizer.model"))
    names = [pieces.id_to_piece(i) for i in range(pieces.get_piece_size())]
    assert tokenizer.convert_ids_to_tokens(list(range(tokenizer.control_offset))) == names
    named = json.loads((ar / "tokenizer_config.json").read_text())["added_tokens_decoder"]
    assert set(named) >= {str(i) for i in range(tokenizer.control_offset, tokenizer.audio_offset)}


def test_ctranslate2_gives_the_same_greedy_ids(folder, tmp_path):
    ctranslate2 = pytest.importorskip("ctranslate2")
    ctranslate2.converters.TransformersConverter(str(folder / "ar")).convert(str(tmp_path / "converted"))
    model = AutoModelForCausalLM.from_pretrained(folder / "ar")
    tokenizer = AutoTokenizer.from_pretrained(folder / "ar")
    generator = ctranslate2.Generator(str(tmp_path / "converted"), intra_threads=1)
    for text in ("hello", "a dog ran"):
        prompt = tokenizer(text)["input_ids"]
        mask = torch.ones(1, len(prompt), dtype=torch.int64)
        ids = model.generate(torch.tensor([prompt]), attention_mask=mask, do_sample=False, max_new_tokens=12)
        found = generator.generate_batch(
            [tokenizer.convert_ids_to_tokens(prompt)],
            max_length=12,
            sampling_topk=1,
            include_prompt_in_result=False,
        )[0].sequences_ids[0]
        stock = ids[0, len(prompt) :].tolist()
        assert [i for i in stock if i != tokenizer.eos_token_id] == found


# ---- voices of one's own


def test_a_bundle_with_ones_own_voice(tiny_codec, tiny_codec_dir, tmp_path, capsys):
    fingerprint = tiny_codec.codes_fingerprint
    ar, nar = toy_models(fingerprint)
    save_ar(ar, tmp_path / "ar")
    nar.save_pretrained(tmp_path / "nar")
    for speaker in ("Anna K.", "Bo"):
        write_corpus(tmp_path / speaker, rows=3, speaker=speaker, fingerprint=fingerprint, size=V)
    command = ["bundle", "--ar", str(tmp_path / "ar"), "--nar", str(tmp_path / "nar")]
    command += ["--codec", str(tiny_codec_dir), "--out", str(tmp_path / "out")]
    data = ["--data", str(tmp_path / "Anna K."), str(tmp_path / "Bo")]
    assert main([*command, *data]) == 0
    err = capsys.readouterr().err
    assert "voice anna_k" in err and "license and attribution and consent" in err
    assert set(load_voices(tmp_path / "out" / "voices")) == {"anna_k", "bo"}
    stated = [
        "--voices",
        "Anna K.",
        "--license",
        "CC0",
        "--attribution",
        "Anna K.",
        "--consent",
        "asked, 3 May",
    ]
    assert main([*command, *data, *stated]) == 0
    [voice] = load_voices(tmp_path / "out" / "voices").values()
    assert (voice.name, voice.index) == ("anna_k", OTHER_VOICE)
    assert (voice.card["license"], voice.card["consent"]) == ("CC0", "asked, 3 May")
    capsys.readouterr()
    assert main(["voices", "--model", str(tmp_path / "out")]) == 0
    assert "consent: asked, 3 May" in capsys.readouterr().out
    # Parts out of a whole model; settings are kept.
    again = ["bundle", "--ar", str(tmp_path / "out"), "--nar", str(tmp_path / "out"), *command[5:-1]]
    for settings in (["--n-q", "3"], ["--best-of", "2"]):
        assert main([*again, str(tmp_path / "again"), *data, *settings]) == 0
    sampling = Synthesizer.from_pretrained(tmp_path / "again").sampling
    assert (sampling.n_q, sampling.best_of) == (3, 2)
    capsys.readouterr()
    assert main([*command, *data, "--voices", "Cleo"]) == 1
    assert "anna_k, bo" in capsys.readouterr().err
