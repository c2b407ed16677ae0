"""Limits of a device as ONNX Runtime reaches them: a chain of MatMuls, nothing else."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from slmbench.backend import ProbeGraph, ProbeShape
from slmbench.errors import CannotRunError
from slmbench.terms import ComputePrecision, Device

from ..common.probe import chain_input, chain_weights
from .cuda import load_libraries

_PROVIDER: dict[Device, str] = {"cpu": "CPUExecutionProvider", "gpu": "CUDAExecutionProvider"}
_ONNX_BFLOAT16 = 16


def probe_graph(shape: ProbeShape, compute_precision: ComputePrecision, device: Device, threads: int) -> ProbeGraph:
    """Make a session of the chain on a device; see :class:`slmbench.backend.LimitsProbe`."""
    import onnxruntime as ort

    provider = _PROVIDER.get(device)
    if provider is None or provider not in ort.get_available_providers():
        raise CannotRunError(f"no limits of {device} through ONNX Runtime: {provider or 'a probe for it'} is missing")
    if device == "gpu":
        load_libraries()
    session = _open(shape, compute_precision, provider, threads)
    binding = session.io_binding()
    kind, index = ("cuda", 0) if device == "gpu" else ("cpu", 0)
    dtype = "float16" if compute_precision == "fp16" else "float32"
    feed = ort.OrtValue.ortvalue_from_numpy(chain_input(shape).astype(dtype), kind, index)
    binding.bind_ortvalue_input("x", feed)
    binding.bind_output("y", kind, index)

    def step() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    step()
    # ONNX Runtime names no provider per node without a profile; fallback is off, so it is this one or an error.
    return ProbeGraph(step, _effective(compute_precision, provider, threads), device)


def _open(
    shape: ProbeShape, precision: ComputePrecision, provider: str, threads: int, optimised: Path | None = None
) -> Any:
    """Return a session of the chain; with ``optimised``, the graph that is really run is written there."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if provider != "CPUExecutionProvider":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    weights = _weights(shape, precision)
    options.add_external_initializers(list(weights), list(weights.values()))
    try:
        return ort.InferenceSession(_model(shape, precision), options, providers=[provider])
    except Exception as error:  # ONNX Runtime's own types share no base but Exception
        text = str(error).splitlines()[0].rpartition(" : ")[2]
        raise CannotRunError(f"ONNX Runtime on {provider}: {text or error}") from error


def _model(shape: ProbeShape, precision: ComputePrecision) -> bytes:
    """Return the chain as ONNX, its weights named and left to be handed over (:func:`_weights`).

    The products are in ``precision``; a bf16 chain is cast to at its input and from at its output, numpy has none.
    """
    from onnx import TensorProto, helper

    types = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
    inside = types[precision]
    outside = TensorProto.FLOAT if precision == "bf16" else inside
    nodes = [helper.make_node("Cast", ["x"], ["h0"], to=inside)]
    initialisers = []
    for layer in range(shape.layers):
        weights = TensorProto(name=f"w{layer}", data_type=inside, dims=[shape.width, shape.width])
        weights.data_location = TensorProto.EXTERNAL
        weights.external_data.add(key="location", value="handed over")
        initialisers.append(weights)
        nodes.append(helper.make_node("MatMul", [f"h{layer}", f"w{layer}"], [f"h{layer + 1}"]))
    nodes.append(helper.make_node("Cast", [f"h{shape.layers}"], ["y"], to=outside))
    ends = [helper.make_tensor_value_info(name, outside, [shape.rows, shape.width]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "limits", [ends[0]], [ends[1]], initialisers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return bytes(model.SerializeToString())


def _weights(shape: ProbeShape, precision: ComputePrecision) -> dict[str, Any]:
    """Return the chain's matrices by name, as the engine's own values: no copy through a protobuf message."""
    import numpy as np
    import onnxruntime as ort

    found = {}
    for layer, weights in enumerate(chain_weights(shape)):
        if precision == "bf16":
            bits = (weights.view(np.uint32) >> 16).astype(np.uint16)
            value = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, _ONNX_BFLOAT16)
        else:
            value = ort.OrtValue.ortvalue_from_numpy(weights.astype("float16" if precision == "fp16" else "float32"))
        found[f"w{layer}"] = value
    return found


def _effective(asked: ComputePrecision, provider: str, threads: int) -> str:
    """Return the precision of the products in the graph that ONNX Runtime really runs, from a chain in small.

    Where a provider has no kernel in half precision, it puts casts to float around each product.
    """
    if asked == "fp32":
        return asked
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimised.onnx"
        _open(ProbeShape(rows=64, width=64, layers=2), asked, provider, threads, path)
        nodes = onnx.load(str(path)).graph.node
    casts = (n for n in nodes if n.op_type == "Cast")
    to_float = {name for n in casts if n.attribute[0].i == onnx.TensorProto.FLOAT for name in n.output}
    products = [n for n in nodes if "MatMul" in n.op_type or n.op_type == "Gemm"]
    return "fp32" if any(set(n.input) & to_float for n in products) else asked
