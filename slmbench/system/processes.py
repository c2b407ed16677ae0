"""Child processes that end with the process that started them, however that ends."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from slmbench.errors import ERROR_PREFIX

_PR_SET_PDEATHSIG = 1
#: Tells a child of ours which process it belongs to.
_HOST = "SLMBENCH_HOST"


class Child(Protocol):
    """What is needed of a process that measures."""

    returncode: int | None

    def poll(self) -> int | None:
        """Return the exit code, None while it runs."""

    def terminate(self) -> None:
        """End it."""

    def wait(self) -> int:
        """Return when it has ended."""


def reason(log: bytes, code: int) -> str:
    """Return the error that a log ends with, or the exit code where it holds nothing."""
    lines = [line for line in log.decode(errors="replace").splitlines() if line.strip()]
    marked = [line for line in lines if line.startswith(ERROR_PREFIX)]
    return (marked or lines or [f"its process ended with code {code}"])[-1].removeprefix(ERROR_PREFIX)


def child_environment() -> dict[str, str]:
    """Return the environment for a child that is to call :func:`follow_host`."""
    return {**os.environ, _HOST: str(os.getpid())}


def follow_host() -> None:
    """Where this process was started with :func:`child_environment`, end it when its host ends."""
    host = os.environ.get(_HOST)
    # In an environment of Windows the parent is not the host but what starts the interpreter.
    if host is not None and (sys.platform == "win32" or host == str(os.getppid())):
        die_with_host()
    os.environ.pop(_HOST, None)


def die_with_host() -> None:
    """End this process when the host ends, however that happens.

    A closed pipe ends a worker's service loop everywhere. A process that is suspended, or deep in an engine, cannot
    see that: Linux kills it for us, Windows by a job that the host holds. On other POSIX systems a worker's process
    group is orphaned with its host, and the system sends SIGHUP and SIGCONT to the stopped members of such a group.
    """
    if sys.platform == "linux":
        host = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != host:
            os._exit(0)
    elif sys.platform == "win32":
        _join_job_of(int(os.environ.pop(_HOST, "") or os.getppid()), ctypes.WinDLL("kernel32", use_last_error=True))


def go_first() -> None:
    """Let Linux end this process before any other where memory runs out: what it loads comes from files of anyone's.

    The system would choose by size, and take a person's browser, or the host with everybody's cases, as readily.
    """
    if sys.platform == "linux":
        # Where /proc is not there, or read only, the system chooses as it does.
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")


def keep_docstrings() -> None:
    """Start this command again where Python drops docstrings (``-OO``): transformers reads its own while imported."""
    if sys.flags.optimize < 2:
        return
    command = ["-O" if argument == "-OO" else argument for argument in sys.orig_argv]
    environment = {**os.environ, "PYTHONOPTIMIZE": "1"}
    if command == sys.orig_argv and os.environ.get("PYTHONOPTIMIZE") in (None, "1"):
        return
    if sys.platform == "win32":
        raise SystemExit(subprocess.call([sys.executable, *command[1:]], env=environment))
    os.execve(sys.executable, command, environment)


class _BasicLimits(ctypes.Structure):
    """JOBOBJECT_BASIC_LIMIT_INFORMATION."""

    _fields_ = (
        ("PerProcessUserTimeLimit", ctypes.c_int64),
        ("PerJobUserTimeLimit", ctypes.c_int64),
        ("LimitFlags", ctypes.c_uint32),
        ("MinimumWorkingSetSize", ctypes.c_size_t),
        ("MaximumWorkingSetSize", ctypes.c_size_t),
        ("ActiveProcessLimit", ctypes.c_uint32),
        ("Affinity", ctypes.c_size_t),
        ("PriorityClass", ctypes.c_uint32),
        ("SchedulingClass", ctypes.c_uint32),
    )


class _KernelLimits(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION."""

    _fields_ = (
        ("BasicLimitInformation", _BasicLimits),
        ("IoInfo", ctypes.c_uint64 * 6),
        ("ProcessMemoryLimit", ctypes.c_size_t),
        ("JobMemoryLimit", ctypes.c_size_t),
        ("PeakProcessMemoryUsed", ctypes.c_size_t),
        ("PeakJobMemoryUsed", ctypes.c_size_t),
    )


_EXTENDED_LIMITS = 9
_KILL_ON_JOB_CLOSE = 0x2000
_PROCESS_DUP_HANDLE = 0x40
_DUPLICATE_SAME_ACCESS = 2
_THIS_PROCESS = -1


def _join_job_of(host: int, kernel32: Any) -> bool:
    """Put this process into a job of Windows whose only handle the host has: it is closed, and kills, when that ends.

    ``kernel32`` is that library. False where the system refuses a part of it (another user's host, a job that allows
    none within): the closed pipe remains.
    """
    handle = ctypes.c_void_p
    kernel32.CreateJobObjectW.restype = kernel32.OpenProcess.restype = handle
    job, owner, there = kernel32.CreateJobObjectW(None, None), None, handle()
    limits = _KernelLimits()
    limits.BasicLimitInformation.LimitFlags = _KILL_ON_JOB_CLOSE
    try:
        owner = kernel32.OpenProcess(_PROCESS_DUP_HANDLE, False, host) if job else None
        if not owner:
            return False
        # The host has its handle before this process is in the job: at no time is ours the only one.
        given = kernel32.SetInformationJobObject(
            handle(job), _EXTENDED_LIMITS, ctypes.byref(limits), ctypes.sizeof(limits)
        ) and kernel32.DuplicateHandle(
            handle(_THIS_PROCESS),
            handle(job),
            handle(owner),
            ctypes.byref(there),
            0,
            False,
            _DUPLICATE_SAME_ACCESS,
        )
        return bool(given and kernel32.AssignProcessToJobObject(handle(job), handle(_THIS_PROCESS)))
    finally:
        # Ours must not be the last handle; where the host got none, nobody is in the job.
        for opened in (job, owner):
            if opened:
                kernel32.CloseHandle(handle(opened))
