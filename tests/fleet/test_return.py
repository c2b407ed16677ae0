"""A scheduler that is started again: its machines come back to it by themselves, and have measured on meanwhile."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from rotation import takes_turns
from test_walk_through import free_port

from slmbench.fleet.record import read_fleet
from slmbench.records.schema import SAMPLES_NAME, LoadRecord, read_samples

pytest.importorskip("distributed", reason="the extra slmbench[fleet] is not installed")
pytest.importorskip("openvino", reason="needs slmbench[cpu]")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")]
WITHIN_S = 120


class Fleet:
    """A scheduler and a machine as processes, at one address."""

    def __init__(self, root: Path) -> None:
        self.root, self.port = root, free_port()
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.begun: list[subprocess.Popen[bytes]] = []

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with (self.root / "output.txt").open("ab") as output:
            one = subprocess.Popen(
                [sys.executable, "-P", "-m", "slmbench", *arguments], cwd=self.root, stdout=output, stderr=output
            )
        self.begun.append(one)
        return one

    def scheduler(self) -> subprocess.Popen[bytes]:
        one = self.start("fleet", "scheduler", "--port", str(self.port))
        self.until(lambda: self.text().count("scheduler at ") == self.text().count("the scheduler has ended or") + 1)
        return one

    def worker(self) -> subprocess.Popen[bytes]:
        one = self.start("fleet", "worker", "--scheduler", self.address, "--name", "tablet")
        self.until(lambda: "machine tablet is connected" in self.text())
        return one

    def text(self) -> str:
        return (self.root / "output.txt").read_text(encoding="utf-8")

    def until(self, happened: object) -> None:
        assert callable(happened)
        end = time.monotonic() + WITHIN_S
        while not happened():
            assert time.monotonic() < end, self.text()
            time.sleep(0.1)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    one = Fleet(tmp_path)
    yield one
    for process in reversed(one.begun):
        process.terminate()
        process.wait(30)


@takes_turns(3, 4)
def test_a_machine_comes_back_to_a_scheduler_that_was_started_again(fleet: Fleet) -> None:
    scheduler, worker = fleet.scheduler(), fleet.worker()
    run = ["run", "--fleet", fleet.address, "--model", "dec-tiny", "--backend", "openvino", "--repeat", "10"]
    run += ["--input-tokens", "16", "--output-tokens", "4", "--out", str(fleet.root / "run")]
    client = fleet.start(*run)
    part = fleet.root / "run" / "machines" / "tablet" / "1"
    fleet.until(lambda: (part / SAMPLES_NAME).exists() and (part / SAMPLES_NAME).stat().st_size > 0)
    (measuring,) = [
        child for child in psutil.Process(worker.pid).children() if "slmbench.fleet.machine_job" in str(child.cmdline())
    ]
    scheduler.kill()
    scheduler.wait()
    assert client.wait(WITHIN_S) == 5
    fleet.until(lambda: "the scheduler has ended or cannot be reached; trying again" in fleet.text())
    assert worker.poll() is None

    fleet.scheduler()
    fleet.until(lambda: fleet.text().count("machine tablet is connected") == 2)
    assert fleet.start("run", "--fleet", fleet.address, "--resume", str(fleet.root / "run")).wait(WITHIN_S) == 0
    record = read_fleet(fleet.root / "run")
    assert record.not_run == ()
    assert record.machines["tablet"].outcome == ""
    # One process measured all of it: nothing began again.
    assert not measuring.is_running()
    loads = [one for one in read_samples(part / SAMPLES_NAME, []) if isinstance(one, LoadRecord)]
    assert len({one.load for one in loads}) == len(loads)
    assert "Traceback" not in fleet.text()
