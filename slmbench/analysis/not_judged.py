"""Which gates could not be judged, and why: a metric that a side lacks is reported, never dropped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from slmbench.analysis.gates import Gates
from slmbench.analysis.judged_once import groups_of_one_figure
from slmbench.analysis.metrics import DEFAULT_METRICS, Side, SideCase

#: Parts of the first token's time: only encoder-decoders have them, and not every graph separates them.
_PHASES = ("vision", "prefill", "encode", "cross_kv", "first_step")
_DERIVED = (
    ": it is the beginning of longer generations, where that cannot be seen; "
    "`slmbench run --no-share` measures it by itself"
)
_OF_LATER_TURNS = ("turn_ttft", "last_ttft")


@dataclass(frozen=True)
class NotJudged:
    """A metric of a case that should have been judged and could not be."""

    key: str
    metric: str
    gate: float
    reason: str
    case: SideCase


def not_judged(
    base: Side, new: Side, keys: Sequence[str], metrics: Sequence[str], gates: Gates, *, asked: bool
) -> tuple[NotJudged, ...]:
    """Return every metric of the cases in common that is to be judged and lacks figures on a side.

    ``asked``: the metrics were named on the command line, all of them for every case. A case that failed on the new
    side alone is not among them: it is a failure. Nor is what a case cannot have (a decoder-only model's encoder).
    """
    found = []
    for metric in metrics:
        somewhere = any(metric in side.cases[key].evidence for side in (base, new) for key in keys)
        for key in _not_covered(base, new, keys, metric):
            reason = _one_sided(base, new, key, metric)
            if reason is None and _on_neither(base.cases[key], new.cases[key], metric):
                named = asked or gates.names(metric, key)
                expected = (named and not somewhere) or _can_have(metric, base.cases[key])
                if expected and (named or metric in DEFAULT_METRICS):
                    reason = f"neither side has {metric} of this case"
            if reason:
                found.append(NotJudged(key, metric, gates.gate(metric, key), reason, base.cases[key]))
    return tuple(found)


def _not_covered(base: Side, new: Side, keys: Sequence[str], metric: str) -> Iterator[str]:
    """Yield the cases that no judgement of the same figure covers: one for each figure."""
    for group in groups_of_one_figure(metric, keys, [base, new]):
        if not any(metric in base.cases[key].evidence and metric in new.cases[key].evidence for key in group):
            yield group[0]


def is_newly_failed(old: SideCase, young: SideCase) -> bool:
    """Return whether a case failed on the new side where the base has figures."""
    return bool(young.failure or not young.evidence) and bool(old.evidence) and not old.failure


def newly_failed(base: Side, new: Side, keys: Sequence[str]) -> dict[str, str]:
    """Return the cases that failed on the new side where the base has figures, each with the reason."""
    cases = {key: (base.cases[key], new.cases[key]) for key in keys}
    return {key: young.failure or "no figures" for key, (old, young) in cases.items() if is_newly_failed(old, young)}


def failure_notes(base: Side, new: Side, keys: Sequence[str]) -> Iterator[str]:
    """Yield which cases are judged by what they measured before they failed on both sides."""
    for key in keys:
        old, young = base.cases[key], new.cases[key]
        if old.failure and young.failure and old.evidence and young.evidence:
            yield f"{key}: failed on both sides; judged by what was measured before: {young.failure}"


def _one_sided(base: Side, new: Side, key: str, metric: str) -> str | None:
    """Return why a metric that one side has, or a case that failed on both, cannot be judged; None where it can."""
    old, young = base.cases[key], new.cases[key]
    had, has = metric in old.evidence, metric in young.evidence
    if (had and has) or is_newly_failed(old, young):
        return None
    if had or has:
        lacking, case = (new, young) if had else (base, old)
        why = f": {case.failure}" if case.failure else _DERIVED if case.derived_from else ""
        return f"{lacking.name} has no {metric} of this case{why}"
    if old.failure and young.failure:
        different = "" if old.failure == young.failure else f"; now: {young.failure}"
        return f"failed on both sides: {old.failure}{different}"
    return None


def _on_neither(old: SideCase, young: SideCase, metric: str) -> bool:
    return metric not in old.evidence and metric not in young.evidence and not is_newly_failed(old, young)


def _can_have(metric: str, found: SideCase) -> bool:
    """Return whether a case of its kind always has the metric where the machine can measure it."""
    work = found.case.workload
    if metric in _OF_LATER_TURNS:
        return work.turns > 1
    return metric not in _PHASES and (metric != "tpot" or work.total_output_tokens > work.turns)
