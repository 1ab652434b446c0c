"""Codecs of transformers with the interface of :class:`audiotok.Codec`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import soundfile
import torch
from codec_toys import SMALL, random_codec, random_encodec, shared_codec, sounds
from torch import Tensor

from audiotok import AudioTextProcessor, PreparedCorpus, build_tokenizer, checkpoint_dir, load_codec, prepare
from audiotok.bitstream import AtokReader
from audiotok.cli.main import main
from audiotok.codec.adapters import adapt


@pytest.mark.parametrize("kind", ["dac", "mimi", "xcodec"])
@torch.no_grad()
def test_codes_and_audio_equal_the_wrapped_model(kind: str) -> None:
    """For audio of whole frames."""
    codec, model = shared_codec(kind), random_codec(kind)
    wav = sounds(1, 12 * codec.config.hop_length, 1, 4)
    theirs = model.encode(wav).audio_codes
    sound = model.decode(audio_codes=theirs).audio_values.reshape(1, 1, -1)
    ours = codec(wav)
    assert torch.equal(ours.audio_codes, theirs[..., :12])
    size = min(sound.shape[-1], wav.shape[-1])
    torch.testing.assert_close(ours.audio_values[..., :size], sound[..., :size], atol=1e-4, rtol=0)


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
    vocabulary = checkpoint_dir("text-en") / "tokenizer.model"
    fingerprint = codec.codes_fingerprint
    tokenizer = build_tokenizer(vocabulary, config.n_q, config.codebook_size, codes_fingerprint=fingerprint)
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
    random_encodec(SMALL["48k"]).save_pretrained(tmp_path / "stereo")
    codec = load_codec(tmp_path / "stereo")
    rate = codec.config.sampling_rate
    clip = one_clip(tmp_path / "speech", make_speech(1.3, sampling_rate=rate), rate)
    words = ["encode", str(tmp_path / "speech" / "a.wav"), str(tmp_path / "a.atok")]
    assert main([*words, "--codec", str(tmp_path / "stereo"), "--device", "cpu"]) == 0
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


def test_an_encoder_is_tried_again_once_and_never_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = adapt(random_codec("dac"))
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
