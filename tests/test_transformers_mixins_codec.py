"""The model tests of transformers on audiotok's codecs, beside a stock class in the same run.

They come with the source distribution of transformers, as in test_transformers_mixins.py.
"""

from __future__ import annotations

import io
import unittest
from typing import Any

import pytest
import torch
from codec_toys import SMALL
from conftest import build_tiny_codec
from test_transformers_mixins import modeling  # skips this module too where the distribution is missing
from transformers import EncodecConfig, EncodecModel

from audiotok.codec.model import AudioCodec
from audiotok.codec.seanet import SeanetCodec, seanet_preset

pytestmark = pytest.mark.slow
SAMPLES = 6_400


def small_preset(name: str, **changes: Any) -> tuple[type, Any]:
    small = {"filters": 4, "n_q": 4, "codebook_size": 32, "codebook_dim": 16}
    return SeanetCodec, seanet_preset(name, **small, **changes)


CASES: dict[str, Any] = {
    "stock": lambda: (EncodecModel, EncodecConfig(**SMALL["24k"])),
    "speech": lambda: (AudioCodec, build_tiny_codec().config),
    "soundstream": lambda: small_preset("soundstream"),
    "encodec-24k": lambda: small_preset("encodec-24k"),
    "encodec-48k": lambda: small_preset("encodec-48k", segment_samples=3_200),
}


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

    class Suite(modeling.ModelTesterMixin, unittest.TestCase):
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
