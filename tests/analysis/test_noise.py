"""How identical runs differ: the variance component, what is kept of it, and what is named and not used."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slmbench.analysis import noise
from slmbench.analysis.noise import Calibration, Floor, Shift, read_floor, runs_needed, save_calibration, shift_of
from slmbench.analysis.stats import Estimate, detectable_effect
from slmbench.machine.fingerprint import Fingerprint, Hardware

MACHINE = Fingerprint(
    hardware=Hardware(cpu_model="x", physical_cores=2, logical_cores=2, memory_gib=8, os="L", arch="a")
)
OTHER = MACHINE.model_copy(update={"hardware": MACHINE.hardware.model_copy(update={"memory_gib": 16})})


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLMBENCH_CACHE", str(tmp_path))


def calibration(machine: Fingerprint = MACHINE, **changes: Any) -> Calibration:
    fields: dict[str, Any] = {
        "machine": machine.digest(), "measured": "now", "runs": 3, "cases": {"c": {"ttft": (0.0, 0.01, 0.02)}}
    }  # fmt: skip
    return Calibration(**{**fields, **changes})


def test_a_shift_is_the_variance_between_two_runs_and_never_has_more_freedom_than_the_runs() -> None:
    shift = shift_of([(0.0, 0.01, 0.02)])
    assert shift.variance == pytest.approx(2 * 0.01**2)
    assert shift.freedom == 2
    widened = shift.added_to(Estimate(0.1, 0.01, 1000))
    assert widened.value == 0.1
    assert widened.error == pytest.approx(math.sqrt(0.01**2 + 2 * 0.01**2))
    assert widened.freedom == 2


def test_what_the_loads_of_a_calibration_scatter_is_known_and_no_part_of_what_runs_differ_by() -> None:
    variances = {"c": {"ttft": 4e-5}, "d": {"ttft": 8e-5}}
    levels = {"ttft": (0.0, 0.01, 0.02)}
    kept = calibration(cases={"c": levels, "d": levels}, load_variances=variances)
    one, mean = kept.shift(["c"], "ttft"), kept.shift(["c", "d"], "ttft")
    assert one is not None
    assert mean is not None
    assert one.loads_variance == pytest.approx(2 * 4e-5)
    assert mean.loads_variance == pytest.approx(2 * (4e-5 + 8e-5) / 4)
    # The tests keep it; the slowdown that would be seen does not.
    assert one.variance == shift_of([levels["ttft"]]).variance
    within = Estimate(0.0, 0.01, 9)
    with_noise, without = (
        detectable_effect(
            within, alpha=0.01, shift_variance=one.variance, shift_freedom=one.freedom, shift_noise=noise_variance
        )
        for noise_variance in (0.0, one.loads_variance)
    )
    assert without < with_noise
    assert calibration().shift(["c"], "ttft") == shift_of([levels["ttft"]])


def test_what_cases_share_of_a_shift_does_not_average_out() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 0.02, 400)
    alike = shift_of([shared + rng.normal(0, 1e-4, 400) for _ in range(20)])
    apart = shift_of([rng.normal(0, 0.02, 400) for _ in range(20)])
    assert alike.variance == pytest.approx(2 * 0.02**2, rel=0.2)
    assert apart.variance == pytest.approx(2 * 0.02**2 / 20, rel=0.2)


@given(
    st.lists(st.floats(-5, 5), min_size=3, max_size=8),
    st.floats(-1, 1), st.floats(0, 10), st.floats(0.5, 100),
)  # fmt: skip
def test_no_levels_make_a_nan(levels: list[float], value: float, error: float, freedom: float) -> None:
    shift = shift_of([levels])
    found = shift.added_to(Estimate(value, error, freedom))
    interval = found.interval()
    assert not any(math.isnan(x) for x in (shift.floor, found.p_value(), interval.low, interval.high, found.freedom))
    assert shift.variance >= 0
    # A load that is alone keeps its error unknown.
    assert math.isnan(shift.added_to(Estimate(value, math.nan, 0)).error)


def test_a_calibration_is_kept_per_machine_and_what_does_not_fit_is_named() -> None:
    def reason(machine: Fingerprint | None = MACHINE, key: str = "c", metric: str = "ttft") -> str:
        return read_floor(machine).shift([key], metric).assumed

    assert "never calibrated" in reason()
    assert "not recorded" in reason(None)
    save_calibration(calibration(OTHER))
    assert "of another machine" in reason()
    path = save_calibration(calibration())
    assert reason() == ""
    assert read_floor(MACHINE).shift(["c"], "ttft") == shift_of([(0.0, 0.01, 0.02)])
    assert "of 1 other case" in reason(key="d")
    assert "no tpot" in reason(metric="tpot")
    # Not even for a mean over one case that was calibrated and one that was not.
    assert read_floor(MACHINE).shift(["c", "d"], "ttft").assumed
    save_calibration(calibration(runs=1, cases={"c": {"ttft": (0.0,)}}))
    assert "from one run" in reason()
    path.write_text(calibration(OTHER).model_dump_json(), encoding="utf-8")
    assert "of another machine" in reason()
    path.write_text("{ cut off", encoding="utf-8")
    assert "damaged" in reason()
    # A noise floor of version 0.2.0.
    path.write_text('{"schema_version": 1, "machine": "m", "runs": 6, "cases": ["c"], "metrics": {}}', encoding="utf-8")
    assert "another version" in reason()


def test_an_assumed_shift_is_the_default_floor() -> None:
    shift = Floor().shift(["c"], "ttft")
    assert shift.floor == noise.DEFAULT_FLOOR
    assert shift.freedom == math.inf
    assert shift.reach(0.05) == pytest.approx(1.96 * math.sqrt(2) * noise.ASSUMED_SHIFT, rel=1e-3)


def test_a_quiet_machine_needs_few_runs_and_a_restless_one_none_that_help() -> None:
    needed = [
        runs_needed(Shift(2 * sd**2, 6), 0.05, judgements=2, alpha=0.01) for sd in (0.001, 0.005, 0.008, 0.012, 0.03)
    ]
    assert needed[0] == noise.MINIMUM_RUNS
    assert needed[-1] is None
    known = [runs for runs in needed if runs is not None]
    assert known == sorted(known)
    assert len(set(known)) > 1
