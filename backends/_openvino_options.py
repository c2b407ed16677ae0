"""Options of sessions over OpenVINO, and the properties that they come down to."""

from __future__ import annotations

from typing import Any

from slmbench.backend import SessionOptions
from slmbench.terms import ComputePrecision

from ._cpu import default_threads

_HINT: dict[ComputePrecision, str] = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
PRECISION = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}


class OpenVinoOptions(SessionOptions):
    """Options of the OpenVINO backend."""

    #: Precision of the K/V cache: "f32", "f16", "bf16" or "u8"; None for the compute precision. (OpenVINO's own
    #: default on CPUs is u8.)
    kv_cache: str | None = None
    #: Group size of dynamic quantisation of activations; 0 is off. (OpenVINO's own default is 32.)
    dynamic_quantization: int = 0
    #: Whether threads are pinned to cores.
    pinning: bool = True


def compute_refusal(options: SessionOptions) -> str | None:
    """Return why OpenVINO does not compute what the options ask for, or None."""
    if options.compute_precision in _HINT:
        return None
    return f"OpenVINO computes in {', '.join(_HINT)}, not in {options.compute_precision}"


def device_properties(options: SessionOptions, engine_name: str) -> dict[str, Any]:
    """Return everything OpenVINO would otherwise choose by itself."""
    hint = _HINT[options.compute_precision]
    kv_cache = getattr(options, "kv_cache", None) or hint
    properties: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": hint,
        "KV_CACHE_PRECISION": kv_cache,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": getattr(options, "dynamic_quantization", 0),
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    if engine_name == "CPU":
        properties["INFERENCE_NUM_THREADS"] = options.threads or default_threads()
        properties["ENABLE_CPU_PINNING"] = getattr(options, "pinning", True)
    if options.engine_cache is not None:
        properties["CACHE_DIR"] = options.engine_cache
    return properties
