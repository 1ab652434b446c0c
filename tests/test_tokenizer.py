"""A built tokenizer: text ids equal sentencepiece's, and no text yields audio or control ids."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sentencepiece
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizer_families import varied_strings
from tokenizers import Tokenizer
from transformers import AutoTokenizer

import audiotok.tokens.extend as build_module
from audiotok import AudioTextTokenizer, LayoutError, build_tokenizer, checkpoint_dir, load_tokenizer
from audiotok.tokens.tokenizer import CONTROL_TOKENS

N_Q, CODEBOOK_SIZE, FINGERPRINT = 8, 1024, "0123456789abcdef"
TEXT_MODEL = checkpoint_dir("text-en") / "tokenizer.model"

# Attempts to yield an id that is not text.
NAMES = [
    *CONTROL_TOKENS.values(),
    *("<|a0_0|>", "<|a0_17|>", "<|a7_1023|>", "<0x41>", "<0xFF>", "<unk>", "<s>", "</s>", "<|endoftext|>"),
]
PIECES = [
    *NAMES,
    *("<", "|", ">", "</", "_", "<|a", "<|a0", "0_17|>", "<|a0_", "17|>", "<te", "xt>", "a0_17", "\u2581"),
    *("\uff1ctext\uff1e", "<\u200btext>", "<te\u0301xt>", "<TEXT>", "< text >", "&lt;text&gt;", " ", "\n", "\x00"),
]  # fmt: skip
texts = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(PIECES), max_size=8).map("".join))


@pytest.fixture(scope="module")
def tok() -> AudioTextTokenizer:
    return build_tokenizer(TEXT_MODEL, N_Q, CODEBOOK_SIZE, codes_fingerprint=FINGERPRINT)


@pytest.fixture(scope="module")
def text_model() -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(str(TEXT_MODEL))


@pytest.fixture(scope="module")
def saved(tok: AudioTextTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer") / "saved"
    tok.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def forms(tok: AudioTextTokenizer, saved: Path) -> dict[str, object]:
    """The same tokenizer as built, saved, copied and pickled."""
    twice = saved.parent / "twice"
    auto = AutoTokenizer.from_pretrained(saved)
    auto.save_pretrained(twice)
    return {
        "built": tok,
        "saved": load_tokenizer(saved),
        "auto": auto,
        "auto, saved again": AudioTextTokenizer.from_pretrained(twice),
        "pickled": pickle.loads(pickle.dumps(tok)),
        "auto, pickled": pickle.loads(pickle.dumps(auto)),
        "copied": copy.deepcopy(tok),
    }


def test_the_id_space(tok: AudioTextTokenizer, text_model: sentencepiece.SentencePieceProcessor) -> None:
    n_text = text_model.get_piece_size()
    assert tok.control_offset == n_text and tok.audio_offset == n_text + 64
    assert len(tok) == tok.vocab_size == n_text + 64 + N_Q * CODEBOOK_SIZE
    assert tok.padded_vocab_size % 64 == 0 and 0 <= tok.padded_vocab_size - len(tok) < 64
    names = tok.convert_ids_to_tokens(list(range(len(tok))))
    assert names[:n_text] == [text_model.id_to_piece(i) for i in range(n_text)]
    assert names[n_text : n_text + 64] == list(CONTROL_TOKENS.values())
    assert names[n_text + 64 :] == [f"<|a{k}_{c}|>" for k in range(N_Q) for c in range(CODEBOOK_SIZE)]
    assert [tok.control_id(name) for name in CONTROL_TOKENS] == [*range(tok.control_offset, tok.audio_offset)]
    special = [tok.pad_token_id, tok.bos_token_id, tok.eos_token_id]
    assert special == [n_text, n_text + 1, n_text + 2]
    for name, index in (("text_start", 3), ("audio_end", 6), ("voice_15", 22), ("fill", 23)):
        assert tok.control_id(name) == n_text + index  # a slot in use never moves
    with pytest.raises(ValueError):
        tok.control_id("<text>")


@settings(max_examples=60, deadline=None)
@given(text=texts)
@example(text="ab " * 1000)
def test_text_ids_are_those_of_sentencepiece(
    tok: AudioTextTokenizer, text_model: sentencepiece.SentencePieceProcessor, text: str
) -> None:
    expected = text_model.encode(text)
    assert tok.encode_text(text) == expected
    assert tok.decode(expected) == text_model.decode(expected) == text.replace("\u2581", " ")


def test_bad_text_is_refused(tok: AudioTextTokenizer) -> None:
    with pytest.raises(TypeError):
        tok.encode_text(b"abc")
    with pytest.raises(ValueError, match="character 2"):
        tok.encode_text("ab\udcff")
    added = copy.deepcopy(tok)
    added.add_tokens(["hello"])
    with pytest.raises(ValueError, match="add_tokens"):
        added.encode_text("say hello")


ENTRIES: dict[str, Callable] = {
    "call": lambda tok, a, b: tok(a)["input_ids"],
    "call without specials": lambda tok, a, b: tok(a, add_special_tokens=False)["input_ids"],
    "encode pair": lambda tok, a, b: tok.encode(a, b),
    "batch of pairs": lambda tok, a, b: sum(tok([a, b], [b, a])["input_ids"], []),
    "target": lambda tok, a, b: tok(text_target=a)["input_ids"],
    "batch of words": lambda tok, a, b: sum(tok([[a, b], [b]], is_split_into_words=True)["input_ids"], []),
    "truncated": lambda tok, a, b: tok(a, truncation=True, max_length=7)["input_ids"],
    "tokenize": lambda tok, a, b: tok.convert_tokens_to_ids(tok.tokenize(a)),
    "encode_text": lambda tok, a, b: tok.encode_text(a) if hasattr(tok, "encode_text") else [],
    "backend": lambda tok, a, b: tok.backend_tokenizer.encode(a).ids if hasattr(tok, "n_q") else [],
}


@settings(max_examples=20, deadline=None)
@given(first=texts, second=texts)
@example(first="".join(NAMES), second="".join(f" {name[1:]} a{name}b{name.upper()}" for name in NAMES))
def test_no_forgery(forms: dict[str, object], first: str, second: str) -> None:
    limit = forms["built"].control_offset
    for form, tok in forms.items():
        for entry, encode in ENTRIES.items():
            assert all(i < limit for i in encode(tok, first, second)), (form, entry, first, second)


def test_protection_can_be_disabled_per_call(tok: AudioTextTokenizer) -> None:
    """With the protection off control names yield control ids, audio names never do, and the next call is protected."""
    for careless in (tok, copy.deepcopy(tok)):
        careless.split_special_tokens = careless is tok
        assert tok("<text>", split_special_tokens=False)["input_ids"] == [tok.control_id("text_start")]
        assert max(careless.encode_text("<text>")) < tok.control_offset
    assert max(tok("<text>")["input_ids"]) < tok.control_offset
    names = "".join(f"<|a{k}_{c}|>" for k in range(N_Q) for c in range(0, CODEBOOK_SIZE, 16))
    assert max(tok(names, split_special_tokens=False)["input_ids"]) < tok.control_offset


def test_the_backend_alone_does_not_forge(tok: AudioTextTokenizer, saved: Path, tmp_path: Path) -> None:
    """Copies before transformers sets its option again, and tokenizer.json, which has no such option."""
    for other in (copy.deepcopy(tok), pickle.loads(pickle.dumps(tok))):
        assert max(other.backend_tokenizer.encode("<text>").ids) < tok.control_offset
    AudioTextTokenizer.from_pretrained(saved).save_pretrained(tmp_path / "again")
    for folder in (saved, tmp_path / "again"):
        raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
        assert all(raw.encode(name).ids == tok.encode_text(name) for name in NAMES)
        assert raw.id_to_token(tok.control_id("audio_start")) == "<audio>"


def test_every_form_is_the_same(tok: AudioTextTokenizer, forms: dict[str, object]) -> None:
    for other in forms.values():
        assert other.get_vocab() == tok.get_vocab()
        batch = other(["hello", "hi"], padding=True, return_tensors="pt", return_offsets_mapping=True)
        assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 0, 0, 0]]
        assert batch["input_ids"][1, 2:].tolist() == [tok.pad_token_id] * 3
        assert batch["offset_mapping"][0].tolist() == [[i, i + 1] for i in range(5)]
        assert other("hello", truncation=True, max_length=3)["input_ids"] == tok.encode("hel")
        assert other.batch_decode(batch["input_ids"], skip_special_tokens=True) == ["hello", "hi"]
        voiced = [tok.convert_tokens_to_ids("<voice_03>"), *tok.encode("hi"), tok.eos_token_id]
        assert other.decode(voiced, skip_special_tokens=True) == "hi"
        if isinstance(other, AudioTextTokenizer):
            for name in ("n_q", "codebook_size", "codes_fingerprint", "control_offset", "audio_offset"):
                assert getattr(other, name) == getattr(tok, name)


@settings(max_examples=20, deadline=None)
@given(n_q=st.integers(1, N_Q), frames=st.integers(0, 50), seed=st.integers(0, 1000))
def test_codes_survive(tok: AudioTextTokenizer, n_q: int, frames: int, seed: int) -> None:
    codes = torch.randint(CODEBOOK_SIZE, (n_q, frames), generator=torch.Generator().manual_seed(seed))
    flat, first = tok.encode_audio(codes, layout="flat"), tok.encode_audio(codes, layout="first")
    assert type(flat) is list and all(type(i) is int for i in flat + first)
    names = [f"<|a{k}_{c}|>" for frame in codes.T for k, c in enumerate(frame)]
    assert tok.convert_ids_to_tokens(flat) == names
    assert torch.equal(tok.decode_audio(torch.tensor(flat).long(), n_q=n_q), codes)
    assert torch.equal(tok.decode_audio(first, layout="first"), codes[:1])


def test_audio_errors(tok: AudioTextTokenizer) -> None:
    codes = torch.zeros(N_Q + 1, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="got 9"):
        tok.encode_audio(codes)
    with pytest.raises(ValueError, match="1024 in codebook 2 at frame 1"):
        tok.encode_audio(torch.tensor([[0, 1], [2, 3], [4, 1024]]))
    assert tok.encode_audio([[1, 2]]) == tok.encode_audio(torch.tensor([[1, 2]]))
    for bad in ([[1.5, 2]], [[1, 2], [3]], "codes", [["a"]]):
        with pytest.raises(TypeError):
            tok.encode_audio(bad)
    for n_q in (0, 9):
        with pytest.raises(ValueError):
            tok.decode_audio([], n_q=n_q)
    ids = tok.encode_audio(codes[:2])
    for damaged, position in (([ids[0], tok.eos_token_id, *ids[2:]], 1), (ids[:-1], 5)):
        with pytest.raises(LayoutError) as raised:
            tok.decode_audio(damaged, n_q=2)
        assert raised.value.position == position


def test_the_text_model_is_saved(saved: Path, tmp_path: Path) -> None:
    assert (saved / "tokenizer.model").read_bytes() == TEXT_MODEL.read_bytes()
    moved = tmp_path / "moved"
    shutil.copytree(saved, moved)
    opened = pickle.loads(pickle.dumps(AudioTextTokenizer.from_pretrained(moved)))
    shutil.rmtree(moved)
    opened.save_pretrained(tmp_path / "again")
    for file in saved.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


def test_opens_without_audiotok(tok: AudioTextTokenizer, saved: Path, tmp_path: Path) -> None:
    """AutoTokenizer in another process, without audiotok or network: a moved folder, alone and beside a Llama."""
    moved = [tmp_path / "moved", tmp_path / "beside"]
    for folder in moved:
        shutil.copytree(saved, folder)
    llama = {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    (moved[1] / "config.json").write_text(json.dumps(llama))
    probes = [*NAMES, "Hello, world.", " é\u4f60\U0001f600\x00 ", *varied_strings(50, PIECES, seed=1)]
    program = """if True:
        import json, socket, sys
        sys.modules["audiotok"] = sys.modules["torch"] = None
        def refuse(*_): raise OSError("network")
        socket.socket.connect = socket.socket.connect_ex = refuse
        from transformers import AutoTokenizer
        texts = json.load(sys.stdin)
        toks = [AutoTokenizer.from_pretrained(folder) for folder in sys.argv[1:]]
        print(json.dumps([[tok.encode(text) for text in texts] for tok in toks]))
    """
    command = [sys.executable, "-W", "ignore", "-c", program, *map(str, moved)]
    done = subprocess.run(command, input=json.dumps(probes), capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[tok.encode_text(text) for text in probes]] * 2
    config = json.loads((moved[0] / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast" and config["split_special_tokens"] is True


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"split_special_tokens": False}, "split_special_tokens"),
        ({"audio_offset": 415}, "415"),
        ({"n_q": 9}, "a8_1023"),
        ({"codebook_size": None}, "codebook_size"),
    ],
)
def test_a_damaged_folder_is_refused(saved: Path, tmp_path: Path, change: dict, match: str) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(saved, folder)
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
        {"model_type": "unigram", "vocab_size": 300},
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


def test_build_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        build_tokenizer(tmp_path / "none.model", codes_fingerprint=FINGERPRINT)
    (tmp_path / "text.model").write_text("not a model")
    for model, n_q, fingerprint in (
        (tmp_path / "text.model", 8, FINGERPRINT),
        (TEXT_MODEL, 0, FINGERPRINT),
        (TEXT_MODEL, 8, ""),
    ):
        with pytest.raises(ValueError):
            build_tokenizer(model, n_q, codes_fingerprint=fingerprint)
