"""What a plan will take: time, memory and disk, before anything is exported or measured."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict

from slmbench.backend import Backend, WeightCopies, load_backend
from slmbench.case import Workload
from slmbench.errors import amount
from slmbench.export.artifact_store import find_artifact
from slmbench.models.artifact import expected_weight_bytes
from slmbench.models.catalog import export_bytes, run_bytes
from slmbench.models.checkpoint import Checkpoint
from slmbench.models.cost_model import phases
from slmbench.models.forecast_sizes import parameters_held, written_bytes
from slmbench.plan.configuration import lane_of
from slmbench.plan.planner import Plan, PlannedCell
from slmbench.records.refusals import refusal_lines
from slmbench.running.budget import WARM_UPS
from slmbench.running.case_state import REPEAT_LOADS
from slmbench.running.past_costs import PastCosts, kind_of
from slmbench.running.progress import duration
from slmbench.running.settings import MeasureSettings
from slmbench.terms import Precision

#: A slow laptop core's figures: an estimate that is too long annoys less than one that is too short.
FLOPS_PER_S = 5e10
BYTES_PER_S = 1e10
#: A worker's start: interpreter, engine, compiling.
START_S = 2.0
EXPORT_BYTES_PER_S = 2e7


class CaseEstimate(BaseModel):
    """One case: its key and one generation's seconds."""

    model_config = ConfigDict(frozen=True)

    key: str
    sample_s: float
    memory_bytes: int


class PlanCosts(BaseModel):
    """A plan's costs. Rough: the device's own figures are not known before it is measured."""

    model_config = ConfigDict(frozen=True)

    cases: tuple[CaseEstimate, ...]
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


def estimate(plan: Plan, settings: MeasureSettings, past: PastCosts | None = None) -> PlanCosts:
    """Estimate a plan's time, memory and disk; ``past`` is what earlier runs on this machine took."""
    past = past or PastCosts()
    missing = [
        (checkpoint, spec)
        for checkpoint, spec in plan.artifacts()
        if checkpoint.given is None and find_artifact(checkpoint, spec) is None
    ]
    exported = [parameters_held(checkpoint, pictures=spec.pictures) for checkpoint, spec in missing]
    backends = {name: load_backend(name) for name in {cell.case.backend for cell in plan.cells}}
    cases = tuple(_case(cell, past, backends[cell.case.backend]) for cell in plan.cells)
    loads = settings.min_loads if settings.repeat is None else min(settings.repeat, REPEAT_LOADS)
    samples = loads * settings.rounds if settings.repeat is None else settings.repeat
    opened: dict[str, int] = {}
    start_s: dict[str, float] = {}
    timed: set[str] = set()
    lanes: dict[tuple[str, str], float] = {}
    for cell, case in zip(plan.cells, cases, strict=True):
        load_key, lane = cell.configuration or case.key, lane_of(cell.case.workload)
        opened[load_key] = max(opened.get(load_key, 0), case.memory_bytes)
        start_s[load_key] = past.open_s(kind_of(cell.case), START_S)
        if cell.case.simulate:
            # Proven in the survey and never timed.
            continue
        timed.add(load_key)
        # Shorter outputs come out of the longest.
        lanes[load_key, lane] = max(lanes.get((load_key, lane), 0.0), case.sample_s)
    one_sample_s = sum(lanes.values())
    opening_s = sum(start_s[key] for key in timed) + WARM_UPS * one_sample_s
    # The survey is a load of its own: proven in full, and every case generates once for its memory.
    survey_s = sum(start_s.values()) + WARM_UPS * one_sample_s + sum(case.sample_s for case in cases)
    return PlanCosts(
        cases=cases,
        refusals=tuple(refusal_lines(plan.refusals)),
        routes=tuple(plan.route_lines()),
        exports=tuple(f"{checkpoint.name} to {spec.label()}" for checkpoint, spec in missing),
        export_s=sum(10 + 4 * parameters / EXPORT_BYTES_PER_S for parameters in exported),
        load_s=survey_s + loads * opening_s,
        sampling_s=samples * one_sample_s,
        loads=loads,
        budget_s=0 if not lanes or (settings.repeat and settings.budget_s is None) else settings.budget_for(len(lanes)),
        strict=settings.strict_budget,
        least_s=survey_s + opening_s + one_sample_s,
        memory_bytes=sum(opened.values()),
        opened=len(opened),
        export_memory_bytes=max(map(export_bytes, exported), default=0),
        disk_bytes=sum(written_bytes(checkpoint, spec) for checkpoint, spec in missing),
    )


def forecast_lines(costs: PlanCosts, *, quick: bool = False) -> list[str]:
    """Return what the run will take, exports, loads and sampling apart, and whether its budget is too small.

    With ``quick`` nobody chose the budget, and each case gets a load in any case.
    """
    least = costs.load_s + costs.sampling_s
    exports = ""
    if costs.exports:
        exports = f"{duration(costs.export_s)} of exports ({amount(len(costs.exports), 'artifact')}), "
    sampling = f" and {duration(costs.sampling_s)} of sampling at least" if costs.sampling_s else "; nothing is timed"
    lines = [f"{amount(len(costs.cases), 'case')}. About {exports}{duration(costs.load_s)} of loads{sampling}."]
    if not costs.budget_s:
        return lines
    if quick:
        more = f"; each case gets a sample first, about {duration(costs.least_s)} here"
        more = more if costs.least_s > costs.budget_s else ""
        return [*lines, f"Measuring ends after {duration(costs.budget_s)} (--quick){more}."]
    if not costs.strict:
        ends = f"Measuring ends when the intervals are narrow enough, or after {duration(costs.budget_s)}"
        longer = f"about {duration(least)} here" if least > costs.budget_s else "even if they take longer"
        return [*lines, f"{ends}; {amount(costs.loads, 'load')} of each case come first, {longer}."]
    budget = f"--budget {costs.budget_s:g}"
    lines.append(f"Measuring ends after {duration(costs.budget_s)} ({budget}).")
    if costs.least_s > costs.budget_s:
        fit = int(len(costs.cases) * costs.budget_s / costs.least_s)
        few = f"it is enough for about {fit}" if fit else "only one will be measured, and it may take longer"
        lines.append(
            f"{budget} is too small for one sample of each of the {len(costs.cases)} cases: {few}. "
            f"About --budget {math.ceil(costs.least_s)} gives each a sample, --budget {math.ceil(least)} each an "
            "interval."
        )
    elif least > costs.budget_s:
        lines.append(f"{budget} is too small for intervals of all cases; about --budget {math.ceil(least)} is not.")
    return lines


def estimated_s(cell: PlannedCell) -> float:
    """Return about how many seconds one generation takes on a slow machine."""
    weight_bytes = weight_bytes_of(cell.checkpoint, cell.case.weight_precision)
    return sum(generation_s(cell.checkpoint, one, weight_bytes) for one in _turns(cell.checkpoint, cell.case.workload))


def weight_bytes_of(checkpoint: Checkpoint, precision: Precision) -> float:
    """Return the bytes of one weight."""
    return checkpoint.given.bits_per_weight / 8 if checkpoint.given else expected_weight_bytes(precision)


def _case(cell: PlannedCell, past: PastCosts, backend: Backend) -> CaseEstimate:
    seconds = estimated_s(cell) * past.factor(kind_of(cell.case))
    pictures = cell.case.workload.images > 0
    given = cell.checkpoint.given and cell.checkpoint.given.of_case(pictures=pictures)
    held = given.weight_bytes // 4 if given else parameters_held(cell.checkpoint, pictures=pictures)
    memory_bytes = run_bytes(held, copies=_copies(cell, backend))
    return CaseEstimate(key=cell.case.key, sample_s=seconds, memory_bytes=memory_bytes)


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
