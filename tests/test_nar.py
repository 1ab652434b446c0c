"""The NAR model: each level depends on the levels below, and rows are independent."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from lm_toys import loud
from torch import Tensor
from transformers.utils.generic import ModelOutput

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
    if frames == 30:
        assert all(len(level.unique()) > 1 for level in codes[0])


def sure(model: NarModel, log_precision: float) -> NarModel:
    """A copy with the given confidence in its codes."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.log_precision.fill_(log_precision)
    return other


def test_a_model_that_is_sure_says_its_likeliest_codes(model):
    certain = sure(model, 8.0)
    row = inputs(20, 5, 6)
    codes = certain.fill(row["codes"][:, 0], **{k: v for k, v in row.items() if k != "codes"})
    for level in range(1, K):
        best = level_logits(certain, row | {"codes": codes}, level).argmax(-1)
        assert torch.equal(codes[:, level], best)


def test_uniform_logits_give_the_mean_codeword(model):
    """The sum of the chosen codewords is close to the sum of the mean codewords of the levels."""
    clueless = sure(model, -40.0)
    row = inputs(20, 5, 6)
    codes = clueless.fill(row["codes"][:, 0], **{k: v for k, v in row.items() if k != "codes"})
    words, left = clueless.codebooks, 0
    for level in range(1, K):
        wanted = words[level].mean(0) + left
        best = (words[level] - wanted).square().sum(-1).argmin()
        assert (codes[0, level] == best).all()
        left = wanted - words[level][best]


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


def test_the_output_is_a_model_output_or_a_tuple(model):
    row = inputs(15, 5, 6)
    with torch.no_grad():
        one, two = (model(**row, level=torch.tensor([level])) for level in (1, 2))
        [bare] = model(**row, level=torch.tensor([1]), return_dict=False)
    assert isinstance(one, ModelOutput) and one[0].shape == (1, 15, model.config.hidden_size)
    assert torch.equal(bare, one.last_hidden_state)
    assert (one.last_hidden_state - two.last_hidden_state).abs().max() > 1e-2


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


def test_codes_are_scored_by_the_distance_of_their_codewords(model, tmp_path: Path):
    books = 5.0 * torch.randn(K, V, model.config.codebook_dim, generator=torch.Generator().manual_seed(9))
    model.save_pretrained(tmp_path)
    taught = NarModel.from_pretrained(tmp_path)
    taught.set_codebooks(books)
    assert torch.allclose(taught.codebooks * books[0].std(), books, atol=1e-4)
    hidden = torch.randn(6, model.config.hidden_size)
    with torch.no_grad():
        scores = taught.logits(hidden, 2).log_softmax(-1)
        expected = taught.latent_out(hidden)
        distance = torch.cdist(expected, taught.codebooks[2]).square()
        bias, precision = taught.code_bias[2], taught.log_precision[2].exp()
        assert torch.allclose(scores, (bias - precision * distance).log_softmax(-1), atol=1e-3)
    taught.save_pretrained(tmp_path)
    assert torch.equal(NarModel.from_pretrained(tmp_path).codebooks, taught.codebooks)
    with pytest.raises(ValueError, match=r"\[4, 32, 8\]"):
        taught.set_codebooks(books[..., :8])


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="12 and 4"):
        NarConfig(hidden_size=12, num_attention_heads=4)
