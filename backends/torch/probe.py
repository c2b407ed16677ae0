"""Limits of a device as torch reaches them: a chain of matrix products, nothing else."""

from __future__ import annotations

from slmbench.backend import ProbeGraph, ProbeShape
from slmbench.errors import CannotRunError
from slmbench.terms import ComputePrecision, Device

from ..common.probe import chain_input, chain_weights


def probe_graph(shape: ProbeShape, compute_precision: ComputePrecision, device: Device, threads: int) -> ProbeGraph:
    """Put the chain's matrices on a device; see :class:`slmbench.backend.LimitsProbe`."""
    import torch

    if device == "npu" or (device == "gpu" and not torch.cuda.is_available()):
        raise CannotRunError(f"torch sees no {device} here")
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[compute_precision]
    place = torch.device("cuda" if device == "gpu" else "cpu")
    torch.set_num_threads(threads)
    torch.set_float32_matmul_precision("highest")
    # A linear layer keeps its matrix transposed, as every checkpoint does.
    weights = [torch.from_numpy(w).to(place, dtype) for w in chain_weights(shape)]
    feed = torch.from_numpy(chain_input(shape)).to(place, dtype)

    def step() -> None:
        value = feed
        with torch.inference_mode():
            for weight in weights:
                value = torch.nn.functional.linear(value, weight)
        if device == "gpu":
            torch.cuda.synchronize()

    step()
    names = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
    return ProbeGraph(step, names[weights[0].dtype], device)
