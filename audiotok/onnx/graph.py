"""An ONNX graph, written down node by node.

Knows no model. Written by hand and not traced: the same file comes out of every version of torch, every axis that may
vary does, and operators are chosen for what onnxruntime does fast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

OPSET = 20  # the first with Gelu
_IR_VERSION = 9  # of the files that runtimes which know opset 20 read


def import_onnx() -> Any:
    """The package that writes ONNX files.

    Raises:
        ModuleNotFoundError: it is missing.
    """
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"expected the package 'onnx' to write ONNX files, {error.name!r} is missing; "
            "pip install 'audiotok[onnx]'",
            name=error.name,
        ) from error
    return onnx


class Graph:
    """A graph that is being written. Values are known by name; ``graph("Add", a, b)`` adds a node and names its result.

    Args:
        name: of the graph.

    Raises:
        ModuleNotFoundError: the package ``onnx`` is missing.
    """

    def __init__(self, name: str) -> None:
        self._onnx = import_onnx()
        self._name = name
        self._nodes: list[Any] = []
        self._constants: list[Any] = []
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._count = 0

    def input(self, name: str, dtype: type, axes: Sequence[str | int]) -> str:
        """Declare an input: a letter for an axis that varies, a number for one that does not."""
        self._inputs.append(self._declared(name, dtype, axes))
        return name

    def output(self, value: str, name: str, dtype: type, axes: Sequence[str | int]) -> None:
        """Give a value out under a name."""
        self._nodes.append(self._onnx.helper.make_node("Identity", [value], [name], name))
        self._outputs.append(self._declared(name, dtype, axes))

    def constant(self, value: Any, dtype: type | None = None) -> str:
        """A number or an array [any shape] that is kept in the file; a torch tensor that numpy can read counts."""
        name = self._new("constant")
        array = np.ascontiguousarray(value, dtype=dtype).reshape(np.shape(value))
        self._constants.append(self._onnx.numpy_helper.from_array(array, name))
        return name

    def __call__(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one result."""
        return self.several(operator, 1, *inputs, **attributes)[0]

    def several(self, operator: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """Add a node with so many results."""
        # A node has a name too: onnxruntime 1.20 joins nodes, and trips over those that have none.
        names = [self._new(operator) for _ in range(outputs)]
        self._nodes.append(self._onnx.helper.make_node(operator, inputs, names, names[0], **attributes))
        return names

    def cast(self, value: str, dtype: type) -> str:
        """The value in another dtype."""
        return self("Cast", value, to=self._type(dtype))

    def reshape(self, value: str, *axes: int) -> str:
        """The value in another shape: 0 keeps an axis, -1 is what is left."""
        return self("Reshape", value, self.constant(axes, np.int64))

    def slice(self, value: str, start: int, end: int | None, axis: int) -> str:
        """``value[start:end]`` along one axis."""
        stop = np.iinfo(np.int64).max if end is None else end
        return self("Slice", value, *(self.constant([number], np.int64) for number in (start, stop, axis)))

    def pad_before(self, value: str, steps: int, axis: int) -> str:
        """Zeros before the value along one axis."""
        pads = self.constant([steps, 0], np.int64)
        return self("Pad", value, pads, "", self.constant([axis], np.int64))

    def affine(self, x: str, weight: Any, bias: Any = None) -> str:
        """[..., I] -> [..., O] by a weight [O, I] and a bias [O], as ``nn.Linear`` does; in the dtype of the weight."""
        product = self("MatMul", x, self.constant(np.ascontiguousarray(np.transpose(weight))))
        return product if bias is None else self("Add", product, self.constant(bias))

    def save(self, path: str | Path, metadata: Mapping[str, str]) -> None:
        """Write the graph as an ONNX file.

        Args:
            path: of the file.
            metadata: what a reader finds beside the graph.

        Raises:
            OSError: it cannot be written.
        """
        onnx = self._onnx
        graph = onnx.helper.make_graph(self._nodes, self._name, self._inputs, self._outputs, self._constants)
        model = onnx.helper.make_model(
            graph,
            opset_imports=[onnx.helper.make_opsetid("", OPSET)],
            producer_name="audiotok",
            ir_version=_IR_VERSION,
        )
        onnx.helper.set_model_props(model, dict(metadata))
        onnx.checker.check_model(model, full_check=True)
        Path(path).write_bytes(model.SerializeToString())

    def _declared(self, name: str, dtype: type, axes: Sequence[str | int]) -> Any:
        return self._onnx.helper.make_tensor_value_info(name, self._type(dtype), list(axes))

    def _type(self, dtype: type) -> int:
        return self._onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))

    def _new(self, word: str) -> str:
        self._count += 1
        return f"{word}_{self._count}"
