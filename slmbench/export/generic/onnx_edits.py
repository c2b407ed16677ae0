"""Small changes to an ONNX graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def store(graph: Any, name: str, make: Callable[[], NDArray[Any]], shape: tuple[int, ...], dtype: Any) -> Any:
    """Return the initializer of that name, added if missing; its bytes are laid out when the file is written."""
    import onnx_ir as ir

    if name not in graph.initializers:
        kind, sizes = ir.DataType.from_numpy(np.dtype(dtype)), ir.Shape(shape)
        tensor = ir.LazyTensor(lambda: ir.Tensor(make()), dtype=kind, shape=sizes, name=name)
        value = ir.Value(name=name, shape=sizes, type=ir.TensorType(kind), const_value=tensor)
        graph.register_initializer(value)
    return graph.initializers[name]


def constant_ints(graph: Any, numbers: list[int]) -> Any:
    """Return the constant of these numbers ``[n]``."""
    import onnx_ir as ir

    name = "slmbench." + ".".join(map(str, numbers))
    if name not in graph.initializers:
        tensor = ir.tensor(np.array(numbers, np.int64), name=name)
        value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(ir.DataType.INT64), const_value=tensor)
        graph.register_initializer(value)
    return graph.initializers[name]


def add_node(
    graph: Any, before: Any, kind: str, *inputs: Any, count: int = 1, domain: str = "", **attributes: Any
) -> Any:
    """Put a new node before another; return its first output."""
    import onnx_ir as ir

    node = ir.Node(domain, kind, inputs, ir.convenience.convert_attributes(attributes), num_outputs=count)
    graph.insert_before(before, node)
    return node.outputs[0]


def read_instead(old: Any, new: Any) -> None:
    """Have every node that reads a value read another."""
    for use in list(old.uses()):
        use.node.replace_input_with(use.idx, new)
