"""How many more loads an inconclusive comparison needs, from the variance seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

from slmbench.analysis import stats
from slmbench.analysis.judgement import DISTURBED_BOUND, EQUIVALENCE_ALPHA, POWER, Judgement
from slmbench.analysis.noise import Shift
from slmbench.analysis.verdicts import Comparison

#: No case is planned more loads than this.
MOST_LOADS = 5000
#: How far from what was seen the truth may be, in standard errors, before a plan is given up: 10 % on either side.
_DOUBT = 1.28


@dataclass(frozen=True)
class LoadsNeeded:
    """More loads of every case, on top of those there are."""

    #: If the ratios are what they look like: each verdict then comes with a chance of 80 %.
    expected: int
    #: If each ratio is as favourable as its error allows.
    least: int


def loads_needed(comparison: Comparison) -> LoadsNeeded | None:
    """Return the loads that would make every inconclusive judgement conclusive; None where no number would.

    The next look may use half of the error rates that this one used.
    """
    one_run = comparison.base.run_id == comparison.new.run_id
    expected = least = 0
    for found in comparison.judgements:
        if found.verdict != "inconclusive":
            continue
        if not found.loads_would_tell:
            return None
        plans = [_more(found, one_run, doubt) for doubt in (0.0, _DOUBT)]
        if plans[1] is None:
            return None
        expected, least = max(expected, plans[0] or MOST_LOADS), max(least, plans[1])
    return LoadsNeeded(expected, least) if expected else None


def _more(found: Judgement, one_run: bool, doubt: float) -> int | None:
    """Return how many more loads one judgement needs, its ratio ``doubt`` errors off to the good side."""
    old, young = (side.evidence[found.metric] for side in (found.base_case, found.new_case))
    have = int(young.logs.size)
    if not math.isfinite(found.within.error):
        # One load says nothing of how loads differ: the first interval comes with three.
        return max(1, 3 - min(have, int(old.logs.size)))
    fixed = 0.0 if one_run else old.estimate.error**2
    moving = found.within.error**2 - fixed
    shift, gate, size = found.shift or Shift(0.0), math.log1p(found.gate), abs(found.estimate.value)
    spread = doubt * found.within.error
    alpha, look = found.alpha / 2, found.look / 2
    lifted = _until_undisturbed(found, have)
    more = 1
    while have + more <= MOST_LOADS:
        freedom = (
            found.within.freedom * (have + more - 1) / max(1, have - 1) if one_run else found.within.freedom + more
        )
        within = stats.Estimate(0.0, math.sqrt(fixed + max(moving, 0.0) * have / (have + more)), freedom)
        after = shift.added_to(within) if found.shift else within
        inside = stats.t_quantile(1 - EQUIVALENCE_ALPHA * look / 2, after.freedom) + stats.t_quantile(POWER, math.inf)
        beyond = stats.t_quantile(1 - alpha / (2 * found.step), after.freedom)
        if max(0.0, size - spread) + inside * after.error <= gate:
            return more
        if more >= lifted and size + spread > gate and size + spread >= beyond * after.error:
            return more
        more = max(more + 1, round(more * 1.1))
    return None


def _until_undisturbed(found: Judgement, have: int) -> float:
    """Return after how many undisturbed loads a change may show; infinite where the base was disturbed."""
    if "base" in found.disturbed_sides:
        return math.inf
    return have * (found.disturbed_sides.get("new side", DISTURBED_BOUND) / DISTURBED_BOUND - 1)
