"""Which machine a run was made on, in the fields that decide whether two runs may be compared.

No engine is imported: versions come from the installed distributions' metadata. ``python -m
slmbench.machine.fingerprint`` prints the fingerprint as JSON, as another interpreter of this machine sees it.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import psutil
from pydantic import BaseModel, ConfigDict

from slmbench.machine import cpu
from slmbench.machine.accelerators import Accelerator, accelerators
from slmbench.measure.conditions import usable_cores
from slmbench.system.container import container_limits

#: Distributions that compute: another version may be faster or slower.
ENGINES = (
    "ctranslate2",
    "llama-cpp-python",
    "onnxruntime",
    "onnxruntime-directml",
    "onnxruntime-genai",
    "onnxruntime-genai-cuda",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-qnn",
    "openvino",
    "openvino-genai",
    "openvino-tokenizers",
    "torch",
)
#: Distributions that prepare: worth knowing, not in the timed region.
LIBRARIES = (
    "gguf",
    "huggingface-hub",
    "nncf",
    "numpy",
    "onnx",
    "onnxscript",
    "optimum",
    "optimum-intel",
    "psutil",
    "slmbench",
    "tokenizers",
    "transformers",
)
#: Environment variables that change threads, instruction sets, precision, allocators or the device.
THREAD_VARIABLES = (
    "ATEN_CPU_CAPABILITY",
    "CUDA_VISIBLE_DEVICES",
    "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA",
    "GLIBC_TUNABLES",
    "GOMP_CPU_AFFINITY",
    "KMP_AFFINITY",
    "KMP_BLOCKTIME",
    "KMP_HW_SUBSET",
    "LD_PRELOAD",
    "MALLOC_CONF",
    "MKL_CBWR",
    "MKL_DYNAMIC",
    "MKL_ENABLE_INSTRUCTIONS",
    "MKL_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_DYNAMIC",
    "OMP_NUM_THREADS",
    "OMP_PLACES",
    "OMP_PROC_BIND",
    "OMP_THREAD_LIMIT",
    "OMP_WAIT_POLICY",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "OPENBLAS_NUM_THREADS",
    "ORT_DISABLE_FLASH_ATTENTION",
    "ORT_LOAD_CONFIG_FROM_MODEL",
    "TORCHDYNAMO_DISABLE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_COMPILE_DISABLE",
)

Kind = Literal["hardware", "software", "soft"]
#: What fields of engines' versions begin with.
ENGINE_FIELDS = "engines."


class _FingerprintPart(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Hardware(_FingerprintPart):
    """What the numbers are about. Runs that differ here are not comparable."""

    cpu_model: str
    #: Instruction sets that matter for inference, sorted.
    cpu_flags: tuple[str, ...] = ()
    #: Cores this process may use (affinity), not all there are.
    physical_cores: int
    logical_cores: int
    #: The container's share of processor time, in cores; None for no quota.
    cpu_quota_cores: float | None = None
    #: Memory, or the container's limit where that is less, rounded.
    memory_gib: int
    governor: str | None = None
    turbo: bool | None = None
    smt: bool | None = None
    accelerators: tuple[Accelerator, ...] = ()
    os: str
    arch: str
    hypervisor: str | None = None
    #: What translates every instruction for another processor; None on a real one.
    emulator: str | None = None


class Software(_FingerprintPart):
    """Engines and how their threads are set. Runs that differ here are not comparable either."""

    #: Distribution to version, engines only.
    engines: dict[str, str] = {}
    #: Variables that are set, of :data:`THREAD_VARIABLES`.
    environment: dict[str, str] = {}


class Soft(_FingerprintPart):
    """What may explain a difference, yet does not forbid a comparison."""

    kernel: str = ""
    microcode: str | None = None
    #: A hash of the host's name, never the name.
    host: str = ""
    python: str = ""
    libraries: dict[str, str] = {}


class Fingerprint(_FingerprintPart):
    """A machine and its software, as one interpreter sees them."""

    hardware: Hardware
    software: Software = Software()
    soft: Soft = Soft()

    def digest(self) -> str:
        """Return 16 hex digits that name the hardware: what limits and noise floors are stored under."""
        return self.digests()[0]

    def digests(self) -> tuple[str, ...]:
        """Return :meth:`digest` and what it may have been before a reboot, when memory was rounded the other way."""
        memory = self.hardware.memory_gib
        sizes = [memory, *(size for size in (memory - 1, memory + 1) if _same_memory(memory, size))]
        same = (self.hardware.model_copy(update={"memory_gib": size}) for size in sizes)
        # What version 0.2 did not know stays out of the name of a machine that lacks it.
        out = {"emulator"} if self.hardware.emulator is None else set()
        return tuple(hashlib.sha256(one.model_dump_json(exclude=out).encode()).hexdigest()[:16] for one in same)


@dataclass(frozen=True)
class Difference:
    """One field in which two machines differ; values as text, "absent" for what is not there."""

    field: str
    a: str
    b: str
    kind: Kind
    #: Whether it makes runs not comparable.
    hard: bool

    def __str__(self) -> str:
        return f"{self.field}: {self.a} / {self.b}"


def differences(a: Fingerprint, b: Fingerprint) -> list[Difference]:
    """Return the fields that differ, hardware first.

    A distribution that only one side has is no hard difference: no case of both runs can have used it. Memory that
    differs by the rounding is the same.
    """
    found: list[Difference] = []
    parts: tuple[tuple[Kind, _FingerprintPart, _FingerprintPart], ...] = (
        ("hardware", a.hardware, b.hardware),
        ("software", a.software, b.software),
        ("soft", a.soft, b.soft),
    )
    for kind, left, right in parts:
        flat_a, flat_b = _flat(left), _flat(right)
        for name in [*flat_a, *(n for n in flat_b if n not in flat_a)]:
            x, y = flat_a.get(name), flat_b.get(name)
            if x != y and not (name == "memory_gib" and _same_memory(a.hardware.memory_gib, b.hardware.memory_gib)):
                one_sided = name.startswith(ENGINE_FIELDS) and None in (x, y)
                found.append(Difference(name, _text(x), _text(y), kind, hard=kind != "soft" and not one_sided))
    return found


def _same_memory(a: int, b: int) -> bool:
    """Return whether two rounded sizes in GiB can be the same memory: what the kernel keeps for itself varies."""
    return abs(a - b) <= 1 and min(a, b) >= 2


def collect(environment: Mapping[str, str] | None = None) -> Fingerprint:
    """Return the fingerprint of this machine as this interpreter sees it (some milliseconds)."""
    limits = container_limits()
    memory = min(psutil.virtual_memory().total, limits.memory_bytes or sys.maxsize)
    hardware = Hardware(
        cpu_model=cpu.cpu_model(),
        cpu_flags=cpu.cpu_flags(),
        physical_cores=cpu.physical_cores(),
        logical_cores=len(usable_cores()),
        cpu_quota_cores=limits.cpu_cores,
        memory_gib=round(memory / 2**30),
        governor=cpu.governor(),
        turbo=cpu.turbo(),
        smt=cpu.smt(),
        accelerators=accelerators(),
        os=platform.system(),
        arch=platform.machine(),
        hypervisor=cpu.hypervisor(),
        emulator=cpu.emulator(),
    )
    soft = Soft(
        kernel=platform.release(),
        microcode=cpu.cpuinfo().get("microcode"),
        host=hashlib.sha256(f"slmbench {platform.node()}".encode()).hexdigest()[:12],
        python=platform.python_version(),
        libraries=_versions(LIBRARIES),
    )
    settings = thread_settings(os.environ if environment is None else environment)
    return Fingerprint(
        hardware=hardware, software=Software(engines=_versions(ENGINES), environment=settings), soft=soft
    )


def thread_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of :data:`THREAD_VARIABLES` that are set; of preloaded libraries the file names only."""
    found = {name: environment[name] for name in THREAD_VARIABLES if environment.get(name)}
    if "LD_PRELOAD" in found:
        found["LD_PRELOAD"] = " ".join(Path(p).name for p in found["LD_PRELOAD"].replace(":", " ").split())
    return found


def _versions(distributions: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for name in distributions:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _flat(part: _FingerprintPart) -> dict[str, Any]:
    """Return the fields; a dictionary's entries are fields of their own ("engines.onnxruntime")."""
    flat: dict[str, Any] = {}
    for name, value in part:
        if isinstance(value, dict):
            flat |= {f"{name}.{key}": entry for key, entry in sorted(value.items())}
        else:
            flat[name] = value
    return flat


def _text(value: Any) -> str:
    if value is None:
        return "absent"
    if isinstance(value, tuple):
        return ", ".join(v.label() if isinstance(v, Accelerator) else str(v) for v in value) or "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    return str(value)


if __name__ == "__main__":
    print(collect().model_dump_json())
