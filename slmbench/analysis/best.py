"""What is best: the shortest time among entries of one table, and what it can be distinguished from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from slmbench.analysis import stats
from slmbench.analysis.gates import DEFAULT_GATE
from slmbench.analysis.judgement import DISTURBED_BOUND
from slmbench.analysis.metrics import Evidence, Side, SideCase
from slmbench.analysis.ratios import log_ratio
from slmbench.analysis.stats import Interval

#: Chance that something is called better than what is as good, over the rivals of one run.
ALPHA = 0.05
#: What runs at different times may differ by where nothing was calibrated: the gate of ``compare``.
FAR = DEFAULT_GATE


@dataclass(frozen=True, order=True)
class DeviceColumn:
    """A column: a device of the machines of one kind."""

    machines: tuple[str, ...]
    device: str

    @property
    def label(self) -> str:
        """Return the place's name: ``laptop cpu``."""
        return f"{', '.join(self.machines)} {self.device}"


@dataclass(frozen=True, order=True)
class Row:
    """A row: what is chosen on each device. Other arithmetic is another row."""

    checkpoint: str
    #: Weights and compute, once where they are the same.
    precision: str

    @property
    def label(self) -> str:
        """Return the row's name: ``mu-330m int4/fp32``."""
        return f"{self.checkpoint} {self.precision}"


@dataclass(frozen=True)
class BestPath:
    """One machine's best path for a row: a figure, or why there is none."""

    machine: str
    place: DeviceColumn
    row: Row
    metric: str
    side: Side
    found: SideCase

    @cached_property
    def evidence(self) -> Evidence | None:
        """Return what the loads say; None where nothing was measured."""
        return self.found.evidence.get(self.metric)

    @cached_property
    def interval(self) -> Interval | None:
        """Return the figure in SI units with its 95 % interval over loads."""
        return self.evidence.interval() if self.evidence else None

    @property
    def failure(self) -> str | None:
        """Return why the case failed, in a word or two."""
        return self.found.failure.split(":")[0] if self.found.failure else None

    @property
    def eligible(self) -> bool:
        """Return whether the figure may be called best: a case that failed later must not win."""
        return self.evidence is not None and self.failure is None

    @property
    def disturbed(self) -> bool:
        """Return whether other processes disturbed more of its samples than a comparison of two runs bears."""
        return self.found.disturbed > DISTURBED_BOUND

    def states(self) -> list[str]:
        """Return what must be shown next to the figure, or instead of it."""
        if self.failure:
            return [f"failed: {self.failure}"]
        if self.evidence is None:
            return [] if self.found.evidence else ["not run"]
        states = ["not converged"] if self.found.converged.get(self.metric) is False else []
        if self.evidence.logs.size < 2:
            states.append("one load: no interval")
        if self.disturbed:
            states.append(f"disturbed in {self.found.disturbed:.0%} of samples")
        return states

    def path(self) -> str:
        """Return the way it ran: backend, decoder path, and what was set."""
        case = self.found.case
        parts = [case.backend, self.found.model.attention_path or ""]
        parts += [f"{case.threads} threads"] if case.threads else []
        return " ".join([*filter(None, parts), *(f"{name}={value}" for name, value in case.options)])


@dataclass(frozen=True)
class Rival:
    """Another entry held against the leader."""

    entry: BestPath
    #: Its time over the leader's.
    ratio: Interval
    apart: bool
    #: Whether both are of one run; if not, only their intervals were held against each other.
    paired: bool


@dataclass(frozen=True)
class Best:
    """The entry with the best figure, those not distinguishable from it, and the nearest that is."""

    leader: BestPath
    ties: tuple[Rival, ...]
    runner_up: Rival | None

    @property
    def alone(self) -> bool:
        """Return whether it can be distinguished from every other."""
        return not self.ties

    def entries(self) -> list[BestPath]:
        """Return the leader and what is not distinguishable from it."""
        return [self.leader, *(rival.entry for rival in self.ties)]


def best_of(entries: Sequence[BestPath]) -> Best | None:
    """Return the entry with the shortest time and which others it can be distinguished from; None without a figure.

    Entries of one run are held against it round by round (Holm over them, at :data:`ALPHA`). Those of another run or
    machine are distinguished only if the two 95 % intervals do not overlap, neither was disturbed by others, and the
    figures are further apart than :data:`FAR`: an interval within a run knows nothing of how a machine drifts.
    """
    ranked = sorted((e for e in entries if e.eligible), key=lambda e: (_middle(e), e.row, e.place, e.machine))
    if not ranked:
        return None
    leader, *others = ranked
    paired = [other for other in others if other.side is leader.side]
    ratios = {id(other): _ratio(leader, other) for other in others}
    adjusted = stats.holm([ratios[id(other)].p_value() for other in paired])
    distinct = {
        id(other): p <= ALPHA and ratios[id(other)].value > 0 for other, p in zip(paired, adjusted, strict=True)
    }
    rivals = [
        Rival(
            entry=other,
            ratio=ratios[id(other)].interval(),
            apart=distinct[id(other)] if id(other) in distinct else _far_apart(leader, other),
            paired=id(other) in distinct,
        )
        for other in others
    ]
    return Best(
        leader=leader,
        ties=tuple(rival for rival in rivals if not rival.apart),
        runner_up=next((rival for rival in rivals if rival.apart), None),
    )


def _middle(entry: BestPath) -> float:
    assert entry.interval is not None
    return entry.interval.mid


def _ratio(leader: BestPath, other: BestPath) -> stats.Estimate:
    assert leader.evidence is not None
    assert other.evidence is not None
    return log_ratio(leader.evidence, other.evidence, interleaved=other.side is leader.side)


def _far_apart(leader: BestPath, other: BestPath) -> bool:
    return not untold(leader, other)


def untold(leader: BestPath, other: BestPath) -> str:
    """Return why a figure of another run or machine cannot be distinguished from the leader's; empty where it is."""
    for entry in (leader, other):
        if entry.interval is None or not entry.interval.known:
            return "one load has no interval"
        if entry.disturbed:
            return f"{entry.machine} was disturbed"
    assert leader.interval is not None
    assert other.interval is not None
    if leader.interval.high >= other.interval.low:
        return "the intervals overlap"
    return "" if _middle(other) > _middle(leader) * (1 + FAR) else f"less than {FAR:.0%} apart"
