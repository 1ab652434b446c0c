"""Codecs under Hugging Face conventions: dtypes, autocast, initialisation, hashes, offloading, names, devices."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import accelerate
import encodec_toys
import pytest
import torch
from datasets.fingerprint import Hasher
from torch import Tensor

from audiotok import AudioCodec, load_codec
from audiotok.codec.adapters import adapt
from audiotok.codec.base import Codec


def seanet(preset: str = "24k") -> Codec:
    return adapt(encodec_toys.random_encodec(encodec_toys.SMALL[preset]), preset)


@pytest.fixture(params=["speech", "seanet"])
def codec(request: pytest.FixtureRequest, tiny_codec: AudioCodec) -> Codec:
    return tiny_codec if request.param == "speech" else seanet()


def streamed(codec: Codec, wav: Tensor) -> Tensor:
    session = codec.streaming_encoder()
    return torch.cat([session.push(wav[..., :1000]), session.push(wav[..., 1000:]), session.flush()], dim=-1)


def test_autocast_changes_neither_codes_nor_audio(codec: Codec, wav: Tensor) -> None:
    out = codec(wav[None])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = codec(wav[None])
        assert torch.equal(again.audio_codes, out.audio_codes)
        torch.testing.assert_close(again.audio_values, out.audio_values)
        assert torch.equal(streamed(codec, wav[None]), out.audio_codes)


@pytest.mark.parametrize("cast", [lambda c: c.to(torch.bfloat16), lambda c: c.half()])
def test_a_cast_codec_makes_the_same_codes(codec: Codec, wav: Tensor, cast: Callable[[Any], Codec]) -> None:
    out, fingerprint = codec(wav[None]), codec.codes_fingerprint
    cast(codec)
    assert {p.dtype for p in codec.decoder.parameters()} != {torch.float32}
    again = codec(wav[None])
    assert torch.equal(again.audio_codes, out.audio_codes) and codec.codes_fingerprint == fingerprint
    assert again.audio_values.dtype == torch.float32
    assert (again.audio_values - out.audio_values).abs().max() < 0.1 * out.audio_values.abs().max()


def test_loading_in_bfloat16_keeps_codes_in_float32(codec: Codec, wav: Tensor, tmp_path: Path) -> None:
    codec.save_pretrained(tmp_path)
    expected = codec.encode(wav[None]).audio_codes
    for loaded in (
        type(codec).from_pretrained(tmp_path, dtype=torch.bfloat16).eval(),
        load_codec(tmp_path, dtype=torch.bfloat16),
        load_codec(tmp_path, dtype="bfloat16"),
    ):
        assert torch.equal(loaded.encode(wav[None]).audio_codes, expected)
        assert loaded.decode(expected).audio_values.isfinite().all()
        assert any(p.dtype == torch.bfloat16 for p in loaded.decoder.parameters())
    with pytest.raises(ValueError, match="float64"):
        load_codec(tmp_path, dtype=torch.float64)


def test_no_tensor_is_left_uninitialised(codec: Codec, tmp_path: Path) -> None:
    """With all weights missing from the checkpoint, a codec equals a newly constructed one."""
    made = type(codec)(codec.config)
    loaded = type(codec).from_pretrained(None, config=codec.config, state_dict={})
    for (name, ours), (_, theirs) in zip(made.named_buffers(), loaded.named_buffers(), strict=True):
        assert torch.equal(ours, theirs), name
    for (name, ours), (_, theirs) in zip(made.named_parameters(), loaded.named_parameters(), strict=True):
        assert ours.shape == theirs.shape and theirs.isfinite().all() and theirs.abs().max() < 100, name
    assert loaded(0.1 * torch.randn(1, 1, 3_200)).audio_values.isfinite().all()


def test_a_codecs_hash_is_the_same_in_every_process(tiny_codec_dir: Path, wav: Tensor) -> None:
    """``datasets.map`` uses this hash for its cache. A second load stands for another process."""
    codec = load_codec(tiny_codec_dir)
    expected = Hasher.hash(codec)
    codec.encode(wav[None])
    assert Hasher.hash(codec) == Hasher.hash(load_codec(tiny_codec_dir)) == expected


def test_offloaded_weights_are_refused(codec: Codec, wav: Tensor) -> None:
    codes = codec.encode(wav[None]).audio_codes
    accelerate.cpu_offload(codec)
    for use in (
        lambda: codec.encode(wav[None]),
        lambda: codec.decode(codes),
        codec.streaming_encoder,
        codec.streaming_decoder,
    ):
        with pytest.raises(RuntimeError, match="offloaded"):
            use()


def test_a_folder_precedes_a_shipped_name(
    tiny_codec: AudioCodec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "default").mkdir()
    assert load_codec("default").config.codec_name != "tiny"  # a folder without a codec is ignored
    tiny_codec.save_pretrained(tmp_path / "mine")
    tiny_codec.save_pretrained(tmp_path / "default")
    assert load_codec("mine").config.codec_name == load_codec("default").config.codec_name == "tiny"


def test_a_missing_scale_means_the_same_in_a_session() -> None:
    codec = seanet("48k")
    codes = codec.encode(encodec_toys.sounds(1, 3_200, 2, 0)).audio_codes
    session = codec.streaming_decoder()
    sound = torch.cat([session.push(codes), session.flush()], dim=-1)
    torch.testing.assert_close(sound, codec.decode(codes).audio_values)


def test_an_encoder_is_tried_again_once_and_never_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    import transformers

    books: dict[str, Any] = {"n_codebooks": 2, "codebook_size": 16, "codebook_dim": 4, "hidden_size": 64}
    ratios: dict[str, Any] = {"downsampling_ratios": [2, 4], "upsampling_ratios": [4, 2]}
    small = {"encoder_hidden_size": 8, "decoder_hidden_size": 64}
    codec = adapt(transformers.DacModel(transformers.DacConfig(**small, **books, **ratios)), "dac")
    for error, frames, tries in (
        (RuntimeError("kernel size is larger than the input"), 3, 2),
        (RuntimeError("kernel size is larger than the input"), 100, 1),
        (torch.OutOfMemoryError("no memory"), 3, 1),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 3, 1),
    ):
        encode = mock.Mock(side_effect=error)
        monkeypatch.setattr(codec.model, "encode", encode)
        with pytest.raises(type(error)):
            codec.encode(torch.zeros(1, 1, frames * codec.config.hop_length))
        assert encode.call_count == tries


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ["speech", "24k", "48k"])
def test_sessions_stay_on_their_device(kind: str, tiny_codec: AudioCodec) -> None:
    codec = (tiny_codec if kind == "speech" else seanet(kind)).to("cuda")
    wav = encodec_toys.sounds(1, 3_300, codec.config.audio_channels, 0).to("cuda")
    encoder, decoder = codec.streaming_encoder(), codec.streaming_decoder()
    codes = [codec.streaming_encoder().flush(), encoder.push(wav[..., :7]), encoder.push(wav[..., 7:])]
    codes += [encoder.flush()]
    sounds = [codec.streaming_decoder().flush(), decoder.push(codes[0]), decoder.push(torch.cat(codes, -1))]
    sounds += [decoder.flush()]
    assert {x.device.type for x in codes + sounds} == {"cuda"}
