"""The walk-through of docs/fleet.md, its commands as they stand there, with real processes; but for the port."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rotation import takes_turns

from slmbench.fleet.record import read_fleet
from slmbench.records.schema import RUN_NAME, read_run_record

pytest.importorskip("distributed", reason="the extra slmbench[fleet] is not installed")
PAGE = Path(__file__).parents[2] / "docs" / "fleet.md"
#: Commands that stay in the foreground until they are ended, and how they say that they are ready.
SERVES = {"scheduler": "scheduler at ", "worker": "machine "}


def commands(port: int) -> list[list[str]]:
    found = re.search(r"<!-- walk-through -->\n```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    lines = found[1].replace("\\\n", " ").replace("8786", str(port)).splitlines()
    return [shlex.split(line, comments=True) for line in lines]


@pytest.fixture
def served() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for one in reversed(processes):
        one.terminate()
        one.wait(30)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@takes_turns(1, 2)
@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the page is written for a Unix shell")
def test_the_walk_through_works(tmp_path: Path, served: list[subprocess.Popen[str]]) -> None:
    port = free_port()
    environment = os.environ | {"COLUMNS": "200"}
    for command in commands(port):
        assert command[0] == "slmbench"
        called = [sys.executable, "-P", "-m", *command]
        if command[2] in SERVES:
            called += ["--port", str(port)] if command[2] == "scheduler" else []
            one = subprocess.Popen(called, cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment)
            served.append(one)
            assert one.stdout is not None
            assert one.stdout.readline().startswith(SERVES[command[2]])
            continue
        done = subprocess.run(
            called, cwd=tmp_path, capture_output=True, text=True, env=environment, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        if command[2] == "status":
            assert [line.split()[0] for line in done.stdout.splitlines()] == ["laptop", "tablet"]
    shelf = tmp_path / "results" / "shelf"
    record = read_fleet(shelf)
    assert {name: member.outcome for name, member in record.machines.items()} == {"laptop": "", "tablet": ""}
    for name in record.machines:
        assert read_run_record(shelf / "machines" / name / "1" / RUN_NAME).finished
    assert (shelf / "report.html").exists()
