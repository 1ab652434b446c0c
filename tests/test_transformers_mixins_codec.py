"""The model tests of transformers on audiotok's codecs, beside a stock class in the same run.

They come with the source distribution of transformers. Set TRANSFORMERS_TESTS to its folder ``tests``.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import types
import unittest
from pathlib import Path
from typing import Any

import pytest
import torch
from encodec_toys import SMALL
from transformers import EncodecConfig, EncodecModel

from audiotok.codec.config import CodecConfig
from audiotok.codec.model import AudioCodec

FOLDER = Path(os.environ.get("TRANSFORMERS_TESTS", "/nowhere"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (FOLDER / "test_modeling_common.py").is_file(), reason="TRANSFORMERS_TESTS names no tests"
    ),
]
SAMPLES = 6_400


def small_codec() -> CodecConfig:
    banks = [{"window": 400, "low_hz": 0.0, "high_hz": 8000.0, "bands": 8, "snapshots": 4}]
    return CodecConfig(
        n_q=4,
        codebook_size=64,
        codebook_dim=16,
        encoder_banks=banks,
        encoder_dim=32,
        encoder_dilations=[1, 2],
        decoder_dim=32,
        decoder_layers=2,
    )


def small_preset(name: str, **changes: Any) -> Any:
    from audiotok.codec.seanet import seanet_preset

    small = {"filters": 4, "n_q": 4, "codebook_size": 32, "codebook_dim": 16}
    return seanet_preset(name, **small, **changes)


def seanet() -> type:
    from audiotok.codec.seanet import SeanetCodec

    return SeanetCodec


CASES: dict[str, Any] = {
    "stock": lambda: (EncodecModel, EncodecConfig(**SMALL["24k"])),
    "speech": lambda: (AudioCodec, small_codec()),
    "soundstream": lambda: (seanet(), small_preset("soundstream")),
    "encodec-24k": lambda: (seanet(), small_preset("encodec-24k")),
    "encodec-48k": lambda: (seanet(), small_preset("encodec-48k", segment_samples=3_200)),
}


def mixin() -> type:
    """ModelTesterMixin, with stand-ins for the modules that the source distribution leaves out."""
    package = types.ModuleType("transformers_tests")
    package.__path__ = [str(FOLDER)]
    sys.modules.setdefault("transformers_tests", package)
    for module, name in (
        ("exporters.test_export", "ExportTesterMixin"),
        ("generation.test_utils", "GenerationTesterMixin"),
    ):
        parent, full = f"transformers_tests.{module.split('.')[0]}", f"transformers_tests.{module}"
        sys.modules.setdefault(parent, types.ModuleType(parent))
        stand_in = types.ModuleType(full)
        setattr(stand_in, name, type(name, (), {}))
        sys.modules.setdefault(full, stand_in)
    return importlib.import_module("transformers_tests.test_modeling_common").ModelTesterMixin


def failures(case: str) -> dict[str, str]:
    """Test -> the last line of its error, of all tests that fail."""
    family, config = CASES[case]()

    class Tester:
        batch_size, is_training, num_hidden_layers, seq_length, hidden_size = 2, False, 2, SAMPLES, 16

        def get_config(self) -> Any:
            return config

        def prepare_config_and_inputs_for_common(self) -> tuple[Any, dict[str, Any]]:
            channels = config.audio_channels
            generator = torch.Generator().manual_seed(0)
            wav = 0.2 * torch.randn(2, channels, SAMPLES, generator=generator).clamp(-3, 3)
            return config, {"input_values": wav}

    class Suite(mixin(), unittest.TestCase):
        all_model_classes = (family,)
        test_resize_embeddings = False
        has_attentions = False
        is_encoder_decoder = True
        test_can_init_all_missing_weights_before_2023 = True

        def setUp(self) -> None:
            self.model_tester = Tester()

    suite = unittest.defaultTestLoader.loadTestsFromTestCase(Suite)
    result = unittest.TextTestRunner(io.StringIO()).run(suite)
    print(f"{case}: {result.testsRun} run, {len(result.skipped)} skipped")
    return {
        test.id().rpartition(".")[2]: error.strip().splitlines()[-1]
        for test, error in [*result.failures, *result.errors]
    }


@pytest.fixture(scope="module")
def stock() -> dict[str, str]:
    return failures("stock")


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", [name for name in CASES if name != "stock"])
def test_no_more_failures_than_stock(case: str, stock: dict[str, str]) -> None:
    ours = failures(case)
    print(case, ours, "stock", stock, sep="\n")
    assert len(set(ours) - set(stock)) <= max(0, len(set(stock) - set(ours))), ours
    assert "test_can_init_all_missing_weights" not in ours
