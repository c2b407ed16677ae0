"""What a container or service may use: cgroup limits, version 1 and 2. Linux only; elsewhere nothing limits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")

#: Version 1 writes "no limit" as the largest page-aligned number.
_UNLIMITED_BYTES = 1 << 60


@dataclass(frozen=True)
class ContainerLimits:
    """The tightest limit over this process's group and those above it; None where there is none."""

    #: Processor time per second, in cores: 1.5 is one core and a half.
    cpu_cores: float | None = None
    memory_bytes: int | None = None


def container_limits(proc: Path = PROC, cgroup: Path = CGROUP) -> ContainerLimits:
    """Read the limits on this process."""
    cpu: list[float] = []
    memory: list[int] = []
    for folder in _folders(proc, cgroup):
        quota = _cpu_cores(folder)
        if quota is not None:
            cpu.append(quota)
        for name in ("memory.max", "memory.limit_in_bytes"):
            text = read_text(folder / name)
            if text is not None and text.isdigit() and int(text) < _UNLIMITED_BYTES:
                memory.append(int(text))
    return ContainerLimits(min(cpu, default=None), min(memory, default=None))


def _allowed_at_start() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    affinity = getattr(psutil.Process(), "cpu_affinity", None)
    return len(affinity()) if affinity is not None else psutil.cpu_count() or 1


#: Counted when this module is imported, before any engine: OpenMP with ``OMP_PROC_BIND`` set binds the main thread to
#: one core when it is loaded, and then it looks as if the process might use no more.
_ALLOWED_AT_START = _allowed_at_start()


def allowed_cpus() -> int:
    """Return on how many logical CPUs this process was allowed to run when it started."""
    return _ALLOWED_AT_START


def cores_within_quota(cores: int) -> int:
    """Return how many of the cores a session may keep busy, at least 1.

    Engines start a thread for each core of a host of which a container has a share; the kernel then stops them all
    for the rest of each period, and the times are the quota's.
    """
    quota = container_limits().cpu_cores
    return cores if quota is None else max(1, min(cores, int(quota)))


def read_text(path: Path) -> str | None:
    """Return a small system file's text without white space around it, or None where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _folders(proc: Path, cgroup: Path) -> Iterator[Path]:
    """Yield the folders of this process's groups, each followed by those above it up to the mount.

    Inside a container the path in ``/proc/self/cgroup`` may be the host's, which is not mounted there: the
    mount's own top is then the container's group, and the missing folders below it hold no files to read.
    """
    for line in (read_text(proc / "self" / "cgroup") or "").splitlines():
        _, controllers, path = line.split(":", 2)
        wanted = [cgroup] if not controllers else [cgroup / c for c in (controllers, *controllers.split(","))]
        for top in dict.fromkeys(wanted):
            if not controllers or {"cpu", "memory"} & set(controllers.split(",")):
                folder = top.joinpath(*Path(path).parts[1:])
                yield folder
                while folder != top:
                    folder = folder.parent
                    yield folder


def _cpu_cores(folder: Path) -> float | None:
    text = read_text(folder / "cpu.max")
    if text is None:
        text = f"{read_text(folder / 'cpu.cfs_quota_us')} {read_text(folder / 'cpu.cfs_period_us')}"
    quota, _, period = text.partition(" ")
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return None
    return int(quota) / int(period)
