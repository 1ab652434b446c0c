"""The NAR model: each level depends on the levels below, and rows are independent."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from lm_toys import loud
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutput

from tts_lm.models.nar import NarConfig, NarModel

K, V, TEXT = 4, 32, 20


@pytest.fixture(scope="module")
def model() -> NarModel:
    torch.manual_seed(0)
    config = NarConfig(
        text_size=TEXT,
        n_q=K,
        codebook_size=V,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        codes_fingerprint="abc",
    )
    model = loud(NarModel(config), 10.0)
    with torch.no_grad():  # level norms begin as no norms at all; a trained one's differ
        for name, p in model.named_parameters():
            if "scale" in name or "shift" in name:
                p.normal_(std=0.3)
    return model


def inputs(frames: int, prompt: int, text: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, generator=generator)

    return {
        "text_ids": draw(TEXT, 1, text),
        "codes": draw(V, 1, K, frames),
        "voice": draw(16, 1),
        "prompt_codes": draw(V, 1, K, prompt),
    }


def level_logits(model: NarModel, row: dict[str, Tensor], level: int, **masks: Tensor) -> Tensor:
    with torch.no_grad():
        out = model(**row, level=torch.full_like(row["voice"], level), **masks)
        assert isinstance(out, BaseModelOutput)
        return model.logits(out.last_hidden_state, level)


@pytest.mark.parametrize(("frames", "prompt", "text"), [(30, 12, 9), (1, 1, 1), (7, 0, 3)])
def test_every_level_is_filled(model, frames, prompt, text):
    row = inputs(frames, prompt, text)
    first = row.pop("codes")[:, 0]
    codes = model.fill(first, **row)
    assert codes.shape == (1, K, frames) and codes.dtype == torch.int64
    assert torch.equal(codes[:, 0], first)
    assert codes.min() >= 0 and codes.max() < V
    assert torch.equal(codes, model.fill(first, **row))


@pytest.mark.parametrize("log_precision", [8.0, -40.0], ids=["sure", "uniform"])
def test_filled_codes_are_the_likeliest_or_nearest_to_the_mean(model, log_precision):
    """A certain model fills its likeliest codes. Uniform logits fill codes whose sum is near the mean codewords'."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.log_precision.fill_(log_precision)
    row = inputs(20, 5, 6)
    codes = model.fill(row["codes"][:, 0], **{k: v for k, v in row.items() if k != "codes"})
    words, left = model.codebooks, 0
    for level in range(1, K):
        wanted = words[level].mean(0) + left
        nearest = (words[level] - wanted).square().sum(-1).argmin()
        left = wanted - words[level][nearest]
        likeliest = level_logits(model, row | {"codes": codes}, level).argmax(-1)
        assert (codes[:, level] == (likeliest if log_precision > 0 else nearest)).all()


@pytest.mark.parametrize("level", range(1, K))
def test_a_level_sees_all_levels_below_and_none_above(model, level):
    row = inputs(15, 5, 6)
    before = level_logits(model, row, level)
    for changed in range(K):
        codes = row["codes"].clone()
        codes[0, changed, 7] = (codes[0, changed, 7] + 1) % V
        after = level_logits(model, row | {"codes": codes}, level)
        if changed < level:
            assert (after - before)[0, 7].abs().max() > 1e-3
        else:
            assert torch.equal(after, before)
    for name in ("text_ids", "prompt_codes", "voice"):
        other = row | {name: (row[name] + 1) % (16 if name == "voice" else TEXT)}
        assert (level_logits(model, other, level) - before).abs().max() > 1e-3


def test_padding_and_neighbours_do_not_change_an_item(model):
    rows = [inputs(22, 9, 8, seed=1), inputs(9, 3, 4, seed=2), inputs(15, 0, 12, seed=3)]
    stacked: dict[str, Tensor] = {"voice": torch.cat([row["voice"] for row in rows])}
    masks = {}
    for name, mask in (("text_ids", "text_mask"), ("prompt_codes", "prompt_mask"), ("codes", "mask")):
        longest = max(row[name].shape[-1] for row in rows) + 2
        padded = [
            torch.nn.functional.pad(row[name], (0, longest - row[name].shape[-1]), value=1) for row in rows
        ]
        stacked[name] = torch.cat(padded)
        lengths = torch.tensor([row[name].shape[-1] for row in rows])
        masks[mask] = torch.arange(longest)[None] < lengths[:, None]
    for level in range(1, K):
        together = level_logits(model, stacked, level, **masks)
        for index, row in enumerate(rows):
            alone = level_logits(model, row, level)[0]
            assert (together[index, : len(alone)] - alone).abs().max() < 1e-4
    first = stacked.pop("codes")[:, 0]
    filled = model.fill(first, **stacked, **masks)
    for index, row in enumerate(rows):
        alone = model.fill(row.pop("codes")[:, 0], **row)[0]
        assert torch.equal(filled[index, :, : alone.shape[-1]], alone)


def test_saved_and_loaded_it_is_the_same_and_half_precision_fills_too(model, tmp_path: Path, no_network):
    model.save_pretrained(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.json", "model.safetensors"]
    loaded = NarModel.from_pretrained(tmp_path)
    row = inputs(30, 4, 5)
    assert no_network == [] and loaded.config.codes_fingerprint == "abc"
    assert torch.equal(level_logits(loaded, row, 2), level_logits(model, row, 2))
    half = NarModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    first = row.pop("codes")[:, 0]
    codes = half.fill(first, **row)
    assert codes.shape == (1, K, 30) and codes.max() < V
    assert (codes[:, 1] == model.fill(first, **row)[:, 1]).float().mean() > 0.5


def test_a_model_takes_the_codebooks_of_its_codec(model, tmp_path: Path):
    books = 5.0 * torch.randn(K, V, model.config.codebook_dim, generator=torch.Generator().manual_seed(9))
    taught = copy.deepcopy(model)
    taught.set_codebooks(books)
    assert torch.allclose(taught.codebooks * books[0].std(), books, atol=1e-4)
    taught.save_pretrained(tmp_path)
    assert torch.equal(NarModel.from_pretrained(tmp_path).codebooks, taught.codebooks)
    with pytest.raises(ValueError, match=r"\[4, 32, 8\]"):
        taught.set_codebooks(books[..., :8])
    with pytest.raises(ValueError, match="12 and 4"):
        NarConfig(hidden_size=12, num_attention_heads=4)
