"""TTS models on disk: other files are kept, damage is reported, and other engines open the AR model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import sentencepiece
import torch
from conftest import build_tiny_codec
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
    codec = build_tiny_codec()
    config = RerankerConfig(V, 8, 1, codes_fingerprint=codec.codes_fingerprint)
    path = tmp_path_factory.mktemp("saved") / "model"
    toy_synthesizer(codec, reranker=Reranker(config)).save_pretrained(path)
    return path


@pytest.fixture
def folder(saved, tmp_path) -> Path:
    """A synthesizer with a reranker on disk, to damage."""
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
    with pytest.raises(FileExistsError):
        synthesizer.save_pretrained(foreign)
    assert sorted(path.name for path in foreign.rglob("*.*")) == ["notes.txt", "song.wav", "synthesizer.json"]
    assert (tmp_path / "file").read_text() == "precious"


def test_its_own_folder_is_replaced_and_what_lies_beside_it_stays(tiny_codec, folder, monkeypatch):
    for name in ("README.md", "reranker/notes.txt", "voices/notes.json", "voices/song.wav"):
        (folder / name).write_text("{}")
    synthesizer = toy_synthesizer(tiny_codec)
    del synthesizer.voices["bdl"]
    with monkeypatch.context() as patched:
        patched.setattr(type(synthesizer.nar), "save_pretrained", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            synthesizer.save_pretrained(folder)
    with pytest.raises(ValueError, match="interrupted"):
        Synthesizer.from_pretrained(folder)
    synthesizer.save_pretrained(folder)
    assert [path.name for path in (folder / "reranker").iterdir()] == ["notes.txt"]
    voice = {"kathleen.json", "kathleen.safetensors"}
    assert {path.name for path in (folder / "voices").iterdir()} == voice | {"notes.json", "song.wav"}
    assert (folder / "README.md").read_text() == "{}"
    (folder / "voices" / "notes.json").unlink()
    loaded = Synthesizer.from_pretrained(folder)
    assert loaded.voices.keys() == {"kathleen"} and loaded.reranker is None


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


DAMAGE = [
    *[("model.safetensors", damage) for damage in (_cut, _garbage, _drop_a_tensor, _nan, Path.unlink)],
    *[("config.json", damage) for damage in (_garbage, _edit(model_type="bert"), Path.unlink)],
    ("config.json", _edit(hidden_size="wide")),
]


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        *[(f"ar/{file}", damage) for file, damage in DAMAGE],
        *[(f"{part}/{file}", damage) for part in ("nar", "reranker") for file, damage in DAMAGE[2:4]],
        *[("synthesizer.json", damage) for damage in (_garbage, Path.unlink)],
        ("synthesizer.json", lambda path: path.write_text("[]")),
        ("synthesizer.json", lambda path: path.write_text('{"format_version": 1}')),
        ("synthesizer.json", _edit(format_version=99)),
        *[("synthesizer.json", _edit(codec=codec)) for codec in ("../codec", 7)],
        *[("synthesizer.json", _edit(sampling=s)) for s in ([1], {"heat": 1}, {"top_p": 7})],
        ("codec/config.json", Path.unlink),
        *[("ar/tokenizer.json", damage) for damage in (_garbage, Path.unlink)],
        *[("voices/bdl.json", damage) for damage in (_garbage, _edit(index=99), _edit(name=None))],
        *[("voices/bdl.safetensors", damage) for damage in (_cut, Path.unlink)],
        ("voices", shutil.rmtree),
    ],
)
def test_a_damaged_part_is_named(folder, no_network, capfd, file, damage):
    damage(folder / file)
    with pytest.raises((ValueError, FileNotFoundError), match=file.split("/")[0]) as caught:
        Synthesizer.from_pretrained(folder)
    assert "\n" not in str(caught.value) and no_network == [] and capfd.readouterr().err == ""


def test_a_voice_of_another_codec_and_what_is_missing_are_named(tmp_path):
    add_voice(toy_voice("bdl"), tmp_path)
    for codes in (torch.full((K, 5), V), torch.full((K, 5), -1), torch.zeros(K + 1, 5), torch.zeros(5)):
        save_file({"codes": codes.long()}, tmp_path / "bdl.safetensors")
        with pytest.raises(ValueError, match="bdl.safetensors"):
            load_voices(tmp_path, K, V)
    for name, missing in (("best", "best"), (tmp_path, "synthesizer.json")):
        with pytest.raises(FileNotFoundError, match=missing):
            Synthesizer.from_pretrained(name)


# ---- other engines


def test_other_engines_find_all_they_need_in_the_ar_folder(folder, tiny_codec):
    """Converters need one integer as the end id, the sentencepiece file, and names of the control ids."""
    loaded = Synthesizer.from_pretrained(folder)
    ar, tokenizer = folder / "ar", loaded.tokenizer
    assert isinstance(loaded.reranker, Reranker)
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


# ---- bundles


def test_a_bundle_of_parts_and_corpora(tiny_codec, tiny_codec_dir, tmp_path, capsys):
    fingerprint = tiny_codec.codes_fingerprint
    ar, nar = toy_models(fingerprint)
    save_ar(ar, tmp_path / "ar")
    nar.save_pretrained(tmp_path / "nar")
    for speaker in ("Anna K.", "Bo", "arctic_slt", "lj"):
        write_corpus(tmp_path / speaker, rows=3, speaker=speaker, fingerprint=fingerprint, size=V)
    write_corpus(tmp_path / "other", rows=1, fingerprint="0ther", size=V)
    out, model = tmp_path / "out", "--model"
    parts = ["bundle", "--ar", str(tmp_path / "ar"), "--nar", str(tmp_path / "nar")]
    known = ["--data", str(tmp_path / "lj"), str(tmp_path / "arctic_slt")]
    codec = ["--codec", str(tiny_codec_dir)]
    assert main([*parts, *codec, *known, "--out", str(out)]) == 0
    assert "voices: slt, lj" in capsys.readouterr().err
    codec = ["--codec", str(shutil.move(tiny_codec_dir, tmp_path / "codec"))]
    assert main(["say", "A.", "-o", str(tmp_path / "a.wav"), model, str(out)]) == 0  # it has its codec
    # Voices of one's own: their cards state what the options state.
    own = ["--data", str(tmp_path / "Anna K."), str(tmp_path / "Bo"), "--out", str(out)]
    assert main([*parts, *codec, *own]) == 0
    assert "voice anna_k" in capsys.readouterr().err
    assert set(load_voices(out / "voices")) == {"anna_k", "bo"}
    stated = ["--license", "CC0", "--attribution", "Anna K.", "--consent", "asked, 3 May"]
    assert main([*parts, *codec, *own, "--voices", "Anna K.", *stated]) == 0
    [voice] = load_voices(out / "voices").values()
    assert (voice.name, voice.index) == ("anna_k", OTHER_VOICE)
    capsys.readouterr()
    assert main(["voices", model, str(out)]) == 0
    assert "consent: asked, 3 May" in capsys.readouterr().out
    assert main(["voices", model, str(out), "--json"]) == 0
    card = json.loads(capsys.readouterr().out)
    assert (card["name"], card["license"], card["consent"]) == ("anna_k", "CC0", "asked, 3 May")
    # Parts out of a whole model; settings are kept.
    again = ["bundle", "--ar", str(out), "--nar", str(out), *codec, *own[:-1], str(tmp_path / "again")]
    for settings in (["--n-q", "3"], ["--best-of", "2"]):
        assert main([*again, *settings]) == 0
    sampling = Synthesizer.from_pretrained(tmp_path / "again").sampling
    assert (sampling.n_q, sampling.best_of) == (3, 2)
    for wrong, key in (
        (["--voices", "Cleo"], "lj, slt"),
        (["--ar", str(tmp_path / "lj")], "ar model"),
        (["--data", str(tmp_path / "other")], "0ther"),
    ):
        capsys.readouterr()
        assert main([*parts, *codec, *known, "--out", str(tmp_path / "no"), *wrong]) == 1
        assert key in capsys.readouterr().err and not (tmp_path / "no").exists()
