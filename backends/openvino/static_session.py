"""Static graphs on OpenVINO: the CPU, the NPU, and NPUW with CPU submodels for the NPU's pipeline without one."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from slmbench.backend import Placement, SessionOptions
from slmbench.errors import CannotRunError, last_error_line
from slmbench.models import static_layout as layout
from slmbench.models.artifact import Artifact, Role
from slmbench.system.telemetry import silence_telemetry
from slmbench.terms import Device

from ..common.cpu_device import default_threads
from ..common.static_session import BufferPool, StaticSession

_HINT = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
_PRECISION = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}


class OpenVinoStaticSession(StaticSession):
    """Static graphs compiled by OpenVINO for one device. Buffers are OpenVINO tensors, bound once."""

    def __init__(self, artifact: Artifact, device: Device, options: SessionOptions, engine_name: str) -> None:
        """Compile the artifact's graphs for ``engine_name`` ("CPU", "NPU", "GPU").

        Raises:
            CannotRunError: OpenVINO refuses a graph.
        """
        silence_telemetry()
        import openvino as ov

        super().__init__(artifact.manifest.checkpoint, artifact.manifest.spec)
        self._device, self._simulated = device, options.simulate and engine_name == "NPU"
        core = ov.Core()
        # A blob that NPUW reads back forgets the precision its CPU submodels were compiled for.
        if options.engine_cache is not None and not self._simulated:
            core.set_property({"CACHE_DIR": options.engine_cache})
        cpu = _cpu_properties(options)
        if self._simulated:
            core.set_property("CPU", cpu)
        properties = cpu if engine_name == "CPU" else _device_properties(options, engine_name)
        self._phases_ns = {"load": 0, "compile": 0}
        self._compiled: dict[Role, Any] = {}
        self._requests: dict[Role, Any] = {}
        self._pool = BufferPool()
        for role in artifact.manifest.graphs:
            self._compiled[role] = self._compile(core, artifact.graph(role), engine_name, properties)
        self._bind({role: self._request(role) for role in self._compiled})
        # Read back, never assumed: NPUW always names itself "NPU", so its own device list is asked.
        self._core_cpu_precision = str(core.get_property("CPU", "INFERENCE_PRECISION_HINT").get_type_name())

    def _compile(self, core: Any, path: Path, engine_name: str, properties: dict[str, Any]) -> Any:
        started = time.perf_counter_ns()
        try:
            model = core.read_model(path)
            read = time.perf_counter_ns()
            compiled = core.compile_model(model, engine_name, properties)
        except (RuntimeError, UnicodeDecodeError) as error:
            reason = last_error_line(error)
            raise CannotRunError(f"{path}: OpenVINO does not compile it for {engine_name}: {reason}") from error
        self._phases_ns["load"] += read - started
        self._phases_ns["compile"] += time.perf_counter_ns() - read
        return compiled

    def _request(self, role: Role) -> dict[str, Any]:
        """Create the graph's request, bind a tensor to every port, and return their memory by port name."""
        import openvino as ov

        compiled = self._compiled[role]
        request = self._requests[role] = compiled.create_infer_request()
        memory: dict[str, Any] = {}
        for ports, set_tensor in (
            (compiled.inputs, request.set_input_tensor),
            (compiled.outputs, request.set_output_tensor),
        ):
            for index, port in enumerate(ports):
                name = layout.port_name(port.names)
                if name is None:
                    raise CannotRunError(f"the {role} graph has a port that no layout knows: {port.names}")
                shape = tuple(port.shape)
                tensor = self._pool.get(name, shape)
                if tensor is None:
                    tensor = ov.Tensor(port.element_type, port.shape)
                    self._pool.put(name, shape, tensor)
                set_tensor(index, tensor)
                memory[name] = tensor.data  # type: ignore[attr-defined]  # a Tensor, held as object
        return memory

    def _run(self, role: Role) -> None:
        self._requests[role].infer()

    def placement(self) -> Placement:
        """Return the devices that all compiled graphs name; for NPUW the devices of its submodels."""
        return Placement(self._device, "+".join(sorted({executed_on(graph) for graph in self._compiled.values()})))

    def compute_precision(self) -> str:
        """Return OpenVINO's inference precision in effect."""
        if self._simulated:
            return _PRECISION.get(self._core_cpu_precision, self._core_cpu_precision)
        name = str(self._compiled[self._step_role].get_property("INFERENCE_PRECISION_HINT").get_type_name())
        return _PRECISION.get(name, name)

    def threads(self) -> int:
        """Return the CPU threads in effect; an NPU has none of them, so 0."""
        if self._device != "cpu":
            return 0
        return int(self._compiled[self._step_role].get_property("INFERENCE_NUM_THREADS"))

    def load_phases_ns(self) -> dict[str, int]:
        """Return "load" (reading the IR) and "compile" in ns, of both graphs together."""
        return dict(self._phases_ns)

    def close(self) -> None:
        """Free requests, graphs and buffers."""
        self._requests.clear()
        self._compiled.clear()
        self._slots.clear()
        self._pool = BufferPool()


def executed_on(compiled: Any) -> str:
    """Return where a compiled model runs, in small letters: "cpu", "npu", "npuw-cpu", "cpu+gpu".

    NPUW calls itself "NPU" even where its submodels run on a CPU, so its own list of devices is asked. A list means
    that any of them may run a part: it is given back whole, and equals no device that was asked for.
    """
    try:
        wrapped = str(compiled.get_property("NPU_USE_NPUW")).upper() in ("TRUE", "YES")
    except RuntimeError:
        wrapped = False
    if wrapped:
        found = str(compiled.get_property("NPUW_DEVICES")).split(",")
    else:
        named = compiled.get_property("EXECUTION_DEVICES")
        found = [named] if isinstance(named, str) else list(named)
    # AUTO puts the device it uses meanwhile into brackets; a second GPU is "GPU.1".
    devices = sorted({name.strip("()").split(".")[0].lower() for name in found})
    return ("npuw-" if wrapped else "") + "+".join(devices)


def _cpu_properties(options: SessionOptions) -> dict[str, Any]:
    """Return the CPU's settings: OpenVINO would choose bf16 and quantised activations by itself."""
    return {
        "INFERENCE_PRECISION_HINT": _HINT[options.compute_precision],
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        "INFERENCE_NUM_THREADS": options.threads or default_threads(),
    }


def _device_properties(options: SessionOptions, engine_name: str) -> dict[str, Any]:
    """Return an accelerator's settings. NPUW runs only where an NPU is simulated, and then only on the CPU."""
    if engine_name != "NPU":
        return {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": _HINT[options.compute_precision]}
    if options.simulate:
        return {"NPU_USE_NPUW": "YES", "NPUW_DEVICES": "CPU", "NPUW_ONLINE_PIPELINE": "NONE"}
    return {"PERFORMANCE_HINT": "LATENCY"}
