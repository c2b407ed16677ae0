"""Each prompt's last row is chosen as early as it can be: behind the last layer's K/V nothing needs the others."""

from __future__ import annotations

from typing import Any

from slmbench.export.generic.onnx_edits import add_node, constant_ints, read_instead
from slmbench.export.generic.onnx_patterns import made_by
from slmbench.export.onnx.builder import MS

#: What these make of a row ``[B, S, width]`` depends on no other row.
_ROW_BY_ROW = frozenset(
    {"Add", "Sub", "Mul", "Div", "Neg", "Pow", "Sqrt", "Cast", "Sigmoid", "Tanh", "Gelu", "Erf", "Relu", "MatMul"}
    | {"LayerNormalization", "SimplifiedLayerNormalization"}
    | {"SkipLayerNormalization", "SkipSimplifiedLayerNormalization"}
)


def choose_row_early(graph: Any) -> None:
    """Move the choice of rows ``[B, S, width]`` up to where rows still see each other."""
    for gather in [node for node in graph if node.op_type == "GatherElements"]:
        expand = made_by(gather.inputs[1], "Expand")
        rows, states = expand.inputs[0] if expand is not None else None, gather.inputs[0]
        if gather.attributes.get_int("axis", 0) == 1 and rows is not None and _sizes(states) and _is_index(rows):
            _move(graph, gather, rows)


def _is_index(rows: Any) -> bool:
    return rows.shape is not None and list(rows.shape)[1:] == [1, 1]


def _sizes(value: Any) -> list[Any] | None:
    """Return batch and length of a value with three axes."""
    return None if value.shape is None or len(value.shape) != 3 else list(value.shape)[:2]


def _is_stored(value: Any) -> bool:
    transposed = made_by(value, "Transpose")
    return (value if transposed is None else transposed.inputs[0]).const_value is not None


def _move(graph: Any, gather: Any, rows: Any) -> None:
    wanted = _sizes(gather.inputs[0])
    # Nodes that only find out how large the chosen rows are go away with the choice.
    gone = {gather} | _between(gather.inputs[1], rows)
    region: dict[Any, None] = {}
    for node in reversed(list(graph)):
        uses = [use.node for output in node.outputs for use in output.uses()]
        row_by_row = node.op_type in _ROW_BY_ROW and (node.op_type != "MatMul" or _is_stored(node.inputs[1]))
        at_hand = all(one is None or _is_stored(one) or _sizes(one) == wanted for one in node.inputs)
        ends = any(output.is_graph_output() for output in node.outputs)
        if row_by_row and at_hand and uses and not ends and all(one in region or one in gone for one in uses):
            region[node] = None
    if gather.inputs[0].producer() not in region:
        return
    chosen: dict[Any, Any] = {}
    for node in reversed(region):
        for index, value in enumerate(node.inputs):
            if value is None or _is_stored(value) or value.producer() in region:
                continue
            if value not in chosen:
                flat = add_node(graph, node, "Squeeze", rows, constant_ints(graph, [2]))
                row = add_node(graph, node, "GatherND", value, flat, batch_dims=1)
                chosen[value] = add_node(graph, node, "Unsqueeze", row, constant_ints(graph, [1]))
            node.replace_input_with(index, chosen[value])
    read_instead(gather.outputs[0], gather.inputs[0])


def _between(value: Any, start: Any) -> set[Any]:
    """Return the nodes that make a value, save those that make ``start``."""
    found: set[Any] = set()
    waiting = [value]
    while waiting:
        one = waiting.pop()
        node = one.producer() if one is not None and one is not start else None
        if node is not None and node not in found and (node.op_type != "MatMul" and node.domain != MS):
            found.add(node)
            waiting += node.inputs
    return found
