"""Who leads a run on what: for runs whose models are no pair, the answer in a line."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from slmbench.analysis.best import Best, BestPath, DeviceColumn, Row, best_of
from slmbench.analysis.metrics import METRICS, Side, SideCase
from slmbench.analysis.pairs import precision_of
from slmbench.case import Workload

LEADER_METRICS = ("ttft", "tpot")
#: Workloads whose leader is looked for; a table has the others.
MOST_WORKLOADS = 3


@dataclass(frozen=True)
class Leader:
    """The best case at one workload on one device, and what the others are behind it."""

    workload: Workload
    device: str
    best: Best


@dataclass(frozen=True)
class Leaders:
    """Who leads on one metric, at the first workloads of a run."""

    side: Side
    metric: str
    first: tuple[Leader, ...]
    #: Workloads and devices after those, where somebody leads as well.
    more: int


def leaders_of(side: Side) -> Iterator[Leaders]:
    """Yield for each metric who leads at each workload and device where two cases or more were measured.

    Nothing where all models of the run are in pairs: then those are the answer.
    """
    paired = {name for pair in side.pairs for name in pair[:2]}
    if paired >= {found.case.checkpoint for found in side.cases.values()}:
        return
    groups: dict[tuple[Workload, str], list[SideCase]] = {}
    for found in side.cases.values():
        # Without a K/V cache a case is an ablation.
        if found.case.workload.cache == "on":
            groups.setdefault((found.case.workload, found.case.device), []).append(found)
    for metric in LEADER_METRICS:
        fields = []
        for (work, device), cases in groups.items():
            entries = [_entry(side, found, metric) for found in cases if _is_own(found, metric)]
            if sum(entry.eligible for entry in entries) > 1:
                fields.append((work, device, entries))
        shown = [(work, device, best_of(entries)) for work, device, entries in fields[:MOST_WORKLOADS]]
        first = tuple(Leader(work, device, best) for work, device, best in shown if best is not None)
        if first:
            yield Leaders(side, metric, first, len(fields) - len(first))


def _is_own(found: SideCase, metric: str) -> bool:
    """Return whether the figure is the case's own, not one of the longer generation that it is the beginning of."""
    return metric in found.evidence and not (found.derived_from and METRICS[metric].belongs_to != "case")


def _entry(side: Side, found: SideCase, metric: str) -> BestPath:
    row = Row(found.case.checkpoint, precision_of(found.case))
    return BestPath(side.name, DeviceColumn((side.name,), found.case.device), row, metric, side, found)
