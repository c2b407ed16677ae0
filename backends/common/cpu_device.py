"""What every engine on the CPU needs to know of it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

import psutil

from slmbench.backend import DeviceStatus
from slmbench.system.container import cores_within_quota


def default_threads() -> int:
    """Return the physical cores this process may use: what a session gets that asks for no number."""
    physical = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    affinity = getattr(psutil.Process(), "cpu_affinity", None)
    usable = min(physical, len(affinity())) if affinity is not None else physical
    return cores_within_quota(usable)


def cpu_status(engine_name: str, distribution: str, extra: str = "cpu") -> DeviceStatus:
    """Return the CPU as a device of an engine that runs on any CPU once its distribution is installed."""
    try:
        found = version(distribution)
    except PackageNotFoundError:
        remedy = f"pip install 'slmbench[{extra}]'"
        return DeviceStatus("cpu", engine_name, False, f"{distribution} is not installed", remedy)
    return DeviceStatus(
        "cpu",
        engine_name,
        True,
        platform.processor() or platform.machine(),
        memory_bytes=psutil.virtual_memory().total,
        driver=f"{distribution} {found}",
    )
