"""Baselines: a run reduced to what the test needs, small enough to be committed.

Per case and metric a baseline keeps, one a load, the log of the median and the standard error that the load's
samples imply. The intervals and ratios that follow from it equal those of the full run, up to rounding.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, ValidationError

from slmbench._version import __version__
from slmbench.analysis.metrics import Evidence, ModelFacts, Side, SideCase, loads_id, matching_key
from slmbench.analysis.ratios import LOG_DECIMALS
from slmbench.analysis.stored_quality import StoredQuality, StoredTasks, quality_of, stored_qualities, stored_tasks
from slmbench.case import Case
from slmbench.errors import BadInputError, NotComparableError
from slmbench.models.artifact import StoredWeights
from slmbench.system.files import open_regular, read_regular, write_output
from slmbench.terms import Family, PairNames, StrictModel

SCHEMA_VERSION = 1
KIND = "slmbench baseline"


class _StoredEvidence(StrictModel):
    #: Logs of seconds, bytes or joules; nothing that was measured is outside these bounds.
    logs: list[Annotated[float, Field(ge=-100, le=100)]] = Field(min_length=1)
    inner_errors: list[Annotated[float, Field(ge=0, le=100)]]
    counts: list[Annotated[int, Field(ge=0, le=2**53)]]
    #: Numbers of the loads, where cases shared them.
    loads: list[Annotated[int, Field(ge=0, le=2**53)]] | None = None


class _StoredCase(StrictModel):
    case: Case
    family: Family
    parameter_count: int = Field(ge=0, le=2**50)
    digest: str
    engine: str
    attention_path: str | None
    executed_on: str | None
    decode_weight_bytes: int | None
    first_token_flops: float | None
    step_flops: float | None
    step_bytes: float | None
    disturbed: float
    failure: str | None
    #: What loads of one configuration served several cases, and whose longer generations these are the beginning of.
    configuration: str | None = None
    derived_from: str | None = None
    #: What took effect, so that a later speed-up can be explained by it.
    weights: StoredWeights | None = None
    settings: dict[str, str] | None = None
    metrics: dict[str, _StoredEvidence]


class Baseline(StrictModel):
    """A baseline file."""

    kind: str = KIND
    schema_version: int = SCHEMA_VERSION
    slmbench_version: str
    run_id: str
    created: str
    machine: dict[str, Any]
    versions: dict[str, str]
    pairs: list[PairNames]
    #: What the run was asked: `slmbench check` without a run asks it again.
    options: dict[str, Any] = Field(default_factory=dict)
    quality: list[StoredQuality] = Field(default_factory=list)
    tasks: list[StoredTasks] = Field(default_factory=list)
    cases: list[_StoredCase]


def save_baseline(side: Side, path: Path) -> None:
    """Write a side as a baseline, whole or not at all.

    Raises:
        BadInputError: it cannot be written.
        NotComparableError: nothing was measured, or a case was loaded once only; nothing could be judged against it.
    """
    if not any(case.evidence for case in side.cases.values()):
        reason = next((case.failure for case in side.cases.values() if case.failure), "no samples")
        raise NotComparableError(f"{side.name}: nothing was measured, so there is nothing to judge against: {reason}")
    # Of a shared load only one case has the first inference: too few of those cost the metric, not the baseline.
    measured = {key: case.evidence.values() for key, case in side.cases.items() if case.evidence}
    single = [key for key, found in measured.items() if not any(_is_kept(one) for one in found)]
    if single:
        raise NotComparableError(
            f"{side.name}: loaded once only, so nothing is known of how loads differ: {single[0]}; "
            "measure it with two loads or more (`slmbench run --quick` and `slmbench run --repeat 1` make one)"
        )
    baseline = Baseline(
        slmbench_version=__version__,
        run_id=side.run_id,
        created=side.created,
        machine=side.machine,
        versions=side.versions,
        pairs=list(side.pairs),
        options={name: value for name, value in side.options.items() if value not in (None, [], False)},
        quality=stored_qualities(side),
        tasks=stored_tasks(side),
        cases=[_case_of(case) for case in side.cases.values()],
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_output(path, _lines(baseline))


def _lines(baseline: Baseline) -> str:
    """Return the file: one case a line, so that a diff of two baselines reads well."""
    raw = baseline.model_dump(mode="json", exclude_defaults=False)
    # Left out where there is nothing to say, so that version 0.2 reads baselines without them.
    for name in ("quality", "tasks"):
        if not raw[name]:
            del raw[name]
    cases = ",\n".join("  " + json.dumps(_short(case), separators=(",", ":")) for case in raw.pop("cases"))
    head = json.dumps(raw, indent=1)
    return f'{head[:-2]},\n "cases": [\n{cases}\n ]\n}}\n'


#: Left out where there is nothing to say, so that version 0.2 reads baselines without shared loads.
_ONLY_IF_KNOWN = ("configuration", "derived_from", "loads", "weights", "settings")


def _short(case: dict[str, Any]) -> dict[str, Any]:
    metrics = {name: _without_none(metric) for name, metric in case["metrics"].items()}
    return _without_none(case) | {"metrics": metrics}


def _without_none(raw: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in raw.items() if value is not None or name not in _ONLY_IF_KNOWN}


def _is_kept(evidence: Evidence) -> bool:
    return evidence.logs.size >= 2


def _case_of(found: SideCase) -> _StoredCase:
    model = found.model
    return _StoredCase(
        case=found.case.model_copy(update={"arm": None}),
        family=model.family,
        parameter_count=model.parameter_count,
        digest=model.digest,
        engine=model.engine,
        attention_path=model.attention_path,
        executed_on=model.executed_on,
        decode_weight_bytes=model.decode_weight_bytes,
        first_token_flops=model.first_token_flops,
        step_flops=model.step_flops,
        step_bytes=model.step_bytes,
        disturbed=round(found.disturbed, 4),
        failure=found.failure,
        configuration=found.configuration,
        derived_from=found.derived_from,
        weights=model.weights,
        settings=model.settings or None,
        metrics={
            name: _StoredEvidence(
                logs=[round(float(value), LOG_DECIMALS) for value in evidence.logs],
                inner_errors=[round(float(value), LOG_DECIMALS) for value in evidence.inner_errors],
                counts=[int(count) for count in evidence.counts],
                loads=None if evidence.loads is None or found.configuration is None else evidence.loads.tolist(),
            )
            for name, evidence in found.evidence.items()
            if _is_kept(evidence)
        },
    )


def is_baseline(path: Path) -> bool:
    """Return whether a file says of itself that it is a baseline."""
    try:
        with open_regular(path) as file:
            return KIND.encode() in file.read(200)
    except OSError:
        return False


def read_baseline(path: Path) -> Side:
    """Read a baseline as one side of a comparison.

    Raises:
        BadInputError: not a baseline, damaged, or of another schema version.
    """
    try:
        raw = json.loads(read_regular(path))
    except OSError as error:
        raise BadInputError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: not JSON: {error}") from error
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if not isinstance(raw, dict) or raw.get("kind") != KIND:
        raise BadInputError(f"{path}: not a baseline; `slmbench baseline save RUN {path.name}` makes one")
    if type(version) is not int or version != SCHEMA_VERSION:
        raise BadInputError(
            f"{path}: a baseline of schema version {version}; this slmbench reads {SCHEMA_VERSION}. Save it again."
        )
    try:
        baseline = Baseline.model_validate(raw)
        quality = {key: quality_of(kept) for kept in baseline.quality for key in kept.cases}
        tasks = {key: kept.scores_of() for kept in baseline.tasks for key in kept.cases}
        cases = {
            key: replace(_side_case(baseline, entry), quality=quality.get(key), tasks=tasks.get(key))
            for entry in baseline.cases
            for key in [matching_key(entry.case)]
        }
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInputError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error
    except ValueError as error:
        raise BadInputError(f"{path}: {error}") from error
    return Side(
        name=path.name,
        run_id=baseline.run_id,
        arm=None,
        cases=cases,
        machine=baseline.machine,
        versions=baseline.versions,
        created=baseline.created,
        pairs=tuple(baseline.pairs),
        options=baseline.options,
    )


def _side_case(baseline: Baseline, entry: _StoredCase) -> SideCase:
    return SideCase(
        case=entry.case,
        model=ModelFacts(
            family=entry.family,
            parameter_count=entry.parameter_count,
            digest=entry.digest,
            engine=entry.engine,
            attention_path=entry.attention_path,
            executed_on=entry.executed_on,
            decode_weight_bytes=entry.decode_weight_bytes,
            first_token_flops=entry.first_token_flops,
            step_flops=entry.step_flops,
            step_bytes=entry.step_bytes,
            weights=entry.weights,
            settings=entry.settings or {},
        ),
        evidence={name: _evidence(baseline, entry, name) for name in entry.metrics},
        failure=entry.failure,
        disturbed=entry.disturbed,
        configuration=entry.configuration,
        derived_from=entry.derived_from,
    )


def _evidence(baseline: Baseline, entry: _StoredCase, name: str) -> Evidence:
    kept = entry.metrics[name]
    logs, inner = np.array(kept.logs), np.array(kept.inner_errors)
    if not len(kept.logs) == len(kept.inner_errors) == len(kept.counts) or len(kept.loads or logs) != len(logs):
        raise ValueError(f"{name} of {entry.case.key}: unequal numbers of loads")
    if not np.all(np.isfinite(logs)) or not np.all(np.isfinite(inner)) or np.any(inner < 0):
        raise ValueError(f"{name} of {entry.case.key}: not times")
    return Evidence(
        logs,
        inner,
        np.array(kept.counts, dtype=np.int64),
        loads=None if kept.loads is None else np.array(kept.loads, dtype=np.int64),
        shared_loads=loads_id(baseline.run_id, None, entry.configuration) if kept.loads else None,
    )
