"""Limits of a device as OpenVINO reaches them: a chain of MatMuls, nothing else."""

from __future__ import annotations

from slmbench.backend import ProbeGraph, ProbeShape
from slmbench.errors import CannotRunError
from slmbench.terms import ComputePrecision, Device

from ..common.probe import chain_input, chain_weights
from .options import HINT, capability_refusal


def probe_graph(shape: ProbeShape, compute_precision: ComputePrecision, device: Device, threads: int) -> ProbeGraph:
    """Compile the chain for a device; see :class:`slmbench.backend.LimitsProbe`."""
    import numpy as np
    import openvino as ov
    from openvino import opset13 as op

    core = ov.Core()
    name = device.upper()
    if name not in {n.partition(".")[0] for n in core.available_devices}:
        raise CannotRunError(f"OpenVINO sees no {name}; it sees {', '.join(core.available_devices) or 'nothing'}")
    refusal = capability_refusal(compute_precision, device)
    if refusal is not None:
        raise CannotRunError(refusal)
    parameter = op.parameter([shape.rows, shape.width], np.float32)
    node = parameter
    for weights in chain_weights(shape):
        node = op.matmul(node, op.constant(weights), False, False)
    model = ov.Model([op.result(node)], [parameter], "limits")
    config = {"INFERENCE_PRECISION_HINT": HINT[compute_precision], "PERFORMANCE_HINT": "LATENCY"}
    if device == "cpu":
        config["INFERENCE_NUM_THREADS"] = str(threads)
    compiled = core.compile_model(model, name, config)
    request = compiled.create_infer_request()
    request.set_input_tensor(ov.Tensor(chain_input(shape)))
    request.infer()
    effective = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    names = {hint: precision for precision, hint in HINT.items()}
    executed = "+".join(compiled.get_property("EXECUTION_DEVICES"))
    return ProbeGraph(lambda: request.infer(), names.get(effective, effective), executed.lower())
