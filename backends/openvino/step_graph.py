"""The graph of a decode step: the artifact's own, for one token a row.

A graph for any number of tokens asks for every shape again at every step, and on a CPU its products keep the kernels
that read prompts. With one token a row fixed, shapes are known when the graph is compiled, and products can take the
kernel that reads a vector's weights soonest. For a decoder-only model of 135M on two cores that is 9 % (bf16) to 14 %
(fp32) less time a token, with the same numbers. What it costs: weights are laid out for each graph, so a decoder-only
model, whose prompts need the other graph, takes their memory twice; and the first step after a prompt copies the
prompt's K/V (see :func:`begin_with_inputs`).
"""

from __future__ import annotations

from typing import Any

from ..common.held_pictures import FEATURES, POSITIONS

#: Before a state's name: the input that this state begins with.
BEGINNING = "beginning of "
#: Inputs with a token a column; of the others only the rows are fixed.
_TOKENS = frozenset({"input_ids", "decoder_input_ids", "position_ids"})
#: What OpenVINO computes inside a product where only that reads it: activations, and sums and products with constants.
#: Of a GELU that is written out it makes one operator when it compiles.
_ABSORBED = frozenset(
    {"Add", "Clamp", "Divide", "Elu", "Erf", "Gelu", "HSwish", "Mish", "Multiply", "Power", "Relu", "Sigmoid"}
    | {"Subtract", "Swish", "Tanh"}
)
#: What moves numbers and leaves them as they are: OpenVINO moves elementwise operators up through it.
_MOVING = frozenset({"Reshape", "Squeeze", "Transpose", "Unsqueeze"})


def for_one_token(model: Any, rows: int, *, plain_products: bool) -> None:
    """Fix ``rows`` rows of one token each, in place; lengths of K/V and masks stay free.

    Raises:
        RuntimeError: the graph takes no such shapes.
    """
    without_pictures(model)
    shapes = {}
    for port in model.inputs:
        if POSITIONS in port.get_names():
            # Of a prompt, whose rows of answers there are none of with pictures.
            continue
        if state_begun_by(port):
            # A prompt's K/V: one row of it may become several rows of answers.
            continue
        shape = port.get_partial_shape()
        shape[0] = rows
        if port.get_names() & _TOKENS:
            shape[1] = 1
        shapes[port] = shape
    model.reshape(shapes)
    if plain_products:
        keep_products_plain(model)


def begin_with_inputs(model: Any) -> None:
    """Have every state begin, after a reset, with what an input of its own gives, in place.

    Setting a state puts it in a buffer of exactly its length, so the next step has to copy it again, into a larger one.
    What a state begins with is copied once, to where it stays.
    """
    from openvino import opset13 as ops

    begun = []
    for op in model.get_ops():
        if op.get_type_name() == "ReadValue":
            given = ops.parameter(op.get_output_partial_shape(0), op.get_output_element_type(0))
            given.output(0).get_tensor().set_names({BEGINNING + op.get_attributes()["variable_id"]})
            op.set_arguments([given.output(0)])
            begun.append(given)
    model.add_parameters(begun)
    model.validate_nodes_and_infer_types()


def state_begun_by(port: Any) -> str | None:
    """Return the name of the state that begins with this input, or None: it is another input."""
    names: set[str] = port.get_names()
    return next((name.removeprefix(BEGINNING) for name in names if name.startswith(BEGINNING)), None)


def without_pictures(model: Any) -> None:
    """Take the features of pictures out of a graph, in place: no token that is fed has a place for any."""
    port = next((port for port in model.inputs if FEATURES in port.get_names()), None)
    if port is None:
        return
    behind = [port.get_node()]
    while behind:
        # Features stand in the embedding's place, and may be added behind layers: each time one of two is chosen.
        for reader in {target.get_node() for target in behind.pop().output(0).get_target_inputs()}:
            if reader.get_type_name() == "Select":
                reader.output(0).replace(reader.input_value(2))
            else:
                behind.append(reader)
    model.remove_parameter(port.get_node())


def keep_products_plain(model: Any) -> int:
    """Keep what follows an fp32 product out of it, in place; return how many products would have taken something in.

    OpenVINO's CPU plugin has two kernels for a product with fp32 weights. The one that reads them faster for a single
    row (MLAS: 95 us where the other takes 161, weights of 3.5 MB) cannot take an activation in. A maximum with minus
    infinity, which changes nothing and which no product takes in, keeps them apart; the engine computes it in one
    operator with what follows.
    """
    import numpy as np
    from openvino import opset13 as ops

    count = 0
    for op in model.get_ordered_ops():
        if op.get_type_name() != "MatMul" or not _is_stored(op.input_value(1)):
            continue
        product = _with_bias(op.output(0))
        if _is_absorbed(product):
            targets = list(product.get_target_inputs())
            apart = ops.maximum(product, ops.constant(np.float32(-np.inf))).output(0)
            for target in targets:
                target.replace_source_output(apart)
            count += 1
    model.validate_nodes_and_infer_types()
    return count


def _is_stored(value: Any) -> bool:
    node = value.get_node()
    return bool(node.get_type_name() == "Constant" and node.get_element_type().get_type_name() == "f32")


def _readers(value: Any) -> list[Any]:
    """Return the nodes that read a value's numbers; its shape alone is nothing to wait for."""
    nodes = [target.get_node() for target in value.get_target_inputs()]
    return [node for node in nodes if node.get_type_name() != "ShapeOf"]


def _with_bias(product: Any) -> Any:
    """Return the sum of a product with its bias if that is all that reads it, else the product."""
    readers = _readers(product)
    if len(readers) == 1 and readers[0].get_type_name() == "Add" and any(map(_is_stored, readers[0].input_values())):
        return readers[0].output(0)
    return product


def _is_absorbed(value: Any) -> bool:
    """Tell whether a product would take in what reads it.

    That is one operator of the kind, behind moves or not, whose other operands are constants; or several, as a GELU
    that is written out reads its input.
    """
    readers = _readers(value)
    while len(readers) == 1 and readers[0].get_type_name() in _MOVING:
        readers = _readers(readers[0].output(0))
    if any(node.get_type_name() not in _ABSORBED for node in readers):
        return False
    computed = [
        source for node in readers for source in node.input_values() if source.get_node().get_type_name() != "Constant"
    ]
    return len(readers) > 1 or len(computed) == 1
