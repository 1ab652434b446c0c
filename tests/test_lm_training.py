"""Training both halves: what is learnt, what is read, and going on after a stop as if there had been none."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_toys import (
    FINGERPRINT,
    FRAME_RATE,
    N_Q,
    SIZE,
    hear,
    loud,
    toy_synthesizer,
    toy_tokenizer,
    write_corpus,
)
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from audiotok import PreparedCorpus
from tts_lm.cli.main import main
from tts_lm.decoding.engine import ArDecoder
from tts_lm.decoding.sampling import FrameLimits, Sampling
from tts_lm.models.ar import build_ar
from tts_lm.models.nar import NarModel
from tts_lm.text import TEXT_START, build_prompt, character_ids, normalise, pronounce_text
from tts_lm.training import hearing, loop
from tts_lm.training.ar_task import ArTask
from tts_lm.training.attention import AttentionTeacher
from tts_lm.training.batches import plan_epoch, sequence_length
from tts_lm.training.clips import Clip, join_clips, read_clips, render
from tts_lm.training.nar_task import NarTask
from tts_lm.training.recipe import DataRecipe, Recipe, load_lm_recipe
from tts_lm.training.run import train_lm
from tts_lm.training.vocabulary import SmallVocabulary

SMALL = ["model.hidden_size=48", "model.layers=2", "model.heads=2", "model.intermediate_size=64"]
PLAIN = ["dtype=float32", "optim.token_noise=0", "data.drop_punctuation=0", "data.spell=0", "log_every=1"]


def recipe(kind: str, *overrides: str) -> Recipe:
    layers = ["attention.layers=[0, 1]", "data.batch_tokens=600", "max_minutes=0", "max_steps=8"]
    return load_lm_recipe(kind, [*SMALL, *PLAIN, *layers, *overrides])


def losses(out: Path, name: str) -> list[float]:
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row[name] for row in rows if name in row]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toy") / "corpus"
    write_corpus(folder, rows=24)
    return folder


@pytest.fixture(scope="module")
def clips(corpus: Path) -> list[Clip]:
    return read_clips([corpus])[0]


# ---- what is read


def test_a_clip_is_its_row(corpus, clips):
    rows = {row["id"]: row for row in PreparedCorpus(corpus)}
    assert len(clips) >= 20
    for clip in clips:
        assert np.array_equal(clip.codes, rows[clip.id]["codes"].numpy()) and clip.codes.shape[0] == N_Q
        assert " ".join(word.letters for word in clip.words) + "." == normalise(rows[clip.id]["text"])
        assert clip.aligned and clip.voice == 0 and clip.frames == clip.codes.shape[1]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lr=.inf", "expected optim.lr to be a number of at least 0, got inf"),
        ("optim.lr=.nan", "expected optim.lr to be a number of at least 0, got nan"),
        ("optim.lr=-1", "expected optim.lr to be a number of at least 0"),
        ("optim.dropout=1.5", "expected optim.dropout to be a number from 0 to 1, got 1.5"),
        ("max_steps=-1", "expected max_steps to be a number of at least 0, got -1"),
        ("max_minutes=.inf", "expected max_minutes"),
        ("model.heads=0", "expected model.heads to be a number above 0"),
        ("log_every=0", "expected log_every to be a number above 0"),
        ("data.weights={slt: .inf}", "expected data.weights"),
        ("attention.layers=[0, -1]", "expected attention.layers to be a number of at least 0, got -1"),
    ],
)
def test_a_number_out_of_its_range_is_refused_before_training(override, message, corpus, tmp_path, capsys):
    with pytest.raises(ValueError, match=message):
        recipe("ar", override)
    assert (
        main(["train", "ar", "--data", str(corpus), "--out", str(tmp_path / "run"), "--set", override]) == 1
    )
    assert message in capsys.readouterr().err and not (tmp_path / "run").exists()


class Mute:
    """A recogniser that hears nothing."""

    def transcribe(self, wav: Any, sampling_rate: int) -> str:
        return ""


@pytest.mark.parametrize("kind", ["ar", "nar"])
def test_a_half_in_training_is_heard_and_learns_the_same(tiny_codec, tmp_path, monkeypatch, kind):
    fingerprint = tiny_codec.codes_fingerprint
    toy_synthesizer(tiny_codec).save_pretrained(tmp_path / "whole")
    (tmp_path / "lines.txt").write_text("Hello there.\nA cat.\n")
    write_corpus(tmp_path / "corpus", rows=6, fingerprint=fingerprint, size=tiny_codec.config.codebook_size)
    monkeypatch.setattr(hearing, "PocketSphinx", Mute)
    monkeypatch.setattr(hearing.Hearing.__init__, "__defaults__", (Mute,))
    told = recipe(kind, "max_steps=2")
    spoken = {"speaker": tmp_path / "whole", "lines": tmp_path / "lines.txt"}
    train_lm(told, [tmp_path / "corpus"], tmp_path / "heard", device="cpu", **spoken)
    train_lm(told, [tmp_path / "corpus"], tmp_path / "unheard", device="cpu")
    assert losses(tmp_path / "heard", "held_out/wer") == [1.0]
    assert 0 <= losses(tmp_path / "heard", "held_out/ended")[0] <= 1
    assert losses(tmp_path / "heard", f"{kind}/loss") == losses(tmp_path / "unheard", f"{kind}/loss")
    with pytest.raises(ValueError, match="give --speaker and --lines"):
        train_lm(told, [tmp_path / "corpus"], tmp_path / "x", lines=tmp_path / "lines.txt")
    write_corpus(tmp_path / "other", rows=6)
    with pytest.raises(ValueError, match="expected a model that speaks the codes 70ca1c0de5000000"):
        train_lm(told, [tmp_path / "other"], tmp_path / "x", device="cpu", **spoken)
    with pytest.raises(
        ValueError, match="expected lines for a half that speaks, ar or nar; got 2 for 'verifier'"
    ):
        train_lm(recipe("verifier"), [tmp_path / "corpus"], tmp_path / "x", device="cpu", **spoken)


def test_training_says_at_once_that_it_runs(corpus, tmp_path, capsys):
    train_lm(recipe("nar", "log_every=1000", "max_steps=3"), [corpus], tmp_path / "run", device="cpu")
    told = capsys.readouterr().err.splitlines()
    assert "clips" in told[0]
    assert told[1].startswith("two steps took ") and "min left" in told[1]


def test_held_out_rows_are_not_learnt_from(tmp_path):
    write_corpus(tmp_path / "big", rows=500)
    train, held_out = read_clips([tmp_path / "big"])
    assert [clip.id for clip in held_out] == ["toy478"]  # one in a hundred, by a hash of the id
    assert len(train) == 499 and "toy478" not in {clip.id for clip in train}
    train_lm(recipe("nar", "max_steps=1"), [tmp_path / "big"], tmp_path / "run", device="cpu")
    assert len(losses(tmp_path / "run", "held_out/nar/loss")) == 1


def test_training_reads_the_text_that_speaking_reads(tmp_path):
    """Whatever is typed: the clip's text is the pronounced normalised text."""
    texts = [
        "Hello, world - at 5 a.m. it's 'fine'!",
        "A well-known half-truth -- twice; see p. 12: yes?",
        "The blorptz paid $5.50... and 'tis so, isn't it?",
    ]
    write_corpus(tmp_path / "c", rows=len(texts), texts=texts)
    (tmp_path / "c" / "alignments.jsonl").unlink()
    train, held_out = read_clips([tmp_path / "c"])
    found = {render(clip, np.random.default_rng(0), 0.0, 0.0)[0] for clip in train + held_out}
    assert found == {pronounce_text(normalise(text)) for text in texts}


def test_frames_point_at_the_sound_that_is_spoken(clips):
    for clip in clips:
        text, spoken = render(clip, np.random.default_rng(0), 0.0, 0.0)
        assert spoken is not None and len(spoken) == clip.frames
        said = hear(clip.codes[0])
        turns = [text[i] for i, before in zip(spoken, [-1, *spoken], strict=False) if i != before]
        assert "".join(turns) == said == "".join(c for c in text if c not in " .")
        letters, spelt = render(clip, np.random.default_rng(0), 1.0, 1.0)
        assert letters == " ".join(word.letters for word in clip.words)
        assert spelt is not None and (np.diff(spelt) >= 0).all() and spelt[0] == 0


def test_rows_that_cannot_be_learnt_are_left_out(tmp_path):
    write_corpus(tmp_path / "de", rows=8, language="de")
    with pytest.raises(ValueError, match="expected rows with English text and split 'train'"):
        read_clips([tmp_path / "de"])
    write_corpus(tmp_path / "en", rows=8)
    few = read_clips([tmp_path / "en"], max_seconds=0.5)[0]
    assert all(clip.frames <= 25 for clip in few)
    with pytest.raises(FileNotFoundError, match="no alignments at .*missing"):
        read_clips([tmp_path / "en"], [tmp_path / "missing.jsonl"])


def test_corpora_of_two_codecs_are_refused(corpus, tmp_path):
    write_corpus(tmp_path / "other", rows=4, fingerprint="0ther0c0dec00000")
    with pytest.raises(ValueError, match="expected corpora of one codec, got codes .*0ther0c0dec00000"):
        read_clips([corpus, tmp_path / "other"])


def test_joined_clips_are_two_of_one_speaker_whole_and_in_time(clips):
    two = [replace(clip, speaker=("ann", "ben")[i % 2]) for i, clip in enumerate(clips)]
    by_id = {clip.id: clip for clip in two}
    longest = 2 * max(clip.frames for clip in two) - 1
    joined = join_clips(two, 1.0, longest, seed=0)
    assert len(two) - 2 <= len(joined) <= len(two)
    for clip in joined:
        first, second = (by_id[name] for name in clip.id.split(" + "))
        assert first.speaker == second.speaker == clip.speaker and clip.frames <= longest
        assert np.array_equal(clip.codes, np.concatenate([first.codes, second.codes], axis=1))
        assert [w.letters for w in clip.words] == [w.letters for w in first.words + second.words]
        text, spoken = render(clip, np.random.default_rng(0), 0.0, 0.0)
        assert text == " ".join(render(c, np.random.default_rng(0), 0.0, 0.0)[0] for c in (first, second))
        if first.aligned and second.aligned:
            assert spoken is not None and spoken[first.frames] > spoken[first.frames - 1]
    assert [c.id for c in joined] == [c.id for c in join_clips(two, 1.0, longest, seed=0)]
    assert 0 < len(join_clips(two, 0.3, longest, seed=0)) < len(joined)
    assert join_clips(two, 1.0, 1, seed=0) == []


# ---- batches


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_the_plan_of_an_epoch(clips, epoch):
    data = DataRecipe(batch_tokens=400, curriculum_epochs=1.5)
    plan = plan_epoch(clips, data, seed=1, epoch=epoch)
    assert plan == plan_epoch(clips, data, seed=1, epoch=epoch)
    assert sorted(i for batch in plan for i in batch) == list(range(len(clips)))
    for batch in plan:
        assert len(batch) == 1 or len(batch) * max(sequence_length(clips[i]) for i in batch) <= 400
    longest = [max(clips[i].frames for i in batch) for batch in plan]
    if epoch == 0:
        assert np.corrcoef(longest, range(len(longest)))[0, 1] > 0.9
    else:
        assert plan != plan_epoch(clips, data, seed=2, epoch=epoch)


def test_voices_are_weighted(clips):
    count = sum(map(len, plan_epoch(clips, DataRecipe(weights={"kathleen": 2.5}), 0, 0)))
    assert 2 * len(clips) < count < 3 * len(clips)
    assert plan_epoch(clips, DataRecipe(weights={"kathleen": 0.0}), 0, 0) == []


def test_an_ar_batch_is_the_template(clips):
    task = ArTask(recipe("ar"), toy_tokenizer(), FRAME_RATE)
    batch = task.collate(clips[:5], np.random.default_rng(0), training=True)
    used = torch.cat((task.vocabulary.used, torch.tensor([-1])))
    tokenizer, characters = task.tokenizer, task.characters
    for row, clip in enumerate(clips[:5]):
        text, spoken = render(clip, np.random.default_rng(0), 0.0, 0.0)
        prompt = build_prompt(tokenizer, [characters[c] for c in text], clip.voice)
        codes = (clip.codes[0].astype(int) + tokenizer.audio_offset).tolist()
        ends = [tokenizer.control_id("audio_end"), tokenizer.control_id("eos")]
        ids = used[batch["ids"][row]].tolist()
        length = len(prompt) + len(codes) + 1
        assert ids[:length] == [*prompt, *codes, ends[0]]
        assert set(ids[length:]) <= {tokenizer.control_id("pad")}
        labels = batch["labels"][row]
        scored = labels[labels >= 0]
        assert used[scored].tolist() == [*codes, *ends]
        assert (labels >= 0).nonzero()[0].item() == len(prompt) - 1
        # The position that says frame t looks at the sound that frame t is of.
        looks = batch["targets"][row, len(prompt) - 1 :][: clip.frames]
        assert spoken is not None and looks.tolist() == (TEXT_START + spoken).tolist()
        assert (batch["targets"][row] < torch.arange(batch["ids"].shape[1])).all()


def test_a_nar_prompt_is_of_the_same_speaker_but_another_clip(clips):
    task = NarTask(recipe("nar"), toy_tokenizer(), clips)
    for seed in range(5):
        batch = task.collate(clips[:6], np.random.default_rng(seed), training=True)
        for row, clip in enumerate(clips[:6]):
            prompt = batch["prompt_codes"][row][:, batch["prompt_mask"][row]].numpy()
            level = int(batch["level"][row])
            labels = batch["labels"][row]
            assert 1 <= level < N_Q
            assert np.array_equal(labels[labels >= 0].numpy(), clip.codes[level])
            own = [clip.codes[:, i : i + prompt.shape[1]] for i in range(clip.frames - prompt.shape[1] + 1)]
            assert prompt.shape[1] < 10 or not any(np.array_equal(prompt, piece) for piece in own)


# ---- what is computed


def test_the_small_vocabulary_has_the_softmax_of_the_full_one():
    tokenizer = toy_tokenizer()
    torch.manual_seed(0)
    full = loud(build_ar(tokenizer, FRAME_RATE, 32, 2, 2, 48))
    used = [*range(40, 80), *range(tokenizer.control_offset, tokenizer.audio_offset + SIZE)]
    words = SmallVocabulary(used, tokenizer.padded_vocab_size)
    small = words.shrink_model(full).eval()
    assert len(words) == len(used) + 1 == small.config.vocab_size
    grown = words.grow_model(small).eval()
    ids = torch.tensor(used)[torch.randint(len(used), (2, 30))]
    with torch.no_grad():
        logits = small(words.shrink(ids)).logits
        logits[..., -1] += words.unused_logit
        mine = logits.log_softmax(-1)[..., :-1]
        theirs = grown(ids).logits.log_softmax(-1)[..., words.used]
    assert (mine - theirs).abs().max() < 1e-4
    assert type(grown) is LlamaForCausalLM
    assert (grown.config.pad_token_id, grown.config.vocab_size) == (
        tokenizer.control_id("pad"),
        tokenizer.padded_vocab_size,
    )
    with torch.no_grad():  # used rows come back bit for bit
        assert torch.equal(grown.lm_head.weight[words.used], full.lm_head.weight[words.used])


@pytest.mark.parametrize(("layers", "heads", "width"), [((1,), 1, 0), ((0, 2), 2, 1)])
def test_the_teacher_scores_the_attention_that_the_model_computes(layers, heads, width):
    torch.manual_seed(0)
    tokenizer = toy_tokenizer()
    model = build_ar(tokenizer, FRAME_RATE, 32, 3, 4, 48)
    loud(model)
    ids = torch.randint(tokenizer.padded_vocab_size, (2, 25))
    before = model(ids, use_cache=False).logits
    teacher = AttentionTeacher(model, layers, heads, width)
    model.train()
    after = model(ids, use_cache=False).logits
    assert torch.equal(before, after)
    targets = torch.full((2, 25), -1)
    targets[0, 10:20] = torch.arange(10)
    targets[1, 5:9] = torch.tensor([0, 0, 1, 4])
    loss, mass = teacher.loss(targets)

    model.eval()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        seen = model(ids, use_cache=False, output_attentions=True).attentions
    wanted = []
    for row, query in (targets >= 0).nonzero().tolist():
        at = int(targets[row, query])
        # a window that hangs over an edge counts its edge again, as many times as it hangs over
        window = [min(max(i, 0), query) for i in range(at - width, at + width + 1)]
        wanted.append(
            torch.stack([seen[la][row, h, query, window].sum() for la in layers for h in range(heads)])
        )
    probabilities = torch.stack(wanted)
    assert torch.allclose(loss, -probabilities.log().mean(), atol=1e-4)
    assert torch.allclose(mass, probabilities.mean(), atol=1e-5)
    loss.backward()
    touched = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert f"model.layers.{max(layers)}.self_attn.q_proj.weight" in touched


def test_a_teacher_without_targets_says_nothing():
    model = build_ar(toy_tokenizer(), FRAME_RATE, 16, 2, 2, 16)
    teacher = AttentionTeacher(model, (0,), 1, 0)
    model.train()
    model(torch.randint(100, (1, 5)), use_cache=False)
    loss, mass = teacher.loss(torch.full((1, 5), -1))
    assert loss.item() == mass.item() == 0
    for layers, heads in (((2,), 1), ((0,), 3), ((), 1)):
        with pytest.raises(ValueError, match="expected attention.layers below 2 and 1 to 2 heads"):
            AttentionTeacher(model, layers, heads, 0)


# ---- whole runs


def test_the_ar_half_learns_to_say_a_toy_corpus_by_heart(tmp_path):
    texts = write_corpus(tmp_path / "c", rows=6, longest=3)
    settings = recipe("ar", "max_steps=150", "optim.lr=6e-3", "optim.ema=0.9", "log_every=50")
    folder = train_lm(settings, [tmp_path / "c"], tmp_path / "run", device="cpu")
    model = AutoModelForCausalLM.from_pretrained(folder)
    clips, held_out = read_clips([tmp_path / "c"])
    assert len(clips + held_out) == len(texts)
    tokenizer = toy_tokenizer()
    ids = character_ids(tokenizer)
    prompts = [
        build_prompt(tokenizer, [ids[c] for c in render(clip, np.random.default_rng(0), 0, 0)[0]], clip.voice)
        for clip in clips
    ]
    limits = [FrameLimits(1, 120)] * len(prompts)
    keys = [(0, row) for row in range(len(prompts))]
    answers = ArDecoder(model).generate(prompts, limits, keys, Sampling(temperature=0))
    for clip, answer in zip(clips, answers, strict=True):
        assert answer.finish_reason == "eos"
        assert answer.codes.tolist() == clip.codes[0].tolist()
    looks = losses(tmp_path / "run", "ar/look_mass")
    assert looks[-1] > 0.8 and looks[-1] > 1.5 * looks[0]


def test_the_nar_half_learns_the_levels(corpus, clips, tmp_path):
    settings = recipe(
        "nar", "max_steps=120", "optim.lr=6e-3", "optim.ema=0.9", "optim.dropout=0", "log_every=40"
    )
    folder = train_lm(settings, [corpus], tmp_path / "run", device="cpu")
    model = NarModel.from_pretrained(folder)
    task = NarTask(settings, toy_tokenizer(), clips, model)
    right = []
    for clip in clips[:5]:
        text = torch.tensor([[task.characters[c] for c in render(clip, np.random.default_rng(0), 0, 0)[0]]])
        first = torch.from_numpy(clip.codes[:1].astype(np.int64))
        filled = model.fill(first, text, torch.tensor([clip.voice]), torch.zeros(1, N_Q, 0, dtype=torch.long))
        right.append((filled[0].numpy() == clip.codes).mean())
    assert np.mean(right) > 0.95
    assert len(losses(tmp_path / "run", "nar/loss")) == 3


class Stop(Exception):
    """What a kill is in these tests."""


@pytest.mark.parametrize("kind", ["ar", "nar"])
def test_a_run_goes_on_after_a_stop(kind, corpus, tmp_path, monkeypatch):
    settings = recipe(
        kind, "max_steps=14", "optim.token_noise=0.1", "data.spell=0.3", "data.batch_tokens=900"
    )
    settings = dataclasses.replace(settings, optim=dataclasses.replace(settings.optim, dropout=0.2))
    whole = train_lm(settings, [corpus], tmp_path / "whole", device="cpu")
    expected = losses(tmp_path / "whole", f"{kind}/loss")

    step, saved = loop._Run._step, []

    def stopping(self: Any, clips: list[Clip]) -> None:
        if self.progress.step == 9:
            raise Stop
        if self.progress.step == 6 and not saved:  # three steps before the stop
            saved.append(self._save([]))
        step(self, clips)

    monkeypatch.setattr(loop._Run, "_step", stopping)
    with pytest.raises(Stop):
        train_lm(settings, [corpus], tmp_path / "cut", device="cpu")
    monkeypatch.setattr(loop._Run, "_step", step)
    cut = train_lm(settings, [corpus], tmp_path / "cut", device="cpu")
    found = losses(tmp_path / "cut", f"{kind}/loss")
    assert len(expected) == 14 and len(found) == 9 + 8
    np.testing.assert_allclose(found[:9] + found[12:], expected[:9] + expected[9:], atol=1e-4)
    np.testing.assert_allclose(found[9:12], expected[6:9], atol=1e-4)
    kind_of = LlamaForCausalLM if kind == "ar" else NarModel
    ends = [kind_of.from_pretrained(folder).state_dict() for folder in (whole, cut)]
    for name, tensor in ends[0].items():
        assert torch.allclose(tensor, ends[1][name], atol=1e-4), name


def test_a_kill_between_two_renames_loses_nothing(corpus, tmp_path):
    train_lm(recipe("nar", "max_steps=2"), [corpus], tmp_path / "run", device="cpu")
    (tmp_path / "run" / "last").rename(tmp_path / "run" / "last.old")
    (tmp_path / "run" / "last.new").mkdir()
    train_lm(recipe("nar", "max_steps=3"), [corpus], tmp_path / "run", device="cpu")
    assert len(losses(tmp_path / "run", "nar/loss")) == 3
    assert json.loads((tmp_path / "run" / "last" / "progress.json").read_text())["step"] == 3
    assert sorted(p.name for p in (tmp_path / "run").iterdir() if p.is_dir()) >= ["last", "model"]
    assert not list((tmp_path / "run").rglob("*.pt")) and not list((tmp_path / "run").rglob("*.pkl"))


def test_a_run_of_another_size_is_refused(corpus, tmp_path):
    train_lm(recipe("nar", "max_steps=1"), [corpus], tmp_path / "run", device="cpu")
    with pytest.raises(ValueError, match="holds another model .* folder of its own"):
        train_lm(recipe("nar", "model.hidden_size=32"), [corpus], tmp_path / "run", device="cpu")


@pytest.mark.parametrize("kind", ["ar", "nar"])
def test_a_start_is_continued_and_one_of_another_codec_is_refused(kind, corpus, tmp_path):
    folder = train_lm(recipe(kind, "max_steps=1"), [corpus], tmp_path / "run", device="cpu")
    again = recipe(kind, "max_steps=1", "optim.lr=0")
    same = train_lm(again, [corpus], tmp_path / "on", init=folder, device="cpu")
    kind_of = LlamaForCausalLM if kind == "ar" else NarModel
    first, second = (kind_of.from_pretrained(f).state_dict() for f in (folder, same))
    assert all(torch.allclose(tensor, second[name], atol=1e-6) for name, tensor in first.items())
    write_corpus(tmp_path / "other", rows=8, fingerprint="0ther0c0dec00000")
    with pytest.raises(ValueError, match=f"reads the codes {FINGERPRINT}, the corpora hold 0ther0c0dec00000"):
        train_lm(again, [tmp_path / "other"], tmp_path / "no", init=folder, device="cpu")


# ---- recipes and the verb


@pytest.mark.parametrize("kind", ["ar", "nar"])
def test_shipped_recipes(kind):
    shipped = load_lm_recipe(kind)
    assert shipped.kind == kind and shipped.max_minutes > 0
    assert load_lm_recipe(kind, ["optim.lr=1e-3", "model.layers=3"]).optim.lr == 1e-3


@pytest.mark.parametrize(
    ("overrides", "error"),
    [
        (["optim.lrr=1"], "unknown key optim.lrr; the nearest is optim.lr"),
        (["kind=both"], "expected kind to be one of ar, nar, verifier, got 'both'"),
        (["model.layers=many"], "expected model.layers to be int, got 'many'"),
        (["max_minutes=0"], "expected max_steps or max_minutes, got neither"),
        (["model"], "expected --set KEY=VALUE, got 'model'"),
    ],
)
def test_recipes_that_are_wrong_are_refused(overrides, error):
    with pytest.raises(ValueError, match=re.escape(error)):
        load_lm_recipe("ar", overrides)


def test_the_verb_trains(corpus, tmp_path, capsys):
    sets = [f"--set={change}" for change in [*SMALL, *PLAIN, "attention.layers=[0]", "max_steps=2"]]
    assert (
        main(["train", "ar", "--data", str(corpus), "--out", str(tmp_path / "r"), "--device", "cpu", *sets])
        == 0
    )
    out, err = capsys.readouterr()
    assert out.strip() == str(tmp_path / "r" / "model")
    assert "24 clips" in err or "23 clips" in err
    assert json.loads((tmp_path / "r" / "recipe.json").read_text())["max_steps"] == 2
    missing = ["train", "ar", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "x")]
    assert main(missing) == 1
    assert main(["train", "best", "--data", str(corpus), "--out", str(tmp_path / "x")]) == 1
    out, err = capsys.readouterr()
    assert (
        out == ""
        and len(err.splitlines()) == 2
        and all(x.startswith("tts-lm: error: ") for x in err.splitlines())
    )
