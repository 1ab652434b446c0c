"""A built tokenizer: text ids equal sentencepiece's, and no text yields audio or control ids."""

from __future__ import annotations

import copy
import json
import pickle
import random
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
from tokenizers import Tokenizer
from transformers import AutoTokenizer

import audiotok.tokens.extend as build_module
from audiotok import AudioTextTokenizer, LayoutError, build_tokenizer, checkpoint_dir, load_tokenizer
from audiotok.tokens.extend import ASCII_CHARACTERS, train_text_vocab
from audiotok.tokens.tokenizer import CONTROL_TOKENS

N_Q, CODEBOOK_SIZE, FINGERPRINT = 8, 1024, "0123456789abcdef"
TEXT_MODEL = checkpoint_dir("text-en") / "tokenizer.model"

# Attempts to yield an id that is not text.
NAMES = [
    *CONTROL_TOKENS.values(),
    *("<|a0_0|>", "<|a0_17|>", "<|a7_1023|>", "<|a3_512|>"),
    *("<0x41>", "<0x00>", "<0xFF>", "<unk>", "<s>", "</s>", "<|endoftext|>"),
]
PIECES = [
    *NAMES,
    *("<", "|", ">", "</", "_", "<|a", "<|a0", "0_17|>", "<|a0_", "17|>", "<te", "xt>", "a0_17", "\u2581"),
    *(
        "\uff1ctext\uff1e",
        "<\u200btext>",
        "<te\u0301xt>",
        "\uff5ca0_17\uff5c",
        "<TEXT>",
        "< text >",
        "&lt;text&gt;",
    ),
    *(" ", "  ", "\n", "\t", "\x00", "\x7f", "\ufeff", "\ufffd", "A", "\u00e9", "\u4f60\u597d", "\U0001f600"),
    *("\u200d", "\u202e", "\ue000", "\U0010ffff", "\r\n", "\\u003ctext\\u003e"),
]
texts = st.one_of(st.text(max_size=40), st.lists(st.sampled_from(PIECES), max_size=8).map("".join))


def varied_strings(count: int, seed: int = 0) -> list[str]:
    """Seeded strings over scripts, control characters, code and adversarial pieces."""
    rng = random.Random(seed)
    ranges = [(0x20, 0x7E), (0x0, 0x1F), (0xA0, 0x24F), (0x370, 0x5FF), (0x4E00, 0x9FFF), (0x1F300, 0x1FAFF)]

    def part() -> str:
        if rng.random() < 0.3:
            return rng.choice(PIECES)
        low, high = rng.choice(ranges)
        return "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(0, 12)))

    return ["".join(part() for _ in range(rng.randint(0, 6))) for _ in range(count)]


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
    AutoTokenizer.from_pretrained(saved).save_pretrained(twice)
    return {
        "built": tok,
        "saved": AudioTextTokenizer.from_pretrained(saved),
        "auto": AutoTokenizer.from_pretrained(saved),
        "auto, saved again": AutoTokenizer.from_pretrained(twice),
        "pickled": pickle.loads(pickle.dumps(tok)),
        "auto, pickled": pickle.loads(pickle.dumps(AutoTokenizer.from_pretrained(saved))),
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
    assert tok.convert_tokens_to_ids(names) == list(range(len(tok)))


def test_control_ids(tok: AudioTextTokenizer) -> None:
    assert [tok.control_id(name) for name in CONTROL_TOKENS] == [*range(tok.control_offset, tok.audio_offset)]
    assert tok.pad_token_id == tok.control_id("pad") == tok.control_offset
    assert tok.bos_token_id == tok.control_id("bos") and tok.eos_token_id == tok.control_id("eos")
    for name, token in [("text_start", "<text>"), ("audio_end", "</audio>"), ("voice_15", "<voice_15>")]:
        assert tok.convert_ids_to_tokens(tok.control_id(name)) == token
    with pytest.raises(ValueError, match="voice_15"):
        tok.control_id("<text>")


def test_text_ids_are_those_of_sentencepiece(
    tok: AudioTextTokenizer, text_model: sentencepiece.SentencePieceProcessor
) -> None:
    for text in varied_strings(1_000):
        expected = text_model.encode(text)
        assert tok.encode_text(text) == expected
        assert tok.decode(expected) == text_model.decode(expected) == text.replace("\u2581", " ")


@settings(max_examples=100, deadline=None)
@given(text=st.text())
def test_text_ids_are_those_of_sentencepiece_for_any_text(
    tok: AudioTextTokenizer, text_model: sentencepiece.SentencePieceProcessor, text: str
) -> None:
    assert tok.encode_text(text) == text_model.encode(text)


def test_long_and_empty_text(tok: AudioTextTokenizer) -> None:
    assert tok.encode_text("") == []
    assert len(tok.encode_text("ab " * 100_000)) == 300_000
    with pytest.raises(TypeError):
        tok.encode_text(b"abc")
    with pytest.raises(ValueError, match="character 2"):
        tok.encode_text("ab\udcff")


ENTRIES: dict[str, Callable] = {
    "call": lambda tok, a, b: tok(a)["input_ids"],
    "call without specials": lambda tok, a, b: tok(a, add_special_tokens=False)["input_ids"],
    "encode": lambda tok, a, b: tok.encode(a),
    "pair": lambda tok, a, b: tok(a, b)["input_ids"],
    "encode pair": lambda tok, a, b: tok.encode(a, b),
    "batch": lambda tok, a, b: sum(tok([a, b])["input_ids"], []),
    "batch of pairs": lambda tok, a, b: sum(tok([a, b], [b, a])["input_ids"], []),
    "target": lambda tok, a, b: tok(text_target=a)["input_ids"],
    "words": lambda tok, a, b: tok([a, b], is_split_into_words=True)["input_ids"],
    "batch of words": lambda tok, a, b: sum(tok([[a, b], [b]], is_split_into_words=True)["input_ids"], []),
    "truncated": lambda tok, a, b: tok(a, truncation=True, max_length=7)["input_ids"],
    "tokenize": lambda tok, a, b: tok.convert_tokens_to_ids(tok.tokenize(a)),
    "encode_text": lambda tok, a, b: tok.encode_text(a) if hasattr(tok, "encode_text") else [],
    "backend": lambda tok, a, b: tok.backend_tokenizer.encode(a).ids if hasattr(tok, "n_q") else [],
}


@settings(max_examples=60, deadline=None)
@given(first=texts, second=texts)
@example(first="".join(NAMES), second="".join(f" {name[1:]} a{name}b{name.upper()}" for name in NAMES))
def test_no_forgery(forms: dict[str, object], first: str, second: str) -> None:
    limit = forms["built"].control_offset
    for form, tok in forms.items():
        for entry, encode in ENTRIES.items():
            ids = encode(tok, first, second)
            assert all(i < limit for i in ids), (form, entry, first, second)


def test_audio_names_are_text(tok: AudioTextTokenizer) -> None:
    """No text yields an audio id, with any setting for special tokens."""
    text = "".join(f"<|a{k}_{c}|>" for k in range(N_Q) for c in range(CODEBOOK_SIZE))
    for split in (True, False):
        assert max(tok(text, split_special_tokens=split)["input_ids"]) < tok.control_offset


def test_protection_can_be_disabled_per_call(tok: AudioTextTokenizer) -> None:
    """With the protection off the same strings yield control ids, and the next call is protected again."""
    open_ids = tok("<text>", split_special_tokens=False)["input_ids"]
    assert open_ids == [tok.control_id("text_start")]
    assert max(tok("<text>")["input_ids"]) < tok.control_offset
    tok("<text>", split_special_tokens=False)
    assert max(tok.encode_text("<text>")) < tok.control_offset
    careless = copy.deepcopy(tok)
    careless.split_special_tokens = False
    assert careless.encode("<text>") == open_ids
    assert careless.encode_text("<text>") == tok.encode_text("<text>")
    added = copy.deepcopy(tok)
    added.add_tokens(["hello"])
    with pytest.raises(ValueError, match="add_tokens"):
        added.encode_text("say hello")


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda tok: pickle.loads(pickle.dumps(tok))])
def test_a_copy_is_protected_before_its_first_call(tok: AudioTextTokenizer, duplicate: Callable) -> None:
    """The Rust backend alone, before transformers sets its option again, as in a worker process."""
    assert max(duplicate(tok).backend_tokenizer.encode("<text>").ids) < tok.control_offset


def test_tokenizer_json_alone_does_not_forge(tok: AudioTextTokenizer, saved: Path, tmp_path: Path) -> None:
    """tokenizer.json opened by the `tokenizers` library, which has no such option in the file."""
    again = tmp_path / "again"
    AudioTextTokenizer.from_pretrained(saved).save_pretrained(again)
    for folder in (saved, again):
        raw = Tokenizer.from_file(str(folder / "tokenizer.json"))
        for name in NAMES:
            assert raw.encode(name).ids == tok.encode_text(name)
        assert raw.id_to_token(tok.control_id("audio_start")) == "<audio>"


def test_transformers_conventions(forms: dict[str, object]) -> None:
    for tok in forms.values():
        batch = tok(["hello", "hi"], padding=True, return_tensors="pt", return_offsets_mapping=True)
        assert batch["input_ids"].shape == (2, 5)
        assert batch["attention_mask"].tolist() == [[1] * 5, [1, 1, 0, 0, 0]]
        assert batch["input_ids"][1, 2:].tolist() == [tok.pad_token_id] * 3
        assert batch["offset_mapping"][0].tolist() == [[i, i + 1] for i in range(5)]
        left = tok(["hello", "hi"], padding=True, padding_side="left")
        assert left["attention_mask"][1] == [0, 0, 0, 1, 1]
        assert tok("hello", truncation=True, max_length=3)["input_ids"] == tok.encode("hel")
        assert tok.batch_decode(batch["input_ids"], skip_special_tokens=True) == ["hello", "hi"]
        voiced = [tok.convert_tokens_to_ids("<voice_03>"), *tok.encode("hi"), tok.eos_token_id]
        assert tok.decode(voiced, skip_special_tokens=True) == "hi"
        assert tok.decode(voiced) == "<voice_03>hi<eos>"


@settings(max_examples=40, deadline=None)
@given(n_q=st.integers(1, N_Q), frames=st.integers(0, 50), seed=st.integers(0, 1000))
def test_codes_survive(tok: AudioTextTokenizer, n_q: int, frames: int, seed: int) -> None:
    codes = torch.randint(CODEBOOK_SIZE, (n_q, frames), generator=torch.Generator().manual_seed(seed))
    flat, first = tok.encode_audio(codes, layout="flat"), tok.encode_audio(codes, layout="first")
    assert type(flat) is list and all(type(i) is int for i in flat + first)
    assert all(tok.audio_offset <= i < len(tok) for i in flat + first)
    assert tok.convert_ids_to_tokens(flat) == [
        f"<|a{k}_{c}|>" for frame in codes.T for k, c in enumerate(frame)
    ]
    assert torch.equal(tok.decode_audio(flat, layout="flat", n_q=n_q), codes)
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


def test_attributes_are_saved(tok: AudioTextTokenizer, saved: Path) -> None:
    twice = saved.parent / "through-the-plain-class"
    plain = AutoTokenizer.from_pretrained(saved)
    plain.save_pretrained(twice)
    for other in (
        AudioTextTokenizer.from_pretrained(saved),
        AudioTextTokenizer.from_pretrained(twice),
        load_tokenizer(saved),
        pickle.loads(pickle.dumps(tok)),
        copy.deepcopy(tok),
    ):
        for name in ("n_q", "codebook_size", "codes_fingerprint", "control_offset", "audio_offset"):
            assert getattr(other, name) == getattr(tok, name)
        assert other.get_vocab() == tok.get_vocab()
        assert other.padded_vocab_size == tok.padded_vocab_size


def test_the_text_model_is_saved(tok: AudioTextTokenizer, saved: Path, tmp_path: Path) -> None:
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
    probes = [*NAMES, "Hello, world.", " é\u4f60\U0001f600\x00 ", *varied_strings(50, seed=1)]
    program = """if True:
        import json, socket, sys
        sys.modules["audiotok"] = None
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


def test_load_tokenizer_binds_to_the_codec(tiny_codec, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(build_module, "load_codec", lambda name: asked.append(name) or tiny_codec)
    for name in (None, "tiny"):
        tok = load_tokenizer(name)
        assert (tok.n_q, tok.codebook_size) == (tiny_codec.config.n_q, tiny_codec.config.codebook_size)
        assert tok.codes_fingerprint == tiny_codec.codes_fingerprint
        assert tok.control_offset == 352
    assert asked == [None, "tiny"]


def test_load_tokenizer_errors(tmp_path: Path, no_network: list) -> None:
    with pytest.raises(FileNotFoundError, match="nonesuch"):
        load_tokenizer("nonesuch")
    with pytest.raises(FileNotFoundError, match="tokenizer.json"):
        load_tokenizer(tmp_path)
    assert not no_network


def train_other(path: Path, **options: object) -> Path:
    """A sentencepiece model with other options than ``train_text_vocab``."""
    lines = [
        "the quick brown fox jumps over the lazy dog",
        "pack my box with five dozen jugs",
        "abc def",
    ] * 20
    ours = {"model_type": "char", "byte_fallback": True, "normalization_rule_name": "identity"}
    ours |= {"add_dummy_prefix": False, "remove_extra_whitespaces": False, "vocab_size": 284}
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=file,
            minloglevel=2,
            hard_vocab_limit=False,
            **ours | options,
        )
    return path


@pytest.mark.parametrize(
    "options",
    [
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
def test_unsupported_text_models_are_refused(tmp_path: Path, options: dict) -> None:
    model = train_other(tmp_path / "other.model", **options)
    with pytest.raises(ValueError):
        build_tokenizer(model, codes_fingerprint=FINGERPRINT)


def test_other_text_models_and_sizes(tmp_path: Path) -> None:
    """Without the changes of the refused cases the same tokenizer is built, also with other sizes."""
    tok = build_tokenizer(train_other(tmp_path / "m.model"), 3, 7, codes_fingerprint=FINGERPRINT)
    assert len(tok) == tok.audio_offset + 21 and tok.decode(tok.encode_text("a Fox")) == "a Fox"
    codes = torch.tensor([[6], [0], [6]])
    assert tok.decode_audio(tok.encode_audio(codes)).tolist() == codes.tolist()


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


def test_training_a_vocabulary(tmp_path: Path) -> None:
    """Only the given characters get pieces, and the same text gives the same file."""
    sentences = ["straße und Öl", "\u4f60\u597d " * 500, "zzz"]
    models = [tmp_path / "one.model", tmp_path / "two.model"]
    for model in models:
        assert train_text_vocab(sentences, model, ASCII_CHARACTERS + "ßÖ") == 354
    assert models[0].read_bytes() == models[1].read_bytes()
    tok = build_tokenizer(models[0], codes_fingerprint=FINGERPRINT)
    assert len(tok.encode_text("ßÖ~")) == 3 and len(tok.encode_text("\u4f60")) == 3
    assert tok.decode(tok.encode_text("\u4f60ß ")) == "\u4f60ß "
    order = [tok.convert_ids_to_tokens(i) for i in range(257, 354)]
    assert order.index("z") < order.index("q")
    with pytest.raises(ValueError):
        train_text_vocab(["", "  ", "\u4f60"], tmp_path / "m.model")
    assert not (tmp_path / "m.model").exists()
