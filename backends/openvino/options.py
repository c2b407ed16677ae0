"""Options of sessions over OpenVINO, and the properties that they come down to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Protocol, runtime_checkable

from pydantic import Field

from slmbench.backend import UNASKED, SessionOptions
from slmbench.models.artifact import ArtifactSpec
from slmbench.system.telemetry import silence_telemetry
from slmbench.terms import ComputePrecision, Device

from ..common.cpu_device import default_threads

HINT: dict[ComputePrecision, str] = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
_CAPABILITY: dict[ComputePrecision, str] = {"fp32": "FP32", "fp16": "FP16", "bf16": "BF16"}
PRECISION = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}


class OpenVinoOptions(SessionOptions):
    """Options of the OpenVINO backend."""

    #: Precision of the K/V cache: "f32", "f16", "bf16" or "u8"; None for the compute precision. (OpenVINO's own
    #: default on CPUs is u8.)
    kv_cache: str | None = None
    #: Group size of dynamic quantisation of activations; 0 is off, as is None. (OpenVINO's own default is 32.)
    dynamic_quantization: int | None = Field(default=None, ge=0)
    #: Whether threads are pinned to cores; None: they are. With shipped settings, None leaves all three to OpenVINO.
    pinning: bool | None = None


#: Attention paths of our own loop: steps by a graph of their own (see :mod:`.step_graph`), or by the prompt's.
STEP_PATH, PLAIN_PATH = "SDPA+step", "SDPA"

#: What OpenVINO would choose by itself, and reports of a compiled model.
_TOLD = ("KV_CACHE_PRECISION", "DYNAMIC_QUANTIZATION_GROUP_SIZE", "NUM_STREAMS")
#: What it also reports with shipped settings, where all of it is its own choice.
_ALSO_TOLD = ("PERFORMANCE_HINT", "ENABLE_CPU_PINNING")
#: With other group sizes OpenVINO's CPU kernels do not quantise, while the property repeats what was asked.
_GROUP_STEP = 16


def compute_refusal(options: SessionOptions, spec: ArtifactSpec, device: Device) -> str | None:
    """Return why OpenVINO does not compute what the options ask for, or None."""
    shipped = options.settings == "shipped"
    if options.compute_precision not in HINT and not shipped:
        return f"OpenVINO computes in {', '.join(HINT)}, not in {options.compute_precision}"
    missing = None if shipped else capability_refusal(options.compute_precision, device)
    if missing is not None:
        return missing
    group = OpenVinoOptions.of(options).dynamic_quantization or 0
    if group and spec.weight_precision not in ("int8", "int4"):
        return f"dynamic_quantization={group} is for int8 and int4 weights: OpenVINO silently ignores it for others"
    if group % _GROUP_STEP:
        return f"dynamic_quantization={group} is not a multiple of {_GROUP_STEP}: OpenVINO silently ignores it"
    return None


@cache
def capability_refusal(precision: ComputePrecision, device: Device) -> str | None:
    """Return why this device does not compute in a precision, or None: asked of OpenVINO, which would use another."""
    silence_telemetry()
    import openvino as ov

    core, name = ov.Core(), device.upper()
    if name not in {one.partition(".")[0] for one in core.available_devices}:
        return None
    known = core.get_property(name, "OPTIMIZATION_CAPABILITIES")
    if _CAPABILITY[precision] in known:
        return None
    has = [one for one, capability in _CAPABILITY.items() if capability in known]
    return f"OpenVINO does not compute in {precision} on this {name}, only in {', '.join(has)}"


def steps_apart(options: SessionOptions, device: Device) -> bool:
    """Return whether decode steps run a graph of their own: on a CPU, unless the other path is asked for.

    With shipped settings a graph runs as it is, unless steps of their own are asked for.
    """
    asked = (STEP_PATH,) if options.settings == "shipped" else (None, STEP_PATH)
    return device == "cpu" and options.attention in asked


def path_refusal(options: SessionOptions, device: Device) -> str | None:
    """Return why our loop does not take the attention path that is asked for, or None."""
    if options.attention not in (None, STEP_PATH, PLAIN_PATH):
        return f"unknown attention '{options.attention}': openvino has {STEP_PATH}, {PLAIN_PATH}"
    if device == "npu" and options.attention is not None:
        return f"attention '{options.attention}' is for dynamic graphs: an NPU's are static and have one path"
    if device == "gpu" and options.attention == STEP_PATH:
        return f"attention '{STEP_PATH}' is for CPUs: on a GPU a step runs the prompt's graph ({PLAIN_PATH})"
    return None


def idle_refusal(options: SessionOptions) -> str | None:
    """Return which option does nothing for a static graph, or None: it would appear in the table without effect."""
    asked = OpenVinoOptions.of(options)
    values = {"kv_cache": asked.kv_cache, "dynamic_quantization": asked.dynamic_quantization}
    given = [name for name, value in values.items() if value]
    return f"static graphs do not use {' and '.join(given)}: the graph itself fixes its K/V" if given else None


def settings_in_effect(
    asked: dict[str, Any], reported: Sequence[Callable[[str], object]]
) -> dict[str, tuple[str, str]]:
    """Return what was asked and what compiled models report (see :class:`slmbench.backend.TellsSettings`).

    ``reported`` gives a property of one compiled model; it raises RuntimeError or LookupError where there is none.
    """
    found: dict[str, tuple[str, str]] = {}
    shipped = "PERFORMANCE_HINT" not in asked
    for name in (*_TOLD, *_ALSO_TOLD) if shipped else _TOLD:
        values = set()
        for tell in reported:
            try:
                values.add(_word(tell(name)))
            except (RuntimeError, LookupError):
                continue
        if values:
            found[name] = str(asked.get(name, UNASKED)), "+".join(sorted(values))
    return found


@runtime_checkable
class _TypeName(Protocol):
    """An element type of OpenVINO."""

    def get_type_name(self) -> str:
        """Return its short name, "f32"."""


def _word(value: object) -> str:
    """Return a property as it is written when it is set: types by their short names."""
    name = value.get_type_name() if isinstance(value, _TypeName) else str(value)
    return {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}.get(name, name)


def device_properties(options: SessionOptions, engine_name: str) -> dict[str, Any]:
    """Return everything OpenVINO would otherwise choose by itself; with shipped settings what was asked by name."""
    asked = OpenVinoOptions.of(options)
    if options.settings == "shipped":
        named = {
            "KV_CACHE_PRECISION": asked.kv_cache,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": asked.dynamic_quantization,
            "INFERENCE_NUM_THREADS": options.threads if engine_name == "CPU" else None,
            "ENABLE_CPU_PINNING": asked.pinning if engine_name == "CPU" else None,
            "CACHE_DIR": options.engine_cache,
        }
        return {name: value for name, value in named.items() if value is not None}
    hint = HINT[options.compute_precision]
    properties: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": hint,
        "KV_CACHE_PRECISION": asked.kv_cache or hint,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": asked.dynamic_quantization or 0,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    if engine_name == "CPU":
        properties["INFERENCE_NUM_THREADS"] = options.threads or default_threads()
        properties["ENABLE_CPU_PINNING"] = asked.pinning is not False
    if options.engine_cache is not None:
        properties["CACHE_DIR"] = options.engine_cache
    return properties
