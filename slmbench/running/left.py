"""What a run that is resumed still has to do: cases to measure, windows of quality, answers to tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slmbench.errors import BadInputError
from slmbench.plan.asked_tasks import AskedTasks
from slmbench.plan.planner import Plan
from slmbench.plan.quality import QualityPlan
from slmbench.records.schema import RUN_NAME, RunRecord, read_run_record
from slmbench.running.answer_tasks import items_left
from slmbench.running.artifacts import failed_exports
from slmbench.running.case_state import CaseState, finished, restore
from slmbench.running.evaluation_costs import EvaluationLeft
from slmbench.running.quality import windows_left
from slmbench.running.settings import MeasureSettings, PlannedCase


@dataclass(frozen=True)
class StillToDo:
    """What a run lacks."""

    #: Those that are measured further, by key, as they are.
    cases: Mapping[str, CaseState]
    evaluation: EvaluationLeft
    #: Whether its record says that the samples are all there.
    ended: bool

    @property
    def nothing(self) -> bool:
        """Return whether the run has everything that was asked of it."""
        return self.ended and not (self.cases or self.evaluation.windows or self.evaluation.items)


def nothing_left(folder: Path) -> str:
    """Return what is said of a run that has everything."""
    return f"nothing left to measure: every case of {folder} is done"


def what_is_left(
    plan: Plan, folder: Path, settings: MeasureSettings, quality: QualityPlan | None, asked: AskedTasks | None
) -> StillToDo:
    """Return what a run in the folder lacks of its plan; nothing is opened or exported for that.

    Raises:
        BadInputError: the plan is another one, or what the folder holds is damaged or of another text or other tasks.
    """
    record = same_plan(folder, plan)
    failed = failed_exports(plan, folder)
    # An artifact is needed to measure a case, not to look at what was measured.
    looked_at = {
        cell.case.key: PlannedCase(cell.case, cell.checkpoint, Path(), "", configuration=cell.configuration)
        for cell in plan.cells
    }
    ready = [looked_at[cell.case.key] for cell in plan.cells if (cell.checkpoint, cell.spec) not in failed]
    states, _, _ = restore(list(looked_at.values()), folder)
    found: list[CaseState] = []
    if finished(folder, states) is None:
        for state in states:
            state.judge(settings)
        found = [one for one in states if not one.done(settings) or (one.memory is None and one.failure is None)]
    return StillToDo(
        cases={state.key: state for state in found},
        evaluation=EvaluationLeft(
            windows={} if quality is None else dict(windows_left(quality, folder, {one.key for one in ready})),
            items={} if asked is None else {key: len(items) for key, items in items_left(asked, ready, folder)},
        ),
        ended=record.finished is not None,
    )


def same_plan(folder: Path, plan: Plan) -> RunRecord:
    """Return the record of the run in the folder, which measures what is planned.

    Raises:
        BadInputError: it measures something else, or is damaged.
    """
    record = read_run_record(folder / RUN_NAME)
    if record.plan_digest == plan.digest():
        return record
    before, now = {info.case.key for info in record.cases}, {cell.case.key for cell in plan.cells}
    changed = [f"no longer {key}" for key in sorted(before - now)] + [f"new {key}" for key in sorted(now - before)]
    what = "; ".join(changed[:3]) or "a checkpoint's weights differ"
    raise BadInputError(f"{folder}: cannot be resumed, what it measures has changed: {what}")
