"""What of a plan answers the task file: which cases, with which token ids, and which cannot and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from slmbench.backend import load_backend
from slmbench.case import Workload
from slmbench.errors import BadInputError, amount
from slmbench.evaluation.task_file import Metric, TaskSet, read_tasks
from slmbench.evaluation.task_metrics import Score, scorers
from slmbench.evaluation.task_prompts import TaskTokenizer
from slmbench.measure.text_prompts import check_known
from slmbench.models.checkpoint import Checkpoint
from slmbench.plan.planner import Plan, PlannedCell
from slmbench.plan.refusal_reasons import lacking_ability, length_refusal
from slmbench.records.answers import TASKS_NAME, task_key
from slmbench.records.refusals import lines_of
from slmbench.records.tasks_asked import TasksRecord

#: Tokens of an answer at most, where nothing is asked.
MAX_NEW_TOKENS = 256


@dataclass(frozen=True)
class TaskReading:
    """How one checkpoint reads the tasks."""

    tokenizer: TaskTokenizer
    #: The prompt of each item.
    ids: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class AskedTasks:
    """A task file and who answers it."""

    tasks: TaskSet
    scorers: Mapping[Metric, Score]
    max_new_tokens: int
    #: By key of the answers: one of the cells that share them.
    cells: Mapping[str, PlannedCell]
    readings: Mapping[Checkpoint, TaskReading]
    #: By key of the answers: why there are none.
    refused: Mapping[str, str]

    def workload(self, checkpoint: Checkpoint) -> Workload:
        """Return the largest shape that the items need."""
        return _workload(self.readings[checkpoint], self.max_new_tokens)

    def lines(self) -> list[str]:
        """Return what is asked and what cannot answer, in sentences."""
        count = amount(len(self.tasks.items), "item")
        asked = f"tasks: {count} of {self.tasks.path.name}, answered by {amount(len(self.cells), 'case')}"
        return [asked, *(f"no answers: {line}" for line in lines_of(self._refused_cells()))]

    def _refused_cells(self) -> Iterator[tuple[str, str, str, str, str]]:
        for key, reason in self.refused.items():
            model, backend, device, precisions = key.split("|")[:4]
            yield model, backend, device, precisions.split("-")[0], reason

    def record(self) -> TasksRecord:
        """Return what ``run.json`` keeps: no text."""
        return TasksRecord(
            name=self.tasks.path.name,
            digest=self.tasks.digest,
            items=len(self.tasks.items),
            metrics=self.tasks.metrics,
            max_new_tokens=self.max_new_tokens,
            chat_templates={one.name: reading.tokenizer.has_template for one, reading in self.readings.items()},
            refused=dict(self.refused),
        )


def plan_tasks(plan: Plan, resumed: Path | None) -> AskedTasks | None:
    """Return who answers the task file that the plan's suite names; None where it names none.

    ``resumed`` is the folder of a run that is resumed: its own copy of the file counts.

    Raises:
        BadInputError: the file is wrong, or nothing of the plan can answer it.
        CannotRunError: a library that a metric needs is not installed.
    """
    suite = plan.suite
    if suite.tasks is None:
        return None
    kept = resumed / TASKS_NAME if resumed else None
    tasks = read_tasks(kept if kept and kept.exists() else Path(suite.tasks))
    made = scorers(tasks)
    most = suite.max_new_tokens or MAX_NEW_TOKENS
    readings: dict[Checkpoint, TaskReading | str] = {
        one: _reading(one, tasks, most) for one in dict.fromkeys(cell.checkpoint for cell in plan.cells)
    }
    cells: dict[str, PlannedCell] = {}
    refused: dict[str, str] = {}
    for cell in plan.cells:
        key, reading = task_key(cell.case), readings[cell.checkpoint]
        reason = reading if isinstance(reading, str) else _refusal(cell)
        if reason is None:
            cells.setdefault(key, cell)
        else:
            refused.setdefault(key, reason)
    refused = {key: reason for key, reason in refused.items() if key not in cells}
    if not cells:
        reasons = "; ".join(dict.fromkeys(refused.values()))
        raise BadInputError(f"--tasks {tasks.path}: nothing that is asked can answer: {reasons}")
    read = {one: reading for one, reading in readings.items() if isinstance(reading, TaskReading)}
    return AskedTasks(tasks, made, most, cells, read, refused)


def _reading(checkpoint: Checkpoint, tasks: TaskSet, most: int) -> TaskReading | str:
    """Return how a checkpoint reads the tasks, or why it cannot."""
    if checkpoint.path is None:
        why = "is a catalog model with random weights, so its answers mean nothing"
        return f"{checkpoint.name} {why if checkpoint.source == 'catalog' else 'is not on this machine'}"
    folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
    if not (folder / "tokenizer.json").is_file():
        return f"{checkpoint.name} has no tokenizer.json in {folder}"
    try:
        tokenizer = TaskTokenizer(folder)
        ids = tuple(tokenizer.ids(item.prompt) for item in tasks.items)
    except BadInputError as error:
        return str(error)
    for item, one in zip(tasks.items, ids, strict=True):
        if not one:
            return f"{checkpoint.name}: the prompt of line {item.line} has no tokens"
        try:
            check_known(checkpoint, one, f" (line {item.line})")
        except BadInputError as error:
            return str(error)
    reading = TaskReading(tokenizer, ids)
    if too_long := length_refusal(checkpoint, _workload(reading, most)):
        longest = max(zip(ids, tasks.items, strict=True), key=lambda pair: len(pair[0]))[1]
        return f"line {longest.line}: {too_long}"
    return reading


def _workload(reading: TaskReading, most: int) -> Workload:
    return Workload(input_tokens=max(map(len, reading.ids)), output_tokens=most)


def _refusal(cell: PlannedCell) -> str | None:
    if cell.case.simulate:
        return "a simulated device is proven, not asked tasks"
    return lacking_ability(load_backend(cell.case.backend), cell.checkpoint, cell.spec, ["ends"])
