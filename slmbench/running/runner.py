"""A run from request to report: plan, export, measure, write tables."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from slmbench._version import __version__
from slmbench.errors import ERROR_PREFIX, BadInputError, CannotRunError, SlmbenchError, nearest
from slmbench.measure.text_prompts import Prompts
from slmbench.models.artifact import Artifact, ArtifactSpec, read_artifact, same_content
from slmbench.models.checkpoint import Checkpoint
from slmbench.plan.judged_together import judged_together
from slmbench.plan.planner import Plan, PlannedCell
from slmbench.plan.request import RunRequest, plan_request, request_from_file, resume_command
from slmbench.plan.suite import Suite
from slmbench.records.sample_arrays import RunColumns, read_columns
from slmbench.records.schema import RUN_NAME, CaseInfo, Run, RunRecord, read_run, read_run_record, write_run
from slmbench.running.arms import describe_arms
from slmbench.running.settings import MeasureSettings, PlannedCase
from slmbench.running.worker_process import explain_exit
from slmbench.system.locks import in_use, only_run_in
from slmbench.system.paths import cache_dir
from slmbench.system.processes import child_environment
from slmbench.worker.protocol import Described

if TYPE_CHECKING:
    import pandas as pd

    from slmbench.running.events import Observer

#: Told one short line when the work enters a new stage.
Say = Callable[[str], None]


@dataclass(frozen=True)
class RunResult:
    """A finished run; its samples are arrays, some 100 bytes each."""

    columns: RunColumns

    @property
    def run(self) -> Run:
        """Return the run with every sample as a record, read anew: a long run's fill the memory."""
        return read_run(self.folder)

    @property
    def folder(self) -> Path:
        """Return the run's folder."""
        return self.columns.folder

    def table(self) -> pd.DataFrame:
        """Return the comparison table, one row a case, figures in SI units with their intervals."""
        from slmbench.report.run_table import run_table

        return run_table(self.columns)


def run(
    *,
    models: Sequence[str] = (),
    pairs: Sequence[tuple[str, str]] = (),
    observer: Observer | None = None,
    **options: Any,
) -> RunResult:
    """Measure and return the result; the same as ``slmbench run``.

    ``options`` are the other fields of :class:`slmbench.plan.request.RunRequest`: ``backends=["openvino"]``,
    ``input_tokens=[128]``, ``repeat=5``, ``out="results/mine"``, ... Lists are taken for tuples, strings for paths.

    Raises:
        BadInputError: an option is wrong.
        CannotRunError: nothing can run here, or the disk is full.
    """
    try:
        request = RunRequest.model_validate({"models": models, "pairs": pairs, **options})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        hint = nearest(key, list(RunRequest.model_fields)) if first["type"] == "extra_forbidden" else ""
        raise BadInputError(f"slmbench.run: {key}: {first['msg']}.{hint}") from error
    return execute(request, observer=observer)


def execute(request: RunRequest, *, observer: Observer | None = None, say: Say | None = None) -> RunResult:
    """Carry a request out: export what is missing, measure, write the reports.

    ``observer`` is told what is measured, ``say`` what is exported.

    Raises:
        BadInputError: the request is wrong, or a resumed run's plan changed.
        CannotRunError: nothing can run here, an export failed, or the disk is full.
    """
    from slmbench.report.write import write_reports

    request = resumed(request)
    plan, prompts = plan_request(request)
    folder = _run_folder(request, plan.suite)
    with only_run_in(folder):
        # Before anything is exported: an arm that cannot run is known within seconds.
        described = {} if request.resume else describe_arms(_backends(plan), request.arms, folder)
        with ExitStack() as holds:
            artifacts = _artifacts(plan, request, say or _silent, holds)
            _measure(plan, prompts, request, folder, artifacts, described, observer or _silent, say or _silent)
        result = RunResult(read_columns(folder))
        with _kept(f"slmbench table {folder} --write", "writes the reports"):
            write_reports(result.columns)
    return result


def _measure(
    plan: Plan,
    prompts: Prompts | None,
    request: RunRequest,
    folder: Path,
    artifacts: Mapping[tuple[Checkpoint, ArtifactSpec], Artifact],
    described: Mapping[str, Described],
    observer: Observer,
    say: Say,
) -> None:
    """Measure into the folder, or go on there; the record is there before the first sample."""
    from slmbench.running.scheduler import measure

    if request.resume:
        record = _same_plan(folder, plan)
    else:
        record = _run_record(folder, plan, request, artifacts, described)
        record = record.model_copy(update={"limits": _limits(plan, say)})
    write_run(folder, record)
    arms = dict(request.arms)
    cases = [_planned(cell, artifacts[cell.checkpoint, cell.spec], prompts, arms) for cell in plan.cells]
    groups = judged_together([(cell.case, cell.engine) for cell in plan.cells], plan.suite.pairs)
    measured = measure(cases, folder, measure_settings(request, plan.suite), observer, together=groups)
    ended = {"finished": _now(), "outcomes": measured.outcomes, "blocks": measured.blocks}
    with _kept(resume_command(folder, request), "ends the run"):
        write_run(folder, record.model_copy(update=ended))


@contextmanager
def _kept(command: str, what: str) -> Iterator[None]:
    """Say of an error while something is written after the samples that these are kept, and how to go on."""
    try:
        yield
    except (BadInputError, CannotRunError) as error:
        raise CannotRunError(f"{error}; every sample is kept, `{command}` {what}") from error


def _run_folder(request: RunRequest, suite: Suite) -> Path:
    folder = request.resume or request.out or Path("results") / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{suite.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not request.resume and not _unused(folder):
            raise BadInputError(f"{folder}: is not empty; choose another --out, or --resume {folder}")
    except OSError as error:
        raise BadInputError(f"{folder}: cannot be made: {error.strerror}") from error
    if not os.access(folder, os.W_OK):
        raise BadInputError(f"{folder}: cannot be written")
    return folder


def _unused(folder: Path) -> bool:
    """Return whether a run may begin here: nothing is there but the logs of one that ended before it began."""
    return all(entry.name == "logs" for entry in folder.iterdir())


def _artifacts(
    plan: Plan, request: RunRequest, say: Say, holds: ExitStack
) -> dict[tuple[Checkpoint, ArtifactSpec], Artifact]:
    """Return every artifact the plan needs, held until ``holds`` ends, exporting what the store lacks.

    Raises:
        CannotRunError: an export fails, or somebody replaced an artifact meanwhile.
    """
    from slmbench.export.artifact_store import find_artifact

    found = {}
    for checkpoint, spec in plan.artifacts():
        artifact = find_artifact(checkpoint, spec, note=say)
        if artifact is None:
            artifact = export_in_child(checkpoint, spec, request, say)
        holds.enter_context(in_use([artifact.folder.name]))
        # In the moment between the two; from here on nobody does.
        if not _is_still(artifact):
            raise CannotRunError(f"{artifact.folder}: another slmbench replaced or removed it just now; start again")
        found[checkpoint, spec] = artifact
    return found


def _is_still(artifact: Artifact) -> bool:
    try:
        return same_content(read_artifact(artifact.folder).stamp, artifact.stamp)
    except BadInputError:
        return False


def export_in_child(checkpoint: Checkpoint, spec: ArtifactSpec, request: RunRequest, say: Say) -> Artifact:
    """Export in a process of its own: torch and the exporters stay out of this one.

    Raises:
        CannotRunError: the checkpoint is not on this machine, or the export fails.
    """
    if not checkpoint.is_here:
        raise CannotRunError(f"{checkpoint.name}: neither the model nor its artifact {spec.label()} is on this machine")
    say(f"exporting {checkpoint.name} to {spec.label()}")
    # -P: a folder named slmbench where the user stands is not the package.
    command = [sys.executable, "-P", "-m", "slmbench", "export", _reference(checkpoint), "--json"]
    command += ["--format", spec.format, "--precision", spec.weight_precision, "--exporter", spec.exporter]
    command += ["--layout", spec.layout]
    if spec.layout == "static":
        command += ["--input-tokens", str(spec.input_tokens), "--output-tokens", str(spec.output_tokens)]
    if spec.target:
        command += ["--target", spec.target]
    if request.offline:
        command += ["--offline"]
    if request.trust_remote_code:
        command += ["--trust-remote-code"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=child_environment())
    if done.returncode != 0:
        reason = _error_line(done.stderr) or f"the exporter ended with code {done.returncode}"
        if done.returncode < 0:
            reason = explain_exit(done.returncode, "the exporter")[1]
        raise CannotRunError(f"{checkpoint.name} to {spec.label()}: {reason}")
    return read_artifact(Path(json.loads(done.stdout)["folder"]))


def _reference(checkpoint: Checkpoint) -> str:
    if checkpoint.source == "hub":
        return f"{checkpoint.name}@{checkpoint.revision}"
    return checkpoint.name if checkpoint.source == "catalog" else str(checkpoint.path)


def _error_line(stderr: str) -> str:
    lines = [line for line in stderr.splitlines() if line.strip()]
    marked = [line for line in lines if line.startswith(ERROR_PREFIX)]
    return (marked or lines or [""])[-1].removeprefix(ERROR_PREFIX)


def _planned(cell: PlannedCell, artifact: Artifact, prompts: Prompts | None, arms: Mapping[str, str]) -> PlannedCase:
    case = cell.case
    return PlannedCase(
        case=case,
        checkpoint=cell.checkpoint,
        artifact=artifact.folder,
        artifact_id=artifact.manifest.artifact_id,
        stamp=artifact.stamp,
        options=cell.options | {"engine_cache": str(cache_dir() / "engines" / case.backend)},
        python=arms[case.arm] if case.arm else None,
        prompts=prompts.texts if prompts else (),
        tokenizer=prompts.tokenizers[cell.checkpoint] if prompts else None,
    )


def measure_settings(request: RunRequest, suite: Suite) -> MeasureSettings:
    """Return how long and how precisely to measure."""
    settings = MeasureSettings(seed=request.seed, budget_s=suite.budget_s, repeat=suite.repeat)
    target = request.interval_target
    return settings if target is None else replace(settings, ttft_target=target, tpot_target=target)


def _run_record(
    folder: Path,
    plan: Plan,
    request: RunRequest,
    artifacts: Mapping[tuple[Checkpoint, ArtifactSpec], Artifact],
    described: Mapping[str, Described],
) -> RunRecord:
    infos = []
    for cell in plan.cells:
        manifest = artifacts[cell.checkpoint, cell.spec].manifest
        infos.append(
            CaseInfo(
                case=cell.case,
                checkpoint=cell.checkpoint,
                engine=cell.engine,
                artifact_id=manifest.artifact_id,
                decode_weight_bytes=manifest.decode_weight_bytes,
            )
        )
    return RunRecord(
        run_id=folder.resolve().name,
        slmbench_version=__version__,
        created=_now(),
        command=("slmbench", *sys.argv[1:]),
        seed=request.seed,
        suite=plan.suite.name,
        plan_digest=plan.digest(),
        cases=tuple(infos),
        pairs=tuple(plan.suite.pairs),
        claims=tuple(plan.suite.claims),
        machines={arm: one.machine for arm, one in described.items()},
        versions={arm: one.versions for arm, one in described.items()},
        options=request.model_dump(mode="json", exclude={"resume", "checkpoints"}),
    )


def _backends(plan: Plan) -> tuple[str, ...]:
    return tuple(dict.fromkeys(cell.case.backend for cell in plan.cells))


def _limits(plan: Plan, say: Say) -> dict[str, dict[str, Any]]:
    """Return what each engine can do at best on its devices, measured now where it is not known yet.

    Without them the table lacks a column; so an engine whose limits cannot be measured stops nothing.
    """
    from slmbench.machine.limits import limits_of

    found = {}
    wanted = {
        (cell.engine, cell.case.device, cell.case.backend, cell.case.threads)
        for cell in plan.cells
        if not cell.case.simulate
    }
    for engine, device, backend, threads in sorted(wanted, key=str):
        if f"{engine}|{device}" in found:
            continue
        say(f"what {engine} can do at best on the {device}")
        try:
            found[f"{engine}|{device}"] = limits_of(backend, device, threads).model_dump(mode="json")
        except SlmbenchError as error:
            say(f"not measured: {error}")
    return found


def _silent(_: object) -> None:
    """Say nothing."""


def resumed(request: RunRequest) -> RunRequest:
    """Return the request of the run that is resumed, unless the user says it all again.

    Raises:
        BadInputError: there is no run to resume, it is damaged, or it runs code and that was not typed.
    """
    if request.resume is None:
        return request
    path = request.resume / RUN_NAME
    record = read_run_record(path)
    typed = {name: getattr(request, name) for name in ("resume", *RunRequest.RUN_CODE)}
    return request if request != RunRequest(**typed) else request_from_file(record.options, str(path), request)


def _same_plan(folder: Path, plan: Plan) -> RunRecord:
    record = read_run_record(folder / RUN_NAME)
    if record.plan_digest == plan.digest():
        return record
    before, now = {info.case.key for info in record.cases}, {cell.case.key for cell in plan.cells}
    changed = [f"no longer {key}" for key in sorted(before - now)] + [f"new {key}" for key in sorted(now - before)]
    what = "; ".join(changed[:3]) or "a checkpoint's weights differ"
    raise BadInputError(f"{folder}: cannot be resumed, what it measures has changed: {what}")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
