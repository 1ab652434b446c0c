"""A language model on disk: nothing of others is lost when one is written, and damage is named when one is read."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from lm_toys import CODEC_N_Q as K
from lm_toys import CODEC_SIZE as V
from lm_toys import toy_halves, toy_synthesizer, write_corpus
from safetensors.torch import load_file, save_file

from tts_lm import Synthesizer
from tts_lm.cli.main import main
from tts_lm.models.ar import save_ar
from tts_lm.models.reranker import Reranker, RerankerConfig
from tts_lm.voices import OTHER_VOICE, load_voices


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("saved") / "model"


@pytest.fixture
def folder(tiny_codec, saved, tmp_path) -> Path:
    """A synthesizer with a listener on disk, to damage."""
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
    with pytest.raises(FileExistsError, match="expected a new or empty folder, .*mine holds other files"):
        toy_synthesizer(tiny_codec).save_pretrained(foreign)
    (foreign / "synthesizer.json").write_text('{"synth": "a song"}')
    with pytest.raises(FileExistsError, match="mine holds other files"):
        toy_synthesizer(tiny_codec).save_pretrained(foreign)
    (tmp_path / "file").write_text("precious")
    with pytest.raises(FileExistsError, match="file is a file"):
        toy_synthesizer(tiny_codec).save_pretrained(tmp_path / "file")
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
    with pytest.raises(ValueError, match="writing this folder was interrupted; bundle it again"):
        Synthesizer.from_pretrained(folder)
    synthesizer.save_pretrained(folder)
    (folder / "reranker").exists()
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


_WHOLE = "fetch or bundle it again|fetch or bundle the model again|fetch it again"


@pytest.mark.parametrize("part", ["ar", "nar", "reranker"])
@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("model.safetensors", _cut, "expected a whole .* model, .*model.safetensors is damaged"),
        ("model.safetensors", _garbage, "expected a whole .* model"),
        ("model.safetensors", _drop_a_tensor, "expected the weights of its config.json, got [12] missing keys"),
        ("model.safetensors", _nan, "model.safetensors: expected finite weights, got NaN"),
        ("model.safetensors", Path.unlink, "expected model.safetensors in .*, found none"),
        ("config.json", _garbage, "config.json: expected JSON"),
        ("config.json", _edit(model_type="bert"), "config.json: expected model_type '.*', got 'bert'"),
        ("config.json", _edit(hidden_size=0), "expected a whole .* model|expected the weights"),
        ("config.json", _edit(hidden_size="wide"), "expected a whole .* model"),
        ("config.json", Path.unlink, "expected config.json in .*, found none"),
    ],
)  # fmt: skip
def test_a_damaged_model_is_named(folder, no_network, capfd, part, file, damage, message):
    damage(folder / part / file)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        Synthesizer.from_pretrained(folder)
    assert (
        part in str(caught.value) and re.search(_WHOLE, str(caught.value)) and "\n" not in str(caught.value)
    )
    assert no_network == [] and capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("synthesizer.json", _garbage, "synthesizer.json: expected JSON"),
        ("synthesizer.json", _edit(codec="somebody/codec"), "expected codec to be a shipped codec's name"),
        ("synthesizer.json", _edit(codec="../codec"), "expected codec to be a shipped codec's name"),
        ("synthesizer.json", _edit(codec=7), "expected codec to be a shipped codec's name"),
        ("synthesizer.json", _edit(sampling=[1]), "expected sampling to be an object"),
        ("synthesizer.json", _edit(sampling={"heat": 1}), "synthesizer.json: .*heat"),
        ("synthesizer.json", _edit(sampling={"top_p": 7}), "synthesizer.json: expected top_p > 0 and <= 1, got 7"),
        ("synthesizer.json", _edit(sampling={"top_p": "x"}), "expected top_p to be a number, got 'x'"),
        ("codec/config.json", Path.unlink, "expected the codec of .* found none"),
        ("tokenizer/tokenizer.json", _garbage, "tokenizer: expected a whole tokenizer"),
        ("tokenizer/tokenizer.json", Path.unlink, "expected a saved tokenizer with tokenizer.json"),
        ("voices/bdl.json", _garbage, "bdl.json: expected JSON"),
        ("voices/bdl.json", _edit(index=99), "expected a voice's card with 'name' and 'index'"),
        ("voices/bdl.json", _edit(name=None), "expected a voice's card with 'name' and 'index'"),
        ("voices/bdl.safetensors", _cut, "bdl.safetensors: expected codes of a voice, it is damaged"),
        ("voices/bdl.safetensors", Path.unlink, "expected the codes of voice bdl in .*bdl.safetensors, found none"),
    ],
)  # fmt: skip
def test_a_damaged_part_is_named(folder, no_network, file, damage, message):
    damage(folder / file)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        Synthesizer.from_pretrained(folder)
    assert "\n" not in str(caught.value) and no_network == []


@pytest.mark.parametrize(
    "codes", [torch.full((K, 5), V), torch.full((K, 5), -1), torch.zeros(K + 1, 5), torch.zeros(5)]
)
def test_a_voice_of_another_codec_is_named(folder, codes):
    save_file({"codes": codes.long()}, folder / "voices" / "bdl.safetensors")
    with pytest.raises(ValueError, match=rf"bdl.safetensors: expected codes \[{K}, P\] from 0 to {V - 1}"):
        Synthesizer.from_pretrained(folder)


@pytest.mark.parametrize("part", ["ar", "nar", "reranker", "codec"])
def test_a_flipped_bit_is_refused_by_name(folder, part):
    """One that loads and is finite: only its checksum tells."""
    path = folder / part / "model.safetensors"
    tensors = load_file(path)
    name = next(
        name for name, value in sorted(tensors.items()) if value.is_floating_point() and value.numel() > 4
    )
    bits = tensors[name].view(torch.int32)
    bits.view(-1)[1] ^= 1
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(
        ValueError, match=rf"{part}/model.safetensors: expected a file with CRC-32C .* damaged"
    ):
        Synthesizer.from_pretrained(folder)


def test_the_seal_covers_the_parts_and_leaves_voices_free(folder):
    sums = json.loads((folder / "synthesizer.json").read_text())["crc32c"]
    assert {name.split("/")[0] for name in sums} == {"ar", "nar", "reranker", "tokenizer", "codec"}
    for suffix in (".json", ".safetensors"):
        (folder / "voices" / f"bdl{suffix}").unlink()
    assert list(Synthesizer.from_pretrained(folder).voices) == ["kathleen"]
    _edit(crc32c=sums | {"../other": "00000000"})(folder / "synthesizer.json")
    with pytest.raises(ValueError, match="expected crc32c of files of its parts, got '../other'"):
        Synthesizer.from_pretrained(folder)
    _edit(crc32c=[1])(folder / "synthesizer.json")
    with pytest.raises(ValueError, match="expected crc32c to be an object"):
        Synthesizer.from_pretrained(folder)
    _edit(crc32c={})(folder / "synthesizer.json")  # as folders of before
    Synthesizer.from_pretrained(folder)


def test_loading_says_nothing(folder, capfd):
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled(), logging.get_verbosity()
    Synthesizer.from_pretrained(folder)
    assert capfd.readouterr().err == ""
    assert (logging.is_progress_bar_enabled(), logging.get_verbosity()) == before


# ---- voices of one's own


def test_a_bundle_with_ones_own_voice(tiny_codec, tiny_codec_dir, tmp_path, capsys):
    fingerprint = tiny_codec.codes_fingerprint
    ar, nar = toy_halves(fingerprint)
    save_ar(ar, tmp_path / "ar")
    nar.save_pretrained(tmp_path / "nar")
    for speaker in ("Anna K.", "Bo"):
        write_corpus(tmp_path / speaker, rows=3, speaker=speaker, fingerprint=fingerprint, size=V)
    command = ["bundle", "--ar", str(tmp_path / "ar"), "--nar", str(tmp_path / "nar")]
    command += ["--codec", str(tiny_codec_dir), "--out", str(tmp_path / "out")]
    data = ["--data", str(tmp_path / "Anna K."), str(tmp_path / "Bo")]
    assert main([*command, *data]) == 0
    err = capsys.readouterr().err
    assert "voice anna_k: its card says nothing of its license and attribution and consent" in err
    assert set(load_voices(tmp_path / "out" / "voices")) == {"anna_k", "bo"}
    stated = [
        "--voices",
        "Anna K.",
        "--license",
        "CC0",
        "--attribution",
        "Anna K., 2026",
        "--consent",
        "asked, 3 May",
    ]
    assert main([*command, *data, *stated]) == 0
    assert "says nothing" not in capsys.readouterr().err
    [voice] = load_voices(tmp_path / "out" / "voices").values()
    assert (voice.name, voice.index) == ("anna_k", OTHER_VOICE)
    assert (voice.card["license"], voice.card["consent"]) == ("CC0", "asked, 3 May")
    assert main(["voices", "--model", str(tmp_path / "out")]) == 0
    assert "consent: asked, 3 May" in capsys.readouterr().out
    target = tmp_path / "a.wav"
    assert main(["say", "Hi.", "-o", str(target), "--voice", "anna_k", "--model", str(tmp_path / "out")]) == 0
    capsys.readouterr()
    # Halves out of a whole model; settings are kept, and what is on disk is sealed as it is.
    again = ["bundle", "--ar", str(tmp_path / "out"), "--nar", str(tmp_path / "out"), *command[5:-1]]
    for settings in (["--n-q", "3"], ["--best-of", "2"]):
        assert main([*again, str(tmp_path / "again"), *data, *settings]) == 0
    sampling = Synthesizer.from_pretrained(tmp_path / "again").sampling
    assert (sampling.n_q, sampling.best_of) == (3, 2)
    assert main([*again, str(tmp_path / "again"), *data, "--best-of", "0"]) == 1
    capsys.readouterr()
    assert main([*command, *data, "--voices", "Cleo"]) == 1
    assert "by cleo in the corpora; found the speakers anna_k, bo" in capsys.readouterr().err
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "voices").write_text("precious")
    assert main([*command[:-1], str(tmp_path / "thesis"), *data]) == 1
    assert "thesis holds other files" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["voices"]
