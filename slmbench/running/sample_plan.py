"""How many samples a load is worth, and how many loads an interval takes, from the variances and costs seen."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from slmbench.analysis.stats import t_quantile
from slmbench.measure.stop_rule import Floats

#: Samples of a load at most: where loads hardly differ the formula has no bound.
MOST_SAMPLES = 20
#: Samples of a load at least: the variance within it needs two.
FEWEST_SAMPLES = 2


def samples_a_load(loads: Sequence[Floats], load_s: float, sample_s: float) -> int | None:
    """Return the number of samples a load with which the interval narrows fastest; None where nothing can be said.

    ``sqrt(load_s / sample_s * within / between)`` with the unbiased variances of the log figures within and between
    loads: Kalibera and Jones, Rigorous Benchmarking in Reasonable Time (2013), equation for the optimal repetition
    counts with two levels. ``loads`` holds the samples of each load, ``load_s`` and ``sample_s`` are the seconds that
    one more load and one more sample cost.
    """
    several = [np.log(load) for load in loads if load.size >= FEWEST_SAMPLES]
    if len(several) < 2 or load_s <= 0 or sample_s <= 0:
        return None
    within = float(np.mean([np.var(load, ddof=1) for load in several]))
    per_load = float(np.mean([1 / load.size for load in several]))
    between = float(np.var([load.mean() for load in several], ddof=1)) - within * per_load
    if between <= 0:
        return MOST_SAMPLES
    best = math.sqrt(load_s / sample_s * within / between)
    return max(FEWEST_SAMPLES, min(MOST_SAMPLES, math.ceil(best)))


def loads_wanted(have: int, half_width: float, target: float, most: int) -> int:
    """Return the number of loads with which an interval of this relative half-width gets as narrow as the target.

    The half-width of ``have`` loads (at least two) is ``sinh(t · spread / sqrt(have))``; Student's t shrinks with more
    loads as well. ``most`` where no number below does.
    """
    spread = math.asinh(half_width) * math.sqrt(have) / t_quantile(0.975, have - 1)
    for loads in range(2, most):
        if t_quantile(0.975, loads - 1) * spread / math.sqrt(loads) <= math.asinh(target):
            return loads
    return most
