"""The processor: batches, moved folders, every form of audio, padding, codes of other codecs."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from codec_toys import MAKERS, random_codec
from tokenizer_families import build_family
from transformers import (
    AutoFeatureExtractor,
    AutoProcessor,
    AutoTokenizer,
    EncodecConfig,
    EncodecModel,
    LlamaConfig,
    LlamaForCausalLM,
)
from transformers.models.auto.modeling_auto import AutoModelForAudioTokenization

from audiotok import (
    AudioTextCollator,
    AudioTextProcessor,
    LayoutError,
    build_tokenizer,
    checkpoint_dir,
    save_audio,
)

LAYOUTS = ("first", "flat", "delay", "coarse")


@pytest.fixture
def processor(tiny_codec: torch.nn.Module) -> AudioTextProcessor:
    """Qwen2's kind of tokenizer, with its chat template, and the tiny codec."""
    return AudioTextProcessor.from_codec(build_family("qwen2", 1_000), tiny_codec)


@pytest.fixture
def own(tiny_codec: torch.nn.Module) -> AudioTextProcessor:
    """The shipped text vocabulary and the tiny codec; no chat template."""
    text = checkpoint_dir("text-en") / "tokenizer.model"
    tok = build_tokenizer(text, 4, 64, codes_fingerprint=tiny_codec.codes_fingerprint)
    return AudioTextProcessor.from_codec(tok, tiny_codec)


def test_the_two_tasks(own: AudioTextProcessor, wav: torch.Tensor) -> None:
    tok = own.tokenizer
    c = tok.control_id
    codes = own.audio_tokenizer.encode(wav[None]).audio_codes[0]
    text, sound = tok.encode_text("Hello."), tok.encode_audio(codes)
    said = [c("audio_start"), *sound, c("audio_end")]
    read = [c("text_start"), *text, c("text_end")]
    out = own("Hello.", wav, labels=True)
    assert out["input_ids"] == [c("bos"), *read, *said, c("eos")]
    assert out["attention_mask"] == [1] * len(out["input_ids"])
    assert out["labels"] == [-100] * (1 + len(read)) + [*said, c("eos")]
    out = own("Hello.", wav, task="transcribe", labels=True)
    assert out["input_ids"] == [c("bos"), *said, *read, c("eos")]
    assert out["labels"] == [-100] * (1 + len(said)) + [*read, c("eos")]
    assert own("Hello.")["input_ids"] == [c("bos"), *read, c("audio_start")]
    assert own(audio=wav)["input_ids"] == [c("bos"), *said, c("text_start")]
    for bad in (
        lambda: own(audio=wav, task="speak"),
        lambda: own("a", wav, task="sing"),
        lambda: own(["a", "b"], [wav]),
        lambda: own(),
    ):
        with pytest.raises(ValueError):
            bad()


def test_every_form_of_audio(own: AudioTextProcessor, wav: torch.Tensor, tmp_path: Path) -> None:
    expected = own.encode_audio(wav)
    array = wav[0].numpy()
    codes = own.audio_tokenizer.encode(wav[None]).audio_codes[0]
    shard = {"codes": codes.numpy().astype("<i2").tobytes(), "n_q": 4, "text": "x"}
    forms = [
        wav[0],
        array,
        array[None],
        array.astype(">f4"),
        array.tolist(),
        {"array": array, "sampling_rate": 16_000},
        codes,
        codes.numpy().astype(np.int16),
        codes.tolist(),
        shard,
        shard | {"codes": codes.tolist(), "codes_fingerprint": own.tokenizer.codes_fingerprint},
    ]
    two = own(["a", "a"], [wav, wav])
    for form in forms:
        assert own.encode_audio(form) == expected
        assert own(["a", "a"], [form, form]) == two
    save_audio(tmp_path / "a.wav", wav, 16_000)
    read = own.encode_audio(tmp_path / "a.wav")
    assert len(read) == len(expected)
    assert own.encode_audio({"path": str(tmp_path / "a.wav")}) == read
    assert own.encode_audio({"bytes": (tmp_path / "a.wav").read_bytes(), "path": None}) == read
    assert len(own.encode_audio(np.zeros(24_000), sampling_rate=24_000)) == 50 * 4
    bare = AudioTextProcessor(own.feature_extractor, own.tokenizer)  # without a codec
    assert bare(["a", "a"], [codes, codes]) == two
    for needs_a_codec in (lambda: bare("a", wav), lambda: bare.decode_audio(two["input_ids"][0])):
        with pytest.raises(ValueError, match="codec"):
            needs_a_codec()
    columns = datasets.Dataset.from_dict({"text": ["a", "a"], "codes": [codes.tolist()] * 2})
    assert own(columns["text"], columns["codes"]) == two
    with pytest.raises(ValueError):
        own.encode_audio(wav, sampling_rate=0)
    with pytest.raises(TypeError):
        own(5)


def test_integer_samples_are_not_codes_and_bad_audio_is_refused(
    own: AudioTextProcessor, wav: torch.Tensor
) -> None:
    pcm = (wav[0] * 32767).round().to(torch.int16).numpy()
    expected = own.encode_audio(torch.from_numpy(pcm) / 32768)
    assert own.encode_audio(pcm) == expected
    assert own.encode_audio({"array": pcm[None], "sampling_rate": 16_000}) == expected
    assert len(own.encode_audio(np.zeros((1, 8), np.int64))) == 8  # codes of one codebook
    ambiguous = [pcm[None], np.zeros((1, 800), np.int16), np.zeros((1, 800), np.int32), pcm.tolist()]
    shapes = [np.zeros((2, 100)), np.zeros(0), [], np.zeros(5, np.int64), np.zeros((4, 0), np.int64)]
    shapes += [np.zeros((5, 9), np.int64), np.full((4, 9), 64), np.zeros((4, 9), bool), [[1, 2], [3]]]
    shards = [b"\x00\x00", {"codes": b"\x00\x00\x00", "n_q": 1}, {"codes": b"\x00\x00"}, {"speech": 1}, 7]
    for bad in ambiguous + shapes + shards:
        with pytest.raises((ValueError, TypeError)):
            own("a", bad)


def test_padding_and_truncation(own: AudioTextProcessor) -> None:
    """The options of transformers, flat or in ``text_kwargs`` and ``common_kwargs``."""
    texts = ["one", "and two"]
    ragged = own(texts, padding="do_not_pad")["input_ids"]
    short, long = map(len, ragged)
    assert own(texts, padding=False)["input_ids"] == ragged
    batch = own(texts, return_tensors="pt")
    assert batch["input_ids"].shape == (2, long) and own.model_input_names == list(batch)
    assert batch["attention_mask"][0].tolist() == [0] * (long - short) + [1] * short  # left, for generation
    right = own(texts, padding_side="right", return_tensors="np")
    assert isinstance(right["input_ids"], np.ndarray) and right["input_ids"][0, :short].tolist() == ragged[0]
    flat, tensors = {"padding": "max_length", "max_length": 32}, {"return_tensors": "pt"}
    for options in (flat | tensors, {"text_kwargs": flat, "common_kwargs": tensors}):
        wide = own(texts, **options, audio_kwargs={"sampling_rate": 16_000})
        assert wide["input_ids"].shape == (2, 32) and wide["attention_mask"].sum() == short + long
    cut = own(texts, truncation=True, max_length=4, labels=True)
    assert cut["input_ids"] == [row[:4] for row in ragged] and len(cut["labels"][0]) == 4
    assert own("one", pad_to_multiple_of=8, return_tensors="pt")["input_ids"].shape[1] % 8 == 0
    for bad, error in (
        ({"padding": "wide"}, ValueError),
        ({"padding": "max_length"}, ValueError),
        ({"padding": False, "return_tensors": "pt"}, ValueError),
        ({"return_tensors": "tf"}, ValueError),
        ({"max_length": 3, "text_kwargs": {"max_length": 4}}, ValueError),
        ({"return_offsets_mapping": True}, ValueError),
        ({"audios": 1}, TypeError),
    ):
        with pytest.raises(error):
            own(texts, **bad)


def test_generate_takes_the_default_batch(processor: AudioTextProcessor) -> None:
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vocab_size = processor.tokenizer.padded_vocab_size
    config = LlamaConfig(vocab_size=vocab_size, bos_token_id=None, eos_token_id=None, **sizes)
    model = LlamaForCausalLM(config).eval()
    batch = processor(["one", "and two, longer"], return_tensors="pt")
    out = model.generate(**batch, **processor.generation_options(batch, 40), do_sample=True)
    for row in out[:, batch["input_ids"].shape[1] :]:
        (part,) = [part for part in processor.parse(row) if part.codes is not None]
        assert part.codes.shape[1] > 0
    right = processor(["one", "and two, longer"], return_tensors="pt", padding_side="right")
    with pytest.raises(ValueError, match="left"):
        processor.generation_options(right, 40)


def test_batch_is_single(processor: AudioTextProcessor, make_speech: Callable) -> None:
    clips = [make_speech(seconds, seed=seed) for seed, seconds in enumerate((0.31, 0.5, 0.05))]
    texts = ["one", "and two, longer", ""]
    ragged = processor(texts, clips, labels=True, padding=False)
    for side in ("left", "right"):
        batch = processor(texts, clips, labels=True, padding_side=side, return_tensors="pt")
        for index, (text, clip) in enumerate(zip(texts, clips, strict=True)):
            single = processor(text, clip, labels=True)
            size = len(single["input_ids"])
            span = slice(-size, None) if side == "left" else slice(0, size)
            for key in ("input_ids", "labels", "attention_mask"):
                assert batch[key][index, span].tolist() == single[key] == ragged[key][index]
            assert batch["attention_mask"][index].sum() == size
            padding = batch["labels"].shape[1] - size
            assert (batch["labels"][index] == -100).sum() == padding + single["labels"].count(-100)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_decoded_audio(tiny_codec: torch.nn.Module, wav: torch.Tensor, layout: str) -> None:
    processor = AudioTextProcessor.from_codec(build_family("gpt2", 1_000), tiny_codec, layout=layout, n_q=3)
    codes = tiny_codec.encode(wav[None], n_q=1 if layout == "first" else 3).audio_codes
    ids = processor("Hi </s> <|a0 0|>.", wav)["input_ids"]
    text, sound = processor.parse(ids)
    assert text.text == "Hi </s> <|a0 0|>." and torch.equal(sound.codes, codes[0])
    expected = tiny_codec.decode(codes).audio_values[0]
    for given in (ids, torch.tensor(ids), ids[len(processor("Hi </s> <|a0 0|>.")["input_ids"]) :]):
        (heard,) = processor.decode_audio(given)
        assert torch.allclose(heard, expected, atol=1e-6) and heard.shape[0] == 1
    cut = ids[: len(ids) - 4 if layout != "first" else len(ids)]
    (part,) = [part for part in processor.parse(cut, errors="repair") if part.codes is not None]
    assert part.codes.shape[1] > 0 and (layout == "first" or part.lost > 0)
    if layout != "first":
        with pytest.raises(LayoutError):
            processor.parse(cut)


def test_a_moved_folder_works(
    tiny_codec: torch.nn.Module, wav: torch.Tensor, tmp_path: Path, no_network: list
) -> None:
    codec = tiny_codec
    codec.save_pretrained(tmp_path / "where it came from")
    codec = type(codec).from_pretrained(tmp_path / "where it came from").eval()
    processor = AudioTextProcessor.from_codec(build_family("llama3", 1_000), codec, "delay", n_q=2)
    processor.save_pretrained(tmp_path / "saved")
    shutil.rmtree(tmp_path / "where it came from")
    moved = shutil.move(tmp_path / "saved", tmp_path / "moved")
    assert str(tmp_path) not in "".join(file.read_text() for file in moved.rglob("*.json"))
    ids = processor("Hello", wav)["input_ids"]
    sound = processor.decode_audio(ids)[0]
    for other in (AudioTextProcessor.from_pretrained(moved), AutoProcessor.from_pretrained(moved)):
        assert type(other) is AudioTextProcessor and (other.layout, other.n_q) == ("delay", 2)
        assert other("Hello", wav)["input_ids"] == ids and torch.equal(other.decode_audio(ids)[0], sound)
        assert other.apply_chat_template([{"role": "user", "content": "x"}])
    plain = AutoTokenizer.from_pretrained(moved)
    same = AudioTextProcessor(processor.feature_extractor, plain, codec, layout="delay", n_q=2)
    assert same("Hello", wav)["input_ids"] == ids
    extractor = AutoFeatureExtractor.from_pretrained(moved)
    assert extractor.sampling_rate == processor.feature_extractor.sampling_rate
    again = AutoModelForAudioTokenization.from_pretrained(moved / "audio_tokenizer").eval()
    codes = processor.audio_tokenizer.encode(wav[None]).audio_codes
    assert torch.equal(again.encode(wav[None]).audio_codes, codes)
    for other in (copy.deepcopy(processor), pickle.loads(pickle.dumps(processor))):
        assert other("Hello", wav)["input_ids"] == ids
    assert "audio_tokenizer" in repr(processor) and processor.audio_tokenizer is not None
    assert not no_network


@pytest.mark.parametrize("kind", MAKERS)
def test_codecs_of_transformers(kind: str, make_speech: Callable, tmp_path: Path, no_network: list) -> None:
    """The plain classes of transformers: ids, audio, a batch and a moved folder."""
    codec = random_codec(kind)
    processor = AudioTextProcessor.from_codec(build_family("t5", 1_000), codec)
    rate = processor.feature_extractor.sampling_rate
    clip = make_speech(0.8, rate)
    tok = processor.tokenizer
    ids = processor("Hello", clip)["input_ids"]
    text, sound = processor.parse(ids)
    assert text.text == "Hello" and sound.codes.shape[0] == tok.n_q and sound.codes.shape[1] >= 10
    assert len(torch.unique(sound.codes)) > 5
    (heard,) = processor.decode_audio(ids)
    assert heard.shape[0] == 1 and abs(heard.shape[1] - clip.shape[1]) < rate / 10 and heard.isfinite().all()
    both = processor(["Hello", "x"], [clip, make_speech(0.3, rate, seed=1)], padding=False)
    assert both["input_ids"][0] == ids
    processor.save_pretrained(tmp_path / "saved")
    moved = shutil.move(tmp_path / "saved", tmp_path / "moved")
    other = AutoProcessor.from_pretrained(moved)
    assert other("Hello", clip)["input_ids"] == ids and torch.equal(other.decode_audio(ids)[0], heard)
    assert not no_network


def test_another_codec_is_refused(processor: AudioTextProcessor, wav: torch.Tensor, tmp_path: Path) -> None:
    fingerprint, codec = processor.tokenizer.codes_fingerprint, processor.audio_tokenizer
    other = copy.deepcopy(codec)
    with torch.no_grad():
        other.quantizer.codebooks.add_(1.0)
    with pytest.raises(ValueError, match=fingerprint):
        AudioTextProcessor(processor.feature_extractor, processor.tokenizer, other)
    with pytest.raises(TypeError, match="AudioTextTokenizer.from_pretrained"):
        AudioTextProcessor(processor.feature_extractor, build_family("gpt2", 1_000), codec)
    with pytest.raises(ValueError, match="steep"):
        AudioTextProcessor(processor.feature_extractor, processor.tokenizer, layout="steep")
    scaled = EncodecConfig(
        sampling_rate=48_000, audio_channels=2, normalize=True, chunk_length_s=1.0, num_filters=4
    )
    with pytest.raises(ValueError, match="scale"):
        AudioTextProcessor.from_codec(build_family("gpt2", 1_000), EncodecModel(scaled))
    codes = codec.encode(wav[None]).audio_codes[0]
    row = {"text": "a", "codes": codes, "codes_fingerprint": "f" * 16}
    collate = AudioTextCollator(processor)
    audio = {"role": "user", "content": [{"type": "audio", "audio": row}]}
    for use in (
        lambda: processor("a", row),
        lambda: processor.apply_chat_template([audio]),
        lambda: collate([row]),
        lambda: collate([{"input_ids": [1], "codes_fingerprint": "f" * 16}]),
    ):
        with pytest.raises(ValueError, match=fingerprint):
            use()
    assert collate([row | {"codes_fingerprint": fingerprint}])["input_ids"].shape[0] == 1
    processor.save_pretrained(tmp_path)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"codes_fingerprint": "f" * 16}))
    with pytest.raises(ValueError, match="ffff"):
        AutoProcessor.from_pretrained(tmp_path)


def test_collator(processor: AudioTextProcessor, wav: torch.Tensor) -> None:
    codes = processor.audio_tokenizer.encode(wav[None]).audio_codes[0]
    chat = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "content": [{"type": "audio", "audio": codes}]},
    ]
    rows = [
        {"text": "one", "codes": codes, "speaker": "s"},
        {"text": "two words", "audio": {"array": wav[0].numpy(), "sampling_rate": 16_000}},
        {"messages": chat},
        dict(processor("three", wav, labels=True)),
        {"input_ids": [1, 2, 3]},
    ]
    for task, side in (("speak", "left"), ("transcribe", "right")):
        batch = AudioTextCollator(processor, task, pad_to_multiple_of=8, padding_side=side)(rows)
        assert {key: value.dtype for key, value in batch.items()} == dict.fromkeys(
            ("input_ids", "attention_mask", "labels"), torch.int64
        )
        assert batch["input_ids"].shape[1] % 8 == 0
        for row in (0, 1):
            keep = batch["attention_mask"][row].bool()
            single = processor(rows[row]["text"], wav, task, labels=True)
            assert batch["input_ids"][row][keep].tolist() == single["input_ids"]
            assert batch["labels"][row][keep].tolist() == single["labels"]
        assert batch["labels"][4][batch["attention_mask"][4].bool()].tolist() == [1, 2, 3]
        assert (batch["labels"][batch["attention_mask"] == 0] == -100).all()
        for row in ({"codes": codes}, {"text": None, "codes": codes}, {"text": "one"}):
            with pytest.raises(ValueError):
                AudioTextCollator(processor, task)([row])
