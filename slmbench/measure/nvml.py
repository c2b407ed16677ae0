"""NVIDIA's management library, if it is installed: the counters of one GPU. Nothing of CUDA is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from slmbench.errors import one_line
from slmbench.system.extras import not_installed


@dataclass(frozen=True)
class Gpu:
    """One GPU as NVML sees it; ``index`` counts in PCI order, regardless of CUDA_VISIBLE_DEVICES."""

    index: int
    name: str
    driver: str
    memory_bytes: int
    _nvml: Any
    _handle: Any

    def energy_j(self) -> float | None:
        """Return the energy since the driver was loaded, in joules; None where this GPU does not count it."""
        try:
            return float(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle)) / 1e3
        except self._nvml.NVMLError:
            return None

    def used_bytes(self, pid: int) -> int | None:
        """Return the device memory that a process holds, None where the driver does not tell (Windows, MIG)."""
        try:
            processes = self._nvml.nvmlDeviceGetComputeRunningProcesses(self._handle)
        except self._nvml.NVMLError:
            return None
        held = [p.usedGpuMemory for p in processes if p.pid == pid]
        return int(sum(held)) if held and None not in held else None


def gpus() -> list[Gpu] | str:
    """Return the GPUs that NVML lists, or why it cannot be asked (one line)."""
    try:
        import pynvml
    except ImportError:
        return not_installed("nvidia-ml-py")
    try:
        pynvml.nvmlInit()
        driver = _text(pynvml.nvmlSystemGetDriverVersion())
        found = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            memory = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
            found.append(Gpu(index, _text(pynvml.nvmlDeviceGetName(handle)), driver, memory, pynvml, handle))
    except pynvml.NVMLError as error:
        return one_line(f"NVML: {error}")
    return found


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
