"""The simulation of a fleet, small: real scheduler, workers, messages and kills; measuring is a wait."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from scripts_by_path import load_script

from slmbench.fleet import coordinator as shift
from slmbench.fleet import follow_part as stream
from slmbench.fleet.record import part_folders, read_part

pytest.importorskip("distributed", reason="the extra slmbench[fleet] is not installed")
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "fleet_simulation.py"


@pytest.fixture
def simulation(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = load_script("benchmarks/fleet_simulation.py")
    monkeypatch.setattr(stream, "LOOK_S", 0.2)
    monkeypatch.setattr(shift, "COME_S", 1.0)
    return module


def test_every_case_is_measured_once_though_machines_are_killed(simulation: Any, tmp_path: Path) -> None:
    world = simulation.World(machines=12, cases=60, kills=2, seconds=1.0)
    found = asyncio.run(simulation.simulate(world, tmp_path / "run", tmp_path / "cache", say=False))
    assert len(found.measured) == 60
    assert set(found.measured.values()) == {1}
    assert found.record.not_run == ()
    # Its connection breaks, or the scheduler no longer has it: whichever is seen first.
    assert all("gave no answer" in found.record.machines[name].outcome for name in found.killed)
    lost = [read_part(path) for name in found.killed for path in part_folders(tmp_path / "run", name)]
    assert any(part.outcome for part in lost)
    # What the client has whole is deleted on the machines; a killed one keeps its last part.
    left = list((tmp_path / "cache" / "fleet").glob("*/*"))
    assert {path.parent.name for path in left} <= set(found.killed)
