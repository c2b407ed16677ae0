"""Statistics: known answers, properties, and coverage under the load lottery."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike
from scipy import stats as scipy_stats

from slmbench.analysis import stats
from slmbench.analysis.stats import Estimate, Interval
from slmbench.analysis.weighted_sum import Summand, weighted_sum


def lottery(rng: np.random.Generator, loads: int, rounds: int, between: float = 0.02, within: float = 0.01):
    """Draw times around 1.0: each load has a level of its own, each sample noise around it."""
    levels = rng.normal(0, between, loads)
    return [np.exp(mine + rng.normal(0, within, rounds)) for mine in levels]


@pytest.mark.parametrize("loads", [3, 4, 5, 6, 8, 10])
@pytest.mark.parametrize("rounds", [3, 8])
def test_intervals_over_loads_cover_the_truth(loads: int, rounds: int) -> None:
    rng = np.random.default_rng(loads * 100 + rounds)
    trials = 1500
    hits = 0
    for _ in range(trials):
        interval = stats.hierarchical_interval(lottery(rng, loads, rounds))
        hits += interval.low <= 1.0 <= interval.high
    assert hits / trials >= 0.93


def test_plain_percentile_bootstrap_of_few_loads_is_too_narrow() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        figures = np.array([np.median(load) for load in lottery(rng, 4, 5)])
        means = figures[rng.integers(0, 4, (1000, 4))].mean(axis=1)
        low, high = np.quantile(means, [0.025, 0.975])
        hits += low <= 1.0 <= high
    assert hits / 300 < 0.90


def test_intervals_over_samples_of_one_load_would_be_wrong() -> None:
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(300):
        (load,) = lottery(rng, 1, 40)
        interval = stats.median_interval(load)
        hits += interval.low <= 1.0 <= interval.high
    assert hits / 300 < 0.5


def unpaired_ratio(base: Sequence[ArrayLike], new: Sequence[ArrayLike]) -> Estimate:
    """Return the log ratio of two cases that share no load."""
    parts = []
    for name, loads, weight in (("base", base, -1.0), ("new", new, 1.0)):
        logs, inner = stats.load_levels(loads)
        parts.append(Summand(name, tuple(range(logs.size)), logs, inner, weight))
    return weighted_sum(parts)


@pytest.mark.parametrize("within", [0.001, 0.01, 0.05])
def test_ratio_intervals_cover_and_alarm_as_often_as_they_say(within: float) -> None:
    rng = np.random.default_rng(2)
    trials = 1500
    hits = 0
    for _ in range(trials):
        base, new = lottery(rng, 6, 4, within=within), [1.05 * v for v in lottery(rng, 8, 4, within=within)]
        interval = unpaired_ratio(base, new).interval()
        hits += interval.low <= 1.05 <= interval.high
    assert 0.93 <= hits / trials <= 0.985


def test_pairing_cancels_drift() -> None:
    rng = np.random.default_rng(3)
    drift = [np.exp(rng.normal(0, 0.5, 6)) for _ in range(6)]
    base = [load * d for load, d in zip(lottery(rng, 6, 6), drift, strict=True)]
    new = [1.1 * load * d for load, d in zip(lottery(rng, 6, 6), drift, strict=True)]
    paired = stats.level([young / old for old, young in zip(base, new, strict=True)]).interval()
    unpaired = unpaired_ratio(base, new).interval()
    assert paired.low <= 1.1 <= paired.high
    assert stats.relative_half_width(paired) < stats.relative_half_width(unpaired) / 3


def test_closed_form_equals_the_drawn_bootstrap_of_loads() -> None:
    rng = np.random.default_rng(4)
    loads = lottery(rng, 8, 5)
    logs = np.array([np.log(np.median(load)) for load in loads])
    drawn = logs[rng.integers(0, 8, (200_000, 8))].mean(axis=1).std()
    assert stats.level(loads).error == pytest.approx(drawn * math.sqrt(8 / 7), rel=0.01)


def test_quantile_error_equals_the_drawn_bootstrap_of_samples() -> None:
    rng = np.random.default_rng(5)
    values = np.sort(rng.lognormal(size=41))
    drawn = np.median(values[rng.integers(0, 41, (100_000, 41))], axis=1).std()
    assert stats.quantile_errors(values[None, :], 0.5)[0] == pytest.approx(drawn, rel=0.03)


def test_one_load_has_no_bounds() -> None:
    interval = stats.hierarchical_interval([[1.0, 2.0, 3.0]])
    assert interval.mid == pytest.approx(2.0)
    assert not interval.known
    assert stats.relative_half_width(interval) == math.inf
    assert unpaired_ratio([[1.0]], [[1.0], [2.0]]).p_value() == 1.0


def test_identical_loads_do_not_claim_certainty_their_samples_lack() -> None:
    noisy = [[1.0, 1.1, 1.2, 1.3, 1.4]] * 4
    assert stats.level(noisy).error > 0.01
    assert stats.level([[2.0]] * 4).interval() == Interval(2.0, 2.0, 2.0)


@pytest.mark.parametrize("bad", [[], [[]], [[1.0, 0.0]], [[-1.0]], [[math.nan]], [[math.inf]]])
def test_values_that_are_no_times_are_refused(bad: list[list[float]]) -> None:
    with pytest.raises(ValueError, match=r"load|positive"):
        stats.level(bad)


def test_median_interval_follows_the_binomial() -> None:
    # n = 10: the classical interval is [x(2), x(9)], coverage 97.9 %; n = 5 has none.
    assert stats.median_interval(np.arange(1, 11)) == Interval(2.0, 5.5, 9.0)
    assert stats.median_interval(np.arange(1, 7)) == Interval(1.0, 3.5, 6.0)
    assert not stats.median_interval(np.arange(1, 6)).known


@given(st.integers(6, 60), st.sampled_from([0.9, 0.95, 0.99]))
def test_median_interval_has_at_least_its_confidence_and_is_the_narrowest(n: int, confidence: float) -> None:
    interval = stats.median_interval(np.arange(1, n + 1), confidence)
    if not interval.known:
        assert 2 * 0.5**n > 1 - confidence
        return
    k = int(interval.low)
    assert 1 - 2 * scipy_stats.binom.cdf(k - 1, n, 0.5) >= confidence - 1e-12
    assert 1 - 2 * scipy_stats.binom.cdf(k, n, 0.5) < confidence


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_never_lowers_a_p_value_and_keeps_the_order(p_values: list[float]) -> None:
    adjusted = stats.holm(p_values)
    assert all(a >= p or a == 1.0 for a, p in zip(adjusted, p_values, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert np.all(np.diff(np.array(adjusted)[order]) >= 0)


def test_holm_known_answer() -> None:
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_welch_agrees_with_scipy() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.normal(0, 0.02, 7), rng.normal(0.01, 0.05, 9)
    ours = unpaired_ratio(list(np.exp(a)[:, None]), list(np.exp(b)[:, None]))
    theirs = scipy_stats.ttest_ind(b, a, equal_var=False)
    assert ours.p_value() == pytest.approx(theirs.pvalue)
    assert ours.freedom == pytest.approx(theirs.df)


def test_geometric_mean_of_opposite_ratios_is_one() -> None:
    mean = stats.geometric_mean([Estimate(math.log(2), 0.1, 9), Estimate(-math.log(2), 0.1, 9)])
    assert mean.value == pytest.approx(0)
    assert mean.error == pytest.approx(0.1 / math.sqrt(2))
    assert mean.freedom == pytest.approx(18)


def test_equivalence_needs_the_whole_interval_inside() -> None:
    assert stats.is_equivalent(Interval(0.98, 1.0, 1.03), 0.05)
    assert not stats.is_equivalent(Interval(0.98, 1.0, 1.06), 0.05)
    assert not stats.is_equivalent(Interval(math.nan, 1.0, math.nan), 0.05)


@pytest.mark.parametrize(("freedom", "shift", "threshold"), [(4, 0.0, 0.0), (18, 0.0, 0.05), (8, 0.01, 0.05)])
def test_a_detectable_effect_is_seen_as_often_as_it_says(freedom: int, shift: float, threshold: float) -> None:
    """Read off one comparison, it is called one in 80 % of others, whose errors are estimated again."""
    rng = np.random.default_rng(7)
    runs, error, alpha = 6, 0.02, 0.01 / 20
    seen = []
    for _ in range(400):
        between = shift**2 * rng.chisquare(runs - 1) / (runs - 1)
        now, later = error**2 * rng.chisquare(freedom, 2) / freedom
        degrees = min(freedom, runs - 1) if shift else freedom
        effect = stats.detectable_effect(
            Estimate(0.0, math.sqrt(now), freedom),
            alpha=alpha, threshold=threshold, shift_variance=between, shift_freedom=runs - 1.0, freedom=degrees,
        )  # fmt: skip
        value = math.log1p(effect) + rng.normal(0, math.hypot(error, shift))
        t = value / math.sqrt(later + between)
        seen.append(t > stats.t_quantile(1 - alpha / 2, degrees) and value > threshold)
    assert np.mean(seen) == pytest.approx(0.8, abs=0.05)
    assert stats.detectable_effect(Estimate(0.0, math.nan, 0), alpha=alpha) == math.inf
    assert stats.detectable_effect(Estimate(0.0, 0.0, 4), alpha=alpha, threshold=0.05) == pytest.approx(
        math.expm1(0.05)
    )


def test_an_interval_takes_less_than_20_ms() -> None:
    rng = np.random.default_rng(8)
    loads = lottery(rng, 10, 20)
    stats.hierarchical_interval(loads)
    start = time.perf_counter()
    for _ in range(20):
        stats.hierarchical_interval(loads)
    assert (time.perf_counter() - start) / 20 < 0.02


def test_an_interval_that_says_nothing_has_no_number_of_nine_digits() -> None:
    assert stats.half_width_text(stats.Interval(0.9, 1.0, 1.1)) == "+/-10%"
    for high in (1e9, math.inf, math.nan):
        assert stats.half_width_text(stats.Interval(0.1, 1.0, high)) == "more than +/-1000%"
