"""What is known of each case while it is measured: its records, how sure its figures are, whether it is done."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from slmbench.analysis.stats import hierarchical_interval, relative_half_width
from slmbench.errors import BadInputError
from slmbench.measure.stop_rule import DRIFT_BOUND, Brief, brief, by_load, counted, drift, outliers
from slmbench.records.schema import (
    NOT_MEASURED,
    RUN_NAME,
    SAMPLES_NAME,
    STAND_INS,
    FailureRecord,
    LoadRecord,
    MemoryRecord,
    Outcome,
    SampleRecord,
    read_run_record,
    read_samples,
)
from slmbench.running.sample_plan import loads_wanted, samples_a_load
from slmbench.running.settings import Measured, MeasureSettings, PlannedCase

#: Loads that a fixed number of samples is spread over.
REPEAT_LOADS = 5


@dataclass
class CaseState:
    """A case under way. Records are added as they are written."""

    planned: PlannedCase
    loads: list[LoadRecord] = field(default_factory=list)
    #: What is judged of each sample; the whole of it is on disk, and a long run's would fill the memory.
    samples: list[Brief] = field(default_factory=list)
    memory: MemoryRecord | None = None
    failure: FailureRecord | None = None
    #: Seconds that one sample may take.
    sample_timeout_s: float = 0.0
    #: Seconds that its survey took (0: not in this process), that the next load and one generation will take, about.
    survey_s: float = 0.0
    #: Seconds of its configuration's opening in the survey, its proof included.
    survey_open_s: float = 0.0
    opening_s: float = 2.0
    generation_s: float = 0.0
    #: Seconds of one generation of its lane, where the case may be the beginning of a longer one (0: not known).
    lane_sample_s: float = 0.0
    #: Metric to figure (ns) and half-width (share); see :meth:`judge`.
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Return the case's key."""
        return self.planned.key

    @property
    def next_load(self) -> int:
        """Return the number of the next opening."""
        return 1 + max([*(record.load for record in self.loads), *(sample.load for sample in self.samples)], default=-1)

    @property
    def sampled_loads(self) -> int:
        """Return how many loads have samples."""
        return len({sample.load for sample in self.samples})

    @property
    def proven_only(self) -> bool:
        """Return whether something stands in for the case's device: it is proven, never timed."""
        return self.planned.case.simulate or any(record.executed_on in STAND_INS for record in self.loads)

    def add(self, record: LoadRecord | SampleRecord | MemoryRecord | FailureRecord) -> None:
        """Take a record of this case."""
        if isinstance(record, LoadRecord):
            self.loads.append(record)
        elif isinstance(record, SampleRecord):
            self.samples.append(brief(record))
        elif isinstance(record, MemoryRecord):
            self.memory = record
        else:
            self.failure = record

    def judge(self, settings: MeasureSettings) -> None:
        """Compute the interval of each metric of the stop rule again."""
        samples = counted(self.samples)
        self.intervals = {}
        for metric in settings.targets():
            if loads := by_load(samples, metric):
                interval = hierarchical_interval(loads)
                self.intervals[metric] = (interval.mid, relative_half_width(interval))

    def converged(self, settings: MeasureSettings) -> dict[str, bool]:
        """Return for each metric whether its interval is as narrow as asked, over enough loads."""
        enough = self.sampled_loads >= settings.min_loads
        targets = settings.targets()
        return {metric: enough and width <= targets[metric] for metric, (_, width) in self.intervals.items()}

    def can_go_on(self, settings: MeasureSettings) -> bool:
        """Return whether the case may be loaded once more."""
        if self.failure or self.proven_only:
            return False
        if settings.repeat:
            return len(counted(self.samples)) < settings.repeat
        return self.sampled_loads < settings.max_loads

    def done(self, settings: MeasureSettings) -> bool:
        """Return whether the case needs no further load."""
        found = self.converged(settings)
        sure = not settings.repeat and bool(found) and all(found.values())
        return sure or not self.can_go_on(settings)

    def rounds_wanted(self, settings: MeasureSettings) -> int:
        """Return how many samples the next load is to take."""
        if not settings.repeat:
            return self._best_rounds(settings)
        missing = settings.repeat - len(counted(self.samples))
        return math.ceil(missing / max(1, min(settings.repeat, REPEAT_LOADS) - self.sampled_loads))

    def _best_rounds(self, settings: MeasureSettings) -> int:
        """Return how many samples make the next load worth most, by what the loads so far showed."""
        if self.sampled_loads < settings.min_loads:
            return settings.rounds
        samples, reached = counted(self.samples), self.converged(settings)
        found = [
            samples_a_load(by_load(samples, metric), self.opening_s, self.lane_sample_s)
            for metric in self.intervals
            if not reached[metric]
        ]
        return max((count for count in found if count), default=settings.rounds)

    def loads_left(self, settings: MeasureSettings) -> int:
        """Return how many more loads the case seems to need."""
        if self.done(settings):
            return 0
        if settings.repeat:
            return max(1, min(settings.repeat, REPEAT_LOADS) - self.sampled_loads)
        have, targets = self.sampled_loads, settings.targets()
        needed = [
            loads_wanted(have, width, targets[metric], settings.max_loads)
            for metric, (_, width) in self.intervals.items()
            if math.isfinite(width)
        ]
        return max(1, max([settings.min_loads, *needed]) - have)

    def outcome(self, settings: MeasureSettings) -> Outcome:
        """Return how the case ended."""
        self.judge(settings)
        return Outcome(
            loads=self.sampled_loads,
            converged=self.converged(settings),
            half_width={m: width if math.isfinite(width) else None for m, (_, width) in self.intervals.items()},
            warnings=tuple(self._warnings(settings)),
        )

    def unmeasured(self) -> bool:
        """Return whether the case still waits for its first sample."""
        return not (self.samples or self.failure or (self.proven_only and self.loads))

    def _warnings(self, settings: MeasureSettings) -> Iterable[str]:
        if self.unmeasured():
            spent = "" if settings.budget_s is None else f" of {settings.budget_s:g} s"
            yield f"{NOT_MEASURED}: the budget{spent} was spent before its first sample"
        samples = counted(self.samples)
        for metric in self.intervals:
            change = drift(samples, metric)
            if change is not None and abs(change) > DRIFT_BOUND:
                yield f"{metric} drifted by {change:+.0%} from the first third of the samples to the last"
        if far := outliers(samples):
            yield f"{len(far)} of {len(samples)} samples are outliers (kept)"
        restless = sum(not record.stationary for record in self.loads)
        if restless:
            yield f"{restless} of {len(self.loads)} loads were not stationary after their warm-up"
        disturbed = sum(sample.disturbed for sample in samples)
        if disturbed:
            yield f"{disturbed} of {len(samples)} samples were disturbed by other processes, also when taken again"


def finished(folder: Path, states: Iterable[CaseState]) -> Measured | None:
    """Return the result of a run that has ended, or None while there is something to do.

    That is also so where its budget was spent before every case had a sample, or where samples that it had are gone.

    Raises:
        BadInputError: ``run.json`` is damaged.
    """
    if not (folder / RUN_NAME).exists():
        return None
    record = read_run_record(folder / RUN_NAME)
    waiting = any(one.startswith(NOT_MEASURED) for outcome in record.outcomes.values() for one in outcome.warnings)
    had = {key: outcome.loads for key, outcome in record.outcomes.items()}
    gone = any(state.sampled_loads < had.get(state.key, 0) for state in states)
    return None if waiting or gone or not record.finished else Measured(dict(record.outcomes), record.blocks)


def restore(
    plan: Sequence[PlannedCase], folder: Path, lost: Collection[str] = ()
) -> tuple[list[CaseState], int, set[str]]:
    """Return the state of every case of the plan from the samples on disk, the number of the next round, and which of
    the ``lost`` cases, those without an artifact, are on disk too.

    Raises:
        BadInputError: the folder holds samples of a case that is not in the plan, or a damaged line.
    """
    states = {planned.key: CaseState(planned) for planned in plan}
    next_round, there = 0, set()
    for record in read_samples(folder / SAMPLES_NAME, []):
        if record.case in lost:
            there.add(record.case)
            continue
        if record.case not in states:
            raise BadInputError(f"{folder / SAMPLES_NAME}: holds case {record.case}, which is not planned now")
        states[record.case].add(record)
        if isinstance(record, SampleRecord):
            next_round = max(next_round, record.round + 1)
    return list(states.values()), next_round, there
