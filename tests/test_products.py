"""Packed layers and fused weights equal the originals."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from tts_lm.decoding.engine import Product, pack_linears


@pytest.mark.parametrize("rows", [1, 2, 9])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "plain"])
def test_a_product_is_the_product(rows, packed, monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: packed)
    torch.manual_seed(0)
    weight, x = torch.randn(24, 40), torch.randn(rows, 24)
    product, wanted = Product(weight), x.double() @ weight.double()
    for found in (product(x), product(x[None])[0], torch.from_numpy(product.rows(x.numpy()))):
        assert found.shape == (rows, 40) and found.dtype == torch.float32
        assert (found - wanted).abs().max() < 1e-4
    assert product.rows(np.ones((1, 24), dtype=np.float32)).shape == (1, 40)


def test_what_is_packed_computes_the_same_and_the_model_stays():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Sequential(nn.Linear(20, 7, bias=False)))
    before = copy.deepcopy(model.state_dict())
    packed = pack_linears(model)
    x = torch.randn(3, 5, 12)
    with torch.no_grad():
        assert (packed(x) - model(x)).abs().max() < 1e-5
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [type(part) for part in model.modules() if isinstance(part, nn.Linear)] == [nn.Linear] * 2
    half = copy.deepcopy(model).bfloat16()
    assert pack_linears(half) is half  # only float32 on a CPU is packed
