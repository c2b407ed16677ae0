"""The graph of a decode step: the artifact's own, for one token a row.

A graph for any number of tokens asks for every shape anew at every step, and on a CPU its products keep the kernels
that read prompts. With one token a row fixed, shapes are known when the graph is compiled, and products can take the
kernel that reads a vector's weights soonest. For a decoder-only model of 135M on two cores that is 9 % (bf16) to 14 %
(fp32) less time a token, with the same numbers. What it costs: weights are laid out for each graph, so a decoder-only
model, whose prompts need the other graph, takes their memory twice.
"""

from __future__ import annotations

from typing import Any

#: Inputs with a token a column; of the others only the rows are fixed.
_TOKENS = frozenset({"input_ids", "decoder_input_ids", "position_ids"})
#: What OpenVINO computes inside the product before it, where nothing else reads that product.
_ACTIVATIONS = frozenset({"Elu", "Gelu", "HSwish", "Mish", "Relu", "Sigmoid", "Swish", "Tanh"})


def for_one_token(model: Any, rows: int, *, plain_products: bool) -> None:
    """Fix ``rows`` rows of one token each, in place; lengths of K/V and masks stay free.

    Raises:
        RuntimeError: the graph takes no such shapes.
    """
    shapes = {}
    for port in model.inputs:
        shape = port.get_partial_shape()
        shape[0] = rows
        if port.get_names() & _TOKENS:
            shape[1] = 1
        shapes[port] = shape
    model.reshape(shapes)
    if plain_products:
        keep_products_plain(model)


def keep_products_plain(model: Any) -> int:
    """Keep activations out of the fp32 products before them, in place; return how many were.

    OpenVINO's CPU plugin has two kernels for a product with fp32 weights. The one that reads them faster for a single
    row (MLAS: 95 us where the other takes 161, weights of 3.5 MB) cannot take an activation in. An axis of length one
    between the two keeps them apart; the activation joins the elementwise product behind it instead, if there is one.
    """
    from openvino import opset13 as ops

    count = 0
    for op in model.get_ordered_ops():
        if op.get_type_name() not in _ACTIVATIONS or not _is_plain_product(op.input_value(0)):
            continue
        last = op
        readers = [target.get_node() for target in op.output(0).get_target_inputs()]
        if len(readers) == 1 and readers[0].get_type_name() == "Multiply":
            (last,) = readers
        targets = list(last.output(0).get_target_inputs())
        op.input(0).replace_source_output(ops.unsqueeze(op.input_value(0), ops.constant(0)).output(0))
        lowered = ops.squeeze(last, ops.constant(0))
        for target in targets:
            target.replace_source_output(lowered.output(0))
        count += 1
    model.validate_nodes_and_infer_types()
    return count


def _is_plain_product(value: Any) -> bool:
    """Tell whether a value is a product with stored fp32 weights, plus a bias if any, that one node reads."""
    node = value.get_node()
    if len(value.get_target_inputs()) != 1:
        return False
    if node.get_type_name() == "Add":
        sources = [source.get_node() for source in node.input_values()]
        products = [source for source in sources if source.get_type_name() == "MatMul"]
        if len(products) != 1 or not any(source.get_type_name() == "Constant" for source in sources):
            return False
        (node,) = products
    if node.get_type_name() != "MatMul":
        return False
    weight = node.input_value(1)
    return weight.get_node().get_type_name() == "Constant" and str(weight.get_element_type().get_type_name()) == "f32"
