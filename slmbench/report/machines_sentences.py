"""What is said of a shelf of machines in sentences: the answer, what it rests on, and the words its tables share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from slmbench.analysis.best import Best, BestPath, DeviceColumn, Rival, untold
from slmbench.analysis.machines import MachineKind, Matrix, Shelf
from slmbench.analysis.metrics import METRICS
from slmbench.analysis.stats import Interval
from slmbench.case import Workload
from slmbench.report.text_table import bounded, bounds

#: Rivals, models or machines that are named; of more only how many there are.
MANY = 3
_SHORT = {"ttft": "first token", "tpot": "decoding"}


def task_of(work: Workload) -> str:
    """Return a task's name: ``512 in / 32 out, batch 4``."""
    given = f"texts {work.prompts[:8]}, up to {work.input_tokens}" if work.prompts else str(work.input_tokens)
    return ", ".join(filter(None, [f"{given} in / {work.output_tokens} out", work.more()]))


@dataclass(frozen=True)
class Unit:
    """How a metric is shown."""

    title: str
    unit: str
    factor: float
    #: Answers side by side where a time is shown as their rate; None for a time.
    rows: int | None = None

    def shown(self, seconds: Interval) -> Interval:
        """Return a figure in SI units as it is shown."""
        return seconds.inverse().scaled(self.rows) if self.rows else seconds.scaled(self.factor)


def unit_of(matrix: Matrix) -> Unit:
    """Return the unit of a matrix: one for all its cells."""
    metric = METRICS[matrix.metric]
    if matrix.metric == "tpot":
        return Unit("decoding (more is better)", "tok/s", 1.0, matrix.work.rows)
    if metric.unit == "J":
        return Unit(f"{metric.title} (less is better)", "mJ", 1e3)
    least = min((e.interval.mid for e in matrix.entries() if e.interval), default=0.0)
    title = f"{metric.title} (less is better)"
    return Unit(title, "s", 1.0) if least >= 10 else Unit(title, "ms", 1e3)


def figure(interval: Interval) -> str:
    """Return ``52.1 [51.8, 52.4]``."""
    return bounded({"x": interval.mid, "x_low": interval.low, "x_high": interval.high}, "x")


def machine_lines(shelf: Shelf) -> list[str]:
    """Return one line for each kind of machine: its names and what decides."""
    return [_kind_line(kind) for kind in shelf.kinds]


def _kind_line(kind: MachineKind) -> str:
    names = ", ".join(some(kind.machines, 6)) + (" (equal)" if len(kind.machines) > 1 else "")
    if kind.fingerprint is None:
        return f"{names}: not known what machine it is"
    hardware, engines = kind.fingerprint.hardware, kind.fingerprint.software.engines
    parts = [hardware.cpu_model, f"{hardware.logical_cores} threads", f"{hardware.memory_gib} GiB"]
    parts += [one.label() for one in hardware.accelerators]
    parts += [f"{hardware.os} {hardware.arch}", *(f"{name} {version}" for name, version in engines.items())]
    return f"{names}: {', '.join(parts)}"


def headlines(shelf: Shelf) -> list[str]:
    """Return the answer in short: for each metric, on which device the models are fastest, each against itself.

    Where no model ran on two devices: which models are fastest.
    """
    metrics = dict.fromkeys(matrix.metric for matrix in shelf.matrices)
    return [_headline(metric, [matrix for matrix in shelf.matrices if matrix.metric == metric]) for metric in metrics]


def _headline(metric: str, matrices: Sequence[Matrix]) -> str:
    of_rows = [best for matrix in matrices for best in matrix.best_for.values()]
    bests = of_rows or [matrix.best for matrix in matrices if matrix.best]
    groups = Counter(tuple(_candidates(best, devices=bool(of_rows))) for best in bests)
    what = "models and tasks that several devices ran" if of_rows else "tasks"
    word = "best on" if of_rows else "best with"
    reported = []
    for names, count in sorted(groups.items(), key=lambda item: (-item[1], item[0])):
        text = f"{word} {names[0]}" if len(names) == 1 else f"{' and '.join(some(names))} not distinguishable"
        reported.append(f"{text} in {count}" if len(bests) > 1 else text)
    name = _SHORT.get(metric, METRICS[metric].title)
    total = f" of {len(bests)} {what}" if len(bests) > 1 else ""
    return f"{name[0].upper()}{name[1:]}: {'; '.join(reported)}{total}"


def _candidates(best: Best, *, devices: bool) -> list[str]:
    """Return the devices, or the models, of what is not distinguishable from the best."""
    if devices:
        return sorted({place_name(entry.place) for entry in best.entries()})
    return sorted({entry.row.label for entry in best.entries()})


def some(names: Sequence[str], most: int = MANY) -> list[str]:
    """Return the first of many names, and how many more there are."""
    return [*names[:most], f"{len(names) - most} more"] if len(names) > most else list(names)


def place_name(place: DeviceColumn) -> str:
    """Return a place's name, of many machines the first ones."""
    return f"{', '.join(some(place.machines))} {place.device}"


def _where(entry: BestPath) -> str:
    return f"{entry.machine} {entry.place.device}"


def _named(entry: BestPath) -> str:
    return f"{entry.row.label} on {_where(entry)}"


def best_line(matrix: Matrix) -> str:
    """Return what is best of a matrix and what it is held against; no winner if none can be distinguished."""
    if matrix.same_as:
        return f"The same figures as at {task_of(matrix.same_as)}: what is best is said there."
    best, unit = matrix.best, unit_of(matrix)
    if best is None:
        return "No figure to choose by."
    assert best.leader.interval is not None
    leader = f"{_named(best.leader)}, {figure(unit.shown(best.leader.interval))} {unit.unit}"
    if best.alone:
        following = f"; next: {_rival(best.leader, best.runner_up)}" if best.runner_up else " (the only figure)"
        return f"Best: {leader}{following}"
    named = [_rival(best.leader, rival) for rival in best.ties[:MANY]]
    more = [f"{len(best.ties) - MANY} more"] if len(best.ties) > MANY else []
    return f"Not distinguishable: {leader}, and {'; '.join([*named, *more])}"


def _rival(leader: BestPath, rival: Rival) -> str:
    if rival.paired:
        return f"{_named(rival.entry)}, {rival.ratio.mid:.2f}x{bounds(rival.ratio, 2, '')} as long (round by round)"
    other = "another run" if rival.entry.machine == leader.machine else "another machine"
    why = untold(leader, rival.entry) or "the intervals are apart"
    return f"{_named(rival.entry)}, {rival.ratio.mid:.2f}x as long ({other}, unpaired: {why})"
