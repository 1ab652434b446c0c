"""Products with weights that stay: packed once for oneDNN, as fast as this CPU multiplies.

Knows nothing of models. The law it keeps: a product here is the product of the plain matrices, to rounding; where
packing is not to be had (another device, another dtype, a torch without oneDNN) it is exactly that.

Why: the products of torch and numpy stop at AVX2 on this project's machines (AMD EPYC), oneDNN's do not, and a plain
product packs the weight anew each time: the weights of a step take 1.1 ms for 8 rows instead of 1.9, those of a pass of
the NAR half half the time. A single row needs no packing, there numpy is the quickest.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Array = np.ndarray[Any, Any]


class Product:
    """Multiplies rows with one weight.

    Args:
        weight: [in, out], which must not change afterwards.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self._packed = _pack(weight.t())

    def __call__(self, x: Tensor) -> Tensor:
        """[..., in] to [..., out], without a gradient."""
        if self._packed is None or x.dtype != torch.float32:
            return x @ self.weight
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, None, "none", [], "")

    def rows(self, x: Array) -> Array:
        """[B, in] to [B, out] float32, on a CPU."""
        if self._packed is None or len(x) == 1:
            return x @ self.weight.numpy()
        return self(torch.from_numpy(x)).numpy()


class PackedLinear(nn.Module):
    """A linear layer that only infers.

    Args:
        linear: whose weights it takes as they are now.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self._packed = _pack(linear.weight.detach())
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] float32 to [..., out], without a gradient."""
        return torch.ops.mkldnn._linear_pointwise(x, self._packed, self._bias, "none", [], "")


def pack_linears(model: nn.Module) -> Any:
    """What computes as a model does, for inference only.

    Args:
        model: is not changed.

    Returns:
        A copy in which every linear layer is packed; the model itself where packing is not to be had.
    """
    linears = [name for name, part in model.named_modules() if isinstance(part, nn.Linear)]
    if not linears or _pack(model.get_submodule(linears[0]).weight.detach()) is None:  # type: ignore[arg-type]
        return model
    packed = copy.deepcopy(model).eval()
    for name in linears:
        packed.set_submodule(name, PackedLinear(packed.get_submodule(name)))  # type: ignore[arg-type]
    return packed


def _pack(weight: Tensor) -> Tensor | None:
    """[out, in] in oneDNN's own order, None where that is not to be had."""
    ours = (
        weight.device.type == "cpu" and weight.dtype == torch.float32 and torch.backends.mkldnn.is_available()
    )
    if not ours or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return None
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
