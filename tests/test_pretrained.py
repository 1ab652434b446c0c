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
    ("change", "value"),
    [
        (config(model_type="llama"), "'llama'"),
        (config(sampling_rate=0), "sampling_rate=0"),
        (config(leaky_slope=0.25), "provenance.json"),
        (config(n_q=3), "weights"),
        (config(n_q="x"), "n_q"),
        (config(leaky_slope=None), "leaky_slope"),
        (config(encoder_dilations="x"), "encoder_dilations"),
        (lambda folder: (folder / "config.json").write_text("[]"), "config.json"),
        (lambda folder: (folder / "config.json").write_text("[" * 100_000), "config.json"),
        (lambda folder: (folder / "provenance.json").write_text("[]"), "provenance.json"),
        (lambda folder: (folder / "provenance.json").write_text("{"), "provenance.json"),
        (cut(0.0), "weights"),
        (cut(0.5), "weights"),
        (overwrite, "provenance.json"),
    ],
)
def test_a_damaged_codec_is_refused(folder: Path, change: Callable[[Path], None], value: str) -> None:
    change(folder)
    with pytest.raises(ValueError, match=value) as refused:
        load_codec(folder)
    assert "\n" not in str(refused.value)


@torch.no_grad()
@pytest.mark.parametrize("wrong", ["missing", "NaN"])
def test_weights_that_do_not_fit_are_refused(folder: Path, tiny_codec: AudioCodec, wrong: str) -> None:
    if wrong == "NaN":
        tiny_codec.encoder.latent.weight[0] = torch.nan
    else:
        tiny_codec.decoder.blocks = tiny_codec.decoder.blocks[:-1]
    tiny_codec.save_pretrained(folder)
    with pytest.raises(ValueError, match=wrong):
        load_codec(folder)


def test_an_empty_name_is_not_the_default_codec() -> None:
    with pytest.raises(FileNotFoundError, match="''"):
        load_codec("")
