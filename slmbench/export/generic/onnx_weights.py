"""The stored weights of a traced ONNX graph: each once, matrices as products read them, in 8 or 4 bits on request."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from slmbench.export.generic.onnx_edits import constant_ints, read_instead, store
from slmbench.export.onnx.builder import BLOCK, MS, blocks_of, quantise

#: Where ``GroupQueryAttention`` takes cosines and sines.
ANGLES = (7, 8)
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
    """Tell whether a node reads single rows of that input: of an embedding, or of a table of angles."""
    return (node.op_type == "Gather" and index == 0) or (node.op_type == "GroupQueryAttention" and index in ANGLES)


def _tidy_product(graph: Any, node: Any, bits: int | None) -> None:
    """Give a product with stored weights the form that it is read in."""
    x, weight = node.inputs
    transpose = weight.producer()
    stored = transpose.inputs[0] if transpose is not None and transpose.op_type == "Transpose" else weight
    if stored.const_value is None or len(stored.shape) != 2:
        return
    transposed = stored is not weight
    if bits is not None:
        _replace(graph, node, [_quantised_product(graph, x, stored, transposed, bits)])
    elif transposed and any(_looks_up(use.node, use.idx) for use in stored.uses()):
        _replace(graph, node, _tied_product(graph, x, stored))
    elif transposed:
        tensor, (rows, columns) = stored.const_value, stored.shape
        turned = store(
            graph,
            f"{stored.name}.transposed",
            lambda: np.ascontiguousarray(tensor.numpy().T),
            (columns, rows),
            tensor.dtype.numpy(),
        )
        node.replace_input_with(1, turned)


def _quantise_gemm(graph: Any, node: Any, bits: int) -> None:
    """Quantise the matrix of ``x @ W + bias``, as GPT-2 writes its layers."""
    import onnx_ir as ir

    x, stored, *bias = node.inputs
    transposed = node.attributes.get_int("transB", 0)
    if stored.const_value is None or node.attributes.get_int("transA", 0):
        return
    product = _quantised_product(graph, x, stored, bool(transposed), bits)
    added = [ir.Node("", "Add", [product.outputs[0], bias[0]])] if bias else []
    _replace(graph, node, [product, *added])


def _quantised_product(graph: Any, x: Any, stored: Any, transposed: bool, bits: int) -> Any:
    """Return the node of ``x @ W`` with the matrix in blocks of so many bits; stored ``[out, in]`` if transposed."""
    import onnx_ir as ir

    tensor, name = stored.const_value, stored.name
    length, width = (int(size) for size in (stored.shape if transposed else reversed(stored.shape)))

    def rows() -> NDArray[Any]:
        values: NDArray[Any] = tensor.numpy()
        return values if transposed else values.T

    count = blocks_of(width, bits)
    shape = (length, count, BLOCK[bits] * bits // 8)
    blocks = store(graph, f"{name}.blocks", lambda: quantise(rows(), bits)[0], shape, np.uint8)
    scales = store(graph, f"{name}.scales", lambda: quantise(rows(), bits)[1], shape[:2], np.float32)
    sizes = {"K": width, "N": length, "bits": bits, "block_size": BLOCK[bits], "accuracy_level": 4}
    return ir.Node(MS, "MatMulNBits", [x, blocks, scales], [ir.AttrInt64(key, value) for key, value in sizes.items()])


def _tied_product(graph: Any, x: Any, embedding: Any) -> list[Any]:
    """Return the nodes of ``x @ embedding.T`` for ``x`` [B, 1, width], the embedding read as it is."""
    import onnx_ir as ir

    flat = ir.Node("", "Reshape", [x, constant_ints(graph, [-1, int(embedding.shape[1])])])
    product = ir.Node("", "Gemm", [flat.outputs[0], embedding], [ir.AttrInt64("transB", 1)])
    return [flat, product, ir.Node("", "Unsqueeze", [product.outputs[0], constant_ints(graph, [1])])]


def _replace(graph: Any, node: Any, nodes: list[Any]) -> None:
    """Put nodes in the place of one; the last one's output takes its output's name."""
    old, new = node.outputs[0], nodes[-1].outputs[0]
    graph.insert_before(node, nodes)
    name, shape, kind = old.name, old.shape, old.type
    read_instead(old, new)
    for index, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[index] = new
    graph.remove(node, safe=True)
    new.name, new.shape, new.type = name, shape, kind
