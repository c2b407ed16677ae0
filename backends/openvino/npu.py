"""Intel's NPU through OpenVINO: what is there, what runs on it, and its pipeline on the CPU where it is absent.

``--device npu`` on the `openvino` backend comes here. Static graphs are compiled plainly for the NPU; under
``--simulate`` OpenVINO's NPU wrapper (NPUW) runs them in CPU submodels, which proves tokens and limits, not speed.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from slmbench.backend import DeviceStatus, SessionOptions
from slmbench.errors import CannotRunError
from slmbench.models.artifact import Artifact, ArtifactSpec
from slmbench.models.checkpoint import Checkpoint
from slmbench.system.extras import install_command, installed_version, missing, not_installed
from slmbench.system.telemetry import silence_telemetry
from slmbench.terms import ComputePrecision, Precision

from ..common.npu_limits import too_large
from .options import capability_refusal, idle_refusal
from .static_session import OpenVinoStaticSession

ENGINE_NAME = "NPU"
#: What an NPU computes in. The wrapper on the CPU can be held to fp32 as well, which proves more.
_COMPUTE = ("fp16",)
_SIMULATED_COMPUTE = ("fp32", "fp16", "bf16")

SHIPPED_REFUSAL = "--settings shipped is for CPUs and GPUs: slmbench itself fixes how static graphs run on an NPU"


def devices() -> list[DeviceStatus]:
    """Return Intel's NPU: present only where OpenVINO lists it, for its plugin answers without one too."""
    silence_telemetry()
    try:
        import openvino as ov
    except ImportError:
        return [DeviceStatus("npu", ENGINE_NAME, False, not_installed("openvino"), install_command("openvino"))]
    core = ov.Core()
    names = [name for name in core.available_devices if name.split(".")[0] == ENGINE_NAME]
    if not names:
        return [DeviceStatus("npu", ENGINE_NAME, False, *_device_refusal(core.available_devices))]
    return [
        DeviceStatus(
            "npu",
            name,
            True,
            _reported(core, name, "FULL_DEVICE_NAME") or "Intel NPU",
            memory_bytes=int(memory) if (memory := _reported(core, name, "NPU_DEVICE_TOTAL_MEM_SIZE")) else None,
            driver=_reported(core, name, "NPU_DRIVER_VERSION"),
        )
        for name in names
    ]


def _reported(core: Any, name: str, what: str) -> str | None:
    """Return a property of the device; None where its driver is too old to report it."""
    try:
        return str(core.get_property(name, what))
    except RuntimeError:
        return None


def _device_refusal(listed: Sequence[str]) -> tuple[str, str]:
    """Return what was looked for and found on the way to an Intel NPU, and the first thing to mend."""
    nodes = sorted(str(path) for path in Path("/dev/accel").glob("accel*"))
    module = Path("/sys/module/intel_vpu").exists()
    compiler = _has_compiler()
    found = [f"OpenVINO lists {', '.join(listed) or 'no device'}"]
    if sys.platform == "linux":
        found.append(", ".join(nodes) or "no device in /dev/accel")
        found.append(f"driver intel_vpu {'loaded' if module else 'not loaded'}")
    found.append(f"{'an' if compiler else 'no'} NPU compiler in its package")
    if sys.platform == "darwin":
        remedy = "an Intel Core Ultra machine under Linux or Windows"
    elif sys.platform == "linux" and not nodes:
        remedy = "an Intel Core Ultra machine with Intel's driver (github.com/intel/linux-npu-driver)"
    elif sys.platform == "linux":
        remedy = "intel-level-zero-npu and intel-driver-compiler-npu from github.com/intel/linux-npu-driver"
    else:
        remedy = "an Intel Core Ultra machine and Intel's NPU driver"
    return f"looked for an Intel NPU: {', '.join(found)}", f"{remedy}, or `slmbench run --simulate`"


def _has_compiler() -> bool:
    """Return whether the installed package brings the compiler (the wheels for Windows do, for Linux not)."""
    spec = find_spec("openvino")
    folders = spec.submodule_search_locations if spec is not None else None
    return any(True for folder in folders or () for _ in Path(folder, "libs").glob("*npu_compiler*"))


def artifact_specs(precision: Precision) -> Sequence[ArtifactSpec]:
    """Return the static IR that an NPU takes in that weight precision."""
    if precision == "bf16":
        return ()
    return (ArtifactSpec(format="openvino", layout="static", weight_precision=precision),)


def default_compute(*, simulate: bool) -> ComputePrecision:
    """Return fp16, which is all that an NPU knows; fp32 in its simulation, which every CPU knows and proves most."""
    return "fp32" if simulate else "fp16"


def refusal(spec: ArtifactSpec, options: SessionOptions) -> str | None:
    """Return why a static artifact cannot run on the NPU (or in its simulation) here, or None."""
    idle = idle_refusal(options)
    if idle is not None:
        return idle
    if options.simulate:
        if installed_version("openvino") is None:
            return missing("openvino")
        if options.compute_precision not in _SIMULATED_COMPUTE:
            return f"NPUW on the CPU computes in {', '.join(_SIMULATED_COMPUTE)}, not in {options.compute_precision}"
        lacking = capability_refusal(options.compute_precision, "cpu")
        return lacking and f"the simulation runs on the CPU, and {lacking}: ask for {spec.weight_precision}/fp32"
    absent = [status for status in devices() if not status.available]
    if absent:
        return absent[0].refusal()
    if options.compute_precision not in _COMPUTE:
        return f"the NPU computes in fp16, not in {options.compute_precision}: ask for {spec.weight_precision}/fp16"
    return None


def size_refusal(checkpoint: Checkpoint, spec: ArtifactSpec, options: SessionOptions) -> str | None:
    """Return why the model is too large for the NPU that is here, or None; a simulation has the host's memory."""
    if options.simulate:
        return None
    (first, *_) = devices()
    return too_large(checkpoint, spec, first.memory_bytes, first.detail)


def driver_and_compiler() -> str:
    """Return the versions that decide what compiles, in parentheses."""
    return f"(NPU driver {devices()[0].driver}, OpenVINO {installed_version('openvino')})"


def open_session(artifact: Artifact, options: SessionOptions) -> OpenVinoStaticSession:
    """Load a static artifact onto the NPU, or into its simulation where ``simulate`` is set.

    Raises:
        CannotRunError: there is no NPU, the model is too large for it, or its driver does not compile a graph; the
            text names driver and compiler.
    """
    manifest = artifact.manifest
    reason = refusal(manifest.spec, options) or size_refusal(manifest.checkpoint, manifest.spec, options)
    if reason is not None:
        raise CannotRunError(reason)
    try:
        return OpenVinoStaticSession(artifact, "npu", options, ENGINE_NAME)
    except CannotRunError as error:
        if options.simulate:
            raise
        raise CannotRunError(f"{error} {driver_and_compiler()}") from error
