"""Training of the AR and NAR models: data, losses, and resumed runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_toys import FINGERPRINT, FRAME_RATE, N_Q, SIZE, hear, loud, toy_tokenizer, write_corpus
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from audiotok import PreparedCorpus, save_audio
from tts_lm.cli.main import main
from tts_lm.decoding.engine import TEXT_START, ArDecoder, FrameLimits, Sampling, build_prompt
from tts_lm.models.ar import build_ar, character_ids
from tts_lm.models.nar import NarModel
from tts_lm.text import normalise, pronounce_text
from tts_lm.training.alignments import main as align_folder
from tts_lm.training.ar import ArTask, AttentionSupervision, SmallVocabulary
from tts_lm.training.data import Clip, join, plan_epoch, read_clips, render
from tts_lm.training.nar import NarTask
from tts_lm.training.recipe import DataRecipe, Recipe, load_lm_recipe
from tts_lm.training.trainer import TtsTrainer, train_lm
from tts_lm.voices import OTHER_VOICE

SMALL = ["model.hidden_size=48", "model.layers=2", "model.heads=2", "model.intermediate_size=64"]
PLAIN = ["dtype=float32", "optim.token_noise=0", "data.drop_punctuation=0", "data.spell=0", "log_every=1"]
PLAIN += ["optim.dropout=0", "optim.attention_dropout=0"]


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


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("optim.dropout=1.5", "optim.dropout"),
        ("model.heads=0", "model.heads"),
        ("attention.layers=[0, -1]", "attention.layers"),
        ("kind=both", "ar, nar, reranker"),
        ("max_minutes=0", "max_steps or max_minutes"),
    ],
)
def test_a_wrong_recipe_is_refused_before_training(override, key, corpus, tmp_path, capsys):
    with pytest.raises(ValueError, match=key):
        load_lm_recipe("ar", [override])
    run = ["train", "ar", "--data", str(corpus), "--out", str(tmp_path / "run"), "--set", override]
    assert main(run) == 1
    assert key in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_held_out_rows_are_not_trained_on(tmp_path):
    write_corpus(tmp_path / "big", rows=480, longest=1)
    train, held_out = read_clips([tmp_path / "big"])
    assert [clip.id for clip in held_out] == ["toy478"] and len(train) == 479  # by a hash of the id


def test_training_text_is_inference_text(tmp_path):
    """With and without times, for any aligned pronunciation."""
    texts = [
        "Hello, world - at 5 a.m. it's 'fine'!",
        "A well-known half-truth -- twice; see p. 12: yes?",
        "The blorptz paid $5.50... and 'tis so, isn't it?",
    ]
    texts += ["THE READ OF THE OFTEN TOMATO", "A mat, and the dog!"]
    write_corpus(tmp_path / "c", rows=len(texts), texts=texts)
    path = tmp_path / "c" / "alignments.jsonl"
    unknown = [
        [word, 0, 20, [["ZH", 0, 10], ["OY", 10, 10]]] for word in "the read of often a mat dog".split()
    ]
    wanted = {pronounce_text(normalise(text)) for text in texts}
    timed = "".join(json.dumps({"id": f"toy{i}", "words": unknown}) + "\n" for i in range(len(texts)))
    for lines in ("", timed):
        path.write_text(lines)
        train, held_out = read_clips([tmp_path / "c"])
        assert {render(clip, np.random.default_rng(0), 0.0, 0.0)[0] for clip in train + held_out} == wanted


def test_a_teachers_times_are_spread_over_our_phonemes(tmp_path):
    """Symbols and words of the teacher differ, and punctuation matches the phrases."""
    write_corpus(tmp_path / "c", rows=1, texts=["The cat, of course, sat."], longest=1)
    said = [*"ðə kˈæt, ʌvkˈɔɹs, sæt."]
    frames = read_clips([tmp_path / "c"])[0][0].frames
    step = frames / 50 / len(said)
    timed = [[symbol, i * step, (i + 1) * step] for i, symbol in enumerate(said)]
    (tmp_path / "c" / "alignments.jsonl").write_text(
        json.dumps({"file_name": "toy0", "phonemes": timed}) + "\n"
    )
    [clip] = read_clips([tmp_path / "c"])[0]
    text, spoken = render(clip, np.random.default_rng(0), 0.0, 0.0)
    assert text == pronounce_text(normalise("The cat, of course, sat.")) and spoken is not None
    assert (np.diff(spoken) >= 0).all()
    words = [text[: i + 1].count(" ") for i in spoken]
    for word, symbols in ((0, (0, 2)), (1, (3, 7)), (2, (9, 11)), (4, (18, 21))):
        inside = [w for t, w in enumerate(words) if symbols[0] * step < (t + 0.5) / 50 < symbols[1] * step]
        assert set(inside) <= ({2, 3} if word == 2 else {word})


def test_recordings_are_aligned(tmp_path, make_speech, capsys):
    pytest.importorskip("pocketsphinx")
    save_audio(tmp_path / "a.wav", make_speech(1.5, seed=1), 16_000)
    (tmp_path / "b.wav").write_text("no sound")
    rows = ["file_name,transcription", "a.wav,The blorptz.", "b.wav,Hello.", "c.wav,"]
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    assert align_folder([str(tmp_path), str(tmp_path / "words.jsonl"), "--workers", "1"]) == 0
    first, second = map(json.loads, (tmp_path / "words.jsonl").read_text().splitlines())
    assert (first["id"], second["id"]) == ("a.wav", "b.wav") and "b.wav" in second["fail"]
    phones = {word: [phone[0] for phone in parts] for word, _, _, parts in first["words"]}
    assert phones["blorptz"][:2] == ["B", "L"]  # not in the dictionary
    assert capsys.readouterr().out == "1 aligned, 1 not\n"


def test_clips_are_rows_whose_frames_point_at_their_phoneme(corpus, clips):
    rows = {row["id"]: row for row in PreparedCorpus(corpus)}
    for clip in clips:
        assert np.array_equal(clip.codes, rows[clip.id]["codes"].numpy())
        text, spoken = render(clip, np.random.default_rng(0), 0.0, 0.0)
        assert spoken is not None and len(spoken) == clip.frames
        said = hear(clip.codes[0])
        turns = [text[i] for i, before in zip(spoken, [-1, *spoken], strict=False) if i != before]
        assert "".join(turns) == said == "".join(c for c in text if c not in " .")
        letters, spelt = render(clip, np.random.default_rng(0), 1.0, 1.0)
        assert letters == " ".join(word.letters for word in clip.words)
        assert spelt is not None and (np.diff(spelt) >= 0).all() and spelt[0] == 0


def test_rows_that_cannot_be_used_are_left_out(corpus, tmp_path):
    write_corpus(tmp_path / "de", rows=2, language="de")
    with pytest.raises(ValueError, match="English"):
        read_clips([tmp_path / "de"])
    write_corpus(tmp_path / "en", rows=8)
    few = read_clips([tmp_path / "en"], max_seconds=0.5)[0]
    assert all(clip.frames <= 25 for clip in few)
    with pytest.raises(FileNotFoundError, match="missing"):
        read_clips([tmp_path / "en"], [tmp_path / "missing.jsonl"])
    write_corpus(tmp_path / "other", rows=4, fingerprint="0ther0c0dec00000")
    with pytest.raises(ValueError, match="0ther0c0dec00000"):
        read_clips([corpus, tmp_path / "other"])


def test_prompts_are_other_clips_of_the_speaker_punctuated_or_not(tmp_path):
    """LibriSpeech has capitals and no punctuation."""
    texts = [f"THE {word} SAT ON A MAT" for word in "CAT DOG SHIP HOUSE SKY TOWN MAN BOX".split()]
    write_corpus(tmp_path / "c", rows=8, texts=texts, longest=6, speaker="1089", shortest=4)
    train, held_out = read_clips([tmp_path / "c"])
    clips = [replace(clip, speaker=("1089", "1188")[i % 2]) for i, clip in enumerate(train + held_out)]
    plan = plan_epoch(clips, DataRecipe(prompted=1.0), 0, 0, FRAME_RATE)
    pairs = [pair for batch in plan for pair in batch]
    assert sorted(i for i, _ in pairs) == list(range(8)) and all(prompt >= 0 for _, prompt in pairs)
    for index, prompt in pairs:
        clip, before = clips[index], clips[prompt]
        assert prompt != index and before.speaker == clip.speaker
        both = join(before, clip)
        assert both.voice == OTHER_VOICE and both.frames == before.frames + clip.frames
        assert np.array_equal(both.codes, np.concatenate([before.codes, clip.codes], axis=1))
        text = render(both, np.random.default_rng(0), 0.0, 0.0)[0]
        assert text == " ".join(render(c, np.random.default_rng(0), 0.0, 0.0)[0] for c in (before, clip))
    some = plan_epoch(clips * 8, DataRecipe(prompted=0.3), 0, 0, FRAME_RATE)
    share = np.mean([prompt >= 0 for batch in some for _, prompt in batch])
    assert 0.1 < share < 0.5
    tight = DataRecipe(prompted=1.0, max_seconds=clips[0].frames / FRAME_RATE + 0.1)
    assert all(prompt < 0 for batch in plan_epoch(clips, tight, 0, 0, FRAME_RATE) for _, prompt in batch)


# ---- batches


@pytest.mark.parametrize("epoch", [0, 1])
def test_the_plan_of_an_epoch(clips, epoch):
    data = DataRecipe(batch_tokens=400, curriculum_epochs=1.5, prompted=0.5)
    plan, again, other = (plan_epoch(clips, data, seed, epoch, FRAME_RATE) for seed in (1, 1, 2))
    assert plan == again != other
    assert sorted(i for batch in plan for i, _ in batch) == list(range(len(clips)))
    longest = []
    for batch in plan:
        sizes = [clips[i].positions + (clips[p].positions if p >= 0 else 0) for i, p in batch]
        assert len(batch) == 1 or len(batch) * max(sizes) <= 400
        longest.append(max(sizes))
    weighted = plan_epoch(clips, DataRecipe(weights={"kathleen": 2.5}), 0, epoch, FRAME_RATE)
    assert 2 * len(clips) < sum(map(len, weighted)) < 3 * len(clips)
    if epoch == 0:
        assert np.corrcoef(longest, range(len(longest)))[0, 1] > 0.9


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
    unnamed = [replace(clip, speaker="") for clip in clips]  # of anyone
    batch = NarTask(recipe("nar"), toy_tokenizer(), unnamed).collate(unnamed, np.random.default_rng(0), True)
    assert not batch["prompt_mask"].any()


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
    assert type(grown) is LlamaForCausalLM and grown.config.vocab_size == tokenizer.padded_vocab_size
    assert grown.config.pad_token_id == tokenizer.control_id("pad")
    with torch.no_grad():  # used rows come back bit for bit
        assert torch.equal(grown.lm_head.weight[words.used], full.lm_head.weight[words.used])


def test_the_attention_that_is_scored_is_the_models():
    layers = (0, 2)
    torch.manual_seed(0)
    tokenizer = toy_tokenizer()
    model = build_ar(tokenizer, FRAME_RATE, 32, 3, 4, 48)
    loud(model)
    ids = torch.randint(tokenizer.padded_vocab_size, (2, 25))
    before = model(ids, use_cache=False).logits
    supervision = AttentionSupervision(model, layers)
    model.train()
    after = model(ids, use_cache=False).logits
    assert torch.equal(before, after)
    targets = torch.full((2, 25), -1)
    targets[0, 10:20] = torch.arange(10)
    targets[1, 5:9] = torch.tensor([0, 0, 1, 4])
    loss, mass = supervision.loss(targets)

    model.eval()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        seen = model(ids, use_cache=False, output_attentions=True).attentions
    wanted = []
    for row, query in (targets >= 0).nonzero().tolist():
        at = int(targets[row, query])
        wanted.append(torch.stack([seen[layer][row, 0, query, at] for layer in layers]))
    probabilities = torch.stack(wanted)
    assert torch.allclose(loss, -probabilities.log().mean(), atol=1e-4)
    assert torch.allclose(mass, probabilities.mean(), atol=1e-5)
    loss.backward()
    assert model.model.layers[2].self_attn.q_proj.weight.grad.abs().sum() > 0
    model.train()
    model(ids, use_cache=False)
    assert [value.item() for value in supervision.loss(torch.full((2, 25), -1))] == [0, 0]
    with pytest.raises(ValueError, match="attention.layers"):
        AttentionSupervision(model, (3,))


@pytest.mark.parametrize("kind", ["dropout", "attention_dropout"])
def test_dropout_is_active_in_training_and_only_there(kind, clips, tmp_path):
    def losses_of(task: ArTask) -> list[float]:
        batch = task.collate(clips[:2], np.random.default_rng(0), training=False)
        out = []
        for seed in (0, 1):
            torch.manual_seed(seed)
            out.append(float(task.loss(task.model, batch)[0].detach()))
        return out

    torch.manual_seed(0)
    start = build_ar(toy_tokenizer(), FRAME_RATE, 32, 2, 2, 48)
    loud(start, 4.0)
    plain = ArTask(recipe("ar", "attention.weight=0"), toy_tokenizer(), FRAME_RATE, start)
    task = ArTask(recipe("ar", "attention.weight=0", f"optim.{kind}=0.3"), toy_tokenizer(), FRAME_RATE, start)
    wanted = losses_of(plain)
    assert wanted[0] == wanted[1]
    task.model.train()
    noisy = losses_of(task)
    assert noisy[0] != noisy[1] and abs(noisy[0] - wanted[0]) > 1e-4
    task.model.eval()
    assert losses_of(task) == pytest.approx(wanted, abs=1e-5)
    assert task.model.state_dict().keys() == plain.model.state_dict().keys()
    task.export(task.model, tmp_path / "ar")
    opened = AutoModelForCausalLM.from_pretrained(tmp_path / "ar")
    assert type(opened) is LlamaForCausalLM and opened.state_dict().keys() == start.state_dict().keys()


# ---- whole runs


def test_the_ar_model_memorises_a_toy_corpus(tmp_path):
    texts = write_corpus(tmp_path / "c", rows=6, longest=3)
    settings = recipe("ar", "max_steps=110", "optim.lr=8e-3", "optim.ema=0.9", "log_every=50")
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
    looks = losses(tmp_path / "run", "ar/attention_mass")
    assert looks[-1] > 0.8 and looks[-1] > 1.5 * looks[0]


def test_the_nar_model_learns_the_levels(corpus, clips, tmp_path):
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
    """Simulates a kill."""


@pytest.mark.parametrize("kind", ["ar", "nar"])
def test_a_stopped_run_resumes_to_the_same_model(kind, corpus, tmp_path, monkeypatch):
    noise = ["optim.token_noise=0.1", "data.spell=0.3", "optim.dropout=0.2", "optim.attention_dropout=0.1"]
    settings = recipe(kind, "max_steps=9", "data.batch_tokens=900", "data.prompted=0.5", *noise)
    whole = train_lm(settings, [corpus], tmp_path / "whole", device="cpu")
    expected = losses(tmp_path / "whole", f"{kind}/loss")

    save = TtsTrainer.save

    def stopping(self: TtsTrainer) -> None:
        save(self)
        if self.step == 5:
            raise Stop

    monkeypatch.setattr(TtsTrainer, "save", stopping)
    with pytest.raises(Stop):
        train_lm(replace(settings, save_minutes=1e-9), [corpus], tmp_path / "cut", device="cpu")
    monkeypatch.undo()
    cut = train_lm(settings, [corpus], tmp_path / "cut", device="cpu")
    np.testing.assert_allclose(losses(tmp_path / "cut", f"{kind}/loss"), expected, atol=1e-4)
    assert len(expected) == 9
    kind_of = LlamaForCausalLM if kind == "ar" else NarModel
    ends = [kind_of.from_pretrained(folder).state_dict() for folder in (whole, cut)]
    for name, tensor in ends[0].items():
        assert torch.allclose(tensor, ends[1][name], atol=1e-4), name


def test_a_run_that_was_killed_before_its_export_exports_and_one_of_another_size_is_refused(corpus, tmp_path):
    settings = recipe("nar", "max_steps=1")
    folder = train_lm(settings, [corpus], tmp_path / "run", device="cpu")
    (folder / "model.safetensors").unlink()
    train_lm(settings, [corpus], tmp_path / "run", device="cpu")
    assert (folder / "model.safetensors").is_file() and len(losses(tmp_path / "run", "nar/loss")) == 1
    assert not list((tmp_path / "run").rglob("*.pt")) and not list((tmp_path / "run").rglob("*.pkl"))
    with pytest.raises(ValueError, match="another model"):
        train_lm(recipe("nar", "model.hidden_size=32"), [corpus], tmp_path / "run", device="cpu")


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_value_that_is_not_finite_stops_the_run_and_keeps_the_last_state(
    where, corpus, tmp_path, monkeypatch, capsys
):
    loss = NarTask.loss

    def spoilt(
        self: NarTask, model: Any, batch: dict[str, Any]
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        value, metrics = loss(self, model, batch)
        spoilt.calls += model.training
        if spoilt.calls == 3 and model.training:
            value = value * torch.inf if where == "loss" else value + (value - value.detach()).abs().sqrt()
        return value, metrics

    spoilt.calls = 0
    monkeypatch.setattr(NarTask, "loss", spoilt)
    sets = [
        f"--set={change}"
        for change in [*SMALL, *PLAIN, "data.batch_tokens=600", "max_steps=9", "save_minutes=1e-9"]
    ]
    run = ["train", "nar", "--data", str(corpus), "--out", str(tmp_path / "run"), "--device", "cpu", *sets]
    assert main(run) == 1
    assert "step 3" in capsys.readouterr().err
    kept = load_file(tmp_path / "run" / "state.safetensors")
    assert all(bool(tensor.isfinite().all()) for tensor in kept.values())
    assert json.loads((tmp_path / "run" / "log.jsonl").read_text().splitlines()[-1])["step"] == 2
    assert all(
        bool(p.isfinite().all()) for p in NarModel.from_pretrained(tmp_path / "run" / "model").parameters()
    )


def test_a_start_of_another_codec_is_refused(corpus, tmp_path):
    folder = train_lm(recipe("nar", "max_steps=1"), [corpus], tmp_path / "run", device="cpu")
    write_corpus(tmp_path / "other", rows=8, fingerprint="0ther0c0dec00000")
    with pytest.raises(ValueError, match=f"{FINGERPRINT}.*0ther0c0dec00000"):
        train_lm(recipe("nar"), [tmp_path / "other"], tmp_path / "no", init=folder, device="cpu")
