"""Shapes in a traced ONNX graph: what they are, and constants where the tracer wrote down how to compute them."""

from __future__ import annotations

from functools import cache
from typing import Any

from slmbench.export.generic.onnx_edits import constant_ints, read_instead
from slmbench.export.onnx.builder import MS

#: ONNX Runtime's operators: what they give is shaped like their first input. ONNX itself knows none of them.
_OPERATORS = (
    ("", "SimplifiedLayerNormalization"),
    (MS, "GroupQueryAttention"),
    (MS, "MultiHeadAttention"),
    (MS, "SkipLayerNormalization"),
    (MS, "SkipSimplifiedLayerNormalization"),
)
_PACKED_KEY, _PAST_KEY, _SUM = 1, 3, 3


def _like_the_input(context: Any) -> None:
    """Note the types of an operator's outputs; the sum that a normalisation was given is its fourth one."""
    kind = context.get_input_type(0)
    if kind is None:
        return
    if (heads := context.get_attribute("kv_num_heads")) is not None:
        heads = context.get_attribute("num_heads")
        past = context.get_input_type(_PAST_KEY)
        if not context.has_input(_PACKED_KEY) and past is not None:
            # Query, key and value come as one; what is attended is as wide as the query.
            kind.tensor_type.shape.dim[-1].dim_value = heads.i * past.tensor_type.shape.dim[-1].dim_value
    for index in {0, _SUM} & set(range(context.get_num_outputs())):
        context.set_output_type(index, kind)


@cache
def _describe_operators() -> None:
    """Have onnx know the shapes that ONNX Runtime's operators give: behind them it would know none."""
    from onnx import defs

    schema = defs.OpSchema
    types = [("T", ["tensor(float)", "tensor(int32)", "tensor(int64)"], "")]
    several = {"param_option": schema.FormalParameterOption.Variadic, "min_arity": 1, "is_homogeneous": False}
    ports = {name: [schema.FormalParameter(name, "T", **several)] for name in ("inputs", "outputs")}
    for domain, name in _OPERATORS:
        described = schema(name, domain, 1, **ports, type_constraints=types)
        described.set_type_and_shape_inference_function(_like_the_input)
        defs.register_schema(described)


def infer(model: Any) -> None:
    """Note the shape of each value."""
    from onnx_ir.passes.common import ShapeInferencePass

    _describe_operators()
    # A name that an earlier look made up for a size would stand in the way of a better one.
    forget(model)
    ShapeInferencePass(data_prop=True)(model)


def forget(model: Any) -> None:
    """Take away the shapes of everything that is neither an input, an output nor stored."""
    for node in model.graph:
        for output in node.outputs:
            if not output.is_graph_output():
                output.shape = None


def fix_reshapes(graph: Any) -> None:
    """Take out reshapes that change nothing, and give the others constant shapes where these are known."""
    for node in list(graph):
        if node.op_type == "Reshape" and not node.attributes.get_int("allowzero", 0):
            _fix(graph, node)


def _fix(graph: Any, node: Any) -> None:
    source, out = node.inputs[0], node.outputs[0]
    while (before := source.producer()) is not None and before.op_type == "Reshape":
        source = before.inputs[0]
    if source.shape is None or out.shape is None:
        return
    old, new = list(source.shape), list(out.shape)
    alike = [_same(one, other) for one, other in zip(old, new, strict=False)]
    if len(old) == len(new) and alike.count(False) <= 1 and not out.is_graph_output():
        read_instead(out, source)
        return
    target = [
        0 if index < len(old) and alike[index] and not isinstance(size, int) else size if isinstance(size, int) else -1
        for index, size in enumerate(new)
    ]
    if target.count(-1) > 1:
        return
    node.replace_input_with(0, source)
    node.replace_input_with(1, constant_ints(graph, target))


def _same(one: Any, other: Any) -> bool:
    """Tell whether two sizes are one and the same: a number, or a name."""
    if isinstance(one, int) or isinstance(other, int):
        return bool(one == other)
    return one.value is not None and one.value == other.value
