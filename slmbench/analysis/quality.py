"""Quality on two sides: is the new one worse than the base, and was its speed bought with that?

Both sides read the same windows of text and answer the same items, so a loss is the mean of their differences. Windows
and items are what varies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from slmbench.analysis import stats
from slmbench.analysis.changes import Changed
from slmbench.analysis.divergence import LEAST_WINDOWS
from slmbench.analysis.gates import Gates
from slmbench.analysis.judgement import EQUIVALENCE_ALPHA, POWER, JudgedFigure, Judgement, Verdict
from slmbench.analysis.metrics import Side, SideCase
from slmbench.analysis.not_judged import NotJudged
from slmbench.analysis.quality_metrics import QUALITY_METRICS, Units, written
from slmbench.errors import NotComparableError


@dataclass(frozen=True, kw_only=True)
class QualityJudgement(JudgedFigure):
    """One figure of quality of one configuration: a mean per token or item; ``estimate`` is new - base, in its unit.

    It stands for all cases of the configuration: text is read once for all of their lengths.
    """

    #: Windows of text, or items.
    windows: int

    @property
    def loss(self) -> stats.Interval:
        """Return new - base with its 95 % interval; above 0 is worse."""
        return self._interval(EQUIVALENCE_ALPHA)

    def _interval(self, alpha: float) -> stats.Interval:
        value, error = self.estimate.value, self.estimate.error
        reach = stats.t_quantile(1 - alpha / 2, self.estimate.freedom) * error if error else 0.0
        return stats.Interval(value - reach, value, value + reach)

    @property
    def detectable(self) -> float:
        """Return the smallest loss that is called one with 80 % chance, in the metric's unit; infinite if unknown."""
        if not math.isfinite(self.estimate.error):
            return math.inf
        quantiles = stats.t_quantile(1 - self.alpha / self.step / 2, self.estimate.freedom) + stats.t_quantile(
            POWER, self.estimate.freedom
        )
        return max(self.gate, quantiles * self.estimate.error)

    def judged(self, changed: Sequence[Changed] = ()) -> QualityJudgement:
        """Return this with its verdict, and what changed as the cause of a loss; the p-value is adjusted already."""
        verdict, reason = self._verdict()
        if verdict == "worse" and changed:
            reason = f"changed: {'; '.join(map(str, changed))}"
        return replace(self, verdict=verdict, reason=reason)

    def _verdict(self) -> tuple[Verdict, str]:
        if self.windows < LEAST_WINDOWS:
            units = "items" if self.metric == "task_loss" else "windows of text"
            return "inconclusive", f"{self.windows} {units}; {LEAST_WINDOWS} are needed for an interval"
        value = self.estimate.value
        if self.p_value <= self.alpha and abs(value) > self.gate:
            return ("worse" if value > 0 else "improved"), ""
        within = self._interval(EQUIVALENCE_ALPHA * self.look)
        if -self.gate <= within.low and within.high <= self.gate:
            return "unchanged", ""
        if self.loss.low > 0:
            return "inconclusive", "worse, by less or more than the gate; more text or items would tell"
        return "inconclusive", "the interval is too wide for the gate; more text or items would tell"


def configuration_of(found: SideCase) -> str:
    """Return what the cases have in common that read the same text once: everything but the workload."""
    return found.case.model_copy(update={"arm": None}).key_with("*")


def quality_judgements(
    base: Side, new: Side, keys: Sequence[str], metrics: Sequence[str], gates: Gates, look: float
) -> tuple[list[QualityJudgement], list[NotJudged]]:
    """Return every figure of quality that both sides have, without verdicts, and what one side lacks.

    Raises:
        NotComparableError: the sides read another text, or were held against another reference.
    """
    found, left = [], []
    for group in _configurations(base, keys):
        for name in metrics:
            old, young = (_measured(side, group, name) for side in (base, new))
            if old and young:
                _check_comparable(group[0], old[1], young[1])
                found.append(_judgement(base, new, group, (old, young), name, gates, look))
            elif old or young:
                reason = _missing(new if old else base, group[0], name)
                left.append(NotJudged(group[0], name, gates.gate(name, group[0]), reason, base.cases[group[0]]))
    return found, left


def with_worse_speedups(
    judgements: Sequence[Judgement],
    quality: Sequence[QualityJudgement],
    changed: Mapping[str, Sequence[Changed]],
) -> list[Judgement]:
    """Return the judgements with causes: a speed-up with a loss of quality or a changed setting is no improvement."""
    losses: dict[str, list[str]] = {}
    proven: dict[str, set[str]] = {}
    for one in quality:
        configuration = configuration_of(one.base_case)
        proven.setdefault(configuration, set()).add(one.verdict)
        if one.verdict == "worse":
            losses.setdefault(configuration, []).append(loss_text(one))
    found = []
    for judgement in judgements:
        configuration = configuration_of(judgement.base_case)
        what = changed.get(judgement.key, ())
        settings = [str(one) for one in what]
        causes = [*losses.get(configuration, []), *settings]
        is_suspect = configuration in losses or any(one.suspect for one in what)
        if judgement.verdict == "improved" and is_suspect:
            if settings and proven.get(configuration) == {"unchanged"}:
                causes.append("the quality that was measured is unchanged")
            judgement = replace(judgement, verdict="faster because worse", reason="; ".join(causes))
        elif judgement.verdict == "regressed" and settings:
            judgement = replace(judgement, reason=f"changed: {'; '.join(settings)}")
        found.append(judgement)
    return found


def loss_text(found: QualityJudgement) -> str:
    """Return a difference of quality as text: ``KL divergence from the reference +0.031 [0.024, 0.038] nats``."""
    metric = QUALITY_METRICS[found.metric]
    return f"{metric.title} {written(found.loss, metric.unit, difference=True)}"


def _configurations(base: Side, keys: Sequence[str]) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(configuration_of(base.cases[key]), []).append(key)
    return list(groups.values())


_Measured = tuple[str, Units]


def _measured(side: Side, keys: Sequence[str], metric: str) -> _Measured | None:
    """Return the first of a configuration's cases that has a figure, with it."""
    for key in keys:
        if (units := QUALITY_METRICS[metric].units_of(side.cases[key])) is not None:
            return key, units
    return None


def _check_comparable(key: str, old: Units, young: Units) -> None:
    check_same_subject(key, old.subject, young.subject)
    if not np.array_equal(old.weights, young.weights):
        raise NotComparableError(f"{key}: quality was measured on another share of the text or tasks; {_SPEED_ALONE}")


def check_same_subject(key: str, base: Mapping[str, str], new: Mapping[str, str]) -> None:
    """Refuse two sides whose quality is not of the same: by name what each was measured with, and its digest.

    Raises:
        NotComparableError: it is not.
    """
    for (name, digest), (other_name, other) in zip(base.items(), new.items(), strict=True):
        if digest != other:
            now, before = f"another {other_name} ({other[:12]})", f"{name} ({digest[:12]})"
            why = f"; {_OTHER_WEIGHTS}" if name.startswith("reference ") else ""
            raise NotComparableError(
                f"{key}: the new run's quality was measured with {now}; the base has {before}{why}; {_SPEED_ALONE}"
            )


#: What to do about a model with other weights: people expect that the gate sees how much worse it is.
_OTHER_WEIGHTS = (
    "quality is the distance from the model's own weights in fp32, so it says what a conversion costs and nothing of a "
    "model that was trained again; answers to tasks do (`slmbench run --tasks FILE`, for the baseline too)"
)
_SPEED_ALONE = "--metric ttft,tpot judges speed alone"


def _missing(side: Side, key: str, metric: str) -> str:
    found = side.cases[key]
    if metric == "task_loss":
        return f"{side.name} has no task score of this case" + (f": {found.tasks.reason}" if found.tasks else "")
    if found.quality is not None and found.quality.tokens.size:
        return f"{side.name} has no {metric}: its engine gives tokens only"
    reason = f": {found.quality.reason}" if found.quality and found.quality.reason else ""
    return f"{side.name} has no quality of this case{reason}"


def _judgement(
    base: Side,
    new: Side,
    group: Sequence[str],
    measured: tuple[_Measured, _Measured],
    metric: str,
    gates: Gates,
    look: float,
) -> QualityJudgement:
    (old_key, old), (young_key, young) = measured
    mean_of = QUALITY_METRICS[metric].mean_of
    return QualityJudgement(
        key=group[0],
        metric=metric,
        base=mean_of(old),
        new=mean_of(young),
        estimate=difference(old, young),
        windows=old.sums.size,
        gate=min(gates.gate(metric, key) for key in group),
        base_case=base.cases[old_key],
        new_case=new.cases[young_key],
        alpha=gates.alpha * look,
        look=look,
        stands_for=tuple(group[1:]),
    )


def difference(base: Units, new: Units) -> stats.Estimate:
    """Return the difference of two means over the same units: a ratio of sums, its error from how units differ."""
    values = new.sums - base.sums
    count, value = values.size, float(values.sum() / base.weights.sum())
    if count < LEAST_WINDOWS:
        return stats.Estimate(value, math.nan, 0.0)
    rest = values - base.weights * value
    error = math.sqrt(count / (count - 1) * float((rest**2).sum())) / float(base.weights.sum())
    return stats.Estimate(value, error, count - 1.0)
