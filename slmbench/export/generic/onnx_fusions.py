"""What a traced ONNX graph computes in many small nodes, as the few that ONNX Runtime has kernels for.

The graph comes out as slmbench's own builder lays one: query, key and value by one product, rotary positions inside the
attention, additions and normalisations together, and shapes that are constants. What does not fit a pattern stays.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from slmbench.export.generic.onnx_edits import add_node, constant_ints, read_instead, store
from slmbench.export.generic.onnx_last_row import choose_row_early
from slmbench.export.generic.onnx_patterns import (
    Normalisation,
    Rotation,
    constant,
    is_transposed,
    made_by,
    normalisation,
    rotation,
    rotation_table,
)
from slmbench.export.generic.onnx_shapes import fix_reshapes, forget, infer
from slmbench.export.generic.onnx_weights import ANGLES
from slmbench.export.onnx.builder import MS

#: Where the trace notes each token's position for ``GroupQueryAttention``, which does not need it.
_POSITIONS = 9


def fuse(model: Any, most_positions: int) -> bool:
    """Change the graph in place; return whether it has angles now, which end at ``most_positions``."""
    from onnx_ir.passes.common import (
        CommonSubexpressionEliminationPass,
        DeduplicateInitializersPass,
        LiftConstantsToInitializersPass,
        RemoveUnusedNodesPass,
    )

    LiftConstantsToInitializersPass(size_limit=0)(model)
    DeduplicateInitializersPass()(model)
    CommonSubexpressionEliminationPass()(model)
    graph = model.graph
    for _ in range(2):
        infer(model)
        fix_reshapes(graph)
    tables: dict[tuple[str, str], Any] = {}
    for node in list(graph):
        if node.op_type == "GroupQueryAttention":
            _fuse_self_attention(graph, node, tables, most_positions)
        elif node.op_type == "MultiHeadAttention":
            _fuse_attention(graph, node)
    RemoveUnusedNodesPass()(model)
    # Behind the attention, whose shape nobody but us knows, sizes have other names than before it until now.
    infer(model)
    fix_reshapes(graph)
    _fuse_norms(graph)
    RemoveUnusedNodesPass()(model)
    _fuse_additions(graph)
    RemoveUnusedNodesPass()(model)
    choose_row_early(graph)
    RemoveUnusedNodesPass()(model)
    forget(model)
    return any(tables.values())


def _fuse_norms(graph: Any) -> None:
    for node in list(graph):
        found = normalisation(node)
        if found is None:
            continue
        normed = _normed(graph, node, found.x, found)
        normed.shape, normed.type = node.outputs[0].shape, node.outputs[0].type
        read_instead(node.outputs[0], normed)


def _normed(graph: Any, before: Any, x: Any, norm: Normalisation) -> Any:
    """Return ``x`` normalised by one node."""
    weight = norm.weight
    if weight.producer() is not None:
        values = constant(weight)
        assert values is not None
        weight = store(graph, f"{weight.name}.value", lambda: values, values.shape, values.dtype)
    epsilon = norm.epsilon
    return add_node(graph, before, "SimplifiedLayerNormalization", x, weight, axis=-1, epsilon=epsilon, stash_type=1)


def _fuse_additions(graph: Any) -> None:
    """Join each normalisation with the addition whose sum it normalises."""
    kinds = {"SimplifiedLayerNormalization": "SkipSimplifiedLayerNormalization",
             "LayerNormalization": "SkipLayerNormalization"}  # fmt: skip
    for node in list(graph):
        added = made_by(node.inputs[0], "Add") if node.op_type in kinds else None
        if added is None or node.attributes.get_int("axis", -1) != -1:
            continue
        one, other = added.inputs
        if one.shape is None or one.shape != other.shape or len(one.shape) != 3 or added.outputs[0].is_graph_output():
            continue
        epsilon = node.attributes.get_float("epsilon", 1e-5)
        inputs = (one, other, *node.inputs[1:])
        normed = add_node(graph, added, kinds[node.op_type], *inputs, count=4, domain=MS, epsilon=epsilon)
        total = normed.producer().outputs[3]
        for new, old in ((normed, node.outputs[0]), (total, added.outputs[0])):
            new.shape, new.type = old.shape, old.type
            read_instead(old, new)


class _Flat(NamedTuple):
    """What an attention reads for one of its inputs, heads side by side ``[B, S, H·d]``, and its rotation taken off."""

    value: Any
    rotation: Rotation | None = None


def _flat(graph: Any, attention: Any, value: Any, heads: int) -> _Flat:
    """Return an input ``[B, S, H·d]`` from before it was split into heads, turned and merged again; else as it is."""
    found = _unsplit(graph, attention, _merged_source(value), heads)
    return _Flat(value) if found is None else found


def _merged_source(value: Any) -> Any:
    """Return the ``[B, H, S, d]`` that was merged to ``[B, S, H·d]``, or None."""
    reshaped = made_by(value, "Reshape")
    swapped = made_by(reshaped.inputs[0], "Transpose") if reshaped is not None else None
    return swapped.inputs[0] if swapped is not None and is_transposed(swapped, (0, 2, 1, 3)) else None


def _unsplit(graph: Any, attention: Any, value: Any, heads: int) -> _Flat | None:
    """Return what was split into heads to make ``value`` ``[B, H, S, d]``, or None."""
    turn = rotation(value)
    before = value if turn is None else turn.x
    norm = None if before is None else normalisation(before.producer())
    swapped = made_by(before if norm is None else norm.x, "Transpose")
    if swapped is None or not is_transposed(swapped, (0, 2, 1, 3)):
        return None
    # Along the last axis it makes no difference on which side of the transposition that is.
    norm = norm or normalisation(swapped.inputs[0].producer())
    reshaped = made_by(
        norm.x if norm is not None and norm.x is not swapped.outputs[0] else swapped.inputs[0], "Reshape"
    )
    if reshaped is None or reshaped.outputs[0].shape is None or reshaped.inputs[0].shape is None:
        return None
    flat = reshaped.inputs[0]
    size, width = reshaped.outputs[0].shape[-1], flat.shape[-1]
    if not isinstance(size, int) or width != heads * size or len(flat.shape) != 3:
        return None
    if norm is not None:
        split = add_node(graph, attention, "Reshape", flat, constant_ints(graph, [0, 0, heads, size]))
        normed = _normed(graph, attention, split, norm)
        flat = add_node(graph, attention, "Reshape", normed, constant_ints(graph, [0, 0, heads * size]))
        flat.shape, flat.type = reshaped.inputs[0].shape, reshaped.inputs[0].type
    return _Flat(flat, turn)


def _fuse_self_attention(graph: Any, node: Any, tables: dict[tuple[str, str], Any], most_positions: int) -> None:
    """Give ``GroupQueryAttention`` what it can take: flat heads, its own rotation, one matrix for all three."""
    import onnx_ir as ir

    counts = [node.attributes.get_int(name) for name in ("num_heads", "kv_num_heads", "kv_num_heads")]
    positions = node.inputs[_POSITIONS]
    node.replace_input_with(_POSITIONS, None)
    query, key, value = (_flat(graph, node, one, count) for one, count in zip(node.inputs[:3], counts, strict=True))
    table = _table(graph, query, key, positions, tables, most_positions)
    if table is not None:
        for index, values in zip(ANGLES, table, strict=True):
            node.replace_input_with(index, values)
        node.attributes["do_rotary"] = ir.AttrInt64("do_rotary", 1)
    if table is not None or (query.rotation is None and key.rotation is None):
        node.replace_input_with(0, query.value)
        node.replace_input_with(1, key.value)
    if value.rotation is None:
        node.replace_input_with(2, value.value)
    _pack(graph, node)
    while node.inputs[-1] is None:
        node.resize_inputs(len(node.inputs) - 1)


def _table(
    graph: Any, query: _Flat, key: _Flat, positions: Any, tables: dict[tuple[str, str], Any], most_positions: int
) -> tuple[Any, Any] | None:
    """Return cosines and sines by position ``[positions, rotated / 2]``; None: they hang on more than the position."""
    one, other = query.rotation, key.rotation
    if one is None or other is None or one[1:] != other[1:]:
        return None
    # The operator turns multiples of 16 sizes of a head.
    if positions is None or one.size % 16:
        return None
    at = (one.cos.name, one.sin.name)
    if at not in tables:
        made = rotation_table(one, positions, most_positions)
        tables[at] = None
        if made is not None:
            cos, sin = made
            names = f"slmbench.cos.{len(tables)}", f"slmbench.sin.{len(tables)}"
            tables[at] = (
                store(graph, names[0], lambda: cos, cos.shape, np.float32),
                store(graph, names[1], lambda: sin, sin.shape, np.float32),
            )
    found: tuple[Any, Any] | None = tables[at]
    return found


class _Product(NamedTuple):
    """``x @ stored.T + bias``; stored ``[out, in]``."""

    x: Any
    stored: Any
    bias: Any


def _product(value: Any) -> _Product | None:
    bias = None
    added = made_by(value, "Add")
    if added is not None:
        value = next((one for one in added.inputs if made_by(one, "MatMul")), None)
        bias = next((one for one in added.inputs if one is not value), None)
        if bias is None or bias.const_value is None or len(bias.shape) != 1:
            return None
    product = made_by(value, "MatMul")
    transposed = made_by(product.inputs[1], "Transpose") if product is not None else None
    if transposed is None or transposed.inputs[0].const_value is None or len(transposed.inputs[0].shape) != 2:
        return None
    return _Product(product.inputs[0], transposed.inputs[0], bias)


def _pack(graph: Any, node: Any) -> None:
    """Have one product make query, key and value, where three read the same states."""
    parts = [found for found in (_product(value) for value in node.inputs[:3]) if found is not None]
    if len(parts) < 3 or any(part.x is not parts[0].x for part in parts):
        return
    biases = [part.bias for part in parts if part.bias is not None]
    if len(biases) not in (0, 3):
        return
    tensors = [part.stored.const_value for part in parts]
    rows, name = sum(int(one.shape[0]) for one in tensors), f"{parts[0].stored.name}.packed"
    sizes = (rows, int(tensors[0].shape[1]))
    stored = store(graph, name, lambda: np.concatenate([one.numpy() for one in tensors]), sizes, "float32")
    packed = add_node(graph, node, "MatMul", parts[0].x, add_node(graph, node, "Transpose", stored, perm=[1, 0]))
    if biases:
        values = np.concatenate([one.const_value.numpy() for one in biases])
        packed = add_node(graph, node, "Add", packed, store(graph, f"{name}.bias", lambda: values, (rows,), "float32"))
    for index, value in enumerate((packed, None, None)):
        node.replace_input_with(index, value)


def _fuse_attention(graph: Any, node: Any) -> None:
    """Give ``MultiHeadAttention`` flat heads instead of ones that were split, turned and merged again."""
    heads = node.attributes.get_int("num_heads")
    query = _flat(graph, node, node.inputs[0], heads)
    if query.rotation is not None:
        return
    node.replace_input_with(0, query.value)
    pair = [_unsplit(graph, node, one, heads) for one in node.inputs[1:3]]
    for index, one in enumerate(pair, 1):
        if one is not None and all(other is not None and other.rotation is None for other in pair):
            node.replace_input_with(index, one.value)
