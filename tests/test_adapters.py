"""Everybody else's codecs behind the face of ours: what is true of one is true of all, down to the language model."""

from __future__ import annotations

import copy
import csv
import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import encodec_toys
import numpy as np
import pytest
import soundfile
import torch
import transformers
from torch import Tensor

from audiotok import AudioTextProcessor, PreparedCorpus, build_tokenizer, checkpoint_dir, load_codec, prepare
from audiotok.bitstream import AtokReader, AtokWriter
from audiotok.cli.encode import new_header
from audiotok.cli.main import main
from audiotok.codec.adapters import ADAPTED, NOT_ADAPTED, AdaptedCodec, adapt
from audiotok.codec.base import Codec
from tts_lm.training.recipe import load_lm_recipe
from tts_lm.training.trainer import train_lm

WORDS = "the cat sat on a mat and the dog ran to a big red house".split()
DAC: dict[str, Any] = {
    "encoder_hidden_size": 8,
    "decoder_hidden_size": 64,
    "downsampling_ratios": [2, 4, 5, 8],
    "upsampling_ratios": [8, 5, 4, 2],
    "hidden_size": 64,
}


def dac() -> Any:
    books: dict[str, Any] = {"n_codebooks": 4, "codebook_size": 64, "codebook_dim": 8}
    return transformers.DacModel(transformers.DacConfig(**DAC, **books))


def mimi() -> Any:
    config = transformers.MimiConfig(
        num_filters=4,
        hidden_size=32,
        codebook_size=64,
        codebook_dim=16,
        num_quantizers=4,
        vector_quantization_hidden_dimension=16,
        upsample_groups=32,
        num_hidden_layers=1,
        intermediate_size=32,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
    )
    return transformers.MimiModel(config)


def xcodec() -> Any:
    hearing = transformers.HubertConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        conv_dim=[8] * 7,
        num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=2,
    )
    config = transformers.XcodecConfig(
        codebook_size=64,
        target_bandwidths=[0.3, 1.2],
        acoustic_model_config=transformers.DacConfig(**DAC | {"downsampling_ratios": [8, 5, 4, 2]}),
        semantic_model_config=hearing,
    )
    return transformers.XcodecModel(config)


def encodec() -> Any:
    return encodec_toys.random_encodec(encodec_toys.SMALL["24k"] | {"target_bandwidths": [0.4, 1.6]})


MAKERS: dict[str, Callable[[], Any]] = {"encodec": encodec, "dac": dac, "mimi": mimi, "xcodec": xcodec}
EACH = pytest.mark.parametrize("kind", list(MAKERS))


@torch.no_grad()
def random_codec(kind: str) -> Any:
    """A small codec of transformers with seeded weights, and books that are normal about what they are to quantise."""
    before = torch.get_rng_state()
    torch.manual_seed(0)
    model = MAKERS[kind]().eval()
    if kind != "encodec":
        rate = getattr(model.config, "sampling_rate", None) or model.config.sample_rate
        wav = encodec_toys.sounds(6, rate, 1, 1)
        kinds = ("VectorQuantization", "VectorQuantize")
        layers = [m for m in model.modules() if type(m).__name__.endswith(kinds) and hasattr(m, "codebook")]
        for layer in layers:
            heard = listen(layer, "decode_latents" if kind == "dac" else "encode", lambda: model.encode(wav))
            latents = heard[0].transpose(1, 2).flatten(0, 1)
            book = layer.codebook.weight if kind == "dac" else layer.codebook.state_dict()[BOOKS[kind]]
            # Of Mimi these are sums, which its counts of 1 make codewords.
            book.copy_(latents.mean(0) + 0.8 * latents.std(0) * torch.randn(book.shape))
            if kind == "mimi":
                layer.codebook._embed = None
    torch.set_rng_state(before)
    return model


def listen(layer: Any, name: str, run: Callable[[], object]) -> list[Tensor]:
    """The first arguments of a method's calls while something runs."""
    heard, original = [], getattr(layer, name)

    def method(x: Tensor, *args: Any) -> Any:
        heard.append(x)
        return original(x, *args)

    setattr(layer, name, method)
    run()
    delattr(layer, name)
    return heard


BOOKS = {"mimi": "embed_sum", "xcodec": "embed"}


@pytest.fixture
def codec(kind: str) -> Any:
    return adapt(random_codec(kind), kind)


def speech_corpus(folder: Path, make_speech: Callable[..., Tensor], rate: int) -> Path:
    folder.mkdir()
    with (folder / "metadata.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(("file_name", "transcription", "language"))
        for index in range(20):
            wav = make_speech(0.6 + 0.05 * index, sampling_rate=rate, seed=index)[0].numpy()
            soundfile.write(folder / f"{index}.wav", wav, rate)
            table.writerow((f"{index}.wav", " ".join(WORDS[: 2 + index % 9]).capitalize() + ".", "en"))
    return folder


@EACH
def test_everything_downstream_takes_it(
    kind: str, codec: Any, tmp_path: Path, make_speech: Callable[..., Tensor], no_network: list[object]
) -> None:
    """Encode, decode, tokenizer round trip, prepare 20 clips, container, 50 steps of the language model."""
    config, rate = codec.config, codec.config.sampling_rate
    wav = make_speech(1.1, sampling_rate=rate)[..., : rate + 57]
    out = codec(wav[None])
    codes = out.audio_codes
    assert codes.shape == (1, config.n_q, math.ceil(wav.shape[-1] / config.hop_length))
    assert out.audio_values.shape == wav[None].shape and bool(torch.isfinite(out.audio_values).all())
    assert config.frame_rate == rate / config.hop_length
    assert config.bitrate_bps == config.n_q * math.log2(config.codebook_size) * config.frame_rate
    # From the first to the last book something is said (Mimi has a dozen frames in a second).
    assert min(len(book.unique()) for book in codes[0]) > min(10, codes.shape[-1] // 3)

    text = checkpoint_dir("text-en") / "tokenizer.model"
    tokenizer = build_tokenizer(
        text, config.n_q, config.codebook_size, codes_fingerprint=codec.codes_fingerprint
    )
    processor = AudioTextProcessor.from_codec(tokenizer, codec)
    for layout in ("flat", "coarse", "delay"):
        processor.layout = layout
        ids = processor.encode_audio(wav)
        assert torch.equal(tokenizer.decode_audio(ids, layout), codes[0])
    processor.layout = "flat"
    (sound,) = processor.decode_audio(processor("The cat.", wav)["input_ids"])
    torch.testing.assert_close(sound, codec.decode(codes).audio_values[0].cpu())

    source = speech_corpus(tmp_path / "speech", make_speech, rate)
    manifest = prepare(source, tmp_path / "corpus", codec, batch_s=4.0)
    corpus = PreparedCorpus(tmp_path / "corpus")
    assert manifest.rows == len(corpus) == 20 and manifest.codes_fingerprint == codec.codes_fingerprint
    for index in (0, 13):
        clip, _ = soundfile.read(source / f"{index}.wav", dtype="float32")
        row = next(row for row in corpus if row["id"].startswith(f"{index}."))
        alone = codec.encode(torch.from_numpy(clip)[None, None]).audio_codes[0]
        assert torch.equal(row["codes"], alone)

    header = new_header(config, codec.codes_fingerprint, config.n_q, None)
    with open(tmp_path / "a.atok", "wb") as file:
        writer = AtokWriter(file, header)
        writer.write(codes[0])
        writer.close(wav.shape[-1])
    with AtokReader(tmp_path / "a.atok") as file:
        assert torch.equal(file.read().codes, codes[0]) and file.header.num_samples == wav.shape[-1]
        assert file.header.codes_fingerprint == codec.codes_fingerprint

    overrides = ["model.hidden_size=32", "model.layers=2", "model.heads=2", "model.intermediate_size=48"]
    overrides += ["dtype=float32", "optim.token_noise=0", "log_every=1", "data.batch_tokens=300"]
    overrides += ["attention.layers=[0, 1]", "max_minutes=0", "max_steps=50", "optim.lr=3e-3"]
    train_lm(load_lm_recipe("ar", overrides), [tmp_path / "corpus"], tmp_path / "lm", device="cpu")
    lines = [json.loads(line) for line in (tmp_path / "lm" / "log.jsonl").read_text().splitlines()]
    losses = [line["ar/loss"] for line in lines if "ar/loss" in line]
    assert len(losses) == 50 and np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    assert no_network == []


@EACH
def test_codes_are_those_of_what_is_wrapped(kind: str, codec: Any) -> None:
    """A sound of whole frames, alone: the wrapped model's own codes, and its sound of them."""
    model = random_codec(kind)
    wav = encodec_toys.sounds(1, 12 * codec.config.hop_length, 1, 4)
    with torch.no_grad():
        if kind == "encodec":
            theirs, sound = encodec_toys.their_codes(model, wav)[0], encodec_toys.their_sound(model, wav)
        else:
            theirs = model.encode(wav).audio_codes
            sound = model.decode(audio_codes=theirs).audio_values.reshape(1, 1, -1)
    ours = codec(wav)
    assert torch.equal(ours.audio_codes, theirs[..., :12])
    size = min(sound.shape[-1], wav.shape[-1])
    torch.testing.assert_close(ours.audio_values[..., :size], sound[..., :size], atol=1e-4, rtol=0)
    assert torch.equal(codec.encode(wav, n_q=2).audio_codes, theirs[:, :2, :12])


@EACH
def test_neighbours_and_padding_do_not_change_codes(kind: str, codec: Any) -> None:
    hop = codec.config.hop_length
    lengths = torch.tensor([5 * hop, 2 * hop + 1, 5 * hop, 17])
    wav = encodec_toys.sounds(4, 5 * hop, 1, 9)
    mask = torch.arange(5 * hop) < lengths[:, None]
    together = codec.encode(wav, padding_mask=mask)
    heard = codec.decode(together.audio_codes, num_samples=5 * hop, padding_mask=mask).audio_values
    for i, length in enumerate(lengths.tolist()):
        alone = codec(wav[i : i + 1, :, :length])
        frames = int(together.audio_codes_mask[i].sum())
        assert frames == codec.frames(length) == math.ceil(length / hop)
        assert torch.equal(alone.audio_codes[0], together.audio_codes[i, :, :frames])
        if kind != "encodec":  # which is causal: what is decoded behind an item's end does not reach back
            torch.testing.assert_close(alone.audio_values[0], heard[i, :, :length], atol=1e-5, rtol=0)
        assert not heard[i, :, length:].any()


@EACH
def test_it_opens_from_its_folder_by_its_kind(
    kind: str, tmp_path: Path, no_network: list[object], capsys: pytest.CaptureFixture[str]
) -> None:
    model = random_codec(kind)
    model.save_pretrained(tmp_path / "their-codec")
    codec = load_codec(tmp_path / "their-codec")
    assert isinstance(codec, Codec) and codec.config.codec_name == "their-codec"
    assert codec.codes_fingerprint == adapt(model).codes_fingerprint
    codec.save_pretrained(tmp_path / "again")
    assert load_codec(tmp_path / "again").weights_fingerprint == codec.weights_fingerprint
    for twin in (pickle.loads(pickle.dumps(codec)), copy.deepcopy(codec)):
        assert twin.codes_fingerprint == codec.codes_fingerprint

    wav = encodec_toys.sounds(1, 3 * codec.config.sampling_rate // 2, 1, 2)[0]
    soundfile.write(tmp_path / "in.wav", wav[0].numpy(), codec.config.sampling_rate)
    chosen = ["--codec", str(tmp_path / "their-codec"), "--device", "cpu"]
    assert main(["encode", str(tmp_path / "in.wav"), str(tmp_path / "a.atok"), *chosen]) == 0
    assert main(["decode", str(tmp_path / "a.atok"), str(tmp_path / "out.wav"), *chosen]) == 0
    back, rate = soundfile.read(tmp_path / "out.wav", dtype="float32")
    read, _ = soundfile.read(tmp_path / "in.wav", dtype="float32")
    expected = codec(torch.from_numpy(read)[None, None]).audio_values[0, 0].clamp(-1, 1).numpy()
    assert rate == codec.config.sampling_rate and back.shape == expected.shape
    np.testing.assert_allclose(back, expected, atol=1e-4)
    capsys.readouterr()
    assert main(["info", str(tmp_path / "their-codec"), "--json", "--device", "cpu"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["codes_fingerprint"] == codec.codes_fingerprint and facts["n_q"] == codec.config.n_q
    assert no_network == []


def test_scales_travel_in_the_file_and_in_the_shard(
    tmp_path: Path, make_speech: Callable[..., Tensor]
) -> None:
    """EnCodec's stereo preset: segments, each with its gain."""
    encodec_toys.random_encodec(encodec_toys.SMALL["48k"]).save_pretrained(tmp_path / "stereo")
    codec = load_codec(tmp_path / "stereo")
    rate = codec.config.sampling_rate
    source = speech_corpus(tmp_path / "speech", make_speech, rate)
    chosen = ["--codec", str(tmp_path / "stereo"), "--device", "cpu"]
    assert main(["encode", str(source / "19.wav"), str(tmp_path / "a.atok"), *chosen]) == 0
    assert main(["decode", str(tmp_path / "a.atok"), str(tmp_path / "b.wav"), *chosen]) == 0
    clip, _ = soundfile.read(source / "19.wav", dtype="float32")
    wav = torch.from_numpy(clip).expand(1, 2, -1)
    out = codec(wav)
    with AtokReader(tmp_path / "a.atok") as file:
        found = file.read()
        assert file.header.scale_frames == codec.scale_frames and file.header.channels == 2
    assert torch.equal(found.codes, out.audio_codes[0])
    assert found.scales is not None and torch.equal(found.scales, out.audio_scales[0])
    back, _ = soundfile.read(tmp_path / "b.wav", dtype="float32")
    np.testing.assert_allclose(back, out.audio_values[0].mean(0).clamp(-1, 1).numpy(), atol=1e-4)

    prepare(source, tmp_path / "corpus", codec, batch_s=4.0)
    row = next(row for row in PreparedCorpus(tmp_path / "corpus") if row["id"].startswith("19."))
    assert torch.equal(row["codes"], out.audio_codes[0])
    np.testing.assert_allclose(row["scales"], out.audio_scales[0].numpy(), rtol=1e-6)
    with pytest.raises(ValueError, match="segments with a scale each, which ids cannot carry"):
        AudioTextProcessor.from_codec(build_tokenizer(
            checkpoint_dir("text-en") / "tokenizer.model", codec.config.n_q, codec.config.codebook_size,
            codes_fingerprint=codec.codes_fingerprint,
        ), codec)  # fmt: skip


def test_what_cannot_be_adapted_is_named(tmp_path: Path) -> None:
    for kind, reason in NOT_ADAPTED.items():
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "config.json").write_text(json.dumps({"model_type": kind}))
        with pytest.raises(ValueError, match=f"got '{kind}': .*{reason}"):
            load_codec(tmp_path / kind)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    with pytest.raises(ValueError, match="expected a codec of encodec, dac, .*, got hubert"):
        adapt(transformers.HubertModel(transformers.HubertConfig(**small, conv_dim=[8] * 7)))


def test_all_that_transformers_registers_is_adapted_or_named() -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_AUDIO_TOKENIZATION_NAMES

    assert set(MODEL_FOR_AUDIO_TOKENIZATION_NAMES) <= set(ADAPTED) | set(NOT_ADAPTED)
    assert all(hasattr(transformers, name) for name in ADAPTED.values())


def test_bfloat16_is_refused() -> None:
    codec = adapt(random_codec("dac"))
    assert isinstance(codec, AdaptedCodec)
    with pytest.raises(ValueError, match="expected float32 for a codec of transformers, got torch.bfloat16"):
        codec.to(torch.bfloat16)
