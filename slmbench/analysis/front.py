"""Speed against quality, which is a divergence or a task score: which configurations nothing else beats on both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from slmbench.analysis.divergence import divergence_of
from slmbench.analysis.metrics import Side, SideCase
from slmbench.analysis.ratios import log_ratio
from slmbench.analysis.stats import Interval
from slmbench.analysis.task_scores import lost_interval

#: What of speed is set against quality, each by itself.
FRONT_METRICS = ("tpot", "ttft")
#: Divergence in nats a token that engines in fp32 have from each other: below it none is better.
ROUNDING_KL = 1e-4
#: What speed is set against: the divergence of one model's configurations from their reference, or the share of a task
#: file that is lost, of all models that answered it.
Axis = Literal["kl", "score"]
AXES: tuple[Axis, ...] = get_args(Axis)
#: ``front``: no other is better on one axis and as good on the other. ``undecided``: another is, but their intervals
#: overlap on both axes. ``behind``: another is, by more than chance.
Place = Literal["front", "undecided", "behind"]


@dataclass(frozen=True)
class FrontPoint:
    """One configuration at one workload; both figures are better when smaller."""

    case: SideCase
    #: Of the metric, in s.
    time: Interval
    #: KL from the reference in nats a token, or 1 - score.
    loss: Interval
    place: Place = "front"


@dataclass(frozen=True)
class Front:
    """All configurations of one reference, or all that answered one task file, at one workload on one device."""

    side: Side
    metric: str
    axis: Axis
    #: The reference's name, or the task file's.
    subject: str
    points: tuple[FrontPoint, ...]

    def yardstick(self, point: FrontPoint) -> FrontPoint:
        """Return what a point's speed is a multiple of: fp32 on its backend, else the fastest fp32, else the nearest to
        the reference; of task scores the best.
        """
        if self.axis == "score":
            return min(self.points, key=lambda one: (one.loss.mid, one.time.mid))
        plain = [one for one in self.points if one.case.case.weight_precision == "fp32"]
        own = [one for one in plain if one.case.case.backend == point.case.case.backend]
        if plain:
            return min(own or plain, key=lambda one: one.time.mid)
        return min(self.points, key=lambda one: one.loss.mid)

    def speedup(self, point: FrontPoint) -> Interval:
        """Return how many times as fast as its yardstick a point is."""
        evidence = [one.case.evidence[self.metric] for one in (point, self.yardstick(point))]
        return log_ratio(evidence[0], evidence[1], interleaved=True).interval()

    def at(self, place: Place) -> list[FrontPoint]:
        """Return the points of that place, fastest first."""
        return sorted((point for point in self.points if point.place == place), key=lambda point: point.time.mid)


def fronts_of(side: Side) -> Iterator[Front]:
    """Yield the fronts of a run: for each reference or task file, workload and device, and each metric of two points
    or more.
    """
    for axis in AXES:
        groups: dict[tuple[str, ...], list[SideCase]] = {}
        for found in side.cases.values():
            if (subject := _subject(found, axis)) is not None:
                groups.setdefault((*subject, found.case.workload.label(), found.case.device), []).append(found)
        for (name, *_), cases in groups.items():
            for metric in FRONT_METRICS:
                points = [point for found in cases if (point := _point(found, metric, axis)) is not None]
                if len(points) > 1:
                    placed = tuple(replace(one, place=_place(one, points, axis)) for one in points)
                    yield Front(side, metric, axis, name, placed)


def _subject(found: SideCase, axis: Axis) -> tuple[str, str] | None:
    """Return the name and the digest of what a case's quality was measured on; None without one."""
    quality, tasks = found.quality, found.tasks
    if axis == "kl" and quality is not None and quality.tokens.size:
        return quality.reference, f"{quality.reference_digest}:{quality.text_digest}"
    if axis == "score" and tasks is not None and tasks.scores.size:
        return tasks.name, tasks.digest
    return None


def _point(found: SideCase, metric: str, axis: Axis) -> FrontPoint | None:
    loss = _kl(found) if axis == "kl" else _lost(found)
    if loss is None or metric not in found.evidence:
        return None
    return FrontPoint(found, found.evidence[metric].interval(), loss)


def _kl(found: SideCase) -> Interval | None:
    return divergence_of(found.quality).kl if found.quality else None


def _lost(found: SideCase) -> Interval | None:
    return lost_interval(found.tasks.scores) if found.tasks else None


def _place(point: FrontPoint, points: Sequence[FrontPoint], axis: Axis) -> Place:
    least = ROUNDING_KL if axis == "kl" else 0.0
    better = [one for one in points if _beats(one, point, least)]
    if not better:
        return "front"
    return "undecided" if all(_undecided(one, point, least) for one in better) else "behind"


def _beats(one: FrontPoint, other: FrontPoint, least: float) -> bool:
    """Return whether a point is better on one axis and as good on the other; a loss below ``least`` is none."""
    first, second = (one.time.mid, max(one.loss.mid, least)), (other.time.mid, max(other.loss.mid, least))
    return first != second and first[0] <= second[0] and first[1] <= second[1]


def _undecided(one: FrontPoint, other: FrontPoint, least: float) -> bool:
    """Return whether chance may be all there is between two points: also where an interval is not known."""
    if not (one.time.known and other.time.known and one.loss.known and other.loss.known):
        return True
    return _overlap(one.time, other.time) and _overlap(*(_at_least(point.loss, least) for point in (one, other)))


def _at_least(loss: Interval, least: float) -> Interval:
    return Interval(max(loss.low, least), max(loss.mid, least), max(loss.high, least))


def _overlap(one: Interval, other: Interval) -> bool:
    return one.low <= other.high and other.low <= one.high
