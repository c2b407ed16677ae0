"""Child processes that end with the process that started them, however that ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1
#: Tells a child of ours which process it belongs to.
_HOST = "SLMBENCH_HOST"


def child_environment() -> dict[str, str]:
    """Return the environment for a child that is to call :func:`follow_host`."""
    return {**os.environ, _HOST: str(os.getpid())}


def follow_host() -> None:
    """Where this process was started with :func:`child_environment`, end it when its host ends."""
    if os.environ.pop(_HOST, None) == str(os.getppid()):
        die_with_host()


def die_with_host() -> None:
    """End this process when the host ends, however that happens.

    A closed pipe ends a worker's service loop everywhere. A process that is suspended, or deep in an engine, cannot
    see that: Linux kills it for us. On other POSIX systems a worker's process group is orphaned with its host, and
    the system sends SIGHUP and SIGCONT to the stopped members of such a group.
    """
    if sys.platform == "linux":
        host = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != host:
            os._exit(0)
