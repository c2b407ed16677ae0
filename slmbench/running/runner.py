"""A run from request to report: plan, export, measure, write tables."""

from __future__ import annotations

import math
import shlex
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from slmbench._version import __version__
from slmbench.analysis.divergence import Divergence, divergence_of
from slmbench.errors import BadInputError, CannotRunError, RunInterruptedError, amount
from slmbench.export.compiled_copies import compiled_dir
from slmbench.export.recipes import PLAIN
from slmbench.machine.cpu import emulator
from slmbench.models.artifact import Artifact
from slmbench.plan.asked_prompts import AskedPrompts
from slmbench.plan.asked_tasks import plan_tasks
from slmbench.plan.exports_here import check_references, without_impossible_exports
from slmbench.plan.judged_together import judged_together
from slmbench.plan.planner import Plan, PlannedCell
from slmbench.plan.quality import QualityPlan, plan_quality
from slmbench.plan.request import RunRequest, plan_request, request_from_file, resume_command
from slmbench.plan.suite import Suite
from slmbench.plan.typed_again import continued
from slmbench.records.quality import read_quality
from slmbench.records.refusals import refusal_lines
from slmbench.records.sample_arrays import RunColumns, read_columns
from slmbench.records.schema import (
    RUN_NAME,
    SAMPLES_NAME,
    CaseInfo,
    FailureReason,
    FailureRecord,
    RunRecord,
    read_run_record,
    read_samples,
    write_run,
)
from slmbench.running.answer_tasks import answer_tasks
from slmbench.running.arms import describe_arms
from slmbench.running.artifacts import RunArtifacts, Say, get_artifacts
from slmbench.running.case_state import REPEAT_LOADS
from slmbench.running.estimate import estimate, estimated_s, forecast_lines
from slmbench.running.evaluation_costs import evaluation_costs
from slmbench.running.left import nothing_left, same_plan, what_is_left
from slmbench.running.limits import higher_limits, run_limits
from slmbench.running.past_costs import kind_of, read_past_costs, remember, seen_costs
from slmbench.running.quality import measure_quality
from slmbench.running.run_folder import run_folder
from slmbench.running.settings import MeasureSettings, PlannedCase
from slmbench.system.locks import only_run_in
from slmbench.system.paths import plain_text
from slmbench.worker.protocol import Described

if TYPE_CHECKING:
    from slmbench.running.events import Observer


def execute(
    request: RunRequest,
    *,
    observer: Observer | None = None,
    say: Say | None = None,
    explain: Say | None = None,
    loads: int | None = None,
    typed: bool = True,
) -> RunColumns:
    """Carry a request out: export what is missing, measure, write the reports. One to resume says all of it again.

    ``observer`` gets what is measured, ``say`` what is exported, ``explain`` why something cannot run and which
    exporter was chosen: the table says the first again. ``loads`` is how many a case has in the end, whatever its
    intervals are by then. ``typed``: whether somebody typed the request's options just now.

    Raises:
        BadInputError: the request is wrong, or a resumed run's plan changed.
        CannotRunError: nothing at all can run here, or the disk is full.
        NotComparableError: arms that see this machine differently.
        RunInterruptedError: a KeyboardInterrupt that says what is kept, and the command to continue.
    """
    say, explain, observer = say or _silent, explain or _silent, observer or _silent
    plan, prompts = plan_here(request)
    if plan.suite.recipe != PLAIN:
        # With the digest of its text: the file may be gone when the run is resumed.
        request = request.model_copy(update={"recipe": plan.suite.recipe})
    quality = plan_quality(request, plan)
    asked = plan_tasks(plan, request.resume)
    check_references(request, quality)
    with run_folder(request, plan.suite) as folder, _told_where_interrupted(folder, request):
        settings = measure_settings(request, plan.suite, loads)
        left = what_is_left(plan, folder, settings, quality, asked) if request.resume else None
        if left and left.nothing:
            say(nothing_left(folder))
            return _reported(read_columns(folder))
        # Before anything is exported: an arm that cannot run is known within seconds.
        described = {} if request.resume else describe_arms(_backends(plan), request.arms, folder)
        with ExitStack() as holds:
            for line in [*(f"cannot run: {line}" for line in refusal_lines(plan.refusals)), *plan.route_lines()]:
                explain(line)
            if emulating := emulator():
                say(f"{emulating} emulates this processor: tokens and placement are proven, no times are taken")
            past = read_past_costs()
            costs = estimate(plan, settings, past, left.cases if left else None)
            more = evaluation_costs(quality, asked, past, left.evaluation if left else None)
            # Whoever counts the loads has said how many, and how long they take.
            own = typed and not request.resume
            forecast = forecast_lines(costs, quick=request.quick, typed=own) if loads is None else []
            for line in (*forecast, *more.lines):
                say(line)
            artifacts = get_artifacts(plan, request, folder, say, holds)
            cases = _measure(plan, prompts, request, settings, folder, artifacts, described, observer, say, quality)
            if asked:
                with _kept(resume_command(folder, request), "continues with the tasks"):
                    answer_tasks(asked, cases, folder, settings, say, observer)
            columns = read_columns(folder) if request.quick else _with_higher_limits(folder, request, say)
        return _reported(columns)


def _reported(columns: RunColumns) -> RunColumns:
    """Write the reports; return what they are of."""
    from slmbench.report.write import write_reports

    with _kept(f"slmbench table {columns.folder} --write", "writes the reports"):
        write_reports(columns)
    return columns


def quality_alone(request: RunRequest, folder: Path, say: Say | None) -> Divergence:
    """Return the quality of the first case of a request; ``quality.jsonl`` is written to the folder.

    Raises:
        BadInputError: the request is wrong.
        CannotRunError: nothing can run here, or the engine fails.
    """
    plan, _ = plan_here(request)
    quality = plan_quality(request, plan)
    assert quality is not None
    check_references(request, quality)
    cell, say = plan.cells[0], say or _silent
    folder.mkdir(parents=True, exist_ok=True)
    with only_run_in(folder), ExitStack() as holds:
        artifacts = get_artifacts(replace(plan, cells=(cell,)), request, folder, say, holds)
        case = _planned(cell, artifacts.found[cell.checkpoint, cell.spec], AskedPrompts(), {})
        measure_quality(quality, [case], folder, measure_settings(request, plan.suite), say, _silent)
    found = divergence_of(read_quality(folder)[cell.case.key])
    if found.reason:
        raise CannotRunError(found.reason)
    return found


def _measure(
    plan: Plan,
    prompts: AskedPrompts,
    request: RunRequest,
    settings: MeasureSettings,
    folder: Path,
    artifacts: RunArtifacts,
    described: Mapping[str, Described],
    observer: Observer,
    say: Say,
    quality: QualityPlan | None,
) -> list[PlannedCase]:
    """Measure into the folder, or go on there; the record is there before the first sample. Return what was ready."""
    from slmbench.running.scheduler import measure

    made = [cell for cell in plan.cells if (cell.checkpoint, cell.spec) in artifacts.found]
    lost = [
        FailureRecord(
            case=cell.case.key, reason=FailureReason.EXPORT_FAILED, message=artifacts.failed[cell.checkpoint, cell.spec]
        )
        for cell in plan.cells
        if (cell.checkpoint, cell.spec) in artifacts.failed
    ]

    record = same_plan(folder, plan) if request.resume else _run_record(folder, plan, request, artifacts, described)
    write_run(folder, record)
    arms = dict(request.arms)
    cases = [_planned(cell, artifacts.found[cell.checkpoint, cell.spec], prompts, arms) for cell in made]
    groups = judged_together([(cell.case, cell.engine) for cell in made], plan.suite.compared())
    measured = measure(cases, folder, settings, observer, together=groups, lost=lost)
    by_key = {cell.case.key: cell for cell in made}
    remember(
        (kind_of(by_key[key].case), cost)
        for key, cost in seen_costs(measured.costs, {key: estimated_s(by_key[key]) for key in measured.costs})
    )
    if quality is not None:
        measure_quality(quality, cases, folder, settings, say, observer)
    # After the samples: they take up to 20 s an engine, and whoever waits, waits for figures.
    limits = run_limits(plan, measured.outcomes, say, known=record.limits, only_cached=request.quick)
    # Where all samples were there before, it ended then.
    finished = (record.finished if measured.outcomes == record.outcomes else None) or _now()
    ended = {"finished": finished, "outcomes": measured.outcomes, "blocks": measured.blocks, "limits": limits}
    with _kept(resume_command(folder, request), "ends the run"):
        write_run(folder, record.model_copy(update=ended))
    return cases


def _with_higher_limits(folder: Path, request: RunRequest, say: Say) -> RunColumns:
    """Return what the folder holds, with limits that no figure of it has shown to be too low."""
    columns = read_columns(folder)
    limits = higher_limits(columns, say)
    if not limits:
        return columns
    with _kept(resume_command(folder, request), "ends the run"):
        write_run(folder, columns.record.model_copy(update={"limits": limits}))
    return read_columns(folder)


def plan_here(request: RunRequest) -> tuple[Plan, AskedPrompts]:
    """Return what the request measures on this machine; what needs an export that is not possible is refused.

    Raises:
        BadInputError: the request is wrong.
        CannotRunError: nothing of it can run here.
    """
    plan, prompts = plan_request(request)
    kept: Collection[str] = request.only_cases
    if request.resume is not None:
        kept = {info.case.key for info in read_run_record(request.resume / RUN_NAME).cases}
    return without_impossible_exports(plan, kept), prompts


@contextmanager
def _told_where_interrupted(folder: Path, request: RunRequest) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt as error:
        if not (folder / RUN_NAME).exists():
            kept = "interrupted before the first sample; exported artifacts are kept; give the same command to continue"
            raise RunInterruptedError(kept) from error
        cases = Counter(record.case for record in read_samples(folder / SAMPLES_NAME, []) if record.type == "sample")
        planned = amount(len(read_run_record(folder / RUN_NAME).cases), "case")
        of_all = planned if amount(len(cases), "case") == planned else f"{len(cases):,} of {planned}"
        kept = f"interrupted; {amount(cases.total(), 'sample')} of {of_all} kept in {folder}"
        if not cases:
            kept = f"interrupted before the first sample of {planned}"
        shown = f"; so far: slmbench table {shlex.quote(str(folder))}" if cases else ""
        raise RunInterruptedError(f"{kept}{shown}; to continue: {resume_command(folder, request)}", folder) from error


@contextmanager
def _kept(command: str, what: str) -> Iterator[None]:
    """Say of an error while something is written after the samples that these are kept, and how to go on."""
    try:
        yield
    except (BadInputError, CannotRunError) as error:
        raise CannotRunError(f"{error}; every sample is kept, `{command}` {what}") from error


def _planned(cell: PlannedCell, artifact: Artifact, prompts: AskedPrompts, arms: Mapping[str, str]) -> PlannedCase:
    case = cell.case
    return PlannedCase(
        case=case,
        checkpoint=cell.checkpoint,
        artifact=artifact.folder,
        artifact_id=artifact.manifest.artifact_id,
        stamp=artifact.stamp,
        options=cell.options | {"engine_cache": str(compiled_dir(artifact.manifest.artifact_id) / case.backend)},
        python=arms[case.arm] if case.arm else None,
        configuration=cell.configuration,
        prompts=prompts.texts.texts if prompts.texts else (),
        tokenizer=prompts.texts.tokenizers[cell.checkpoint] if prompts.texts else None,
        pictures=prompts.pictures.files if prompts.pictures else (),
    )


#: A target that no interval reaches: the number of loads decides.
_NO_TARGET = 1e-9


def measure_settings(request: RunRequest, suite: Suite, loads: int | None = None) -> MeasureSettings:
    """Return how long and how precisely to measure: to the target, or until every case has so many loads."""
    settings = MeasureSettings(
        seed=request.seed,
        budget_s=suite.budget_s,
        strict_budget=request.budget_s is not None,
        # Figures within a minute, or at least figures.
        first_loads=1 if request.quick else MeasureSettings.first_loads,
        repeat=None if request.quick else suite.repeat,
    )
    if loads is not None:
        rounds = math.ceil(suite.repeat / REPEAT_LOADS) if suite.repeat else settings.rounds
        counted = replace(settings, repeat=None, max_loads=loads, rounds=rounds)
        return replace(counted, budget_s=request.budget_s, ttft_target=_NO_TARGET, tpot_target=_NO_TARGET)
    target = request.interval_target
    if target is None and suite.interval_target is not None:
        target = suite.interval_target / 100
    return settings if target is None else replace(settings, ttft_target=target, tpot_target=target)


def _run_record(
    folder: Path,
    plan: Plan,
    request: RunRequest,
    artifacts: RunArtifacts,
    described: Mapping[str, Described],
) -> RunRecord:
    infos = []
    for cell in plan.cells:
        artifact = artifacts.found.get((cell.checkpoint, cell.spec))
        infos.append(
            CaseInfo(
                case=cell.case,
                checkpoint=cell.checkpoint,
                engine=cell.engine,
                artifact_id=artifact.manifest.artifact_id if artifact else None,
                decode_weight_bytes=artifact.manifest.decode_weight_bytes if artifact else None,
                weights=artifact.manifest.weights if artifact else None,
                recipe=artifact.manifest.recipe if artifact else {},
            )
        )
    return RunRecord(
        run_id=plain_text(folder.resolve().name),
        slmbench_version=__version__,
        created=_now(),
        command=("slmbench", *map(plain_text, sys.argv[1:])),
        seed=request.seed,
        suite=plan.suite.name,
        plan_digest=plan.digest(),
        cases=tuple(infos),
        refusals=plan.refusals,
        pairs=tuple(plan.suite.pairs),
        claims=tuple(plan.suite.claims),
        machines={arm: one.machine for arm, one in described.items()},
        versions={arm: one.versions for arm, one in described.items()},
        options=request.model_dump(mode="json", exclude={"resume", "checkpoints"}),
    )


def _backends(plan: Plan) -> tuple[str, ...]:
    return tuple(dict.fromkeys(cell.case.backend for cell in plan.cells))


def _silent(_: object) -> None:
    """Say nothing."""


def resumed(request: RunRequest) -> RunRequest:
    """Return what the run that is resumed was asked; options that are typed again are to be the same.

    Raises:
        BadInputError: there is no run to resume, it is damaged, it was started with other options, or it runs code
            and that was not typed.
    """
    if request.resume is None:
        return request
    path = request.resume / RUN_NAME
    before = request_from_file(read_run_record(path).options, str(path), request)
    return continued(request.resume, request, before)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
