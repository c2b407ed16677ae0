"""Verdicts: is one side slower than the other, and can that be said at all?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from pydantic import ValidationError

from slmbench.analysis import stats
from slmbench.analysis.comparison_warnings import comparison_warnings
from slmbench.analysis.gates import Gates
from slmbench.analysis.judged_once import groups_of_one_figure
from slmbench.analysis.metrics import Side, SideCase
from slmbench.analysis.noise import DEFAULT_FLOOR, Floor, Shift
from slmbench.analysis.not_judged import NotJudged, is_newly_failed, not_judged
from slmbench.analysis.ratios import log_ratio, mean_ratio
from slmbench.errors import ExitCode, NotComparableError, nearest
from slmbench.machine.fingerprint import Difference, Fingerprint, differences

Verdict = Literal["regressed", "improved", "unchanged", "inconclusive", "not judged"]

#: Sides measured at different times, one of them with more than this share of samples disturbed by other
#: processes, do not show a change: what changed may be the neighbours.
DISTURBED_BOUND = 1 / 3
#: Error rate of the interval that must lie within the gate: each of its two ends misses with half of it.
EQUIVALENCE_ALPHA = 0.05
#: Chance to see an effect of the size that is reported as detectable.
POWER = 0.8


@dataclass(frozen=True)
class Judgement:
    """One metric of one case on two sides. All metrics are better when smaller."""

    key: str
    metric: str
    base: stats.Interval
    new: stats.Interval
    #: Log of new / base: with the error that loads explain, and with the shift between runs in it.
    within: stats.Estimate
    estimate: stats.Estimate
    #: None where both sides were interleaved in one run.
    shift: Shift | None
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
    reason: str = ""
    #: Other cases that have the same figure: this verdict is theirs, too.
    stands_for: tuple[str, ...] = ()
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
            threshold=math.log1p(self.gate),
            shift_variance=shift.variance,
            shift_freedom=shift.freedom if self.shift else math.inf,
            shift_noise=shift.loads_variance,
            freedom=self.estimate.freedom,
        )

    @property
    def blind(self) -> bool:
        """Return whether separate runs cannot see a slowdown of the gate's size, however many loads they take."""
        return self.shift is not None and self.shift.reach(self.alpha / self.step) > math.log1p(self.gate)

    @property
    def loads_would_tell(self) -> bool:
        """Return whether more loads can end an inconclusive verdict: not where the shift alone is beyond the gate."""
        if self.verdict != "inconclusive" or self.shift is None:
            return self.verdict == "inconclusive"
        if self.shift.assumed and self.gate < DEFAULT_FLOOR:
            return False
        passes = abs(self.estimate.value) + self.shift.reach(EQUIVALENCE_ALPHA) < math.log1p(self.gate)
        fails = abs(self.estimate.value) > max(self.shift.reach(self.alpha / self.step), math.log1p(self.gate))
        return passes or fails


@dataclass(frozen=True)
class Comparison:
    """Two sides, judged."""

    base: Side
    new: Side
    judgements: tuple[Judgement, ...]
    #: Figures that are those of another case, with its verdict: to be shown, not to be counted.
    shared: tuple[Judgement, ...]
    #: Keys of cases that only one side has, and of those that failed on the new side (with the reason).
    only_base: tuple[str, ...]
    only_new: tuple[str, ...]
    failed: dict[str, str]
    differences: tuple[Difference, ...]
    #: Metrics of cases in common that lack figures on a side: each is a gate that guards nothing.
    not_judged: tuple[NotJudged, ...] = ()
    #: None when judged; else why nothing is.
    unjudged: str | None = None
    warnings: tuple[str, ...] = ()
    #: Geometric mean over cases of new / base, by metric.
    means: dict[str, stats.Estimate] = field(default_factory=dict)

    def shown(self) -> list[Judgement]:
        """Return what is judged and what is shown with it, case by case."""
        if not self.shared:
            return list(self.judgements)
        cases = {key: place for place, key in enumerate(self.base.cases)}
        metrics = {metric: place for place, metric in enumerate(self.means)}
        return sorted((*self.judgements, *self.shared), key=lambda j: (cases[j.key], metrics[j.metric]))

    def counts(self) -> dict[str, int]:
        """Return how many judgements ended with each verdict."""
        found: dict[str, int] = {}
        for judgement in self.judgements:
            found[judgement.verdict] = found.get(judgement.verdict, 0) + 1
        if self.not_judged:
            found["not judged"] = found.get("not judged", 0) + len(self.not_judged)
        return found


def compare_sides(
    base: Side,
    new: Side,
    *,
    gates: Gates | None = None,
    metrics: Sequence[str] | None = None,
    floor: Floor | None = None,
    look: float = 1.0,
    allow_different_machine: bool = False,
) -> Comparison:
    """Judge every metric of every case that both sides have.

    ``floor`` says how identical runs at different times differ on this machine; sides of one run share that. ``look``
    is the share of the error rates that this look at the data may use, where there will be several.

    Raises:
        NotComparableError: another machine, or no case in common.
    """
    gates = gates or Gates()
    common = [key for key in base.cases if key in new.cases]
    if not common:
        raise NotComparableError(f"{base.name} and {new.name} have no case in common{_example(base, new)}")
    found = machine_differences(base, new, [base.cases[key] for key in common])
    unjudged = _refusal(base, new, found)
    if unjudged and not allow_different_machine:
        raise NotComparableError(unjudged)
    apart = None if base.run_id == new.run_id else floor or Floor()
    wanted = metrics or gates.metrics()
    shown = _raw_judgements(base, new, common, wanted, gates, apart, look)
    raw = [one for one in shown if one.judged_with is None]
    left = not_judged(base, new, common, wanted, gates, asked=bool(metrics))
    judgements = _with_verdicts(raw, base, new) if not unjudged else raw
    failed = {k: new.cases[k].failure or "no figures" for k in common if is_newly_failed(base.cases[k], new.cases[k])}
    if not raw and not failed:
        why = f": {left[0].key} {left[0].metric}: {left[0].reason}" if left else ""
        raise NotComparableError(f"{base.name} and {new.name} have cases in common, but no figures to compare{why}")
    return Comparison(
        base=base,
        new=new,
        judgements=tuple(judgements),
        shared=tuple(_with_verdict_of_another([one for one in shown if one.judged_with], judgements)),
        only_base=tuple(key for key in base.cases if key not in new.cases),
        only_new=tuple(key for key in new.cases if key not in base.cases),
        failed=failed,
        differences=tuple(found),
        not_judged=left,
        unjudged=unjudged,
        warnings=tuple(dict.fromkeys(comparison_warnings(base, new, common, gates))),
        means={metric: mean for metric in wanted if (mean := _mean(raw, metric, apart)) is not None},
    )


def exit_code(comparisons: Iterable[Comparison], *, allow_missing: bool = False) -> ExitCode:
    """Return how a check ends: a regression first, then a failed case, then what is not known.

    Sides that were not judged never pass. Nor do cases that the new side lacks and metrics that a side lacks, unless
    ``allow_missing``.
    """
    everything = list(comparisons)
    verdicts = {judgement.verdict for comparison in everything for judgement in comparison.judgements}
    if any(comparison.unjudged for comparison in everything):
        return ExitCode.NOT_COMPARABLE
    if "regressed" in verdicts:
        return ExitCode.REGRESSED
    if any(comparison.failed for comparison in everything):
        return ExitCode.FAILED
    missing = any(one.only_base or one.not_judged for one in everything) and not allow_missing
    return ExitCode.INCONCLUSIVE if "inconclusive" in verdicts or missing or not verdicts else ExitCode.OK


def machine_differences(base: Side, new: Side, cases: Sequence[SideCase]) -> list[Difference]:
    """Return the fields in which the sides' machines differ.

    Hard are those that make runs not comparable. Within one run, arms differ in software on purpose; and a
    distribution that no case in common uses decides nothing: both are soft.
    """
    before, after = fingerprint_of(base), fingerprint_of(new)
    if before is None or after is None:
        return []
    one_run = base.run_id == new.run_id
    engines = {case.model.engine for case in cases}
    return [
        replace(found, hard=found.hard and not (one_run and found.kind == "software") and _is_used(found, engines))
        for found in differences(before, after)
    ]


def fingerprint_of(side: Side) -> Fingerprint | None:
    """Return the machine a side ran on, None where the run kept none that can be read."""
    try:
        return Fingerprint.model_validate(side.machine)
    except ValidationError:
        return None


def _is_used(difference: Difference, engines: set[str]) -> bool:
    if not difference.field.startswith("engines."):
        return True
    return any(difference.field.removeprefix("engines.").startswith(engine) for engine in engines)


def _refusal(base: Side, new: Side, found: Sequence[Difference]) -> str | None:
    for side in (base, new):
        if fingerprint_of(side) is None:
            return f"{side.name}: the machine it ran on is not recorded (or not readably), so it cannot be compared"
    hard = [str(difference) for difference in found if difference.hard]
    if not hard:
        return None
    return (
        f"{base.name} and {new.name} are from machines that differ in {'; '.join(hard)} "
        "(`compare --by-machine` groups them by machine, --allow-different-machine shows them without a verdict)"
    )


def _raw_judgements(
    base: Side,
    new: Side,
    keys: Sequence[str],
    metrics: Sequence[str],
    gates: Gates,
    floor: Floor | None,
    look: float,
) -> list[Judgement]:
    found = []
    owners, others = _owners(base, new, keys, metrics)
    for key in keys:
        for metric in metrics:
            if (key, metric) not in owners:
                continue
            old, young = base.cases[key].evidence[metric], new.cases[key].evidence[metric]
            owner, stands_for = owners[key, metric], others.get((key, metric), ())
            within = log_ratio(old, young, interleaved=floor is None)
            shift = floor.shift([key], metric) if floor else None
            found.append(
                Judgement(
                    key=key,
                    metric=metric,
                    base=old.interval(),
                    new=young.interval(),
                    within=within,
                    estimate=shift.added_to(within) if shift else within,
                    shift=shift,
                    # One figure has one gate: the strictest that was asked of the cases that have it.
                    gate=min(gates.gate(metric, one) for one in (owner, *others.get((owner, metric), ()))),
                    base_case=base.cases[key],
                    new_case=new.cases[key],
                    alpha=gates.alpha * look,
                    look=look,
                    stands_for=stands_for,
                    judged_with=owner if owner != key else None,
                )
            )
    return found


_Figure = tuple[str, str]


def _owners(
    base: Side, new: Side, keys: Sequence[str], metrics: Sequence[str]
) -> tuple[dict[_Figure, str], dict[_Figure, tuple[str, ...]]]:
    """Return, by case and metric, whose judgement stands for each figure that both sides have, and for whom it does."""
    owners: dict[_Figure, str] = {}
    others: dict[_Figure, tuple[str, ...]] = {}
    for metric in metrics:
        measured = [key for key in keys if metric in base.cases[key].evidence and metric in new.cases[key].evidence]
        for owner, *rest in groups_of_one_figure(metric, measured, [base, new]):
            owners |= {(key, metric): owner for key in (owner, *rest)}
            if rest:
                others[owner, metric] = tuple(rest)
    return owners, others


def _with_verdict_of_another(shown: Sequence[Judgement], judged: Sequence[Judgement]) -> Iterable[Judgement]:
    known = {(found.key, found.metric): found for found in judged}
    for one in shown:
        owner = known[one.judged_with or one.key, one.metric]
        yield replace(one, p_value=owner.p_value, step=owner.step, verdict=owner.verdict, reason=owner.reason)


def _with_verdicts(raw: Sequence[Judgement], base: Side, new: Side) -> list[Judgement]:
    adjusted = stats.holm([judgement.estimate.p_value() for judgement in raw])
    significant = [p_value <= judgement.alpha for judgement, p_value in zip(raw, adjusted, strict=True)]
    judged = []
    for judgement, p_value, is_significant in zip(raw, adjusted, significant, strict=True):
        step = len(raw) - sum(significant) + is_significant
        found = replace(judgement, p_value=p_value, step=step)
        verdict, reason = verdict_of(found)
        if verdict in ("regressed", "improved") and base.run_id != new.run_id:
            disturbed = max(judgement.base_case.disturbed, judgement.new_case.disturbed)
            if disturbed > DISTURBED_BOUND:
                verdict = "inconclusive"
                reason = f"other processes disturbed {disturbed:.0%} of a side's samples; measure both sides as arms"
        judged.append(replace(found, verdict=verdict, reason=reason))
    return judged


def verdict_of(found: Judgement) -> tuple[Verdict, str]:
    """Return the verdict on a judgement whose p-value is adjusted, and for ``inconclusive`` why.

    A change needs a p-value of at most ``alpha`` and an effect above the gate. No change is a statement of its own: the
    95 % interval lies within the gate. The shift between runs is part of the error in both. Everything else is
    inconclusive; so are separate runs without a calibration at a gate below :data:`DEFAULT_FLOOR`.
    """
    estimate, gate, shift = found.estimate, found.gate, found.shift
    if not math.isfinite(estimate.error):
        return "inconclusive", "one load on a side: nothing is known of how loads differ"
    if shift and shift.assumed and gate < DEFAULT_FLOOR:
        return "inconclusive", (
            f"{shift.assumed}, and separate runs are not judged below {DEFAULT_FLOOR:.0%} without one: "
            "use arms, or calibrate this machine for these cases"
        )
    threshold = math.log1p(gate)
    if found.p_value <= found.alpha and abs(estimate.value) > threshold:
        return ("regressed" if estimate.value > 0 else "improved"), ""
    if stats.is_equivalent(estimate.interval(1 - EQUIVALENCE_ALPHA * found.look), gate):
        return "unchanged", ""
    if shift and found.blind:
        return "inconclusive", _blindness(shift, gate)
    ratio = estimate.interval()
    if ratio.low > 1:
        return "inconclusive", f"slower by {ratio.low - 1:.1%} to {ratio.high - 1:.1%}: on either side of the gate"
    return "inconclusive", "the interval is too wide for the gate"


def _blindness(shift: Shift, gate: float) -> str:
    source = f"assumed, as {shift.assumed}" if shift.assumed else f"seen in {shift.runs} runs"
    return (
        f"separate runs on this machine cannot see {gate * 100:.3g} %: identical ones lie up to {shift.floor:.1%} "
        f"apart ({source}), and no number of loads changes that; use arms"
    )


def _mean(judgements: Sequence[Judgement], metric: str, floor: Floor | None) -> stats.Estimate | None:
    """Return the geometric mean over what is judged; what is shared of a load or of the shift between runs stays."""
    chosen = [judgement for judgement in judgements if judgement.metric == metric]
    if not chosen:
        return None
    sides = [(judgement.base_case.evidence[metric], judgement.new_case.evidence[metric]) for judgement in chosen]
    mean = mean_ratio(sides, interleaved=floor is None)
    return floor.shift([judgement.key for judgement in chosen], metric).added_to(mean) if floor else mean


def _example(base: Side, new: Side) -> str:
    if not base.cases or not new.cases:
        return ""
    first = next(iter(base.cases))
    return f" (for example {first} of {base.name}; {new.name} has none like it.{nearest(first, list(new.cases))})"
