"""The benchmark of what a fleet costs: its turns, with a real scheduler and worker and figures that are given."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import psutil
import pytest

pytest.importorskip("distributed", reason="the extra slmbench[fleet] is not installed")
BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "fleet_overhead.py"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = spec_from_file_location("fleet_overhead", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "fleet_overhead", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no state of a suspended process")
def test_turns_alternate_and_the_fleet_sleeps_while_the_machine_is_measured_by_itself(
    benchmark: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asleep: list[tuple[bool, set[bool]]] = []

    def measure(out: Path, arguments: Sequence[str], address: str | None) -> dict[str, float]:
        mine = [p for p in psutil.Process().children() if "fleet" in p.cmdline()]
        assert len(mine) == 2
        # A signal takes a moment to arrive.
        wanted, end = {address is None and len(asleep) >= 2}, time.monotonic() + 5
        while (states := {p.status() == psutil.STATUS_STOPPED for p in mine}) != wanted and time.monotonic() < end:
            time.sleep(0.01)
        asleep.append((address is None, states))
        level = 1.02 if address else 1.0
        return {"ttft": level * (1 + 0.001 * len(asleep)), "tpot": level}

    monkeypatch.setattr(benchmark, "measure", measure)
    turns = benchmark.take_turns(tmp_path, [], 6, time.monotonic() + 600)
    # The first of each only warms up.
    assert asleep[:2] == [(True, {False}), (False, {False})]
    assert all(states == {local} for local, states in asleep[2:])
    assert [local for local, _ in asleep].count(True) == [local for local, _ in asleep].count(False) == 7
    ratio = turns.ratio("tpot")
    assert (ratio.low, ratio.mid, ratio.high) == pytest.approx((1.02, 1.02, 1.02))
    assert turns.ratio("ttft").low < 1.02 < turns.ratio("ttft").high
    assert not [p for p in psutil.Process().children() if "fleet" in p.cmdline()]
