"""The scores of each case on the items of a task file, as a comparison takes them: figures and a digest, no answers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from slmbench.analysis.task_scores import TaskAnswers, task_answers
from slmbench.records.sample_arrays import RunColumns
from slmbench.records.sample_columns import Floats
from slmbench.records.tasks_asked import TasksRecord


@dataclass(frozen=True)
class ItemScores:
    """The scores of one case on all items, in their order, from 0 to 1; none where ``reason`` says why."""

    name: str
    digest: str
    scores: Floats
    reason: str = ""


def item_scores(run: RunColumns) -> dict[str, ItemScores]:
    """Return the scores of every case that was asked, by the key of its answers; empty where no tasks were asked."""
    tasks = run.record.tasks
    return {found.key: _scores(found, tasks) for found in task_answers(run)} if tasks else {}


def _scores(found: TaskAnswers, tasks: TasksRecord) -> ItemScores:
    reason = found.reason
    if not reason and len(found.answers) < tasks.items:
        reason = f"{len(found.answers)} of {tasks.items} items were answered"
    scores = [] if reason else [found.answers[item].score for item in sorted(found.answers)]
    # Answers that were cut elsewhere are answers to another question.
    return ItemScores(tasks.name, f"{tasks.max_new_tokens}:{tasks.digest}", np.array(scores, dtype=np.float64), reason)
