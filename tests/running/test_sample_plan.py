"""How many samples a load is worth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from slmbench.analysis.stats import hierarchical_interval, relative_half_width
from slmbench.running.past_costs import MOST_KEPT, SeenCost, read_past_costs, remember
from slmbench.running.sample_plan import FEWEST_SAMPLES, MOST_SAMPLES, loads_wanted, samples_a_load


def loads(between: float, within: float, count: int = 400, each: int = 10) -> list:
    random = np.random.default_rng(1)
    return [np.exp(random.normal(random.normal(0, between), within, each)) for _ in range(count)]


@pytest.mark.parametrize(("between", "within", "cost"), [(0.02, 0.02, 9.0), (0.01, 0.03, 4.0), (0.02, 0.01, 100.0)])
def test_the_formula_is_kalibera_and_jones(between: float, within: float, cost: float) -> None:
    expected = math.sqrt(cost) * within / between
    found = samples_a_load(loads(between, within), cost, 1.0)
    assert found is not None
    assert expected * 0.8 <= found <= expected * 1.2 + 1


def test_it_stays_in_bounds() -> None:
    assert samples_a_load(loads(0.1, 0.001), 1.0, 1.0) == FEWEST_SAMPLES
    assert samples_a_load(loads(0.0, 0.05, count=3), 1e6, 1.0) == MOST_SAMPLES
    assert samples_a_load([np.full(4, 2.0)] * 3, 1.0, 1.0) == MOST_SAMPLES


def test_nothing_is_said_without_two_loads_of_two_or_known_costs() -> None:
    assert samples_a_load([], 1.0, 1.0) is None
    assert samples_a_load([np.ones(5)], 1.0, 1.0) is None
    assert samples_a_load([np.ones(1)] * 5, 1.0, 1.0) is None
    assert samples_a_load(loads(0.01, 0.01, 3), 1.0, 0.0) is None


@pytest.mark.parametrize(("have", "spread", "target"), [(2, 0.02, 0.1), (4, 0.16, 0.1), (5, 0.05, 0.02)])
def test_the_loads_wanted_give_an_interval_as_narrow_as_its_target(have: int, spread: float, target: float) -> None:
    def width(count: int) -> float:
        """Return the half-width of so many loads whose logs have that standard deviation."""
        steps = np.tile([-1.0, 1.0], count)[:count]
        return relative_half_width(hierarchical_interval(list(np.exp(steps / steps.std(ddof=1) * spread)[:, None])))

    wanted = loads_wanted(have, width(have), target, 100)
    assert width(wanted) <= target * 1.001
    assert wanted == 2 or width(wanted - 1) > target * 0.999


def test_no_more_loads_are_wanted_than_are_taken() -> None:
    assert loads_wanted(3, 5.0, 0.01, 30) == 30


def test_past_costs_are_medians_of_the_latest(tmp_path) -> None:
    path = tmp_path / "cache" / "costs.json"
    assert read_past_costs(path).factor("k") == 1.0
    remember([("k", SeenCost(open_s=s, factor=s)) for s in (100.0, *[2.0] * MOST_KEPT)], path)
    remember([("other", SeenCost(open_s=1, factor=9))], path)
    past = read_past_costs(path)
    assert (past.factor("k"), past.open_s("k", 7.0), past.open_s("none", 7.0)) == (2.0, 2.0, 7.0)
    assert len(past.seen["k"]) == MOST_KEPT
    path.write_text("{broken")
    assert read_past_costs(path).factor("k") == 1.0
