"""What a verdict rests on: per case and metric the level of every load, from a run, one of its arms or a baseline."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from slmbench.analysis import stats
from slmbench.analysis.item_scores import ItemScores, item_scores
from slmbench.analysis.read_back import settings_of, stored_weights_of
from slmbench.analysis.roofline import costs_of, limits_of_case, shortest_times
from slmbench.case import Case
from slmbench.errors import BadInputError, NotComparableError, nearest
from slmbench.models.artifact import StoredWeights
from slmbench.models.given_record import CROSS_KV_AGAIN
from slmbench.records.answers import task_key
from slmbench.records.quality import CaseQuality
from slmbench.records.refusals import Refusal
from slmbench.records.sample_arrays import CaseFigures, RunColumns
from slmbench.records.sample_columns import Floats, SampleColumns
from slmbench.records.schema import CaseInfo, LoadRecord
from slmbench.terms import Family, PairNames

NANO = 1e-9

#: One figure a case; one a generation, which shorter answers are derived from; one a process.
BelongsTo = Literal["case", "generation", "configuration"]


@dataclass(frozen=True)
class Metric:
    """Something that is judged. All are better when smaller; rates are the reciprocals of times."""

    name: str
    title: str
    #: SI unit of the values: "s", "J" or "B".
    unit: str
    #: Values of one case: from samples (one a sample, NaN where it has none).
    of_samples: Callable[[SampleColumns], Floats] | None = None
    #: Values of one case: one a load; NaN where a load has none.
    of_load: Callable[[LoadRecord], float] | None = None
    #: What the figure belongs to: cases that share it have one figure, which is judged once.
    belongs_to: BelongsTo = "case"


def _seconds(nanoseconds: NDArray[Any]) -> Floats:
    return np.asarray(nanoseconds * NANO, dtype=np.float64)


def phase(name: str) -> Callable[[SampleColumns], Floats]:
    """Return what gives a phase's times in s, one a sample; NaN where a sample lacks it."""
    return lambda c: _seconds(c.phases_ns[name]) if name in c.phases_ns else np.full(len(c), np.nan)


def _from_text_s(c: SampleColumns) -> Floats:
    return _seconds(c.first_ns) + phase("tokenise")(c)


def _first_s(load: LoadRecord) -> float:
    return math.nan if load.first_inference_ns is None else load.first_inference_ns * NANO


def _ready_s(load: LoadRecord) -> float:
    # Some engines tell compiling from loading: what a user waits for is both.
    return (load.load_ns + (load.compile_ns or 0)) * NANO


_METRICS = (
    Metric("ttft", "time to first token", "s", lambda c: _seconds(c.first_ns), belongs_to="generation"),
    Metric("tpot", "time per output token", "s", lambda c: _seconds(c.tpot_ns())),
    Metric("turn_ttft", "time to first token of later turns", "s", lambda c: _seconds(c.turn_first_ns)),
    Metric("last_ttft", "time to first token of the last turn", "s", lambda c: _seconds(c.last_turn_first_ns)),
    Metric("e2e", "whole generation", "s", lambda c: _seconds(c.last_ns)),
    Metric("vision", "pictures to features", "s", phase("vision"), belongs_to="generation"),
    Metric("prefill", "prompt behind the pictures", "s", phase("prefill"), belongs_to="generation"),
    Metric("preprocess", "preparing pictures", "s", phase("preprocess"), belongs_to="generation"),
    Metric("encode", "encoder", "s", phase("encode"), belongs_to="generation"),
    Metric("cross_kv", "cross-attention K/V", "s", phase("cross_kv"), belongs_to="generation"),
    Metric("first_step", "first decoder step", "s", phase("first_step"), belongs_to="generation"),
    Metric("ttft_text", "time to first token from the text", "s", _from_text_s, belongs_to="generation"),
    Metric("energy", "energy per token", "J", lambda c: c.energy_j / (c.rows * c.tokens)),
    Metric("load", "loading the model", "s", of_load=lambda r: r.load_ns * NANO, belongs_to="configuration"),
    Metric("ready", "loading and compiling the model", "s", of_load=_ready_s, belongs_to="configuration"),
    Metric("first_inference", "first inference", "s", of_load=_first_s, belongs_to="generation"),
)
METRICS: Mapping[str, Metric] = {metric.name: metric for metric in _METRICS}
#: What is judged when nobody says otherwise.
DEFAULT_METRICS = ("ttft", "tpot")


def metric_named(name: str) -> Metric:
    """Return a metric by name.

    Raises:
        BadInputError: there is none of that name.
    """
    try:
        return METRICS[name]
    except KeyError:
        known = list(METRICS)
        raise BadInputError(f"unknown metric '{name}'. Known: {', '.join(known)}.{nearest(name, known)}") from None


@dataclass(frozen=True)
class Evidence:
    """One metric of one case: what each load says."""

    #: Log of each load's median, and the standard error its samples imply: ``[loads]``.
    logs: Floats
    inner_errors: Floats
    #: Samples behind each load's figure.
    counts: NDArray[np.int64]
    #: Per load its number, the rounds of its samples and their values; None from a baseline: nothing to pair with.
    rounds: tuple[tuple[int, NDArray[np.int64], Floats], ...] | None = None
    #: Numbers of the loads; None where a baseline did not keep them.
    loads: NDArray[np.int64] | None = None
    #: Whose loads these are: cases of one configuration shared them. None: the case had loads of its own.
    shared_loads: str | None = None

    @cached_property
    def estimate(self) -> stats.Estimate:
        """Return the level over loads, on the log scale."""
        return stats.level_of(self.logs, self.inner_errors)

    def interval(self, confidence: float = 0.95) -> stats.Interval:
        """Return the level with its interval, in the metric's SI unit."""
        return self.estimate.interval(confidence)


@dataclass(frozen=True)
class ModelFacts:
    """What a comparison says about a case's model besides its figures."""

    family: Family
    parameter_count: int
    digest: str
    engine: str
    attention_path: str | None = None
    executed_on: str | None = None
    decode_weight_bytes: int | None = None
    #: Operations up to the first token and of one step, and bytes one step moves; None from an older baseline.
    first_token_flops: float | None = None
    step_flops: float | None = None
    step_bytes: float | None = None
    #: False where its tokens were compared with no reference's, but with its own.
    reference: bool = True
    #: The user's encoder-decoder computes cross-attention's K/V again at every step.
    cross_kv_again: bool = False
    #: The shortest times in s that the limits allow, by metric; empty where they are not known.
    shortest_s: dict[str, float] = field(default_factory=dict)
    #: What the weights are stored in; None where the artifact does not say it, and in older baselines.
    weights: StoredWeights | None = None
    #: Tokens that a sample's pictures became.
    image_tokens: int = 0
    #: What was read back from the engine, by name; empty in older baselines.
    settings: dict[str, str] = field(default_factory=dict)


class MeasuredEvidence(Mapping[str, Evidence]):
    """A case's evidence by metric, worked out when it is asked for: a comparison wants two metrics of a dozen."""

    def __init__(self, figures: CaseFigures, shared_loads: str | None) -> None:
        self._figures, self._shared_loads = figures, shared_loads
        self._found: dict[str, Evidence] = {}

    def __getitem__(self, name: str) -> Evidence:
        if name not in self._found:
            found = evidence_of(METRICS[name], self._figures)
            if found is None:
                raise KeyError(name)
            self._found[name] = replace(found, shared_loads=self._shared_loads)
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name in METRICS if name in self)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __bool__(self) -> bool:
        return any(True for _ in self)


@dataclass(frozen=True)
class SideCase:
    """One case of one side."""

    case: Case
    model: ModelFacts
    evidence: Mapping[str, Evidence]
    #: Why there is no evidence, or not all of it.
    failure: str | None = None
    #: Share of samples that another process disturbed.
    disturbed: float = 0.0
    #: Whether each metric's interval reached its target; what the run did not say (and a baseline) is absent.
    converged: dict[str, bool] = field(default_factory=dict)
    #: Configuration whose loads served this case and others; None where it had loads of its own.
    configuration: str | None = None
    #: Key (without the arm) of the case whose longer generations this one's samples are the beginning of.
    derived_from: str | None = None
    #: How far its predictions are from the reference's; None where nobody asked.
    quality: CaseQuality | None = None
    #: How it answered the task file; None where nobody asked.
    tasks: ItemScores | None = None
    #: The worker's largest memory; NaN where it was not measured, and from a baseline.
    peak_memory_bytes: float = math.nan


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a run, one arm of it, or a baseline."""

    name: str
    #: Of the run it comes from, with its time: sides of one run were interleaved.
    run_id: str
    arm: str | None
    #: By key without the arm: what the other side calls the same case.
    cases: dict[str, SideCase]
    #: The machine's fingerprint; empty when the run kept none.
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    created: str = ""
    warnings: tuple[str, ...] = ()
    pairs: tuple[PairNames, ...] = ()
    #: What the run was asked, without what is of its place and time: enough to ask it again.
    options: dict[str, Any] = field(default_factory=dict)
    #: Cases that ran on a stand-in for their device: they have no times and are not among ``cases``.
    simulated: tuple[Case, ...] = ()
    #: Cells that were asked for with these cases and cannot run there; a baseline does not say.
    refusals: tuple[Refusal, ...] = ()
    #: Whether `slmbench check --until-conclusive` can add loads to it: it is a run on this disk, of this machine alone.
    takes_more_loads: bool = False


#: Options that belong to one run's place and time.
_OF_ONE_RUN = ("out", "resume", "arms")


def matching_key(case: Case) -> str:
    """Return the key that a case has on every side: its own, without the arm."""
    return (case.model_copy(update={"arm": None}) if case.arm else case).key


def arms_of(run: RunColumns) -> list[str]:
    """Return the arms of a run in the order they were given; none for a plain run."""
    return list(dict.fromkeys(info.case.arm for info in run.record.cases if info.case.arm))


def side_of(run: RunColumns, name: str, arm: str | None = None, *, may_be_empty: bool = False) -> Side:
    """Return a run, or one arm of it, as a side of a comparison. Simulated cases have no times and are left out.

    Raises:
        BadInputError: an arm that the run does not have.
        NotComparableError: a run in which nothing was measured and nothing failed, unless it may be empty.
    """
    arms = arms_of(run)
    if arm is not None and arm not in arms:
        raise BadInputError(f"{run.folder}: no arm '{arm}'. Arms of this run: {', '.join(arms) or 'none'}.")
    tasks = item_scores(run)
    stood_in = [info.case for info in run.record.cases if run.simulated(info.case.key)]
    cases = {
        matching_key(info.case): _side_case(run, info, tasks.get(task_key(info.case)))
        for info in run.record.cases
        if info.case.arm == arm and not run.simulated(info.case.key)
    }
    # A case that failed has a reason to show, so a run of nothing else is no empty run.
    if not may_be_empty and not any(side.evidence or side.failure for side in cases.values()):
        what = "only simulated cases" if stood_in else "no samples"
        whose = f"{run.folder}{f'@{arm}' if arm else ''}"
        raise NotComparableError(f"{whose}: an empty run: {what}, so there is nothing to judge")
    return Side(
        name=name,
        run_id=run_id_of(run),
        arm=arm,
        cases=cases,
        machine=run.record.machines.get(arm or "", {}),
        versions=run.record.versions.get(arm or "", {}),
        created=run.record.created,
        warnings=(*run.warnings, *_unproven(cases)),
        pairs=run.record.pairs,
        options={name: value for name, value in run.record.options.items() if name not in _OF_ONE_RUN},
        simulated=tuple(case for case in stood_in if case.arm == arm),
        refusals=run.record.refusals,
    )


def _unproven(cases: Mapping[str, SideCase]) -> list[str]:
    """Return what a comparison says of the user's artifacts whose tokens no reference was there to compare with."""
    names = dict.fromkeys(one.case.checkpoint for one in cases.values() if not one.model.reference)
    return [f"no reference: the tokens of {', '.join(names)} were compared with the model's own only"] if names else []


def _side_case(run: RunColumns, info: CaseInfo, tasks: ItemScores | None) -> SideCase:
    key = info.case.key
    loads = run.loads.get(key, [])
    configuration, source = run.shared_configurations.get(key), run.sources.get(key)
    failures = run.failures.get(key, [])
    figures = run.figures_of(key)
    columns = run.recorded.get(key)
    outcome = run.record.outcomes.get(key)
    return SideCase(
        case=info.case,
        model=model_of(info, loads, run.record.limits, image_tokens_of(figures)),
        evidence=MeasuredEvidence(figures, loads_id(run_id_of(run), info.case.arm, configuration)),
        failure=f"{failures[-1].reason}: {failures[-1].message}" if failures else None,
        disturbed=float(columns.disturbed.mean()) if columns is not None else 0.0,
        converged=outcome.converged if outcome else {},
        configuration=configuration,
        derived_from=matching_key(run.cases[source].case) if source in run.cases else source,
        quality=run.quality.get(key),
        tasks=tasks,
        peak_memory_bytes=peak_memory_of(figures),
    )


def peak_memory_of(figures: CaseFigures) -> float:
    """Return the largest memory of a case's worker in bytes; NaN where it was not measured."""
    return max((one.peak_uss_bytes or one.peak_rss_bytes for one in figures.memory), default=math.nan)


def run_id_of(run: RunColumns) -> str:
    """Return what tells a run from every other: its id with its time."""
    return f"{run.record.run_id} of {run.record.created}"


def loads_id(run_id: str, arm: str | None, configuration: str | None) -> str | None:
    """Return what tells the loads of one configuration from all others; None for loads of a case's own."""
    return None if configuration is None else f"{run_id}|{arm or ''}|{configuration}"


def image_tokens_of(figures: CaseFigures) -> int | None:
    """Return how many tokens a case's pictures became, in the median sample; None where there are no samples."""
    return int(np.median(figures.samples.image_tokens)) if figures.samples is not None else None


def model_of(
    info: CaseInfo, loads: list[LoadRecord], limits: Mapping[str, Any], image_tokens: int | None = None
) -> ModelFacts:
    """Return what a run says of a case's model; the path and the device are those of its last load.

    ``limits`` are those that the run kept.
    """
    known = limits_of_case(info, limits)
    return ModelFacts(
        family=info.checkpoint.family,
        parameter_count=info.checkpoint.parameter_count,
        digest=info.checkpoint.digest,
        engine=info.engine,
        attention_path=loads[-1].attention_path if loads else info.case.attention,
        executed_on=loads[-1].executed_on if loads else None,
        decode_weight_bytes=info.decode_weight_bytes,
        reference=all(load.reference for load in loads),
        cross_kv_again=CROSS_KV_AGAIN in (info.checkpoint.given.flags if info.checkpoint.given else ()),
        image_tokens=image_tokens or 0,
        **costs_of(info, loads, image_tokens),
        shortest_s=shortest_times(info, known, loads, image_tokens) if known else {},
        weights=stored_weights_of(info),
        settings=settings_of(loads),
    )


def evidence_of(metric: Metric, figures: CaseFigures) -> Evidence | None:
    """Return what a case's loads say about a metric, or None where nothing was measured."""
    if metric.name not in figures.computed:
        figures.computed[metric.name] = _evidence_of(metric, figures.samples, figures.loads)
    found: Evidence | None = figures.computed[metric.name]
    return found


def _evidence_of(metric: Metric, columns: SampleColumns | None, loads: Sequence[LoadRecord]) -> Evidence | None:
    if metric.of_load is not None:
        # The first opening only proves the case and warms caches; those that were sampled are like each other.
        sampled = set(columns.load.tolist()) if columns is not None else set()
        alike = [record for record in loads if record.load in sampled] or loads
        measured = [(record.load, value) for record in alike if not math.isnan(value := metric.of_load(record))]
        numbers, values = np.array([one[0] for one in measured], dtype=np.int64), np.array([one[1] for one in measured])
        if values.size == 0 or np.any(values <= 0):
            return None
        ones = np.ones(values.size, dtype=np.int64)
        return Evidence(np.log(values), np.zeros(values.size), ones, loads=numbers)
    if columns is None or metric.of_samples is None:
        return None
    values = metric.of_samples(columns)
    usable = np.isfinite(values) & (values > 0) & columns.counted()
    if not usable.any():
        return None
    places = np.flatnonzero(usable)
    places = places[np.argsort(columns.load[places], kind="stable")]
    load, rounds, values = columns.load[places], columns.round[places], values[places]
    ends = [*(np.flatnonzero(load[1:] != load[:-1]) + 1).tolist(), load.size]
    groups = [(int(load[a]), rounds[a:b], values[a:b]) for a, b in zip([0, *ends], ends, strict=False)]
    logs, inner = stats.load_levels([group[2] for group in groups])
    counts = np.array([group[2].size for group in groups], dtype=np.int64)
    return Evidence(logs, inner, counts, tuple(groups), loads=np.array([group[0] for group in groups], dtype=np.int64))
