"""What a plan will take: time, memory and disk, before anything is exported or measured."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict

from slmbench.backend import Backend, WeightCopies, load_backend
from slmbench.case import Workload
from slmbench.errors import amount
from slmbench.export.artifact_store import find_artifact
from slmbench.measure.stop_rule import counted
from slmbench.measure.warmup import beginning
from slmbench.models.artifact import expected_weight_bytes
from slmbench.models.catalog import export_bytes, run_bytes
from slmbench.models.checkpoint import Checkpoint
from slmbench.models.cost_model import phases
from slmbench.models.forecast_sizes import parameters_held, written_bytes
from slmbench.plan.configuration import lane_of
from slmbench.plan.planner import Plan, PlannedCell
from slmbench.records.refusals import refusal_lines
from slmbench.running.budget import WARM_UPS
from slmbench.running.case_state import REPEAT_LOADS, CaseState
from slmbench.running.past_costs import PastCosts, kind_of
from slmbench.running.progress import duration, roughly
from slmbench.running.settings import MeasureSettings
from slmbench.terms import Precision

#: A slow laptop core's figures: an estimate that is too long annoys less than one that is too short.
FLOPS_PER_S = 5e10
BYTES_PER_S = 1e10
#: A worker's start: interpreter, engine, compiling.
START_S = 2.0
EXPORT_BYTES_PER_S = 2e7


class CaseEstimate(BaseModel):
    """One case: its key, and the seconds of one generation and of one that warms up."""

    model_config = ConfigDict(frozen=True)

    key: str
    sample_s: float
    warm_up_s: float
    memory_bytes: int


class PlanCosts(BaseModel):
    """A plan's costs. Rough: the device's own figures are not known before it is measured."""

    model_config = ConfigDict(frozen=True)

    #: Those that are to be measured, and how many the plan has: a run that is resumed may have some of them.
    cases: tuple[CaseEstimate, ...]
    planned: int
    refusals: tuple[str, ...]
    #: For each format and precision the exporter, and why those asked before it are not.
    routes: tuple[str, ...]
    #: Artifacts that the store lacks.
    exports: tuple[str, ...]
    export_s: float
    #: Openings with their proofs and warm-ups, and the samples, of the fewest loads that give an interval.
    load_s: float
    sampling_s: float
    #: Loads of a case that are sampled, at least.
    loads: int
    #: The budget in seconds, and whether somebody named it; 0 where the number of samples is fixed.
    budget_s: float
    strict: bool
    #: Until every case has one sample.
    least_s: float
    #: Models that are opened for the cases: one a configuration.
    opened: int
    #: All of them live at once; fewer are, in blocks, where that does not fit.
    memory_bytes: int
    export_memory_bytes: int
    disk_bytes: int


def estimate(
    plan: Plan,
    settings: MeasureSettings,
    past: PastCosts | None = None,
    before: Mapping[str, CaseState] | None = None,
) -> PlanCosts:
    """Estimate a plan's time, memory and disk; ``past`` is what earlier runs on this machine took.

    Of a run that is resumed, ``before`` are the cases that it measures further, as they are.
    """
    past = past or PastCosts()
    missing = [
        (checkpoint, spec)
        for checkpoint, spec in plan.artifacts()
        if checkpoint.given is None and find_artifact(checkpoint, spec) is None
    ]
    exported = [parameters_held(checkpoint, pictures=spec.pictures) for checkpoint, spec in missing]
    cells = [cell for cell in plan.cells if before is None or cell.case.key in before]
    backends = {name: load_backend(name) for name in {cell.case.backend for cell in cells}}
    cases = tuple(_case(cell, past, backends[cell.case.backend]) for cell in cells)
    work = _Openings(settings)
    opened: dict[str, int] = {}
    for cell, case in zip(cells, cases, strict=True):
        load_key = cell.configuration or case.key
        opened[load_key] = max(opened.get(load_key, 0), case.memory_bytes)
        work.add(cell, case, past.open_s(kind_of(cell.case), START_S), before[case.key] if before else None)
    # The budget is the run's, whatever of it is left.
    timed = [cell for cell in plan.cells if not cell.case.simulate]
    generations = len({(cell.configuration or cell.case.key, lane_of(cell.case.workload)) for cell in timed})
    open_ended = bool(settings.repeat) and settings.budget_s is None
    return PlanCosts(
        cases=cases,
        planned=len(plan.cells),
        refusals=tuple(refusal_lines(plan.refusals)),
        routes=tuple(plan.route_lines()),
        exports=tuple(f"{checkpoint.name} to {spec.label()}" for checkpoint, spec in missing),
        export_s=sum(10 + 4 * parameters / EXPORT_BYTES_PER_S for parameters in exported),
        load_s=work.survey_s + work.load_s(),
        sampling_s=work.sampling_s(),
        loads=work.loads,
        budget_s=0 if open_ended or not work.lanes else settings.budget_for(generations),
        strict=settings.strict_budget,
        least_s=work.least_s(),
        memory_bytes=sum(opened.values()),
        opened=len(opened),
        export_memory_bytes=max(map(export_bytes, exported), default=0),
        disk_bytes=sum(written_bytes(checkpoint, spec) for checkpoint, spec in missing),
    )


@dataclass
class _Lane:
    """Cases whose samples come out of one generation."""

    load_key: str
    sample_s: float = 0.0
    warm_up_s: float = 0.0
    #: Still to come: loads that are sampled, samples, and whether a case has none yet.
    loads: int = 0
    samples: int = 0
    unsampled: bool = False


class _Openings:
    """What is still to be opened and generated, counted case by case."""

    def __init__(self, settings: MeasureSettings) -> None:
        repeat = settings.repeat
        self.loads = settings.min_loads if repeat is None else min(repeat, REPEAT_LOADS)
        self._samples = self.loads * settings.rounds if repeat is None else repeat
        self._rounds = settings.rounds if repeat is None else None
        #: The survey is a load of its own: proven in full, and every case generates once for its memory.
        self.survey_s = 0.0
        self.lanes: dict[tuple[str, str], _Lane] = {}
        self._start_s: dict[str, float] = {}
        self._surveyed: dict[str, None] = {}

    def add(self, cell: PlannedCell, case: CaseEstimate, start_s: float, before: CaseState | None) -> None:
        """Count a case."""
        load_key, lane = cell.configuration or case.key, lane_of(cell.case.workload)
        self._start_s[load_key] = start_s
        if before is None or before.memory is None:
            self.survey_s += case.sample_s + (0.0 if load_key in self._surveyed else start_s)
            self._surveyed[load_key] = None
        if cell.case.simulate:
            # Proven in the survey and never timed.
            return
        found = self.lanes.setdefault((load_key, lane), _Lane(load_key))
        if before is None or before.memory is None:
            self.survey_s += WARM_UPS * max(0.0, case.warm_up_s - found.warm_up_s)
        # Shorter outputs come out of the longest.
        found.sample_s, found.warm_up_s = max(found.sample_s, case.sample_s), max(found.warm_up_s, case.warm_up_s)
        loads = self.loads if before is None else max(1, self.loads - before.sampled_loads)
        have = 0 if before is None else len(counted(before.samples))
        samples = self._samples - have if self._rounds is None else loads * self._rounds
        found.loads, found.samples = max(found.loads, loads), max(found.samples, samples)
        found.unsampled |= not have

    def load_s(self) -> float:
        """Return what the openings with their warm-ups take that samples follow."""
        loads: dict[str, int] = {}
        for lane in self.lanes.values():
            loads[lane.load_key] = max(loads.get(lane.load_key, 0), lane.loads)
        warm_ups = sum(loads[lane.load_key] * WARM_UPS * lane.warm_up_s for lane in self.lanes.values())
        return warm_ups + sum(count * self._start_s[key] for key, count in loads.items())

    def sampling_s(self) -> float:
        """Return what the samples take."""
        return sum(lane.samples * lane.sample_s for lane in self.lanes.values())

    def least_s(self) -> float:
        """Return what it takes until every case has one sample."""
        first = [lane for lane in self.lanes.values() if lane.unsampled]
        opened = {lane.load_key for lane in first}
        generated = sum(WARM_UPS * lane.warm_up_s + lane.sample_s for lane in first)
        return self.survey_s + sum(self._start_s[key] for key in opened) + generated


def forecast_lines(costs: PlanCosts, *, quick: bool = False, typed: bool = True) -> list[str]:
    """Return what the run will take, exports, loads and sampling apart, and whether its budget is too small.

    With ``quick`` nobody chose the budget, and each case gets a load in any case. Without ``typed`` the budget is from
    a file (a baseline's, or that of a run that is resumed): its option is named with the command that has it.
    """
    least = costs.load_s + costs.sampling_s
    exports = f"{duration(costs.export_s)} of exports ({amount(len(costs.exports), 'artifact')})"
    if not costs.cases:
        return [f"About {exports}."] if costs.exports else []
    cases = amount(len(costs.cases), "case")
    cases = cases if len(costs.cases) == costs.planned else f"{len(costs.cases):,} of {costs.planned:,} cases are left"
    sampling = f" and {roughly(costs.sampling_s)} of sampling at least" if costs.sampling_s else "; nothing is timed"
    lines = [f"{cases}. About {f'{exports}, ' if costs.exports else ''}{duration(costs.load_s)} of loads{sampling}."]
    if not costs.budget_s:
        return lines
    if quick:
        more = f"; each case gets a sample first, about {duration(costs.least_s)} here"
        more = more if costs.least_s > costs.budget_s else ""
        return [*lines, f"Measuring ends after {duration(costs.budget_s)} ({_asked('--quick', typed)}){more}."]
    if not costs.strict:
        ends = f"Measuring ends when the intervals are narrow enough, or after {duration(costs.budget_s)}"
        longer = f"about {duration(least)} here" if least > costs.budget_s else "even if they take longer"
        return [*lines, f"{ends}; {amount(costs.loads, 'load')} of each case come first, {longer}."]
    lines.append(f"Measuring ends after {duration(costs.budget_s)} ({_asked(_budget(costs.budget_s), typed)}).")
    if costs.least_s > costs.budget_s:
        lines.append(_too_small(costs, least, typed))
    elif least > costs.budget_s:
        what = "an interval" if len(costs.cases) == 1 else "intervals of all cases"
        budget, more = (_option(_budget(seconds), typed) for seconds in (costs.budget_s, math.ceil(least)))
        lines.append(f"{budget} is too small for {what}; about {more} is not.")
    return lines


def _budget(seconds: float) -> str:
    return f"--budget {seconds:g}"


def _option(option: str, typed: bool) -> str:
    """Return how to name an option of `slmbench run`: as it is typed, or with its command where another one runs."""
    return option if typed else f"`slmbench run {option}`"


def _asked(option: str, typed: bool) -> str:
    return f"{'' if typed else 'asked for by '}{_option(option, typed)}"


def _too_small(costs: PlanCosts, least: float, typed: bool) -> str:
    """Return what a budget is not enough for, what is measured all the same, and what would be enough."""
    seconds = (costs.budget_s, math.ceil(costs.least_s), math.ceil(least))
    budget, first, all_of_it = (_option(_budget(one), typed) for one in seconds)
    if len(costs.cases) == 1:
        return (
            f"{budget} is too small for a sample of the case: it is measured anyway, and takes longer. "
            f"About {first} gives it a sample, {all_of_it} an interval."
        )
    fit = int(len(costs.cases) * costs.budget_s / costs.least_s)
    few = f"it is enough for about {fit}" if fit else "only one will be measured, and it may take longer"
    return (
        f"{budget} is too small for one sample of each of the {len(costs.cases):,} cases: {few}. "
        f"About {first} gives each a sample, {all_of_it} each an interval."
    )


def estimated_s(cell: PlannedCell) -> float:
    """Return about how many seconds one generation takes on a slow machine."""
    return _workload_s(cell, cell.case.workload)


def _workload_s(cell: PlannedCell, work: Workload) -> float:
    weight_bytes = weight_bytes_of(cell.checkpoint, cell.case.weight_precision)
    return sum(generation_s(cell.checkpoint, one, weight_bytes) for one in _turns(cell.checkpoint, work))


def weight_bytes_of(checkpoint: Checkpoint, precision: Precision) -> float:
    """Return the bytes of one weight."""
    return checkpoint.given.bits_per_weight / 8 if checkpoint.given else expected_weight_bytes(precision)


def _case(cell: PlannedCell, past: PastCosts, backend: Backend) -> CaseEstimate:
    work, factor = cell.case.workload, past.factor(kind_of(cell.case))
    pictures = work.images > 0
    given = cell.checkpoint.given and cell.checkpoint.given.of_case(pictures=pictures)
    held = given.weight_bytes // 4 if given else parameters_held(cell.checkpoint, pictures=pictures)
    memory_bytes = run_bytes(held, copies=_copies(cell, backend))
    return CaseEstimate(
        key=cell.case.key,
        sample_s=factor * _workload_s(cell, work),
        warm_up_s=factor * _workload_s(cell, beginning(work) or work),
        memory_bytes=memory_bytes,
    )


def _copies(cell: PlannedCell, backend: Backend) -> int:
    if not isinstance(backend, WeightCopies):
        return 1
    options = backend.options_type.model_validate(cell.options)
    return backend.weight_copies(cell.checkpoint, options, cell.case.device)


def _turns(checkpoint: Checkpoint, work: Workload) -> list[Workload]:
    """Return what each turn reads and answers, as a workload of its own."""
    turns, context = [], work.input_tokens
    for turn, count in enumerate(work.outputs()):
        kept = turn > 0 and checkpoint.family == "decoder-only"
        read = work.added + 1 if kept else context
        one: dict[str, int | None] = {"turns": 1, "added_tokens": None, "last_output_tokens": None}
        if turn:
            # The first turn reads the pictures; their features are kept.
            one |= {"images": 0, "image_size": None, "pictures": None}
        turns.append(work.model_copy(update={**one, "input_tokens": read, "output_tokens": count}))
        context += count + work.added
    return turns


def generation_s(checkpoint: Checkpoint, work: Workload, weight_bytes: float) -> float:
    """Return about how many seconds one turn takes on a slow machine; ``weight_bytes`` is the size of a weight."""
    seconds = 0.0
    reading = 0.0
    for phase in phases(checkpoint, work, weight_bytes=weight_bytes, tiles=work.images):
        once = max(phase.flops / FLOPS_PER_S, phase.bytes / BYTES_PER_S)
        if phase.name != "decode_step":
            seconds += once
            reading = once
        elif work.cache == "on":
            seconds += once * (work.output_tokens - 1)
        else:
            # Every token reads the decoder's whole input: a prompt, or on average half of the answer.
            again = reading if checkpoint.family == "decoder-only" else once * (work.output_tokens + 1) / 2
            seconds += again * (work.output_tokens - 1)
    return seconds
