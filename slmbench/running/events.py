"""The events that an observer gets while a run measures. They are sent between samples, never during one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from slmbench.records.schema import FailureRecord, LoadRecord, SampleRecord


@dataclass(frozen=True)
class Begun:
    """Measuring begins."""

    cases: tuple[str, ...]
    budget_s: float | None
    #: By key, what people call a case among the others of the run.
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Opening:
    """A worker of the case starts. ``survey``: the first load, which is proven in full and not sampled."""

    case: str
    load: int
    survey: bool


@dataclass(frozen=True)
class Ready:
    """The case's worker is proven and, unless surveyed, warm."""

    case: str
    record: LoadRecord


@dataclass(frozen=True)
class Blocked:
    """Which cases are live together."""

    blocks: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class SampleTaken:
    """A sample is on disk."""

    record: SampleRecord


@dataclass(frozen=True)
class Judged:
    """A wave of loads is over: the case's relative half-widths, and whether it is done."""

    case: str
    loads: int
    samples: int
    #: Metric to the figure in ns and the half-width of its interval as a share; infinite while unknown.
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    done: bool = False
    #: Whether every interval is as narrow as asked; also where a number of samples was asked for instead.
    converged: bool = True


@dataclass(frozen=True)
class TimeLeft:
    """Seconds measured, and what is left of the budget."""

    spent_s: float
    left_s: float


@dataclass(frozen=True)
class CaseFailed:
    """The case is out; the others go on."""

    record: FailureRecord


@dataclass(frozen=True)
class Skipped:
    """The budget was spent before these cases had a sample."""

    cases: tuple[str, ...]
    budget_s: float | None


@dataclass(frozen=True)
class Ended:
    """All is measured."""


@dataclass(frozen=True)
class PartDone:
    """How far a part is that comes after the samples: a reference, windows of quality, answers to tasks."""

    what: str
    done: int
    of: int
    noun: str = "window"


Event = Begun | Opening | Ready | Blocked | SampleTaken | Judged | TimeLeft | CaseFailed | Skipped | Ended | PartDone
Observer = Callable[[Event], None]
