"""The stored weights of a traced ONNX graph: each once, matrices as products read them, in 8 or 4 bits on request."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmbench.export.onnx.builder import BLOCK, MS, blocks_of, quantise

#: Constants of fewer elements are norms, biases and shapes.
_SMALL = 4096


def tidied(model: Any, bits: int | None) -> int:
    """Change the graph in place; return the bytes of weights that one run reads.

    A traced linear layer is a product with a transposed constant: the constant is stored as the product reads it. An
    embedding that is the LM head too is stored once, and read by a product that transposes.
    """
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    graph = model.graph
    for node in list(graph):
        if node.op_type == "MatMul" and node.domain == "":
            _tidy_product(graph, node, bits)
        elif node.op_type == "Gemm" and bits is not None:
            _quantise_gemm(graph, node, bits)
    RemoveUnusedNodesPass()(model)
    return sum(
        int(value.const_value.nbytes)
        for value in graph.initializers.values()
        if value.const_value.size >= _SMALL and any(not _looks_up(use.node, use.idx) for use in value.uses())
    )


def _looks_up(node: Any, index: int) -> bool:
    return node.op_type == "Gather" and index == 0


def _tidy_product(graph: Any, node: Any, bits: int | None) -> None:
    """Give a product with stored weights the form that it is read in."""
    x, weight = node.inputs
    transpose = weight.producer()
    stored = transpose.inputs[0] if transpose is not None and transpose.op_type == "Transpose" else weight
    if stored.const_value is None or len(stored.shape) != 2:
        return
    transposed = stored is not weight
    values = stored.const_value.numpy()
    rows = values if transposed else values.T
    if bits is not None:
        _replace(graph, node, [_quantised_product(graph, node, x, rows, stored.name, bits)])
    elif transposed and any(_looks_up(use.node, use.idx) for use in stored.uses()):
        _replace(graph, node, _tied_product(graph, node, x, stored))
    elif transposed:
        name = f"{stored.name}.transposed"
        if name not in graph.initializers:
            _store(graph, name, lambda: np.ascontiguousarray(rows.T), (rows.shape[1], rows.shape[0]), rows.dtype)
        node.replace_input_with(1, graph.initializers[name])


def _quantise_gemm(graph: Any, node: Any, bits: int) -> None:
    """Quantise the matrix of ``x @ W + bias``, as GPT-2 writes its layers."""
    import onnx_ir as ir

    x, stored, *bias = node.inputs
    transposed = node.attributes.get_int("transB", 0)
    if stored.const_value is None or node.attributes.get_int("transA", 0):
        return
    values = stored.const_value.numpy()
    rows = values if transposed else values.T
    product = _quantised_product(graph, node, x, rows, stored.name, bits)
    added = [ir.Node("", "Add", [product.outputs[0], bias[0]])] if bias else []
    _replace(graph, node, [product, *added])


def _quantised_product(graph: Any, node: Any, x: Any, rows: NDArray[Any], name: str, bits: int) -> Any:
    """Return the node of ``x @ rows.T`` with the matrix in blocks of so many bits."""
    import onnx_ir as ir

    count = blocks_of(rows.shape[1], bits)
    if f"{name}.blocks" not in graph.initializers:
        shape = (len(rows), count, BLOCK[bits] * bits // 8)
        _store(graph, f"{name}.blocks", lambda: quantise(rows, bits)[0], shape, np.dtype(np.uint8))
        _store(graph, f"{name}.scales", lambda: quantise(rows, bits)[1], shape[:2], np.dtype(np.float32))
    sizes = {"K": rows.shape[1], "N": len(rows), "bits": bits, "block_size": BLOCK[bits], "accuracy_level": 4}
    inputs = [x, graph.initializers[f"{name}.blocks"], graph.initializers[f"{name}.scales"]]
    return ir.Node(MS, "MatMulNBits", inputs, [ir.AttrInt64(key, value) for key, value in sizes.items()])


def _tied_product(graph: Any, node: Any, x: Any, embedding: Any) -> list[Any]:
    """Return the nodes of ``x @ embedding.T`` for ``x`` [B, 1, width], the embedding read as it is."""
    import onnx_ir as ir

    def const(name: str, *values: int) -> Any:
        if name not in graph.initializers:
            array = np.array(values, np.int64)
            _store(graph, name, lambda: array, array.shape, array.dtype)
        return graph.initializers[name]

    flat = ir.Node("", "Reshape", [x, const("slmbench.flat", -1, int(embedding.shape[1]))])
    product = ir.Node("", "Gemm", [flat.outputs[0], embedding], [ir.AttrInt64("transB", 1)])
    return [flat, product, ir.Node("", "Unsqueeze", [product.outputs[0], const("slmbench.second", 1)])]


def _store(graph: Any, name: str, make: Any, shape: tuple[int, ...], dtype: Any) -> None:
    """Add an initializer whose bytes are laid out when the file is written."""
    import onnx_ir as ir

    kind, sizes = ir.DataType.from_numpy(dtype), ir.Shape(shape)
    tensor = ir.LazyTensor(lambda: ir.Tensor(make()), dtype=kind, shape=sizes, name=name)
    value = ir.Value(name=name, shape=sizes, type=ir.TensorType(kind), const_value=tensor)
    graph.register_initializer(value)


def _replace(graph: Any, node: Any, nodes: list[Any]) -> None:
    """Put nodes in the place of one; the last one's output takes its output's name."""
    old, new = node.outputs[0], nodes[-1].outputs[0]
    graph.insert_before(node, nodes)
    name, shape, kind = old.name, old.shape, old.type
    for use in list(old.uses()):
        use.node.replace_input_with(use.idx, new)
    for index, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[index] = new
    graph.remove(node, safe=True)
    new.name, new.shape, new.type = name, shape, kind
