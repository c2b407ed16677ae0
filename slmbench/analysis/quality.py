"""Quality on two sides: is the new one worse than the base, and was its speed bought with that?

Both sides read the same windows of text, so a loss is the mean of the windows' differences. The window is what varies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from slmbench.analysis import stats
from slmbench.analysis.changes import Changed
from slmbench.analysis.divergence import LEAST_WINDOWS, per_token
from slmbench.analysis.gates import Gates
from slmbench.analysis.judgement import EQUIVALENCE_ALPHA, POWER, JudgedFigure, Judgement, Verdict
from slmbench.analysis.metrics import Side, SideCase
from slmbench.analysis.not_judged import NotJudged
from slmbench.analysis.quality_metrics import QUALITY_METRICS, QualityMetric, written
from slmbench.errors import NotComparableError
from slmbench.records.quality import CaseQuality


@dataclass(frozen=True, kw_only=True)
class QualityJudgement(JudgedFigure):
    """One figure of quality of one configuration: a mean per token; ``estimate`` is new - base, in the figure's unit.

    It stands for all cases of the configuration: text is read once for all of their lengths.
    """

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

    def judged(self) -> QualityJudgement:
        """Return this with its verdict; the p-value is adjusted already."""
        verdict, reason = self._verdict()
        return replace(self, verdict=verdict, reason=reason)

    def _verdict(self) -> tuple[Verdict, str]:
        if self.windows < LEAST_WINDOWS:
            return "inconclusive", f"{self.windows} windows of text; {LEAST_WINDOWS} are needed for an interval"
        value = self.estimate.value
        if self.p_value <= self.alpha and abs(value) > self.gate:
            return ("worse" if value > 0 else "improved"), ""
        within = self._interval(EQUIVALENCE_ALPHA * self.look)
        if -self.gate <= within.low and within.high <= self.gate:
            return "unchanged", ""
        if self.loss.low > 0:
            return "inconclusive", "worse, by less or more than the gate; more text would tell"
        return "inconclusive", "the interval is too wide for the gate; more text would tell"


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
        old, young = (_with_quality(side, group) for side in (base, new))
        if old is None and young is None:
            continue
        if old is not None and young is not None:
            _check_comparable(group[0], _quality(base, old), _quality(new, young))
        for metric in metrics:
            one, other = (_sums(side, key, metric) for side, key in ((base, old), (new, young)))
            if one and other:
                found.append(_judgement(base, new, group, (old or "", young or ""), metric, gates, look))
            elif one or other:
                lacking = (new, young) if one else (base, old)
                reason = _missing(*lacking, group[0], metric)
                left.append(NotJudged(group[0], metric, gates.gate(metric, group[0]), reason, base.cases[group[0]]))
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
        settings = [str(one) for one in changed.get(judgement.key, ())]
        causes = [*losses.get(configuration, []), *settings]
        if judgement.verdict == "improved" and causes:
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


def _with_quality(side: Side, keys: Sequence[str]) -> str | None:
    return next((key for key in keys if (found := side.cases[key].quality) and found.tokens.size), None)


def _quality(side: Side, key: str) -> CaseQuality:
    found = side.cases[key].quality
    assert found is not None
    return found


def _check_comparable(key: str, old: CaseQuality, young: CaseQuality) -> None:
    if old.reference_digest != young.reference_digest:
        raise NotComparableError(
            f"{key}: quality was measured against another reference: {old.reference} ({old.reference_digest[:12]}) / "
            f"{young.reference} ({young.reference_digest[:12]}); --metric ttft,tpot judges speed alone"
        )
    same = old.text_digest == young.text_digest and np.array_equal(old.tokens, young.tokens)
    if not same:
        raise NotComparableError(
            f"{key}: quality was measured on another text: {old.text_digest[:12]} ({old.tokens.sum()} tokens) / "
            f"{young.text_digest[:12]} ({young.tokens.sum()} tokens); --metric ttft,tpot judges speed alone"
        )


def _sums(side: Side, key: str | None, metric: str) -> bool:
    """Return whether a side has that figure of every window."""
    return key is not None and bool(np.all(np.isfinite(QUALITY_METRICS[metric].of_windows(_quality(side, key)))))


def _missing(side: Side, key: str | None, case: str, metric: str) -> str:
    if key is not None:
        return f"{side.name} has no {metric}: its engine gives tokens only"
    found = side.cases[case].quality
    return f"{side.name} has no quality of this case" + (f": {found.reason}" if found and found.reason else "")


def _judgement(
    base: Side,
    new: Side,
    group: Sequence[str],
    measured: tuple[str, str],
    metric: str,
    gates: Gates,
    look: float,
) -> QualityJudgement:
    one, other = _quality(base, measured[0]), _quality(new, measured[1])
    of_windows = QUALITY_METRICS[metric].of_windows
    return QualityJudgement(
        key=group[0],
        metric=metric,
        base=per_token(of_windows(one), one.tokens),
        new=per_token(of_windows(other), other.tokens),
        estimate=difference(one, other, QUALITY_METRICS[metric]),
        windows=one.tokens.size,
        gate=min(gates.gate(metric, key) for key in group),
        base_case=base.cases[measured[0]],
        new_case=new.cases[measured[1]],
        alpha=gates.alpha * look,
        look=look,
        stands_for=tuple(group[1:]),
    )


def difference(base: CaseQuality, new: CaseQuality, metric: QualityMetric) -> stats.Estimate:
    """Return the difference of two means per token over the same windows: a ratio of sums, its error over windows."""
    weights = base.tokens.astype(np.float64)
    values = metric.of_windows(new) - metric.of_windows(base)
    count, value = values.size, float(values.sum() / weights.sum())
    if count < LEAST_WINDOWS:
        return stats.Estimate(value, math.nan, 0.0)
    rest = values - weights * value
    error = math.sqrt(count / (count - 1) * float((rest**2).sum())) / float(weights.sum())
    return stats.Estimate(value, error, count - 1.0)
