"""Carrying a half over to another codec's codes."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from lm_toys import FINGERPRINT, N_Q, SIZE, toy_tokenizer, write_corpus

from audiotok import PreparedCorpus
from tts_lm.models.ar import build_ar
from tts_lm.models.nar import NarConfig, NarModel
from tts_lm.training.carry import carry_ar, carry_nar, count_pairs, pair_rows
from tts_lm.training.recipe import load_lm_recipe
from tts_lm.training.run import train_lm

NEW = "0e77c0de00000000"


def renumbered(codes: torch.Tensor, orders: torch.Tensor) -> torch.Tensor:
    """Code c of codebook k becomes orders[k][c]."""
    return torch.stack([orders[k][codes[k]] for k in range(len(codes))])


@pytest.fixture
def orders() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.stack([torch.randperm(SIZE, generator=generator) for _ in range(N_Q)])


@pytest.fixture
def clips(orders: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Every code occurs; the new codec only numbers them in another way."""
    generator = torch.Generator().manual_seed(4)
    old = [torch.stack([torch.randperm(SIZE, generator=generator) for _ in range(N_Q)]) for _ in range(3)]
    return [(codes, renumbered(codes, orders)) for codes in old]


def test_renumbered_codes_keep_their_meaning_in_the_ar_half(clips, orders) -> None:
    torch.manual_seed(0)
    model = build_ar(toy_tokenizer(), 50.0, 32, 2, 2, 48).eval()
    carried = copy.deepcopy(model)
    shares, _ = count_pairs(iter(clips), SIZE, 1000)
    carry_ar(carried, shares, NEW)
    first = model.config.audio["audio_offset"]
    codes = torch.randint(SIZE, (1, 40), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        before = model(input_ids=codes + first).logits[..., first : first + SIZE]
        after = carried(input_ids=orders[0][codes] + first).logits[..., first : first + SIZE]
    torch.testing.assert_close(after[..., orders[0]], before, atol=1e-5, rtol=1e-5)
    assert carried.config.audio["codes_fingerprint"] == NEW != model.config.audio["codes_fingerprint"]


def test_a_turned_latent_space_keeps_its_meaning_in_the_nar_half(clips, orders) -> None:
    torch.manual_seed(0)
    config = NarConfig(
        text_size=10, n_q=N_Q, codebook_size=SIZE, codebook_dim=8, hidden_size=32, num_hidden_layers=1,
        num_attention_heads=2, intermediate_size=48, codes_fingerprint=FINGERPRINT,
    )  # fmt: skip
    model = NarModel(config).eval()
    words = torch.randn(N_Q, SIZE, 8)
    model.set_codebooks(words)
    turn = torch.linalg.qr(torch.randn(8, 8)).Q
    new_words = torch.empty_like(words)
    for k in range(N_Q):
        new_words[k, orders[k]] = words[k] @ turn
    carried = copy.deepcopy(model)
    carry_nar(carried, *count_pairs(iter(clips), SIZE, 1000), new_words, NEW)
    codes = torch.randint(SIZE, (N_Q, 30), generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        before, after = (
            half.logits(
                half(
                    torch.arange(5)[None], grid[None], torch.tensor([2]), torch.tensor([0]), grid[None, :, :0]
                ),
                2,
            )
            for half, grid in ((model, codes), (carried, renumbered(codes, orders)))
        )
    torch.testing.assert_close(after[..., orders[2]], before, atol=1e-3, rtol=1e-3)
    assert carried.config.codes_fingerprint == NEW


def test_a_code_that_never_occurred_means_the_average() -> None:
    codes = torch.tensor([[0, 1, 1, 1]])
    shares, sample = count_pairs(iter([(codes, torch.zeros_like(codes))]), 3, 2)
    assert shares.tolist() == [[0.25, 0.75, 0.0]] * 3
    assert sample.shape == (2, 1, 2)


def test_clips_are_paired_by_their_ids(tmp_path: Path) -> None:
    write_corpus(tmp_path / "old", 4)
    write_corpus(tmp_path / "new", 4, fingerprint=NEW)
    pairs = list(pair_rows([tmp_path / "old"], [tmp_path / "new"]))
    assert len(pairs) == 4 and all(torch.equal(was, now) for was, now in pairs)
    write_corpus(tmp_path / "other", 4, seed=1, fingerprint=NEW)
    with pytest.raises(ValueError, match="expected codes .* as in .*old"):
        list(pair_rows([tmp_path / "old"], [tmp_path / "other"]))


def test_training_goes_on_with_the_new_codes(tmp_path: Path) -> None:
    for name, fingerprint in (("old", FINGERPRINT), ("new", NEW)):
        write_corpus(tmp_path / name, 12, fingerprint=fingerprint)
    sets = ["model.hidden_size=48", "model.layers=2", "model.heads=2", "model.intermediate_size=64",
            "dtype=float32", "max_steps=2", "attention.layers=[0]"]  # fmt: skip
    recipe = load_lm_recipe("ar", sets)
    first = train_lm(recipe, [tmp_path / "old"], tmp_path / "a", device="cpu")
    with pytest.raises(ValueError, match="prepare with its codec"):
        train_lm(recipe, [tmp_path / "new"], tmp_path / "b", init=first, device="cpu")
    with pytest.raises(ValueError, match="give --init"):
        train_lm(recipe, [tmp_path / "new"], tmp_path / "b", device="cpu", carry=[tmp_path / "old"])
    second = train_lm(
        recipe, [tmp_path / "new"], tmp_path / "b", init=first, device="cpu", carry=[tmp_path / "old"]
    )
    from transformers import AutoConfig

    assert AutoConfig.from_pretrained(second).audio["codes_fingerprint"] == NEW
    assert PreparedCorpus(tmp_path / "new").manifest.codes_fingerprint == NEW
