"""Operations on OpenVINO graphs: states for K/V, weight compression, and what a graph shows of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from slmbench.errors import CannotRunError
from slmbench.export.routes import Progress
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import Checkpoint
from slmbench.terms import Precision

#: Constants of fewer elements are shapes, norms and biases: too small to count or to convert.
_SMALL = 4096
_BITS = {"u4": 4, "i4": 4, "nf4": 4}


def make_stateful(model: Any) -> Any:
    """Turn the ports ``past_key_values.*`` / ``present.*`` into states that begin as empty tensors.

    The first value of a state has no positions: ``[batch, kv heads, 0, head size]``, with the batch of ``input_ids``.
    """
    from openvino import opset13 as ops
    from openvino._offline_transformations import apply_make_stateful_transformation

    pairs = {}
    for port in model.inputs:
        (name,) = port.get_names()
        if name.startswith("past_key_values."):
            pairs[name] = name.replace("past_key_values.", "present.")
    sizes = {name: model.input(name).get_partial_shape() for name in pairs}
    apply_make_stateful_transformation(model, pairs)
    batch = ops.gather(ops.shape_of(model.input("input_ids"), "i64"), [0], 0)
    for op in model.get_ops():
        if op.get_type_name() == "ReadValue":
            past = next(name for name in sizes if op.get_variable_id().startswith(f"{name}{pairs[name]}"))
            fixed = [size.get_length() if size.is_static else 0 for size in list(sizes[past])[1:]]
            shape = ops.concat([batch, ops.constant(fixed, dtype="int64")], axis=0)
            op.set_arguments([ops.broadcast(ops.constant(0.0, dtype="float32"), shape).output(0)])
    model.validate_nodes_and_infer_types()
    return model


#: What may stand between the LM head and the logits: it works on each position by itself.
_ELEMENTWISE = {"Add", "Divide", "Multiply", "Tanh"}
_FIXED = {"Constant", "Convert"}


def keep_last_position(model: Any) -> None:
    """Let the LM head see the last position only: ``logits`` become ``[batch, 1, vocabulary]``.

    Raises:
        CannotRunError: the logits are no matrix product.
    """
    from openvino import opset13 as ops

    node = model.output("logits").get_node().input_value(0).get_node()
    while node.get_type_name() in _ELEMENTWISE:
        # Of two operands the constant one (a bias, a scale) is not the way to the head.
        node = next(v.get_node() for v in node.input_values() if v.get_node().get_type_name() not in _FIXED)
    if node.get_type_name() != "MatMul":
        raise CannotRunError(f"the logits are made by {node.get_type_name()}, not by a matrix product")
    last = ops.slice(node.input_value(0), [-1], [2**63 - 1], [1], [1])
    node.input(0).replace_source_output(last.output(0))
    model.validate_nodes_and_infer_types()


def write_compressed(
    model: Any, checkpoint: Checkpoint, spec: ArtifactSpec, path: Path, progress: Progress
) -> tuple[int, dict[str, str]]:
    """Write the model with weights as the spec asks.

    Returns the bytes of them that a decode step reads, and what a recipe came down to.
    """
    import openvino as ov

    precision = spec.weight_precision
    made: dict[str, str] = {}
    if spec.recipe is None:
        model = compress(model, precision)
    else:
        from slmbench.export.openvino.optimum_recipe import compress_by_recipe

        model, made = compress_by_recipe(model, checkpoint, spec, progress)
    bytes_read = decode_weight_bytes(model)
    ov.save_model(model, str(path), compress_to_fp16=precision == "fp16")
    return bytes_read // 2 if precision == "fp16" else bytes_read, made


def compress(model: Any, precision: Precision) -> Any:
    """Return the model with weights of the given precision (fp16 is left to ``save_model``).

    int8: asymmetric, per channel. int4: symmetric in groups of 64 along the input (32 where 64 does not divide
    every width), embedding and LM head in int8: NNCF's data-free defaults.
    """
    if precision in ("fp32", "fp16"):
        return model
    if precision == "bf16":
        return _to_bf16(model)
    import nncf

    nncf.set_log_level(40)  # logging.ERROR
    if precision == "int8":
        return nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    for group_size in (64, 32, -1):
        try:
            return nncf.compress_weights(
                model, mode=nncf.CompressWeightsMode.INT4_SYM, ratio=1.0, group_size=group_size
            )
        except nncf.errors.InvalidGroupSizeError:
            continue
    raise AssertionError("group size -1 is one group a channel and always fits")


def _to_bf16(model: Any) -> Any:
    """Store matrices in bf16, each followed by a conversion that engines know as decompression."""
    import numpy as np
    import openvino as ov
    from openvino import opset13 as ops

    for op in model.get_ordered_ops():
        if op.get_type_name() != "Constant" or op.get_element_type() != ov.Type.f32:
            continue
        values = op.data
        if values.size < _SMALL or values.ndim < 2:
            continue
        consumers = list(op.output(0).get_target_inputs())
        packed = ov.Tensor(np.ascontiguousarray(_round_to_bf16(values)), ov.Shape(values.shape), ov.Type.bf16)
        # A copy of its own: a tensor made of an array does not keep the array alive.
        wide = ops.convert(ov.op.Constant(packed, shared_memory=False), "f32")
        wide.get_rt_info()["decompression_0"] = ""
        wide.set_friendly_name(op.get_friendly_name())
        for consumer in consumers:
            consumer.replace_source_output(wide.output(0))
    model.validate_nodes_and_infer_types()
    return model


def _round_to_bf16(values: Any) -> Any:
    """Return float32 values rounded to nearest-even bf16, as uint16 bit patterns."""
    import numpy as np

    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def decode_weight_bytes(model: Any) -> int:
    """Return the bytes of weights that one decode step reads.

    Every constant but those that only feed a row look-up (an embedding that is not also the LM head).
    """
    total = 0
    for op in model.get_ops():
        if op.get_type_name() == "Constant" and _elements(op) >= _SMALL and not _only_looked_up(op):
            bits = _BITS.get(op.get_element_type().get_type_name(), op.get_element_type().size * 8)
            total += _elements(op) * bits // 8
    return total


def _elements(op: Any) -> int:
    count = 1
    for size in op.get_output_shape(0):
        count *= size
    return count


#: What stands between a stored weight and its use when it is compressed.
_DECOMPRESSION = {"Convert", "Subtract", "Multiply", "Reshape"}


def _only_looked_up(op: Any) -> bool:
    """Tell whether all uses of a constant, through its decompression, are table look-ups along its rows."""
    for target in op.output(0).get_target_inputs():
        node = target.get_node()
        kind = node.get_type_name()
        if kind == "Gather" and target.get_index() == 0:
            continue
        if kind in _DECOMPRESSION and _only_looked_up(node) and node.get_output_size():
            continue
        return False
    return True


def cross_kv_once(decoder: Any) -> bool:
    """Prove from the graph that a decoder step computes no cross-attention K/V.

    What depends on the encoder's output and not on the decoder's own tokens could be computed once a prompt. A
    matrix product with weights among it, other than to set a state's first value, is computed at every step.
    """
    return not recomputed_products(decoder)


def recomputed_products(decoder: Any) -> list[str]:
    """Return the names of the weight products over encoder states that every decoder step computes."""
    from_encoder: set[str] = set()
    from_tokens: set[str] = set()
    products = []
    for op in decoder.get_ordered_ops():
        kind, name = op.get_type_name(), op.get_friendly_name()
        if kind == "Parameter":
            names = op.output(0).get_names()
            encoded = any(one.startswith("encoder_") or one.startswith("cross.") for one in names)
            (from_encoder if encoded else from_tokens).add(name)
            continue
        if kind == "ReadValue":
            # Its input is only evaluated when the state is reset.
            continue
        sources = {value.get_node().get_friendly_name() for value in op.input_values()}
        if sources & from_tokens:
            from_tokens.add(name)
        elif sources & from_encoder:
            from_encoder.add(name)
            if kind == "MatMul" and not _only_sets_state(op):
                products.append(name)
    return products


def _only_sets_state(op: Any) -> bool:
    """Tell whether everything that is made of this node's output ends in a ReadValue, as its first value."""
    targets = [target.get_node() for output in op.outputs() for target in output.get_target_inputs()]
    return bool(targets) and all(node.get_type_name() == "ReadValue" or _only_sets_state(node) for node in targets)
