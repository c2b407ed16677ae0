from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmbench.machine.fingerprint import Fingerprint, Hardware
from slmbench.machine.noise import NoiseFloor, floor_of, noise_floor, noise_floors, save_noise_floor, spread

MACHINE = Fingerprint(
    hardware=Hardware(cpu_model="x", physical_cores=2, logical_cores=2, memory_gib=8, os="L", arch="a")
)
levels = st.lists(st.floats(-5, 5), min_size=2, max_size=8)


@given(levels, st.floats(-3, 3))
def test_a_spread_is_of_ratios_whatever_the_unit(logs: list[float], unit: float) -> None:
    assert spread([x + unit for x in logs]) == pytest.approx(spread(logs), abs=1e-9, rel=1e-6)
    assert 0 <= spread(logs) <= math.expm1(max(logs) - min(logs)) + 1e-9


def test_identical_runs_have_no_spread_and_one_run_has_none_to_tell() -> None:
    assert spread([1.0, 1.0, 1.0]) == 0
    with pytest.raises(ValueError, match="two runs"):
        spread([1.0])


def test_a_spread_covers_nineteen_of_twenty_pairs() -> None:
    rng = np.random.default_rng(0)
    floor = spread(list(rng.normal(0, 0.01, 200)))
    fresh = np.exp(np.abs(rng.normal(0, 0.01, 4000) - rng.normal(0, 0.01, 4000))) - 1
    assert 0.93 < float(np.mean(fresh < floor)) < 0.97


def test_the_noisiest_case_makes_the_floor_and_a_gap_makes_none() -> None:
    found = floor_of(
        {
            "a": {"ttft": [0.0, 0.01, 0.0], "tpot": [0.0, 0.0, 0.0]},
            "b": {"ttft": [0.0, 0.10, 0.0], "encode": [0.0, 9.0]},
        }
    )
    assert found == {"ttft": pytest.approx(math.expm1(0.10), rel=0.1), "tpot": 0.0}
    assert floor_of({}) == {}


def test_a_floor_is_kept_per_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path))
    assert noise_floors(MACHINE) == {}
    metrics = {"ttft": 0.031}
    file = save_noise_floor(NoiseFloor(machine=MACHINE.digest(), measured="now", runs=6, cases=("c",), metrics=metrics))
    assert noise_floor(MACHINE, "ttft") == 0.031
    assert noise_floor(MACHINE, "tpot") is None
    other = MACHINE.model_copy(update={"hardware": MACHINE.hardware.model_copy(update={"memory_gib": 16})})
    assert noise_floors(other) == {}
    file.write_text("{ cut off")
    assert noise_floors(MACHINE) == {}
