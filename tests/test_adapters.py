"""Codecs of transformers with the interface of :class:`audiotok.Codec`."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import encodec_toys
import numpy as np
import pytest
import soundfile
import torch
import transformers
from torch import Tensor

from audiotok import AudioTextProcessor, PreparedCorpus, build_tokenizer, checkpoint_dir, load_codec, prepare
from audiotok.bitstream import AtokReader
from audiotok.cli.main import main
from audiotok.codec.adapters import adapt
from audiotok.codec.base import Codec

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
    small = {
        "num_filters": 4,
        "hidden_size": 32,
        "intermediate_size": 32,
        "head_dim": 16,
        "upsample_groups": 32,
    }
    books = {"codebook_size": 64, "codebook_dim": 16, "num_quantizers": 4}
    heads = {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = transformers.MimiConfig(**small, **books, **heads, vector_quantization_hidden_dimension=16)
    return transformers.MimiModel(config)


def xcodec() -> Any:
    semantic = transformers.HubertConfig(
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
        semantic_model_config=semantic,
    )
    return transformers.XcodecModel(config)


def encodec() -> Any:
    return encodec_toys.random_encodec(encodec_toys.SMALL["24k"] | {"target_bandwidths": [0.4, 1.6]})


MAKERS: dict[str, Callable[[], Any]] = {"encodec": encodec, "dac": dac, "mimi": mimi, "xcodec": xcodec}
EACH = pytest.mark.parametrize("kind", list(MAKERS))


@torch.no_grad()
def random_codec(kind: str) -> Any:
    """A small codec of transformers with seeded weights and with codebooks drawn around its latents."""
    before = torch.get_rng_state()
    torch.manual_seed(0)
    model = MAKERS[kind]().eval()
    if kind != "encodec":
        rate = getattr(model.config, "sampling_rate", None) or model.config.sample_rate
        wav = encodec_toys.sounds(6, rate, 1, 1)
        kinds = ("VectorQuantization", "VectorQuantize")
        layers = [m for m in model.modules() if type(m).__name__.endswith(kinds) and hasattr(m, "codebook")]
        for layer in layers:
            name = "decode_latents" if kind == "dac" else "encode"
            with mock.patch.object(layer, name, wraps=getattr(layer, name)) as call:
                model.encode(wav)
            latents = call.call_args_list[0].args[0].transpose(1, 2).flatten(0, 1)
            book = layer.codebook.weight if kind == "dac" else layer.codebook.state_dict()[BOOKS[kind]]
            # In Mimi these are sums, which equal the codewords because the counts are 1.
            book.copy_(latents.mean(0) + 0.8 * latents.std(0) * torch.randn(book.shape))
            if kind == "mimi":
                layer.codebook._embed = None
    torch.set_rng_state(before)
    return model


BOOKS = {"mimi": "embed_sum", "xcodec": "embed"}


@pytest.fixture
def codec(kind: str) -> Any:
    return adapt(random_codec(kind), kind)


@EACH
def test_codes_equal_the_wrapped_model(kind: str, codec: Any) -> None:
    """Audio of whole frames gives the codes and the audio of the wrapped model."""
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
    found = codec.decode(together.audio_codes, num_samples=5 * hop, padding_mask=mask).audio_values
    for i, length in enumerate(lengths.tolist()):
        alone = codec(wav[i : i + 1, :, :length])
        frames = int(together.audio_codes_mask[i].sum())
        assert frames == codec.frames(length) == math.ceil(length / hop)
        assert torch.equal(alone.audio_codes[0], together.audio_codes[i, :, :frames])
        if kind != "encodec":  # causal: padding after the end of an item does not change it
            torch.testing.assert_close(alone.audio_values[0], found[i, :, :length], atol=1e-5, rtol=0)
        assert not found[i, :, length:].any()


@EACH
def test_a_loaded_codec_can_be_saved_copied_and_pickled(
    kind: str, codec: Any, tmp_path: Path, no_network: list[object]
) -> None:
    random_codec(kind).save_pretrained(tmp_path / "theirs")
    loaded = load_codec(tmp_path / "theirs")
    loaded.save_pretrained(tmp_path / "again")
    assert isinstance(loaded, Codec) and loaded.config.codec_name == "theirs" and no_network == []
    twins = (load_codec(tmp_path / "again"), pickle.loads(pickle.dumps(loaded)), copy.deepcopy(loaded))
    for twin in (*twins, codec):
        assert twin.codes_fingerprint == loaded.codes_fingerprint
        assert twin.weights_fingerprint == loaded.weights_fingerprint
    config = codec.config
    assert config.bitrate_bps == config.n_q * math.log2(config.codebook_size) * config.frame_rate


def one_clip(folder: Path, wav: Tensor, rate: int) -> Tensor:
    """A folder with one recording and its text; returns the recording [N] as it was stored."""
    folder.mkdir()
    soundfile.write(folder / "a.wav", wav[0].numpy(), rate)
    (folder / "metadata.csv").write_text("file_name,transcription,language\na.wav,The cat.,en\n")
    return torch.from_numpy(soundfile.read(folder / "a.wav", dtype="float32")[0])


def test_works_with_the_rest_of_the_package(tmp_path: Path, make_speech: Callable[..., Tensor]) -> None:
    """Tokenizer ids, a prepared row, files by the programs."""
    random_codec("mimi").save_pretrained(tmp_path / "theirs")
    codec = load_codec(tmp_path / "theirs")
    config, rate = codec.config, codec.config.sampling_rate
    clip = one_clip(tmp_path / "speech", make_speech(0.7, sampling_rate=rate), rate)
    out = codec(clip[None, None])
    tokenizer = build_tokenizer(
        checkpoint_dir("text-en") / "tokenizer.model",
        config.n_q,
        config.codebook_size,
        codes_fingerprint=codec.codes_fingerprint,
    )
    processor = AudioTextProcessor.from_codec(tokenizer, codec)
    (sound,) = processor.decode_audio(processor("The cat.", clip)["input_ids"])
    torch.testing.assert_close(sound, codec.decode(out.audio_codes).audio_values[0])

    prepare(tmp_path / "speech", tmp_path / "corpus", codec, batch_s=4.0)
    (row,) = PreparedCorpus(tmp_path / "corpus")
    assert torch.equal(row["codes"], out.audio_codes[0])

    chosen = ["--codec", str(tmp_path / "theirs"), "--device", "cpu"]
    assert main(["encode", str(tmp_path / "speech" / "a.wav"), str(tmp_path / "a.atok"), *chosen]) == 0
    assert main(["decode", str(tmp_path / "a.atok"), str(tmp_path / "a.wav"), *chosen]) == 0
    back, _ = soundfile.read(tmp_path / "a.wav", dtype="float32")
    np.testing.assert_allclose(back, out.audio_values[0, 0].clamp(-1, 1).numpy(), atol=1e-4)


def test_files_and_shards_keep_scales(tmp_path: Path, make_speech: Callable[..., Tensor]) -> None:
    """EnCodec's stereo preset has segments with a gain each."""
    encodec_toys.random_encodec(encodec_toys.SMALL["48k"]).save_pretrained(tmp_path / "stereo")
    codec = load_codec(tmp_path / "stereo")
    rate = codec.config.sampling_rate
    clip = one_clip(tmp_path / "speech", make_speech(1.3, sampling_rate=rate), rate)
    chosen = ["--codec", str(tmp_path / "stereo"), "--device", "cpu"]
    assert main(["encode", str(tmp_path / "speech" / "a.wav"), str(tmp_path / "a.atok"), *chosen]) == 0
    out = codec(clip.expand(1, 2, -1))
    with AtokReader(tmp_path / "a.atok") as file:
        found = file.read()
    assert torch.equal(found.codes, out.audio_codes[0])
    assert found.scales is not None and torch.equal(found.scales, out.audio_scales[0])
    prepare(tmp_path / "speech", tmp_path / "corpus", codec, batch_s=4.0)
    (row,) = PreparedCorpus(tmp_path / "corpus")
    np.testing.assert_allclose(row["scales"], out.audio_scales[0].numpy(), rtol=1e-6)


def test_unsupported_models_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "neucodec"}))
    with pytest.raises(ValueError, match="neucodec"):
        load_codec(tmp_path)
    with pytest.raises(ValueError, match="Linear"):
        adapt(torch.nn.Linear(1, 1))
    with pytest.raises(ValueError, match="bfloat16"):
        adapt(random_codec("dac")).to(torch.bfloat16)
