"""One judgement: a metric of a case on two sides, and what can be said of it."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from slmbench.analysis import stats
from slmbench.analysis.metrics import SideCase
from slmbench.analysis.noise import DEFAULT_CHANGE, DEFAULT_FLOOR, Shift

#: ``worse`` is a loss of quality, ``faster because worse`` a speed-up that comes with one or with a changed setting.
Verdict = Literal["regressed", "worse", "faster because worse", "improved", "unchanged", "inconclusive", "not judged"]
#: What fails a check.
FAILING: tuple[Verdict, ...] = ("regressed", "worse", "faster because worse")

#: Error rate of the interval that must lie within the gate: each of its two ends misses with half of it.
EQUIVALENCE_ALPHA = 0.05
#: Chance to see an effect of the size that is reported as detectable.
POWER = 0.8
#: Sides measured at different times, one of them with more than this share of samples disturbed by other
#: processes, do not show a change: what changed may be the neighbours.
DISTURBED_BOUND = 1 / 3


@dataclass(frozen=True, kw_only=True)
class JudgedFigure(ABC):
    """One figure of one case on two sides. All figures are better when smaller."""

    key: str
    metric: str
    base: stats.Interval
    new: stats.Interval
    #: What new is against base, 0 where they are equal, with everything in its error that the verdict has to know.
    estimate: stats.Estimate
    gate: float
    base_case: SideCase
    new_case: SideCase
    #: Of the whole comparison at this look, and the share of all error rates that this look may use.
    alpha: float
    look: float = 1.0
    #: Adjusted for the number of judgements (Holm).
    p_value: float = 1.0
    #: How many figures the p-value is adjusted for.
    figures: int = 1
    #: How many judgements this one shared alpha with in the last step of Holm's procedure.
    step: int = 1
    verdict: Verdict = "not judged"
    #: Why nothing can be said; with a change, what comes with it.
    reason: str = ""
    #: Other cases that have the same figure: this verdict is theirs, too.
    stands_for: tuple[str, ...] = ()

    @property
    @abstractmethod
    def detectable(self) -> float:
        """Return the smallest slowdown or loss that the next such comparison calls one with 80 % chance."""


@dataclass(frozen=True, kw_only=True)
class Judgement(JudgedFigure):
    """One metric of speed; ``estimate`` is the log of new / base."""

    #: The estimate with the error that loads explain alone, without the shift between runs.
    within: stats.Estimate
    #: None where both sides were interleaved in one run.
    shift: Shift | None
    #: The case whose judgement stands for this one; None where this is judged itself.
    judged_with: str | None = None
    #: Whether `slmbench check --until-conclusive` can add loads to the new side.
    new_takes_more_loads: bool = True

    @property
    def ratio(self) -> stats.Interval:
        """Return new / base with its 95 % interval: above 1 is slower."""
        return self.estimate.interval()

    @property
    def noise_floor(self) -> float:
        """Return how far identical runs lie apart in 95 % of cases for the shift between runs alone, as a share."""
        return self.shift.floor if self.shift else 0.0

    @cached_property
    def detectable(self) -> float:
        """Return the smallest slowdown, as a share, that the next such comparison calls one with 80 % chance.

        Infinite where no slowdown is called one, whatever its size.
        """
        if self.disturbed_sides:
            return math.inf
        shift = self.shift or Shift(0.0)
        return stats.detectable_effect(
            self.within,
            alpha=self.alpha / self.step,
            power=POWER,
            threshold=self.least_change,
            shift_variance=shift.variance,
            shift_freedom=shift.freedom if self.shift else math.inf,
            shift_noise=shift.loads_variance,
            freedom=self.estimate.freedom,
        )

    @property
    def least_change(self) -> float:
        """Return the log ratio that a change must be beyond: the gate, or more where the shift is only assumed."""
        return math.log1p(max(self.gate, DEFAULT_CHANGE) if self.shift and self.shift.assumed else self.gate)

    @property
    def blind(self) -> bool:
        """Return whether separate runs cannot see a slowdown of the gate's size, however many loads they take."""
        return self.shift is not None and self.shift.reach(self.alpha / self.step) > math.log1p(self.gate)

    @property
    def disturbed_sides(self) -> dict[str, float]:
        """Return which sides were disturbed so much that no change shows, and the share of their samples.

        None within one run: there both sides had the same neighbours.
        """
        if self.shift is None:
            return {}
        shares = {"base": self.base_case.disturbed, "new side": self.new_case.disturbed}
        return {side: share for side, share in shares.items() if share > DISTURBED_BOUND}

    @property
    def is_significant_change(self) -> bool:
        """Return whether the test is significant and the effect large enough; the p-value is adjusted already."""
        return self.p_value <= self.alpha and abs(self.estimate.value) > self.least_change

    @property
    def excludes_slowdown(self) -> bool:
        """Return whether a slowdown of the gate's size is excluded, at this look."""
        interval = self.estimate.interval(1 - EQUIVALENCE_ALPHA * self.look)
        return interval.known and interval.high <= 1 + self.gate

    @property
    def hidden_by_noise(self) -> bool:
        """Return whether a slowdown may be there that only a larger one would have shown.

        Not where one is excluded or ruled out, nor where the figure differs by more than what would have been seen.
        """
        seen = abs(self.estimate.value) > math.log1p(self.detectable)
        return not (self.disturbed_sides or self.excludes_slowdown or seen)

    @property
    def base_too_wide(self) -> bool:
        """Return whether the base alone is too uncertain for the gate, so that no new run can pass.

        Not within one run: what its rounds share cancels.
        """
        return self.shift is not None and stats.relative_half_width(self.base) > self.gate

    @property
    def hidden_by_shift(self) -> bool:
        """Return whether the shift between runs alone keeps a verdict away, at this ratio, however many the loads."""
        if self.shift is None:
            return False
        return not self._could_pass(self.shift) and not self._could_fail(self.shift)

    @property
    def loads_would_tell(self) -> bool:
        """Return whether more loads of the new side can end an inconclusive verdict."""
        if self.verdict != "inconclusive" or self.shift is None:
            return self.verdict == "inconclusive"
        can_fail = self._could_fail(self.shift) and "base" not in self.disturbed_sides
        return self._could_pass(self.shift) or can_fail

    def _could_pass(self, shift: Shift) -> bool:
        inside = abs(self.estimate.value) + shift.reach(EQUIVALENCE_ALPHA) < math.log1p(self.gate)
        return inside and not (shift.assumed and self.gate < DEFAULT_FLOOR)

    def _could_fail(self, shift: Shift) -> bool:
        return abs(self.estimate.value) > max(shift.reach(self.alpha / self.step), self.least_change)
