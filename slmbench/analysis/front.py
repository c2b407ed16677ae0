"""Speed against quality: which configurations nothing else beats on both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from slmbench.analysis.divergence import divergence_of
from slmbench.analysis.metrics import Side, SideCase
from slmbench.analysis.ratios import log_ratio
from slmbench.analysis.stats import Interval

#: What of speed is set against quality, each by itself.
FRONT_METRICS = ("tpot", "ttft")
#: ``front``: no other is better on both. ``undecided``: another is, and their intervals overlap on both. ``behind``:
#: another is better, and more than chance says so.
Place = Literal["front", "undecided", "behind"]


@dataclass(frozen=True)
class FrontPoint:
    """One configuration at one workload; both figures are better when smaller."""

    case: SideCase
    #: Of the metric, in s.
    time: Interval
    #: KL from the reference, in nats a token.
    kl: Interval
    place: Place = "front"


@dataclass(frozen=True)
class Front:
    """All configurations of one reference at one workload on one device."""

    side: Side
    metric: str
    reference: str
    points: tuple[FrontPoint, ...]

    @property
    def yardstick(self) -> FrontPoint:
        """Return what the others' speed is a multiple of: the first in fp32, else the nearest to the reference."""
        plain = [point for point in self.points if point.case.case.weight_precision == "fp32"]
        return min(plain or self.points, key=lambda point: point.time.mid if plain else point.kl.mid)

    def speedup(self, point: FrontPoint) -> Interval:
        """Return how many times as fast as the yardstick a point is."""
        evidence = [one.case.evidence[self.metric] for one in (point, self.yardstick)]
        return log_ratio(evidence[0], evidence[1], interleaved=True).interval()

    def at(self, place: Place) -> list[FrontPoint]:
        """Return the points of that place, fastest first."""
        return sorted((point for point in self.points if point.place == place), key=lambda point: point.time.mid)


def fronts_of(side: Side) -> Iterator[Front]:
    """Yield the front of each reference, workload and device of a run, for each metric of two points or more."""
    groups: dict[tuple[str, str, str, str], list[SideCase]] = {}
    for found in side.cases.values():
        if found.quality is None or not found.quality.tokens.size:
            continue
        work, quality = found.case.workload, found.quality
        group = (quality.reference_digest, quality.text_digest, work.label(), found.case.device)
        groups.setdefault(group, []).append(found)
    for cases in groups.values():
        for metric in FRONT_METRICS:
            points = list(_points(cases, metric))
            if len(points) > 1:
                placed = tuple(FrontPoint(one.case, one.time, one.kl, _place(one, points)) for one in points)
                yield Front(side, metric, _reference_of(cases[0]), placed)


def _reference_of(found: SideCase) -> str:
    return found.quality.reference if found.quality else ""


def _points(cases: Sequence[SideCase], metric: str) -> Iterator[FrontPoint]:
    for found in cases:
        kl = divergence_of(found.quality).kl if found.quality else None
        if kl is not None and metric in found.evidence:
            yield FrontPoint(found, found.evidence[metric].interval(), kl)


def _place(point: FrontPoint, points: Sequence[FrontPoint]) -> Place:
    better = [one for one in points if one.time.mid < point.time.mid and one.kl.mid < point.kl.mid]
    if not better:
        return "front"
    if all(_undecided(one, point) for one in better):
        return "undecided"
    return "behind"


def _undecided(one: FrontPoint, other: FrontPoint) -> bool:
    """Return whether chance may be all there is between two points: also where an interval is not known."""
    if not (one.time.known and other.time.known and one.kl.known and other.kl.known):
        return True
    return _overlap(one.time, other.time) and _overlap(one.kl, other.kl)


def _overlap(one: Interval, other: Interval) -> bool:
    return one.low <= other.high and other.low <= one.high
