"""Which artifacts of a plan cannot be made on this machine: said before a folder is made or anything is exported."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from slmbench.errors import CannotRunError
from slmbench.evaluation.stored_reference import is_stored, place_of
from slmbench.export.artifact_store import find_artifact
from slmbench.export.build import resources_refusal
from slmbench.export.golden_record import reference_versions
from slmbench.export.routes import missing_libraries
from slmbench.models.artifact import ArtifactSpec
from slmbench.models.checkpoint import Checkpoint
from slmbench.plan.planner import Plan, PlannedCell, refused
from slmbench.plan.quality import QualityPlan
from slmbench.plan.request import RunRequest
from slmbench.records.refusals import Refusal, refusal_lines
from slmbench.system.extras import missing


def without_impossible_exports(plan: Plan, kept: Collection[str] = ()) -> Plan:
    """Return the plan without the cases whose artifact is not stored and cannot be exported here; they are refusals.

    ``kept`` are keys of cases that stay in any case, as those of a run that is resumed.

    Raises:
        CannotRunError: none is left; a line for each reason.
    """
    reasons = {one: reason for one in plan.artifacts() if (reason := _refusal(*one)) is not None}
    out = [cell for cell in plan.cells if (cell.checkpoint, cell.spec) in reasons and cell.case.key not in kept]
    if not out:
        return plan
    lost = tuple(dict.fromkeys(_lost(cell, reasons[cell.checkpoint, cell.spec]) for cell in out))
    if len(out) == len(plan.cells):
        raise CannotRunError("\n".join(_lines(plan, lost)))
    cells = tuple(cell for cell in plan.cells if cell not in out)
    return replace(plan, cells=cells, refusals=(*plan.refusals, *lost))


def check_references(request: RunRequest, quality: QualityPlan | None) -> None:
    """Raise CannotRunError where a reference has to be run and torch, which does that, is not installed."""
    absent = [library for library, version in reference_versions().items() if version == "none"]
    if not absent:
        return
    why = f"cannot be run as the reference here, {missing(absent[0])}"
    if request.reference is not None:
        raise CannotRunError(f"--reference {request.reference} {why}")
    # What a resumed run lacks is said where it lacks it: it may have all of its quality.
    for group in quality.groups if quality and not request.resume else ():
        if not is_stored(place_of(group.reference, group.windows, reference_versions())):
            raise CannotRunError(f"quality: {group.reference.name} {why}")


def _refusal(checkpoint: Checkpoint, spec: ArtifactSpec) -> str | None:
    # One that is not on this machine either is sent by a fleet's client.
    if checkpoint.given is not None or not checkpoint.is_here or find_artifact(checkpoint, spec) is not None:
        return None
    lacking = missing_libraries(spec, checkpoint)
    if lacking:
        return f"cannot be exported here, {missing(lacking[0])}"
    reason = resources_refusal(checkpoint, spec)
    return None if reason is None else f"cannot be exported here, {reason}"


def _lost(cell: PlannedCell, reason: str) -> Refusal:
    return refused(cell.checkpoint, cell.case, cell.case.compute_precision, reason, cell.case.attention)


def _lines(plan: Plan, lost: Collection[Refusal]) -> list[str]:
    """Return a line for each reason, and those of models that cannot run for reasons of another kind."""
    models: dict[str, dict[str, None]] = {}
    for one in lost:
        models.setdefault(one.reason, {})[one.checkpoint] = None
    named = {one.checkpoint for one in lost}
    called = {reference: checkpoint.name for reference, checkpoint in plan.checkpoints.items()}
    others = [one for one in plan.refusals if called.get(one.checkpoint, one.checkpoint) not in named]
    return [*(f"{', '.join(names)}: {reason}" for reason, names in models.items()), *refusal_lines(others)]
