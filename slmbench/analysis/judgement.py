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
        """Return the smallest slowdown, as a share, that the next such comparison calls one with 80 % chance."""
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
    def base_too_wide(self) -> bool:
        """Return whether the base alone is too uncertain for the gate, so that no new run can pass."""
        return self.base.known and stats.relative_half_width(self.base) > self.gate

    @property
    def loads_would_tell(self) -> bool:
        """Return whether more loads can end an inconclusive verdict: not where the shift alone is beyond the gate."""
        if self.verdict != "inconclusive" or self.shift is None:
            return self.verdict == "inconclusive"
        if self.shift.assumed and self.gate < DEFAULT_FLOOR:
            return False
        passes = abs(self.estimate.value) + self.shift.reach(EQUIVALENCE_ALPHA) < math.log1p(self.gate)
        fails = abs(self.estimate.value) > max(self.shift.reach(self.alpha / self.step), self.least_change)
        return passes or fails


def verdict_of(found: Judgement) -> tuple[Verdict, str]:
    """Return the verdict on a judgement whose p-value is adjusted, and for ``inconclusive`` why.

    A change needs a p-value of at most ``alpha`` and an effect above the gate; between separate runs without a
    calibration one beyond :data:`DEFAULT_CHANGE`. No change is a statement of its own: the 95 % interval lies within
    the gate, which without a calibration is at least :data:`DEFAULT_FLOOR`. The shift between runs is part of the error
    in both. Everything else is inconclusive.
    """
    estimate, gate, shift = found.estimate, found.gate, found.shift
    if not math.isfinite(estimate.error):
        return "inconclusive", "one load on a side: nothing is known of how loads differ"
    assumed = shift.assumed if shift else ""
    uncalibrated = bool(assumed) and gate < DEFAULT_FLOOR
    if found.p_value <= found.alpha and abs(estimate.value) > found.least_change:
        return ("regressed" if estimate.value > 0 else "improved"), ""
    ratio = estimate.interval()
    if shift and uncalibrated and _shown_by_loads(found):
        return "inconclusive", (
            f"{assumed}, and separate runs are not judged below {DEFAULT_FLOOR:.0%} without one: "
            "use arms, or calibrate this machine for these cases"
        )
    if stats.is_equivalent(estimate.interval(1 - EQUIVALENCE_ALPHA * found.look), gate):
        return "unchanged", ""
    if shift and found.blind and not assumed:
        return "inconclusive", _blindness(shift, gate)
    if ratio.low > 1:
        size = f"slower by {ratio.low - 1:.1%} to {ratio.high - 1:.1%}"
        if assumed and found.p_value <= found.alpha:
            return "inconclusive", f"{size}: {assumed}, and without that a change counts from {DEFAULT_CHANGE:.0%} on"
        if ratio.mid - 1 > gate:
            chance = f"p {found.p_value:.2g}, and it fails from {found.alpha:.2g} on"
            return "inconclusive", f"{size}, but that may be chance ({chance})"
        return "inconclusive", f"{size}: less than the gate by its estimate, and more is not excluded"
    if found.base_too_wide:
        wide = stats.half_width_text(found.base)
        return "inconclusive", f"the base's own interval is {wide}, wider than the gate: it must be measured again"
    return "inconclusive", "the interval is too wide for the gate"


def _shown_by_loads(found: Judgement) -> bool:
    """Return whether the loads alone would give a verdict, so that only the shift between runs stands in its way."""
    within = found.within
    return stats.is_equivalent(within.interval(1 - EQUIVALENCE_ALPHA * found.look), found.gate) or (
        within.p_value() <= found.alpha / found.step and abs(within.value) > math.log1p(found.gate)
    )


def _blindness(shift: Shift, gate: float) -> str:
    return (
        f"separate runs on this machine cannot see {gate * 100:.3g} %: identical ones lie up to {shift.floor:.1%} "
        f"apart (seen in {shift.runs} runs), and no number of loads changes that; use arms"
    )
