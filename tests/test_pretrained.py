"""Damaged codec folders and folders without a codec are refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from audiotok import AudioCodec, load_codec
from audiotok.training.release import release


@pytest.fixture
def folder(tiny_codec: AudioCodec, tmp_path: Path) -> Path:
    release(tiny_codec, tmp_path / "codec", {})
    return tmp_path / "codec"


def config(**values: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def cut(share: float) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        data = path.read_bytes()
        path.write_bytes(data[: int(len(data) * share)])

    return change


def overwrite(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-40:-20] = b"\x11" * 20
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (config(model_type="llama"), "expected a codec .audiotok_codec, .*, mimi, .*, got 'llama'"),
        (config(sampling_rate=0), "CodecConfig.sampling_rate=0 must be a whole number, 1 or more"),
        (config(leaky_slope=0.25), "they are damaged, or changed: then remove provenance.json"),
        (config(n_q=3), "weights are damaged"),
        (cut(0.0), "weights are damaged"),
        (cut(0.5), "weights are damaged"),
        (overwrite, "they are damaged, or changed: then remove provenance.json"),
    ],
)
def test_a_damaged_codec_is_refused(folder: Path, change: Callable[[Path], None], message: str) -> None:
    assert load_codec(folder).codes_fingerprint
    change(folder)
    with pytest.raises(ValueError, match=message):
        load_codec(folder)


def test_weights_of_other_models_are_refused(folder: Path, tiny_codec: AudioCodec) -> None:
    tiny_codec.decoder.blocks = tiny_codec.decoder.blocks[:-1]
    tiny_codec.save_pretrained(folder)
    with pytest.raises(ValueError, match="missing; fetch the codec again"):
        load_codec(folder)


def test_nan_weights_are_refused(folder: Path, tiny_codec: AudioCodec) -> None:
    with torch.no_grad():
        tiny_codec.encoder.latent.weight[0] = torch.nan
    tiny_codec.save_pretrained(folder)
    with pytest.raises(ValueError, match="weights hold NaN or infinity"):
        load_codec(folder)


@pytest.mark.parametrize("device", ["meta", "toaster", "cuda:99"])
def test_missing_devices_are_refused_before_loading(device: str) -> None:
    with pytest.raises(ValueError, match=f"expected a device .* got '{device}'"):
        load_codec("nothing-of-this-name", device=device)


def test_an_empty_name_is_not_the_default_codec() -> None:
    with pytest.raises(FileNotFoundError, match="no checkpoint ''"):
        load_codec("")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (config(n_q="x"), "expected n_q of config.json to be int, got 'x'"),
        (config(leaky_slope=None), "expected leaky_slope of config.json to be float, got None"),
        (config(encoder_dilations="x"), "expected encoder_dilations of config.json to be list"),
        (
            lambda folder: (folder / "config.json").write_text("[]"),
            "expected settings by name in config.json",
        ),
        (lambda folder: (folder / "config.json").write_text("[" * 100_000), "expected settings by name"),
        (
            lambda folder: (folder / "provenance.json").write_text("[]"),
            "provenance.json: expected the finger",
        ),
        (lambda folder: (folder / "provenance.json").write_text("{"), "provenance.json: expected the finger"),
    ],
)
def test_bad_configs_are_refused_in_one_line(
    folder: Path, change: Callable[[Path], None], message: str
) -> None:
    load_codec(folder)
    change(folder)
    with pytest.raises(ValueError, match=message) as refused:
        load_codec(folder)
    assert "\n" not in str(refused.value)
