"""Verdicts: is one side slower than the other, and can that be said at all?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pydantic import ValidationError

from slmbench.analysis import stats
from slmbench.analysis.changes import Changed, changes
from slmbench.analysis.comparison_warnings import comparison_warnings, wider_gate
from slmbench.analysis.gates import Gates
from slmbench.analysis.judged_once import groups_of_one_figure
from slmbench.analysis.judgement import JudgedFigure, Judgement
from slmbench.analysis.matching import how_nearest_differ, with_matched_cases
from slmbench.analysis.metrics import METRICS, Side, SideCase
from slmbench.analysis.noise import Floor
from slmbench.analysis.not_judged import NotJudged, newly_failed, not_judged
from slmbench.analysis.quality import QualityJudgement, quality_judgements, with_worse_speedups
from slmbench.analysis.quality_metrics import QUALITY_METRICS
from slmbench.analysis.ratios import log_ratio, mean_ratio
from slmbench.analysis.verdict_rules import verdict_of
from slmbench.errors import NotComparableError
from slmbench.machine.fingerprint import ENGINE_FIELDS, Difference, Fingerprint, differences


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
    #: Figures of quality, one for each configuration.
    quality: tuple[QualityJudgement, ...] = ()
    #: What differs between the sides of a case besides the figures, by the base's key.
    changed: dict[str, tuple[Changed, ...]] = field(default_factory=dict)
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

    def judged(self) -> tuple[JudgedFigure, ...]:
        """Return every judgement, of speed and of quality."""
        return (*self.judgements, *self.quality)

    def counts(self) -> dict[str, int]:
        """Return how many judgements ended with each verdict."""
        found: dict[str, int] = {}
        for judgement in self.judged():
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
    match: Sequence[str] = (),
) -> Comparison:
    """Judge every metric of every case that both sides have, and the quality of each configuration.

    ``metrics`` are of both kinds; without them speed is judged as the gates say, and all that is known of quality.
    ``match`` pairs cases by hand (:mod:`slmbench.analysis.matching`). ``floor`` says how identical runs at different
    times differ on this machine; sides of one run share that. ``look`` is the share of the error rates that this look
    at the data may use, where there will be several.

    Raises:
        BadInputError: ``match`` fits no cases.
        NotComparableError: another machine, another text or reference of the quality, or no case in common.
    """
    gates = gates or Gates()
    base, new = with_matched_cases(base, new, match)
    common = [key for key in base.cases if key in new.cases]
    if not common:
        raise NotComparableError(f"{base.name} and {new.name} have no case in common{how_nearest_differ(base, new)}")
    found = machine_differences(base, new, [base.cases[key] for key in common])
    unjudged = _refusal(base, new, found)
    if unjudged and not allow_different_machine:
        raise NotComparableError(f"{unjudged}{_way_to_see(base, new, found)}")
    apart = None if base.run_id == new.run_id else floor or Floor()
    wanted = [name for name in metrics or gates.metrics() if name in METRICS]
    of_quality = [name for name in metrics or QUALITY_METRICS if name in QUALITY_METRICS]
    shown = _raw_judgements(base, new, common, wanted, gates, apart, look)
    raw = [one for one in shown if one.judged_with is None]
    quality, lacking = quality_judgements(base, new, common, of_quality, gates, look)
    left = (*not_judged(base, new, common, wanted, gates, asked=bool(metrics)), *lacking)
    changed = {key: what for key in common if (what := changes(base.cases[key], new.cases[key]))}
    judgements, quality = (raw, quality) if unjudged else _with_verdicts(raw, quality, changed)
    failed = newly_failed(base, new, common)
    if not raw and not quality and not failed:
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
        quality=tuple(quality),
        changed=changed,
        not_judged=left,
        unjudged=unjudged,
        warnings=tuple(dict.fromkeys((*comparison_warnings(base, new, common, gates), *wider_gate(judgements, gates)))),
        means={metric: mean for metric in wanted if (mean := _mean(raw, metric, apart)) is not None},
    )


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


def check_machines(base: Side, new: Side, cases: Sequence[SideCase]) -> None:
    """Check that the machines of two sides allow a verdict on these cases.

    Raises:
        NotComparableError: they do not; the text says why.
    """
    found = machine_differences(base, new, cases)
    if refusal := _refusal(base, new, found):
        raise NotComparableError(f"{refusal}{_way_to_see(base, new, found)}")


def fingerprint_of(side: Side) -> Fingerprint | None:
    """Return the machine a side ran on, None where the run kept none that can be read."""
    try:
        return Fingerprint.model_validate(side.machine)
    except ValidationError:
        return None


def _is_used(difference: Difference, engines: set[str]) -> bool:
    if not difference.field.startswith(ENGINE_FIELDS):
        return True
    return any(difference.field.removeprefix(ENGINE_FIELDS).startswith(engine) for engine in engines)


def _refusal(base: Side, new: Side, found: Sequence[Difference]) -> str | None:
    for side in (base, new):
        if fingerprint_of(side) is None:
            return f"{side.name}: the machine it ran on is not recorded (or not readably), so it cannot be compared"
    hard = [difference for difference in found if difference.hard]
    if not hard:
        return None
    if _are_arms(base, new):
        return (
            f"{base.name} and {new.name} are arms of one run that saw its machine differently "
            f"({'; '.join(map(str, hard))}): start both interpreters alike, on the same cores"
        )
    if all(difference.field.startswith(ENGINE_FIELDS) for difference in hard):
        versions = "; ".join(str(difference).removeprefix(ENGINE_FIELDS) for difference in hard)
        return (
            f"{base.name} and {new.name} were measured with different versions of an engine ({versions}): save a new "
            "baseline, or compare both versions in one run (`slmbench run --arm`)"
        )
    return f"{base.name} and {new.name} are from machines that differ in {'; '.join(map(str, hard))}"


def _are_arms(base: Side, new: Side) -> bool:
    """Return whether both are interpreters of one run: on one machine, whatever their fingerprints say."""
    return base.run_id == new.run_id and None not in (base.arm, new.arm)


def _way_to_see(base: Side, new: Side, found: Sequence[Difference]) -> str:
    """Return how to look at figures that get no verdict."""
    engines = all(difference.field.startswith(ENGINE_FIELDS) for difference in found if difference.hard)
    one_machine = engines or _are_arms(base, new)
    grouped = "" if one_machine else "`slmbench compare --by-machine` groups them by machine, "
    return f" ({grouped}--allow-different-machine shows them without a verdict)"


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
                    gate=min(gates.gate_over(shift, metric, one) for one in (owner, *others.get((owner, metric), ()))),
                    base_case=base.cases[key],
                    new_case=new.cases[key],
                    alpha=gates.alpha * look,
                    look=look,
                    stands_for=stands_for,
                    judged_with=owner if owner != key else None,
                    new_takes_more_loads=new.takes_more_loads,
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


def _with_verdicts(
    raw: Sequence[Judgement], quality: Sequence[QualityJudgement], changed: Mapping[str, Sequence[Changed]]
) -> tuple[list[Judgement], list[QualityJudgement]]:
    """Return all judgements with verdicts: speed and quality share the error rate of one comparison (Holm)."""
    everything: list[JudgedFigure] = [*raw, *quality]
    adjusted = stats.holm([found.estimate.p_value() for found in everything])
    significant = [p <= found.alpha for found, p in zip(everything, adjusted, strict=True)]
    steps = [len(adjusted) - sum(significant) + is_significant for is_significant in significant]
    judged = []
    for judgement, p_value, step in zip(raw, adjusted, steps, strict=False):
        found = replace(judgement, p_value=p_value, step=step, figures=len(adjusted))
        verdict, reason = verdict_of(found)
        judged.append(replace(found, verdict=verdict, reason=reason))
    of_quality = [
        replace(one, p_value=p_value, step=step, figures=len(adjusted)).judged(changed.get(one.key, ()))
        for one, p_value, step in zip(quality, adjusted[len(raw) :], steps[len(raw) :], strict=True)
    ]
    return with_worse_speedups(judged, of_quality, changed), of_quality


def _mean(judgements: Sequence[Judgement], metric: str, floor: Floor | None) -> stats.Estimate | None:
    """Return the geometric mean over what is judged; what is shared of a load or of the shift between runs stays."""
    chosen = [judgement for judgement in judgements if judgement.metric == metric]
    if not chosen:
        return None
    sides = [(judgement.base_case.evidence[metric], judgement.new_case.evidence[metric]) for judgement in chosen]
    mean = mean_ratio(sides, interleaved=floor is None)
    return floor.shift([judgement.key for judgement in chosen], metric).added_to(mean) if floor else mean
