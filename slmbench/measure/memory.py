"""Peak memory of one process. Measured in a separate pass: a poller next to a timed loop would slow it down."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from types import TracebackType

import psutil

from slmbench.measure.nvml import gpus

PROC = Path("/proc")
POLL_INTERVAL_S = 0.02


def peak_rss_bytes(pid: int, proc: Path = PROC) -> int | None:
    """Return the largest resident set a process has had since it began, as the system counted it.

    VmHWM on Linux, the peak working set on Windows; None on systems that keep it for the process itself alone
    (macOS), where :class:`MemoryPoller` sees it, and for a process that has ended.
    """
    if sys.platform == "win32":
        try:
            return int(psutil.Process(pid).memory_info().peak_wset)
        except psutil.Error:
            return None
    try:
        lines = (proc / str(pid) / "status").read_text().splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith("VmHWM:")]
    return int(found[0][1]) * 1024 if found else None


def device_bytes(pid: int) -> int | None:
    """Return the GPU memory that a process holds now, over all GPUs; None where no driver tells."""
    found = gpus()
    held = [] if isinstance(found, str) else [gpu.used_bytes(pid) for gpu in found]
    return sum(known) if (known := [b for b in held if b is not None]) else None


class MemoryPoller:
    """Follows a process's memory from a thread, between ``with`` and its end.

    ``peak_rss_bytes`` is the system's own peak where it keeps one, else the largest value seen.
    ``peak_uss_bytes`` is the largest unique set seen (memory that would be free if the process ended: shared
    libraries and mapped files in use by others left out), None where it may not be read.
    ``peak_device_bytes`` is the largest GPU memory seen, None where no driver tells.
    """

    def __init__(self, pid: int, *, interval_s: float = POLL_INTERVAL_S, gpu: bool = False) -> None:
        self._process = psutil.Process(pid)
        self._interval_s = interval_s
        self._gpu = gpu
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="memory-poller", daemon=True)
        self.peak_rss_bytes = 0
        self.peak_uss_bytes: int | None = None
        self.peak_device_bytes: int | None = None

    def __enter__(self) -> MemoryPoller:
        self._poll()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        self._poll()
        self.peak_rss_bytes = max(peak_rss_bytes(self._process.pid) or 0, self.peak_rss_bytes)

    def _follow(self) -> None:
        while not self._stop.wait(self._interval_s):
            if not self._poll():
                return

    def _poll(self) -> bool:
        """Look once; False when the process has ended."""
        try:
            self.peak_rss_bytes = max(self.peak_rss_bytes, self._process.memory_info().rss)
            self.peak_uss_bytes = max(self.peak_uss_bytes or 0, self._process.memory_full_info().uss)
        except psutil.AccessDenied:
            pass  # macOS lets only root see another process's unique set: it stays empty
        except psutil.Error:
            return False
        if self._gpu and (held := device_bytes(self._process.pid)) is not None:
            self.peak_device_bytes = max(self.peak_device_bytes or 0, held)
        return True
