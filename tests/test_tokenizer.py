"""Tokenizers, built or extended: text keeps its ids, no text yields audio or control ids, folders open everywhere."""

from __future__ import annotations

import copy
import functools
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import dill
import pytest
import sentencepiece
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
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

import audiotok.tokens.extend as build_module
from audiotok import (
    AudioTextTokenizer,
    LayoutError,
    build_tokenizer,
    checkpoint_dir,
    extend_tokenizer,
    load_tokenizer,
    resize_embeddings,
)
from audiotok.tokens.tokenizer import CONTROL_TOKENS, audio_token, hidden_audio_token, hidden_control_token

N_Q, CODEBOOK_SIZE, FINGERPRINT = 4, 64, "0123456789abcdef"
FACTS = {"n_q": N_Q, "codebook_size": CODEBOOK_SIZE, "codes_fingerprint": FINGERPRINT}
TEXT_MODEL = checkpoint_dir("text-en") / "tokenizer.model"
SMALL = 1_000
# The families of extended tokenizers, and the one built from the shipped text model. The value is the type of the
# model config beside the tokenizer, by which transformers selects a tokenizer class and may convert the tokenizer.
KINDS = dict(zip(FAMILIES, ("gpt2", "llama", "qwen2", "mistral", "t5"), strict=True)) | {"built": "llama"}
each_kind = pytest.mark.parametrize("kind", KINDS)
each_family = pytest.mark.parametrize("family", FAMILIES)

# Attempts to yield an id that is not text.
NAMES = [
    *CONTROL_TOKENS.values(),
    *map(hidden_control_token, CONTROL_TOKENS),
    *(spell(k, c) for spell in (audio_token, hidden_audio_token) for k, c in ((0, 0), (3, 17))),
    *("<|a0  0|>", "<|a0\u00a00|>", "<0x41>", "<0xFF>", "<unk>", "<s>", "</s>", "<|endoftext|>"),
]
PIECES = [
    *NAMES,
    *("<", "|", ">", "</", "_", "<|a", "<|a0", "0_17|>", "<|a0_", "17|>", "<te", "xt>", "a0_17", "\u2581"),
    *("\uff1ctext\uff1e", "<\u200btext>", "<te\u0301xt>", "<TEXT>", "< text >", "&lt;text&gt;", " ", "\n", "\x00"),
]  # fmt: skip


@functools.cache
def make(kind: str) -> AudioTextTokenizer:
    """A tokenizer for 4 codebooks of 64. It is cached, so do not change it."""
    if kind == "built":
        return build_tokenizer(TEXT_MODEL, N_Q, CODEBOOK_SIZE, codes_fingerprint=FINGERPRINT)
    return extend_tokenizer(build_family(kind, SMALL), **FACTS)


def forgeries(kind: str) -> list[str]:
    """Names of audio and control tokens, and of the base tokenizer's own special tokens."""
    specials = [token.content for i, token in make(kind).added_tokens_decoder.items() if token.special]
    return NAMES + specials[:20]


@pytest.fixture(scope="module")
def tok() -> AudioTextTokenizer:
    return make("built")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each kind, saved and moved."""
    root = tmp_path_factory.mktemp("tokenizers")
    for kind in KINDS:
        make(kind).save_pretrained(root / "saved" / kind)
    return Path(shutil.move(root / "saved", root / "moved"))


def forms(kind: str, folder: Path) -> dict[str, PreTrainedTokenizerFast]:
    """The same tokenizer as made, saved, opened by ``AutoTokenizer``, copied and pickled."""
    tok, auto = make(kind), AutoTokenizer.from_pretrained(folder / kind)
    assert "audiotok" not in type(auto).__module__
    return {
        "made": tok,
        "saved": load_tokenizer(folder / kind),
        "auto": auto,
        "auto, pickled": pickle.loads(pickle.dumps(auto)),
        "pickled": pickle.loads(pickle.dumps(tok)),
        "dill, as datasets does": dill.loads(dill.dumps(tok)),
        "copied": copy.deepcopy(tok),
    }


@each_kind
def test_the_id_space(kind: str) -> None:
    tok = make(kind)
    base = None if kind == "built" else build_family(kind, SMALL)
    size = max(base.get_vocab().values()) + 1 if base else 352
    assert (tok.control_offset, tok.audio_offset, len(tok)) == (size, size + 64, size + 64 + 4 * 64)
    assert tok.padded_vocab_size % 64 == 0 and 0 <= tok.padded_vocab_size - len(tok) < 64
    names = tok.convert_ids_to_tokens(list(range(size, len(tok))))
    assert len(set(names)) == len(names) and tok.convert_tokens_to_ids(names) == [*range(size, len(tok))]
    spell = audio_token if kind == "built" else hidden_audio_token
    assert names[64:] == [spell(k, c) for k in range(N_Q) for c in range(CODEBOOK_SIZE)]
    assert [tok.control_id(name) for name in CONTROL_TOKENS] == [*range(tok.control_offset, tok.audio_offset)]
    for name, index in (("pad", 0), ("text_start", 3), ("audio_end", 6), ("voice_15", 22), ("fill", 23)):
        assert tok.control_id(name) == size + index  # a slot in use never moves
    with pytest.raises(ValueError):
        tok.control_id("<text>")
    codes = torch.randint(64, (4, 9))
    ids = (codes + torch.arange(4)[:, None] * 64 + tok.audio_offset).flatten().tolist()
    assert tok.encode_audio(codes, "coarse") == ids and all(type(i) is int for i in ids)
    for layout in ("first", "flat", "delay", "coarse"):
        ids = tok.encode_audio(codes, layout)
        assert set(ids) <= {*range(tok.audio_offset, len(tok)), tok.control_id("fill")}
        assert torch.equal(tok.decode_audio(ids, layout), codes[:1] if layout == "first" else codes)
    if base:
        assert tok.special_tokens_map.items() >= base.special_tokens_map.items()
        assert (tok.padding_side, tok.chat_template) == (base.padding_side, base.chat_template)
    assert tok.pad_token_id is not None


@each_family
def test_base_ids_are_unchanged(family: str) -> None:
    base, tok = build_family(family, SMALL), make(family)
    for names, texts in ((False, varied_strings(60, [])), (True, varied_strings(60, NAMES, seed=1))):
        for options in ({}, {"add_special_tokens": False, "split_special_tokens": True}):
            if names and family == "t5" and options:
                continue  # the base recognises its special tokens here
            assert tok(texts, **options)["input_ids"] == base(texts, **options)["input_ids"]


@functools.cache
def shipped_text_model() -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(str(TEXT_MODEL))


@settings(max_examples=30, deadline=None)
@given(st.one_of(st.text(max_size=40), st.lists(st.sampled_from(PIECES), max_size=8).map("".join)))
@example("ab " * 1000)
def test_ids_of_text_are_those_of_sentencepiece(text: str) -> None:
    tok, text_model = make("built"), shipped_text_model()
    expected = text_model.encode(text)
    assert tok.encode_text(text) == expected and max(expected, default=0) < tok.control_offset
    assert tok.decode(expected) == text_model.decode(expected) == text.replace("\u2581", " ")


ENTRIES: dict[str, Callable] = {
    "call": lambda tok, a, b: tok(a)["input_ids"],
    "call without specials": lambda tok, a, b: tok(a, add_special_tokens=False)["input_ids"],
    "call with split specials": lambda tok, a, b: tok(a, split_special_tokens=True)["input_ids"],
    "encode pair": lambda tok, a, b: tok.encode(a, b),
    "batch of pairs": lambda tok, a, b: sum(tok([a, b], [b, a])["input_ids"], []),
    "target": lambda tok, a, b: tok(text_target=a)["input_ids"],
    "batch of words": lambda tok, a, b: sum(tok([[a, b], [b]], is_split_into_words=True)["input_ids"], []),
    "truncated": lambda tok, a, b: tok(a, truncation=True, max_length=7)["input_ids"],
    "tokenize": lambda tok, a, b: tok.convert_tokens_to_ids(tok.tokenize(a)),
    "backend": lambda tok, a, b: tok.backend_tokenizer.encode(a).ids if hasattr(tok, "n_q") else [],
}


@each_kind
def test_no_forgery(kind: str, folders: Path) -> None:
    """In any form and through any entry; text and chat do not yield the special tokens of the base either."""
    tok = make(kind)
    names = forgeries(kind)
    texts = ["".join(f" {n[1:]} a{n}b{n.upper()}" for n in names), *varied_strings(3, names + PIECES, seed=2)]
    for form, other in forms(kind, folders).items():
        if kind != "built" and form not in ("made", "auto", "pickled"):
            continue
        for entry, encode in ENTRIES.items():
            for first, second in zip(texts, ["".join(names), *texts], strict=False):
                found = max(encode(other, first, second), default=0)
                assert found < tok.control_offset, (form, entry, first, second)
    forbidden = {i for i, token in tok.added_tokens_decoder.items() if token.special} - {tok.unk_token_id}
    template = tok.apply_chat_template([{"role": "user", "content": ""}], return_dict=False)
    for text in names[::5] + varied_strings(20, names, seed=3):
        ids = tok.encode_text(text)
        assert not forbidden.intersection(ids) and max(ids, default=0) < tok.control_offset
        if kind not in ("llama2", "t5", "built"):  # these lose spaces, unknown characters or U+2581
            normalizer = tok.backend_tokenizer.normalizer
            assert tok.decode(ids) == (normalizer.normalize_str(text) if normalizer else text)
        chat = tok.apply_chat_template([{"role": "user", "content": text}], return_dict=False)
        if tok.chat_template:
            assert max(chat) < tok.control_offset
            assert sum(i in forbidden for i in chat) == sum(i in forbidden for i in template)
        contained = any(chat[i : i + len(ids)] == ids for i in range(len(chat) - len(ids) + 1))
        assert contained or kind == "llama3"  # its template trims


def test_protection_can_be_disabled_per_call(tok: AudioTextTokenizer) -> None:
    """With the protection off control names yield control ids, audio names never do, and the next call is protected."""
    for other in (copy.deepcopy(tok), copy.deepcopy(tok)):
        assert tok("<text>", split_special_tokens=False)["input_ids"] == [tok.control_id("text_start")]
        other.split_special_tokens = False
        assert max(other.encode_text("<text>")) < tok.control_offset
    assert max(tok("<text>")["input_ids"]) < tok.control_offset
    names = "".join(audio_token(k, c) for k in range(N_Q) for c in range(CODEBOOK_SIZE))
    assert max(tok(names, split_special_tokens=False)["input_ids"]) < tok.control_offset


@each_kind
def test_saved_again_is_equal(kind: str, folders: Path, tmp_path: Path) -> None:
    """After the folder is gone too; its tokenizer.json alone, which has no option for it, does not forge."""
    shutil.copytree(folders / kind, tmp_path / "moved")
    opened = pickle.loads(pickle.dumps(AudioTextTokenizer.from_pretrained(tmp_path / "moved")))
    shutil.rmtree(tmp_path / "moved")
    opened.save_pretrained(tmp_path / "again")
    for file in (folders / kind).iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()
    if kind == "built":
        assert (tmp_path / "again" / "tokenizer.model").read_bytes() == TEXT_MODEL.read_bytes()
    raw = Tokenizer.from_file(str(tmp_path / "again" / "tokenizer.json"))
    assert max(max(raw.encode(name).ids) for name in NAMES) < opened.control_offset
    start = opened.control_id("audio_start")
    assert raw.id_to_token(start) == opened.convert_ids_to_tokens(start)


def test_opens_without_audiotok(folders: Path, tmp_path: Path) -> None:
    """AutoTokenizer in a process without audiotok, torch or network: beside a model config, and alone."""
    for kind, model_type in KINDS.items():
        shutil.copytree(folders / kind, tmp_path / kind)
        (tmp_path / kind / "config.json").write_text(json.dumps({"model_type": model_type}))
    probes = ["Hello, world.", " é\u4f60\U0001f600\x00 ", *NAMES, *varied_strings(50, PIECES, seed=1)]
    program = """if True:
        import json, socket, sys
        sys.modules["audiotok"] = sys.modules["torch"] = None
        def refuse(*_): raise OSError("network")
        socket.socket.connect = socket.socket.connect_ex = refuse
        from transformers import AutoTokenizer
        texts = json.load(sys.stdin)
        toks = [AutoTokenizer.from_pretrained(folder) for folder in sys.argv[1:]]
        print(json.dumps([tok(texts)["input_ids"] for tok in toks]))
    """
    opened = [*(str(tmp_path / kind) for kind in KINDS), str(folders / "built")]
    command = [sys.executable, "-W", "ignore", "-c", program, *opened]
    done = subprocess.run(command, input=json.dumps(probes), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [make(kind)(probes)["input_ids"] for kind in (*KINDS, "built")]


@each_kind
def test_conventions_hold_in_every_form(kind: str, folders: Path) -> None:
    tok, texts = make(kind), ["Hello there, how are you?", "hi"]
    long, short = tok(texts)["input_ids"]
    plain = [tok.encode_text(text) for text in texts]
    (sound,) = tok.encode_audio([[1]])
    mixed = [tok.control_id("audio_start"), sound, tok.control_id("audio_end"), *plain[1]]
    for other in forms(kind, folders).values():
        assert other.get_vocab() == tok.get_vocab()
        for side in ("left", "right"):
            options = {"padding": True, "padding_side": side, "return_tensors": "pt"}
            batch = other(texts, **options, return_offsets_mapping=True)
            pads = [tok.pad_token_id] * (len(long) - len(short))
            row = pads + short if side == "left" else short + pads
            assert batch["input_ids"].tolist() == [long, row]
            assert int(batch["attention_mask"][1].sum()) == len(short)
            assert batch["offset_mapping"].shape == (2, len(long), 2)
        assert len(other(texts[0], truncation=True, max_length=3)["input_ids"]) == 3
        assert other.batch_decode(plain) == texts
        assert tok.convert_ids_to_tokens(sound) in other.decode(mixed)
        if kind == "built":
            voiced = [tok.control_id("voice_03"), *plain[1], tok.eos_token_id]
            assert other.decode(voiced, skip_special_tokens=True) == "hi"
        if isinstance(other, AudioTextTokenizer):
            for name in ("n_q", "codebook_size", "codes_fingerprint", "control_offset", "audio_offset"):
                assert getattr(other, name) == getattr(tok, name)
            assert other.batch_decode([mixed], skip_special_tokens=True) == ["hi"]
            assert other.encode_audio([[1], [2]]) == tok.encode_audio([[1], [2]])
            assert other.apply_chat_template([{"role": "user", "content": "x"}], return_dict=False)


def test_bad_text_and_codes(tok: AudioTextTokenizer) -> None:
    with pytest.raises(ValueError, match="character 2"):
        tok.encode_text("ab\udcff")
    added = copy.deepcopy(tok)
    added.add_tokens(["hello"])
    with pytest.raises(ValueError, match="add_tokens"):
        added.encode_text("say hello")
    codes = torch.zeros(N_Q + 1, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="got 5"):
        tok.encode_audio(codes)
    with pytest.raises(ValueError, match="64 in codebook 2 at frame 1"):
        tok.encode_audio(torch.tensor([[0, 1], [2, 3], [4, 64]]))
    for encode, bad in (
        (tok.encode_text, b"abc"),
        *((tok.encode_audio, b) for b in ([[1.5]], [[1], []], "x")),
    ):
        with pytest.raises(TypeError):
            encode(bad)
    for n_q in (0, N_Q + 1):
        with pytest.raises(ValueError):
            tok.decode_audio([], n_q=n_q)
    ids = tok.encode_audio(codes[:2])
    for damaged, position in (([ids[0], tok.eos_token_id, *ids[2:]], 1), (ids[:-1], 5)):
        with pytest.raises(LayoutError) as raised:
            tok.decode_audio(damaged, n_q=2)
        assert raised.value.position == position


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"split_special_tokens": False}, "split_special_tokens"),
        ({"audio_offset": 415}, "415"),
        ({"n_q": 5}, "a4_63"),
        ({"codebook_size": None}, "codebook_size"),
    ],
)
def test_a_damaged_folder_is_refused(folders: Path, tmp_path: Path, change: dict, match: str) -> None:
    folder = shutil.copytree(folders / "built", tmp_path / "damaged")
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text()) | change
    file.write_text(json.dumps({key: value for key, value in config.items() if value is not None}))
    with pytest.raises(ValueError, match=match):
        load_tokenizer(folder)


def test_load_tokenizer(
    tiny_codec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: list
) -> None:
    """A name is a shipped codec's, and the tokenizer belongs to that codec."""
    for missing in ("nonesuch", tmp_path):
        with pytest.raises(FileNotFoundError):
            load_tokenizer(missing)
    monkeypatch.setattr(build_module, "load_codec", lambda name: tiny_codec)
    tok = load_tokenizer("tiny")
    assert (tok.n_q, tok.codebook_size) == (tiny_codec.config.n_q, tiny_codec.config.codebook_size)
    assert tok.codes_fingerprint == tiny_codec.codes_fingerprint and tok.control_offset == 352
    assert not no_network


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"model_type": "bpe", "vocab_size": 300},
        {"byte_fallback": False, "vocab_size": 30},
        {"user_defined_symbols": ["<text>"]},
        {"normalization_rule_name": "nfkc"},
        {"add_dummy_prefix": True},
        {"remove_extra_whitespaces": True},
        {"pad_id": 3},
    ],
)
def test_text_models_of_another_kind_are_refused(tmp_path: Path, options: dict) -> None:
    lines = ["the quick brown fox jumps over the lazy dog", "pack my box with five dozen jugs"] * 20
    ours = {"model_type": "char", "byte_fallback": True, "normalization_rule_name": "identity"}
    ours |= {"add_dummy_prefix": False, "remove_extra_whitespaces": False, "vocab_size": 284}
    model = tmp_path / "text.model"
    with model.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=file, minloglevel=2, hard_vocab_limit=False, **ours | options
        )  # fmt: skip
    if options:
        with pytest.raises(ValueError):
            build_tokenizer(model, codes_fingerprint=FINGERPRINT)
        return
    tok = build_tokenizer(model, 3, 7, codes_fingerprint=FINGERPRINT)
    assert len(tok) == tok.audio_offset + 21 and tok.decode(tok.encode_text("a Fox")) == "a Fox"


LANGUAGE_MODELS = {
    "llama": (LlamaForCausalLM, LlamaConfig, {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}),
    "gpt2": (GPT2LMHeadModel, GPT2Config, {"n_embd": 32, "n_head": 2}),
    "t5": (T5ForConditionalGeneration, T5Config, {"d_model": 32, "d_kv": 16, "d_ff": 64, "num_heads": 2}),
}  # fmt: skip


def language_model(name: str, vocab_size: int) -> torch.nn.Module:
    family, config, sizes = LANGUAGE_MODELS[name]
    return family(config(vocab_size=vocab_size, num_hidden_layers=1, **sizes))


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
@pytest.mark.parametrize("spare", [0, 500], ids=["exact", "with spare rows"])
def test_new_rows(name: str, spare: int) -> None:
    tok = make("gpt2")
    torch.manual_seed(0)
    model, other = (language_model(name, tok.control_offset + spare) for _ in range(2))
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
        resize_embeddings(language_model(name, 10), tok)


def test_gaps_and_added_tokens_of_the_base() -> None:
    """Gaps in the base's ids stay unused, and its added tokens keep their ids."""
    vocab = {"a": 0, "b": 1, "\u0120": 2, "ab": 7}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[("a", "b")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    base = PreTrainedTokenizerFast(tokenizer_object=backend)
    base.add_tokens(["<think>"])
    ids = base("ab<think> a")["input_ids"]
    tok = extend_tokenizer(base, **FACTS)
    assert tok("ab<think> a")["input_ids"] == ids and tok.control_offset == max(base.get_vocab().values()) + 1


def whole_words(pre_tokenizer: object) -> PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({"[UNK]": 0, "hello": 1}, unk_token="[UNK]"))
    if pre_tokenizer is not None:
        backend.pre_tokenizer = pre_tokenizer
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")


def test_refusals(tmp_path: Path) -> None:
    tok = extend_tokenizer(whole_words(pre_tokenizers.Whitespace()), **FACTS)
    assert tok("hello <|a0 0|>")["input_ids"][0] == 1 and max(tok("hello <|a0 0|>")["input_ids"]) == 1
    (tmp_path / "text.model").write_text("not a model")
    gpt2, lines = build_family("gpt2", SMALL), pre_tokenizers.Split("\n", "isolated")
    for make_one, error, match in (
        (lambda: extend_tokenizer(whole_words(None), **FACTS), ValueError, "audio id"),
        (lambda: extend_tokenizer(whole_words(lines), **FACTS), ValueError, "audio id"),
        (lambda: extend_tokenizer(tok, **FACTS), ValueError, "AudioTextTokenizer.from_pretrained"),
        (lambda: extend_tokenizer(gpt2, n_q=2), ValueError, "codec"),
        (lambda: extend_tokenizer(object(), **FACTS), TypeError, "object"),
        (lambda: build_tokenizer(tmp_path / "none", codes_fingerprint=FINGERPRINT), FileNotFoundError, "none"),
        (lambda: build_tokenizer(tmp_path / "text.model", codes_fingerprint=FINGERPRINT), ValueError, "text.model"),
        (lambda: build_tokenizer(TEXT_MODEL, 0, codes_fingerprint=FINGERPRINT), ValueError, "n_q"),
        (lambda: build_tokenizer(TEXT_MODEL, 8, codes_fingerprint=""), ValueError, "codes_fingerprint"),
    ):  # fmt: skip
        with pytest.raises(error, match=match):
            make_one()
    gpt2.save_pretrained(tmp_path)
    assert extend_tokenizer(tmp_path, **FACTS)("hi")["input_ids"] == gpt2("hi")["input_ids"]
