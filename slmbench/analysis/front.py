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
#: Divergence in nats a token that engines in fp32 have from each other: below it none is better.
ROUNDING_KL = 1e-4
#: ``front``: no other is better on one axis and as good on the other. ``undecided``: another is, but their intervals
#: overlap on both axes. ``behind``: another is, by more than chance.
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

    def yardstick(self, point: FrontPoint) -> FrontPoint:
        """Return what a point's speed is a multiple of: fp32 on its backend, else the fastest fp32, else the nearest to
        the reference.
        """
        plain = [one for one in self.points if one.case.case.weight_precision == "fp32"]
        own = [one for one in plain if one.case.case.backend == point.case.case.backend]
        if plain:
            return min(own or plain, key=lambda one: one.time.mid)
        return min(self.points, key=lambda one: one.kl.mid)

    def speedup(self, point: FrontPoint) -> Interval:
        """Return how many times as fast as its yardstick a point is."""
        evidence = [one.case.evidence[self.metric] for one in (point, self.yardstick(point))]
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
    better = [one for one in points if _beats(one, point)]
    if not better:
        return "front"
    return "undecided" if all(_undecided(one, point) for one in better) else "behind"


def _beats(one: FrontPoint, other: FrontPoint) -> bool:
    """Return whether a point is better on one axis and as good on the other."""
    first, second = (one.time.mid, _told(one.kl.mid)), (other.time.mid, _told(other.kl.mid))
    return first != second and first[0] <= second[0] and first[1] <= second[1]


def _undecided(one: FrontPoint, other: FrontPoint) -> bool:
    """Return whether chance may be all there is between two points: also where an interval is not known."""
    if not (one.time.known and other.time.known and one.kl.known and other.kl.known):
        return True
    return _overlap(one.time, other.time) and (
        _told(one.kl.low) <= _told(other.kl.high) and _told(other.kl.low) <= _told(one.kl.high)
    )


def _told(kl: float) -> float:
    """Return a divergence as far as it is more than rounding."""
    return max(kl, ROUNDING_KL)


def _overlap(one: Interval, other: Interval) -> bool:
    return one.low <= other.high and other.low <= one.high
