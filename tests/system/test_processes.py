"""Windows' twin of the parent-death signal, held against the documented sequence of calls; the POSIX side runs."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from typing import Any

import psutil
import pytest

from slmbench.system import processes as children

JOB, OWNER, HOST = 0x1_0000_0044, 0x1_0000_0088, 4321


class Kernel32:
    """Answers as kernel32 does, and remembers who holds the job and who is in it when."""

    def __init__(self, refuses: str = "") -> None:
        self.calls: list[str] = []
        self.flags = self.size = 0
        self.open: set[int] = set()
        self._refuses = refuses

    def __getattr__(self, name: str) -> Any:
        answer = Answer(lambda *given: self._call(name, *given))
        self.__dict__[name] = answer
        return answer

    def _call(self, name: str, *given: Any) -> int:
        self.calls.append(name)
        if name == self._refuses:
            return 0
        if name == "OpenProcess":
            assert given == (0x40, False, HOST)
            self.open.add(OWNER)
            return OWNER
        if name == "CreateJobObjectW":
            self.open.add(JOB)
            return JOB
        if name == "SetInformationJobObject":
            assert (given[0].value, given[1]) == (JOB, 9)
            limits = given[2]._obj
            self.flags, self.size = limits.BasicLimitInformation.LimitFlags, given[3]
        if name == "DuplicateHandle":
            assert [handle.value for handle in given[:3]] == [2 ** (8 * ctypes.sizeof(ctypes.c_void_p)) - 1, JOB, OWNER]
            assert given[-1] == 2
        if name == "CloseHandle":
            self.open.remove(given[0].value)
        return 1


class Answer:
    restype: Any = None

    def __init__(self, call: Any) -> None:
        self._call = call

    def __call__(self, *given: Any) -> int:
        return int(self._call(*given))


def test_a_windows_job_that_only_the_host_holds() -> None:
    kernel = Kernel32()
    assert children._join_job_of(HOST, kernel)
    assert kernel.calls.index("DuplicateHandle") < kernel.calls.index("AssignProcessToJobObject")
    assert kernel.flags == 0x2000
    # The documented size of the structure, on 64 and on 32 bits.
    assert kernel.size == {8: 144, 4: 112}[ctypes.sizeof(ctypes.c_void_p)]
    assert not kernel.open


@pytest.mark.parametrize("refuses", ["CreateJobObjectW", "OpenProcess", "SetInformationJobObject", "DuplicateHandle"])
def test_where_windows_refuses_nobody_is_put_into_a_job(refuses: str) -> None:
    kernel = Kernel32(refuses)
    assert not children._join_job_of(HOST, kernel)
    assert "AssignProcessToJobObject" not in kernel.calls
    assert not kernel.open


CHILD = """
import time
from slmbench.system.processes import follow_host
follow_host()
print("on", flush=True)
time.sleep(60)
"""
HOST_CODE = """
import subprocess, sys, time
from slmbench.system.processes import child_environment
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], env=child_environment(), stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.skipif(sys.platform not in ("linux", "win32"), reason="no parent-death signal on this system")
def test_a_child_ends_with_its_host() -> None:
    host = subprocess.Popen([sys.executable, "-c", HOST_CODE, CHILD], stdout=subprocess.PIPE, text=True)
    assert host.stdout is not None
    pid = int(host.stdout.readline())
    assert psutil.pid_exists(pid)
    host.kill()
    host.wait()
    host.stdout.close()
    for _ in range(100):
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.1)
    pytest.fail("the child outlived its host")


def test_a_process_of_no_host_follows_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLMBENCH_HOST", raising=False)
    monkeypatch.setattr(children, "die_with_host", lambda: pytest.fail("nobody asked for it"))
    children.follow_host()
    if sys.platform != "win32":
        monkeypatch.setenv("SLMBENCH_HOST", str(os.getpid()))  # a grandchild inherits the name of a stranger
        children.follow_host()
        assert "SLMBENCH_HOST" not in os.environ
