"""What a run says of published claims: figures with their intervals, and a verdict."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from slmbench.analysis.metrics import Side
from slmbench.analysis.pairs import Pair, compared, pairs_of, precision_of, with_own_figure
from slmbench.analysis.stats import Interval
from slmbench.case import Workload
from slmbench.models.checkpoint import Checkpoint
from slmbench.models.cost_model import phases
from slmbench.records.sample_arrays import RunColumns
from slmbench.records.schema import COUNTED_METRICS, CaseInfo, Claim
from slmbench.terms import Pairing, pairing_of

#: From best to worst. ``holds``: all of the interval is at least the claimed factor. ``holds in direction``: all of it
#: is above 1, not above the factor. ``cannot be checked here``: it leaves the factor open, or nothing was measured.
ClaimVerdict = Literal["holds", "holds in direction", "cannot be checked here", "does not hold"]
VERDICTS: tuple[ClaimVerdict, ...] = ("holds", "holds in direction", "cannot be checked here", "does not hold")


@dataclass(frozen=True)
class ClaimFigure:
    """One factor: how many times less the first model takes than the second, at one workload."""

    workload: Workload
    factor: Interval

    def verdict(self, claim: Claim) -> ClaimVerdict:
        """Return what the interval says of the claim."""
        found = self.factor
        if not found.known:
            return "cannot be checked here"
        if found.low >= claim.speedup:
            return "holds"
        if found.low > 1:
            return "holds in direction"
        return "does not hold" if found.high < claim.speedup else "cannot be checked here"


@dataclass(frozen=True)
class ClaimFinding:
    """What one pair of models says of a claim, on one engine, device and precision, or by the cost model."""

    claim: Claim
    names: tuple[str, str]
    #: None where the claim names the two itself.
    pairing: Pairing | None
    #: Empty for what is counted, not measured.
    where: str
    figures: tuple[ClaimFigure, ...]
    #: The pairs behind measured figures.
    pairs: tuple[Pair, ...] = ()

    @property
    def counts(self) -> Counter[ClaimVerdict]:
        """Return how many workloads have each verdict."""
        return Counter(one.verdict(self.claim) for one in self.figures)

    @property
    def verdict(self) -> ClaimVerdict:
        """Return the worst verdict of the workloads: a claim holds where it holds at each."""
        return max(self.counts or ("cannot be checked here",), key=VERDICTS.index)

    @property
    def span(self) -> tuple[ClaimFigure, ...]:
        """Return the figures of the smallest and of the largest factor; one where there is one."""
        ordered = sorted(self.figures, key=lambda one: one.factor.mid)
        return tuple(dict.fromkeys((*ordered[:1], *ordered[-1:])))


def findings_of(run: RunColumns, claim: Claim, sides: Sequence[Side]) -> list[ClaimFinding]:
    """Return what a run says of a claim of its suite, a finding for each pair, engine, device and precision.

    Cases without a K/V cache say nothing of it.
    """
    if claim.metric in COUNTED_METRICS:
        return list(_counted(run, claim))
    groups: dict[tuple[str, ...], list[Pair]] = {}
    for side in sides:
        among = pairs_of(side) if claim.between is None else compared(side, *claim.between)
        for pair in with_own_figure(among, claim.metric):
            groups.setdefault(_group(pair), []).append(pair)
    return [_measured(claim, pairs) for pairs in groups.values()]


def _group(pair: Pair) -> tuple[str, ...]:
    case = pair.encoder.case
    names = case.checkpoint, pair.decoder.case.checkpoint, pair.pairing
    return *names, pair.engine, case.device, precision_of(case), pair.arm or ""


def _measured(claim: Claim, pairs: Sequence[Pair]) -> ClaimFinding:
    first, arm = pairs[0].encoder.case, f", arm {pairs[0].arm}" if pairs[0].arm else ""
    return ClaimFinding(
        claim,
        (first.checkpoint, pairs[0].decoder.case.checkpoint),
        None if claim.between else pairs[0].pairing,
        f"{pairs[0].engine} {precision_of(first)}, {first.device}{arm}",
        tuple(ClaimFigure(pair.encoder.case.workload, pair.ratios[claim.metric].speedup) for pair in pairs),
        tuple(pairs),
    )


def _counted(run: RunColumns, claim: Claim) -> Iterator[ClaimFinding]:
    """Yield what follows from the models' sizes, for which nothing has to be measured."""
    infos: dict[str, dict[Workload, CaseInfo]] = {}
    for info in run.record.cases:
        if info.case.workload.cache == "on":
            infos.setdefault(info.case.checkpoint, {})[info.case.workload] = info
    asked = [claim.between] if claim.between else run.record.pairs
    for pair in asked:
        first, second = infos.get(pair[0], {}), infos.get(pair[1], {})
        both = [work for work in first if work in second]
        factors = {work: _counted_factor(claim.metric, first[work], second[work]) for work in both}
        figures = [ClaimFigure(work, Interval(x, x, x)) for work, x in factors.items() if math.isfinite(x)]
        if claim.metric == "parameters":
            figures = figures[:1]
        if figures:
            pairing = None if claim.between else pairing_of(pair)
            yield ClaimFinding(claim, (pair[0], pair[1]), pairing, "", tuple(figures))


def _counted_factor(metric: str, first: CaseInfo, second: CaseInfo) -> float:
    """Return the second model's figure over the first's; NaN where it does not follow from their sizes."""
    return _count(metric, second.checkpoint, second.case.workload) / _count(
        metric, first.checkpoint, first.case.workload
    )


def _count(metric: str, model: Checkpoint, work: Workload) -> float:
    if metric == "parameters":
        return model.parameter_count
    step = None
    if model.geometry.cost_unknown is None:
        step = next((phase for phase in phases(model, work) if phase.name == "decode_step"), None)
    if step is None:
        return math.nan
    return {"step_flops": step.flops, "step_bytes": step.bytes, "kv_bytes": step.kv_read_bytes}[metric]
