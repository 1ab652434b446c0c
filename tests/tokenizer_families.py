"""Five kinds of tokenizers of language models, with the pre-tokenizer, normaliser and options of the originals.

They are trained on tests/text.txt, made-up words and sentences in other scripts, so they are the same everywhere.
``build_family("llama3", 3000)`` gives a plain transformers tokenizer.
"""

from __future__ import annotations

import functools
import io
import random
from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

FAMILIES = ("gpt2", "llama3", "qwen2", "llama2", "t5")
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{DIGITS}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SCRIPTS = (
    "Быстрая лиса прыгает через ленивую собаку. \u4f60\u597d\uff0c\u4e16\u754c\u3002 "
    "\u3053\u3093\u306b\u3061\u306f\u4e16\u754c Γειά σου Κόσμε שלום עולם مرحبا بالعالم नमस्ते दुनिया "
    "Žluťoučký kůň úpěl ďábelské ódy \U0001f600\U0001f680 1234567890 ½ ﬁ \u00a0\u3000 "
)
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA3_CHAT = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
LLAMA2_CHAT = (
    "{% for message in messages %}{% if message['role'] == 'user' %}{{ bos_token }}[INST] {{ message['content'] }} "
    "[/INST]{% else %} {{ message['content'] }} {{ eos_token }}{% endif %}{% endfor %}"
)


@functools.cache
def corpus(vocab_size: int = 3000) -> list[str]:
    """Lines of text, code, random words and other scripts, enough for the given number of pieces; always the same."""
    text = (Path(__file__).parent / "text.txt").read_text(encoding="utf-8").splitlines(keepends=True)
    rng = random.Random(0)
    syllables = [
        a + b for a in "bdfghklmnprstvwz" for b in ("a", "e", "i", "o", "u", "ar", "en", "ing", "ou")
    ]
    words = ["".join(rng.choices(syllables, k=rng.randint(1, 4))) for _ in range(vocab_size)]
    lines = text * (1 + vocab_size // 3000)
    lines += [" ".join(rng.choices(words, k=9)) + ".\n" for _ in range(vocab_size // 4)]
    scripts = _SCRIPTS.split(" ")
    return lines + [" ".join(rng.choices(scripts, k=8)) for _ in range(len(lines) // 8)]


def _byte_level(
    vocab_size: int, pre_tokenizer: object, normalizer: object = None, **options: bool
) -> Tokenizer:
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        learner.normalizer = normalizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=1,
    )
    learner.train_from_iterator(corpus(vocab_size), trainer)
    if options:
        learner.model.ignore_merges = options["ignore_merges"]
    learner.decoder = decoders.ByteLevel()
    return learner


def _split(digits: str) -> pre_tokenizers.PreTokenizer:
    pattern = Regex(_SPLIT.replace("{DIGITS}", digits))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(pattern, "isolated"), level])


def _special(*names: str) -> list[AddedToken]:
    return [AddedToken(name, special=True, normalized=False) for name in names]


def gpt2(vocab_size: int) -> PreTrainedTokenizerFast:
    backend = _byte_level(vocab_size - 1, pre_tokenizers.ByteLevel(add_prefix_space=False))
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    backend.add_special_tokens(_special("<|endoftext|>"))
    names = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)


def llama3(vocab_size: int) -> PreTrainedTokenizerFast:
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    names += [f"<|reserved_special_token_{i}|>" for i in range(251)]
    backend = _byte_level(vocab_size - 256, _split("{1,3}"), ignore_merges=True)
    backend.add_special_tokens(_special(*names))
    first = backend.token_to_id(names[0])
    bos = processors.TemplateProcessing(
        single=f"{names[0]} $A", pair=f"{names[0]} $A {names[0]}:1 $B:1", special_tokens=[(names[0], first)]
    )
    backend.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), bos])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=names[0],
        eos_token=names[1],
        chat_template=LLAMA3_CHAT,
        clean_up_tokenization_spaces=True,
        model_input_names=["input_ids", "attention_mask"],
    )


def qwen2(vocab_size: int) -> PreTrainedTokenizerFast:
    backend = _byte_level(vocab_size - 5, _split(""), normalizers.NFC(), ignore_merges=False)
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    backend.add_special_tokens(_special("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    backend.add_tokens([AddedToken(name, normalized=False) for name in ("<tool_call>", "</tool_call>")])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        chat_template=CHATML,
        clean_up_tokenization_spaces=False,
    )


def llama2(vocab_size: int) -> PreTrainedTokenizerFast:
    learner = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    learner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    first = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=first, show_progress=False, min_frequency=1, limit_alphabet=300
    )
    learner.train_from_iterator(corpus(vocab_size), trainer)
    model = learner.model
    model.fuse_unk = True
    backend = Tokenizer(model)
    spaces = [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    backend.normalizer = normalizers.Sequence(spaces)
    steps = [
        decoders.Replace("\u2581", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
    backend.decoder = decoders.Sequence(steps)
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    backend.add_special_tokens(_special("<unk>", "<s>", "</s>"))
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **names, padding_side="left", chat_template=LLAMA2_CHAT
    )


def t5(vocab_size: int) -> PreTrainedTokenizerFast:
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in corpus(vocab_size) if (line := text.strip())), model_writer=file,
        model_type="unigram", vocab_size=vocab_size - 100, normalization_rule_name="nmt_nfkc", pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, character_coverage=1.0, hard_vocab_limit=False, num_threads=1, minloglevel=2,
    )  # fmt: skip
    proto = sentencepiece_model_pb2.ModelProto.FromString(file.getvalue())
    vocab = [(piece.piece, piece.score) for piece in proto.pieces]
    extra = [f"<extra_id_{i}>" for i in range(99, -1, -1)]
    backend = Tokenizer(
        models.Unigram(vocab + [(name, 0.0) for name in extra], unk_id=2, byte_fallback=False)
    )
    charsmap = normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap)
    backend.normalizer = normalizers.Sequence([charsmap, normalizers.Replace(Regex(" {2,}"), "\u2581")])
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    backend.decoder = decoders.Metaspace(prepend_scheme="always")
    backend.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    backend.add_special_tokens(_special("<pad>", "</s>", "<unk>", *reversed(extra)))
    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, **names, additional_special_tokens=[*reversed(extra)]
    )


@functools.cache
def build_family(name: str, vocab_size: int) -> PreTrainedTokenizerFast:
    """A base tokenizer of about ``vocab_size`` ids. It is cached, so do not change it."""
    return {"gpt2": gpt2, "llama3": llama3, "qwen2": qwen2, "llama2": llama2, "t5": t5}[name](vocab_size)


def varied_strings(count: int, names: list[str], seed: int = 0) -> list[str]:
    """Seeded strings of scripts, emoji, code, control characters, and ``names`` and parts of them."""
    rng = random.Random(seed)
    ranges = [(0x20, 0x7E), (0x0, 0x1F), (0xA0, 0x24F), (0x370, 0x5FF), (0x600, 0x97F), (0x4E00, 0x9FFF)]
    ranges += [(0x1F300, 0x1FAFF), (0x2000, 0x206F), (0xE000, 0xE0FF), (0xFF00, 0xFFEF)]
    lines = corpus()
    wide = str.maketrans({"<": "\uff1c", "|": "\uff5c", ">": "\uff1e", "/": "\uff0f"})

    def part() -> str:
        kind = rng.random()
        if kind < 0.25 and names:
            name = rng.choice(names)
            return rng.choice(
                [name, name, name[1:], name[:-1], name.upper(), name.translate(wide), f" {name} "]
            )
        if kind < 0.5:
            return rng.choice(lines)
        low, high = rng.choice(ranges)
        return "".join(chr(rng.randint(low, high)) for _ in range(rng.randint(0, 12)))

    return ["".join(part() for _ in range(rng.randint(0, 5))) for _ in range(count)]
