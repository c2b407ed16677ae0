"""Going on with a run: what is on disk counts, and must be of the same plan."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from slmbench.errors import BadInputError
from slmbench.records.schema import RUN_NAME, SAMPLES_NAME, SampleRecord, read_run_record, read_samples
from slmbench.running.case_state import CaseState
from slmbench.running.settings import Measured, PlannedCase


def finished(folder: Path) -> Measured | None:
    """Return the result of a run that has ended, or None while there is something to do.

    Raises:
        BadInputError: ``run.json`` is damaged.
    """
    if not (folder / RUN_NAME).exists():
        return None
    record = read_run_record(folder / RUN_NAME)
    return Measured(dict(record.outcomes), record.blocks) if record.finished else None


def restore(plan: Sequence[PlannedCase], folder: Path) -> tuple[list[CaseState], int]:
    """Return the state of every case of the plan from the samples on disk, and the number of the next round.

    Raises:
        BadInputError: the folder holds samples of a case that is not in the plan, or a damaged line.
    """
    states = {planned.key: CaseState(planned) for planned in plan}
    next_round = 0
    for record in read_samples(folder / SAMPLES_NAME, []):
        if record.case not in states:
            raise BadInputError(f"{folder / SAMPLES_NAME}: holds case {record.case}, which is not planned now")
        states[record.case].add(record)
        if isinstance(record, SampleRecord):
            next_round = max(next_round, record.round + 1)
    return list(states.values()), next_round
