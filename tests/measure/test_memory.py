from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from slmbench.measure.memory import MemoryPoller, device_bytes, peak_rss_bytes

MIB = 2**20
#: Fills memory, says so, frees it, says so, and waits to be told to end.
BALLOON = f"""
import sys
block = bytearray({64 * MIB}); print("full", flush=True); sys.stdin.readline()
del block; print("empty", flush=True); sys.stdin.readline()
"""


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS keeps the peak for the process itself alone")
def test_the_peak_is_remembered_after_the_memory_was_freed() -> None:
    with subprocess.Popen([sys.executable, "-c", BALLOON], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        full = peak_rss_bytes(process.pid)
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        assert full is not None
        assert full > 64 * MIB
        # The kernel's counter is exact to a few pages per core only.
        assert (peak_rss_bytes(process.pid) or 0) > full - MIB
        process.stdin.write(b"\n")
    assert peak_rss_bytes(process.pid) is None


def test_the_poller_sees_what_is_held_between_two_looks_of_the_caller() -> None:
    with MemoryPoller(os.getpid(), interval_s=0.005) as quiet:
        pass
    with MemoryPoller(os.getpid(), interval_s=0.005) as poller:
        block = bytearray(64 * MIB)
        time.sleep(0.1)
        del block
    assert quiet.peak_uss_bytes is not None
    assert poller.peak_uss_bytes is not None
    assert poller.peak_uss_bytes - quiet.peak_uss_bytes > 48 * MIB
    assert poller.peak_rss_bytes >= poller.peak_uss_bytes
    assert poller.peak_device_bytes is None


def test_a_process_that_ends_while_it_is_followed_keeps_its_peak() -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(0.2)"])
    with MemoryPoller(process.pid, interval_s=0.005) as poller:
        process.wait()
    assert poller.peak_rss_bytes > MIB


@pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's files")
def test_the_system_counts_in_kib(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    (tmp_path / "7/status").write_text("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t  1 kB\n")
    assert peak_rss_bytes(7, tmp_path) == 2 * MIB
    assert peak_rss_bytes(8, tmp_path) is None


def test_without_a_driver_the_device_memory_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert device_bytes(os.getpid()) is None
