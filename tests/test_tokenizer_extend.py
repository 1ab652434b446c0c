"""Extended tokenizers: text keeps its ids, no text yields audio ids, and the folder opens everywhere."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import dill
import pytest
import torch
from tokenizer_families import FAMILIES, build_family, varied_strings
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from audiotok import AudioTextTokenizer, extend_tokenizer, resize_embeddings
from audiotok.tokens.tokenizer import CONTROL_TOKENS, audio_token, hidden_audio_token, hidden_control_token

SMALL = 1_000
FINGERPRINT = "0123456789abcdef"
each_family = pytest.mark.parametrize("family", FAMILIES)


def extended(family: str, size: int = SMALL, n_q: int = 4, codebook_size: int = 64) -> AudioTextTokenizer:
    base = build_family(family, size)
    return extend_tokenizer(base, n_q=n_q, codebook_size=codebook_size, codes_fingerprint=FINGERPRINT)


def forgeries(base: PreTrainedTokenizerFast) -> list[str]:
    """The names of audio tokens, of our control tokens in both spellings, and of the base's own specials."""
    names = [
        hidden_audio_token(0, 0),
        hidden_audio_token(3, 17),
        audio_token(0, 0),
        "<|a0  0|>",
        "<|a0\u00a00|>",
    ]
    names += [*map(hidden_control_token, CONTROL_TOKENS), *CONTROL_TOKENS.values()]
    return names + [token.content for token in base.added_tokens_decoder.values()][:40]


@each_family
def test_base_ids_are_unchanged(family: str) -> None:
    base, tok = build_family(family, SMALL), extended(family)
    for names, texts in (
        (False, varied_strings(100, [])),
        (True, varied_strings(100, forgeries(base), seed=1)),
    ):
        for options in ({}, {"add_special_tokens": False, "split_special_tokens": True}):
            if names and family == "t5" and options:
                continue  # the base recognises its special tokens here
            assert tok(texts, **options)["input_ids"] == base(texts, **options)["input_ids"]


@each_family
def test_no_forgery(family: str) -> None:
    base, tok = build_family(family, SMALL), extended(family)
    texts = forgeries(base)[::2] + varied_strings(30, forgeries(base), seed=2)
    forbidden = {i for i, token in tok.added_tokens_decoder.items() if token.special} - {tok.unk_token_id}
    for options in ({}, {"split_special_tokens": True}, {"add_special_tokens": False}):
        assert max(map(max, filter(None, tok(texts, **options)["input_ids"]))) < tok.control_offset
    template = tok.apply_chat_template([{"role": "user", "content": ""}], return_dict=False)
    for text in texts:
        ids = tok.encode_text(text)
        assert not forbidden.intersection(ids) and max(ids, default=0) < tok.control_offset
        if family not in ("llama2", "t5"):  # this tokenizer loses spaces and unknown characters
            normalizer = tok.backend_tokenizer.normalizer
            assert tok.decode(ids) == (normalizer.normalize_str(text) if normalizer else text)
        chat = tok.apply_chat_template([{"role": "user", "content": text}], return_dict=False)
        if tok.chat_template:
            assert max(chat) < tok.control_offset
            assert sum(i in forbidden for i in chat) == sum(i in forbidden for i in template)
        contained = any(chat[i : i + len(ids)] == ids for i in range(len(chat) - len(ids) + 1))
        assert contained or family == "llama3"  # its template trims


@each_family
def test_the_id_space(family: str) -> None:
    base, tok = build_family(family, SMALL), extended(family)
    size = max(base.get_vocab().values()) + 1
    assert (tok.control_offset, tok.audio_offset, len(tok)) == (size, size + 64, size + 64 + 4 * 64)
    assert tok.padded_vocab_size % 64 == 0
    codes = torch.randint(64, (4, 9))
    for layout in ("first", "flat", "delay", "coarse"):
        ids = tok.encode_audio(codes, layout)
        assert set(ids) <= {*range(tok.audio_offset, len(tok)), tok.control_id("fill")}
        assert torch.equal(tok.decode_audio(ids, layout), codes[:1] if layout == "first" else codes)
    assert (
        tok.encode_audio(codes, "coarse")
        == (codes + torch.arange(4)[:, None] * 64 + size + 64).flatten().tolist()
    )
    names = tok.convert_ids_to_tokens(list(range(size, len(tok))))
    assert len(set(names)) == len(names) and tok.convert_tokens_to_ids(names) == [*range(size, len(tok))]
    assert tok.special_tokens_map.items() >= base.special_tokens_map.items()
    assert (tok.padding_side, tok.chat_template) == (base.padding_side, base.chat_template)
    assert tok.pad_token_id is not None


# Model configs beside a tokenizer. transformers selects a tokenizer class by them and may convert the tokenizer.
MODEL_TYPES = {"gpt2": "gpt2", "llama3": "llama", "qwen2": "qwen2", "llama2": "mistral", "t5": "t5"}


@each_family
def test_opens_without_audiotok(family: str, tmp_path: Path, no_network: list) -> None:
    """AutoTokenizer gives the plain class and the same ids from a moved folder beside a model config."""
    tok = extended(family)
    tok.save_pretrained(tmp_path / "saved")
    moved = shutil.move(tmp_path / "saved", tmp_path / "moved")
    (moved / "config.json").write_text(json.dumps({"model_type": MODEL_TYPES[family]}))
    texts = forgeries(build_family(family, SMALL)) + varied_strings(60, [], seed=3)
    plain, again = AutoTokenizer.from_pretrained(moved), AudioTextTokenizer.from_pretrained(moved)
    assert "audiotok" not in type(plain).__module__
    for other in (plain, again):
        assert other(texts)["input_ids"] == tok(texts)["input_ids"]
        assert other.convert_ids_to_tokens(tok.audio_offset + 70) == hidden_audio_token(1, 6)
    assert again.encode_audio(torch.tensor([[3]])) == tok.encode_audio(torch.tensor([[3]]))
    again.save_pretrained(tmp_path / "twice")
    for file in (tmp_path / "twice").iterdir():
        assert file.read_bytes() == (moved / file.name).read_bytes()
    assert not no_network


@each_family
def test_transformers_conventions(family: str) -> None:
    tok = extended(family)
    texts = ["Hello there, how are you?", "hi"]
    for duplicate in (
        copy.deepcopy,
        lambda t: pickle.loads(pickle.dumps(t)),
        lambda t: dill.loads(dill.dumps(t)),
    ):
        other = duplicate(tok)  # dill: datasets
        assert other(texts)["input_ids"] == tok(texts)["input_ids"]
        assert other.encode_audio([[1], [2]]) == tok.encode_audio([[1], [2]])
        assert other.apply_chat_template([{"role": "user", "content": "x"}], return_dict=False)
    for side in ("left", "right"):
        batch = tok(texts, padding=True, padding_side=side, return_tensors="pt", return_offsets_mapping=True)
        assert batch["input_ids"].shape == batch["attention_mask"].shape == batch["offset_mapping"].shape[:2]
        short = len(tok(texts[1])["input_ids"])
        row = batch["input_ids"][1].tolist()
        assert (row[-short:] if side == "left" else row[:short]) == tok(texts[1])["input_ids"]
        assert int(batch["attention_mask"][1].sum()) == short
    assert tok(texts[0], truncation=True, max_length=3)["input_ids"].__len__() == 3
    ids = [tok.encode_text(text) for text in texts]
    assert tok.batch_decode(ids) == [tok.decode(row) for row in ids] == texts
    mixed = [tok.control_id("audio_start"), *tok.encode_audio([[1]]), tok.control_id("audio_end"), *ids[1]]
    assert tok.decode(mixed, skip_special_tokens=True) == "hi" and "<|a0 1|>" in tok.decode(mixed)
    assert tok.batch_decode([mixed], skip_special_tokens=True) == ["hi"]


MODELS = {
    "llama": lambda v: LlamaForCausalLM(
        LlamaConfig(
            vocab_size=v, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2
        )
    ),
    "gpt2": lambda v: GPT2LMHeadModel(GPT2Config(vocab_size=v, n_embd=32, n_layer=1, n_head=2)),
    "t5": lambda v: T5ForConditionalGeneration(
        T5Config(vocab_size=v, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2)
    ),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("spare", [0, 500], ids=["exact", "with spare rows"])
def test_new_rows(make: Callable, spare: int) -> None:
    tok = extended("gpt2")
    torch.manual_seed(0)
    model, other = (make(tok.control_offset + spare) for _ in range(2))
    before = model.get_input_embeddings().weight.detach().clone()
    with torch.no_grad():
        other.get_input_embeddings().weight.copy_(before)
    resize_embeddings(model, tok)
    resize_embeddings(other, tok)
    rows = model.get_input_embeddings().weight
    text, new = rows[: tok.control_offset], rows[tok.control_offset :]
    assert len(rows) == max(tok.padded_vocab_size, tok.control_offset + spare) and len(rows) >= len(tok)
    assert torch.equal(text, before[: tok.control_offset]) and model.config.vocab_size == len(rows)
    assert len(torch.unique(new, dim=0)) == len(new) and torch.allclose(new.std(0), text.std(0), rtol=0.35)
    assert torch.equal(other.get_input_embeddings().weight, rows)
    output = model.get_output_embeddings().weight.detach()
    if output is not rows and not torch.equal(output, rows):  # the output starts near the mean
        text, new = output[: tok.control_offset], output[tok.control_offset :]
        assert float((new - text.mean(0)).std()) < 0.2 * float((text - text.mean(0)).std())
    with pytest.raises(ValueError, match="10"):
        resize_embeddings(make(10), tok)


def test_gaps_and_added_tokens_of_the_base() -> None:
    """Gaps in the base's ids stay unused, and its added tokens keep their ids."""
    vocab = {"a": 0, "b": 1, "\u0120": 2, "ab": 7}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[("a", "b")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base = PreTrainedTokenizerFast(tokenizer_object=backend)
    base.add_tokens(["<think>"])
    ids = base("ab<think> a")["input_ids"]
    tok = extend_tokenizer(base, n_q=1, codebook_size=4, codes_fingerprint=FINGERPRINT)
    assert tok("ab<think> a")["input_ids"] == ids and tok.control_offset == max(base.get_vocab().values()) + 1


def whole_words(pre_tokenizer: object) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "hello": 1}, unk_token="[UNK]"))
    if pre_tokenizer is not None:
        backend.pre_tokenizer = pre_tokenizer
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


def test_refusals(tmp_path: Path) -> None:
    facts = {"n_q": 1, "codebook_size": 4, "codes_fingerprint": FINGERPRINT}
    tok = extend_tokenizer(whole_words(pre_tokenizers.Whitespace()), **facts)
    assert tok("hello <|a0 0|>")["input_ids"][0] == 1 and max(tok("hello <|a0 0|>")["input_ids"]) == 1
    for leaves_spaces in (None, pre_tokenizers.Split("\n", "isolated")):
        with pytest.raises(ValueError, match="audio id"):
            extend_tokenizer(whole_words(leaves_spaces), **facts)
    with pytest.raises(ValueError, match="AudioTextTokenizer.from_pretrained"):
        extend_tokenizer(tok, **facts)
    with pytest.raises(ValueError, match="codec"):
        extend_tokenizer(build_family("gpt2", SMALL), n_q=2)
    with pytest.raises(TypeError, match="object"):
        extend_tokenizer(object(), **facts)
    build_family("gpt2", SMALL).save_pretrained(tmp_path)
    assert (
        extend_tokenizer(tmp_path, **facts)("hi")["input_ids"]
        == build_family("gpt2", SMALL)("hi")["input_ids"]
    )
