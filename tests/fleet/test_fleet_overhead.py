"""The benchmark of what a fleet costs: its turns, with real processes that are measured in place of runs."""

from __future__ import annotations

import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from scripts_by_path import load_script

pytest.importorskip("distributed", reason="the extra slmbench[fleet] is not installed")
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "fleet_overhead.py"
TURNS = 5

#: In place of a measuring worker: notes when it has the machine, and how the fleet's process is meanwhile.
WORKER = """
import json, os, sys, time
import psutil
begin, other = time.monotonic(), psutil.Process(int(os.environ["FLEET"]))
wanted = os.environ["TURN_SIDE"] == "local"
# A signal takes a moment to arrive.
while (asleep := other.status() == psutil.STATUS_STOPPED) != wanted and time.monotonic() < begin + 5:
    time.sleep(0.01)
with open(os.environ["NOTES"], "a") as notes:
    notes.write(json.dumps([os.environ["TURN_SIDE"], begin, time.monotonic(), asleep]) + "\\n")
"""
#: In place of a run: workers, one after the other.
RUN = """
import subprocess, sys
for _ in range(int(sys.argv[1])):
    subprocess.run([sys.executable, "-c", sys.argv[2], "slmbench.worker"], check=True)
"""


@pytest.fixture
def benchmark() -> Any:
    return load_script("benchmarks/fleet_overhead.py")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no state of a suspended process")
def test_turns_alternate_and_the_fleet_sleeps_while_the_machine_is_measured_by_itself(
    benchmark: Any, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(benchmark.CUSTOMIZE, encoding="utf-8")
    with psutil.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as fleet:
        referee = benchmark.Referee([fleet])
        mine = {"FLEET": str(fleet.pid), "NOTES": str(tmp_path / "notes"), "TURN_PORT": str(referee.port)}

        def run(side: str, turns: int) -> psutil.Popen:
            environment = os.environ | mine | {"PYTHONPATH": str(tmp_path), "TURN_SIDE": side}
            return psutil.Popen([sys.executable, "-c", RUN, str(turns), WORKER], env=environment)

        # One of the two ends first: the other goes on by itself.
        referee.give_turns({"local": run("local", TURNS), "fleet": run("fleet", TURNS + 2)})
        assert fleet.status() != psutil.STATUS_STOPPED
        fleet.kill()
    notes = [json.loads(line) for line in (tmp_path / "notes").read_text().splitlines()]
    sides = [side for side, *_ in notes]
    assert [{*sides[turn : turn + 2]} for turn in range(0, 2 * TURNS, 2)] == [{"local", "fleet"}] * TURNS
    assert sides[2 * TURNS :] == ["fleet"] * 2
    assert all(first[2] <= second[1] for first, second in itertools.pairwise(notes))
    assert all(asleep == (side == "local") for side, _, _, asleep in notes)
