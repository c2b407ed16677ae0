"""What every engine on the CPU needs to know of it."""

from __future__ import annotations

import platform

import psutil

from slmbench.backend import DeviceStatus
from slmbench.errors import CannotRunError
from slmbench.system.container import allowed_cpus, cores_within_quota
from slmbench.system.extras import install_command, installed_version, missing, not_installed


def default_threads() -> int:
    """Return the physical cores this process may use: what a session gets that asks for no number."""
    physical = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    return cores_within_quota(min(physical, allowed_cpus()))


def cpu_status(engine_name: str, distribution: str) -> DeviceStatus:
    """Return the CPU as a device of an engine that runs on any CPU once its distribution is installed."""
    found = installed_version(distribution)
    if found is None:
        return DeviceStatus("cpu", engine_name, False, not_installed(distribution), install_command(distribution))
    return DeviceStatus(
        "cpu",
        engine_name,
        True,
        platform.processor() or platform.machine(),
        memory_bytes=psutil.virtual_memory().total,
        driver=f"{distribution} {found}",
    )


def require(*distributions: str) -> None:
    """Check that an engine's distributions are installed.

    Raises:
        CannotRunError: one is not; the text says how to get it.
    """
    for distribution in distributions:
        if installed_version(distribution) is None:
            raise CannotRunError(missing(distribution))
