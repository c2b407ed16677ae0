"""Verdicts: is one side slower than the other, and can that be said at all?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from pydantic import ValidationError

from slmbench.analysis import stats
from slmbench.analysis.gates import Gates
from slmbench.analysis.metrics import Evidence, Side, SideCase, log_ratio
from slmbench.analysis.not_judged import NotJudged, failure_notes, is_newly_failed, not_judged
from slmbench.errors import ExitCode, NotComparableError, nearest
from slmbench.machine.fingerprint import Difference, Fingerprint, differences

Verdict = Literal["regressed", "improved", "unchanged", "inconclusive", "not judged"]

#: Sides measured at different times, one of them with more than this share of samples disturbed by other
#: processes, do not show a change: what changed may be the neighbours.
DISTURBED_BOUND = 1 / 3
#: Chance to see an effect of the size that is reported as detectable.
POWER = 0.8


@dataclass(frozen=True)
class Judgement:
    """One metric of one case on two sides. All metrics are better when smaller."""

    key: str
    metric: str
    base: stats.Interval
    new: stats.Interval
    #: Log of new / base.
    estimate: stats.Estimate
    gate: float
    noise_floor: float
    #: Adjusted for the number of judgements (Holm).
    p_value: float
    verdict: Verdict
    #: The smallest slowdown, as a share, that would have been called one (with a chance of 80 %).
    detectable: float
    base_case: SideCase
    new_case: SideCase
    reason: str = ""

    @property
    def ratio(self) -> stats.Interval:
        """Return new / base with its 95 % interval: above 1 is slower."""
        return self.estimate.interval()


@dataclass(frozen=True)
class Comparison:
    """Two sides, judged."""

    base: Side
    new: Side
    judgements: tuple[Judgement, ...]
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
    noise_floor: Mapping[str, float] | None = None,
    allow_different_machine: bool = False,
) -> Comparison:
    """Judge every metric of every case that both sides have.

    ``noise_floor`` says by metric how far identical runs lie apart on this machine, as a share.

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
    # The floor is of runs at different times; sides that were interleaved share what disturbs.
    floor = {} if base.run_id == new.run_id else noise_floor or {}
    wanted = metrics or gates.metrics()
    raw = _raw_judgements(base, new, common, wanted, gates, floor)
    left = not_judged(base, new, common, wanted, gates, asked=bool(metrics))
    judgements = _with_verdicts(raw, base, new, gates) if not unjudged else raw
    failed = {k: new.cases[k].failure or "no figures" for k in common if is_newly_failed(base.cases[k], new.cases[k])}
    if not raw and not failed:
        why = f": {left[0].key} {left[0].metric}: {left[0].reason}" if left else ""
        raise NotComparableError(f"{base.name} and {new.name} have cases in common, but no figures to compare{why}")
    return Comparison(
        base=base,
        new=new,
        judgements=tuple(judgements),
        only_base=tuple(key for key in base.cases if key not in new.cases),
        only_new=tuple(key for key in new.cases if key not in base.cases),
        failed=failed,
        differences=tuple(found),
        not_judged=left,
        unjudged=unjudged,
        warnings=tuple(_warnings(base, new, common, gates)),
        means={metric: mean for metric in wanted if (mean := _mean(raw, metric)) is not None},
    )


def exit_code(comparisons: Iterable[Comparison], *, allow_missing: bool = False) -> ExitCode:
    """Return how a check ends: a regression first, then a failed case, then what could not be told.

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
    base: Side, new: Side, keys: Sequence[str], metrics: Sequence[str], gates: Gates, floors: Mapping[str, float]
) -> list[Judgement]:
    interleaved = base.run_id == new.run_id
    found = []
    for key in keys:
        for metric in metrics:
            old, young = base.cases[key].evidence.get(metric), new.cases[key].evidence.get(metric)
            if old is not None and young is not None:
                estimate = log_ratio(old, young, interleaved=interleaved)
                found.append(_raw(key, metric, base.cases[key], new.cases[key], old, young, estimate, gates, floors))
    return found


def _raw(
    key: str,
    metric: str,
    base: SideCase,
    new: SideCase,
    old: Evidence,
    young: Evidence,
    estimate: stats.Estimate,
    gates: Gates,
    floors: Mapping[str, float],
) -> Judgement:
    gate, floor = gates.gate(metric, key), floors.get(metric, 0.0)
    return Judgement(
        key=key,
        metric=metric,
        base=old.interval(),
        new=young.interval(),
        estimate=estimate,
        gate=gate,
        noise_floor=floor,
        p_value=estimate.p_value(),
        verdict="not judged",
        detectable=detectable(estimate, max(gate, floor), gates.alpha),
        base_case=base,
        new_case=new,
    )


def _with_verdicts(raw: Sequence[Judgement], base: Side, new: Side, gates: Gates) -> list[Judgement]:
    adjusted = stats.holm([judgement.p_value for judgement in raw])
    judged = []
    for judgement, p_value in zip(raw, adjusted, strict=True):
        verdict, reason = verdict_of(judgement.estimate, p_value, judgement.gate, judgement.noise_floor, gates.alpha)
        if verdict in ("regressed", "improved") and base.run_id != new.run_id:
            disturbed = max(judgement.base_case.disturbed, judgement.new_case.disturbed)
            if disturbed > DISTURBED_BOUND:
                verdict = "inconclusive"
                reason = f"other processes disturbed {disturbed:.0%} of a side's samples; measure both sides as arms"
        judged.append(replace(judgement, p_value=p_value, verdict=verdict, reason=reason))
    return judged


def verdict_of(
    estimate: stats.Estimate, p_value: float, gate: float, noise_floor: float, alpha: float
) -> tuple[Verdict, str]:
    """Return the verdict on a log ratio new / base, and for ``inconclusive`` why.

    A change needs a p-value (adjusted) of at most ``alpha`` and an effect above gate and noise floor. No change is
    a statement of its own: the 95 % interval lies within the gate. Everything else is inconclusive.
    """
    threshold = math.log1p(max(gate, noise_floor))
    if p_value <= alpha and estimate.value > threshold:
        return "regressed", ""
    if p_value <= alpha and estimate.value < -threshold:
        return "improved", ""
    if not math.isfinite(estimate.error):
        return "inconclusive", "one load on a side: nothing is known of how loads differ"
    if stats.is_equivalent(estimate.interval(), gate):
        return "unchanged", ""
    if noise_floor > gate and abs(estimate.value) <= threshold:
        return "inconclusive", f"the noise floor of this machine, {noise_floor:.1%}, is above the gate"
    ratio = estimate.interval()
    if ratio.low > 1:
        return "inconclusive", f"slower by {ratio.low - 1:.1%} to {ratio.high - 1:.1%}: on either side of the gate"
    return "inconclusive", "the interval is too wide for the gate"


def detectable(estimate: stats.Estimate, threshold: float, alpha: float) -> float:
    """Return the smallest slowdown, as a share, that would be called one with a chance of :data:`POWER`.

    It must be seen at ``alpha``, and its estimate must come out above the threshold.
    """
    seen = stats.minimum_detectable_effect(estimate, alpha=alpha, power=POWER)
    if not math.isfinite(seen):
        return math.inf
    above = math.log1p(threshold) + stats.t_quantile(POWER, estimate.freedom) * estimate.error
    return max(seen, math.expm1(above))


def _mean(judgements: Sequence[Judgement], metric: str) -> stats.Estimate | None:
    estimates = [judgement.estimate for judgement in judgements if judgement.metric == metric]
    return stats.geometric_mean(estimates) if estimates else None


def _warnings(base: Side, new: Side, keys: Sequence[str], gates: Gates) -> Iterable[str]:
    yield from base.warnings
    yield from new.warnings
    yield from failure_notes(base, new, keys)
    for key in keys:
        if base.cases[key].model.digest != new.cases[key].model.digest:
            yield f"{key}: the checkpoints of that name differ (other config or weights)"
        paths = base.cases[key].model.attention_path, new.cases[key].model.attention_path
        if None not in paths and paths[0] != paths[1]:
            yield f"{key}: another attention path ran: {paths[0]} / {paths[1]}"
    for pattern in gates.idle_rules(list(keys)):
        yield f"the gates for '{pattern}' fit no case of this comparison"


def _example(base: Side, new: Side) -> str:
    if not base.cases or not new.cases:
        return ""
    first = next(iter(base.cases))
    return f" (for example {first} of {base.name}; {new.name} has none like it.{nearest(first, list(new.cases))})"
